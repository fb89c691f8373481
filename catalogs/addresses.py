"""How near an address is: whom a request to it would reach."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
import urllib.request
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

from mapper.errors import ReadError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_CREDENTIAL_SERVICES = frozenset(
    ipaddress.ip_address(address) for address in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
"""Of AWS over IPv6, Alibaba, Oracle and Azure. All the others are link-local, which is refused whole."""

_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out to anybody (RFC 4291)."""

_CARRIERS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/96", "::/96", "::ffff:0:0:0/96")))
"""Networks whose last 32 bits are an IPv4 address: NAT64, its local twin, IPv4-compatible, SIIT."""

_REMEMBERED_S = 300
"""How long an answer of the resolver is kept."""


class Nearness(IntEnum):
    """How near a place is to this process; what is nearer needs a nearer catalog."""

    PUBLIC = 0
    PRIVATE = 1
    THIS_MACHINE = 2
    NEVER = 3
    """Link-local, multicast, unspecified, reserved, or a credential service: for no catalog."""

    @property
    def said(self) -> str:
        """In a sentence."""
        return ("public", "private", "local", "forbidden")[self.value]


def nearness_of_host(host: str, *, scheme: str = "https", resolve: bool = True) -> Nearness:
    """The nearest of a host's addresses.

    Args:
        host: a name in lower case, or an address as written in a URL.
        scheme: of the URL; a proxy may be set for it.
        resolve: look a name up. Without, a name is taken to be public.

    Raises:
        ReadError: the name cannot be looked up now.
    """
    written = _address(host)
    if written is not None:
        return _nearness(written)
    if host == "localhost" or host.endswith(".localhost"):
        return Nearness.THIS_MACHINE
    if re.fullmatch(r"(0x[0-9a-f]*|\d+)", host.rsplit(".", 1)[-1]):
        return Nearness.NEVER  # http://2130706433/ is 127.0.0.1 in disguise
    if not resolve:
        return Nearness.PUBLIC
    try:
        found = addresses_of(host)
    except (OSError, UnicodeError) as error:
        if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return Nearness.PUBLIC  # behind a proxy names are the proxy's to resolve, and to refuse
        raise ReadError(
            f"the host {host} cannot be looked up", fix="check the network and the href", host=host
        ) from error
    return max(map(nearness_of_address, found))


def nearness_of_address(address: str) -> Nearness:
    """How near an address in its usual spelling is."""
    return _nearness(ipaddress.ip_address(address))


def addresses_of(host: str) -> tuple[str, ...]:
    """The addresses of a name, or of an address itself, in the order in which the system would try them.

    Raises:
        OSError, UnicodeError: they cannot be looked up now, or the name is none.
    """
    return _looked_up(host, int(time.monotonic() // _REMEMBERED_S))


@lru_cache(maxsize=1024)
def _looked_up(host: str, when: int) -> tuple[str, ...]:
    """A host's addresses; ``when`` only lets the cache forget. A failure is not remembered."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _nearness(address: Address) -> Nearness:
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return _nearness(inner)
    if address in _CREDENTIAL_SERVICES or address.is_link_local or address.is_multicast or address.is_unspecified:
        return Nearness.NEVER
    if address.is_loopback:
        return Nearness.THIS_MACHINE
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST and not address.is_private:
        return Nearness.NEVER  # never given out, or long given up: whom it reaches is up to the routers near us
    if address.is_global:
        return Nearness.PUBLIC
    return Nearness.NEVER if address.is_reserved else Nearness.PRIVATE


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside one that only carries it: mapped, 6to4, Teredo, NAT64, and the older ways."""
    if address.is_loopback or address.is_unspecified:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
