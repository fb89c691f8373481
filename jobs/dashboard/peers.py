"""Who is at the other end of a connection on this machine: Linux says which user owns a socket."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = b"01"
_NOBODY = 65534
"""How a container sees every user that it has no name for: not one user, so never the same one."""


def user_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """The user whose process made a connection from ``client`` to ``server``, both on this machine.

    None where nobody can say: the connection is of another machine, or this is no Linux.
    """
    for table, form in zip(_TABLES, (_as_v4, _as_v6), strict=True):
        try:
            wanted = form(*client), form(*server)
        except ValueError:  # a socket that has no address of a machine
            return None
        if None in wanted:
            continue
        try:
            lines = table.read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            # number, local, remote, state, queues, timer, retransmits, uid, timeout, inode
            words = line.split()
            # A socket that its process has left is told as root's: it is in another state, or has no inode.
            if (*words[1:3], words[3]) == (*wanted, _ESTABLISHED) and words[9] != b"0":
                return int(words[7])
    return None


def same_user(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Whether a process of our own user made this connection."""
    user = user_of(client, server)
    return user is not None and user == os.getuid() and user != _NOBODY


def _as_v4(address: str, port: int) -> bytes | None:
    known = ipaddress.ip_address(address)
    if isinstance(known, ipaddress.IPv6Address):
        known = known.ipv4_mapped or known
    return _hex(known.packed, port) if known.version == 4 else None


def _as_v6(address: str, port: int) -> bytes | None:
    known = ipaddress.ip_address(address)
    return _hex(known.packed if known.version == 6 else bytes(10) + b"\xff\xff" + known.packed, port)


def _hex(packed: bytes, port: int) -> bytes:
    """As the tables write it: words of four bytes, each as this machine would print it as a number."""
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    return ("".join(f"{word:08X}" for word in words) + f":{port:04X}").encode()
