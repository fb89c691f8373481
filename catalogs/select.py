"""Which items serve which step of time, which zone, and how much of an area."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias, get_args

import shapely
from pyproj import Transformer
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from mapper.errors import GridError, SpecError
from mapper.imagery import Item

Step: TypeAlias = Literal["all", "scene", "day", "week", "month", "season", "year"]
Composite: TypeAlias = Literal["first", "latest", "median", "least-cloudy"]

_EQUAL_AREA = "EPSG:6933"
"""Cylindrical equal-area, metres, on the WGS 84 ellipsoid: parallels and meridians stay straight."""

_LONGEST_EDGE = 0.25
"""Degrees. A slanting edge is cut up before it is projected: straight on the map, it bends in any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStep:
    """One step of the time axis, and the items in it."""

    start: datetime
    """Where the step begins, aware, UTC; for ``all`` and ``scene`` the instant of its earliest item."""

    items: tuple[Item, ...]
    """By (datetime, id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UtmZone:
    """One UTM zone, and the part of an area that lies in it."""

    name: str
    """As in ``utm33n``."""

    crs: str
    strip: BaseGeometry
    """Longitude and latitude."""


class Coverage(NamedTuple):
    """How much of an area has imagery."""

    share: float
    """0 to 1, of true area."""

    holes: BaseGeometry
    """What has none; longitude and latitude, empty where all has."""


def time_steps(items: Sequence[Item], time_step: Step) -> list[TimeStep]:
    """The steps in time order, every item in exactly one.

    Days begin at 0:00 UTC, weeks on Monday, seasons with March, June, September and December. ``scene`` makes
    one step of each instant: scenes cut into several items stay together.
    """
    if time_step not in get_args(Step):
        raise SpecError(f"time_step {time_step!r} is none", fix=f"use one of {', '.join(get_args(Step))}")
    steps: dict[datetime, list[Item]] = {}
    in_order = sorted(items, key=_by_date)
    for item in in_order:
        start = in_order[0].datetime if time_step == "all" else step_start(item.datetime, time_step)
        steps.setdefault(start, []).append(item)
    return [TimeStep(start=start, items=tuple(steps[start])) for start in sorted(steps)]


def step_start(moment: datetime, time_step: Step) -> datetime:
    """Where the step of a moment begins, as ``time_steps`` has it; for ``all`` no moment tells.

    Args:
        moment: aware.
        time_step: anything but ``all``.
    """
    return _START[time_step](moment.astimezone(UTC))


def items_order(items: Sequence[Item], composite: Composite) -> tuple[Item, ...]:
    """The items in the order in which a composite looks at them; the same whatever order they come in."""
    if composite not in get_args(Composite):
        raise SpecError(f"composite {composite!r} is none", fix=f"use one of {', '.join(get_args(Composite))}")
    if composite == "latest":
        return tuple(sorted(items, key=_by_date, reverse=True))
    if composite == "least-cloudy":
        return tuple(sorted(items, key=lambda item: (_cloudiness(item), *_by_date(item))))
    return tuple(sorted(items, key=_by_date))


def utm_zones(area: BaseGeometry) -> list[UtmZone]:
    """The zones an area lies in, by number, north before south; their strips cover it once.

    The zones are the plain ones, 6° wide: the exceptions around Norway and Svalbard are left out, so that a
    pixel's zone follows from its longitude alone. What only touches a meridian or the equator is not in the
    zone beyond.

    Args:
        area: longitude within ±180, latitude.

    Raises:
        GridError: the area reaches beyond 84° north or 80° south, or has no extent.
    """
    west, south, east, north = area.bounds if not area.is_empty else (0.0, 0.0, 0.0, 0.0)
    if south < -80 or north > 84:
        raise GridError("UTM ends at 80° south and 84° north", fix="give grid.crs a polar projection")
    if west < -180 or east > 180:
        raise GridError("the area has longitudes beyond ±180", fix="cut it at the antimeridian")
    zones = []
    for number in range(_zone_number(west), _zone_number(east) + 1):
        left = 6 * number - 186
        for letter, code, low, high in (("n", 32600, 0, 84), ("s", 32700, -80, 0)):
            strip = _areal(area.intersection(box(left, low, left + 6, high)))
            if not strip.is_empty:
                zones.append(UtmZone(name=f"utm{number:02d}{letter}", crs=f"EPSG:{code + number}", strip=strip))
    if not zones:
        raise GridError("the area has no extent", fix="give a polygon or a bbox with a width and a height")
    return zones


def coverage(area: BaseGeometry, items: Sequence[Item]) -> Coverage:
    """The share of an area that lies under at least one footprint, and the rest of it."""
    if not items:
        return Coverage(0.0, area)
    # Scenes of one place often have one footprint, whatever their date: 4 000 places are joined, not 250 000 scenes.
    once = dict.fromkeys(shapely.to_wkb([item.footprint for item in items]).tolist())
    footprints = shapely.union_all(shapely.from_wkb(list(once)))
    holes = _areal(area.difference(footprints))
    total = _true_area(area)
    if total <= 0:
        return Coverage(1.0 if footprints.intersects(area) else 0.0, holes)
    return Coverage(min(1.0, max(0.0, 1.0 - _true_area(holes) / total)), holes)


def _by_date(item: Item) -> tuple[datetime, str, str]:
    return item.datetime, item.id, item.collection


def _cloudiness(item: Item) -> float:
    """Per cent; what is not known comes last, a NaN with it."""
    known = item.cloud_cover is not None and not math.isnan(item.cloud_cover)
    return item.cloud_cover if known and item.cloud_cover is not None else 101.0


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _season(moment: datetime) -> datetime:
    first = _midnight(moment).replace(day=1)
    if first.month < 3:
        return first.replace(year=first.year - 1, month=12)
    return first.replace(month=first.month // 3 * 3)


_START: dict[str, Callable[[datetime], datetime]] = {
    "scene": lambda moment: moment,
    "day": _midnight,
    "week": lambda moment: _midnight(moment) - timedelta(days=moment.weekday()),
    "month": lambda moment: _midnight(moment).replace(day=1),
    "season": _season,
    "year": lambda moment: _midnight(moment).replace(month=1, day=1),
}


def _zone_number(longitude: float) -> int:
    return min(60, math.floor((longitude + 180) / 6) + 1)


def _areal(geometry: BaseGeometry) -> BaseGeometry:
    """Its polygons: cuts along an edge leave points and lines behind."""
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    parts += [_areal(part) for part in shapely.get_parts(geometry) if part.geom_type == "GeometryCollection"]
    return shapely.union_all(parts) if len(parts) != 1 else parts[0]


def _true_area(geometry: BaseGeometry) -> float:
    if geometry.is_empty:
        return 0.0
    project = Transformer.from_crs("EPSG:4326", _EQUAL_AREA, always_xy=True).transform
    cut = shapely.segmentize(geometry, _LONGEST_EDGE)
    return float(shapely.transform(cut, project, interleaved=False).area)
