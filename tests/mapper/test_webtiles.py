"""Web tiles: the mosaic's own pixels, found by longitude and latitude, with every kind of gap kept apart."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyproj import Geod, Transformer

from mapper.errors import QuestionError, VerifyError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard
from mapper.web.degrees import GridInDegrees
from mapper.web.tile_picture import colour_of, legend, png
from mapper.web.webtiles import DESCENT, NORTHERNMOST, PENDING, TILE_PX, WebTiles, better

PROMPTS = (
    Prompt(name="building", expression="the buildings", threshold=0.5),
    Prompt(name="lake", expression="all the lakes", threshold=0.5),
)
WEST = Grid(
    lattice=Lattice(crs="EPSG:32632", res_x=10.0, res_y=10.0),
    box=PixelBox(-614_720, 68_864, -614_400, 69_120),
    shard_px=64,
    chunk_px=32,
    name="utm32n",
)
"""Just west of the twelfth meridian, at 55.4° north."""

EAST = Grid(
    lattice=Lattice(crs="EPSG:32633", res_x=10.0, res_y=10.0),
    box=PixelBox(-614_720, 30_912, -614_400, 31_168),
    shard_px=64,
    chunk_px=32,
    name="utm33n",
)
"""Just east of it; the two overlap a little."""


def drawn(seed: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mask and score in patches of 12 pixels, with every value in them."""
    draw = np.random.default_rng(seed)
    rows, columns = -(-shape[0] // 12), -(-shape[1] // 12)
    patches = draw.choice([ABSENT, PRESENT, UNOBSERVED, UNMAPPED], (rows, columns), p=[0.5, 0.3, 0.1, 0.1])
    mask = np.kron(patches, np.ones((12, 12), np.uint8))[: shape[0], : shape[1]].astype(np.uint8)
    score = np.where(mask == PRESENT, draw.integers(126, 251, shape), draw.integers(0, 125, shape))
    return mask, np.where(mask >= UNOBSERVED, mask, score).astype(np.uint8)


def made(url: Path, grids: tuple[Grid, ...], *, levels: bool = True, fill: int | None = None) -> Mosaic:
    """A mosaic with everything written, every grid another pattern, or all of one value."""
    spec = MosaicSpec(grids=grids, prompts=PROMPTS, times=(datetime(2024, 5, 1, tzinfo=UTC),), made_by={})
    mosaic = Mosaic.create(str(url), spec)
    for number, grid in enumerate(grids):
        masks, scores = zip(*(drawn(10 * number + prompt, grid.shape) for prompt in range(2)), strict=True)
        for tile in grid.tiles():
            inside = (slice(None), *tile.core.within(grid.box))
            mask, score = np.stack(masks)[inside], np.stack(scores)[inside]
            if fill is not None:
                mask, score = np.full_like(mask, fill), np.full_like(score, fill)
            source = np.full(mask.shape[1:], number + 4, np.uint32)
            mosaic.write(grid, tile, 0, TileLayers(mask=mask, score=score, source=source, prompts=(0, 1)))
        for level in grid.pyramid()[1:] if levels else ():
            build(mosaic, level)
    return mosaic


def build(mosaic: Mosaic, level: Grid) -> None:
    for tile in level.tiles():
        build_shard(mosaic, LevelTask(id=0, grid=level, tile=tile, time=0, prompts=(0, 1)))


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    """Two zones side by side, with their coarser levels."""
    return made(tmp_path_factory.mktemp("zones") / "map.zarr", (WEST, EAST))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    """The western zone alone, its coarser levels not built yet."""
    return made(tmp_path_factory.mktemp("bare") / "map.zarr", (WEST,), levels=False)


def middle(tiles: WebTiles) -> tuple[float, float]:
    west, south, east, north = tiles.bounds
    return (west + east) / 2, (south + north) / 2


def tile_at(z: int, longitude: float, latitude: float) -> tuple[int, int, int]:
    """The tile of a zoom that holds a place."""
    down = 0.5 - math.asinh(math.tan(math.radians(latitude))) / (2 * math.pi)
    return z, int((longitude / 360 + 0.5) * 2**z), int(down * 2**z)


def brute_force(
    mosaic: Mosaic, place: tuple[int, int, int], layer: Any, prompt: int, *, level: int | None = None
) -> NDArray[np.uint8]:
    """The tile by way of projected metres and the whole arrays in memory, all zones and a pixel at a time."""
    z, x, y = place
    half, step = 20_037_508.342789244, 2 * 20_037_508.342789244 / (2**z * TILE_PX)
    out = np.full((TILE_PX, TILE_PX), UNMAPPED, np.uint8)
    for grid in mosaic.grids:
        chosen = grid.pyramid()[fitting_level(grid, place) if level is None else level]
        whole = mosaic.layer(chosen, layer, chosen.box, time=0, prompt=prompt)
        to_grid = Transformer.from_crs("EPSG:3857", grid.lattice.crs, always_xy=True)
        left, _, _, top = chosen.lattice.bounds(chosen.box)
        easting, northing = np.meshgrid(*((corner * TILE_PX + np.arange(TILE_PX) + 0.5) * step for corner in (x, y)))
        for at, (u, v) in enumerate(
            zip(*to_grid.transform((easting - half).ravel(), (half - northing).ravel()), strict=True)
        ):
            row, column = (top - v) / chosen.lattice.res_y, (u - left) / chosen.lattice.res_x
            if not (0 <= row < whole.shape[0] and 0 <= column < whole.shape[1]):
                continue
            value = whole[int(row), int(column)]
            if out.flat[at] >= UNOBSERVED and (value < UNOBSERVED or value < out.flat[at]):
                out.flat[at] = value
    return out


def fitting_level(grid: Grid, place: tuple[int, int, int]) -> int:
    """By the ground that the middle pixel of the tile covers, along the ellipsoid."""
    z, _, y = place
    latitude = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / 2**z))))
    pixel = 360 / (TILE_PX * 2**z)
    _, _, metres = Geod(ellps="WGS84").inv(12.0, latitude, 12.0 + pixel, latitude)
    return min(max(int(math.log2(metres / grid.lattice.res_x)), 0), len(grid.pyramid()) - 1)


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["mask", "score"])
@pytest.mark.parametrize(("zoom", "levels"), [(14, 0), (13, 0), (12, 1), (10, 3)])
def test_a_pixel_of_a_tile_is_the_mosaics_pixel_under_its_centre(
    mosaic: Mosaic, layer: Any, zoom: int, levels: int
) -> None:
    tiles = WebTiles(mosaic)
    place = tile_at(zoom, *middle(tiles))
    assert fitting_level(WEST, place) == levels
    seen = tiles.tile(*place, prompt=1, time=0, layer=layer)
    assert np.array_equal(seen, brute_force(mosaic, place, layer, 1))
    assert {UNOBSERVED, UNMAPPED} < set(seen.ravel().tolist())


