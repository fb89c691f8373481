"""What workers said of themselves, kept beside the mosaic with their run.

    <mosaic>/.resmap/runs/<run>/
      live.json      what each worker said last, put about once a second while the run is under way, and at its end
      telemetry/     part-….parquet   a row a worker every ten seconds, for looking at it years later
      events/        part-….parquet   what happened: states, workers lost and replaced, tiles given up

Losing any of it costs no pixel: a store that does not take it is asked again with the next reading, and never waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cluster.readings import Reading

LIVE_EVERY_S = 1.0
ROW_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNow:
    """One worker, as the driver last heard of it."""

    reading: Reading
    heard_s: float
    """Seconds before ``Live.at``."""

    area_km2: float
    """Of the tiles it has handed in in this sitting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How a run stands, as its driver said last."""

    at: datetime
    began: datetime
    """Of this sitting, when its workers were ready."""

    over: bool
    """Whether the sitting has ended, and this is its last word."""

    workers: tuple[WorkerNow, ...]
    in_hand: int
    spent_usd: float
    usd_per_gpu_hour: float
    budget_usd: float | None
