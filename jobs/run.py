"""Plan → pool → ledger → mosaic: one run, from start or from where it stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from cluster.pool import Outcome, Pool, outcomes
from jobs.attach import failure_facts, follow
from jobs.budget import dollars
from jobs.crew import enter, fleet_of, welcome
from jobs.job import Job
from jobs.lease import Lease
from jobs.ledger import FINISHED, reading_runs
from jobs.left_levels import build_left
from jobs.output import check_output, check_room, check_turn, open_output, unmake
from jobs.prepare import Prepared, planned_before, prepare, save, setup_for
from jobs.repair import mend_run_files
from jobs.repair import repair as repair_all
from jobs.session import Session, begin, conclude, ended_before, register
from jobs.standing import Redo, standing
from jobs.summary import Summary
from jobs.watch import Silent, Watcher
from mapper.errors import BusyError, MapperError, ResourceError, StoreError
from mapper.failpoints import reach
from mapper.map_tile import Setup
from mapper.mosaic import Mosaic
from mapper.patience import HASTY, PATIENT, patiently
from mapper.pyramid import LevelTask, build_shard
from mapper.storage import is_local

SIGNAL_S = 0.5
"""How late Ctrl-C is heard at most."""

WELCOME_S = 1.0
"""How often it is looked whether workers have joined."""

MakePool: TypeAlias = Callable[[Setup, Callable[[float], None], Callable[[], bool]], Pool]
"""Of what every worker must know, who is told how many GPUs there are, and whether somebody has stopped the run."""


class Run:
    """A run under way in a thread. ``stop`` drains it; ``wait`` gives the summary or raises what ended it."""

    def __init__(
        self,
        prepared: Prepared,
        make_pool: MakePool,
        watcher: Watcher,
        *,
        retry: bool,
        repair: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prepared = prepared
        self.name = prepared.run
        self._make_pool = make_pool
        self._watcher = watcher
        self._retry = retry
        self._repair = repair
        self._clock = clock
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
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive() and (until is None or time.monotonic() < until):
            # In short waits: a Ctrl-C that the system gives to another thread does not end one of the main thread's.
            self._thread.join(SIGNAL_S if until is None else max(0.0, min(SIGNAL_S, until - time.monotonic())))
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.name} goes on")
        if self._error is not None:
            raise self._error
        assert self._summary is not None  # the thread ends with one or the other
        return self._summary

    def _go(self) -> None:
        try:
            self._summary = (
                repair_all(self.prepared, self._execute, self._watcher.say)
                if self._repair
                else self._execute(self.prepared, None)
            )
        except BaseException as error:  # raised again in ``wait``, in the caller's thread
            self._error = error

    def _execute(self, prepared: Prepared, redo: Redo | None) -> Summary:
        return _execute(
            prepared,
            self._make_pool,
            self._watcher,
            self._stop.is_set,
            retry=self._retry,
            redo=redo,
            clock=self._clock,
        )


def start(
    job: Job | Prepared,
    *,
    gpus: int | None = None,
    address: str | None = None,
    local: bool = False,
    watcher: Watcher | None = None,
    retry: bool = False,
    repair: bool = False,
    insecure_ray: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Plan if needed, and start or resume; where another driver runs this job already, follow it to its end.

    Args:
        job: what to map; a prepared one is not searched again.
        gpus, address, local, insecure_ray: as in ``Job.run``.
        watcher: who is told how it gets on.
        retry: take tiles again that were given up.
        repair: read the whole mosaic back first, and do again what is damaged.
        clock: what is spent is reckoned by it.
    """
    reach("run-begins")
    watcher = watcher or Silent()
    if repair:
        mend_run_files(job.job if isinstance(job, Prepared) else job, watcher.say)
    prepared = job if isinstance(job, Prepared) else prepare(job, tell=watcher.say)
    compute = prepared.job.spec.compute

    def make_pool(setup: Setup, paid: Callable[[float], None], stopped: Callable[[], bool]) -> Pool:
        if local:
            from cluster.local import LocalPool

            paid(1.0)
            return LocalPool(setup)
        from cluster.ray_pool import RayPool

        return RayPool(
            setup,
            workers=fleet_of(compute, gpus),
            readers=None if compute.readers == "auto" else compute.readers,
            address=address,
            insecure_ray=insecure_ray,
            paid=paid,
            stopped=stopped,
        )

    return Run(prepared, make_pool, watcher, retry=retry, repair=repair, clock=clock)


def _execute(
    prepared: Prepared,
    make_pool: MakePool,
    watcher: Watcher,
    stopped: Callable[[], bool],
    *,
    retry: bool,
    redo: Redo | None,
    clock: Callable[[], float],
) -> Summary:
    started = clock()
    done_before = not retry and redo is None
    while True:
        if prepared.saved and done_before and (ended := ended_before(prepared)) is not None:
            watcher.say(f"run {prepared.run} is finished; nothing to do")
            return ended
        output = prepared.job.spec.output
        lease = Lease(output.mosaic, prepared.run, engine=output.engine)
        # Before the mosaic is looked at: its driver may be making it just now.
        followed = follow(prepared, lease, watcher, stopped, refuse=lambda: _check_place(prepared, redo))
        if followed is not None and followed.summary is not None and (done_before or stopped()):
            return followed.summary
        _check_place(prepared, redo)
        fresh = not Mosaic.exists(output.mosaic)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lease)
            except BusyError:  # another began in the same moment: it is followed, or refuses us
                continue
            held.enter_context(_put_right(prepared, fresh=fresh))
            reach("lease-taken")
            # From here on the store has taken something: where it does not answer it is away, and is waited for.
            patience = HASTY if is_local(output.mosaic) else PATIENT
            session = patiently(
                partial(_session, prepared, lease, watcher, retry=retry, redo=redo, clock=clock), patience
            )
            held.enter_context(session.recorder)
            if not session.todo.wanted and not stopped():
                _build_levels(session)
            elif not stopped() and not session.meter.used_up:
                _map(session, make_pool, watcher, stopped)
            return patiently(
                lambda: conclude(session, interrupted=stopped(), seconds=clock() - started),  # noqa: B023  # used up here
                patience,
            )