def test_tiles_side_by_side_are_one_map_without_a_seam(mosaic: Mosaic) -> None:
    tiles = WebTiles(mosaic)
    z, x, y = tile_at(12, *middle(tiles))
    quarters = [
        [tiles.tile(z + 1, 2 * x + right, 2 * y + below, prompt=0, time=0) for right in (0, 1)] for below in (0, 1)
    ]
    assert np.array_equal(np.block(quarters), tiles.tile(z, x, y, prompt=0, time=0, size_px=512))


def test_where_zones_overlap_an_observed_pixel_wins_over_a_gap(tmp_path: Path) -> None:
    mosaic = made(tmp_path / "map.zarr", (WEST, EAST))
    for tile in WEST.tiles():
        gap = np.full((2, *tile.core.shape), UNOBSERVED, np.uint8)
        mosaic.write(WEST, tile, 0, TileLayers(mask=gap, score=gap, source=None, prompts=(0, 1)))
    both = WebTiles(mosaic).tile(*tile_at(14, *middle(WebTiles(mosaic))), prompt=0, time=0)
    east = brute_force(mosaic, tile_at(14, *middle(WebTiles(mosaic))), "mask", 0)
    assert np.array_equal(both, east)
    assert {ABSENT, PRESENT, UNOBSERVED} <= set(both.ravel().tolist())


def test_of_two_answers_the_one_that_knows_more_is_shown() -> None:
    order = [PRESENT, PENDING, UNOBSERVED, UNMAPPED]
    for one, other in itertools.product(order, repeat=2):
        known = better(np.array([one], np.uint8), np.array([other], np.uint8))
        assert known.item() == order[min(order.index(one), order.index(other))]
    assert better(np.array([PRESENT], np.uint8), np.array([ABSENT], np.uint8)).item() == PRESENT


