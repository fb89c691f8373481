from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from pyproj.enums import TransformDirection
from shapely.affinity import rotate
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from catalogs.select import items_order, time_steps
from jobs.grids import Spots, lay_grids, mean_pixel_km2, native_lattice, pixel_km2, placed
from jobs.job import Job
from jobs.plan import Plan, lay_plan
from jobs.prepare import prepare
from jobs.spec import JobSpec, spec_from
from jobs.tile_table import PlannedTile
from jobs.tiling import BLOCK, area_tiles, shown_tiles, tiles_seen
from mapper.curve import hilbert
from mapper.errors import EmptySearchError, GridError
from mapper.grid import Grid, Lattice, PixelBox, Windows
from mapper.imagery import Asset, Band, Item, PlacedItem, Placement
from mapper.map_tile import asked_pixels
from mapper.pixel_area import box_area_m2
from tests.stories.command_line import Resmap
from tests.stories.world import World, merged

WINDOW_PX = 96
AREA = box(12.0, 55.0, 12.01, 55.005)


@lru_cache
def from_degrees(crs: str) -> Transformer:
    return Transformer.from_crs("OGC:CRS84", crs, always_xy=True)


def spec(**changes: Any) -> JobSpec:
    job = {
        "name": "plan", "area": {"bbox": [12.0, 55.0, 12.01, 55.005]}, "imagery": {"catalog": "c.json"},
        "grid": {"crs": "EPSG:32632", "resolution_m": 2.0, "shard_px": 128, "chunk_px": 64},
        "prompts": [{"name": "p", "expression": "the lakes"}], "windows": {"overlap_px": 32},
        "output": {"mosaic": "m.zarr"},
    }  # fmt: skip
    return spec_from(merged(job, changes))


def item(
    index: int, bounds: tuple[float, float, float, float], *, crs: str = "EPSG:32632", res: float = 2.0, **more: Any
) -> Item:
    """An item whose raster fills these bounds of its CRS."""
    left, bottom, right, top = bounds
    shape = round((top - bottom) / res), round((right - left) / res)
    place = Placement(crs=crs, transform=Affine(res, 0, left, 0, -res, top), shape=shape)
    back = TransformDirection.INVERSE
    footprint = shapely.transform(
        box(*bounds), lambda xy: np.column_stack(from_degrees(crs).transform(xy[:, 0], xy[:, 1], direction=back))
    )
    asset = Asset(key="image", href=f"/data/{index}.tif", placement=more.pop("placement", place))
    moment = more.pop("moment", datetime(2024, 6, 1 + index, tzinfo=UTC))
    return Item(id=f"item-{index}", collection="c", datetime=moment, footprint=footprint, index=index,
                bands=(Band(asset=asset),))  # fmt: skip


def around(area: BaseGeometry, margin_m: float = 0.0, crs: str = "EPSG:32632") -> tuple[float, float, float, float]:
    bounds = from_degrees(crs).transform_bounds(*area.bounds)
    left, bottom, right, top = (2.0 * round(value / 2) for value in bounds)
    return left - margin_m, bottom - margin_m, right + margin_m, top + margin_m


def asked_of(plan: Plan, number: int) -> np.ndarray[Any, Any]:
    """How many of the planned tiles of a grid ask for each of its pixels."""
    grid = plan.grids[number]
    times = np.zeros(grid.shape, np.uint8)
    for task in plan.tasks(dict.fromkeys(range(len(plan.tiles)), (0,)), written_sources=frozenset()):
        if task.grid is grid:
            times[task.tile.core.within(grid.box)] += asked_pixels(plan.areas[grid.name], task)
    return times


def in_area(plan: Plan, number: int) -> np.ndarray[Any, Any]:
    """Whether each pixel's centre lies in the area, by shapely alone."""
    grid = plan.grids[number]
    transform = grid.lattice.transform(grid.box)
    rows, columns = grid.shape
    x = transform.c + (np.arange(columns) + 0.5) * transform.a
    y = transform.f + (np.arange(rows) + 0.5) * transform.e
    return np.asarray(shapely.contains_xy(plan.areas[grid.name], *np.meshgrid(x, y)))


