"""Alerts for tests, and a server on loopback that receives them, as scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import shapely

from jobs.monitors.alert import Alert
from jobs.monitors.changed_file import feature

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
KEY = "0123456789abcdef-fedcba9876543210"


def squares(count: int) -> tuple[Any, ...]:
    """Changed polygons in a row, the largest first."""
    return tuple(
        feature(
            shapely.box(12 + n / 100, 55, 12 + n / 100 + (9 - n) / 2000, 55.002),
            id=f"lake-{n}",
            area_m2=900.0 - 100 * n,
            score=0.75,
            first_seen=datetime(2020, 8, 31, tzinfo=UTC),
            last_seen=None,
        )
        for n in range(count)
    )


def an_alert(**changes: Any) -> Alert:
    """An alert about two lakes."""
    fields: dict[str, Any] = {
        "key": KEY,
        "monitor": "lakes",
        "rule": "shore",
        "place": "Long Lake",
        "prompt": "lake",
        "expression": "the lakes",
        "change": "appeared",
        "time": datetime(2020, 8, 31, tzinfo=UTC),
        "before": datetime(2016, 8, 16, tzinfo=UTC),
        "due": NOW,
        "area_m2": 1700.0,
        "count": 2,
        "threshold": {"area_m2": 1000.0},
        "observed_share": 0.98,
        "comparable_share": 0.95,
        "bbox": (12.0, 55.0, 12.014, 55.002),
        "polygons": {"features": squares(2)},
        "mosaic": "/data/lakes.zarr",
    }
    return Alert(**fields | changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""

    body: bytes


Answer: TypeAlias = "tuple[int, Mapping[str, str], bytes]"


@dataclass(slots=True, kw_only=True)
class Receiver:
    """A server and what it was sent."""

    url: str = ""
    answer: Callable[[Posted], Answer] = lambda posted: (204, {}, b"")
    posted: list[Posted] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)
    """Set at the end: whoever hangs until then is let go."""


@contextmanager
def receiver(answer: Callable[[Posted], Answer] | None = None) -> Iterator[Receiver]:
    """A server that takes what is posted to it; with 204 where nothing else is scripted."""
    heard = Receiver()
    if answer is not None:
        heard.answer = answer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what came is in the list."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted = Posted(path=self.path, headers={k.lower(): v for k, v in self.headers.items()}, body=body)
            heard.posted.append(posted)
            status, headers, content = heard.answer(posted)
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # whoever asked has lost patience, as they should
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    heard.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield heard
    finally:
        heard.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
