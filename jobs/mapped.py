"""What a mosaic was asked to map, where and when it looked, and with what: from the runs that lie beside it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from catalogs.conditions import dates_of
from catalogs.select import utm_zones
from catalogs.snapshot import thaw
from jobs.areas import projected
from jobs.ledger import RunFolder, run_names
from jobs.speaking import Axes, columns_of, renews_of, standing_tiles
from jobs.stac.places import time_range
from jobs.stac.provenance import job_of, told
from mapper.grid import Grid, PixelBox
from mapper.mosaic import Mosaic
from mapper.names import plain, slug
from mapper.runs import levels_behind

Dates: TypeAlias = tuple[datetime, datetime]
"""The first and last instant of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One time step of one zone."""

    grid: Grid
    time: int
    """Position on the mosaic's time axis."""

    shards: frozenset[tuple[int, int]] | None
    """Row and column of what was planned and has imagery still; None where no run tells."""

    first: datetime
    last: datetime
    """The instants between which it looked, aware, UTC; equal where it is a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A mosaic, and what its runs tell of it."""

    mosaic: Mosaic
    runs: tuple[RunFolder, ...]
    """Oldest first."""

    facts: dict[str, Any]
    """The newest run, as everybody may know it; empty where there is none."""

    begun: str
    """When the oldest run was planned, ISO 8601; empty where there is none."""

    job: dict[str, Any]
    """The newest run's job file, as it was given: not for everybody."""

    areas: dict[str, BaseGeometry]
    """As ``areas``."""

    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """The job's name, else the sentences."""
        return str(self.facts.get("name") or ", ".join(prompt.expression for prompt in self.mosaic.prompts))

    @property
    def id(self) -> str:
        """The same for the same answers: from what the mosaic's values depend on, else from where it lies."""
        key = self.mosaic.made_by.get("answer_key")
        return f"{plain(self.title) or 'job'}-{str(key)[:10]}" if key else slug(self.mosaic.url.rsplit("/", 1)[-1])


def known_of(mosaic: Mosaic) -> Known:
    """All that the runs beside a mosaic tell.

    Raises:
        MosaicError: a file of a run is damaged.
    """
    runs = tuple(RunFolder(mosaic.url, run) for run in run_names(mosaic.url))
    job = job_of(runs[-1]) if runs else {}
    return Known(
        mosaic=mosaic,
        runs=runs,
        facts=told(runs[-1]) if runs else {},
        begun=str(runs[0].facts().get("created", "")) if runs else "",
        job=job,
        areas=areas(mosaic),
        parts=_parts(mosaic, runs, (job.get("imagery") or {}).get("time_step", "all")),
    )


def areas(mosaic: Mosaic) -> dict[str, BaseGeometry]:
    """Name of each grid → the area asked for there, longitude and latitude, in zones cut at their borders.

    Empty where no run lies beside the mosaic: then nobody knows.
    """
    asked = {RunFolder(mosaic.url, run).area() for run in run_names(mosaic.url)}
    if not asked:
        return {}
    whole = shapely.union_all([shapely.from_wkb(area) for area in sorted(asked)])
    strips = {zone.name: zone.strip for zone in utm_zones(whole)} if any(grid.name for grid in mosaic.grids) else {}
    return {grid.name: strips.get(grid.name, whole) for grid in mosaic.grids}


def levels_stand(mosaic_url: str) -> bool:
    """Whether coarser levels stand over all that is mapped: every run has ended, and left none of them out."""
    runs = run_names(mosaic_url)
    return bool(runs) and not any(levels_behind(RunFolder(mosaic_url, run).facts()) for run in runs)


def pixels_of(grid: Grid, area: BaseGeometry) -> PixelBox:
    """The pixels of a grid that hold an area of longitude and latitude; all of them where it lies elsewhere."""
    box = grid.lattice.pixels(projected(area, grid.lattice.crs).bounds).intersection(grid.box)
    return grid.box if box.empty else box


def _parts(mosaic: Mosaic, runs: tuple[RunFolder, ...], time_step: str) -> tuple[Part, ...]:
    """Time steps and zones in which something was planned, oldest first; all of them where no run tells."""
    times = [time.astimezone(UTC) for time in mosaic.times]
    if not runs:
        return tuple(
            Part(grid=grid, time=number, shards=None, first=time, last=time)
            for number, time in enumerate(times)
            for grid in mosaic.grids
        )
    shards: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    seen: dict[tuple[int, int], list[Dates]] = defaultdict(list)
    held, axes = [(run, run.facts()) for run in runs], Axes(mosaic)
    stands = standing_tiles([columns_of(run, facts, axes) for run, facts in held])
    dates: list[Dates | None] = []
    for number, (run, facts) in sorted(enumerate(held), key=lambda one: renews_of(one[1][1])):
        looked: dict[tuple[int, int], set[int]] = defaultdict(set)
        tiles = run.tiles()
        zone, step = axes.places(run.places(), facts)
        # -1: planned, and the mosaic has no room for it yet, or renewed since by another run.
        place = np.where((step < 0) | (zone < 0) | ~stands[number], -1, step * len(mosaic.grids) + zone)
        if renews_of(facts):  # what has lost its imagery is looked at no more
            place[tiles.holes] = -1
        order = np.argsort(place, kind="stable")
        begins = np.flatnonzero(np.diff(place[order], prepend=-1))
        for rows in np.split(order, begins)[1:]:
            where = divmod(int(place[rows[0]]), len(mosaic.grids))
            shards[where].update(zip(tiles.row[rows].tolist(), tiles.column[rows].tolist(), strict=True))
        shown = np.stack([np.repeat(place, np.diff(tiles.first_item)), tiles.item])
        for at, item in np.unique(shown[:, shown[0] >= 0], axis=1).T.tolist():
            looked[divmod(at, len(mosaic.grids))].add(item)
        if looked and (renews_of(facts) or not dates):  # ordinary runs share a table
            dates = [dates_of(document) for document in thaw(run.items())]
        for where, items in looked.items():
            seen[where] += [known for item in items if (known := dates[item]) is not None]
    parts = []
    for time, grid in sorted(shards, key=lambda where: (times[where[0]], where[1])):
        first, until = time_range(times[time], time_step, seen[time, grid])
        parts.append(
            Part(
                grid=mosaic.grids[grid], time=time, shards=frozenset(shards[time, grid]),
                first=first.astimezone(UTC), last=until.astimezone(UTC),
            )
        )  # fmt: skip
    return tuple(parts)