@given(
    angle=st.floats(0, 90),
    width=st.floats(0.002, 0.02),
    height=st.floats(0.001, 0.01),
    crs=st.sampled_from(["EPSG:32632", "EPSG:25833", "utm"]),
    shard_px=st.sampled_from([64, 128, 192]),
)
def test_every_pixel_of_the_area_is_in_exactly_one_planned_tile(
    angle: float, width: float, height: float, crs: str, shard_px: int
) -> None:
    area = rotate(box(11.995, 55.0, 11.995 + width, 55.0 + height), angle)
    job = spec(grid={"crs": crs, "shard_px": shard_px, "resolution_m": 5.0})
    plan = lay_plan(job, [item(0, around(area, 100))], area, window_px=WINDOW_PX)
    total = 0
    for number in range(len(plan.grids)):
        asked, inside = asked_of(plan, number), in_area(plan, number)
        total += int(inside.sum())
        # GDAL and shapely may disagree about a centre that lies on the outline itself.
        assert ((asked == 1) != inside).sum() <= 2
        assert asked.max(initial=0) <= 1
    assert total * 25 / 1e6 == pytest.approx(sum(shape.area for shape in plan.areas.values()) / 1e6, rel=0.1, abs=0.01)


def one_by_one(job: JobSpec, plan: Plan, items: list[Item], area: BaseGeometry) -> Iterator[PlannedTile]:
    """The tiles of a plan by the plainest rule: every tile of every grid and step is held against every item."""
    windows = Windows(size_px=WINDOW_PX, overlap_px=job.windows.overlap_px)
    everything = job.imagery.time_step == "all"
    serving = {step.start: step.items for step in time_steps(items, job.imagery.time_step)}
    for step, start in enumerate(plan.steps):
        ordered = items_order(items if everything else serving[start], job.imagery.composite)
        for number, grid in enumerate(plan.grids):
            shape = plan.areas[grid.name]
            extents = [(one.index, placed(one, grid.lattice).extent) for one in ordered]
            for tile in grid.tiles():
                touched = any(not extent.intersection(tile.core).empty for _, extent in extents if not extent.empty)
                outline = box(*grid.lattice.bounds(tile.core))
                if not shape.intersects(outline) or not (everything or touched):
                    continue
                frame = windows.frame(tile.core)
                seen = tuple(index for index, extent in extents
                             if not extent.empty and not extent.intersection(frame).empty)  # fmt: skip
                yield PlannedTile(grid=number, step=step, row=tile.row, column=tile.column,
                                  clipped=not shape.contains(outline), items=seen if touched else ())  # fmt: skip


def areas() -> st.SearchStrategy[BaseGeometry]:
    """Turned boxes and stars about 12° east, where two UTM zones meet, some with a hole and some in two parts."""

    def made(angle: float, width: float, height: float, hole: bool, apart: bool) -> BaseGeometry:
        whole: BaseGeometry = rotate(box(12 - width, 55.0, 12 + width, 55.0 + height), angle)
        whole = whole.difference(rotate(whole.centroid.buffer(height / 4, quad_segs=2), angle)) if hole else whole
        return shapely.union(whole, box(12.02, 55.012, 12.0202, 55.0121)) if apart else whole

    size = st.floats(0.004, 0.012)
    return st.builds(made, st.floats(0, 90), size, size, st.booleans(), st.booleans())


@st.composite
def scattered(draw: st.DrawFn) -> list[Item]:
    """Items on, off and beside the area, in both zones and in none, on the lattice and off it, of a few dates."""
    items = []
    for index in range(draw(st.integers(1, 7))):
        crs = draw(st.sampled_from(["EPSG:32632", "EPSG:32633", "EPSG:3857"]))
        west, south = draw(st.floats(11.985, 12.005)), draw(st.floats(54.995, 55.005))
        x, y = from_degrees(crs).transform(west, south)
        # Often on the borders of tiles and windows: both begin and end at multiples of 32 pixels of 5 m.
        snap = draw(st.sampled_from([160.0, 5.0]))
        left, bottom = snap * round(x / snap) + draw(st.sampled_from([0.0, 0.0, 1.7])), snap * round(y / snap)
        side = snap * draw(st.integers(20, 200) if snap == 5 else st.integers(1, 8))
        moment = datetime(2024, draw(st.integers(1, 3)), draw(st.integers(1, 2)), tzinfo=UTC)
        unplaced = {"placement": None} if draw(st.integers(0, 4)) == 0 else {}
        items.append(
            item(index, (left, bottom, left + side, bottom + side), crs=crs, res=5.0, moment=moment, **unplaced)
        )
    return items


