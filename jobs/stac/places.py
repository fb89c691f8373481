"""Where and when a slice of a mosaic is, as STAC has it: longitude and latitude, and an honest range of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from jobs.areas import projected
from mapper.grid import Grid
from mapper.questions.placed import to_lonlat

GRAIN_DEG = 1e-7
"""Coordinates are rounded to a centimetre."""

Bbox: TypeAlias = tuple[float, float, float, float]
"""West, south, east, north in degrees; west is greater than east across the antimeridian, as GeoJSON has it."""


def footprint(grid: Grid, area: BaseGeometry | None, shards: Collection[tuple[int, int]] | None) -> BaseGeometry:
    """The ground that was looked at: valid, within ±180, cut at the antimeridian, rings counter-clockwise.

    Args:
        grid: of the mosaic.
        area: what was asked for there, longitude and latitude; None where nobody knows.
        shards: row and column of those that were planned; None for all.
    """
    planned = box(*grid.lattice.bounds(grid.box))
    if shards is not None and len(shards) < math.prod(grid.tile_shape):
        cores = [grid.tile(row, column).core for row, column in sorted(shards)]
        planned = shapely.union_all([box(*grid.lattice.bounds(core)) for core in cores])
    if area is None:
        return _tidy(_back(planned, grid.lattice.crs, near=_middle(planned, grid.lattice.crs)))
    parts = []
    for part in shapely.get_parts(area):
        there = projected(part, grid.lattice.crs)
        if planned.buffer(grid.lattice.res_x).covers(there):
            parts.append(part)
            continue
        met = there.intersection(planned)
        parts.append(_back(met, grid.lattice.crs, near=(part.bounds[0] + part.bounds[2]) / 2))
    return _tidy(shapely.union_all(parts))


def bbox_of(geometry: BaseGeometry) -> Bbox:
    """The box around a geometry within ±180; across the antimeridian where that is the narrower one."""
    west, south, east, north = geometry.bounds
    spans = sorted((part.bounds[0], part.bounds[2]) for part in shapely.get_parts(geometry))
    reach, widest, gap = spans[0][1], 0.0, (east, west)
    for left, right in spans[1:]:
        if left - reach > widest:
            widest, gap = left - reach, (reach, left)
        reach = max(reach, right)
    if widest > 360 - (east - west):
        return gap[1], south, gap[0], north
    return west, south, east, north


def time_range(
    step: datetime, time_step: str | None, seen: Collection[tuple[datetime, datetime]]
) -> tuple[datetime, datetime]:
    """The first and last instant that a time step stands for; equal where it is a moment.

    Args:
        step: when it begins.
        time_step: as in a job file; None where no job is known.
        seen: first and last instant of each picture in it.
    """
    if time_step in _NEXT:
        return step, _NEXT[time_step](step) - timedelta(seconds=1)
    if time_step == "all" and seen:
        return min(first for first, _ in seen), max(last for _, last in seen)
    return step, step


def _months(count: int) -> Callable[[datetime], datetime]:
    def later(step: datetime) -> datetime:
        years, month = divmod(step.month - 1 + count, 12)
        return step.replace(year=step.year + years, month=month + 1)

    return later


_NEXT: dict[str | None, Callable[[datetime], datetime]] = {
    "day": lambda step: step + timedelta(days=1),
    "week": lambda step: step + timedelta(days=7),
    "month": _months(1),
    "season": _months(3),
    "year": _months(12),
}
"""Step length of a job → the beginning of the next step."""


def _middle(shape: BaseGeometry, crs: str) -> float:
    """Longitude of its middle."""
    point = shape.representative_point()
    longitude, _ = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(point.x, point.y)
    return float(longitude)


def _back(shape: BaseGeometry, crs: str, *, near: float) -> BaseGeometry:
    """A shape of a CRS in longitude and latitude; what reaches beyond ±180 comes back in on the other side."""

    def unwrapped(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([(xy[:, 0] - near + 180) % 360 - 180 + near, xy[:, 1]])

    there = to_lonlat(shape, crs)
    whole = shapely.make_valid(shapely.transform(there, unwrapped))
    parts = [
        shapely.transform(whole.intersection(box(turn - 180, -90, turn + 180, 90)), lambda xy, by=turn: xy - [by, 0])
        for turn in (-360, 0, 360)
    ]
    return shapely.union_all(parts)


def _tidy(geometry: BaseGeometry) -> BaseGeometry:
    rounded = shapely.set_precision(geometry, GRAIN_DEG)
    surfaces = [part for part in shapely.get_parts(rounded) if part.geom_type == "Polygon" and not part.is_empty]
    whole = shapely.union_all(surfaces, grid_size=GRAIN_DEG) if len(surfaces) > 1 else surfaces[0]
    return shapely.orient_polygons(whole)
