"""The live map: every planned tile in its colour, the worst first, and nothing where nothing is planned."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jobs.dashboard import map_tiles
from jobs.dashboard.map_colours import STATE_COLOURS, classes_png, present_scale, seconds_scale, state_scale
from jobs.dashboard.map_tiles import LAYERS, TILE_LAYERS, map_info, picture
from jobs.dashboard.states import RunView
from jobs.dashboard.tile_detail import tile_detail
from jobs.dashboard.views import TILE_STATES
from jobs.preview.shown import Shown
from jobs.tile_file import TilePlaces
from mapper.errors import MosaicError, QuestionError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.masks import ABSENT, PRESENT
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.planned_runs import GRID, outcome, planned_run, record, view_of
from tests.jobs.test_planned_map import middle_of, pixel_at

ROW = [(0, column) for column in range(5)]
FIVE_STATES = [outcome(1), outcome(2, "nodata"), outcome(3, "failed"), outcome(4, "quarantined")]
"""Of ``ROW``: the first one is still waiting."""


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A run with a tile in each state."""
    return planned_run(tmp_path_factory.mktemp("five"), ROW, *FIVE_STATES)


def drawn(png: bytes) -> NDArray[np.uint8]:
    """Red, green, blue and opacity, as a browser shows it."""
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.size) == ("PNG", (256, 256))
    return np.asarray(picture.convert("RGBA"))