def test_only_the_shards_under_a_tile_are_read(tmp_path: Path) -> None:
    mosaic = made(tmp_path / "map.zarr", (WEST,))
    west, south, east, north = WebTiles(mosaic).bounds
    damaged = Path(mosaic.url) / "utm32n" / "0" / "mask" / "c" / "0" / "0" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    tiles = WebTiles(Mosaic.open(mosaic.url, writable=False))
    far = tile_at(16, east - (east - west) / 8, south + (north - south) / 8)
    assert (tiles.tile(*far, prompt=0, time=0) != UNMAPPED).any()
    with pytest.raises(VerifyError):
        tiles.tile(*tile_at(16, west + (east - west) / 8, north - (north - south) / 8), prompt=0, time=0)


def test_elsewhere_on_earth_nothing_is_mapped(mosaic: Mosaic) -> None:
    tiles = WebTiles(mosaic)
    for place in ((3, 0, 0), (8, 200, 100), (14, 16383, 16383)):
        assert (tiles.tile(*place, prompt=0, time=0) == UNMAPPED).all()


@pytest.mark.parametrize("place", [(-1, 0, 0), (27, 0, 0), (3, 8, 0), (3, 0, 8), (3, -1, 0), (0, 1, 0)], ids=str)
def test_there_is_no_tile_beyond_the_map(mosaic: Mosaic, place: tuple[int, int, int]) -> None:
    with pytest.raises(QuestionError, match="no such tile") as error:
        WebTiles(mosaic).tile(*place, prompt=0, time=0)
    assert error.value.where == {"tile": "/".join(map(str, place))}


# Levels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [10, 11, 12])
def test_where_a_level_is_not_built_the_finest_pixels_are_shown(bare: Mosaic, zoom: int) -> None:
    tiles = WebTiles(bare)
    place = tile_at(zoom, *middle(tiles))
    assert fitting_level(WEST, place) > 0
    assert np.array_equal(tiles.tile(*place, prompt=0, time=0), brute_force(bare, place, "mask", 0, level=0))


def test_a_shard_that_is_a_gap_all_over_is_unmapped_and_not_looked_for_below(tmp_path: Path) -> None:
    mosaic = made(tmp_path / "map.zarr", (WEST,))
    Path(mosaic.url, "utm32n/1/mask/c/0/0/1/1").unlink()
    place = tile_at(12, *middle(WebTiles(mosaic)))
    believed = WebTiles(mosaic).tile(*place, prompt=0, time=0)
    doubted = WebTiles(mosaic, growing=True).tile(*place, prompt=0, time=0)
    whole = made(tmp_path / "whole.zarr", (WEST,))
    changed = believed != WebTiles(whole).tile(*place, prompt=0, time=0)
    assert changed.any()
    assert (believed[changed] == UNMAPPED).all()
    assert (doubted[changed] != UNMAPPED).any()


def test_what_lies_too_deep_is_pending_and_never_unmapped(tmp_path: Path) -> None:
    box = PixelBox(WEST.box.top, WEST.box.left, WEST.box.top + 128, WEST.box.left + 128)
    grid = replace(WEST, box=box, shard_px=16, chunk_px=4, name="")
    mosaic = made(tmp_path / "map.zarr", (grid,), levels=False, fill=PRESENT)
    tiles = WebTiles(mosaic)
    seen = []
    for zoom in range(7, 12):
        place = tile_at(zoom, *middle(tiles))
        values = tiles.tile(*place, prompt=0, time=0)
        covered = brute_force(mosaic, place, "mask", 0, level=0) == PRESENT
        deep = fitting_level(grid, place) > DESCENT
        assert (values[covered] == (PENDING if deep else PRESENT)).all()
        assert (values[~covered] == UNMAPPED).all()
        seen.append(deep)
    assert set(seen) == {True, False}


# Places --------------------------------------------------------------------------------------------------------------

