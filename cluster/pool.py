"""The Pool contract, and the one loop that drives any pool: tasks in, outcomes out as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from cluster.dispatch import PATIENCE_S, Dispatch
from cluster.readings import Reading
from cluster.retries import RetryPolicy, Verdict
from mapper.errors import MapperError
from mapper.map_tile import Result, Task

Said = TypeVar("Said")

LONGEST_WAIT_S = 1.0
"""How long the loop sleeps at most: a stop is heard within this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself once its model is loaded."""

    name: str
    device: str
    fingerprint: str
    """Of the model as loaded; all workers of a run must give the same."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One try of one task is over."""

    worker: str
    task: Task
    result: Result | MapperError
    token: int = 0
    """That of the hand-out: an answer to an earlier one is nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A task is over for good."""

    worker: str
    task: Task
    attempts: int
    result: Result | None
    """None where it was given up."""

    error: MapperError | None = None


class Pool(Protocol):
    """Workers that each own one GPU and one loaded model."""

    def workers(self) -> Mapping[str, int]:
        """Name of each worker that takes tasks now → how many it may hold at present, 1 or more."""

    def facts(self) -> Sequence[WorkerFacts]:
        """What each worker that has loaded says of itself; the first time, all that have a place are waited for."""

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Hand a task to a worker; returns at once.

        Args:
            worker: one of ``workers``.
            task: what to do.
            token: comes back with what became of it.
        """

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tries that are over; waits up to the timeout for the first, also where there is none under way.

        A lost worker is an error of its tasks.

        Raises:
            MapperError: no worker is left, nor one to come.
        """

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """Worker → how many seconds ago it last said so, and what it said last of itself. Those that were given up are
        not among them. May be called from another thread."""

    def close(self) -> None:
        """Let go of all workers. What they hold is abandoned."""


def outcomes(
    pool: Pool,
    tasks: Iterable[Task],
    *,
    policy: RetryPolicy | None = None,
    more: Callable[[bool], Iterable[Task]] = lambda idle: (),
    stopped: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
    patience_s: float = PATIENCE_S,
) -> Iterator[Outcome]:
    """The outcome of every task, as they finish, in any order.

    Once ``stopped`` says so no new task goes out, and the loop ends when those in hand are over.

    A task that keeps its worker for too long when nothing else is left is given to a second worker as well, and the
    one that finishes first is its outcome; whatever the other says later is dropped. That is exactly once all the
    same: every hand-out has a token, and an answer counts if it brings the token of one that is waited for, so a worker
    that was given up for lost and wakes up speaks to nobody. Under plain Zarr both put the same bytes to the same
    shard, each shard in one piece, so a late write replaces the shard by itself. Under icechunk a write is not in the
    mosaic before its receipt is committed, and the second receipt reaches nobody. A copy left behind is not waited
    for: closing the pool ends it.

    Args:
        pool: who does the work.
        tasks: what to do; drawn a stretch a worker.
        policy: when a failed task is tried again.
        more: asked in every turn, about once a second or oftener, for tasks that came up on the way; its argument says
            whether nothing else is left, and the loop ends when it then has none.
        stopped: whether to hand out no more.
        now: the clock.
        patience_s: how long a task may run, at the least, before a second worker is given it; infinite for never.

    Raises:
        MapperError: a failure every tile would share (a wrong job, credentials); those in hand are abandoned.
    """
    dispatch = Dispatch(tasks, policy=policy, patience_s=patience_s)
    while True:
        if stopped():
            dispatch.stop_drawing()
        dispatch.add(more(False))
        dispatch.see(pool.workers())
        at = now()
        while (chosen := dispatch.next_for(at)) is not None:
            pool.start(*chosen)
        if dispatch.finished:
            last = list(more(True))
            if not last or stopped():
                return
            dispatch.add(last)
            continue
        # A retry that is due and was not handed out (0 s) waits for room, not for the clock.
        wait_s = min(dispatch.seconds_until_due(at) or LONGEST_WAIT_S, LONGEST_WAIT_S)
        for over in pool.finished(wait_s):
            outcome = _outcome(dispatch, over, now())
            if outcome is not None:
                yield outcome


def heard(queue: SimpleQueue[Said], timeout_s: float) -> list[Said]:
    """All that threads have put into a queue; waits up to the timeout for the first."""
    said: list[Said] = []
    try:
        said.append(queue.get(timeout=timeout_s))
        while True:
            said.append(queue.get_nowait())
    except Empty:
        return said


def _outcome(dispatch: Dispatch, over: Finished, at: float) -> Outcome | None:
    if not isinstance(over.result, MapperError):
        attempts = dispatch.succeeded(over.token, at)
        if attempts is None:
            return None
        return Outcome(worker=over.worker, task=over.task, attempts=attempts, result=over.result)
    judged = dispatch.failed(over.token, over.result, at)
    if judged.verdict is Verdict.STOP:
        raise judged.error
    if judged.verdict is Verdict.QUARANTINE:
        return Outcome(worker=over.worker, task=over.task, attempts=judged.attempts, result=None, error=judged.error)
    return None
