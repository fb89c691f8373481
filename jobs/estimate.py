"""What a plan costs before anything is spent: tiles, bytes, requests, hours and money."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from shapely.geometry.base import BaseGeometry

from catalogs.select import coverage
from jobs.areas import area_km2
from jobs.grids import placed
from jobs.plan import Plan
from jobs.spec import JobSpec
from mapper.errors import SpecError
from mapper.grid import Windows

READ_BLOCK_PX = 512
"""Side of the blocks imagery is usually stored in: what one request brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An estimate and how far it may be off."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Range:
        """Each of the three, multiplied."""
        return Range(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan costs before anything is spent."""

    area_km2: float
    covered_share: float
    """Of the area, 0 to 1, under at least one footprint."""

    hole_km2: float
    first_date: datetime
    last_date: datetime
    items: int
    tiles: int
    holes: int
    """Tiles without any imagery: they are written as unobserved and cost no GPU."""

    windows: int
    read_bytes: int
    """Decoded, at most: reading stops where a pixel is seen."""

    written_bytes: int
    """Before compression."""

    requests: int
    seconds: Range | None
    """Of the whole run; None where the model was not timed."""

    usd: Range | None
    workers: int


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
    covered = coverage(area, [item for item in plan.items if item.footprint.intersects(area)])
    bands, prompts = len(spec.imagery.bands), len(spec.prompts)
    itemsize = 1 if spec.imagery.scale is None else 2
    looks = read_px = requests = written = holes = 0
    opened: set[tuple[int, str]] = set()
    for tile in plan.tiles:
        grid = plan.grids[tile.grid]
        core = grid.tile(tile.row, tile.column).core
        written += core.height * core.width * (2 * prompts + 4)
        if not tile.items:
            holes += 1
            continue
        part = grid.lattice.pixels(plan.areas[grid.name].bounds).intersection(core)
        frame = windows.frame(core)
        looks += sum(1 for _ in windows.touching(core if part.empty else part))
        for number in tile.items:
            seen = placed(plan.items[number], grid.lattice).extent.intersection(frame)
            files = {band.asset.href for band in plan.items[number].bands}
            read_px += seen.height * seen.width * bands
            requests += len(files) * math.ceil(seen.height / READ_BLOCK_PX) * math.ceil(seen.width / READ_BLOCK_PX)
            opened |= {(number, href) for href in files}
    workers = max(1, workers)
    seconds = None if seconds_per_window is None else seconds_per_window.times(looks / workers)
    hourly = spec.compute.usd_per_gpu_hour * workers / 3600
    dates = [item.datetime for item in plan.items if item.footprint.intersects(area)]
    return Estimate(
        area_km2=area_km2(area),
        covered_share=covered.share,
        hole_km2=area_km2(covered.holes) if not covered.holes.is_empty else 0.0,
        first_date=min(dates),
        last_date=max(dates),
        items=len(dates),
        tiles=len(plan.tiles),
        holes=holes,
        windows=looks,
        read_bytes=read_px * itemsize,
        written_bytes=written,
        requests=requests + 2 * len(opened),
        seconds=seconds,
        usd=None if seconds is None else seconds.times(hourly),
        workers=workers,
    )


def refuse_over_budget(cost_usd: float, budget_usd: float | None) -> None:
    """Stop a job whose plan costs more than its budget.

    Raises:
        SpecError: it does.
    """
    if budget_usd is not None and cost_usd > budget_usd:
        raise SpecError(
            f"the plan costs about ${cost_usd:,.2f}, and the budget is ${budget_usd:,.2f}",
            fix="raise compute.budget_usd, or ask for less",
        )
