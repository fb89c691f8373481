"""A slice of a mosaic as a GeoTIFF: the same pixels on every level, told apart, placed, and never half written."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rio_tiler.io import Reader

from mapper.errors import MosaicError, QuestionError, VerifyError
from mapper.exports.cog import TILE_PX, framed, write_cog
from mapper.exports.cog_header import Layer, colour_table
from mapper.exports.portrait import write_portrait
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec, Reduction
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard
from tests.strategies import grids, parts_of

SENTENCE = 'the "red" roofs < 5 m & higher: é ☃'
PROMPTS = (Prompt(name="roof", expression=SENTENCE), Prompt(name="lake", expression="the lakes", threshold=0.25))
TIMES = (datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC))

GRID = Grid(
    lattice=Lattice(crs="EPSG:32632", res_x=0.5, res_y=0.5, phase_x=0.125),
    box=PixelBox(-3 * 384, 5 * 384, 2 * 384, 9 * 384),
    shard_px=384,
    chunk_px=128,
)
"""Five by four shards: two overviews, and neither its corner nor its size is a multiple of theirs."""


def pixels(prompt: int, time: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mask and score of the whole grid, in all four values; the last row of shards was never mapped."""
    dice = np.random.default_rng([prompt, time])
    fields = np.kron(dice.integers(0, 251, (64, 52)), np.ones((30, 30), int))[: GRID.shape[0], : GRID.shape[1]]
    score = np.clip(fields + dice.integers(-40, 41, GRID.shape), 0, 250).astype(np.uint8)
    mask = (score > 125).astype(np.uint8)
    for gap, left in ((UNOBSERVED, 300), (UNMAPPED, 900)):
        mask[200:500, left : left + 333] = score[200:500, left : left + 333] = gap
    mask[-384:] = score[-384:] = UNMAPPED
    return mask, score


