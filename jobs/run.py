"""Plan → pool → ledger → mosaic: one run, from start or from where it stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cluster.pool import Outcome, Pool, WorkerFacts, outcomes
from cluster.telemetry import WorkerSample
from jobs.books import Books, Tally
from jobs.job import Job
from jobs.lease import Lease
from jobs.ledger import FINISHED, RunFolder, run_names
from jobs.prepare import (
    Prepared,
    Standing,
    check_output,
    check_room,
    open_output,
    prepare,
    save,
    setup_for,
    standing,
    unmake,
)
from jobs.registry import Registry, RunRow
from jobs.summary import Summary
from jobs.verify import verify_run
from jobs.watch import Silent, Watcher
from mapper.errors import MapperError, ModelError, VerifyError
from mapper.map_tile import Setup
from mapper.mosaic import Mosaic
from mapper.pyramid import build_shard

SAMPLE_TILES = 8
"""Tiles that every run reads back at its end."""


class Run:
    """A run under way in a thread. ``stop`` drains it; ``wait`` gives the summary or raises what ended it."""

    def __init__(
        self, prepared: Prepared, make_pool: Callable[[Setup], Pool], watcher: Watcher, *, retry: bool
    ) -> None:
        self.prepared = prepared
        self.name = prepared.run
        self._make_pool = make_pool
        self._watcher = watcher
        self._retry = retry
        self._stop = threading.Event()
        self._summary: Summary | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._go, name=f"run-{self.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "under way" if self._thread.is_alive() else "over"
        return f"<run {self.name}, {state}, {self.prepared.job.spec.output.mosaic}>"

    def stop(self) -> None:
        """Hand out no more tiles; those in hand are finished and recorded."""
        self._stop.set()

    def wait(self, timeout_s: float | None = None) -> Summary:
        """How it ended.

        Raises:
            TimeoutError: it has not ended yet.
            MapperError: what ended it.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.name} goes on")
        if self._error is not None:
            raise self._error
        assert self._summary is not None  # the thread ends with one or the other
        return self._summary

    def _go(self) -> None:
        try:
            self._summary = _execute(
                self.prepared, self._make_pool, self._watcher, self._stop.is_set, retry=self._retry
            )
        except BaseException as error:  # raised again in ``wait``, in the caller's thread
            self._error = error


def start(
    job: Job | Prepared,
    *,
    gpus: int | None = None,
    address: str | None = None,
    local: bool = False,
    watcher: Watcher | None = None,
    retry: bool = False,
) -> Run:
    """Plan if needed, and start or resume. Arguments as in ``Job.run``; a prepared job is not searched again."""
    watcher = watcher or Silent()
    prepared = job if isinstance(job, Prepared) else prepare(job, tell=watcher.say)
    wanted_gpus = gpus if gpus is not None else prepared.job.spec.compute.gpus

    def make_pool(setup: Setup) -> Pool:
        if local:
            from cluster.local import LocalPool

            return LocalPool(setup)
        from cluster.ray_pool import RayPool

        return RayPool(setup, workers=None if wanted_gpus == "auto" else wanted_gpus, address=address)

    return Run(prepared, make_pool, watcher, retry=retry)


