from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.affinity import rotate
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from jobs.grids import native_lattice, pixel_km2
from jobs.job import Job
from jobs.plan import Plan, lay_plan
from jobs.prepare import prepare
from jobs.spec import JobSpec, spec_from
from mapper.errors import EmptySearchError, GridError
from mapper.grid import PixelBox, Windows
from mapper.imagery import Asset, Band, Item, Placement
from mapper.map_tile import asked_pixels
from tests.stories.command_line import Resmap
from tests.stories.world import World, merged

WINDOW_PX = 96
AREA = box(12.0, 55.0, 12.01, 55.005)


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
    lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    footprint = shapely.transform(box(*bounds), lambda xy: np.column_stack(lonlat.transform(xy[:, 0], xy[:, 1])))
    asset = Asset(key="image", href=f"/data/{index}.tif", placement=more.pop("placement", place))
    moment = more.pop("moment", datetime(2024, 6, 1 + index, tzinfo=UTC))
    return Item(id=f"item-{index}", collection="c", datetime=moment, footprint=footprint, index=index,
                bands=(Band(asset=asset),))  # fmt: skip


def around(area: BaseGeometry, margin_m: float = 0.0, crs: str = "EPSG:32632") -> tuple[float, float, float, float]:
    bounds = Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform_bounds(*area.bounds)
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
    assert len({plan.key(row) for row in range(len(plan.tiles))}) == len(plan.tiles)


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
