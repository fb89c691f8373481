"""A server before an S3 server: counts, refuses, or loses an answer."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Gate:
    """An S3 server before another, that can refuse a request or lose the answer to it, and remembers all."""

    url: str = ""
    refuses: str = ""
    """Part of the paths for which we have no rights."""

    busy: int = 0
    """So many PUTs yet are told to come slower."""

    loses: tuple[str, ...] = ()
    """Ends of the paths of a PUT: carried out, and its answer lost, once."""

    lost: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request, the query with it."""


@contextmanager
def gate_before(server: str) -> Iterator[Gate]:
    gate = Gate()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            gate.asked.append((self.command, self.path))
            if gate.refuses and gate.refuses in self.path:
                self.answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
                return
            if self.command == "PUT" and gate.busy:
                gate.busy -= 1
                self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>Please slow down</Message></Error>")
                return
            inner = http.client.HTTPConnection(server.removeprefix("http://"), timeout=10)
            inner.request(self.command, self.path, body, dict(self.headers))
            answer = inner.getresponse()
            content = answer.read()
            inner.close()
            path = self.path.partition("?")[0]
            if self.command == "PUT" and path.endswith(gate.loses):
                gate.lost.append(path)
                gate.loses = ()
                self.close_connection = True
                self.connection.close()
                return
            self.answer(answer.status, dict(answer.getheaders()), content)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815  # the server's names

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        gate.url = f"http://127.0.0.1:{http_server.server_address[1]}"
        yield gate
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join(10)
