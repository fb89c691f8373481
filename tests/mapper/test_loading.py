"""What a reader asks of a server and what it keeps; the same pixels whatever it keeps. Real files, a real server."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window

from mapper.develop import Untouched
from mapper.errors import AssetError, MapperError
from mapper.grid import BLOCK_PX, PixelBox
from mapper.imagery import Item, View
from mapper.limits import CELL_PX
from mapper.loading import Loader
from mapper.read import RasterReader
from mapper.traffic import TRAFFIC, calls_since
from tests.mapper.rasters import NEPAL, UTM45, item_of, place_pixels, placed, smooth_pixels, write_raster
from tests.servers import Fault, FileServer, files_over_http
from tests.strategies import parts_of

SCENE = PixelBox(NEPAL.top, NEPAL.left, NEPAL.top + 1100, NEPAL.left + 1300)
"""Five by six blocks of 256, those at its edges cut."""

BLOCK = 256

APART = 900
"""Pixels across that leave at least a block between two rows of a frame. Where rows follow one another in the file, a
thread that reads two of them in turn has GDAL read ahead: how many requests that saves depends on who is quickest."""


def view(reader: RasterReader, item: Item, box: PixelBox) -> View:
    return reader.read([placed(item)], UTM45, box)


def part_of_scene(top: int, left: int, height: int, width: int) -> PixelBox:
    return PixelBox(SCENE.top + top, SCENE.left + left, SCENE.top + top + height, SCENE.left + left + width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of three bands, blocks of 256 px."""
    folder = tmp_path_factory.mktemp("scene")
    sized: dict[str, Any] = {"blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel"}
    write_raster(folder / "scene.tif", place_pixels(SCENE), UTM45.transform(SCENE), **sized)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with files_over_http(folder) as server:
        yield server


def ranges(server: FileServer) -> list[tuple[int, int]]:
    """First and last byte of each GET, in the order of the file."""
    found = []
    for request in server.asked("/scene.tif"):
        if request.method == "GET":
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
            assert wanted is not None
            found.append((int(wanted[1]), int(wanted[2])))
    return sorted(found)


# What is asked of the server -----------------------------------------------------------------------------------------


def test_a_header_is_asked_for_once_however_many_threads_read(server: FileServer) -> None:
    reader, item = RasterReader(bands=3, threads=8), item_of(f"{server.url}/scene.tif")
    corners = [part_of_scene(top, left, 200, 200) for top in (0, 300, 600, 850) for left in (0, 300, 600, 1050)]
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda box: view(reader, item, box), corners))
    headers = [first for first, _ in ranges(server) if first == 0]
    sizes = [request for request in server.asked("/scene.tif") if request.method == "HEAD"]
    assert len(headers) == 1
    assert len(sizes) <= 2  # GDAL asks whether the file is there, and again how long it is


def test_what_two_neighbouring_frames_share_is_fetched_once(server: FileServer) -> None:
    reader, item = RasterReader(bands=3), item_of(f"{server.url}/scene.tif")
    for left in (0, 200, 500):
        view(reader, item, part_of_scene(100, left, 800, 700))
    fetched = ranges(server)
    assert len(fetched) > 4
    assert all(last < first for (_, last), (first, _) in pairwise(fetched))


def test_a_frame_that_was_read_before_asks_for_nothing(server: FileServer) -> None:
    reader, item = RasterReader(bands=3), item_of(f"{server.url}/scene.tif")
    view(reader, item, part_of_scene(0, 0, 900, 900))
    before = len(server.requests)
    view(reader, item, part_of_scene(10, 20, 700, 800))
    assert len(server.requests) == before