def seen_at(view: RunView, layer: str, z: int, place: tuple[float, float], *, step: int = 0) -> str | None:
    """The colour at a place; None where it is transparent."""
    x, y = pixel_at(z, *place)
    inks = drawn(picture(view, layer, 0, step, z, x // 256, y // 256))[y % 256, x % 256]
    return "#" + bytes(inks[:3].tolist()).hex() if inks[3] else None


def meanings(view: RunView, layer: str) -> dict[str, str]:
    return dict(map_info(view).legend[layer])


# Tiles ----------------------------------------------------------------------------------------------------------------


def test_every_tile_has_the_colour_that_the_legend_gives_its_state(five: RunView) -> None:
    said = meanings(five, "state")
    seen = [said[str(seen_at(five, "state", 14, middle_of(GRID, *tile)))] for tile in ROW]
    assert seen == ["waiting", "done", "no imagery", "failed", "quarantined"]


@pytest.mark.parametrize("layer", TILE_LAYERS)
@pytest.mark.parametrize("zoom", [3, 14])
def test_what_is_not_planned_is_transparent(five: RunView, layer: str, zoom: int) -> None:
    assert seen_at(five, layer, zoom, middle_of(GRID, *ROW[0])) is not None
    assert seen_at(five, layer, zoom, middle_of(GRID, *ROW[0]), step=1) is None
    away = middle_of(GRID, 3, 2) if zoom == 14 else (100.0, 55.0)
    assert seen_at(five, layer, zoom, away) is None


@pytest.mark.parametrize("worst", range(1, 6))
def test_the_worst_of_many_tiles_in_one_pixel_is_shown(tmp_path: Path, worst: int) -> None:
    order = ["nodata", "done", "waiting", "failed", "quarantined"][:worst]
    entries = [outcome(n, state) for n, state in enumerate(order) if state != "waiting"]
    view = planned_run(tmp_path, ROW[:worst], *entries)
    inks = drawn(picture(view, "state", 0, 0, 2, 2, 1))
    assert (inks[..., 3] > 0).sum() == 1
    assert seen_at(view, "state", 2, middle_of(GRID, 0, 0)) == STATE_COLOURS[order[-1]]


def test_a_tile_that_goes_wrong_changes_the_picture_and_the_version(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, outcome(2, "failed"))
    before, version = picture(view, "state", 0, 0, 14, *tile_of(14)), map_info(view).version
    assert picture(view, "state", 0, 0, 14, *tile_of(14)) == before
    assert map_info(view).version == version
    record(view.folder, outcome(2, "quarantined"))
    view.states.refresh()
    assert map_info(view).version != version
    assert picture(view, "state", 0, 0, 14, *tile_of(14)) != before
    assert seen_at(view, "state", 14, middle_of(GRID, 0, 2)) == STATE_COLOURS["quarantined"]


def test_columns_that_were_let_go_and_read_again_are_drawn_as_they_are_then(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, outcome(2))
    assert seen_at(view, "state", 14, middle_of(GRID, 0, 2)) == STATE_COLOURS["done"]
    record(view.folder, outcome(2, "failed"))
    again = view_of(view.mosaic, "run-1")
    again.states.version = view.states.version  # they count anew
    assert seen_at(again, "state", 14, middle_of(GRID, 0, 2)) == STATE_COLOURS["failed"]


def test_another_process_makes_the_same_bytes(five: RunView) -> None:
    again = replace(view_of(five.mosaic, "run-1"), key="another")
    for layer, zoom in itertools.product(LAYERS, (5, 14)):
        assert picture(five, layer, 0, 0, zoom, *tile_of(zoom)) == picture(again, layer, 0, 0, zoom, *tile_of(zoom))
    assert map_info(five) == map_info(again)


def test_near_there_is_a_line_between_tiles_and_far_there_is_none(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW)
    inks = {zoom: drawn(picture(view, "state", 0, 0, zoom, *tile_of(zoom))) for zoom in (9, 13)}
    colours = {zoom: len(np.unique(seen[seen[..., 3] > 0], axis=0)) for zoom, seen in inks.items()}
    assert colours == {9: 1, 13: 2}


def test_there_is_a_line_around_all_that_is_planned(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(2, 2)])
    west, south, _, north = tile_detail(view, 0).bounds
    z, (x, y) = 13, (at // 256 for at in pixel_at(13, *middle_of(GRID, 2, 2)))
    inks = drawn(picture(view, "state", 0, 0, z, x, y))
    row = pixel_at(z, west, (south + north) / 2)[1] % 256
    columns = np.flatnonzero(inks[row, :, 3] > 0)
    lightness = inks[row, columns, :3].sum(axis=1)
    assert 10 < len(columns) < 256
    assert lightness[0] == lightness[-1] < lightness[len(columns) // 2]


def test_lines_go_on_from_picture_to_picture(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(row, column) for row in range(5) for column in range(5)])
    z = 15
    x, y = (at // 256 for at in pixel_at(z, *middle_of(GRID, 2, 2)))
    four = [drawn(picture(view, "state", 0, 0, z, x + aside, y + down)) for down in (-1, 0) for aside in (-1, 0)]
    joined = np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
    dark = (joined[..., :3].sum(axis=2) < joined[..., :3].sum(axis=2).max()) & (joined[..., 3] > 0)
    # A line drawn at the edge of each picture would fill a row or column of pixels there.
    assert dark[:, 255:257].mean() < 0.5
    assert dark[255:257].mean() < 0.5
    assert dark.any()


def test_tiles_on_both_sides_of_the_antimeridian_are_on_both_edges_of_the_map(tmp_path: Path) -> None:
    lattice = Lattice(crs="EPSG:32601", res_x=100.0, res_y=100.0)
    grid = Grid(lattice=lattice, box=PixelBox(-66_560, 3008, -66_432, 3648), shard_px=64, chunk_px=32)
    tiles = [(row, column) for row in range(2) for column in range(10)]
    view = planned_run(tmp_path, tiles, grid=grid)
    middles = [middle_of(grid, *tile) for tile in tiles]
    assert {lon > 0 for lon, _ in middles} == {True, False}
    for zoom in (0, 4, 8, 12):
        assert {seen_at(view, "state", zoom, middle) for middle in middles} == {STATE_COLOURS["waiting"]}
    assert map_info(view).bounds[::2] == (-180.0, 180.0)


def tile_of(zoom: int) -> tuple[int, int]:
    """Column and row of the picture around the grid's upper left tiles."""
    x, y = pixel_at(zoom, *middle_of(GRID, 0, 1))
    return x // 256, y // 256


# Numbers --------------------------------------------------------------------------------------------------------------


def test_seconds_are_drawn_in_fifths_and_what_nobody_knows_is_no_zero(tmp_path: Path) -> None:
    tiles = [(row, column) for row in range(5) for column in range(5)]
    view = planned_run(tmp_path, tiles, *(outcome(n, seconds=float(n)) for n in range(1, 25)))
    said = meanings(view, "seconds")
    assert list(said.values()) == [
        "not known", "up to 5.60\u00a0s", "5.60\u00a0s to 10\u00a0s", "10\u00a0s to 15\u00a0s",
        "15\u00a0s to 19\u00a0s", "over 19\u00a0s",
    ]  # fmt: skip
    seen = {n: said[str(seen_at(view, "seconds", 14, middle_of(GRID, *tiles[n])))] for n in (0, 1, 10, 15, 24)}
    assert seen == {
        0: "not known", 1: "up to 5.60\u00a0s", 10: "5.60\u00a0s to 10\u00a0s", 15: "10\u00a0s to 15\u00a0s",
        24: "over 19\u00a0s",
    }  # fmt: skip


@pytest.mark.parametrize("known", [[], [3.0], [0.0, 0.0], [2.0] * 50, [0.001, 5000.0]])
def test_any_seconds_have_a_legend_and_a_class_in_it(known: list[float]) -> None:
    seconds = np.array([np.nan, *known, np.nan], np.float32)
    scale = seconds_scale(seconds)
    codes = scale.of_numbers(seconds)
    assert codes[[0, -1]].tolist() == [1, 1]
    assert (codes[1:-1] >= 2).all()
    assert codes.max() <= len(scale.lines)
    assert len(set(scale.lines)) == len(scale.lines)


def test_a_class_of_shares_ends_where_its_legend_says() -> None:
    scale = present_scale()
    shares = np.array([np.nan, 0, 1e-6, 0.01, 0.011, 0.05, 0.2, 0.21, 1], np.float32)
    said = [scale.lines[code - 1][1] for code in scale.of_numbers(shares).tolist()]
    assert said == [
        "not known", "nothing present", "up to 1 %", "up to 1 %", "up to 5 %", "up to 5 %", "up to 20 %", "over 20 %",
        "over 20 %",
    ]  # fmt: skip


def test_the_largest_share_in_a_pixel_is_shown(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, outcome(0, present_px=0), outcome(1, present_px=2000), outcome(2, present_px=4))
    said = meanings(view, "present")
    assert said[str(seen_at(view, "present", 2, middle_of(GRID, 0, 0)))] == "over 20 %"


# Work -----------------------------------------------------------------------------------------------------------------


class Counted:
    """A column that counts how many of its values are taken."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.taken = values, 0

    def __getitem__(self, rows: Any) -> Any:
        found = self.values[rows]
        self.taken += found.size
        return found


def test_a_picture_of_a_million_tiles_takes_their_states_once_and_then_no_more_than_it_has_pixels() -> None:
    side, shard = 1000, 64
    grid = Grid(
        lattice=Lattice(crs="EPSG:3035", res_x=10.0, res_y=10.0),
        box=PixelBox(-5000 * shard, 6000 * shard, (side - 5000) * shard, (side + 6000) * shard),
        shard_px=shard,
        chunk_px=shard,
    )
    row, column = np.divmod(np.arange(side * side, dtype=np.int32), side)
    nothing = np.zeros(side * side, np.int32)
    state = Counted(np.zeros(side * side, np.uint8))
    view: Any = SimpleNamespace(
        key="million", folder=None, facts={"steps": ["2024-05-01T00:00:00+00:00"], "grids": [""]}, grids=(grid,),
        places=TilePlaces(grid=nothing.astype(np.int16), step=nothing, row=row, column=column),
        states=SimpleNamespace(state=state, version=1),
    )  # fmt: skip
    state.values[123_456] = TILE_STATES.index("quarantined")
    place = middle_of(grid, *divmod(123_456, side))
    taken = []
    for zoom in (2, 6, 9, 12, 3):
        before = state.taken
        assert seen_at(view, "state", zoom, place) == STATE_COLOURS["quarantined"]
        taken.append(state.taken - before)
    pixels = 256 * 256
    assert taken[0] <= side * side + pixels
    assert max(taken[1:]) <= pixels


# The mosaic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["mask", "score"])
def test_the_mosaics_pixels_are_shown_as_the_preview_shows_them(tmp_path: Path, layer: Any) -> None:
    prompts = (Prompt(name="lake", expression="all the lakes"), Prompt(name="building", expression="the buildings"))
    view = planned_run(tmp_path, ROW, prompts=prompts)
    mosaic = Mosaic.open(view.mosaic)
    mask = np.full((2, 64, 64), ABSENT, np.uint8)
    mask[1, 10:40, 10:40] = PRESENT
    layers = TileLayers(mask=mask, score=mask * 200, source=np.zeros((64, 64), np.uint32), prompts=(0, 1))
    mosaic.write(GRID, GRID.tile(0, 1), 0, layers)
    assert picture(view, layer, 1, 0, 14, *tile_of(14)) == Shown(view.mosaic).tile(layer, 1, 0, 14, *tile_of(14))
    assert picture(view, layer, 1, 0, 14, *tile_of(14)) != picture(view, layer, 0, 0, 14, *tile_of(14))


def test_a_run_has_its_own_prompts_whatever_else_its_mosaic_holds(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW)
    Mosaic.open(view.mosaic).add_prompts([Prompt(name="lake", expression="all the lakes")])
    assert map_info(view).prompts == (("building", "the buildings"),)
    with pytest.raises(QuestionError, match="no such prompt"):
        picture(view, "mask", 1, 0, 14, *tile_of(14))


def test_before_the_mosaic_is_made_the_map_is_the_area_and_all_pictures_are_empty(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, with_mosaic=False)
    info = map_info(view)
    assert (info.layers, info.legend) == ((), {})
    assert info.bounds == pytest.approx((12.0, 55.3, 12.1, 55.4))
    for layer in LAYERS:
        assert not drawn(picture(view, layer, 0, 0, 14, *tile_of(14))).any()


def test_once_the_mosaic_is_made_the_same_run_has_a_map(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, with_mosaic=False)
    assert map_info(view).layers == ()
    assert set(map_info(replace(view, grids=(GRID,))).layers) >= set(TILE_LAYERS)


def test_what_strangers_wrote_is_told_as_it_is_and_nothing_of_it_is_a_colour(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW, prompts=(Prompt(name="building", expression=HOSTILE[0]),))
    info = map_info(view)
    assert info.prompts == (("building", HOSTILE[0]),)
    assert info.legend["mask"][0][1] == HOSTILE[0]
    colours = [colour for lines in info.legend.values() for colour, _ in lines]
    assert all(len(colour) == 7 and int(colour[1:], 16) >= 0 and colour[0] == "#" for colour in colours)


def test_a_job_that_cannot_be_read_leaves_the_tiles_to_be_seen(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW)
    (tmp_path / "map.zarr/.resmap/runs/run-1/job.yaml").write_text("[nonsense")
    info = map_info(view)
    assert (info.prompts, info.layers) == ((), TILE_LAYERS)
    assert not drawn(picture(view, "imagery", 0, 0, 14, *tile_of(14))).any()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "prompt", "step", "z", "x", "y"),
    [
        ("nonsense", 0, 0, 3, 4, 2),
        ("mask", 1, 0, 3, 4, 2),
        ("mask", -1, 0, 3, 4, 2),
        ("state", 0, 2, 3, 4, 2),
        ("state", 0, -1, 3, 4, 2),
        ("state", 0, 0, 3, 8, 2),
        ("imagery", 0, 0, 27, 0, 0),
    ],
)
def test_pictures_that_do_not_exist_are_refused(five: RunView, layer: str, prompt: int, step: int, z: int, x: int,
                                                y: int) -> None:  # fmt: skip
    with pytest.raises(QuestionError):
        picture(five, layer, prompt, step, z, x, y)


# Colours --------------------------------------------------------------------------------------------------------------

# How people without one kind of cone see red, green and blue light (G. Machado and others, 2009, severity 1).
_SIGHT = {
    "all cones": np.eye(3),
    "no long": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no middle": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no short": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


def lab(colour: str, sight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lightness and the two axes of colour, as CIE 1976."""
    values = np.array(list(bytes.fromhex(colour[1:]))) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ np.clip(sight @ light, 0, 1) / np.array([0.9505, 1.0, 1.089]), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def scales() -> Iterator[tuple[str, list[str]]]:
    yield "state", [colour for colour, _ in state_scale().lines]
    yield "seconds", [colour for colour, _ in seconds_scale(np.arange(100, dtype=np.float32)).lines]
    yield "present", [colour for colour, _ in present_scale().lines]


@pytest.mark.parametrize("sight", sorted(_SIGHT))
@pytest.mark.parametrize(("layer", "colours"), list(scales()))
def test_colours_of_one_legend_are_told_apart_by_everybody(layer: str, colours: list[str], sight: str) -> None:
    places = [lab(colour, _SIGHT[sight]) for colour in colours]
    # 2.3 is what an eye sees side by side; five times that is seen at a glance.
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(places, 2)) > 11.5


def test_a_picture_has_no_colour_that_the_legend_does_not_tell_but_that_of_lines() -> None:
    codes = np.arange(6, dtype=np.uint8).repeat(256 * 43)[: 256 * 256].reshape(256, 256)
    inks = drawn(classes_png(codes, np.zeros(codes.shape, np.bool_), state_scale()))
    seen = {"#" + bytes(ink[:3].tolist()).hex() for ink in np.unique(inks[inks[..., 3] > 0], axis=0)}
    assert seen == {colour for colour, _ in state_scale().lines}


def test_a_mosaic_that_is_none_says_so_and_its_tiles_are_seen(tmp_path: Path) -> None:
    view = planned_run(tmp_path, ROW)
    for path in sorted((tmp_path / "map.zarr").glob("zarr.json")):
        path.unlink()
    with pytest.raises(MosaicError):
        Shown(view.mosaic)
    assert map_info(view).layers == (*TILE_LAYERS, "imagery")
    assert not drawn(picture(view, "mask", 0, 0, 14, *tile_of(14))).any()
    assert map_tiles.planned_map(view, 0) is not None
