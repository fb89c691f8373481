"""What the models saw, on a web map: pixel for pixel under the masks, near, and only where it may be had."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.enums import Resampling

from jobs import web_imagery
from jobs.dashboard.map_tiles import map_info, picture
from jobs.dashboard.states import RunView
from mapper.masks import UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.web.tile_picture import colour_of
from mapper.web.webtiles import WebTiles, centres
from tests.jobs.dashboard.planned_runs import view_of
from tests.jobs.test_planned_map import pixel_at
from tests.servers import Fault, files_over_http
from tests.stories.world import CORNER, World, item_of, mapped, write_catalog, write_tiff, write_world

ZONE = "EPSG:32632"
LEFT, TOP = math.floor(CORNER[0]), math.floor(CORNER[1])
CROSS, SQUARE = (300, 212), (100, 300, 180, 420)
"""Row and column of the middle of a red cross; top, left, bottom and right of a red square."""

ARM = 15
"""Pixels of each of the cross's arms."""


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A mapped run of one scene on the grid: dark ground, a red cross with arms of one pixel, and a red square."""
    folder = tmp_path_factory.mktemp("cross")
    pixels = np.full((3, 512, 512), 40, np.uint8)
    row, column = CROSS
    top, left, bottom, right = SQUARE
    pixels[0, row - ARM : row + ARM + 1, column] = pixels[0, row, column - ARM : column + ARM + 1] = 255
    pixels[0, top:bottom, left:right] = 255
    path = write_tiff(folder / "scene.tif", pixels, crs=ZONE, transform=Affine(1, 0, LEFT, 0, -1, TOP))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    item = item_of(
        path, name="scene", moment="2024-06-01T10:30:00Z", collection="plain", href="scene.tif",
        bands=("red", "green", "blue"),
    )  # fmt: skip
    west, south, east, north = item["bbox"]
    inner = (0.9 * west + 0.1 * east, 0.9 * south + 0.1 * north, 0.1 * west + 0.9 * east, 0.1 * south + 0.9 * north)
    world = World(folder=folder, catalog=write_catalog(folder, [item]), area=inner, items=())
    return run_of(world, folder / "map.zarr")


@pytest.fixture(scope="module")
def ground(world: World, tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """The small world of the stories, mapped: clouds, holes, two zones, and no file on the grid."""
    return run_of(world, tmp_path_factory.mktemp("ground") / "map.zarr")


def run_of(world: World, mosaic: Path) -> RunView:
    return view_of(str(mosaic), mapped(world.job(mosaic, windows={"overlap_px": 0})).run)


def drawn(view: RunView, layer: str, place: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Red, green, blue and opacity, as a browser shows it."""
    return np.asarray(Image.open(io.BytesIO(picture(view, layer, 0, 0, *place))).convert("RGBA"))


def in_scene(row: float, column: float) -> tuple[float, float]:
    """Longitude and latitude of a place in the scene of the cross, in its pixels."""
    lonlat: tuple[float, float] = Transformer.from_crs(ZONE, "OGC:CRS84", always_xy=True).transform(
        LEFT + column, TOP - row
    )
    return lonlat


def picture_at(z: int, row: float, column: float) -> tuple[int, int, int]:
    """The picture of a zoom that holds that place."""
    x, y = pixel_at(z, *in_scene(row, column))
    return z, x // 256, y // 256