@settings(max_examples=80, deadline=None)
@given(
    items=scattered(),
    area=areas(),
    crs=st.sampled_from(["EPSG:32632", "EPSG:3035", "utm"]),
    shard_px=st.sampled_from([64, 128]),
    time_step=st.sampled_from(["all", "scene", "day", "month"]),
    composite=st.sampled_from(["first", "latest"]),
)
def test_a_plan_has_the_tiles_that_one_finds_by_looking_at_each(
    items: list[Item], area: BaseGeometry, crs: str, shard_px: int, time_step: str, composite: str
) -> None:
    job = spec(
        grid={"crs": crs, "shard_px": shard_px, "resolution_m": 5.0},
        imagery={"time_step": time_step, "composite": composite},
    )
    try:
        plan = lay_plan(job, items, area, window_px=WINDOW_PX)
    except EmptySearchError:
        assert not any(area.intersects(one.footprint) for one in items)
        return
    found, expected = list(plan.tiles), list(one_by_one(job, plan, items, area))
    assert sorted(found, key=place_of) == expected
    assert found == sorted(found, key=lambda tile: (tile.step, tile.grid, curve_of(plan, tile)))


def place_of(tile: PlannedTile) -> tuple[int, int, int, int]:
    return tile.step, tile.grid, tile.row, tile.column


def curve_of(plan: Plan, tile: PlannedTile) -> int:
    return int(hilbert([tile.row], [tile.column], shape=plan.grids[tile.grid].tile_shape)[0])


@settings(max_examples=30, deadline=None)
@given(items=scattered(), area=areas(), block=st.sampled_from([1, 2, 4, 8]), holes=st.booleans())
def test_what_shows_a_tile_does_not_depend_on_the_blocks_it_is_found_in(
    items: list[Item], area: BaseGeometry, block: int, holes: bool
) -> None:
    ((grid, shape),) = lay_grids(spec(grid={"shard_px": 64, "resolution_m": 5.0}), items, area)
    extents = Spots(items).extents(grid, margin_px=WINDOW_PX)
    seen, touched = tiles_seen(grid, Windows(size_px=WINDOW_PX, overlap_px=32), extents)
    numbers, at = np.arange(len(items), dtype=np.int32), Spots(items).of
    answers = []
    for side in (block, BLOCK):
        tiles = area_tiles(grid, shape, block=side)
        answer: dict[int, list[int]] = {}
        for shown in shown_tiles(tiles, numbers, seen[at], touched[at], holes=holes):
            ends = np.cumsum(shown.by)
            for number, last, many in zip(shown.number.tolist(), ends.tolist(), shown.by.tolist(), strict=True):
                answer[number] = shown.item[last - many : last].tolist()
        assert list(answer) == sorted(answer)
        answers.append(answer)
    assert answers[0] == answers[1]


@settings(max_examples=25, deadline=None)
@given(items=scattered(), area=areas(), crs=st.sampled_from(["EPSG:32632", "EPSG:32633", "EPSG:32635", "EPSG:32601"]))
def test_an_extent_that_is_not_looked_for_lies_too_far_from_the_grid_for_any_window(
    items: list[Item], area: BaseGeometry, crs: str
) -> None:
    ((grid, _),) = lay_grids(spec(grid={"crs": crs, "shard_px": 64, "resolution_m": 5.0}), items, area)
    spots = Spots(items)
    found = spots.extents(grid, margin_px=WINDOW_PX)[spots.of]
    box_seen = grid.box
    reach = PixelBox(box_seen.top - WINDOW_PX, box_seen.left - WINDOW_PX,
                     box_seen.bottom + WINDOW_PX, box_seen.right + WINDOW_PX)  # fmt: skip
    for one, extent in zip(items, found.tolist(), strict=True):
        expected = placed(one, grid.lattice).extent
        assert PixelBox(*extent) == expected or (PixelBox(*extent).empty and expected.intersection(reach).empty)


