"""The Pool contract, and the one loop that drives any pool: tasks in, outcomes out as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.dispatch import Dispatch
from cluster.retries import RetryPolicy, Verdict
from mapper.errors import MapperError
from mapper.map_tile import Result, Task

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

    @property
    def depth(self) -> int:
        """Tasks one worker may hold: one on the GPU, the others being read ahead or written behind."""

    def workers(self) -> Sequence[str]:
        """Names of the workers that take tasks now."""

    def facts(self) -> Sequence[WorkerFacts]:
        """What each worker says of itself; waits until all have loaded."""

    def start(self, worker: str, task: Task) -> None:
        """Hand a task to a worker; returns at once."""

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tries that are over; waits up to the timeout for the first. A lost worker is an error of its tasks."""

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
) -> Iterator[Outcome]:
    """The outcome of every task, as they finish, in any order.

    Once ``stopped`` says so no new task goes out, and the loop ends when those in hand are over.

    Args:
        pool: who does the work.
        tasks: what to do; drawn as workers have room.
        policy: when a failed task is tried again.
        more: asked in every turn, about once a second or oftener, for tasks that came up on the way; its argument says
            whether nothing else is left, and the loop ends when it then has none.
        stopped: whether to hand out no more.
        now: the clock.

    Raises:
        MapperError: a failure every tile would share (a wrong job, credentials); those in hand are abandoned.
    """
    dispatch = Dispatch(tasks, depth=pool.depth, policy=policy)
    while True:
        if stopped():
            dispatch.stop_drawing()
        dispatch.add(more(False))
        at = now()
        while (chosen := dispatch.next_for(pool.workers(), at)) is not None:
            pool.start(*chosen)
        if dispatch.finished:
            last = list(more(True))
            if not last or stopped():
                return
            dispatch.add(last)
            continue
        # A retry that is due and was not handed out (0 s) waits for room, not for the clock.
        wait_s = min(dispatch.seconds_until_due(at) or LONGEST_WAIT_S, LONGEST_WAIT_S)
        if dispatch.running == 0:
            time.sleep(wait_s)
            continue
        for over in pool.finished(wait_s):
            outcome = _outcome(dispatch, over, now())
            if outcome is not None:
                yield outcome


def _outcome(dispatch: Dispatch, over: Finished, at: float) -> Outcome | None:
    if not isinstance(over.result, MapperError):
        attempts = dispatch.succeeded(over.task)
        if attempts is None:
            return None
        return Outcome(worker=over.worker, task=over.task, attempts=attempts, result=over.result)
    attempts, verdict = dispatch.failed(over.task, over.result, at)
    if verdict is Verdict.STOP:
        raise over.result
    if verdict is Verdict.QUARANTINE:
        return Outcome(worker=over.worker, task=over.task, attempts=attempts, result=None, error=over.result)
    return None