EVERYWHERE = {
    "utm": ("EPSG:32632", 10.0, (200_000.0, 5_000_000.0, 800_000.0, 6_000_000.0)),
    "equal-area": ("EPSG:3035", 100.0, (2.5e6, 1.5e6, 6e6, 5.4e6)),
    "pole": ("EPSG:3031", 500.0, (-3e6, -3e6, 3e6, 3e6)),
    "degrees": ("EPSG:4326", 0.01, (0.0, 40.0, 20.0, 60.0)),
    "past 180": ("EPSG:4326", 0.01, (170.0, -10.0, 200.0, 10.0)),
    "antimeridian": ("EPSG:32601", 100.0, (100_000.0, 1_900_000.0, 500_000.0, 2_200_000.0)),
    "mercator": ("EPSG:3857", 10.0, (0.0, 5e6, 2e6, 7e6)),
}


def grid_of(name: str) -> GridInDegrees:
    crs, resolution, bounds = EVERYWHERE[name]
    lattice = Lattice(crs=crs, res_x=resolution, res_y=resolution)
    return GridInDegrees(Grid.over(lattice, bounds, shard_px=1024, chunk_px=512))


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("span", [20.0, 1.0, 0.01])
def test_interpolation_finds_the_very_pixels_that_projecting_each_does(name: str, span: float) -> None:
    grid = grid_of(name)
    west, south, east, north = grid.bounds
    longitude = (west + east) / 2 + 0.2 * (east - west) + np.linspace(0, span, 256)
    latitude = max((south + north) / 2, -84.0) + np.linspace(min(span, 4.0), 0, 256)
    across, down = np.meshgrid(longitude, latitude)
    together = grid.crossings(longitude, latitude)
    for one, other in zip(together, grid.pixels(across.ravel(), down.ravel()), strict=True):
        assert np.array_equal(one, other)
    assert together[2].any()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_pixel_of_a_grid_is_within_its_bounds(name: str) -> None:
    grid = grid_of(name)
    lattice, box = grid.grid.lattice, grid.grid.box
    rows, columns = (np.linspace(*ends, 41) for ends in ((box.top, box.bottom), (box.left, box.right)))
    x, y = np.meshgrid(lattice.phase_x + columns * lattice.res_x, lattice.phase_y - rows * lattice.res_y)
    longitude, latitude = Transformer.from_crs(lattice.crs, "OGC:CRS84", always_xy=True).transform(x, y)
    for place in zip(longitude.ravel(), latitude.ravel(), strict=True):
        wrapped = (place[0] + 180) % 360 - 180
        assert list(grid.part_of(np.array([wrapped]), np.array([place[1]])))


def test_a_mosaic_across_the_180th_meridian_is_shown_on_both_sides_of_the_map(tmp_path: Path) -> None:
    lattice = Lattice(crs="EPSG:32601", res_x=1000.0, res_y=1000.0)
    grid = Grid(lattice=lattice, box=PixelBox(-2048, 128, -1984, 192), shard_px=64, chunk_px=32)
    tiles = WebTiles(made(tmp_path / "map.zarr", (grid,), fill=PRESENT))
    assert tiles.bounds[::2] == (-180.0, 180.0)
    ends = [tiles.tile(6, x, tile_at(6, 0.0, tiles.bounds[1] + 0.1)[2], prompt=0, time=0) for x in (0, 63)]
    assert (ends[0][:, 0] == PRESENT).any()
    assert (ends[1][:, -1] == PRESENT).any()
    assert tiles.spot(179.99, tiles.bounds[1] + 0.3, time=0).masks == (PRESENT, PRESENT)
    assert tiles.spot(-179.99, tiles.bounds[1] + 0.3, time=0).masks == (PRESENT, PRESENT)