def test_a_scene_two_zones_away_is_not_even_projected() -> None:
    ((grid, _),) = lay_grids(spec(), [], AREA)
    far = item(0, (500000, 6100000, 600000, 6200000), crs="EPSG:32636", res=10.0)
    assert Spots([far]).extents(grid, margin_px=WINDOW_PX).tolist() == [[0, 0, 0, 0]]
    assert not placed(far, grid.lattice).extent.empty


def test_items_go_to_workers_as_placed_items_without_their_footprints() -> None:
    plan = lay_plan(spec(), [item(0, around(AREA))], AREA, window_px=WINDOW_PX)
    tasks = list(plan.tasks(dict.fromkeys(range(len(plan.tiles)), (0,)), written_sources={1}))
    arrived = pickle.loads(pickle.dumps(tasks[0]))
    (there,) = arrived.items
    assert type(there) is PlacedItem
    assert there.extent == placed(plan.items[0], plan.grids[0].lattice).extent
    assert replace(there.item, footprint=plan.items[0].footprint) == plan.items[0]
    assert there.item.footprint.is_empty
    assert replace(arrived, items=()) == replace(tasks[0], items=())
    assert [task.write_source for task in tasks[:3]] == [True, False, True]


def test_an_item_is_packed_once_for_all_the_tiles_it_shows() -> None:
    plan = lay_plan(spec(), [item(0, around(AREA))], AREA, window_px=WINDOW_PX)
    tasks = list(plan.tasks(dict.fromkeys(range(len(plan.tiles)), (0,)), written_sources=frozenset()))
    assert len(tasks) > 10
    assert len({id(task.items[0]) for task in tasks}) == 1


@settings(max_examples=30, deadline=None)
@given(
    crs=st.sampled_from(["EPSG:32632", "EPSG:3857", "EPSG:3413", "EPSG:2263", "EPSG:4326"]),
    metres=st.sampled_from([0.3, 10.0, 30.0]),
    shard_px=st.sampled_from([64, 512, 4096]),
    place=st.tuples(st.floats(6.0, 12.0), st.floats(61.0, 79.0)),
)
def test_the_surface_of_a_tile_s_pixels_is_its_mean_to_a_ten_thousandth(
    crs: str, metres: float, shard_px: int, place: tuple[float, float]
) -> None:
    # Feet of New York are asked about in New York: in Norway its cone is torn.
    place = (-74.0, 40.0 + place[1] / 100) if crs == "EPSG:2263" else place
    res = {"EPSG:4326": metres / 111_320, "EPSG:2263": metres / 0.3048}.get(crs, metres)
    lattice = Lattice(crs=crs, res_x=res, res_y=res)
    x, y = from_degrees(crs).transform(*place)
    grid = Grid.over(lattice, (x, y, x + res, y + res), shard_px=shard_px, chunk_px=64)
    core = grid.tile(0, 0).core
    mean_km2 = box_area_m2(lattice, core) / 1e6 / (core.height * core.width)
    assert mean_pixel_km2(grid, 0, 0) == pytest.approx(mean_km2, rel=1e-4)


def test_each_tile_of_a_grid_has_the_surface_of_its_own_place() -> None:
    lattice = Lattice(crs="EPSG:3857", res_x=100.0, res_y=100.0)
    grid = Grid.over(lattice, (-3e6, -2e6, 3e6, 9e6), shard_px=1024, chunk_px=512)
    rows, columns = grid.tile_shape
    for row in range(rows):
        for column in (0, columns - 1):
            core = grid.tile(row, column).core
            mean_km2 = box_area_m2(lattice, core) / 1e6 / (core.height * core.width)
            assert mean_pixel_km2(grid, row, column) == pytest.approx(mean_km2, rel=1e-4)


