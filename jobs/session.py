"""One sitting of a run: how it stands when it begins, and how it is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.telemetry import WorkerSample
from jobs.books import Books, Tally
from jobs.budget import Meter
from jobs.lease import Lease
from jobs.prepare import Prepared
from jobs.recorder import Recorder, Sums
from jobs.registry import Registry, RunRow
from jobs.standing import Standing
from jobs.summary import ENDED, Summary
from jobs.verify import verify_run
from jobs.watch import Watcher
from mapper.errors import MapperError, StoreError, VerifyError
from mapper.mosaic import Mosaic

SAMPLE_TILES = 8
"""Tiles that every run reads back at its end."""

OF_ONE_SITTING = ("error", "failure")
"""Facts that say what ended a sitting; the next one knows nothing of it."""

ENTERED = ("done", "nodata", "failed", "quarantined")
"""What a tile can be in the ledger."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One sitting of a run, from its start or from where it was left."""

    prepared: Prepared
    mosaic: Mosaic
    todo: Standing
    facts: dict[str, Any]
    """As ``run.json`` has them, or will."""

    tally: Tally
    books: Books
    meter: Meter
    recorder: Recorder
    """To be entered before any work begins."""

    was: str = ""
    """The state in which it was left before."""

    device: str = ""
    lost: MapperError | None = None
    """What left the run without workers before its end."""

    may_write: Callable[[], None] = lambda: None
    """Raises where another driver has taken the mosaic over."""

    @property
    def planned(self) -> int:
        """Tiles the run answers for."""
        return int(self.facts["planned"])

    @property
    def finished(self) -> int:
        """Those that were over before."""
        return self.planned - len(self.todo.wanted)

    def save(self, **facts: Any) -> None:
        """Put more facts into ``run.json``, unless another driver has taken the mosaic over."""
        self.may_write()
        self.facts |= facts
        self.prepared.folder.save_facts(self.facts)


def begin(
    prepared: Prepared, mosaic: Mosaic, todo: Standing, watcher: Watcher, clock: Callable[[], float], lease: Lease
) -> Session:
    """The books opened, and the files of the run say that it is under way."""
    compute, earlier = prepared.job.spec.compute, prepared.folder.facts()
    planned = int(earlier["planned"]) if "planned" in earlier else len(todo.wanted)
    spent_usd = float(earlier.get("spent_usd", 0.0))
    finished = planned - len(todo.wanted)
    meter = Meter(
        usd_per_gpu_hour=compute.usd_per_gpu_hour,
        budget_usd=compute.budget_usd,
        spent_usd=spent_usd,
        tile_usd=spent_usd / finished if finished > 0 else 0.0,
        clock=clock,
    )
    tally = Tally()
    recorder = Recorder(
        prepared.folder,
        Sums(
            area_km2=lambda: {sample.worker: sample.area_km2 for sample in tally.telemetry.samples()},
            spent_usd=lambda: meter.spent_usd,
            usd_per_gpu_hour=compute.usd_per_gpu_hour,
            budget_usd=compute.budget_usd,
        ),
        held=lease,
        say=watcher.say,
    )
    session = Session(
        prepared=prepared,
        mosaic=mosaic,
        todo=todo,
        facts={key: fact for key, fact in earlier.items() if key not in OF_ONE_SITTING} | {"planned": planned},
        tally=tally,
        books=Books(prepared, mosaic, todo, tally, watcher, held=lease, happened=recorder.happened),
        meter=meter,
        recorder=recorder,
        was=str(earlier.get("state", "")),
        may_write=lease.check,
    )
    meter.keep = lambda usd: _keep_spending(session, usd)
    session.save(state="running")
    recorder.happened("state", f"running: {len(todo.wanted):,} of {planned:,} tiles are left to do")
    return session


def _keep_spending(session: Session, usd: float) -> None:
    """A run does not fail because its account could not be put this time."""
    with contextlib.suppress(StoreError):
        session.save(spent_usd=usd)


