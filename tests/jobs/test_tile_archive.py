"""A PMTiles file of a mosaic, read back by the reader that others use."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pmtiles import reader
from pmtiles.tile import Compression, HeaderDict, TileType, zxy_to_tileid

from jobs.tile_archive import places_with_anything, write_pmtiles
from mapper.errors import MosaicError, QuestionError, VerifyError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.masks import PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard
from mapper.web.tile_picture import png
from mapper.web.webtiles import WebTiles

PROMPTS = (
    Prompt(name="building", expression="the buildings", threshold=0.5),
    Prompt(name="lake", expression="all the lakes", threshold=0.4),
)
TIMES = (datetime(2023, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))
GRID = Grid(
    lattice=Lattice(crs="EPSG:32633", res_x=20.0, res_y=20.0),
    box=PixelBox(-307_264, 15_360, -306_752, 16_384),
    shard_px=64,
    chunk_px=32,
)
"""Twenty by ten kilometres, two corners of which are mapped."""


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    spec = MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={"model": "pocket"})
    mosaic = Mosaic.create(str(tmp_path_factory.mktemp("archive") / "map.zarr"), spec)
    draw = np.random.default_rng(7)
    for row, column in ((0, 0), (0, 1), (1, 1), (7, 15)):
        tile = GRID.tile(row, column)
        score = np.kron(draw.integers(0, SCORE_ONE + 1, (2, 8, 8)), np.ones((8, 8))).astype(np.uint8)
        score[:, 20:24] = UNOBSERVED
        mask = np.where(score > SCORE_ONE, score, score >= 125).astype(np.uint8)
        layers = TileLayers(mask=mask, score=score, source=None, prompts=(0, 1))
        mosaic.write(GRID, tile, 1, layers)
    for level in GRID.pyramid()[1:]:
        for tile in level.tiles():
            build_shard(mosaic, LevelTask(id=0, grid=level, tile=tile, time=1, prompts=(0, 1)))
    return mosaic


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a reader finds in a PMTiles file."""

    header: HeaderDict
    metadata: dict[str, Any]
    tiles: dict[tuple[int, int, int], bytes]


def contents(archive: bytes) -> Contents:
    get: Any = reader  # it states no types
    source = get.MemorySource(archive)
    read = get.Reader(source)
    return Contents(header=read.header(), metadata=read.metadata(), tiles=dict(get.all_tiles(source)))


@pytest.fixture(scope="module")
def archive(mosaic: Mosaic) -> bytes:
    out = Path(mosaic.url).with_name("lake.pmtiles")
    write_pmtiles(mosaic.url, out, prompt="lake")
    return out.read_bytes()


def everywhere(tiles: WebTiles, zoom: int) -> list[tuple[int, int, int]]:
    """Every tile over the mosaic's bounds and one more around."""
    west, south, east, north = tiles.bounds
    left, right = (int((longitude / 360 + 0.5) * 2**zoom) for longitude in (west, east))
    top, bottom = (
        int((0.5 - math.asinh(math.tan(math.radians(latitude))) / (2 * math.pi)) * 2**zoom)
        for latitude in (north, south)
    )
    inside = range(2**zoom)
    return [
        (zoom, x, y)
        for x in range(left - 1, right + 2)
        for y in range(top - 1, bottom + 2)
        if x in inside and y in inside
    ]


def test_the_file_holds_each_tile_with_anything_in_it_and_no_other(mosaic: Mosaic, archive: bytes) -> None:
    tiles = WebTiles(mosaic)
    held = contents(archive).tiles
    expected = {}
    for zoom in range(tiles.max_zoom + 1):
        for place in everywhere(tiles, zoom):
            values = tiles.tile(*place, prompt=1, time=1)
            if (values != UNMAPPED).any():
                expected[place] = png(values, prompt=1)
    assert held == expected
    assert {place[0] for place in held} == set(range(min(place[0] for place in held), tiles.max_zoom + 1))


def test_the_header_says_where_and_how_deep_it_is(mosaic: Mosaic, archive: bytes) -> None:
    header = contents(archive).header
    west, south, east, north = WebTiles(mosaic).bounds
    assert (header["tile_type"], header["tile_compression"]) == (TileType.PNG, Compression.NONE)
    assert header["clustered"] is True
    assert header["max_zoom"] == WebTiles(mosaic).max_zoom
    assert [header["min_lon_e7"], header["min_lat_e7"], header["max_lon_e7"], header["max_lat_e7"]] == [
        round(edge * 1e7) for edge in (west, south, east, north)
    ]
    assert header["min_lon_e7"] < header["center_lon_e7"] < header["max_lon_e7"]
    assert header["min_lat_e7"] < header["center_lat_e7"] < header["max_lat_e7"]
    assert header["min_zoom"] <= header["center_zoom"] <= header["max_zoom"]


def test_the_metadata_says_what_was_asked_and_what_each_colour_means(archive: bytes) -> None:
    told = contents(archive).metadata
    assert told["prompt"] == {"name": "lake", "expression": "all the lakes", "threshold": 0.4}
    assert told["time"] == "2024-05-01T00:00:00Z"
    assert told["made_by"] == {"model": "pocket"}
    assert [line["name"] for line in told["legend"]] == ["present", "absent", "unobserved", "unmapped"]


