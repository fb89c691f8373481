"""Planned tiles on a web map: each is found where it lies, and none vanishes however far one is away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer

from jobs.planned_map import DEEPEST_PIXELS, NOWHERE, PlannedMap, Under
from jobs.tile_file import TilePlaces
from mapper.errors import QuestionError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.web.degrees import GridInDegrees
from mapper.web.webtiles import NORTHERNMOST, TILE_PX

CORNERS = {
    "EPSG:32645": (300_000.0, 3_100_000.0, 1.0),
    "EPSG:32601": (245_000.0, 6_700_000.0, 10.0),  # across 180°, from 60° north
    "EPSG:32760": (740_000.0, 8_000_000.0, 10.0),  # the same from the other side, south of the equator
    "EPSG:3035": (4_300_000.0, 3_200_000.0, 30.0),
    "EPSG:3857": (-20_037_508.0, 8_000_000.0, 100.0),
    "EPSG:3031": (-40_000.0, 2_500_000.0, 100.0),  # around the south pole, and above 70° south
    "OGC:CRS84": (179.9, 51.0, 0.001),  # degrees, beyond the antimeridian
}
"""CRS → left, top and resolution of grids that are hard to lay on a map."""


def grid_at(crs: str, *, rows: int, columns: int, shard_px: int = 64, name: str = "") -> Grid:
    left, top, resolution = CORNERS[crs]
    first = PixelBox(round(-top / resolution), round(left / resolution), 0, 0)
    top_px, left_px = (first.top // shard_px) * shard_px, (first.left // shard_px) * shard_px
    return Grid(
        lattice=Lattice(crs=crs, res_x=resolution, res_y=resolution),
        box=PixelBox(top_px, left_px, top_px + rows * shard_px, left_px + columns * shard_px),
        shard_px=shard_px,
        chunk_px=shard_px,
        name=name,
    )


def places_of(tiles: Sequence[tuple[int, int, int]], *, step: int = 0) -> TilePlaces:
    """Grid, row and column of each tile."""
    grid, row, column = (np.array(values) for values in zip(*tiles, strict=True))
    return TilePlaces(
        grid=grid.astype(np.int16),
        step=np.full(len(tiles), step, np.int32),
        row=row.astype(np.int32),
        column=column.astype(np.int32),
    )


def middle_of(grid: Grid, row: int, column: int) -> tuple[float, float]:
    """Longitude and latitude of the middle of a tile."""
    left, bottom, right, top = grid.lattice.bounds(grid.tile(row, column).core)
    lon, lat = to_degrees(grid.lattice.crs).transform((left + right) / 2, (bottom + top) / 2)
    return (lon + 180) % 360 - 180, lat


@cache
def to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def pixel_at(z: int, lon: float, lat: float) -> tuple[int, int]:
    """Column and row of the pixel of a zoom that holds a place."""
    share = lon / 360 + 0.5, 0.5 - math.asinh(math.tan(math.radians(lat))) / (2 * math.pi)
    return int(share[0] * TILE_PX * 2**z), int(share[1] * TILE_PX * 2**z)


def planned(grids: Sequence[Grid], places: TilePlaces, *, step: int = 0) -> PlannedMap:
    return PlannedMap([GridInDegrees(grid) for grid in grids], places, step)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Grid, list[tuple[int, int, int]]]:
    """A grid anywhere, and some of its tiles."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    grid = grid_at(draw(st.sampled_from(sorted(CORNERS))), rows=rows, columns=columns)
    cells = st.tuples(st.just(0), st.integers(0, rows - 1), st.integers(0, columns - 1))
    return grid, draw(st.lists(cells, min_size=1, max_size=12, unique=True))


