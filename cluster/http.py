"""What those here have in common that ask a server over HTTP: an address that was looked at, and a token that goes to
no other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

import requests

from mapper.errors import MapperError, QuestionError

CONNECT_S, SILENT_S = 10.0, 60.0
"""How long a server may take to answer, and to send the next bytes. A stream says something more often."""


class Bearer(requests.auth.AuthBase):
    """Shows the token, and nothing that a file of the user keeps for this host."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """With the token."""
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def host_of(address: str, schemes: Collection[str], *, what: str, fix: str) -> str:
    """The host that an address names: a URL without user, query or fragment.

    Raises:
        QuestionError: it is none of these schemes; ``what`` and ``fix`` say so, and nothing repeats an address that may
            hold a password.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number, brackets left open
        host, parts = "", urlsplit("")
    if parts.scheme not in schemes or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise QuestionError(what, fix=fix)
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than ``localhost`` may come to mean another."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def distrusted(address: str) -> MapperError:
    """That a server's certificate is none of those that this machine trusts."""
    return MapperError(
        "the server's certificate is not one that this machine trusts",
        fix="have it issued by an authority you trust, and name that in REQUESTS_CA_BUNDLE",
        address=address,
    )
