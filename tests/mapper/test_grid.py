"""The arithmetic of place: boxes, lattices, shards and windows."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from mapper.errors import GridError
from mapper.grid import Grid, Lattice, PixelBox, Windows
from tests.strategies import boxes, grids, lattices, parts_of, window_lattices

METRES = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)


@given(boxes(), boxes(far_px=50_000_000))
def test_boxes_that_do_not_meet_have_an_empty_intersection(one: PixelBox, other: PixelBox) -> None:
    apart = one.bottom <= other.top or other.bottom <= one.top or one.right <= other.left or other.right <= one.left
    assert one.intersection(other).empty == apart


@given(boxes(far_px=300), boxes(far_px=300))
def test_a_union_contains_both_and_an_intersection_is_in_both(one: PixelBox, other: PixelBox) -> None:
    meets = one.intersection(other)
    assert one.union(other).contains(one)
    assert one.union(other).contains(other)
    assert meets.empty or (one.contains(meets) and other.contains(meets))


@given(boxes(), st.integers(1, 512))
def test_a_snapped_box_is_the_smallest_of_whole_cells(box: PixelBox, cell_px: int) -> None:
    around = box.snapped(cell_px)
    assert around.contains(box)
    assert not any(side % cell_px for side in (around.top, around.left, around.bottom, around.right))
    assert around.height - box.height < 2 * cell_px
    assert around.snapped(cell_px) == around
    assert box.top - around.top < cell_px
    assert around.bottom - box.bottom < cell_px


@given(boxes(largest_px=60), st.integers(1, 40))
def test_the_cells_of_a_box_cover_each_of_its_pixels_once(box: PixelBox, cell_px: int) -> None:
    seen = np.zeros(box.shape, np.uint8)
    for cell in box.cells(cell_px):
        assert cell.shape == (cell_px, cell_px)
        seen[cell.intersection(box).within(box)] += 1
    assert (seen == 1).all()


@given(boxes(largest_px=50).flatmap(lambda frame: st.tuples(st.just(frame), parts_of(frame))))
def test_within_finds_a_box_in_the_array_of_its_frame(drawn: tuple[PixelBox, PixelBox]) -> None:
    frame, box = drawn
    rows, columns = np.indices(frame.shape)
    here = box.within(frame)
    assert (rows[here][0, 0] + frame.top, columns[here][0, 0] + frame.left) == (box.top, box.left)
    assert rows[here].shape == box.shape


@given(lattices(), boxes())
def test_the_pixels_of_a_boxs_bounds_are_the_box(lattice: Lattice, box: PixelBox) -> None:
    assert lattice.pixels(lattice.bounds(box)) == box


@given(lattices(), boxes())
def test_the_transform_of_a_box_leads_to_its_bounds(lattice: Lattice, box: PixelBox) -> None:
    transform = lattice.transform(box)
    left, bottom, right, top = lattice.bounds(box)
    assert transform @ (0, 0) == pytest.approx((left, top))
    assert transform @ (box.width, box.height) == pytest.approx((right, bottom))


def test_a_bound_a_hair_past_a_pixels_edge_lies_on_it() -> None:
    assert METRES.pixels((10 + 1e-4, 10 - 1e-4, 20 + 1e-4, 20 - 1e-4)) == METRES.pixels((10, 10, 20, 20))


def test_a_bound_clearly_past_a_pixels_edge_takes_the_pixel() -> None:
    assert METRES.pixels((10, 10, 20.1, 20.1)) == PixelBox(-41, 20, -20, 41)


@given(lattices(), boxes())
def test_a_raster_that_lies_on_the_lattice_has_its_row_and_column_there(lattice: Lattice, box: PixelBox) -> None:
    assert lattice.offset_of(lattice.transform(box)) == (box.top, box.left)


@given(lattices(), boxes(), st.floats(-0.009, 0.009), st.floats(-0.009, 0.009))
def test_dust_in_a_transform_does_not_take_a_raster_off_the_lattice(
    lattice: Lattice, box: PixelBox, dx: float, dy: float
) -> None:
    dusty = lattice.transform(box) @ Affine.translation(dx, dy)
    assert lattice.offset_of(dusty) == (box.top, box.left)


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(Affine(0.5, 0, 10.1, 0, -0.5, 10), id="shifted in x"),
        pytest.param(Affine(0.5, 0, 10, 0, -0.5, 10.1), id="shifted in y"),
        pytest.param(Affine(0.50001, 0, 10, 0, -0.5, 10), id="wider pixels"),
        pytest.param(Affine(0.5, 0, 10, 0, -0.50001, 10), id="higher pixels"),
        pytest.param(Affine(0.5, 1e-9, 10, 1e-9, -0.5, 10), id="turned"),
        pytest.param(Affine(0.5, 0, 10, 0, 0.5, 10), id="south-up"),
        pytest.param(Affine(1, 0, 10, 0, -1, 10), id="twice the resolution"),
    ],
)
def test_a_raster_that_is_not_on_the_lattice_has_no_place_in_it(transform: Affine) -> None:
    assert METRES.offset_of(transform) is None


def test_the_phase_of_the_imagery_moves_the_lattice_onto_it() -> None:
    native = Affine(0.3, 0, 334_000.17, 0, -0.3, 3_061_000.05)
    lattice = Lattice(crs="EPSG:32645", res_x=0.3, res_y=0.3, phase_x=334_000.17 % 0.3, phase_y=3_061_000.05 % 0.3)
    assert lattice.offset_of(native) is not None


@pytest.mark.parametrize("resolution", [0.0, -1.0, math.nan, math.inf])
def test_a_lattice_needs_pixels_of_some_size(resolution: float) -> None:
    with pytest.raises(GridError, match="is no pixel") as caught:
        Lattice(crs="EPSG:32645", res_x=resolution, res_y=1)
    assert "resolution above 0" in caught.value.fix


@given(grids())
def test_every_mosaic_pixel_belongs_to_exactly_one_core(grid: Grid) -> None:
    writers = np.zeros(grid.shape, np.uint8)
    for tile in grid.tiles():
        writers[tile.core.within(grid.box)] += 1
    assert (writers == 1).all()


@given(grids())
def test_a_tile_is_found_again_by_its_row_and_column(grid: Grid) -> None:
    assert all(grid.tile(tile.row, tile.column) == tile for tile in grid.tiles())


@given(grids().flatmap(lambda grid: st.tuples(st.just(grid), parts_of(grid.box))))
def test_the_tiles_in_a_box_are_those_whose_core_touches_it(drawn: tuple[Grid, PixelBox]) -> None:
    grid, box = drawn
    touching = [tile for tile in grid.tiles() if not tile.core.intersection(box).empty]
    assert list(grid.tiles_in(box)) == touching


def test_no_tile_is_in_a_box_beside_the_grid() -> None:
    grid = Grid(lattice=METRES, box=PixelBox(0, 0, 64, 64), shard_px=32, chunk_px=16)
    assert list(grid.tiles_in(PixelBox(64, 0, 90, 64))) == []


@given(lattices(), boxes(largest_px=200), boxes(largest_px=200, far_px=500), st.integers(1, 40))
def test_the_place_of_a_shard_does_not_depend_on_the_area_asked_for(
    lattice: Lattice, box: PixelBox, step: PixelBox, shard_px: int
) -> None:
    moved = PixelBox(box.top + step.top, box.left + step.left, box.bottom + step.top, box.right + step.left)
    one, other = (
        Grid.over(lattice, lattice.bounds(area), shard_px=shard_px, chunk_px=shard_px) for area in (box, moved)
    )
    both = one.box.intersection(other.box)
    shards = [{tile.core for tile in grid.tiles_in(both)} for grid in (one, other)] if not both.empty else [set()] * 2
    assert shards[0] == shards[1]


@given(lattices(), boxes(largest_px=300), st.integers(1, 64))
def test_a_grid_holds_the_area_it_was_made_for(lattice: Lattice, box: PixelBox, shard_px: int) -> None:
    grid = Grid.over(lattice, lattice.bounds(box), shard_px=shard_px, chunk_px=shard_px)
    assert grid.box == box.snapped(shard_px)


def test_an_area_of_no_size_still_has_a_tile() -> None:
    assert Grid.over(METRES, (10, 10, 10, 10), shard_px=64, chunk_px=32).tile_shape == (1, 1)


def test_a_shard_is_a_whole_number_of_chunks() -> None:
    with pytest.raises(GridError, match="not a multiple of chunk_px 512") as caught:
        Grid(lattice=METRES, box=PixelBox(0, 0, 1000, 1000), shard_px=1000, chunk_px=512)
    assert caught.value.fix == "use shard_px: 1024"


def test_a_grid_is_a_box_of_whole_shards() -> None:
    with pytest.raises(GridError, match="whole shards"):
        Grid(lattice=METRES, box=PixelBox(0, 0, 96, 100), shard_px=32, chunk_px=16)


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_there_is_no_tile_beyond_the_edge(row: int, column: int) -> None:
    grid = Grid(lattice=METRES, box=PixelBox(0, 0, 64, 96), shard_px=32, chunk_px=16)
    with pytest.raises(GridError, match=f"no tile r{row}c{column}"):
        grid.tile(row, column)


def test_a_grid_survives_the_trip_between_processes() -> None:
    grid = Grid(lattice=METRES, box=PixelBox(0, 0, 64, 96), shard_px=32, chunk_px=16, name="utm45n")
    assert pickle.loads(pickle.dumps(grid)) == grid


@given(window_lattices(), boxes(largest_px=80))
def test_every_pixel_lies_in_one_or_two_windows_an_axis(windows: Windows, box: PixelBox) -> None:
    rows, columns = np.zeros(box.height, np.int64), np.zeros(box.width, np.int64)
    touching = list(windows.touching(box))
    for top in {window.top for window in touching}:
        rows[max(0, top - box.top) : top + windows.size_px - box.top] += 1
    for left in {window.left for window in touching}:
        columns[max(0, left - box.left) : left + windows.size_px - box.left] += 1
    assert set(rows) | set(columns) <= {1, 2}


@given(window_lattices(), boxes(largest_px=100))
def test_the_frame_is_the_box_around_all_windows_that_touch(windows: Windows, box: PixelBox) -> None:
    touching = list(windows.touching(box))
    around = touching[0]
    for window in touching:
        assert not window.intersection(box).empty
        around = around.union(window)
    assert windows.frame(box) == around
    assert around.contains(box)


@given(window_lattices(), boxes(largest_px=100).flatmap(lambda box: st.tuples(st.just(box), parts_of(box))))
def test_the_windows_of_a_part_are_windows_of_the_whole_in_the_same_order(
    windows: Windows, drawn: tuple[PixelBox, PixelBox]
) -> None:
    box, part = drawn
    of_part = [window for window in windows.touching(box) if not window.intersection(part).empty]
    assert list(windows.touching(part)) == of_part


@pytest.mark.parametrize("overlap_px", [-1, 49, 96])
def test_windows_overlap_by_half_at_most(overlap_px: int) -> None:
    with pytest.raises(GridError, match="cannot overlap") as caught:
        Windows(size_px=96, overlap_px=overlap_px)
    assert caught.value.fix == "set windows.overlap_px between 0 and 48"
