"""How much, how many, where, and what changed: answers from a mosaic, in square kilometres of the Earth.

    area      present · absent · unobserved · unmapped, of each place, prompt and time
    change    appeared · vanished · stayed · not comparable, between two times
    count     objects, and how much they cover
    where     the objects themselves

A gap is never an answer: what was not seen is a column of its own, and where it is more than ``allow_gaps`` of a place
the question is refused. An object belongs to the place in which the centre of its northernmost, then westernmost pixel
lies, so neighbours never share or lose one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from mapper.errors import GapError, QuestionError
from mapper.mosaic import Mosaic
from mapper.questions.asking import LATEST, Asked, Place, When, asked, prompts_of, time_of, time_text, times_of
from mapper.questions.tally import CODES, Look, Tally, tally

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

ALLOWED_GAPS = 0.1
"""Share of a place that may be unseen. With a tenth unseen the truth may be a ninth above what was seen: about what
the models themselves miss. Beyond it the gaps decide the answer, and whoever asks should say that this is meant."""

M2_PER_KM2 = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaRow:
    """How much of one place one prompt covers at one time."""

    feature: str
    """Name of the place."""

    prompt: str
    time: datetime
    """Beginning of the time step, UTC."""

    present_km2: float
    absent_km2: float
    unobserved_km2: float
    """Looked at, and the ground was not seen."""

    unmapped_km2: float
    """Never looked at: outside what was mapped, or not done yet."""

    present_share: float
    """Of what was observed, 0 to 1; NaN where nothing was."""

    gap_share: float
    """Of the place, 0 to 1: unobserved or unmapped. NaN where no pixel's centre lies in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """What became of one prompt in one place between two times."""

    feature: str
    prompt: str
    before: datetime
    after: datetime
    appeared_km2: float
    vanished_km2: float
    stayed_present_km2: float
    stayed_absent_km2: float
    not_comparable_km2: float
    """A gap at one of the two times, or at both."""

    gap_share: float
    """Of the place, 0 to 1: not comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRow:
    """How many objects of one prompt are in one place at one time."""

    feature: str
    prompt: str
    time: datetime
    objects: int
    """Those that begin in the place: no two places count the same."""

    objects_km2: float
    """What these cover, in the place and beyond its border."""

    gap_share: float


Row = TypeVar("Row", AreaRow, ChangeRow, CountRow)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer(Generic[Row]):
    """Rows by place, then prompt, then time."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What should be known of how it was asked, a sentence each."""

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame of the rows; times in UTC without a zone, as xarray has them."""
        import pandas as pd

        frame = pd.DataFrame([dataclasses.asdict(row) for row in self.rows])
        for name in ("time", "before", "after"):
            if name in frame:
                frame[name] = pd.to_datetime(frame[name], utc=True).dt.tz_localize(None)
        return frame

    def as_json(self) -> list[dict[str, Any]]:
        """The rows in JSON's words; null for what is not known."""
        return [{name: _plain(value) for name, value in dataclasses.asdict(row).items()} for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, position: int) -> Row:
        return self.rows[position]

    def __repr__(self) -> str:
        return str(self.to_pandas().to_string(max_rows=60))

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(notebook=True, max_rows=60))


def area(
    mosaic: Mosaic | str | Path,
    place: Place = None,
    *,
    prompts: Sequence[str] | str | None = None,
    times: Sequence[When] | When | None = None,
    allow_gaps: float = ALLOWED_GAPS,
    column: str | None = None,
    crs: str | None = None,
) -> Answer[AreaRow]:
    """How much is there: present, absent, unobserved and unmapped, of each place, prompt and time.

    Args:
        mosaic: path, URL, or an open one.
        place: (west, south, east, north) in degrees, a vector file, a GeoDataFrame, or None for all that was to be
            mapped. A pixel belongs to a place when its centre lies in it.
        prompts: names or sentences; all where left out.
        times: years, months, days or moments (``2024-06``), or ``latest``; all where left out.
        allow_gaps: largest share of a place that may be unobserved or unmapped, 0 to 1.
        column: of the file or table, whose values name the places.
        crs: of the file, where it does not say.

    Raises:
        MosaicError: there is no mosaic.
        QuestionError: there is no such prompt, time or place.
        GapError: more than ``allow_gaps`` of a place was not seen.
        StoreError: a shard could not be read.
    """
    about, looks = _asked(mosaic, place, column, crs, prompts, times, allow_gaps)
    amounts = _amounts(about, looks)
    rows = []
    for feature, look, codes, gap in _each(about, looks, amounts):
        absent, present, _, _, unobserved, unmapped = codes / M2_PER_KM2
        seen = absent + present
        rows.append(
            AreaRow(
                feature=feature,
                prompt=about.mosaic.prompts[look.prompt].name,
                time=about.mosaic.times[look.times[0]],
                present_km2=float(present),
                absent_km2=float(absent),
                unobserved_km2=float(unobserved),
                unmapped_km2=float(unmapped),
                present_share=float(present / seen) if seen > 0 else math.nan,
                gap_share=gap,
            )
        )
    _refuse_gaps(about, looks, amounts, allow_gaps)
    return Answer(rows=tuple(rows), notes=_notes(about, amounts))


