"""Servers that fail, lie or stall while a file is read: an error of ours, soon, and nothing of it is remembered."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mapper.errors import AssetError, BrokenReadError, MapperError, ReadError
from mapper.raster import GDAL_OPTIONS
from mapper.read import RasterReader
from tests.hostile.outcome import outcome
from tests.hostile.rasters import FRAME, UTM45, geotiff, truth
from tests.hostile.rasters_disguised import virtual
from tests.mapper.rasters import item_of, placed
from tests.servers import Fault, FileServer, files_over_http

WHOLE = geotiff(compress="deflate")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of one good file; who asks tries again at once."""
    monkeypatch.setitem(GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.01)
    (tmp_path / "a.tif").write_bytes(WHOLE)
    with files_over_http(tmp_path) as files:
        yield files


def read(url: str, reader: RasterReader | None = None) -> Any:
    return (reader or RasterReader(bands=3, threads=2)).read([placed(item_of(url))], UTM45, FRAME)


FAULTS: dict[str, tuple[Fault, type[MapperError]]] = {
    **{f"status {status}": (Fault(status=status), ReadError) for status in (429, 500, 502, 503, 504)},
    "status 404": (Fault(status=404), AssetError),
    "cut in the header": (Fault(truncate_at=100), BrokenReadError),
    "cut in the pixels": (Fault(truncate_at=34_000), BrokenReadError),
    "a page in its place": (Fault(body=b"<!DOCTYPE html><p>We are back soon."), AssetError),
    "nothing in its place": (Fault(body=b""), AssetError),
    "a virtual file in its place": (Fault(body=virtual("/etc/passwd")), AssetError),
    "half of it": (Fault(body=WHOLE[: len(WHOLE) // 2]), BrokenReadError),
    "its pixels spoiled": (Fault(body=WHOLE[:3000] + bytes(len(WHOLE) - 3000)), BrokenReadError),
    "said to be compressed": (
        Fault(status=200, body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}), AssetError),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_an_error_of_ours_and_is_forgotten_once_it_is_over(server: FileServer, name: str) -> None:
    fault, kind = FAULTS[name]
    reader = RasterReader(bands=3, threads=2)
    server.fail("/a.tif", fault)
    for _ in range(2):
        with pytest.raises(MapperError) as caught:
            read(f"{server.url}/a.tif", reader)
        assert type(caught.value) is kind or name in ("nothing in its place", "said to be compressed")
        assert caught.value.where == {"item": "scene", "asset": f"{server.url}/a.tif"}
    server.fail("/a.tif")
    assert (read(f"{server.url}/a.tif", reader).pixels == truth()).all()


def test_a_server_that_fails_for_a_moment_is_asked_again_within_one_read(server: FileServer) -> None:
    server.fail("/a.tif", Fault(status=503, times=2))
    assert (read(f"{server.url}/a.tif").pixels == truth()).all()


def test_a_store_without_ranges_gives_the_file_or_an_error_but_no_hang(server: FileServer) -> None:
    server.fail("/a.tif", Fault(status=200, body=WHOLE))
    view = outcome(lambda: read(f"{server.url}/a.tif"))
    assert isinstance(view, (ReadError, AssetError)) or (view.pixels == truth()).all()


@contextmanager
def raw_server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server below HTTP. It says of every file that it has a megabyte; who asks for it gets what ``answer`` sends."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            try:
                while (asked := connection.recv(65536)).startswith(b"HEAD"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nAccept-Ranges: bytes\r\n\r\n")
                if asked:
                    answer(connection, over)
            except OSError:
                pass  # who asked has gone

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        accepting.join(10)
        listening.close()
        for thread in threads:
            thread.join(10)


PART = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-32767/1000000\r\nContent-Length: 32768\r\n\r\n"


def _silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait(60)


def _stalls(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(PART + b"II*\0")
    over.wait(60)


def _drips(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(PART)
    while not over.wait(0.02):
        connection.sendall(b"I" * 20)  # enough not to be called a stall


def _endless_headers(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.is_set():
        connection.sendall(b"X-More: " + b"a" * 60000 + b"\r\n")


def _endless_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-99999999999/100000000000\r\n\r\n")
    while not over.wait(0.002):  # GDAL holds all that one answer brings; the test need not
        connection.sendall(b"II*\0" + bytes(65536))


def _hangs_up(connection: socket.socket, over: threading.Event) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _speaks_another_tongue(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


def _redirects_to_itself(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a.tif\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _redirects_to_a_file(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


NEVER_DONE = [_silent, _stalls, _drips, _endless_headers, _endless_body]
ODD = [_hangs_up, _speaks_another_tongue, _redirects_to_itself, _redirects_to_a_file]


@pytest.mark.parametrize("answer", [*NEVER_DONE, *ODD])
def test_a_server_that_never_comes_to_an_end_is_left(
    answer: Callable[[socket.socket, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second where we wait a minute; without a limit the test would wait for the server, which never ends.
    shorter = {"TIMEOUT": 1, "CONNECTTIMEOUT": 1, "LOW_SPEED_TIME": 1, "MAX_RETRY": 0}
    for name, value in shorter.items():
        monkeypatch.setitem(GDAL_OPTIONS, f"GDAL_HTTP_{name}", value)
    with raw_server(answer) as url, pytest.raises((ReadError, AssetError)) as caught:
        read(f"{url}/a.tif")
    assert caught.value.where == {"item": "scene", "asset": f"{url}/a.tif"}


def test_a_stalled_server_is_left_before_the_time_for_all_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = {"TIMEOUT": 600, "LOW_SPEED_TIME": 1, "MAX_RETRY": 0}
    for name, value in shorter.items():
        monkeypatch.setitem(GDAL_OPTIONS, f"GDAL_HTTP_{name}", value)
    with raw_server(_stalls) as url, pytest.raises((ReadError, AssetError)):
        read(f"{url}/a.tif")
