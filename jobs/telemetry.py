"""What workers said of themselves, kept beside the mosaic with their run.

    <mosaic>/.resmap/runs/<run>/
      live.json      what each worker said last, put about once a second while the run is under way, and at its end
      telemetry/     part-….parquet   a row a worker every ten seconds, for looking at it years later
      events/        part-….parquet   what happened: states, workers lost and replaced, tiles given up

Losing any of it costs no pixel: a store that does not take it is asked again with the next reading, and never waited
for. ``RunFolder`` reads it (``live``, ``telemetry``, ``events``) and, for whoever holds the lease, adds to it
(``save_live``, ``telemetry_ledger``, ``event_ledger``); ``jobs/recorder.py`` does that while a run is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cluster.readings import WAITS, WORK, Calls, Reading

LIVE_EVERY_S = 1.0
ROW_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a run, or was done to it."""

    number: int
    """Grows: whoever has seen one asks for those after it."""

    at: datetime
    kind: str
    """state · given-up · worker · warning · asked (somebody did something by the API)"""

    text: str
    tile: int | None = None


EVENTS = pa.schema(
    [
        ("number", pa.int64()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("tile", pa.int64()),
    ]
)
"""A row of ``events/``."""

ROWS = pa.schema(
    [
        ("at", pa.timestamp("us", tz="UTC")),
        ("worker", pa.string()),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("device", pa.string()),
        ("began", pa.float64()),
        ("up_s", pa.float64()),
        ("busy_s", pa.float64()),
        *((f"wait_{wait}", pa.float64()) for wait in WAITS),
        *((f"work_{work}", pa.float64()) for work in WORK),
        ("tiles", pa.int64()),
        ("windows", pa.int64()),
        ("reused", pa.int64()),
        ("pixels", pa.int64()),
        ("area_km2", pa.float64()),
        ("batch", pa.int32()),
        ("in_hand", pa.int32()),
        ("host_peak_bytes", pa.int64()),
        ("device_peak_bytes", pa.int64()),
        ("power_w", pa.float64()),
        ("temperature_c", pa.float64()),
        ("utilization", pa.float64()),
        ("store_calls", pa.int64()),
        ("store_failed", pa.int64()),
        ("imagery_calls", pa.int64()),
        ("imagery_failed", pa.int64()),
    ]
)
"""A row of ``telemetry/``: one worker at one moment. Counts and seconds are those since its model was loaded
(``began``), ``area_km2`` is that of the sitting; null is what nobody knows."""


class Happened(Protocol):
    """Who is told what happens to a run; answers at once and never fails."""

    def __call__(self, kind: str, text: str, tile: int | None = None) -> None:
        """As ``Recorder.happened``."""


def unheard(kind: str, text: str, tile: int | None = None) -> None:
    """Nobody is told."""


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
    calls: tuple[Calls, ...] = ()
    """Of the driver's own process, planning and all; empty where a worker of the same process has counted them."""

    @property
    def callers(self) -> tuple[Reading, ...]:
        """All who ask catalogs, imagery and stores: its workers, and the driver as one of them."""
        driver = (Reading(worker="driver", began=self.began.timestamp(), calls=self.calls),) if self.calls else ()
        return (*(worker.reading for worker in self.workers), *driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One worker at one moment."""

    at: datetime
    worker: WorkerNow


_LIVE = TypeAdapter(Live)


def live_json(live: Live) -> bytes:
    """As ``live.json`` has it: what is as a new worker has it is left out."""
    return _LIVE.dump_json(live, exclude_defaults=True)


def live_from(content: bytes) -> Live:
    """What ``live_json`` wrote; keys of later versions are passed over.

    Raises:
        ValueError: it is something else.
    """
    return _LIVE.validate_json(content)


def rows_table(rows: Sequence[Row], schema: pa.Schema = ROWS) -> pa.Table:
    """Rows in the columns of ``ROWS``."""
    now = [row.worker for row in rows]
    said = [row.worker.reading for row in rows]
    plain = ("worker", "host", "pid", "device", "began", "up_s", "busy_s", "tiles", "windows", "reused", "pixels",
             "batch", "in_hand", "host_peak_bytes", "device_peak_bytes", "power_w", "temperature_c",
             "utilization")  # fmt: skip
    columns: dict[str, list[object]] = {name: [getattr(one, name) for one in said] for name in plain}
    columns |= {f"wait_{wait}": [one.waited_s.get(wait, 0.0) for one in said] for wait in WAITS}
    columns |= {f"work_{work}": [one.work_s.get(work, 0.0) for one in said] for work in WORK}
    for kind in ("store", "imagery"):
        calls = [[call for call in one.calls if call.kind == kind] for one in said]
        columns[f"{kind}_calls"] = [sum(call.done for call in held) for held in calls]
        columns[f"{kind}_failed"] = [sum(call.failed for call in held) for held in calls]
    columns |= {"at": [row.at for row in rows], "area_km2": [one.area_km2 for one in now]}
    return pa.Table.from_arrays([pa.array(columns[of.name], of.type) for of in schema], schema=schema)


def each_once(batches: Iterable[pa.RecordBatch], since: datetime | None) -> Iterator[pa.RecordBatch]:
    """Rows of ``telemetry/`` that came newest first, each once, and none from before a moment.

    A reader that met parts while they were merged is given some again: rows of one actor grow older from batch to
    batch, so what is not older than all before is known already.

    Args:
        batches: in the order of ``Parts.newest_first``, each with ``at``, ``worker`` and ``began``.
        since: aware; None for all.
    """
    oldest: dict[tuple[str, int], int] = {}
    floor = None if since is None else int(pa.scalar(since.astimezone(UTC), ROWS.field("at").type).value)
    for batch in batches:
        at = batch.column("at").cast(pa.int64()).to_numpy()
        actors, rows = _actors(batch)
        before = np.array([oldest.get(actor, _NEVER) for actor in actors], np.int64)
        wanted = at < before[rows]
        if floor is not None:
            wanted &= at >= floor
        np.minimum.at(before, rows, at)
        oldest.update(zip(actors, before.tolist(), strict=True))
        if wanted.any():
            yield batch if wanted.all() else batch.filter(pa.array(wanted))
        if floor is not None and len(at) and at.max() < floor:
            return


_NEVER = np.iinfo(np.int64).max


def _actors(batch: pa.RecordBatch) -> tuple[list[tuple[str, int]], NDArray[np.intp]]:
    """Who speaks in a batch, by name and the moment they began; and which of them each row is of."""
    worker = batch.column("worker")
    worker = worker if pa.types.is_dictionary(worker.type) else worker.dictionary_encode()
    names = worker.dictionary.to_pylist()
    pairs = np.stack([worker.indices.to_numpy().astype(np.int64), batch.column("began").to_numpy().view(np.int64)])
    found, rows = np.unique(pairs, axis=1, return_inverse=True)
    return [(names[name], began) for name, began in found.T.tolist()], rows.reshape(-1)
