"""Telemetry as workers leave it, made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from cluster.readings import WAITS
from jobs.dashboard.over_time import OverTime, over_time
from jobs.telemetry import ROWS
from tests.jobs.dashboard.fakes import BEGAN


def row(
    worker: str, at_s: float, *, busy_s: float, began_s: float = 0.0, tiles: int = 0, **waits: float
) -> dict[str, Any]:
    """What a worker said so many seconds after the run began; ``waits`` by name, cumulative."""
    known = dict.fromkeys(ROWS.names)
    told = {
        "at": BEGAN + timedelta(seconds=at_s),
        "worker": worker,
        "host": "node",
        "began": BEGAN.timestamp() + began_s,
        "up_s": at_s - began_s,
        "busy_s": busy_s,
        "tiles": tiles,
    }
    return {**known, **told, **{f"wait_{name}": waits.get(name, 0.0) for name in WAITS}}


def batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """As the run's folder gives them."""
    return pa.RecordBatch.from_pylist(list(rows), schema=ROWS)


def told_over_time(*, workers: int, names: Sequence[str] = ()) -> OverTime:
    """Workers that compute for half of ten minutes and read for the rest."""
    named = [names[n] if names else f"gpu-{n}" for n in range(workers)]
    rows = [row(name, 60.0 * k, busy_s=30.0 * k, read=30.0 * k, tiles=6 * k) for name in named for k in range(1, 11)]
    told = over_time([batch(rows)])
    assert told is not None
    return told