def test_a_frame_costs_one_request_a_row_of_blocks_beside_the_header(server: FileServer) -> None:
    view(RasterReader(bands=3), item_of(f"{server.url}/scene.tif"), part_of_scene(100, 100, 900, APART))
    rows = -(-(100 + 900) // BLOCK)
    assert len(ranges(server)) == 1 + rows


def test_threads_that_want_the_same_frame_fetch_it_once(server: FileServer) -> None:
    reader, item = RasterReader(bands=3), item_of(f"{server.url}/scene.tif")
    box, before = part_of_scene(0, 0, SCENE.height, APART), TRAFFIC.calls()
    with ThreadPoolExecutor(6) as callers:
        views = list(callers.map(lambda box: view(reader, item, box), [box] * 6))
    assert all((seen.pixels == place_pixels(box)).all() for seen in views)
    rows = -(-SCENE.height // BLOCK)
    (calls,) = calls_since(before, TRAFFIC.calls())  # GDAL asks no server twice for what it has just been given
    assert calls.done == len(ranges(server)) == 1 + rows
    assert calls.moved_bytes == 3 * SCENE.height * 4 * BLOCK


# What is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [0, 1, 4])
def test_what_is_kept_stays_within_its_bytes_and_changes_no_pixel(folder: Path, cells: int) -> None:
    capacity = cells * 3 * CELL_PX**2
    reader, item = RasterReader(bands=3, cache_bytes=capacity), item_of(folder / "scene.tif")
    for _ in range(2):
        assert (view(reader, item, SCENE).pixels == place_pixels(SCENE)).all()
        assert reader.cached_bytes <= capacity
    assert (reader.cached_bytes > 0) == (cells > 0)


@pytest.mark.parametrize("down", [-700, 0, 1050])
@pytest.mark.parametrize("right", [-700, 0, 1250])
def test_a_frame_beside_a_scene_or_over_its_edge_shows_what_is_inside(folder: Path, down: int, right: int) -> None:
    for side in (60, 690, 701):
        box = part_of_scene(down, right, side, side)
        inside = box.intersection(SCENE)
        expected = np.zeros((3, *box.shape), np.uint8)
        if not inside.empty:
            expected[:, *inside.within(box)] = place_pixels(inside)
        assert (view(RasterReader(bands=3), item_of(folder / "scene.tif"), box).pixels == expected).all()


@settings(max_examples=10, deadline=None)
@given(st.lists(parts_of(WIDER := PixelBox(NEPAL.top - 40, NEPAL.left - 40, SCENE.bottom, SCENE.right)), min_size=6))
def test_threads_that_share_little_memory_give_the_same_pixels(folder: Path, parts: list[PixelBox]) -> None:
    aligned = item_of(folder / "scene.tif")
    reader = RasterReader(bands=3, threads=3, cache_bytes=2 * 3 * CELL_PX**2)
    with ThreadPoolExecutor(4) as callers:
        views = list(callers.map(lambda part: view(reader, aligned, part), parts))
    for part, seen in zip(parts, views, strict=True):
        inside = part.intersection(SCENE)
        expected = np.zeros((3, *part.shape), np.uint8)
        if not inside.empty:
            expected[:, *inside.within(part)] = place_pixels(inside)
        assert (seen.pixels == expected).all()
        assert (seen.valid == (expected[0] > 0)).all()


# What went wrong -----------------------------------------------------------------------------------------------------


def view_of_mended(reader: RasterReader, item: Item, box: PixelBox) -> View:
    """A frame of a file that was bad. Other rows of a frame that failed may still be under way, and whoever asks
    meanwhile shares their failure: then it asks again."""
    for _ in range(50):
        try:
            return view(reader, item, box)
        except AssetError:
            time.sleep(0.02)
    return view(reader, item, box)


def test_nothing_of_a_file_that_failed_is_kept(tmp_path: Path) -> None:
    first, later = place_pixels(SCENE), 255 - place_pixels(SCENE)
    path = write_raster(tmp_path / "scene.tif", first, UTM45.transform(SCENE))
    left, right = part_of_scene(0, 0, 500, 500), part_of_scene(0, 600, 500, 500)
    reader, item = RasterReader(bands=3), item_of(path)
    assert (view(reader, item, left).pixels == first[:, *left.within(SCENE)]).all()
    os.truncate(path, 4000)
    with pytest.raises(AssetError):
        view(reader, item, right)
    write_raster(tmp_path / "later.tif", later, UTM45.transform(SCENE)).replace(path)
    for box in (left, right):
        assert (view_of_mended(reader, item, box).pixels == later[:, *box.within(SCENE)]).all()


def test_when_no_thread_is_left_to_read_nobody_waits_for_one(folder: Path) -> None:
    """As at the end of a process."""
    loader = Loader(threads=1, cache_bytes=1 << 24)
    bands, box = item_of(folder / "scene.tif").bands, part_of_scene(0, 0, BLOCK, BLOCK)

    def asked(box: PixelBox) -> list[Any]:
        parts = loader.look(bands, UTM45, box, Resampling.bilinear, Untouched()).result(30)
        return [future.result(30) for _, future in parts]

    assert len(asked(box)) > 0
    loader._threads.shutdown()  # what the interpreter does when it ends
    with pytest.raises(RuntimeError, match="after shutdown"):
        asked(part_of_scene(500, 500, BLOCK, BLOCK))


def test_each_who_waits_for_a_file_that_fails_is_told_of_its_own_item(server: FileServer) -> None:
    reader, href = RasterReader(bands=3), f"{server.url}/scene.tif"
    server.fail("/scene.tif", Fault(status=404, delay_s=0.2))
    names = ["north", "south", "east"]
    with ThreadPoolExecutor(3) as callers:
        asked = [callers.submit(view, reader, item_of(href, name=name), SCENE) for name in names]
        errors = [future.exception() for future in asked]
    assert [type(error) for error in errors] == [AssetError] * 3
    assert [error.where["item"] for error in errors if isinstance(error, MapperError)] == names


def test_a_reader_is_as_good_as_new_after_failures_of_many_threads(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes((folder / "scene.tif").read_bytes()[:40_000])
    reader, item = RasterReader(bands=3, threads=2), item_of(path)
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(view, reader, item, part_of_scene(0, left, 900, 300)) for left in (0, 300, 600, 900)]
        assert {type(future.exception()) for future in asked} == {AssetError}
    Path(shutil.copy(folder / "scene.tif", tmp_path / "whole.tif")).replace(path)
    assert (view_of_mended(reader, item, SCENE).pixels == place_pixels(SCENE)).all()


# As rasterio reads it ------------------------------------------------------------------------------------------------


SMALL = PixelBox(SCENE.top, SCENE.left, SCENE.top + 420, SCENE.left + 560)
"""Two by three cells, those at its edges cut."""

STRETCH = (-30.0, 700.0)
SCALE, OFFSET = 1.7, -4.0


def plain(path: Path, box: PixelBox, *, nodata: float | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A box of a file as one call of rasterio gives it, stretched in one expression."""
    with rasterio.open(path) as file:
        window = Window(box.left - SCENE.left, box.top - SCENE.top, box.width, box.height)
        raw = file.read([1, 2, 3], window=window)
        valid = (raw != nodata).any(axis=0) if nodata is not None else file.dataset_mask(window=window) != 0
    gain = np.float32(255 * SCALE / (STRETCH[1] - STRETCH[0]))
    shift = np.float32(255 * (OFFSET - STRETCH[0]) / (STRETCH[1] - STRETCH[0]))
    if np.issubdtype(raw.dtype, np.floating):
        valid &= np.isfinite(raw).all(axis=0)
    pixels = np.rint(np.clip(np.nan_to_num(raw.astype(np.float32) * gain + shift), 0, 255)).astype(np.uint8)
    return pixels * valid, valid


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("how", ["nodata", "mask", "bare"])
@pytest.mark.parametrize(
    "layout",
    [
        {"interleave": "pixel", "blockxsize": 64, "blockysize": 64},
        {"interleave": "band", "blockxsize": 512, "blockysize": 512},
        {"interleave": "pixel", "tiled": False, "blockysize": 7},
    ],
    ids=["small blocks", "band after band", "strips"],
)
def test_every_window_is_bit_for_bit_as_one_read_of_rasterio(
    tmp_path: Path, dtype: str, how: str, layout: dict[str, Any]
) -> None:
    values = smooth_pixels(SMALL).astype(dtype) * (1 if dtype == "uint8" else np.array(3, dtype))
    values[:, 200:300, 100:400] = 0
    values[0, 320:330] = 0
    if np.issubdtype(values.dtype, np.floating):
        values[1, 340:345] = np.nan
        values[2, 350:355] = np.inf
    mask = smooth_pixels(SMALL)[0] > 100 if how == "mask" else None
    nodata = {"nodata": 0} if how == "nodata" else {}
    path = write_raster(tmp_path / "a.tif", values, UTM45.transform(SMALL), mask=mask, **layout | nodata)
    reader, item = RasterReader(bands=3, stretch=STRETCH), item_of(path, scale=SCALE, offset=OFFSET)
    rng = np.random.default_rng(0)
    for _ in range(8):
        top, left = rng.integers(0, (400, 500))
        height, width = rng.integers(1, (SMALL.height - top + 1, SMALL.width - left + 1))
        box = part_of_scene(int(top), int(left), int(height), int(width))
        pixels, valid = plain(path, box, nodata=0 if nodata else None)
        seen = view(reader, item, box)
        assert seen.valid.tobytes() == valid.tobytes()
        assert seen.pixels.tobytes() == pixels.tobytes()


def test_a_warped_cell_is_bit_for_bit_gdals_warp_of_the_whole_file(tmp_path: Path) -> None:
    values = smooth_pixels(PixelBox(0, 0, 900, 900)).astype(np.uint16) * 3
    values[:, 300:340, 200:300] = 0
    origin = UTM45.transform(SCENE) @ Affine.translation(0.3, 0.4)
    path = write_raster(tmp_path / "a.tif", values, origin, nodata=0)
    cell = next(cell for cell in SCENE.cells(BLOCK_PX) if SCENE.contains(cell))
    alpha = np.where((values != 0).any(axis=0), 65535, 0).astype(np.uint16)
    warped = np.zeros((4, *cell.shape), np.uint16)
    reproject(
        np.concatenate([values, alpha[None]]), warped, src_transform=origin, src_crs=UTM45.crs,
        dst_transform=UTM45.transform(cell), dst_crs=UTM45.crs, resampling=Resampling.bilinear, src_alpha=4,
        dst_alpha=4, tolerance=0.0,
    )  # fmt: skip
    seen = RasterReader(bands=3, stretch=(0, 255)).read([placed(item_of(path))], UTM45, cell)
    valid = warped[3] > 65535 / 2
    assert 0 < valid.sum() < valid.size
    assert (seen.valid == valid).all()
    assert (seen.pixels == np.clip(warped[:3], 0, 255) * valid).all()