@given(plans())
def test_every_planned_tile_is_seen_near_and_a_click_on_its_middle_finds_it(
    plan: tuple[Grid, list[tuple[int, int, int]]],
) -> None:
    grid, tiles = plan
    there = planned([grid], places_of(tiles))
    for number, (_, row, column) in enumerate(tiles):
        lon, lat = middle_of(grid, row, column)
        assert there.at(lon, lat) == number
        if abs(lat) > NORTHERNMOST:
            continue  # beyond the edge of the map
        zoom = next(z for z in range(27) if seen_from(there, z, lon, lat).side_px >= 4)
        x, y = pixel_at(zoom, lon, lat)
        under = there.under(zoom, x // TILE_PX, y // TILE_PX)
        assert under.tile[1 + y % TILE_PX, 1 + x % TILE_PX] == number


def seen_from(there: PlannedMap, z: int, lon: float, lat: float) -> Under:
    x, y = pixel_at(z, lon, lat)
    return there.under(z, x // TILE_PX, y // TILE_PX)


@given(plans(), st.integers(0, 2**32 - 1))
def test_of_tiles_that_fall_in_one_pixel_the_largest_code_is_kept_and_no_tile_is_lost(
    plan: tuple[Grid, list[tuple[int, int, int]]], seed: int
) -> None:
    grid, tiles = plan
    there = planned([grid], places_of(tiles))
    code_of = np.random.default_rng(seed).integers(1, 6, len(tiles)).astype(np.uint8)
    for z in (0, 3, 7, 11):
        expected: dict[tuple[int, int], int] = {}
        for number, (_, row, column) in enumerate(tiles):
            lon, lat = middle_of(grid, row, column)
            if abs(lat) <= NORTHERNMOST:
                x, y = pixel_at(z, lon, lat)
                expected[y, x] = max(expected.get((y, x), 0), int(code_of[number]))
        worst = there.worst(code_of[there.tile], z)
        drawn: dict[tuple[int, int], int] = {}
        for x, y in {(x // TILE_PX, y // TILE_PX) for y, x in expected}:
            which, down, across = there.fallen(z, x, y)
            at = zip((down + y * TILE_PX).tolist(), (across + x * TILE_PX).tolist(), strict=True)
            drawn |= dict(zip(at, worst[which].tolist(), strict=True))
        assert drawn == expected


def test_a_zone_is_drawn_over_its_own_strip_and_its_neighbour_beyond_it() -> None:
    west, east = two_zones()
    there = planned([west, east], places_of([(0, 0, 0), (1, 0, 0)]))
    assert there.at(11.99, 55.4) == 0
    assert there.at(12.01, 55.4) == 1
    x, y = pixel_at(14, 12.0, 55.4)
    row = there.under(14, x // TILE_PX, y // TILE_PX).tile[1 + y % TILE_PX, 1:-1]
    border = x % TILE_PX
    assert (row[border - 20 : border] == 0).all()
    assert (row[border + 1 : border + 20] == 1).all()


def test_where_a_zone_has_no_tile_its_neighbours_is_found() -> None:
    west, east = two_zones()
    there = planned([west, east], places_of([(0, 0, 0)]))
    assert there.at(12.01, 55.4) == 0


def two_zones() -> tuple[Grid, Grid]:
    """Two grids of one large tile each, which both reach far over 12° east at 55.4° north."""
    grids = []
    for zone in ("32", "33"):
        x, y = Transformer.from_crs("OGC:CRS84", f"EPSG:326{zone}", always_xy=True).transform(12.0, 55.4)
        shard = 4096
        top, left = math.floor(-y / 10 / shard) * shard, math.floor(x / 10 / shard) * shard
        box = PixelBox(top, left, top + shard, left + shard)
        lattice = Lattice(crs=f"EPSG:326{zone}", res_x=10, res_y=10)
        grids.append(Grid(lattice=lattice, box=box, shard_px=shard, chunk_px=shard, name=f"utm{zone}n"))
    return grids[0], grids[1]


def test_two_tiles_at_the_far_corners_of_a_continent_are_found_without_an_array_of_all_between() -> None:
    grid = grid_at("EPSG:3035", rows=60_000, columns=60_000, shard_px=2)
    corners = [(0, 0, 0), (0, 59_999, 59_999), (0, 0, 59_999)]
    there = planned([grid], places_of(corners))
    assert [there.at(*middle_of(grid, row, column)) for _, row, column in corners] == [0, 1, 2]
    assert there.at(*middle_of(grid, 30_000, 30_000)) is None


def test_tiles_of_another_step_are_not_there() -> None:
    grid = grid_at("EPSG:32645", rows=1, columns=1)
    there = planned([grid], places_of([(0, 0, 0)], step=3))
    assert there.at(*middle_of(grid, 0, 0)) is None
    assert not len(there.tile)
    assert not len(there.worst(np.empty(0, np.uint8), 4))
    assert planned([grid], places_of([(0, 0, 0)], step=3), step=3).at(*middle_of(grid, 0, 0)) == 0


@pytest.mark.parametrize("place", [(math.nan, 0.0), (math.inf, 0.0), (0.0, 91.0), (0.0, math.nan)])
def test_what_is_no_place_has_no_tile(place: tuple[float, float]) -> None:
    grid = grid_at("EPSG:3857", rows=1, columns=1)
    assert planned([grid], places_of([(0, 0, 0)])).at(*place) is None


@pytest.mark.parametrize("place", [(-1, 0, 0), (0, 1, 0), (27, 0, 0), (3, 0, 8)])
def test_a_picture_that_is_not_on_the_map_is_refused(place: tuple[int, int, int]) -> None:
    grid = grid_at("EPSG:3857", rows=1, columns=1)
    with pytest.raises(QuestionError, match="no such tile"):
        planned([grid], places_of([(0, 0, 0)])).under(*place)


def test_a_picture_of_a_million_tiles_takes_no_more_than_its_pixels() -> None:
    grid = grid_at("EPSG:3035", rows=1000, columns=1000)
    row, column = np.divmod(np.arange(1_000_000, dtype=np.int32), 1000)
    nothing: NDArray[np.int32] = np.zeros(1_000_000, np.int32)
    there = planned([grid], TilePlaces(grid=nothing.astype(np.int16), step=nothing, row=row, column=column))
    taken = []
    for z in (0, 4, 6, 8):
        x, y = (at // TILE_PX for at in pixel_at(z, *middle_of(grid, 500, 500)))
        which, _, _ = there.fallen(z, x, y)
        taken.append(which.stop - which.start)
    assert taken[0] < 1000  # a few pixels of the whole Earth
    assert max(taken) <= TILE_PX * TILE_PX
    assert len(np.unique(there.tile)) == 1_000_000


def test_the_quadtree_is_as_deep_as_the_zooms_at_which_it_is_asked() -> None:
    grid = grid_at("EPSG:32645", rows=2, columns=2)
    there = planned([grid], places_of([(0, 1, 1)]))
    lon, lat = middle_of(grid, 1, 1)
    x, y = pixel_at(DEEPEST_PIXELS, lon, lat)
    which, row, column = there.fallen(DEEPEST_PIXELS, x // TILE_PX, y // TILE_PX)
    assert (which.stop - which.start, row.tolist(), column.tolist()) == (1, [y % TILE_PX], [x % TILE_PX])
    assert there.under(0, 0, 0).tile.max() == NOWHERE