def test_tiles_outside_the_area_are_not_planned() -> None:
    corner = shapely.Polygon([(12.0, 55.0), (12.01, 55.0), (12.0, 55.005)])
    plan = lay_plan(spec(), [item(0, around(AREA))], corner, window_px=WINDOW_PX)
    grid = plan.grids[0]
    for tile in plan.tiles:
        outline = box(*grid.lattice.bounds(grid.tile(tile.row, tile.column).core))
        assert plan.areas[""].intersects(outline)
    assert len(plan.tiles) < grid.tile_shape[0] * grid.tile_shape[1]


def test_a_tile_is_clipped_where_the_outline_crosses_it() -> None:
    plan = lay_plan(spec(), [item(0, around(AREA))], AREA, window_px=WINDOW_PX)
    for tile in plan.tiles:
        core = box(*plan.grids[0].lattice.bounds(plan.grids[0].tile(tile.row, tile.column).core))
        assert tile.clipped == (not plan.areas[""].contains(core))
    assert {tile.clipped for tile in plan.tiles} == {True, False}


def test_a_tile_knows_every_item_that_its_windows_see() -> None:
    left, bottom, right, top = around(AREA)
    items = [item(0, (left, bottom, left + 300, top)), item(1, (left + 300, bottom, right, top))]
    plan = lay_plan(spec(), items, AREA, window_px=WINDOW_PX)
    windows, lattice = Windows(size_px=WINDOW_PX, overlap_px=32), plan.grids[0].lattice
    shared = 0
    for tile in plan.tiles:
        frame = windows.frame(plan.grids[0].tile(tile.row, tile.column).core)
        seen = {n for n, it in enumerate(items)
                if not lattice.pixels(around_of(it)).intersection(frame).empty}  # fmt: skip
        if tile.items:
            assert seen <= set(tile.items)
            shared += len(seen) == 2
    assert shared > 0


def around_of(it: Item) -> tuple[float, float, float, float]:
    place = it.bands[0].asset.placement
    assert place is not None
    left, top = place.transform.c, place.transform.f
    return left, top - place.shape[0] * 2.0, left + place.shape[1] * 2.0, top


def test_a_tile_under_no_imagery_is_a_hole_of_a_job_for_all_time_and_no_tile_of_a_dated_step() -> None:
    left, bottom, _, top = around(AREA)
    west = item(0, (left, bottom, left + 100, top))
    everything = lay_plan(spec(), [west], AREA, window_px=WINDOW_PX)
    holes = [tile for tile in everything.tiles if not tile.items]
    assert holes
    dated = lay_plan(spec(imagery={"time_step": "day"}), [west], AREA, window_px=WINDOW_PX)
    assert {(t.row, t.column) for t in dated.tiles} == {(t.row, t.column) for t in everything.tiles} - {
        (t.row, t.column) for t in holes
    }


def test_steps_are_planned_one_by_one() -> None:
    items = [item(0, around(AREA)), item(1, around(AREA)), item(2, around(AREA))]
    plan = lay_plan(spec(imagery={"time_step": "day"}), items, AREA, window_px=WINDOW_PX)
    assert [step.day for step in plan.steps] == [1, 2, 3]
    assert all(tile.items == (tile.step,) for tile in plan.tiles)


def test_items_that_lie_beside_the_area_only_are_no_imagery_of_it() -> None:
    _, bottom, right, top = around(AREA)
    beside = item(0, (right + 40, bottom, right + 400, top))
    with pytest.raises(EmptySearchError, match="no imagery lies in the area") as refused:
        lay_plan(spec(), [beside], AREA, window_px=WINDOW_PX)
    assert "area" in refused.value.fix