def conclude(session: Session, *, interrupted: bool, seconds: float) -> Summary:
    """Look at what there is, read a sample of it back, and put how it ended beside the mosaic."""
    prepared, tally, meter = session.prepared, session.tally, session.meter
    counts = prepared.folder.counts()
    tiles = {"planned": session.planned} | {state: counts[state] for state in ENTERED}
    left = session.planned - sum(tiles[state] for state in ENTERED)
    problems = (
        *(
            {"tile": _named(prepared, lost.tile), "error": lost.error, "cause": lost.cause}
            for lost in prepared.folder.problems()
        ),
        *({"tile": name, "error": error, "cause": cause} for name, error, cause in tally.levels),
    )
    behind = session.books.levels_behind
    unfinished = left > 0 or behind
    state = _ending(
        bool(problems),
        unfinished,
        left=(session.was if session.was in ENDED else "interrupted") if left > 0 else "",
        interrupted=interrupted,
        used_up=meter.used_up,
        lost=session.lost is not None,
    )
    if state in ENDED:
        session.facts["tag"] = session.mosaic.tag(f"run-{prepared.run}")
    worked_s = tally.ended - tally.begun
    summary = Summary(
        run=prepared.run,
        mosaic=session.mosaic.url,
        state=state,
        tiles=tiles,
        seconds=round(seconds, 3),
        worked_tiles=tally.worked,
        seam=tally.seam if tally.seam is not None else session.facts.get("seam"),
        verified_tiles=_read_back(prepared, session.todo.redone),
        problems=problems,
        workers=tuple(_worker(sample, worked_s) for sample in tally.telemetry.samples()),
        device=session.device,
        spent_usd=round(meter.spent_usd, 6),
        stopped=_why(session, state, left),
    )
    session.save(
        state=state,
        levels_behind=behind,
        ended=datetime.now(UTC).isoformat(),
        summary=summary.as_json(),
        seam=summary.seam,
        spent_usd=meter.spent_usd,
    )
    register(prepared, state, session.planned, tiles["done"] + tiles["nodata"])
    session.recorder.happened("state", _ending_says(summary))
    return summary


def _ending_says(summary: Summary) -> str:
    """How a sitting ended, in a line."""
    given_up = summary.tiles["failed"] + summary.tiles["quarantined"]
    counts = f"{summary.tiles['done'] + summary.tiles['nodata']:,} of {summary.tiles['planned']:,} tiles are finished"
    return f"{summary.state}: {counts}{f', {given_up:,} given up' if given_up else ''}" + (
        f"; {summary.stopped}" if summary.stopped else ""
    )


def _why(session: Session, state: str, left: int) -> str:
    """Why it ended before its end; empty where it did not."""
    if state == "out-of-budget":
        return session.meter.says(left)
    if state == "stopped" and session.lost is not None:
        return f"{str(session.lost).rstrip('.')}. {left} tiles are left; `resmap run` goes on with them"
    return ""


def _ending(problems: bool, unfinished: bool, *, left: str, interrupted: bool, used_up: bool, lost: bool) -> str:
    """The state in which a run is left. One that was stopped when nothing was left to do is finished all the same; one
    that has tiles left because no more was asked of it than to repair some is as it was: ``left`` says how."""
    if unfinished and lost:
        return "stopped"
    if unfinished and interrupted:
        return "interrupted"
    if unfinished and used_up:
        return "out-of-budget"
    if left:
        return left
    return "quarantined" if problems else "done"


def _read_back(prepared: Prepared, redone: NDArray[np.int64]) -> int:
    """How many tiles were read back, and are what was written: some of all, or those that were repaired.

    Raises:
        VerifyError: some are not.
    """
    report = verify_run(prepared.folder, sample=SAMPLE_TILES, rows=redone if len(redone) else None)
    if report.bad:
        raise VerifyError(
            f"{len(report.bad)} of {report.checked} tiles read back are not what was written",
            fix="run `resmap verify --full`, then mend the store",
            mosaic=prepared.job.spec.output.mosaic,
            first=report.bad[0].tile,
        )
    return report.checked


def _named(prepared: Prepared, row: int) -> str:
    tile = prepared.plan.tiles[row]
    return f"{prepared.plan.grids[tile.grid].name or '0'}/r{tile.row}c{tile.column}/t{tile.step}"


def ended_before(prepared: Prepared) -> Summary | None:
    """The summary of a run that has nothing left to do."""
    facts = prepared.folder.facts()
    if facts.get("state") not in ENDED or "summary" not in facts:
        return None
    if facts.get("levels_behind") or prepared.folder.counts()["failed"]:
        return None
    past = summary_in(facts)
    return None if past is None else replace(past, seconds=0.0, worked_tiles=0)


def summary_in(facts: Mapping[str, Any]) -> Summary | None:
    """How the last sitting of a run ended, as its file says; None where it does not."""
    past = facts.get("summary")
    if not isinstance(past, dict):
        return None
    return Summary(**{**past, "problems": tuple(past["problems"]), "workers": tuple(past["workers"])})


def _worker(sample: WorkerSample, elapsed: float) -> dict[str, Any]:
    rates = {key: round(value, 4) for key, value in sample.rates(elapsed).items()}
    seconds = {stage: round(value, 3) for stage, value in sample.seconds.items()}
    return {
        "worker": sample.worker,
        "tiles": sample.tiles,
        "windows": sample.windows,
        "reused": sample.reused,
        **rates,
        "seconds": seconds,
    }


def register(prepared: Prepared, state: str, planned: int, finished: int) -> None:
    """Tell the index. It can be rebuilt, so a run does not fail for want of it."""
    with contextlib.suppress(MapperError):
        Registry().save(
            RunRow(
                run=prepared.run,
                mosaic=prepared.job.spec.output.mosaic,
                name=prepared.job.spec.name,
                state=state,
                planned=planned,
                finished=finished,
            )
        )