def _execute(
    prepared: Prepared,
    make_pool: Callable[[Setup], Pool],
    watcher: Watcher,
    stopped: Callable[[], bool],
    *,
    retry: bool,
) -> Summary:
    started = time.monotonic()
    spec, folder = prepared.job.spec, prepared.folder
    if prepared.saved and not retry and (ended := _ended_before(prepared)) is not None:
        watcher.say(f"run {prepared.run} is finished; nothing to do")
        return ended
    lease = Lease(spec.output.mosaic, prepared.run, engine=spec.output.engine)
    lease.refuse_if_held()  # before the mosaic is looked at: its driver may be making it just now
    if Mosaic.exists(spec.output.mosaic):
        check_output(prepared, Mosaic.open(spec.output.mosaic, writable=False))
    else:
        check_room(spec.output.mosaic)
    with lease, _put_right(prepared, fresh=not Mosaic.exists(spec.output.mosaic)):
        if not prepared.saved and folder.exists():  # another driver planned it since we looked
            prepared = prepare(prepared.job)
        if not prepared.saved:
            save(prepared)
        mosaic = open_output(prepared)
        todo = standing(prepared, mosaic, retry=retry)
        facts = folder.facts() | {
            "state": "running",
            "planned": facts_planned(todo, folder.facts()),
        }
        folder.save_facts(facts)
        tally = Tally()
        devices = ""
        books = Books(prepared, mosaic, todo, tally, watcher)
        if todo.wanted and not stopped():
            watcher.begin(facts["planned"], facts["planned"] - len(todo.wanted))
            pool = make_pool(setup_for(prepared, mosaic))
            try:
                workers = pool.facts()
                devices = ", ".join(sorted({worker.device for worker in workers}))
                facts = _agreed(facts, workers, _fingerprints(spec.output.mosaic))
                folder.save_facts(facts)
                _register(prepared, "running", facts["planned"], facts["planned"] - len(todo.wanted))
                tally.begun = time.monotonic()
                _work(prepared, pool, books, todo, stopped)
            finally:
                pool.close()
                watcher.end()
        elif not stopped():
            _build_levels(mosaic, books)
        facts["levels_behind"] = books.levels_behind
        if not stopped():
            facts["tag"] = mosaic.tag(f"run-{prepared.run}")
        return _conclude(prepared, facts, tally, started, devices, interrupted=stopped())


@contextlib.contextmanager
def _put_right(prepared: Prepared, *, fresh: bool) -> Iterator[None]:
    """Where a run ends in an error, leave nothing if it mapped nothing; else its files say that it stopped."""
    try:
        yield
    except MapperError as error:
        folder = prepared.folder
        if fresh and next(folder.entries(), None) is None:
            output = prepared.job.spec.output
            unmake(output.mosaic, output.engine, prepared.plan.grids)
        elif folder.exists():
            facts = folder.facts() | {"state": "stopped", "error": str(error)}
            folder.save_facts(facts)
            finished = sum(entry.state in FINISHED for entry in folder.states().values())
            _register(prepared, "stopped", int(facts.get("planned", 0)), finished)
        raise


def facts_planned(todo: Standing, facts: Mapping[str, Any]) -> int:
    """Tiles this run answers for: those it had to write when it first began."""
    return int(facts["planned"]) if "planned" in facts else len(todo.wanted)


def _work(prepared: Prepared, pool: Pool, books: Books, todo: Standing, stopped: Callable[[], bool]) -> None:
    tasks = prepared.plan.tasks(todo.wanted, written_sources=todo.sources)
    try:
        for outcome in outcomes(pool, tasks, more=books.more, stopped=stopped):
            books.enter(outcome)
    finally:
        books.close()


def _build_levels(mosaic: Mosaic, books: Books) -> None:
    """What a killed run left to do above its tiles, here: it needs no model."""
    while due := books.more(True):
        for task in due:
            books.enter(Outcome(worker="", task=task, attempts=1, result=build_shard(mosaic, task)))
    books.close()


def _fingerprints(mosaic: str) -> set[str]:
    """Of the models that have written to a mosaic: one, or none yet."""
    facts = [RunFolder(mosaic, name).facts() for name in run_names(mosaic)]
    return {str(fact["fingerprint"]) for fact in facts if fact.get("fingerprint")}