def change(
    mosaic: Mosaic | str | Path,
    before: When,
    after: When = LATEST,
    place: Place = None,
    *,
    prompts: Sequence[str] | str | None = None,
    allow_gaps: float = ALLOWED_GAPS,
    column: str | None = None,
    crs: str | None = None,
) -> Answer[ChangeRow]:
    """What appeared and what vanished between two times; arguments and errors as of ``area``.

    Args:
        mosaic: as for ``area``.
        before: the one time step to begin with.
        after: the one to end with.
        place: as for ``area``.
        prompts: as for ``area``.
        allow_gaps: largest share of a place that may be a gap at one of the two times, 0 to 1.
        column: as for ``area``.
        crs: as for ``area``.
    """
    about = _about(mosaic, place, column, crs, allow_gaps)
    pair = (time_of(about.mosaic, before), time_of(about.mosaic, after))
    first, second = (about.mosaic.times[number] for number in pair)
    if first >= second:
        raise QuestionError(
            f"the time before, {time_text(first)}, is not before the time after, {time_text(second)}",
            fix="give two times, the earlier first",
            mosaic=about.mosaic.url,
        )
    looks = [Look(prompt=prompt, times=pair) for prompt in prompts_of(about.mosaic, prompts)]
    amounts = _amounts(about, looks)
    rows = []
    for feature, look, codes, gap in _each(about, looks, amounts):
        stayed_absent, stayed_present, appeared, vanished, unobserved, unmapped = codes / M2_PER_KM2
        rows.append(
            ChangeRow(
                feature=feature,
                prompt=about.mosaic.prompts[look.prompt].name,
                before=first,
                after=second,
                appeared_km2=float(appeared),
                vanished_km2=float(vanished),
                stayed_present_km2=float(stayed_present),
                stayed_absent_km2=float(stayed_absent),
                not_comparable_km2=float(unobserved + unmapped),
                gap_share=gap,
            )
        )
    _refuse_gaps(about, looks, amounts, allow_gaps)
    return Answer(rows=tuple(rows), notes=_notes(about, amounts))


def count(
    mosaic: Mosaic | str | Path,
    place: Place = None,
    *,
    prompts: Sequence[str] | str | None = None,
    times: Sequence[When] | When | None = None,
    allow_gaps: float = ALLOWED_GAPS,
    column: str | None = None,
    crs: str | None = None,
) -> Answer[CountRow]:
    """How many objects are there: patches of present pixels that touch, at corners too.

    Arguments and errors as of ``area``. Two things that touch in the mask are one object.
    """
    from mapper.questions.found import objects_in

    about, looks = _asked(mosaic, place, column, crs, prompts, times, allow_gaps)
    amounts = _amounts(about, looks)
    _refuse_gaps(about, looks, amounts, allow_gaps)
    number = np.zeros((len(about.places.names), len(looks)), np.int64)
    covered = np.zeros(number.shape)
    for position, look in enumerate(looks):
        for found in objects_in(about, look, outlines=False):
            number[found.place, position] += len(found.rows)
            covered[found.place, position] += float(found.batch.area_m2[found.rows].sum())
    rows = [
        CountRow(
            feature=feature,
            prompt=about.mosaic.prompts[look.prompt].name,
            time=about.mosaic.times[look.times[0]],
            objects=int(number.flat[row]),
            objects_km2=float(covered.flat[row]) / M2_PER_KM2,
            gap_share=gap,
        )
        for row, (feature, look, _, gap) in enumerate(_each(about, looks, amounts))
    ]
    return Answer(rows=tuple(rows), notes=_notes(about, amounts))


