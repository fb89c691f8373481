"""A folder over HTTP as a far bucket serves it: byte ranges, connections kept, and every answer late.

``python -m benchmarks.ranged_server FOLDER --latency-ms 30`` prints its URL and serves on loopback until stdin closes.
The latency is waited for before each answer, whatever else is being answered; a connection costs nothing extra.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

COUNTS = "/-/counts"
"""Where it tells what it has served; neither late nor counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server has answered."""

    requests: int
    bytes: int
    """Of bodies."""

    cpu_s: float

    def __sub__(self, earlier: Served) -> Served:
        """What came since."""
        return Served(
            requests=self.requests - earlier.requests,
            bytes=self.bytes - earlier.bytes,
            cpu_s=round(self.cpu_s - earlier.cpu_s, 3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RangedServer:
    """A server in another process."""

    url: str
    """With no slash at the end."""

    folder: Path

    def served(self) -> Served:
        """Since it began."""
        with urllib.request.urlopen(self.url + COUNTS, timeout=10) as answer:
            return Served(**json.load(answer))


@contextmanager
def ranged_server(folder: Path, *, latency_s: float) -> Iterator[RangedServer]:
    """A folder, served by another process, each answer this late."""
    command = [sys.executable, "-m", "benchmarks.ranged_server", str(folder), "--latency-ms", str(1000 * latency_s)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RangedServer(url=process.stdout.readline().strip(), folder=folder)
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def delivers(server: RangedServer, name: str, *, connections: int = 64, seconds: float = 2.0) -> dict[str, float]:
    """What the server gives to one client process that asks for quarters of a megabyte of a file: its limit here."""
    before = server.served()
    begun = time.monotonic()
    asyncio.run(_ask(f"{server.url}/{name}", connections, seconds))
    taken_s, given = time.monotonic() - begun, server.served() - before
    return {
        "connections": connections,
        "requests_per_s": round(given.requests / taken_s, 1),
        "mb_per_s": round(given.bytes / taken_s / 1e6, 1),
        "server_cpu_ms_per_request": round(1000 * given.cpu_s / max(1, given.requests), 3),
    }


async def _ask(url: str, connections: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:

        async def one() -> None:
            while time.monotonic() < until:
                async with session.get(url, headers={"Range": "bytes=65536-327679"}) as answer:
                    await answer.read()

        await asyncio.gather(*(one() for _ in range(connections)))


class _Files:
    """Answers requests for the files of a folder."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self._folder, self._latency_s = folder.resolve(), latency_s
        self._requests = self._bytes = 0

    async def answer(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self._latency_s)
        path = (self._folder / request.path.lstrip("/")).resolve()
        found = path.is_relative_to(self._folder) and path.is_file()
        answer = _part(path, request) if found else web.Response(status=404)
        self._requests += 1
        self._bytes += len(answer.body) if isinstance(answer.body, bytes) else 0
        return answer

    async def counts(self, request: web.Request) -> web.Response:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = used.ru_utime + used.ru_stime
        return web.json_response({"requests": self._requests, "bytes": self._bytes, "cpu_s": cpu_s})


def _part(path: Path, request: web.Request) -> web.Response:
    """What was asked of a file. It lies in the machine's page cache: read without a thread."""
    size = path.stat().st_size
    headers = {"Accept-Ranges": "bytes"}
    try:
        wanted = request.http_range
    except ValueError:
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    if request.method == "HEAD":
        return web.Response(headers=headers | {"Content-Length": str(size)})
    if wanted == slice(None, None, 1):
        return web.Response(body=path.read_bytes(), headers=headers)
    first, end, _ = wanted.indices(size)
    with path.open("rb") as file:
        body = os.pread(file.fileno(), end - first, first)
    place = f"bytes {first}-{first + len(body) - 1}/{size}"
    return web.Response(status=206, body=body, headers=headers | {"Content-Range": place})


async def _serve(folder: Path, latency_s: float) -> None:
    files = _Files(folder, latency_s)
    app = web.Application()
    app.router.add_get(COUNTS, files.counts)
    app.router.add_get("/{path:.*}", files.answer)  # and HEAD
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=60)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
    await site.start()
    _, port = runner.addresses[0][:2]
    print(f"http://127.0.0.1:{port}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    """Serve until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    asked = parser.parse_args()
    asyncio.run(_serve(asked.folder, asked.latency_ms / 1000))


if __name__ == "__main__":
    main()
