"""Servers on loopback that speak HTTP as no library would let them: byte by byte, without end, to anywhere."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is said when a path is asked for."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    endless: bool = False
    """Blanks, until nobody listens."""

    pause_s: float = 0.0
    """Before each byte of a part."""

    pause_in: str = ""
    """``head`` or ``body``."""


@dataclass(slots=True, kw_only=True)
class Server:
    """A server, and the paths it was asked for."""

    url: str
    port: int
    asked: list[str] = field(default_factory=list)


@contextmanager
def said_by(replies: Mapping[str, Reply], *, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server that says these, and 404 to all else."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = 10

        def handle(self) -> None:
            with suppress(OSError):
                line = self.rfile.readline(65_536).decode("latin-1").split()
                while self.rfile.readline(65_536) not in (b"\r\n", b"\n", b""):
                    pass
                if len(line) > 1:
                    server.asked.append(line[1])
                    self._say(replies.get(line[1].partition("?")[0], Reply(status=404)))

        def _say(self, reply: Reply) -> None:
            fields = {"Connection": "close", **reply.headers}
            if not reply.endless:
                fields["Content-Length"] = str(len(reply.body))
            head = f"HTTP/1.1 {reply.status} So\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items())
            self._send(f"{head}\r\n".encode("latin-1"), reply.pause_s if reply.pause_in == "head" else 0.0)
            self._send(reply.body, reply.pause_s if reply.pause_in == "body" else 0.0)
            while reply.endless:
                self.wfile.write(b" " * 65_536)

        def _send(self, content: bytes, pause_s: float) -> None:
            if not pause_s:
                self.wfile.write(content)
                return
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(pause_s)

    class Listening(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Listening((host, 0), Handler) as listening:
        port = listening.server_address[1]
        server = Server(url=f"http://{f'[{host}]' if ':' in host else host}:{port}", port=port)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join(10)