def _session(
    prepared: Prepared,
    lease: Lease,
    watcher: Watcher,
    *,
    retry: bool,
    redo: Redo | None,
    clock: Callable[[], float],
) -> Session:
    """What is left to do, and the books opened."""
    prepared = _planned(prepared)
    mosaic = open_output(prepared)
    if prepared.renewal is not None:
        build_left(prepared, mosaic, lease)
    with reading_runs(mosaic.url):
        todo = standing(prepared, mosaic, retry=retry, redo=redo)
    return begin(prepared, mosaic, todo, watcher, clock, lease)


def _check_place(prepared: Prepared, redo: Redo | None) -> None:
    """Refuse a mosaic that is another job's, before anything is made. What is repaired is the run's own."""
    url = prepared.job.spec.output.mosaic
    if prepared.renewal is not None or Mosaic.exists(url):
        check_output(prepared, Mosaic.open(url, writable=False))
        if redo is None:
            check_turn(prepared)
    else:
        check_room(url)


def _planned(prepared: Prepared) -> Prepared:
    """The job with its plan beside the mosaic: ours, or that of another driver who put one there since we looked."""
    if not prepared.saved and prepared.folder.exists():
        with reading_runs(prepared.folder.mosaic):
            prepared = planned_before(prepared.job, prepared.folder)
    if not prepared.saved:
        check_turn(prepared)
        save(prepared)
    return prepared


def _map(session: Session, make_pool: MakePool, watcher: Watcher, stopped: Callable[[], bool]) -> None:
    """Have the workers map what is wanted."""
    watcher.begin(session.planned, session.finished)
    session.meter.begin()
    pool = make_pool(setup_for(session.prepared, session.mosaic), session.meter.have, stopped)
    try:
        workers = pool.facts()
        if not workers:  # somebody has stopped the run before there was one
            return
        session.meter.work(pool.workers())
        enter(session, workers)
        session.save()
        register(session.prepared, "running", session.planned, session.finished)
        session.tally.begun = time.monotonic()
        session.recorder.watch(pool, workers)
        _work(session, pool, stopped)
    finally:
        session.recorder.leave()
        session.meter.count(pool.workers())
        pool.close()
        session.meter.close()
        watcher.end()


def _work(session: Session, pool: Pool, stopped: Callable[[], bool]) -> None:
    """Tasks out, outcomes in, until all is done, somebody stops it, or the budget is used up."""
    meter, todo = session.meter, session.todo
    tasks = meter.handing_out(session.prepared.plan.tasks(todo.wanted, written_sources=todo.sources))

    told, looked_at = False, time.monotonic()

    def enough() -> bool:
        nonlocal told, looked_at
        meter.count(pool.workers())
        if (at := time.monotonic()) - looked_at >= WELCOME_S:
            looked_at = at
            welcome(session, pool)
        over = stopped() or meter.used_up
        if over and not told:
            told = True
            why = "somebody asked the run to stop" if stopped() else f"the budget of {_budget(session)} is used up"
            session.recorder.happened("warning", f"{why}: the tiles in hand are finished, no more are begun")
        return over

    try:
        for outcome in outcomes(pool, tasks, more=session.books.more, stopped=enough):
            if not isinstance(outcome.task, LevelTask):
                meter.over()
            session.books.enter(outcome)
        welcome(session, pool)
    except ResourceError as error:  # of the pool itself: nobody is left who could take a tile
        session.lost = error
    finally:
        session.books.close()


def _budget(session: Session) -> str:
    return dollars(session.prepared.job.spec.compute.budget_usd or 0.0)


def _build_levels(session: Session) -> None:
    """What a killed run left to do above its tiles, here: it needs no model."""
    while due := session.books.more(True):
        for task in due:
            built = build_shard(session.mosaic, task)
            session.books.enter(Outcome(worker="", task=task, attempts=1, result=built))
    session.books.close()


@contextlib.contextmanager
def _put_right(prepared: Prepared, *, fresh: bool) -> Iterator[None]:
    """Where a run ends in an error, leave nothing if it mapped nothing; else its files say that it stopped."""
    try:
        yield
    except BusyError:  # another driver has taken the mosaic over: its files are that one's now
        raise
    except MapperError as error:
        with contextlib.suppress(
            StoreError
        ):  # it is away, and how it ended stays untold: the error is said all the same
            _leave(prepared, error, fresh=fresh)
        raise


def _leave(prepared: Prepared, error: MapperError, *, fresh: bool) -> None:
    folder = prepared.folder
    if fresh and not folder.begun():
        output = prepared.job.spec.output
        unmake(output.mosaic, output.engine, prepared.plan.grids)
    elif folder.exists():
        facts = folder.facts() | {"state": "stopped", "error": str(error), "failure": failure_facts(error)}
        folder.save_facts(facts)
        counts = folder.counts()
        finished = sum(counts[state] for state in FINISHED)
        register(prepared, "stopped", int(facts.get("planned", 0)), finished)