def _agreed(facts: dict[str, Any], workers: Sequence[WorkerFacts], earlier: set[str]) -> dict[str, Any]:
    """The run's facts with its workers in them.

    Raises:
        ModelError: the workers, or an earlier run of this mosaic, loaded something else.
    """
    prints = {worker.fingerprint for worker in workers} | earlier
    if len(prints) > 1:
        raise ModelError(
            "the model is not the same in all workers, or not the one this mosaic began with",
            fix="give every node the same weights, or write to a new mosaic",
            found=", ".join(sorted(prints)),
        )
    return facts | {"fingerprint": next(iter(prints)), "workers": [asdict(worker) for worker in workers]}


def _ended_before(prepared: Prepared) -> Summary | None:
    """The summary of a run that has nothing left to do."""
    facts = prepared.folder.facts()
    if facts.get("state") not in ("done", "quarantined") or "summary" not in facts:
        return None
    if facts.get("levels_behind") or any(entry.state == "failed" for entry in prepared.folder.states().values()):
        return None
    past = facts["summary"]
    return Summary(
        **{
            **past,
            "seconds": 0.0,
            "worked_tiles": 0,
            "problems": tuple(past["problems"]),
            "workers": tuple(past["workers"]),
        }
    )


def _conclude(
    prepared: Prepared,
    facts: dict[str, Any],
    tally: Tally,
    started: float,
    device: str,
    *,
    interrupted: bool,
) -> Summary:
    states = prepared.folder.states()
    counts = Counter(entry.state for entry in states.values())
    planned = int(facts["planned"])
    tiles = {"planned": planned} | {state: counts[state] for state in ("done", "nodata", "failed", "quarantined")}
    left = planned - sum(tiles[state] for state in ("done", "nodata", "failed", "quarantined"))
    elapsed = time.monotonic() - started
    worked_s = tally.ended - tally.begun
    problems = (
        *(
            {"tile": _named(prepared, row), "error": entry.error, "cause": entry.cause}
            for row, entry in sorted(states.items())
            if entry.state in ("failed", "quarantined")
        ),
        *({"tile": name, "error": error, "cause": cause} for name, error, cause in tally.levels),
    )
    state = (
        "interrupted"
        if interrupted and (left > 0 or facts["levels_behind"])
        else ("quarantined" if problems else "done")
    )
    report = verify_run(prepared.folder, sample=SAMPLE_TILES)
    if report.bad:
        raise VerifyError(
            f"{len(report.bad)} of {report.checked} tiles read back are not what was written",
            fix="run `resmap verify --full`, then mend the store",
            mosaic=prepared.job.spec.output.mosaic,
            first=report.bad[0].tile,
        )
    summary = Summary(
        run=prepared.run,
        mosaic=prepared.job.spec.output.mosaic,
        state=state,
        tiles=tiles,
        seconds=round(elapsed, 3),
        worked_tiles=tally.worked,
        seam=tally.seam if tally.seam is not None else facts.get("seam"),
        verified_tiles=report.checked,
        problems=problems,
        workers=tuple(_worker(sample, worked_s) for sample in tally.telemetry.samples()),
        device=device,
    )
    prepared.folder.save_facts(
        facts
        | {
            "state": state,
            "ended": datetime.now(UTC).isoformat(),
            "summary": summary.as_json(),
            "seam": summary.seam,
        }
    )
    _register(prepared, state, planned, tiles["done"] + tiles["nodata"])
    return summary


def _named(prepared: Prepared, row: int) -> str:
    tile = prepared.plan.tiles[row]
    return f"{prepared.plan.grids[tile.grid].name or '0'}/r{tile.row}c{tile.column}/t{tile.step}"


def _worker(sample: WorkerSample, elapsed: float) -> dict[str, Any]:
    rates = {key: round(value, 4) for key, value in sample.rates(elapsed).items()}
    seconds = {stage: round(value, 3) for stage, value in sample.seconds.items()}
    return {
        "worker": sample.worker,
        "tiles": sample.tiles,
        "windows": sample.windows,
        **rates,
        "seconds": seconds,
    }


def _register(prepared: Prepared, state: str, planned: int, finished: int) -> None:
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
