from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.servers import Fault, files_over_http


def fetched(url: str, wanted: str | None = None, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={"Range": wanted} if wanted else {}, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status, answer.read(), dict(answer.headers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "digits").write_bytes(b"0123456789")
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "part"),
    [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-3", b"789"), ("bytes=0-99", b"0123456789")],
)
def test_ranges_are_answered_as_an_object_store_does(folder: Path, wanted: str, part: bytes) -> None:
    with files_over_http(folder) as served:
        status, content, headers = fetched(f"{served.url}/digits", wanted)
        assert (status, content) == (206, part)
        assert headers["Content-Range"].endswith("/10")
        assert served.asked("/digits")[0].headers["Range"] == wanted


def test_a_range_beyond_the_end_is_refused(folder: Path) -> None:
    with files_over_http(folder) as served, pytest.raises(urllib.error.HTTPError, match="416"):
        fetched(f"{served.url}/digits", "bytes=10-12")


def test_head_tells_the_size_alone(folder: Path) -> None:
    with files_over_http(folder) as served:
        status, content, headers = fetched(f"{served.url}/digits", method="HEAD")
        assert (status, content, headers["Content-Length"]) == (200, b"", "10")


def test_nothing_outside_the_folder_is_served(folder: Path) -> None:
    with files_over_http(folder / "inner") as served:
        for path in ("/../digits", "/%2e%2e/digits", "/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetched(f"{served.url}{path}")


def test_faults_come_in_their_order_and_then_no_more(folder: Path) -> None:
    with files_over_http(folder) as served:
        served.fail("/digits", Fault(status=503, times=1), Fault(body=b"other", times=1))
        with pytest.raises(urllib.error.HTTPError, match="503"):
            fetched(f"{served.url}/digits")
        assert [fetched(f"{served.url}/digits")[1] for _ in range(2)] == [b"other", b"0123456789"]


def test_gdal_reads_a_window_without_the_whole_file(folder: Path) -> None:
    values = np.arange(1024 * 1024, dtype=np.uint32).reshape(1, 1024, 1024)
    profile = {"driver": "GTiff", "height": 1024, "width": 1024, "count": 1, "dtype": "uint32", "tiled": True}
    profile |= {"crs": "EPSG:32632", "transform": Affine(1, 0, 600000, 0, -1, 5600000)}
    with rasterio.open(folder / "a.tif", "w", **profile) as file:
        file.write(values)
    with (
        files_over_http(folder) as served,
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(f"/vsicurl/{served.url}/a.tif") as file,
    ):
        window = rasterio.windows.Window(512, 512, 10, 10)
        assert (file.read(1, window=window) == values[0, 512:522, 512:522]).all()
        assert any(request.headers.get("Range") for request in served.asked("/a.tif"))
