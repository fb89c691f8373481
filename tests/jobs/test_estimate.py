"""What a plan says it will cost, against counting one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.affinity import rotate
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from jobs.amounts import Range
from jobs.estimate import Estimate, estimate
from jobs.grids import placed
from jobs.plan import Plan, lay_plan
from jobs.spec import JobSpec
from jobs.tile_table import TileTable
from jobs.windows import WindowCount, count_windows
from mapper.grid import PixelBox, Windows
from mapper.imagery import Item
from tests.jobs.test_plan import AREA, WINDOW_PX, around, item, spec

WINDOWS = Windows(size_px=WINDOW_PX, overlap_px=32)


def west_and_east(**properties: Any) -> list[Item]:
    """Two scenes that meet inside the area; the eastern one leaves its corner bare."""
    left, bottom, right, top = around(AREA)
    items = [item(0, (left, bottom, left + 300, top)), item(1, (left + 260, bottom, right - 160, top))]
    return [replace(one, **properties) for one in items]


def cost_of(plan: Plan, job: JobSpec, area: BaseGeometry = AREA, **changes: Any) -> Estimate:
    asked: dict[str, Any] = {"window_px": WINDOW_PX, "seconds_per_window": None, "workers": 1}
    return estimate(plan, job, area, **(asked | changes))


def counted(plan: Plan, windows: Windows = WINDOWS) -> WindowCount:
    """Window by window, as a worker goes about it."""
    once: set[tuple[int, int, PixelBox]] = set()
    own = 0
    for tile in plan.tiles:
        grid = plan.grids[tile.grid]
        area, core = plan.areas[grid.name], grid.tile(tile.row, tile.column).core
        for window in windows.touching(core) if tile.items else ():
            if area.intersects(box(*grid.lattice.bounds(window.intersection(core)))):
                own += 1
                once.add((tile.step, tile.grid, window))
    return WindowCount(once=len(once), own=own)


@given(
    angle=st.floats(0, 90),
    width=st.floats(0.002, 0.02),
    crs=st.sampled_from(["EPSG:32632", "utm"]),
    shard_px=st.sampled_from([64, 128, 256]),
    size_px=st.sampled_from([32, 96, 160]),
    time_step=st.sampled_from(["all", "day"]),
)
def test_windows_are_counted_as_one_by_one(
    angle: float, width: float, crs: str, shard_px: int, size_px: int, time_step: str
) -> None:
    area = rotate(box(11.995, 55.0, 11.995 + width, 55.004), angle)
    left, bottom, right, top = around(area, 40)
    items = [item(0, (left, bottom, left + (right - left) * 0.6, top)), item(1, (left, bottom, right, top))]
    windows = Windows(size_px=size_px, overlap_px=size_px // 4)
    job = spec(
        grid={"crs": crs, "shard_px": shard_px},
        imagery={"time_step": time_step},
        windows={"overlap_px": size_px // 4},
    )
    plan = lay_plan(job, items, area, window_px=size_px)
    assert count_windows(plan, windows) == counted(plan, windows)


def test_windows_over_scattered_tiles_are_counted_as_one_by_one() -> None:
    far = shapely.union(AREA, box(12.6, 55.4, 12.605, 55.403))  # between them a hundred thousand tiles are not planned
    items = [item(0, around(AREA)), item(1, around(box(12.6, 55.4, 12.605, 55.403)))]
    plan = lay_plan(spec(grid={"shard_px": 64}), items, far, window_px=WINDOW_PX)
    rows, columns = plan.grids[0].tile_shape
    assert rows * columns > 100 * len(plan.tiles)
    assert count_windows(plan, WINDOWS) == counted(plan)


def test_where_too_many_windows_lie_along_the_outline_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    corner = shapely.Polygon([(12.0, 55.0), (12.01, 55.0), (12.0, 55.005)])
    plan = lay_plan(spec(), [item(0, around(AREA))], corner, window_px=WINDOW_PX)
    exact = counted(plan)
    monkeypatch.setattr("jobs.windows.MOST_OUTLINED", 10)
    assert count_windows(plan, WINDOWS).own > exact.own
    assert count_windows(plan, WINDOWS).once > exact.once


def test_reads_are_counted_as_one_by_one() -> None:
    job = spec()
    plan = lay_plan(job, west_and_east(), AREA, window_px=WINDOW_PX)
    pixels = requests = 0
    for tile in plan.tiles:
        grid = plan.grids[tile.grid]
        frame = WINDOWS.frame(grid.tile(tile.row, tile.column).core)
        for number in tile.items:
            seen = placed(plan.items[number], grid.lattice).extent.intersection(frame)
            pixels += seen.height * seen.width
            requests += math.ceil(seen.height / 512) * math.ceil(seen.width / 512)
    cost = cost_of(plan, job)
    assert cost.read_bytes == pixels
    assert cost.requests == requests + 2 * 2  # the header of each file
    assert cost.holes == sum(not tile.items for tile in plan.tiles) > 0
    assert cost.written_bytes == len(plan.tiles) * 128 * 128 * (1 + 1 + 4)


def test_a_plan_in_parts_counts_as_a_plan_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    job = spec(grid={"crs": "utm"}, imagery={"time_step": "day"})
    plan = lay_plan(job, west_and_east(), AREA, window_px=WINDOW_PX)
    whole = cost_of(plan, job)
    monkeypatch.setattr("jobs.estimate.TILES_AT_ONCE", 3)
    monkeypatch.setattr("jobs.windows.TILES_AT_ONCE", 3)
    assert cost_of(plan, job) == whole


def test_the_cloud_share_is_that_of_the_items_as_far_as_they_are_read() -> None:
    job = spec()
    west, east = west_and_east()
    plan = lay_plan(job, [replace(west, cloud_cover=20.0), replace(east, cloud_cover=20.0)], AREA, window_px=WINDOW_PX)
    assert cost_of(plan, job).cloud_share == pytest.approx(0.2)
    plan = lay_plan(job, [replace(west, cloud_cover=0.0), replace(east, cloud_cover=50.0)], AREA, window_px=WINDOW_PX)
    share = cost_of(plan, job).cloud_share
    assert share is not None
    assert 0.1 < share < 0.25  # the east is the smaller of the two
    plan = lay_plan(job, [replace(west, cloud_cover=30.0), east], AREA, window_px=WINDOW_PX)
    assert cost_of(plan, job).cloud_share == pytest.approx(0.3)  # of what is known
    plan = lay_plan(job, [west, east], AREA, window_px=WINDOW_PX)
    assert cost_of(plan, job).cloud_share is None


def test_the_time_reaches_from_every_window_once_to_every_tile_its_own() -> None:
    job = spec(compute={"usd_per_gpu_hour": 3.6})
    plan = lay_plan(job, west_and_east(), AREA, window_px=WINDOW_PX)
    cost = cost_of(plan, job, seconds_per_window=Range(low=1.0, likely=2.0, high=3.0), workers=4)
    assert cost.seconds is not None
    assert cost.usd is not None
    assert cost.windows_once < cost.windows
    assert cost.seconds.low == cost.windows_once / 4
    assert cost.seconds.high == 3 * cost.windows / 4
    assert cost.seconds.low < cost.seconds.likely <= 2 * cost.windows / 4
    assert cost.usd.high == pytest.approx(cost.seconds.high * 4 * 3.6 / 3600)


def test_the_cost_of_a_continent_is_told_by_arithmetic() -> None:
    side = 300
    rows, columns = (axis.ravel() for axis in np.indices((side, side), np.int32))
    job = spec(grid={"resolution_m": 2.0})
    reach = side * 128 * 2.0
    land = item(0, (600000, 6000000, 600000 + reach, 6000000 + reach))
    plan = lay_plan(job, [item(0, around(AREA))], AREA, window_px=WINDOW_PX)
    grid = replace(plan.grids[0], box=plan.grids[0].lattice.pixels((600000, 6000000, 600000 + reach, 6000000 + reach))
                   .snapped(128))  # fmt: skip
    all_of_it = box(*grid.lattice.bounds(grid.box))
    tiles = TileTable(
        grid=np.zeros(side**2, np.int16), step=np.zeros(side**2, np.int32), row=rows, column=columns,
        clipped=np.zeros(side**2, np.bool_), first_item=np.arange(side**2 + 1), item=np.zeros(side**2, np.int32),
    )  # fmt: skip
    large = replace(plan, items=(land,), grids=(grid,), areas={"": all_of_it}, tiles=tiles)
    looks = count_windows(large, WINDOWS)
    top, left = (grid.box.top - 96) // 64 + 1, (grid.box.left - 96) // 64 + 1
    down, across = (grid.box.top + side * 128 - 1) // 64 - top + 1, (grid.box.left + side * 128 - 1) // 64 - left + 1
    assert looks.once == down * across
    assert looks.own == pytest.approx(side**2 * 3 * 3, rel=0.01)
