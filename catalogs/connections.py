"""HTTP connections that know whom they may reach, and how long they wait to be spoken to.

A name is looked up twice when it is judged first and connected to later, and whoever owns the name may answer otherwise
the second time. So the addresses that are judged here are the very ones that are connected to: nothing is sent to any
other, not even a greeting.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event, Timer
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from catalogs.addresses import Nearness, addresses_of, nearness_of_address
from mapper.errors import CatalogError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    reach: Nearness = Nearness.PUBLIC
    head_s: float = 60.0


_STRICT = _Bounds()
_BOUNDS: ContextVar[_Bounds] = ContextVar("bounds", default=_STRICT)


@contextmanager
def bounded(*, reach: Nearness, head_s: float) -> Iterator[None]:
    """Requests of this thread, while in it: to nothing nearer than ``reach``, ``head_s`` for the head of an answer."""
    token = _BOUNDS.set(_Bounds(reach=reach, head_s=head_s))
    try:
        yield
    finally:
        _BOUNDS.reset(token)


def guarded_session() -> requests.Session:
    """A session whose connections heed ``bounded``; those through a proxy do not: names are the proxy's to look up."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Guarded(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        name = self.host
        failure: HTTPError | None = None
        try:
            for address in _judged(self, name):
                self.host = address
                try:
                    return super()._new_conn()
                except (NewConnectionError, ConnectTimeoutError) as error:
                    failure = error
        finally:
            self.host = name
        raise failure or NewConnectionError(self, f"{name} has no address")

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3's own says so too
        """The head of the answer; a server that sends it byte by byte is cut off."""
        head_s, late = _BOUNDS.get().head_s, Event()
        watch = Timer(head_s, _cut, [self.sock, late])
        watch.daemon = True
        watch.start()
        try:
            return super().getresponse()
        except (OSError, HTTPException) as error:
            if late.is_set():
                raise OSError(f"no whole answer in {head_s:g} s") from error
            raise
        finally:
            watch.cancel()


class _GuardedTls(_Guarded, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTls


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def _judged(connection: HTTPConnection, name: str) -> tuple[str, ...]:
    try:
        found = addresses_of(name)
    except socket.gaierror as error:
        raise NameResolutionError(name, connection, error) from error
    except (OSError, UnicodeError) as error:
        raise NewConnectionError(connection, f"{name} cannot be looked up: {error}") from error
    nearest = max(map(nearness_of_address, found), default=Nearness.PUBLIC)
    if nearest > _BOUNDS.get().reach:
        raise CatalogError(
            f"{name} lies at a {nearest.said} address, which may not be reached from here",
            fix="give an address that is meant to be read",
            host=name,
        )
    return found


def _cut(connected: socket.socket | None, late: Event) -> None:
    late.set()
    with suppress(OSError):  # it may have ended meanwhile
        if connected is not None:
            connected.shutdown(socket.SHUT_RDWR)
