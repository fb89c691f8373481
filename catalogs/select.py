"""Which items serve which step, zone and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from shapely.geometry.base import BaseGeometry

from mapper.imagery import Item

Step: TypeAlias = Literal["all", "scene", "day", "week", "month", "season", "year"]
Composite: TypeAlias = Literal["first", "latest", "median", "least-cloudy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStep:
    """One step of the time axis and the items in it."""

    start: datetime
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UtmZone:
    """One UTM zone and the part of an area in it."""

    name: str
    crs: str
    strip: BaseGeometry


class Coverage(NamedTuple):
    """How much of an area has imagery, and where there is none."""

    share: float
    holes: BaseGeometry


def time_steps(items: Sequence[Item], time_step: Step) -> list[TimeStep]:
    """The steps, in time order; every item in exactly one."""
    raise NotImplementedError


def items_order(items: Sequence[Item], composite: Composite) -> tuple[Item, ...]:
    """The items in the order in which a composite looks at them."""
    raise NotImplementedError


def utm_zones(area: BaseGeometry) -> list[UtmZone]:
    """The zones an area touches, in order of their names."""
    raise NotImplementedError


def coverage(area: BaseGeometry, items: Sequence[Item]) -> Coverage:
    """The share of the area (0 to 1) under at least one footprint, and the rest of it."""
    raise NotImplementedError
