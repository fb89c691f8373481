"""Real servers on loopback for tests: files with ranges and faults, STAC APIs good and bad.

Each is a context manager, takes a free port, and is stopped by its own handle.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

_TYPES = {".json": "application/json", ".geojson": "application/geo+json", ".tif": "image/tiff"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with a path, the first ``times`` times it is asked for (None: always)."""

    status: int | None = None
    """Answer with this status."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside a status."""

    delay_s: float = 0.0
    """Wait before answering."""

    truncate_at: int | None = None
    """Close the connection after so many bytes of the body, having promised all."""

    body: bytes | None = None
    """Answer with this instead of the file."""

    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, as the server saw it."""

    method: str
    path: str
    """Without the query."""

    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Any = None
    """Decoded JSON of a POST."""


@dataclass(slots=True, kw_only=True)
class FileServer:
    """A folder, served."""

    url: str
    """With no slash at the end."""

    requests: list[Request] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, path: str, *faults: Fault) -> None:
        """Scripts what goes wrong with a path (from its slash), one fault after the other."""
        with self.lock:
            self.faults[path] = list(faults)

    def asked(self, path: str) -> list[Request]:
        """The requests for a path so far."""
        with self.lock:
            return [request for request in self.requests if request.path == path]

    def fault(self, path: str) -> Fault:
        """What goes wrong this time."""
        with self.lock:
            script = self.faults.get(path) or [Fault()]
            fault = script[0]
            if fault.times is not None:
                script[0:1] = [_once_less(fault)] if fault.times > 1 else []
            return fault


@contextmanager
def files_over_http(folder: Path) -> Iterator[FileServer]:
    """A folder over HTTP, with single byte ranges and HEAD, as an object store serves it."""

    class Handler(_Handler):
        def do_GET(self) -> None:
            self._serve(send_body=True)

        def do_HEAD(self) -> None:
            self._serve(send_body=False)

        def _serve(self, *, send_body: bool) -> None:
            request = self.request_seen()
            with served.lock:
                served.requests.append(request)
            fault = served.fault(request.path)
            time.sleep(fault.delay_s)
            path = folder / unquote(request.path).lstrip("/")
            if fault.status is not None:
                self.answer(fault.status, fault.body or b"", headers=fault.headers)
            elif fault.body is None and (not path.is_file() or not path.resolve().is_relative_to(folder.resolve())):
                self.answer(404, b"")
            else:
                content = path.read_bytes() if fault.body is None else fault.body
                self._ranged(content, _TYPES.get(path.suffix), send_body=send_body, cut=fault.truncate_at)

        def _ranged(self, content: bytes, kind: str | None, *, send_body: bool, cut: int | None) -> None:
            headers = {"Accept-Ranges": "bytes", "Content-Type": kind or "application/octet-stream"}
            status, part = 200, content
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if wanted and any(wanted.groups()):
                first = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
                last = min(int(wanted[2]) if wanted[1] and wanted[2] else len(content) - 1, len(content) - 1)
                if first > last:
                    self.answer(416, b"", headers={"Content-Range": f"bytes */{len(content)}"})
                    return
                status, part = 206, content[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.answer(status, part, headers=headers, send_body=send_body, cut=cut)

    with _running(Handler) as url:
        served = FileServer(url=url)
        yield served


Answer: TypeAlias = dict[str, Any] | list[Any] | bytes | tuple[int, dict[str, Any] | bytes]
"""JSON or bytes, with status 200 or another."""

Route: TypeAlias = Answer | Callable[[Request], Answer]


@dataclass(slots=True, kw_only=True)
class ScriptedApi:
    """A server that answers as scripted."""

    url: str
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> list[Request]:
        """The requests for a path so far."""
        return [request for request in self.requests if request.path == path]


@contextmanager
def scripted_api(routes: Mapping[str, Route] | Callable[[str], Mapping[str, Route]]) -> Iterator[ScriptedApi]:
    """A server that answers each path as scripted, 404 elsewhere.

    Args:
        routes: path → answer, or a function of the request that gives it; or, where answers must name the
            server, a function of its URL that gives such a mapping.
    """

    class Handler(_Handler):
        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            request = self.request_seen()
            server.requests.append(request)
            route = table.get(request.path, (404, {"code": "NotFound", "description": "no such path"}))
            answer = route(request) if callable(route) else route
            status, content = answer if isinstance(answer, tuple) else (200, answer)
            kind = "text/html" if isinstance(content, bytes) else "application/json"
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.answer(status, body, headers={"Content-Type": kind})

    with _running(Handler) as url:
        server = ScriptedApi(url=url)
        table = routes(url) if callable(routes) else routes
        yield server


def landing(url: str, *, conforms: Sequence[str] = (), posts: bool = True) -> dict[str, Any]:
    """The landing page of a STAC API at this URL."""
    methods = ("GET", "POST") if posts else ("GET",)
    return {
        "type": "Catalog",
        "id": "scripted",
        "description": "a scripted API",
        "stac_version": "1.0.0",
        "conformsTo": [
            "https://api.stacspec.org/v1.0.0/core",
            "https://api.stacspec.org/v1.0.0/item-search",
            *conforms,
        ],
        "links": [
            {"rel": "root", "href": url},
            {"rel": "data", "href": f"{url}/collections"},
            *({"rel": "search", "href": f"{url}/search", "method": method} for method in methods),
        ],
    }


@contextmanager
def stac_api(items: Sequence[Mapping[str, Any]], collections: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The URL of a STAC API that holds these: ``rustac serve``, in memory, without CQL2 and sorting.

    It answers a ``filter`` it does not know with no items at all, as others do.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for n, collection in enumerate(collections):
            paths.append(Path(folder) / f"collection-{n}.json")
            paths[-1].write_text(json.dumps(collection))
        paths.append(Path(folder) / "items.json")
        paths[-1].write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
        program = Path(sys.executable).with_name("rustac")
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(
                [program, "serve", "--addr", f"127.0.0.1:{port}", *paths],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                wait_until_answers(url, process, Path(folder) / "log")
                yield url
            finally:
                process.terminate()
                process.wait(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head and a body in two packets cost 40 ms an answer
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: requests are in the server's list."""

    def request_seen(self) -> Request:
        """This request, its body read."""
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query),
            headers=dict(self.headers.items()),
            body=json.loads(content) if content else None,
        )

    def answer(
        self,
        status: int,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        send_body: bool = True,
        cut: int | None = None,
    ) -> None:
        """Sends an answer; with ``cut``, only so much of it."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if send_body:
                self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # who asked has gone: that is theirs to test


@contextmanager
def _running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _once_less(fault: Fault) -> Fault:
    assert fault.times is not None
    return Fault(
        status=fault.status, headers=fault.headers, delay_s=fault.delay_s,
        truncate_at=fault.truncate_at, body=fault.body, times=fault.times - 1,
    )  # fmt: skip


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once a server that was started answers; RuntimeError, with what it said, where it does not."""
    program = Path(str(process.args[0])).name if isinstance(process.args, list) else "the server"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{program} ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:  # refused, or too slow to answer while the machine is busy
            time.sleep(0.02)
    raise RuntimeError(f"{program} does not answer: {log.read_text()[-2000:]}")


