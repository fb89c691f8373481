"""What workers' time went to, interval by interval, from the telemetry that is kept with a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from cluster.readings import WAITS
from jobs.dashboard.words import WAIT_WORDS, clock, moment, share

INTERVALS = 48
"""A run's length is cut into so many, or fewer where it is short."""

SHORTEST_S = 20.0
"""An interval is so long at least: workers are written down every ten seconds."""

_PARTS = ("busy", *WAITS)
_COUNTED = ("up_s", "busy_s", *(f"wait_{name}" for name in WAITS), "tiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Some of a run's time."""

    begins: datetime
    parts: Mapping[str, float] | None
    """``busy`` and each of ``WAITS`` as a share of the workers' time; None where none was there."""

    tiles_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTime:
    """A run from its first reading to its last."""

    length_s: float
    """Of one interval."""

    fleet: tuple[Interval, ...]
    workers: Mapping[str, tuple[Interval, ...]]
    """The same intervals, worker by worker."""


def over_time(batches: Iterable[pa.RecordBatch]) -> OverTime | None:
    """What a run's telemetry tells of where its time went; None where it tells nothing.

    Counts only grow for one actor; one that took another's place has a ``began`` of its own and is counted from 0. What
    it did before its first row lies in that row's interval.

    Args:
        batches: with the columns ``at``, ``worker``, ``began``, ``up_s``, ``busy_s``, ``wait_…`` and ``tiles``; in any
            order.
    """
    columns = ["at", "worker", "began", *_COUNTED]
    tables = [pa.Table.from_batches([batch.select(columns)]) for batch in batches]
    if not tables or not (rows := pa.concat_tables(tables).unify_dictionaries()).num_rows:
        return None
    at = rows.column("at").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy() / 1e6
    names, worker = np.unique(
        np.array(rows.column("worker").to_pylist(), dtype=object).astype(str), return_inverse=True
    )
    grown = _grown(rows, at, worker)
    begin = float((at - rows.column("up_s").to_numpy()).min())
    end = float(at.max())
    count = int(np.clip((end - begin) // SHORTEST_S, 1, INTERVALS))
    length_s = (end - begin) / count or SHORTEST_S
    place = np.clip(np.ceil((at - begin) / length_s).astype(np.int64) - 1, 0, count - 1)
    sums = np.zeros((len(names), count, len(_COUNTED)))
    np.add.at(sums, (worker, place), grown)
    begins = [datetime.fromtimestamp(begin + n * length_s, UTC) for n in range(count)]
    return OverTime(
        length_s=length_s,
        fleet=_intervals(begins, sums.sum(axis=0), length_s),
        workers={str(name): _intervals(begins, sums[n], length_s) for n, name in enumerate(names)},
    )


def strip(intervals: Sequence[Interval], *, who: str, size: tuple[int, int] = (720, 96)) -> Markup:
    """Intervals side by side as stacked columns, the model's computing lowest; nothing where nobody was there."""
    width, height = size
    step = width / max(1, len(intervals))
    drawn = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="url(#ink-{})"/>').format(
            round(n * step, 1), round(height * (1 - low - part), 1), round(step - 0.5, 1), round(height * part, 1), name
        )
        for n, interval in enumerate(intervals)
        for name, low, part in _stacked(interval.parts)
    )
    said = _said(intervals, who)
    return Markup(
        '<svg class="chart strip" role="img" viewBox="0 0 {} {}" width="{}" height="{}" aria-label="{}">'
        '<title>{}</title><rect class="frame" x=".5" y=".5" width="{}" height="{}"/>{}</svg>'
    ).format(width, height, width, height, said, said, width - 1, height - 1, drawn)


def _said(intervals: Sequence[Interval], who: str) -> str:
    """The strip in words: how busy it was at worst, and what held it up most then."""
    known = [interval for interval in intervals if interval.parts is not None]
    if not known:
        return f"{who}: nothing is known"
    worst = min(known, key=lambda interval: (interval.parts or {})["busy"])
    waits = {name: part for name, part in (worst.parts or {}).items() if name != "busy"}
    name = max(waits, key=lambda name: waits[name])
    busy = (worst.parts or {})["busy"]
    held = f", waiting for {WAIT_WORDS[name]} {share(waits[name])} of the time" if waits[name] >= 0.005 else ""
    return (
        f"{who}, {moment(intervals[0].begins)} to {clock(intervals[-1].begins)}: "
        f"at {clock(worst.begins)} its model computed least, {share(busy)}{held}"
    )


def _stacked(parts: Mapping[str, float] | None) -> list[tuple[str, float, float]]:
    """Name, what lies below it, and its height, of all that are there."""
    shares = [(parts or {}).get(name, 0.0) for name in _PARTS]
    levels = np.concatenate([[0.0], np.cumsum(shares)]).tolist()
    return [(name, low, high - low) for name, (low, high) in zip(_PARTS, pairwise(levels), strict=True) if high > low]


def _grown(rows: pa.Table, at: NDArray[np.float64], worker: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(row, counted)``: how much each has grown since the row before of the same actor."""
    began = rows.column("began").to_numpy().astype(np.float64)
    counted = np.stack([rows.column(name).to_numpy().astype(np.float64) for name in _COUNTED], axis=1)
    order = np.lexsort((at, began, worker))
    ordered = counted[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(worker[order]) != 0) | (np.diff(began[order]) != 0)
    grown = np.where(first[:, None], ordered, np.diff(ordered, axis=0, prepend=0.0))
    out = np.empty_like(grown)
    out[order] = np.clip(grown, 0.0, None)
    return out


def _intervals(begins: Sequence[datetime], sums: NDArray[np.float64], length_s: float) -> tuple[Interval, ...]:
    """One worker's or all workers'. ``sums``: ``(interval, counted)``."""
    made = []
    for begin, counted in zip(begins, sums.tolist(), strict=True):
        told = sum(counted[1:-1])
        parts = dict(zip(_PARTS, (part / told for part in counted[1:-1]), strict=True)) if told > 0 else None
        made.append(Interval(begins=begin, parts=parts, tiles_per_s=counted[-1] / length_s))
    return tuple(made)