def test_the_same_mosaic_gives_the_same_bytes(mosaic: Mosaic, archive: bytes, tmp_path: Path) -> None:
    written = write_pmtiles(mosaic.url, tmp_path / "again.pmtiles", prompt="lake", time="2024")
    assert (tmp_path / "again.pmtiles").read_bytes() == archive
    assert written.size_bytes == len(archive)
    assert written.tiles == contents(archive).header["addressed_tiles_count"]


def test_equal_tiles_are_kept_once(tmp_path: Path) -> None:
    grid = Grid(lattice=GRID.lattice, box=PixelBox(-308_224, 15_360, -307_200, 16_384), shard_px=1024, chunk_px=1024)
    spec = MosaicSpec(grids=(grid,), prompts=PROMPTS[:1], times=TIMES[:1], made_by={})
    mosaic = Mosaic.create(str(tmp_path / "map.zarr"), spec)
    lake = np.full((1, *grid.shape), PRESENT, np.uint8)
    mosaic.write(grid, grid.tile(0, 0), 0, TileLayers(mask=lake, score=lake, source=None, prompts=(0,)))
    write_pmtiles(mosaic.url, tmp_path / "out.pmtiles")
    header = contents((tmp_path / "out.pmtiles").read_bytes()).header
    assert header["tile_contents_count"] < header["addressed_tiles_count"] / 1.5


def test_a_shallower_file_ends_at_the_zoom_asked_for(mosaic: Mosaic, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    written = write_pmtiles(
        mosaic.url,
        tmp_path / "out.pmtiles",
        prompt="lake",
        max_zoom=9,
        progress=lambda zoom, tiles: told.append((zoom, tiles)),
    )
    assert written.max_zoom == 9
    assert told[-1] == (9, written.tiles)


def test_the_walk_follows_the_archives_curve_and_skips_the_sea() -> None:
    islands = np.array([[12.0, 55.0, 12.1, 55.1], [-70.0, -20.0, -69.9, -19.9]])
    places = list(places_with_anything(islands, 12))
    ids = [zxy_to_tileid(*place) for place in places]
    assert ids == sorted(set(ids))
    assert len([place for place in places if place[0] == 12]) <= 2 * 4 * 4
    for west, south, east, north in islands:
        middle = (
            (west + east) / 720 + 0.5,
            0.5 - math.asinh(math.tan(math.radians((south + north) / 2))) / 2 / math.pi,
        )
        for zoom in range(13):
            assert (zoom, int(middle[0] * 2**zoom), int(middle[1] * 2**zoom)) in places


def test_an_island_on_the_180th_meridian_is_walked_on_both_sides() -> None:
    places = set(places_with_anything(np.array([[179.0, -1.0, 181.0, 1.0]]), 5))
    assert {(5, 0, 15), (5, 31, 15), (5, 0, 16), (5, 31, 16)} <= places


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "2 prompts"),
        ({"prompt": "lakes"}, "no prompt 'lakes'"),
        ({"prompt": "lake", "time": "2022"}, "no time step"),
        ({"prompt": "lake", "max_zoom": 25}, "no zoom 25"),
    ],
)
def test_a_question_that_cannot_be_asked_leaves_no_file(
    mosaic: Mosaic, tmp_path: Path, asked: dict[str, object], says: str
) -> None:
    with pytest.raises(QuestionError, match=says):
        write_pmtiles(mosaic.url, tmp_path / "out.pmtiles", **asked)  # type: ignore[arg-type]  # whatever is asked
    assert not list(tmp_path.iterdir())


def test_a_step_with_nothing_in_it_is_said_so_and_leaves_no_file(mosaic: Mosaic, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match="nothing of this prompt and time step"):
        write_pmtiles(mosaic.url, tmp_path / "out.pmtiles", prompt="lake", time="2023")
    assert not list(tmp_path.iterdir())


def test_without_coarser_levels_there_is_no_overview_to_export(tmp_path: Path) -> None:
    grid = Grid(lattice=GRID.lattice, box=GRID.box, shard_px=64, chunk_px=4)
    spec = MosaicSpec(grids=(grid,), prompts=PROMPTS[:1], times=TIMES[:1], made_by={})
    mosaic = Mosaic.create(str(tmp_path / "map.zarr"), spec)
    here = np.full((1, 64, 64), PRESENT, np.uint8)
    mosaic.write(grid, grid.tile(3, 8), 0, TileLayers(mask=here, score=here, source=None, prompts=(0,)))
    with pytest.raises(MosaicError, match="coarser levels of this mosaic are not built"):
        write_pmtiles(mosaic.url, tmp_path / "out.pmtiles")
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


def test_a_damaged_shard_leaves_the_file_that_was_there(mosaic: Mosaic, tmp_path: Path) -> None:
    shutil.copytree(mosaic.url, tmp_path / "map.zarr")
    damaged = tmp_path / "map.zarr" / "0" / "mask" / "c" / "1" / "1" / "7" / "15"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    out = tmp_path / "out.pmtiles"
    out.write_bytes(b"yesterday's")
    with pytest.raises(VerifyError):
        write_pmtiles(str(tmp_path / "map.zarr"), out, prompt="lake")
    assert out.read_bytes() == b"yesterday's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.zarr", "out.pmtiles"]


def test_a_folder_is_not_written_over(mosaic: Mosaic, tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="this is a folder"):
        write_pmtiles(mosaic.url, tmp_path, prompt="lake")
