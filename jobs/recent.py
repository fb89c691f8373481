"""What the workers of a run did in the last minute, from what they said of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from cluster.readings import WAITS, Reading
from jobs.telemetry import ROW_EVERY_S, Live, WorkerNow

MINUTE_S = 60.0
STALE_S = 30.0
"""A driver that has put nothing for so long is not there, or its store is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    """One worker, in a line: of the last minute while the run is under way, else of all its time."""

    worker: str
    host: str
    device: str
    heard_s: float
    """Seconds before the driver's last word in which it said nothing."""

    tiles: int
    """Since its model was loaded."""

    tiles_per_s: float | None
    busy: float | None
    """Share of the time in which its model computed."""

    waits_for: str
    """What its model waited for most, by ``WAITS``; empty where it never waited, or nobody knows."""

    waits: float | None
    """Share of the time in which it waited for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Of an actor, since it began."""

    up_s: float
    busy_s: float
    tiles: int
    waited_s: tuple[float, ...]
    """By ``WAITS``."""


_NOTHING = _Figures(up_s=0.0, busy_s=0.0, tiles=0, waited_s=(0.0,) * len(WAITS))


def is_live(live: Live | None, now: datetime) -> bool:
    """Whether a driver has the run in hand, as far as its last word tells."""
    return live is not None and not live.over and (now - live.at).total_seconds() < STALE_S


def look_back(live: Live) -> datetime:
    """From when on rows are needed for ``worker_lines``."""
    return live.at - timedelta(seconds=MINUTE_S + ROW_EVERY_S)


def worker_lines(live: Live, rows: Iterable[pa.RecordBatch], *, under_way: bool) -> tuple[WorkerLine, ...]:
    """A line a worker, by name.

    Args:
        live: the last word.
        rows: of ``telemetry/``, those since ``look_back``.
        under_way: whether the last minute is asked for, or all of each worker's time.
    """
    before = _first_figures(rows) if under_way else {}
    return tuple(_line(worker, before, whole=not under_way) for worker in live.workers)


def _first_figures(rows: Iterable[pa.RecordBatch]) -> dict[tuple[str, float], _Figures]:
    """Worker and when its actor began → its figures in the oldest of these rows."""
    found: dict[tuple[str, float], tuple[datetime, _Figures]] = {}
    for batch in rows:
        for row in batch.to_pylist():
            key = (row["worker"], row["began"])
            if key not in found or row["at"] < found[key][0]:
                waited_s = tuple(row[f"wait_{wait}"] for wait in WAITS)
                figures = _Figures(up_s=row["up_s"], busy_s=row["busy_s"], tiles=row["tiles"], waited_s=waited_s)
                found[key] = (row["at"], figures)
    return {key: figures for key, (_, figures) in found.items()}


def _line(now: WorkerNow, before: dict[tuple[str, float], _Figures], *, whole: bool) -> WorkerLine:
    reading = now.reading
    base = before.get((reading.worker, reading.began))
    if base is None and (whole or reading.up_s <= MINUTE_S + ROW_EVERY_S):
        base = _NOTHING
    figures = None if base is None else _since(reading, base)
    line = WorkerLine(
        worker=reading.worker, host=reading.host, device=reading.device, heard_s=now.heard_s, tiles=reading.tiles,
        tiles_per_s=None, busy=None, waits_for="", waits=None,
    )  # fmt: skip
    if figures is None or figures.up_s <= 0:
        return line
    longest = max(range(len(WAITS)), key=figures.waited_s.__getitem__)
    waited = figures.waited_s[longest] > 0
    return WorkerLine(
        worker=line.worker, host=line.host, device=line.device, heard_s=line.heard_s, tiles=line.tiles,
        tiles_per_s=figures.tiles / figures.up_s,
        busy=figures.busy_s / figures.up_s,
        waits_for=WAITS[longest] if waited else "",
        waits=figures.waited_s[longest] / figures.up_s if waited else None,
    )  # fmt: skip


def _since(reading: Reading, base: _Figures) -> _Figures:
    return _Figures(
        up_s=reading.up_s - base.up_s,
        busy_s=reading.busy_s - base.busy_s,
        tiles=reading.tiles - base.tiles,
        waited_s=tuple(
            reading.waited_s.get(wait, 0.0) - before for wait, before in zip(WAITS, base.waited_s, strict=True)
        ),
    )