def where(
    mosaic: Mosaic | str | Path,
    place: Place = None,
    *,
    prompts: Sequence[str] | str | None = None,
    times: Sequence[When] | When | None = None,
    limit: int | None = None,
    order: Literal["area", "score"] = "area",
    outlines: bool = True,
    allow_gaps: float = ALLOWED_GAPS,
    column: str | None = None,
    crs: str | None = None,
) -> gpd.GeoDataFrame:
    """The objects that are there, the largest or the most certain first.

    Args:
        mosaic: as for ``area``.
        place: as for ``area``.
        prompts: as for ``area``.
        times: as for ``area``.
        limit: how many at most; all where left out, which a continent does not fit into memory.
        order: what comes first: the largest ``area`` or the highest ``score``.
        outlines: whether the geometry is the object's outline, or its northernmost pixel's centre.
        allow_gaps: as for ``area``.
        column: as for ``area``.
        crs: as for ``area``.

    Returns:
        A row an object, in longitude and latitude (EPSG:4326): ``feature``, ``prompt``, ``time``, ``score`` (mean
        probability), ``area_m2``, ``longitude`` and ``latitude`` of a pixel in it, ``west``, ``south``, ``east``,
        ``north`` of a box that holds it, ``item`` (id of the scene most of it was seen in), ``geometry``.
    """
    from mapper.questions.found import objects_table

    about, looks = _asked(mosaic, place, column, crs, prompts, times, allow_gaps)
    _refuse_gaps(about, looks, _amounts(about, looks), allow_gaps)
    return objects_table(about, looks, limit=limit, order=order, outlines=outlines)


def _about(mosaic: Mosaic | str | Path, place: Place, column: str | None, crs: str | None, allow_gaps: float) -> Asked:
    if not 0 <= allow_gaps <= 1:
        raise QuestionError(f"allow_gaps is a share of a place, and {allow_gaps:g} is none", fix="give 0 to 1")
    return asked(mosaic, place, column=column, crs=crs)


def _asked(
    mosaic: Mosaic | str | Path,
    place: Place,
    column: str | None,
    crs: str | None,
    prompts: Sequence[str] | str | None,
    times: Sequence[When] | When | None,
    allow_gaps: float,
) -> tuple[Asked, list[Look]]:
    opened = mosaic if isinstance(mosaic, Mosaic) else Mosaic.open(str(mosaic), writable=False)
    looks = [
        Look(prompt=prompt, times=(time,)) for prompt in prompts_of(opened, prompts) for time in times_of(opened, times)
    ]
    return _about(opened, place, column, crs, allow_gaps), looks


def _amounts(about: Asked, looks: Sequence[Look]) -> Tally:
    """Square metres by place, look and code; what lies beyond the mosaic's pixels is unmapped."""
    amounts = tally(about.mosaic, about.placed, looks, places=len(about.places.names))
    amounts[:, :, -1] += np.array(about.beyond_m2)[:, None]
    return amounts


def _each(about: Asked, looks: Sequence[Look], amounts: Tally) -> Iterator[tuple[str, Look, Any, float]]:
    """Name of the place, look, square metres by code, share of gaps."""
    for feature, of_place in zip(about.places.names, amounts, strict=True):
        for look, codes in zip(looks, of_place, strict=True):
            whole = codes.sum()
            yield feature, look, codes, float(codes[len(CODES) - 2 :].sum() / whole) if whole > 0 else math.nan


def _refuse_gaps(about: Asked, looks: Sequence[Look], amounts: Tally, allow_gaps: float) -> None:
    rows = [(gap, feature, look) for feature, look, _, gap in _each(about, looks, amounts) if not math.isnan(gap)]
    if not rows:
        return
    gap, feature, look = max(rows, key=lambda row: round(row[0], 9))  # of rows that are equal, the first
    if gap <= allow_gaps:
        return
    others = sum(1 for row in rows if row[0] > allow_gaps) - 1
    raise GapError(
        f"{100 * gap:.1f} % of {feature} was not seen, and {100 * allow_gaps:g} % is allowed"
        + (f"; so it is with {others} more rows of the answer" if others else ""),
        fix=f"ask about a time or place that was seen, or allow it with --allow-gaps {_rounded_up(gap):g} "
        "(in Python: allow_gaps)",
        feature=feature,
        prompt=about.mosaic.prompts[look.prompt].name,
        time=" to ".join(time_text(about.mosaic.times[time]) for time in look.times),
    )


def _rounded_up(share: float) -> float:
    return min(1.0, math.ceil(100 * share) / 100)


def _notes(about: Asked, amounts: Tally) -> tuple[str, ...]:
    empty = [name for name, of in zip(about.places.names, amounts, strict=True) if not of.any()]
    named = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    small = (f"no pixel's centre lies in {named}: nothing is known of it",) if empty else ()
    return (*about.places.notes, *small)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value