def made(folder: Path, *, built: bool, reduction: Reduction = "mode", grids: tuple[Grid, ...] = (GRID,)) -> str:
    """A mosaic of these pixels, with its coarser levels or without."""
    spec = MosaicSpec(grids=grids, prompts=PROMPTS, times=TIMES, made_by={"model": "dice"}, pyramid=reduction)
    mosaic = Mosaic.create(str(folder), spec)
    for time in range(len(TIMES)):
        layers = [pixels(prompt, time) for prompt in range(len(PROMPTS))]
        for tile in GRID.tiles():
            there = tile.core.within(GRID.box)
            if (layers[0][0][there] == UNMAPPED).all():
                continue
            mosaic.write(
                GRID,
                tile,
                time,
                TileLayers(
                    mask=np.stack([mask[there] for mask, _ in layers]),
                    score=np.stack([score[there] for _, score in layers]),
                    source=np.full(tile.core.shape, NO_SOURCE, np.uint32),
                    prompts=(0, 1),
                ),
            )
        for level in GRID.pyramid()[1:] if built else ():
            for number, tile in enumerate(level.tiles()):
                build_shard(mosaic, LevelTask(id=number, grid=level, tile=tile, time=time, prompts=(0, 1)))
    return str(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With all its levels."""
    return made(tmp_path_factory.mktemp("whole") / "map.zarr", built=True)


@pytest.fixture(scope="module")
def generous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, its levels present wherever one pixel is."""
    return made(tmp_path_factory.mktemp("generous") / "map.zarr", built=True, reduction="any")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Without a single coarser shard."""
    return made(tmp_path_factory.mktemp("bare") / "map.zarr", built=False)


def levels_of(path: Path) -> list[NDArray[np.uint8]]:
    """The pixels of a file and of each of its overviews."""
    with rasterio.open(path) as file:
        found, count = [file.read(1)], len(file.overviews(1))
    for number in range(count):
        with rasterio.open(path, OVERVIEW_LEVEL=number) as file:
            found.append(file.read(1))
    return found


@given(data=st.data(), grid=grids())
def test_a_frame_holds_what_was_asked_for_in_whole_pixels_of_its_coarsest_overview(
    data: st.DataObject, grid: Grid
) -> None:
    wanted = data.draw(parts_of(grid.box))
    frame, depth = framed(grid, wanted)
    coarsest = 1 << depth
    assert frame.contains(wanted)
    assert frame == frame.snapped(coarsest)
    assert max(frame.shape) <= TILE_PX * coarsest
    assert max(wanted.height, wanted.width) > TILE_PX * coarsest // 4 or depth == 0
    assert wanted.top - frame.top < coarsest
    assert frame.right - wanted.right < coarsest


def test_nothing_asked_for_is_the_whole_grid() -> None:
    assert framed(GRID)[0].contains(GRID.box)
    assert framed(GRID, PixelBox(0, 0, 0, 0))[0] == framed(GRID)[0]


@pytest.mark.parametrize("layer", ["mask", "score"])
@pytest.mark.parametrize("reduction", ["mode", "any"])
@pytest.mark.parametrize("levels_built", [True, False])
def test_every_overview_is_a_level_of_the_mosaic_pixel_for_pixel(
    tmp_path: Path, whole: str, generous: str, layer: Layer, reduction: Reduction, levels_built: bool
) -> None:
    url = whole if reduction == "mode" else generous
    out = write_cog(url, tmp_path / "x.tif", prompt="lake", time="2024-06", layer=layer, levels_built=levels_built)
    mosaic = Mosaic.open(url, writable=False)
    frame, depth = framed(GRID)
    found = levels_of(out)
    assert len(found) == depth + 1 == 3
    for level, pixels in zip(GRID.pyramid(), found, strict=False):
        np.testing.assert_array_equal(pixels, mosaic.layer(level, layer, frame, time=0, prompt=1))
        frame = frame.halved()


@pytest.mark.parametrize("layer", ["mask", "score"])
def test_coarser_shards_that_are_missing_are_made(tmp_path: Path, whole: str, bare: str, layer: Layer) -> None:
    some = made(tmp_path / "map.zarr", built=False)
    mosaic, level = Mosaic.open(some), GRID.pyramid()[1]
    for number, tile in enumerate(level.tiles()):
        if (tile.row + tile.column) % 2:
            build_shard(mosaic, LevelTask(id=number, grid=level, tile=tile, time=1, prompts=(0, 1)))
    wanted, *others = [
        levels_of(write_cog(url, tmp_path / f"{number}.tif", prompt="roof", layer=layer, levels_built=True))
        for number, url in enumerate([whole, bare, some])
    ]
    for other in others:
        for built, reduced in zip(wanted, other, strict=True):
            np.testing.assert_array_equal(built, reduced)


def test_a_level_that_is_out_of_date_is_not_taken_while_a_run_goes_on(tmp_path: Path, whole: str) -> None:
    url = made(tmp_path / "map.zarr", built=True)
    mosaic, level = Mosaic.open(url), GRID.pyramid()[1]
    gap = np.full((2, *level.tile(0, 0).core.shape), UNOBSERVED, np.uint8)
    nowhere = np.full(gap.shape[1:], NO_SOURCE, np.uint32)
    mosaic.write(level, level.tile(0, 0), 1, TileLayers(mask=gap, score=gap, source=nowhere, prompts=(0, 1)))
    wanted = levels_of(write_cog(whole, tmp_path / "whole.tif", prompt="roof"))
    for built, reduced in zip(wanted, levels_of(write_cog(url, tmp_path / "x.tif", prompt="roof")), strict=True):
        np.testing.assert_array_equal(built, reduced)


def test_a_part_of_a_mosaic_lies_where_it_lay(tmp_path: Path, whole: str) -> None:
    wanted = PixelBox(-901, 2000, 100, 3111)
    out = write_cog(whole, tmp_path / "x.tif", prompt="roof", within=wanted)
    frame, _ = framed(GRID, wanted)
    mosaic = Mosaic.open(whole, writable=False)
    with rasterio.open(out) as file:
        assert file.crs == CRS.from_epsg(32632)
        assert file.transform == GRID.lattice.transform(frame)
        np.testing.assert_array_equal(file.read(1), mosaic.layer(GRID, "mask", frame, time=1, prompt=0))


def test_the_four_values_stay_apart_by_value_name_and_colour(tmp_path: Path, whole: str) -> None:
    out = write_cog(whole, tmp_path / "x.tif", prompt="roof")
    with rasterio.open(out) as file:
        assert set(np.unique(file.read(1))) == {ABSENT, PRESENT, UNOBSERVED, UNMAPPED}
        assert file.nodata == UNMAPPED
        assert file.read_masks(1)[file.read(1) == UNOBSERVED].all()
        assert file.tags(1)["flag_meanings"] == "absent present unobserved unmapped"
        assert file.tags(1)["flag_values"] == "0 1 254 255"
        shown = {value: file.colormap(1)[value][:3] for value in (ABSENT, PRESENT, UNOBSERVED)}
    assert len(set(shown.values())) == 3
    assert shown[PRESENT] == colour_table(0)[PRESENT]
    names = (tmp_path / "x.tif.aux.xml").read_text().split("<Category>")[1:]
    assert [names[value].partition("<")[0] for value in (ABSENT, PRESENT, UNOBSERVED)] == [
        "absent",
        "present",
        "unobserved",
    ]


def test_qgis_is_told_three_names_and_lets_the_ground_through_where_nothing_is(tmp_path: Path, whole: str) -> None:
    write_cog(whole, tmp_path / "x.tif", prompt="roof")
    entries = ElementTree.fromstring((tmp_path / "x.qml").read_bytes()).iter("paletteEntry")
    shown = {entry.get("label"): (entry.get("value"), entry.get("alpha")) for entry in entries}
    assert shown == {"present": ("1", "255"), "absent": ("0", "0"), "unobserved": ("254", "160")}
    write_cog(whole, tmp_path / "y.tif", prompt="roof", layer="score")
    assert not (tmp_path / "y.qml").exists()


def test_a_file_says_what_it_shows_whatever_is_in_the_sentence(tmp_path: Path, whole: str) -> None:
    out = write_cog(whole, tmp_path / "x.tif", prompt="roof", time="2024-06", tags={"RESMAP_RUN": "run-1"})
    with rasterio.open(out) as file:
        tags = file.tags()
    assert tags["RESMAP_EXPRESSION"] == SENTENCE
    assert tags["RESMAP_PROMPT"] == "roof"
    assert tags["RESMAP_TIME"] == "2024-06-01T00:00:00Z"
    assert tags["RESMAP_MODEL"] == "dice"
    assert tags["RESMAP_MOSAIC"] == whole
    assert tags["RESMAP_RUN"] == "run-1"


def test_the_layout_is_that_of_a_cloud_optimised_geotiff(tmp_path: Path, whole: str) -> None:
    out = write_cog(whole, tmp_path / "x.tif", prompt="roof", layer="score")
    with rasterio.open(out) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(TILE_PX, TILE_PX)]
        assert file.overviews(1) == [2, 4]
        assert file.colorinterp[0].name == "gray"
    with Reader(str(out)) as reader:
        west, south, east, north = reader.get_geographic_bounds(CRS.from_epsg(4326))
        picture = reader.point((west + east) / 2, (south + north) / 2)
    assert 0 <= picture.data[0] <= 250


def test_what_was_never_mapped_takes_no_room(tmp_path: Path) -> None:
    spec = MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={})
    Mosaic.create(str(tmp_path / "map.zarr"), spec)
    out = write_cog(str(tmp_path / "map.zarr"), tmp_path / "x.tif", prompt="roof")
    assert (levels_of(out)[0] == UNMAPPED).all()
    assert out.stat().st_size < 10_000  # its tags and the index of its tiles


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "2 prompts"),
        ({"prompt": "lakes"}, "no prompt 'lakes'"),
        ({"prompt": "lake", "time": "2025"}, "2025"),
        ({"prompt": "lake", "time": "2024"}, "2 time steps"),
        ({"prompt": "lake", "zone": "utm32n"}, "no zone 'utm32n'"),
    ],
)
def test_what_is_not_in_the_mosaic_or_not_clear_is_said(
    tmp_path: Path, whole: str, asked: dict[str, str], says: str
) -> None:
    with pytest.raises(QuestionError, match=says) as told:
        write_cog(whole, tmp_path / "x.tif", **asked)  # type: ignore[arg-type]  # a table of arguments
    assert told.value.fix
    assert list(tmp_path.iterdir()) == []


def test_of_several_zones_one_must_be_named(tmp_path: Path) -> None:
    zones = tuple(
        Grid(lattice=Lattice(crs=f"EPSG:{code}", res_x=1, res_y=1), box=GRID.box, shard_px=384, chunk_px=128, name=name)
        for code, name in ((32632, "utm32n"), (32633, "utm33n"))
    )
    spec = MosaicSpec(grids=zones, prompts=PROMPTS, times=TIMES, made_by={})
    Mosaic.create(str(tmp_path / "map.zarr"), spec)
    with pytest.raises(QuestionError, match="2 zones"):
        write_cog(str(tmp_path / "map.zarr"), tmp_path / "x.tif", prompt="roof")
    out = write_cog(str(tmp_path / "map.zarr"), tmp_path / "x.tif", prompt="roof", zone="utm33n")
    with rasterio.open(out) as file:
        assert file.crs == CRS.from_epsg(32633)


def test_a_file_that_is_there_stays_unless_it_may_go(tmp_path: Path, whole: str) -> None:
    out = tmp_path / "x.tif"
    out.write_text("precious")
    with pytest.raises(MosaicError, match="there is a file already"):
        write_cog(whole, out, prompt="roof")
    assert out.read_text() == "precious"
    write_cog(whole, out, prompt="roof", force=True)
    with rasterio.open(out) as file:
        assert file.shape == framed(GRID)[0].shape


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    url = made(tmp_path / "map.zarr", built=False)
    shard = next(path for path in sorted((tmp_path / "map.zarr" / "0" / "mask" / "c" / "0" / "1").rglob("*/*")))
    shard.write_bytes(shard.read_bytes()[:100])
    (tmp_path / "out").mkdir()
    with pytest.raises(VerifyError):
        write_cog(url, tmp_path / "out" / "x.tif", prompt="roof")
    assert list((tmp_path / "out").iterdir()) == []


@cache
def drawn(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as page:
        return np.asarray(page.convert("RGB"))


def test_a_picture_is_the_same_with_levels_without_and_with_some(tmp_path: Path, whole: str, bare: str) -> None:
    half = made(tmp_path / "half.zarr", built=False)
    level = GRID.pyramid()[2]
    build_shard(Mosaic.open(half), LevelTask(id=1, grid=level, tile=level.tile(0, 0), time=1, prompts=(0, 1)))
    pages = [
        drawn(write_portrait(url, tmp_path / f"{number}.png", prompts=["lake"], largest_px=500, levels_built=built))
        for number, (url, built) in enumerate(
            [(whole, True), (whole, False), (bare, False), (bare, True), (half, False)]
        )
    ]
    for page in pages[1:]:
        np.testing.assert_array_equal(page, pages[0])
    assert (pages[0] == colour_table(1)[PRESENT]).all(axis=2).any()
    assert not (pages[0] == colour_table(0)[PRESENT]).all(axis=2).any()


def test_a_picture_of_a_part_shows_it_larger(tmp_path: Path, whole: str) -> None:
    part = GRID.lattice.bounds(PixelBox(-900, 2100, -800, 2200))
    page = drawn(write_portrait(whole, tmp_path / "a.png", bounds=[part], time="2024-06"))
    assert page.shape[1] == 700 + 2 * 28  # seven picture pixels a mosaic pixel, and the margins