def test_a_mosaic_around_the_pole_fills_the_foot_of_the_map(tmp_path: Path) -> None:
    lattice = Lattice(crs="EPSG:3031", res_x=50_000.0, res_y=50_000.0)
    grid = Grid(lattice=lattice, box=PixelBox(-64, -64, 64, 64), shard_px=64, chunk_px=32)
    tiles = WebTiles(made(tmp_path / "map.zarr", (grid,), fill=PRESENT))
    values = tiles.tile(0, 0, 0, prompt=0, time=0)
    assert (values[-1] == PRESENT).all()
    assert (values[: TILE_PX // 2] == UNMAPPED).all()
    assert tiles.bounds[1] == pytest.approx(-NORTHERNMOST)


def test_the_deepest_zoom_is_the_first_that_shows_every_pixel(mosaic: Mosaic) -> None:
    zoom = WebTiles(mosaic).max_zoom
    south = WebTiles(mosaic).bounds[1]
    _, _, metres = Geod(ellps="WGS84").inv(12.0, south, 12.0 + 360 / (TILE_PX * 2**zoom), south)
    assert metres <= WEST.lattice.res_x < 2 * metres


def test_a_spot_says_what_is_stored_there(mosaic: Mosaic) -> None:
    pixel = PixelBox(WEST.box.top + 100, WEST.box.left + 70, WEST.box.top + 101, WEST.box.left + 71)
    left, bottom, right, top = WEST.lattice.bounds(pixel)
    to_degrees = Transformer.from_crs("EPSG:32632", "OGC:CRS84", always_xy=True)
    spot = WebTiles(mosaic).spot(*to_degrees.transform((left + right) / 2, (bottom + top) / 2), time=0)
    assert spot.masks == tuple(mosaic.layer(WEST, "mask", pixel, time=0, prompt=p).item() for p in (0, 1))
    assert spot.scores == tuple(mosaic.layer(WEST, "score", pixel, time=0, prompt=p).item() for p in (0, 1))
    assert (spot.source, spot.crs) == (4, "EPSG:32632")


def test_a_spot_outside_is_unmapped_and_has_no_source(mosaic: Mosaic) -> None:
    spot = WebTiles(mosaic).spot(-70.0, -20.0, time=0)
    assert (spot.masks, spot.source, spot.crs) == ((UNMAPPED, UNMAPPED), None, "")
    with pytest.raises(QuestionError, match="no place on Earth"):
        WebTiles(mosaic).spot(0.0, 91.0, time=0)


# Pictures ------------------------------------------------------------------------------------------------------------


def rgba(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))


def test_each_value_of_a_mask_has_a_colour_of_its_own_and_the_legend_says_which() -> None:
    stripes = np.repeat([PRESENT, ABSENT, UNOBSERVED, PENDING, UNMAPPED], 16)
    colours = rgba(png(np.tile(stripes, (16, 1)).astype(np.uint8), prompt=1))
    told = {line.value: tuple(bytes.fromhex(line.colour[1:])) for line in legend(1)}
    seen = {value: {tuple(each) for each in colours[:, stripes == value].reshape(-1, 4).tolist()} for value in told}
    assert all(told[value] in seen[value] for value in told)
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(seen.values(), 2))
    assert told[PRESENT][:3] == colour_of(1)
    assert {colour[3] for colour in seen[UNMAPPED]} == {0}
    assert all(colour[3] > 0 for value in seen if value != UNMAPPED for colour in seen[value])
    assert [len(seen[value]) for value in (PRESENT, ABSENT, UNOBSERVED, PENDING)] == [1, 1, 2, 2]


def test_a_higher_score_is_never_drawn_fainter() -> None:
    scores = np.tile(np.arange(SCORE_ONE + 6, dtype=np.uint8), (8, 1))
    opacity = rgba(png(scores, prompt=0, layer="score"))[0, : SCORE_ONE + 1, 3].astype(int)
    assert (np.diff(opacity) >= 0).all()
    assert opacity[0] < opacity[-1]
    assert rgba(png(scores, prompt=0, layer="score"))[0, UNMAPPED, 3] == 0


def test_hatching_goes_on_from_tile_to_tile() -> None:
    one = rgba(png(np.full((TILE_PX, TILE_PX), UNOBSERVED, np.uint8), prompt=0))
    four = rgba(png(np.full((2 * TILE_PX, 2 * TILE_PX), UNOBSERVED, np.uint8), prompt=0))
    assert np.array_equal(np.tile(one, (2, 2, 1)), four)


def test_the_same_values_give_the_same_bytes_and_few_of_them(mosaic: Mosaic) -> None:
    values = WebTiles(mosaic).tile(*tile_at(12, *middle(WebTiles(mosaic))), prompt=0, time=0)
    assert png(values, prompt=0) == png(values.copy(), prompt=0)
    assert len(png(np.full((TILE_PX, TILE_PX), ABSENT, np.uint8), prompt=0)) < 300