def test_the_native_lattice_is_that_of_the_items_with_their_phase() -> None:
    lattice = native_lattice(
        [item(0, (600000.5, 6100000, 600100.5, 6100100)), item(1, (600050.5, 6100050, 600150.5, 6100150))]
    )
    assert (lattice.crs, lattice.res_x, lattice.phase_x, lattice.phase_y) == ("EPSG:32632", 2.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        (item(1, (600001, 6100000, 600101, 6100100)), "grid: {crs: EPSG:32632, resolution_m: 2}"),
        (item(1, (600000, 6100000, 600100, 6100100), res=1.0), "grid: {crs: EPSG:32632, resolution_m: 2}"),
        (item(1, (300000, 6100000, 300100, 6100100), crs="EPSG:32633"), "grid: {crs: utm, resolution_m: 2}"),
    ],
    ids=["phase", "resolution", "zone"],
)
def test_items_on_several_lattices_have_no_native_one_and_the_error_says_what_to_write(
    other: Item, remedy: str
) -> None:
    with pytest.raises(GridError, match="several pixel grids") as refused:
        native_lattice([item(0, (600000, 6100000, 600100, 6100100)), other])
    assert remedy in refused.value.fix
    assert refused.value.where["item"] == "item-1"


def test_items_that_do_not_say_where_they_lie_have_no_native_lattice() -> None:
    with pytest.raises(GridError, match="where their pixels lie") as refused:
        native_lattice([item(0, (600000, 6100000, 600100, 6100100), placement=None)])
    assert "resolution_m" in refused.value.fix


def test_imagery_that_is_turned_has_no_native_lattice() -> None:
    turned = Placement(crs="EPSG:32632", transform=Affine(2, 0.1, 600000, 0.1, -2, 6100000), shape=(50, 50))
    with pytest.raises(GridError, match="north-up"):
        native_lattice([item(0, (600000, 6100000, 600100, 6100100), placement=turned)])


def test_the_surface_of_a_pixel_is_true_where_it_lies() -> None:
    plan = lay_plan(spec(), [item(0, around(AREA))], AREA, window_px=WINDOW_PX)
    lattice = plan.grids[0].lattice
    assert pixel_km2(lattice, PixelBox(*plan.grids[0].box.__getstate__())) == pytest.approx(4e-6, rel=2e-3)  # type: ignore[misc]


def test_a_plan_says_what_it_will_cost_and_writes_nothing(world: World, resmap: Resmap, tmp_path: Path) -> None:
    import yaml

    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr")))
    said = resmap("plan", "--json", job)
    assert said.status == 0
    plan = said.document
    assert plan["run"].startswith("small-world-")
    assert plan["mosaic"] == str(tmp_path / "map.zarr")
    assert plan["items"] == 4
    assert plan["first_date"].startswith("2024-06-01")
    assert plan["last_date"].startswith("2025-01-15")
    assert 0 < plan["holes"] < plan["tiles"]
    (grid,) = plan["grids"]
    assert grid["shape"] == [128 * side for side in grid["shards"]]
    assert 0.5 < plan["covered_share"] < 1
    assert plan["hole_km2"] == pytest.approx((1 - plan["covered_share"]) * plan["area_km2"], rel=0.01)
    assert plan["written_bytes"] == plan["tiles"] * 128 * 128 * (1 + 1 + 4)
    assert plan["windows"] > 0
    assert plan["requests"] > plan["items"]
    for price in ("seconds", "usd"):
        assert 0 <= plan[price]["low"] <= plan[price]["likely"] <= plan[price]["high"]
    assert plan["usd"]["likely"] == pytest.approx(plan["seconds"]["likely"] * 2.0 / 3600 * plan["workers"])
    assert not (tmp_path / "map.zarr").exists()
    assert "tiles" in resmap("plan", job).out  # and for people


def test_a_plan_counts_the_windows_and_tiles_that_the_run_has(world: World, tmp_path: Path) -> None:
    from jobs.estimate import estimate

    job = Job.from_dict(world.job(tmp_path / "map.zarr"))
    prepared = prepare(job)
    cost = estimate(prepared.plan, job.spec, prepared.area, window_px=96, seconds_per_window=None, workers=1)
    summary = job.run(local=True).wait(timeout_s=100)
    assert cost.tiles == summary.tiles["planned"]
    ran = sum(worker["windows"] for worker in summary.workers)
    assert ran <= cost.windows <= 2 * ran  # the plan does not know where inside its footprint a scene is blank
    assert cost.seconds is None
    assert cost.usd is None
