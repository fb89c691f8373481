"""A row a worker: what it does now, at what rate, and what its model waits for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from cluster.readings import WAITS, Reading
from jobs.dashboard.samples import AT, IDLE_OR_BUSY, Actor, Figures, Sample, figures_of
from jobs.dashboard.views import GpuRow
from jobs.telemetry import Live, WorkerNow

RATES_S = 60.0
"""Over how long rates and shares are taken."""

SILENT_S = 15.0
"""Workers speak every second: of one that was not heard for so long something is wrong."""

GONE_S = 120.0
READY_S = 5.0
"""A sitting begins when all are ready; one that begins later than so long after took another's seat."""

SPARKS = 60
"""Intervals in a sparkline."""


def gpu_rows(
    live: Live | None, recent: Mapping[Actor, Sequence[Sample]], *, now: float, under_way: bool
) -> tuple[GpuRow, ...]:
    """A row a worker, the slowest first.

    Args:
        live: as the driver said last; None where it never did.
        recent: samples of the last minutes by actor, oldest first.
        now: seconds since 1970.
        under_way: whether a driver has the run now.
    """
    rows = []
    if live is None:
        return ()
    for worker in live.workers:
        at = live.at.timestamp() - worker.heard_s
        samples = [*recent.get((worker.reading.worker, worker.reading.began), ()), _now(worker, at)]
        first = worker.reading.began <= live.began.timestamp() + READY_S
        rows.append(_row(worker, samples, heard_s=max(0.0, now - at), under_way=under_way, first=first))
    return tuple(sorted([*rows, *_lost(live, recent, now=now, under_way=under_way)], key=_slowness))


def summary_rows(workers: Iterable[Mapping[str, Any]]) -> tuple[GpuRow, ...]:
    """The same of a run that kept no telemetry, from how it ended."""
    rows = [
        _bare(str(one["worker"]), "over", tiles=int(one.get("tiles", 0)), tiles_per_s=_known(one.get("tiles_per_s")),
              km2_per_h=_known(one.get("km2_per_h")))
        for one in workers
        if "worker" in one
    ]  # fmt: skip
    return tuple(sorted(rows, key=_slowness))


def _row(worker: WorkerNow, samples: Sequence[Sample], *, heard_s: float, under_way: bool, first: bool) -> GpuRow:
    said = worker.reading
    seconds, grown = _grown(samples, began=said.began, first=first)
    tiles_per_s, mpx_per_s, km2_per_h = _rates(seconds, grown)
    busy, waits = _shares(grown)
    return GpuRow(
        worker=said.worker,
        host=said.host,
        device=said.device,
        state=_state(said, busy, heard_s=heard_s, under_way=under_way),
        heard_s=heard_s,
        tiles=said.tiles,
        tiles_per_s=tiles_per_s,
        mpx_per_s=mpx_per_s,
        km2_per_h=km2_per_h,
        busy=busy,
        waits=waits,
        batch=said.batch,
        in_hand=said.in_hand,
        host_peak_bytes=said.host_peak_bytes,
        device_peak_bytes=said.device_peak_bytes,
        device_total_bytes=said.device_total_bytes,
        power_w=said.power_w,
        temperature_c=said.temperature_c,
        utilization=said.utilization,
        spark=spark(samples),
    )


def spark(samples: Sequence[Sample]) -> tuple[float, ...]:
    """Tiles a second from sample to sample, oldest first, at most ``SPARKS``; three figures of each."""
    shown = [(one.at, one.figures.item(AT["tiles"])) for one in samples[-SPARKS - 1 :]]
    steps = ((then - at, now - before) for (at, before), (then, now) in itertools.pairwise(shown))
    return tuple(float(f"{tiles / seconds:.3g}") for seconds, tiles in steps if seconds > 0)


def _state(
    said: Reading, busy: float | None, *, heard_s: float, under_way: bool
) -> Literal["working", "waiting", "silent", "gone", "over"]:
    if not under_way:
        return "over"
    if heard_s > GONE_S:
        return "gone"
    if heard_s > SILENT_S:
        return "silent"
    return "working" if said.in_hand and busy != 0 else "waiting"


def _grown(samples: Sequence[Sample], *, began: float, first: bool) -> tuple[float, Figures]:
    """Seconds and growth of the last ``RATES_S``; of all its time where it is younger.

    Args:
        samples: of one actor, oldest first, now last.
        began: when it did.
        first: whether its seat had no other actor in this sitting: the area is that of the seat.
    """
    last = samples[-1]
    before = next((one for one in reversed(samples[:-1]) if last.at - one.at >= RATES_S), None)
    if before is None and last.at - began > RATES_S and len(samples) > 1:
        before = samples[0]  # what was earlier is not kept
    if before is not None:
        return last.at - before.at, last.figures - before.figures
    grown = last.figures.copy()
    if not first:
        grown[AT["area_km2"]] = np.nan
    return float(last.figures[AT["up_s"]]), grown


def _rates(seconds: float, grown: Figures) -> tuple[float | None, float | None, float | None]:
    """Tiles and million pixels a second, km2 an hour."""
    if seconds <= 0:
        return None, None, None
    rates = grown / seconds
    area = float(rates[AT["area_km2"]]) * 3600
    return float(rates[AT["tiles"]]), float(rates[AT["pixels"]]) / 1e6, area if np.isfinite(area) else None


def _shares(grown: Figures) -> tuple[float | None, dict[str, float]]:
    """Share of the time in which the model computes, and in which it waits for what; they make 1."""
    times = np.maximum(grown[IDLE_OR_BUSY], 0.0)
    whole = float(times.sum())
    if whole <= 0:
        return None, {}
    busy, *waits = (times / whole).tolist()
    return busy, dict(zip(WAITS, waits, strict=True))


def _now(worker: WorkerNow, at: float) -> Sample:
    said = worker.reading
    return Sample(at=at, figures=figures_of(said, area_km2=worker.area_km2), host=said.host, device=said.device)


def _lost(live: Live, recent: Mapping[Actor, Sequence[Sample]], *, now: float, under_way: bool) -> Iterable[GpuRow]:
    """Workers of this sitting that spoke in the last minutes and are there no more."""
    here = {worker.reading.worker for worker in live.workers}
    newest = {name: samples[-1] for (name, _), samples in sorted(recent.items()) if samples and name not in here}
    for name, last in newest.items():
        if last.at >= live.began.timestamp():
            state: Literal["gone", "over"] = "gone" if under_way else "over"
            row = _bare(name, state, tiles=int(last.figures[AT["tiles"]]))
            yield replace(row, host=last.host, device=last.device, heard_s=max(0.0, now - last.at))


def _bare(
    worker: str,
    state: Literal["gone", "over"],
    *,
    tiles: int,
    tiles_per_s: float | None = None,
    km2_per_h: float | None = None,
) -> GpuRow:
    """A row of which little is known."""
    return GpuRow(
        worker=worker, host="", device="", state=state, heard_s=None, tiles=tiles, tiles_per_s=tiles_per_s,
        mpx_per_s=None, km2_per_h=km2_per_h, busy=None, waits={}, batch=0, in_hand=0, host_peak_bytes=0,
        device_peak_bytes=None, device_total_bytes=None, power_w=None, temperature_c=None, utilization=None, spark=(),
    )  # fmt: skip


def _known(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _slowness(row: GpuRow) -> tuple[int, float, str]:
    """Those that are gone or silent come first, then the slowest."""
    trouble = {"gone": 0, "silent": 1}.get(row.state, 2)
    return trouble, -1.0 if row.tiles_per_s is None else row.tiles_per_s, row.worker