def scene_under(place: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where the scene is red under the centres of a picture's pixels, by way of its own coordinates."""
    longitude, latitude = np.meshgrid(*centres(*place))
    x, y = Transformer.from_crs("OGC:CRS84", ZONE, always_xy=True).transform(longitude, latitude)
    row, column = np.floor(TOP - y).astype(int), np.floor(x - LEFT).astype(int)
    top, left, bottom, right = SQUARE
    square = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    down, across = abs(row - CROSS[0]), abs(column - CROSS[1])
    return np.asarray(square | ((down <= ARM) & (across == 0)) | ((down == 0) & (across <= ARM)))


# Where it lies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nearer", [0, 1, 3])
def test_what_is_red_in_the_imagery_is_what_the_mask_names_pixel_for_pixel(cross: RunView, nearer: int) -> None:
    place = picture_at(map_info(cross).max_zoom + nearer, *CROSS)
    imagery, mask = drawn(cross, "imagery", place), drawn(cross, "mask", place)
    red, present = imagery[..., 0] == 255, (mask[..., :3] == colour_of(0)).all(axis=2)
    assert red.any()
    assert (imagery[..., 3] == 255).all()
    assert np.array_equal(red, scene_under(place))
    assert np.array_equal(red, present)


@pytest.mark.parametrize("farther", [1, 2])
def test_farther_away_both_end_at_the_same_pixel_but_for_one(cross: RunView, farther: int) -> None:
    top, left, bottom, right = SQUARE
    place = picture_at(map_info(cross).max_zoom - farther, (top + bottom) / 2, (left + right) / 2)
    imagery, mask = drawn(cross, "imagery", place), drawn(cross, "mask", place)
    red = (imagery[..., 0] > 147) & (imagery[..., 3] == 255)  # more than half of a mixed pixel
    present = (mask[..., :3] == colour_of(0)).all(axis=2)
    assert np.abs(ends_of(red) - ends_of(present)).max() <= 1
    assert np.abs(ends_of(red) - ends_of(scene_under(place))).max() <= 1


def ends_of(seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and last row and column where more pixels are seen than an arm has: of the square, not of the cross."""
    rows, columns = (np.flatnonzero(seen.sum(axis=axis) > 20) for axis in (1, 0))
    return np.array([rows[0], rows[-1], columns[0], columns[-1]])


def test_imagery_is_seen_exactly_where_the_model_saw_any(ground: RunView) -> None:
    tiles = WebTiles(Mosaic.open(ground.mosaic, writable=False))
    west, south, east, north = tiles.bounds
    z = tiles.max_zoom
    first, last = pixel_at(z, west, north), pixel_at(z, east, south)
    seen, looked = 0, 0
    for x in range(first[0] // 256, last[0] // 256 + 1):
        for y in range(first[1] // 256, last[1] // 256 + 1):
            values = tiles.tile(z, x, y, prompt=0, time=0)
            shown = drawn(ground, "imagery", (z, x, y))[..., 3] == 255
            assert np.array_equal(shown[values != UNMAPPED], values[values != UNMAPPED] < UNOBSERVED)
            seen, looked = seen + shown.sum(), looked + (values == UNOBSERVED).sum()
    assert seen > 10_000
    assert looked > 10_000


# Where it is not ------------------------------------------------------------------------------------------------------


def test_from_far_nothing_is_read(ground: RunView) -> None:
    west, south, east, north = map_info(ground).bounds
    zoom = map_info(ground).max_zoom
    shown = {}
    for farther in range(6):
        x, y = pixel_at(zoom - farther, (3 * west + east) / 4, (south + north) / 2)
        shown[farther] = bool(drawn(ground, "imagery", (zoom - farther, x // 256, y // 256)).any())
    assert shown == {
        0: True,
        1: True,
        2: True,
        3: True,
        4: False,
        5: False,
    }  # 3: four of its pixels a side at least, 4: eight


def test_of_more_items_than_a_picture_takes_the_first_are_shown(
    ground: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = middle_picture(ground)
    whole = drawn(replace(ground, key="whole"), "imagery", place)[..., 3] == 255
    monkeypatch.setattr(web_imagery, "MOST_ITEMS", 1)
    part = drawn(replace(ground, key="part"), "imagery", place)[..., 3] == 255
    assert part.any()
    assert whole[part].all()
    assert part.sum() < whole.sum()


def test_a_public_catalog_that_names_a_file_of_this_machine_shows_nothing_of_it(ground: RunView) -> None:
    job = Path(ground.mosaic) / ".resmap/runs" / ground.folder.run / "job.yaml"
    kept = job.read_text()
    place = middle_picture(ground)
    assert drawn(replace(ground, key="local"), "imagery", place).any()
    try:
        said = yaml.safe_load(kept)
        said["imagery"]["catalog"] = "https://example.com/catalog.json"
        job.write_text(yaml.safe_dump(said))
        assert not drawn(replace(ground, key="public"), "imagery", place).any()
    finally:
        job.write_text(kept)


def test_a_store_that_refuses_is_no_error_and_is_left_alone_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    world = write_world(folder)
    with files_over_http(folder) as server:
        there = replace(world, catalog=f"{server.url}/catalog.json")  # type: ignore[arg-type]  # a URL is as good
        view = run_of(there, tmp_path / "map.zarr")
        place = middle_picture(view)
        assert drawn(replace(view, key="allowed"), "imagery", place).any()
        for item in ("west", "middle", "north", "east"):
            server.fail(f"/{item}.tif", Fault(status=403))
        assert not drawn(view, "imagery", place).any()
        asked = sum(len(server.asked(f"/{item}.tif")) for item in ("west", "middle", "north", "east"))
        assert not drawn(view, "imagery", place).any()
        assert sum(len(server.asked(f"/{item}.tif")) for item in ("west", "middle", "north", "east")) == asked


def test_imagery_that_is_gone_is_transparent(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    view = run_of(write_world(folder), tmp_path / "map.zarr")
    for path in folder.glob("*.tif"):
        path.unlink()
    assert not drawn(view, "imagery", middle_picture(view)).any()
    assert drawn(view, "mask", middle_picture(view)).any()


def middle_picture(view: RunView) -> tuple[int, int, int]:
    """A near picture with imagery of several items."""
    info = map_info(view)
    west, south, east, north = info.bounds
    x, y = pixel_at(info.max_zoom - 2, (2 * west + east) / 3, (south + north) / 2)
    return info.max_zoom - 2, x // 256, y // 256