@contextmanager
def s3_bucket() -> Iterator[str]:
    """A bucket of an S3 server on this machine (moto), as ``s3://…``; the environment says how it is reached."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        program = str(Path(sys.executable).with_name("moto_server"))
        with log.open("wb") as said:
            command = [program, "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
            process = subprocess.Popen(command, stdout=said, stderr=said)
        os.environ |= settings
        try:
            wait_until_answers(url, process, log)
            urllib.request.urlopen(urllib.request.Request(f"{url}/maps", method="PUT"), timeout=10).close()
            forget_buckets()  # one that was asked for before had no keys
            yield "s3://maps"
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            process.terminate()
            process.wait(10)
            forget_buckets()


def forget_buckets() -> None:
    """Have whoever asks for a bucket from now on look at the environment again: fsspec keeps the one that it made, and
    of one that zarr asked for nobody closes the connections."""
    if (s3fs := sys.modules.get("s3fs")) is None:
        return
    from zarr.core.sync import _get_loop

    for made in list(s3fs.S3FileSystem._cache.values()):
        if made._s3 is not None:
            closing = made._s3creator.__aexit__(None, None, None)
            loop = _get_loop() if made.asynchronous else made.loop
            asyncio.run_coroutine_threadsafe(closing, loop).result(10)
    s3fs.S3FileSystem.clear_instance_cache()


def main() -> None:
    """Serve a folder until stdin closes, its URL on the first line: ``python -m tests.servers FOLDER``.

    For readers that hold Python's lock while they wait for an answer (GDAL's JPEG driver, through rasterio): a server
    in their own process could never give it.
    """
    with files_over_http(Path(sys.argv[1])) as files:
        print(files.url, flush=True)
        sys.stdin.read()


@contextmanager
def files_from_another_process(folder: Path) -> Iterator[str]:
    """The URL under which another process serves a folder, with ranges."""
    command = [sys.executable, "-m", "tests.servers", str(folder)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=10)


if __name__ == "__main__":
    main()
