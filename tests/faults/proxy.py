"""A proxy before an HTTP server that breaks what it is told to break, and counts it.

    with broken(server, Fault("lost", method="PUT", path="ledger/", nth=(1,)), Fault("error", chance=0.2)) as proxy:
        …                       # talk to proxy.url
        with proxy.outage(): …  # nobody answers
    proxy.count("lost")         # how often that was really done

Whether a request is broken depends on the seed, its method, its path and how often that was asked for before; not on
the order in which threads ask. The ``Host`` header goes on as it came, so a signed request stays signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "throttled",  # 429
    "error",  # 500
    "unavailable",  # 503
    "expired",  # 403 ExpiredToken
    "reset",  # the connection is reset before anything is passed on
    "lost",  # passed on and carried out, and the connection is reset instead of an answer
    "torn",  # the connection is reset in the middle of the answer's body
    "truncated",  # closed in the middle of the body, as if that were its end
    "stalled",  # silent from the middle of the body on
    "slow",  # answered after a while
]
KINDS: tuple[Kind, ...] = get_args(Kind)

STALL_S = 30.0
"""Longer than any client under test waits; who still listens then is let go."""

_STATUS: dict[str, tuple[int, str]] = {
    "throttled": (429, "TooManyRequests"),
    "error": (500, "InternalError"),
    "unavailable": (503, "SlowDown"),
    "expired": (403, "ExpiredToken"),
}
_HOP = ("connection", "keep-alive", "transfer-encoding", "expect", "content-length")
"""Headers that are between two neighbours; a body's length is said anew."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, with which requests, and how often."""

    kind: Kind
    method: str = ""
    """Of the request; all where empty."""

    path: str = ""
    """A regular expression that is found in the path and query."""

    nth: tuple[int, ...] = ()
    """Which of the requests that match, counted from 1 over all paths; where empty, ``chance`` decides."""

    chance: float = 1.0
    """Of each request that matches; what has been refused and comes again is another one."""

    first: int = 1
    """Nothing goes wrong with requests that match before this one."""

    retry_after_s: int | None = None
    """What a status says of when to come again."""

    delay_s: float = 0.2
    """How slow."""


@dataclass(slots=True)
class Proxy:
    """A server before another one."""

    server: str
    faults: Sequence[Fault] = ()
    seed: int = 0
    url: str = ""
    """Where it listens."""

    stall_s: float = STALL_S
    done: list[tuple[Kind | Literal["away"], str, str]] = field(default_factory=list)
    """What was broken: how, method, path and query."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    away: threading.Event = field(default_factory=threading.Event)
    _seen: Counter[tuple[int | str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def breaks(self, *faults: Fault) -> None:
        """What goes wrong from now on, counted anew; nothing where there are none."""
        with self._lock:
            self.faults = faults
            self._seen.clear()

    def count(self, kind: str, *, method: str = "", path: str = "") -> int:
        """How many requests were broken so."""
        with self._lock:
            done = list(self.done)
        return sum(one == kind and method in ("", asked) and bool(re.search(path, at)) for one, asked, at in done)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Meanwhile every connection is reset."""
        self.away.set()
        try:
            yield
        finally:
            self.away.clear()

    def outage_of(self, seconds: float, *, after: int) -> threading.Thread:
        """An outage of so many seconds once so many more requests have been made; join what comes back."""
        begin = len(self.asked) + after

        def watch() -> None:
            while len(self.asked) < begin:
                time.sleep(0.01)
            with self.outage():
                time.sleep(seconds)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def fault_of(self, method: str, path: str) -> Fault | None:
        """What goes wrong with a request; it is entered in the lists."""
        with self._lock:
            self.asked.append((method, path))
            if self.away.is_set():
                self.done.append(("away", method, path))
                return Fault("reset")
            for number, fault in enumerate(self.faults):
                fits = fault.method in ("", method) and re.search(fault.path, path) is not None
                if fits and self._falls_on(number, fault, method, path):
                    self.done.append((fault.kind, method, path))
                    return fault
        return None

    def _falls_on(self, number: int, fault: Fault, method: str, path: str) -> bool:
        self._seen[number, ""] += 1
        self._seen[number, f"{method} {path}"] += 1
        if fault.nth:
            return self._seen[number, ""] in fault.nth
        if self._seen[number, ""] < fault.first:
            return False
        named = f"{self.seed} {number} {method} {path} {self._seen[number, f'{method} {path}']}"
        return int.from_bytes(hashlib.sha256(named.encode()).digest()[:6], "big") < fault.chance * 2**48


def one_of_each(kinds: Sequence[Kind], method: str, path: str) -> list[Fault]:
    """Faults of which one falls on every second request, each kind once: no request is hit twice in a row."""
    return [Fault(kind, method, path, nth=(number + 1,)) for number, kind in enumerate(kinds)]


def some_of_all(chance: float, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """Faults of which one falls on so large a part of all requests, each kind as often."""
    rest, faults = 1.0, []
    for kind in kinds:  # a later one sees only what the earlier ones let pass
        faults.append(Fault(kind, chance=chance / len(kinds) / rest))
        rest -= chance / len(kinds)
    return faults


@contextmanager
def broken(server: str, *faults: Fault, seed: int = 0, stall_s: float = STALL_S) -> Iterator[Proxy]:
    """A proxy before a server (``http://host:port``); of the faults the first that falls on a request counts."""
    proxy = Proxy(server.rstrip("/"), tuple(faults), seed, stall_s=stall_s)
    over = threading.Event()

    class Handler(_Handler):
        def handle_one(self) -> None:
            self.forward(proxy, over)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815  # the server's names

    listening = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        proxy.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield proxy
    finally:
        over.set()
        listening.shutdown()
        listening.server_close()
        thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: that a connection breaks is what is wanted."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def forward(self, proxy: Proxy, over: threading.Event) -> None:
        """Pass a request on and its answer back, unless something goes wrong with it."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault_of(self.command, self.path)
        kind = None if fault is None else fault.kind
        if kind == "reset":
            self._reset()
            return
        if fault is not None and fault.kind in _STATUS:
            self._refuse(fault)
            return
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.delay_s)
        try:
            answer, content = self._ask(proxy.server, body)
        except (OSError, http.client.HTTPException):
            self._reset()
            return
        if kind == "lost" or (kind in ("torn", "truncated", "stalled") and len(content) < 2):
            self._reset()  # an answer without a body has no middle
            return
        self._head(answer, content)
        if kind in ("torn", "truncated", "stalled"):
            self._half(content, kind, over, proxy.stall_s)
        elif self.command != "HEAD":
            self.wfile.write(content)

    def _ask(self, server: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        with contextlib.closing(http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)) as inner:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            inner.request(self.command, self.path, body if body or self.command in ("PUT", "POST") else None, headers)
            answer = inner.getresponse()
            return answer, answer.read()

    def _head(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        if answer.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length)
        self.end_headers()

    def _half(self, content: bytes, kind: str | None, over: threading.Event, stall_s: float) -> None:
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.close_connection = True
        if kind == "stalled":
            over.wait(stall_s)
        if kind == "torn":
            self._reset()

    def _refuse(self, fault: Fault) -> None:
        status, code = _STATUS[fault.kind]
        said = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as scripted</Message></Error>".encode()
        self.send_response_only(status)
        if fault.retry_after_s is not None:
            self.send_header("Retry-After", str(fault.retry_after_s))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    def _reset(self) -> None:
        """Close so that the other side is told of an error: RST, not FIN."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The handler's files keep the socket open until they are closed, too.
            self.wfile.close()
            self.rfile.close()
            self.connection.close()
