"""What a question is about: prompts, times and places as people name them → positions in a mosaic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import shapely

from mapper.errors import QuestionError
from mapper.mosaic import Mosaic
from mapper.questions.placed import Placed, beyond_m2, whole_of
from mapper.questions.places import LONLAT, Places, did_you_mean, from_file, from_table, in_box, polygons_of
from mapper.runs import asked_area

if TYPE_CHECKING:
    import geopandas as gpd

LATEST = "latest"

When: TypeAlias = "str | date | datetime | Any"
"""``latest``; a year, month, day or moment as in 2024-06; or anything that prints as one, such as a ``datetime64``."""

Place: TypeAlias = "tuple[float, float, float, float] | str | Path | gpd.GeoDataFrame | Places | None"
"""West, south, east, north in degrees; a vector file; a table of polygons; or None for all that was to be mapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A mosaic and the places that are asked about."""

    mosaic: Mosaic
    places: Places
    placed: tuple[Placed, ...]
    """The places on each of the mosaic's grids."""

    beyond_m2: tuple[float, ...]
    """The surface of each place that lies on no pixel of the mosaic."""


def asked(mosaic: Mosaic | str | Path, place: Place, *, column: str | None = None, crs: str | None = None) -> Asked:
    """The places of a question, on the mosaic's grids.

    Raises:
        MosaicError: there is no mosaic.
        QuestionError: there is no such place, or no part of it lies on the mosaic.
    """
    opened = mosaic if isinstance(mosaic, Mosaic) else Mosaic.open(str(mosaic), writable=False)
    places = _places(opened, place, column, crs)
    grids = opened.grids
    placed = tuple(Placed(places, grid, zoned=len(grids) > 1) for grid in grids)
    if not any(surface > 0 for one in placed for surface in one.ground_m2):
        raise QuestionError(
            "no part of the place lies on the mosaic",
            fix="ask about a place on it; resmap query area MOSAIC asks about all of it",
            mosaic=opened.url,
            place=", ".join(places.names[:3]),
        )
    return Asked(mosaic=opened, places=places, placed=placed, beyond_m2=tuple(beyond_m2(places, placed)))


def _places(mosaic: Mosaic, place: Place, column: str | None, crs: str | None) -> Places:
    if place is None:
        area = asked_area(mosaic.url)
        if area is None:
            return whole_of(mosaic.grids)
        return Places(names=("whole mosaic",), geometries=(polygons_of(shapely.make_valid(area)),), crs=LONLAT)
    if isinstance(place, Places):
        return place
    if isinstance(place, str | Path):
        return from_file(place, column=column, crs=crs)
    if isinstance(place, tuple | list):
        if len(place) != 4:
            raise QuestionError("a box has four numbers", fix="give west, south, east, north in degrees")
        return in_box(*place)
    return from_table(place, column=column)


def prompts_of(mosaic: Mosaic, wanted: Sequence[str] | str | None) -> list[int]:
    """Positions of prompts, by name or sentence; all of them for None.

    Raises:
        QuestionError: the mosaic has no such prompt.
    """
    if wanted is None:
        return list(range(len(mosaic.prompts)))
    position = {prompt.expression: number for number, prompt in enumerate(mosaic.prompts)}
    position |= {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}
    found: dict[int, None] = {}
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in position:
            names = [prompt.name for prompt in mosaic.prompts]
            raise QuestionError(f"the mosaic has no prompt {name!r}", fix=did_you_mean(name, names), mosaic=mosaic.url)
        found[position[name]] = None
    return list(found)


def times_of(mosaic: Mosaic, wanted: Sequence[When] | When | None) -> list[int]:
    """Positions of time steps, oldest first: those that begin in the year, month or day named; all for None.

    Raises:
        QuestionError: the mosaic has no such time.
    """
    if wanted is None:
        found = set(range(len(mosaic.times)))
    else:
        several: Sequence[When] = wanted if isinstance(wanted, list | tuple) else [wanted]
        found = {time for one in several for time in _times_in(mosaic, one)}
    return sorted(found, key=lambda number: mosaic.times[number])


def time_of(mosaic: Mosaic, wanted: When) -> int:
    """Position of the one time step that is meant.

    Raises:
        QuestionError: the mosaic has none such, or several.
    """
    found = times_of(mosaic, wanted)
    if len(found) > 1:
        raise QuestionError(
            f"{wanted} means {len(found)} time steps", fix=f"choose {_listed(mosaic, found)}", mosaic=mosaic.url
        )
    return found[0]


def _times_in(mosaic: Mosaic, wanted: When) -> list[int]:
    steps = [time.astimezone(UTC).replace(tzinfo=None) for time in mosaic.times]
    if wanted == LATEST and steps:
        return [max(range(len(steps)), key=lambda number: steps[number])]
    said = _as_text(wanted)
    found = [number for number, step in enumerate(steps) if step.isoformat().startswith(said)]
    if not found:
        everything = sorted(range(len(steps)), key=lambda number: steps[number])
        raise QuestionError(
            f"the mosaic has no time step in {wanted}", fix=f"choose {_listed(mosaic, everything)}", mosaic=mosaic.url
        )
    return found


def _as_text(wanted: When) -> str:
    """A time as the beginning of ``2024-06-01T10:30:00``."""
    if isinstance(wanted, datetime):
        known = wanted.astimezone(UTC).replace(tzinfo=None) if wanted.tzinfo else wanted
        return known.isoformat(timespec="seconds")
    text = re.sub(r"(Z|\+00:?00)$", "", str(wanted).strip().replace(" ", "T"))
    text = re.sub(r"(:\d\d)\.\d+$", r"\1", text)
    if not re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?", text):
        raise QuestionError(
            f"{wanted!r} is no time", fix="write a year, month or day, as in 2024, 2024-06, 2024-06-01, or latest"
        )
    return text


def _listed(mosaic: Mosaic, steps: Sequence[int]) -> str:
    said = [time_text(mosaic.times[number]) for number in steps]
    return "one of " * (len(said) > 1) + (", ".join(said) if len(said) <= 8 else f"{', '.join(said[:4])} … {said[-1]}")


def time_text(time: datetime) -> str:
    """A time step as people write it: without a clock where it begins at midnight."""
    known = time.astimezone(UTC)
    return (
        f"{known:%Y-%m-%d}" if (known.hour, known.minute, known.second) == (0, 0, 0) else f"{known:%Y-%m-%dT%H:%M:%S}"
    )
