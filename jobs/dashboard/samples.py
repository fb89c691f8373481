"""What workers said of themselves over time, in columns: the last minutes of each, and the whole run by the minute."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.readings import WAITS, WORK, Reading
from jobs.ledger import RunFolder

Figures: TypeAlias = NDArray[np.float64]
"""``(…, figure)``: values of ``FIGURES``, all of which only grow while a worker lives."""

Actor: TypeAlias = tuple[str, float]
"""Name of a worker, and when it began: tells one actor of a seat from the next."""

FIGURES = (
    "up_s", "busy_s", *(f"wait_{wait}" for wait in WAITS), *(f"work_{work}" for work in WORK),
    "tiles", "windows", "pixels", "area_km2",
    "store_calls", "store_failed", "imagery_calls", "imagery_failed",
)  # fmt: skip
AT = {name: number for number, name in enumerate(FIGURES)}
WAITED = slice(AT["wait_read"], AT["wait_read"] + len(WAITS))
IDLE_OR_BUSY = slice(AT["busy_s"], AT["busy_s"] + 1 + len(WAITS))

RECENT_S = 900.0
"""Rows of each worker that are kept as they are."""

BIN_S = 60.0
"""Of what is older is known what came together in so long: a week of a run is 10,080 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One worker at one moment."""

    at: float
    """Seconds since 1970."""

    figures: Figures
    host: str
    device: str


@dataclass(slots=True, kw_only=True, eq=False)
class Samples:
    """Telemetry of one run, read as it grows. Rows are given newest first, and never held all at once."""

    folder: RunFolder
    recent: dict[Actor, list[Sample]] = field(default_factory=dict)
    """Oldest first."""

    last: dict[Actor, Sample] = field(default_factory=dict)
    """What each actor said last, of all sittings."""

    minutes: dict[int, Figures] = field(default_factory=dict)
    """Moment over ``BIN_S`` → by how much figures of all workers grew in that time."""

    newest: float = -np.inf

    def refresh(self) -> bool:
        """Read what was added since; whether there was any."""
        since = datetime.fromtimestamp(self.newest, UTC) if np.isfinite(self.newest) else None
        before = dict(self.last)
        first: dict[Actor, Sample] = {}
        added = False
        for batch in self.folder.telemetry(since):
            for actor, samples in _by_actor(batch):
                fresh = [one for one in samples if actor not in before or one.at > before[actor].at]
                if fresh:
                    added = True
                    self._take(actor, fresh, first.get(actor))
                    first[actor] = fresh[0]
        for actor, oldest in first.items():
            self._grow(before.get(actor), oldest, actor)
        self.newest = max([self.newest, *(self.last[actor].at for actor in first)])
        if added:
            self._forget()
        return added

    def idle_s(self) -> float | None:
        """Seconds in which models stood idle, of all sittings; None where nothing was said."""
        if not self.last:
            return None
        return float(sum(one.figures[WAITED].sum() for one in self.last.values()))

    def reading(self) -> float | None:
        """Threads that fetched or decoded at a time in the last interval of each worker, of all together."""
        known = [samples[-2:] for samples in self.recent.values() if samples[-1].at >= self.newest - BIN_S]
        grown = [step for samples in known for step in growth(samples)]
        if not grown:
            return None
        return sum(float(by[AT["work_read"]] + by[AT["work_decode"]]) / seconds for seconds, by in grown)

    def _take(self, actor: Actor, samples: Sequence[Sample], later: Sample | None) -> None:
        """Samples of one actor, oldest first, and the one that follows them."""
        if later is None:
            self.last[actor] = samples[-1]
        for one, following in zip(samples, [*samples[1:], later], strict=True):
            if following is not None:
                self._grow(one, following, actor)
        horizon = self.last[actor].at - RECENT_S
        held = self.recent.setdefault(actor, [])
        held += [one for one in samples if one.at >= horizon]
        held.sort(key=lambda one: one.at)

    def _grow(self, one: Sample | None, following: Sample, actor: Actor) -> None:
        grown = following.figures - (self._before(following, actor) if one is None else one.figures)
        minute = int(following.at // BIN_S)
        if minute not in self.minutes:
            self.minutes[minute] = np.zeros(len(FIGURES))
        self.minutes[minute] += np.maximum(grown, 0.0)

    def _before(self, first: Sample, actor: Actor) -> Figures:
        """What an actor began with: nothing, but for the area, which is that of its seat in the whole sitting."""
        begin = np.zeros(len(FIGURES))
        earlier = [one for (name, began), one in self.last.items() if name == actor[0] and began < actor[1]]
        if earlier:
            area = max(earlier, key=lambda one: one.at).figures[AT["area_km2"]]
            begin[AT["area_km2"]] = area if area <= first.figures[AT["area_km2"]] else 0.0
        return begin

    def _forget(self) -> None:
        horizon = self.newest - RECENT_S
        for actor in list(self.recent):
            kept = [one for one in self.recent[actor] if one.at >= horizon]
            if kept:
                self.recent[actor] = kept
            else:
                del self.recent[actor]

    def columns(self) -> dict[str, list[Any]]:
        """The whole run by the minute, for charts: moments, rates, and shares of the time of all models.

        Returns:
            ``at`` (ends of minutes, ISO 8601), ``tiles_per_s``, ``km2_per_h``, ``mpx_per_s``, ``busy``, ``wait_…`` by
            ``WAITS``, ``store_per_s``, ``imagery_per_s``, ``failed_per_s``; None where nothing was said.
        """
        minutes = sorted(self.minutes)
        table = np.array([self.minutes[minute] for minute in minutes]).reshape(len(minutes), len(FIGURES))
        time_s = table[:, IDLE_OR_BUSY].sum(axis=1)
        shares = table[:, IDLE_OR_BUSY] / np.where(time_s > 0, time_s, np.nan)[:, None]
        rates = table / BIN_S
        failed = rates[:, AT["store_failed"]] + rates[:, AT["imagery_failed"]]
        found: dict[str, Figures] = {
            "tiles_per_s": rates[:, AT["tiles"]],
            "km2_per_h": rates[:, AT["area_km2"]] * 3600,
            "mpx_per_s": rates[:, AT["pixels"]] / 1e6,
            "busy": shares[:, 0],
            **{f"wait_{wait}": shares[:, 1 + number] for number, wait in enumerate(WAITS)},
            "store_per_s": rates[:, AT["store_calls"]],
            "imagery_per_s": rates[:, AT["imagery_calls"]],
            "failed_per_s": failed,
        }
        ends = [datetime.fromtimestamp((minute + 1) * BIN_S, UTC).isoformat() for minute in minutes]
        plain = {name: [None if np.isnan(one) else one for one in values.tolist()] for name, values in found.items()}
        return {"at": [end.replace("+00:00", "Z") for end in ends], **plain}


def figures_of(reading: Reading, *, area_km2: float) -> Figures:
    """What a worker says of itself now, as telemetry keeps it."""
    waits = [reading.waited_s.get(wait, 0.0) for wait in WAITS]
    work = [reading.work_s.get(name, 0.0) for name in WORK]
    calls = []
    for kind in ("store", "imagery"):
        held = [call for call in reading.calls if call.kind == kind]
        calls += [sum(call.done for call in held), sum(call.failed for call in held)]
    counts = [reading.tiles, reading.windows, reading.pixels, area_km2]
    return np.array([reading.up_s, reading.busy_s, *waits, *work, *counts, *calls], np.float64)


def _by_actor(batch: pa.RecordBatch) -> Iterator[tuple[Actor, list[Sample]]]:
    """Samples of each actor in a batch, oldest first."""
    at = batch.column("at").cast(pa.int64()).to_numpy() / 1e6
    table = np.column_stack([_floats(batch.column(name)) for name in FIGURES])
    names, hosts, devices = (batch.column(name).to_pylist() for name in ("worker", "host", "device"))
    began = batch.column("began").to_numpy()
    rows: dict[Actor, list[int]] = {}
    for row in np.argsort(at, kind="stable").tolist():
        rows.setdefault((names[row], float(began[row])), []).append(row)
    for actor, own in rows.items():
        yield (
            actor,
            [Sample(at=float(at[row]), figures=table[row], host=hosts[row], device=devices[row]) for row in own],
        )


def _floats(values: pa.Array) -> Figures:
    return np.asarray(values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False))


def growth(samples: Iterable[Sample]) -> Iterator[tuple[float, Figures]]:
    """Seconds between neighbours, and by how much each figure grew in them."""
    for one, following in itertools.pairwise(samples):
        if following.at > one.at:
            yield following.at - one.at, following.figures - one.figures
