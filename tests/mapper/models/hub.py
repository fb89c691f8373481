"""A model hub on loopback: as much of it as fetching one file asks for."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def a_hub(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The URL of a hub with the repository ``owner/lines``, of one commit, and what was asked of it so far."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            _, *parts = self.path.split("/", 5)
            content = files.get(parts[-1])
            if parts[:2] != ["owner", "lines"]:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif parts[3] not in (COMMIT, "main"):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif content is None:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                digest = hashlib.sha256(content).hexdigest()
                self._answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'})

        do_HEAD = do_GET  # noqa: N815  # the server looks for this name

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: requests are in the list."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
