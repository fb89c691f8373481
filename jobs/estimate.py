"""What a plan costs before anything is spent: tiles, bytes, requests, hours and money. Ten million tiles in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from catalogs.select import coverage
from jobs.amounts import Range
from jobs.areas import area_km2
from jobs.grids import placed
from jobs.plan import Plan
from jobs.spec import JobSpec
from jobs.windows import TILES_AT_ONCE, count_windows, groups
from mapper.grid import Grid, Windows
from mapper.imagery import Item

READ_BLOCK_PX = 512
"""Side of the blocks imagery is usually stored in: what one request brings."""

REUSED = 1.15
"""Windows looked at in a run, in times of the different ones: tiles of one worker share theirs, two workers do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan costs before anything is spent."""

    area_km2: float
    covered_share: float
    """Of the area, 0 to 1, under at least one footprint."""

    hole_km2: float
    first_date: datetime
    last_date: datetime
    cloud_share: float | None
    """Mean of what the catalog says of its items, 0 to 1, each as often as tiles read its pixels; None where it is
    silent. Whole scenes: a composite that chooses shows less."""

    items: int
    tiles: int
    holes: int
    """Tiles without any imagery: they are written as unobserved and cost no GPU."""

    windows: int
    """Where every tile looks at its own: the most."""

    windows_once: int
    """Where every window is looked at once: the least."""

    read_bytes: int
    """Decoded, at most: reading stops where a pixel is seen."""

    written_bytes: int
    """Before compression."""

    stored_bytes: Range | None
    """After it; None without a pilot."""

    requests: int
    seconds: Range | None
    """Of the whole run; None where the model was not timed."""

    usd: Range | None
    workers: int

    def taking(self, seconds: Range, usd_per_gpu_hour: float) -> Estimate:
        """The same with another time."""
        return replace(self, seconds=seconds, usd=seconds.times(usd_per_gpu_hour * self.workers / 3600))


def estimate(
    plan: Plan,
    spec: JobSpec,
    area: BaseGeometry,
    *,
    window_px: int,
    seconds_per_window: Range | None,
    workers: int,
) -> Estimate:
    """What the plan costs, from its tiles and the measured time of a window."""
    windows = Windows(size_px=window_px, overlap_px=spec.windows.overlap_px)
    looks = count_windows(plan, windows)
    reads = _count_reads(plan, windows, READ_BLOCK_PX, itemsize=1 if spec.imagery.scale is None else 2)
    shapely.prepare(area)
    footprints = np.array([item.footprint for item in plan.items], np.object_)
    inside = np.flatnonzero(shapely.intersects(area, footprints))
    covered = coverage(area, _without_repeats([plan.items[n] for n in inside]))
    dates = [item.datetime for item in ([plan.items[n] for n in inside] or plan.items)]
    shard_px = np.array([grid.shard_px for grid in plan.grids], np.int64)
    known = Estimate(
        area_km2=area_km2(area),
        covered_share=covered.share,
        hole_km2=area_km2(covered.holes) if not covered.holes.is_empty else 0.0,
        first_date=min(dates),
        last_date=max(dates),
        cloud_share=_cloud_share(plan.items, reads.pixels_of_item),
        items=len(inside),
        tiles=len(plan.tiles),
        holes=int(plan.tiles.holes.sum()),
        windows=looks.own,
        windows_once=looks.once,
        read_bytes=reads.bytes,
        written_bytes=int(shard_px**2 @ np.bincount(plan.tiles.grid, minlength=len(shard_px)))
        * (2 * len(spec.prompts) + 4),
        stored_bytes=None,
        requests=reads.requests,
        seconds=None,
        usd=None,
        workers=max(1, workers),
    )
    if seconds_per_window is None:
        return known
    seconds = Range(
        low=seconds_per_window.low * looks.once,
        likely=seconds_per_window.likely * looks_likely(known),
        high=seconds_per_window.high * looks.own,
    )
    return known.taking(seconds.times(1 / known.workers), spec.compute.usd_per_gpu_hour)


def looks_likely(cost: Estimate) -> float:
    """Windows that a run will look at, most of what neighbours share being shared."""
    return min(REUSED * cost.windows_once, float(cost.windows))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reads:
    bytes: int
    requests: int
    pixels_of_item: NDArray[np.float64]
    """Pixels of each item that tiles read, halos and all."""


def _count_reads(plan: Plan, windows: Windows, block_px: int, *, itemsize: int) -> _Reads:
    bands = np.array([len(item.bands) for item in plan.items], np.int64)
    files = np.array([len({band.asset.href for band in item.bands}) for item in plan.items], np.int64)
    pixels = np.zeros(len(plan.items))
    total = requests = 0
    shown = _shown(plan)
    for number, grid in enumerate(plan.grids):
        extents = _extents(plan, grid, shown[number])
        for tiles, of_tile, item in _pairs(plan, number):
            frames = _frames(grid, windows, plan.tiles.row[tiles], plan.tiles.column[tiles])
            seen = _overlap(frames[of_tile], extents[item])
            height, width = seen[:, 0], seen[:, 1]
            total += int((height * width) @ bands[item]) * itemsize
            requests += int((-(-height // block_px) * -(-width // block_px)) @ files[item])
            pixels += np.bincount(item, weights=height * width, minlength=len(pixels))
    headers = 2 * int(files[shown.any(axis=0)].sum())
    return _Reads(bytes=total, requests=requests + headers, pixels_of_item=pixels)


def _pairs(plan: Plan, grid: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]]:
    """Rows of tiles of a grid, and of every pair of tile and item: which of these tiles, and which item."""
    table = plan.tiles
    rows = np.flatnonzero((table.grid == grid) & ~table.holes)
    for part in range(0, len(rows), TILES_AT_ONCE):
        tiles = rows[part : part + TILES_AT_ONCE]
        counts = table.first_item[tiles + 1] - table.first_item[tiles]
        of_tile = np.repeat(np.arange(len(tiles)), counts)
        nth = np.arange(len(of_tile)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield tiles, of_tile, table.item[table.first_item[tiles][of_tile] + nth]


def _frames(grid: Grid, windows: Windows, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> NDArray[np.int64]:
    """``(tile, 4)``: top, left, bottom, right of what the windows of each core look at; as ``Windows.frame``."""
    tops = grid.box.top + rows.astype(np.int64) * grid.shard_px
    lefts = grid.box.left + columns.astype(np.int64) * grid.shard_px
    size, stride = windows.size_px, windows.stride_px
    starts = [((edge - size) // stride + 1) * stride for edge in (tops, lefts)]
    ends = [(edge + grid.shard_px - 1) // stride * stride + size for edge in (tops, lefts)]
    return np.stack([*starts, *ends], axis=1)


def _shown(plan: Plan) -> NDArray[np.bool_]:
    """``(grid, item)``: whether any tile of the grid shows the item."""
    table = plan.tiles
    shown = np.zeros((len(plan.grids), len(plan.items)), np.bool_)
    for begin, end in groups(plan):
        shown[table.grid[begin], table.item[table.first_item[begin] : table.first_item[end]]] = True
    return shown


def _extents(plan: Plan, grid: Grid, shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``(item, 4)``: top, left, bottom, right of the lattice pixels each item may fill; 0 where it is not shown."""
    extents = np.zeros((len(plan.items), 4), np.int64)
    for number in np.flatnonzero(shown).tolist():
        extent = placed(plan.items[number], grid.lattice).extent
        extents[number] = extent.top, extent.left, extent.bottom, extent.right
    return extents


def _overlap(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(pair, 2)``: height and width of what two boxes share, 0 where nothing."""
    shared: NDArray[np.int64] = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    return shared.clip(0)


def _cloud_share(items: tuple[Item, ...], weights: NDArray[np.float64]) -> float | None:
    cover = np.array([np.nan if item.cloud_cover is None else item.cloud_cover for item in items])
    known = ~np.isnan(cover) & (weights > 0)
    return float(cover[known] @ weights[known] / weights[known].sum() / 100) if known.any() else None


def _without_repeats(items: list[Item]) -> list[Item]:
    """One item of each footprint: what a satellite sees again on its next pass covers no more."""
    return list({shapely.to_wkb(item.footprint): item for item in items}.values())
