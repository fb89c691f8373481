"""How far runs are, from the files beside their mosaics."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.job import absolute
from jobs.ledger import GIVEN_UP, RunFolder, run_names, states_in, with_state
from jobs.recent import WorkerLine, is_live, look_back, worker_lines
from jobs.registry import Registry, RunRow
from mapper.errors import MosaicError, SpecError, StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A tile that was given up, and what is known of it."""

    tile: int
    """Its row in the plan."""

    name: str
    state: str
    """failed: the next sitting takes it again · quarantined: only ``retry`` does."""

    attempts: int
    worker: str
    """That had it last."""

    at: str
    cause: str
    """Class of the error."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run."""

    run: str
    name: str
    mosaic: str
    state: str
    planned: int
    counts: dict[str, int]
    """State → tiles."""

    attempts: int
    """Tries in all; more than the tiles where some had to be repeated."""

    problems: tuple[str, ...]
    """What the tiles that were given up failed of."""

    given_up: tuple[GivenUp, ...] = ()
    stopped: str = ""
    """Why it ended before its end; empty where it did not."""

    live: bool = False
    """Whether its driver has said something in the last half minute."""

    heard_at: str | None = None
    """When its driver said something last; None where none ever did."""

    tiles_per_s: float | None = None
    """In the last minute, by all workers; None where it is not under way, or nobody knows."""

    workers: tuple[WorkerLine, ...] = ()


def known_runs() -> list[RunRow]:
    """All runs the registry knows, the latest first."""
    return Registry().runs()


def run_status(run_or_mosaic: str) -> list[RunStatus]:
    """The run of this name, or all runs of this mosaic.

    Raises:
        SpecError: neither is known.
    """
    places = [(row.mosaic, row.run) for row in Registry().find(run_or_mosaic)]
    if not places:
        mosaic = absolute(run_or_mosaic)
        places = [(mosaic, name) for name in run_names(mosaic)]
    if not places:
        raise SpecError(f"no run and no mosaic is called {run_or_mosaic!r}", fix="`resmap status` lists the runs")
    return [status_of(RunFolder(mosaic, run)) for mosaic, run in places if RunFolder(mosaic, run).exists()]


def status_of(folder: RunFolder, *, now: datetime | None = None) -> RunStatus:
    """How far one run is.

    Args:
        folder: of the run.
        now: aware; the clock's where left out.
    """
    facts = folder.facts()
    counts: Counter[str] = Counter()
    attempts = 0
    lost: list[dict[str, Any]] = []
    for batch in folder.last_words("state", "attempts", "worker", "at", "cause", "error"):
        counts += states_in(batch)
        attempts += int(batch.column("attempts").to_numpy().sum())
        lost += batch.filter(with_state(batch, GIVEN_UP)).to_pylist()
    lost.sort(key=lambda row: int(row["tile"]))
    live = folder.live()
    under_way = is_live(live, now or datetime.now(UTC))
    rows: list[pa.RecordBatch] = []
    if live is not None and under_way:
        with contextlib.suppress(MosaicError, StoreError):  # a part is damaged or away: then nobody knows the rate
            rows = list(folder.telemetry(look_back(live)))
    workers = () if live is None else worker_lines(live, rows, under_way=under_way)
    rates = [worker.tiles_per_s for worker in workers if worker.tiles_per_s is not None]
    return RunStatus(
        run=folder.run,
        name=facts.get("name", folder.run),
        mosaic=folder.mosaic,
        state=facts.get("state", "planned"),
        planned=int(facts.get("planned", 0)),
        counts=dict(counts),
        attempts=attempts,
        problems=tuple(row["error"] for row in lost),
        given_up=_evidence(folder, facts, lost),
        stopped=_stopped(facts),
        live=under_way,
        heard_at=None if live is None else live.at.isoformat(),
        tiles_per_s=sum(rates) if under_way and rates else None,
        workers=workers,
    )


def _stopped(facts: Mapping[str, Any]) -> str:
    """Why the last sitting ended before its end, as the run's file says."""
    if facts.get("state") in ("running", "planned"):
        return ""
    if said := facts.get("error"):
        return str(said)
    summary = facts.get("summary")
    return str(summary.get("stopped", "")) if isinstance(summary, dict) else ""


def _evidence(folder: RunFolder, facts: Mapping[str, Any], lost: list[dict[str, Any]]) -> tuple[GivenUp, ...]:
    if not lost:
        return ()
    places, grids = folder.places(), list(facts.get("grids", []))
    found = []
    for row in lost:
        tile = int(row["tile"])
        name = str(tile)
        if tile < len(places.row):
            number = int(places.grid[tile])
            grid = (grids[number] if number < len(grids) else "") or "0"
            name = f"{grid}/r{places.row[tile]}c{places.column[tile]}/t{places.step[tile]}"
        found.append(GivenUp(**{**row, "name": name, "at": row["at"].isoformat()}))
    return tuple(found)
