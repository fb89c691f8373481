"""Which tile goes where next: state and rules, with the clock passed in. No threads, no Ray."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cluster.retries import RetryPolicy, Verdict, after_failure
from mapper.errors import MapperError, WorkerLostError
from mapper.map_tile import Task


@dataclass(slots=True)
class _Trial:
    """A task and how often it has failed."""

    task: Task
    attempts: int = 0
    lost: int = 0
    """Workers that died with it in hand."""


@dataclass(order=True, slots=True)
class _Waiting:
    due: float
    order: int
    trial: _Trial = field(compare=False)


class Dispatch:
    """Hands tasks to workers, at most ``depth`` at a time to each, and takes failed ones back.

    Tasks are drawn from the iterable only when a worker has room, so ten million of them are never in memory.
    """

    def __init__(self, tasks: Iterable[Task], *, depth: int, policy: RetryPolicy | None = None) -> None:
        self._fresh = iter(tasks)
        self._depth = depth
        self._policy = policy or RetryPolicy()
        self._waiting: list[_Waiting] = []
        self._running: dict[int, tuple[str, _Trial]] = {}
        self._order = 0
        self._exhausted = False
        self._stopped = False
        self._added: deque[Task] = deque()

    @property
    def running(self) -> int:
        """Tasks that workers hold now."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out, to wait for, or to hear of."""
        return self._exhausted and not self._waiting and not self._running and not self._added

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks that came up on the way; they go out before fresh ones."""
        if not self._stopped:
            self._added.extend(tasks)

    def next_for(self, workers: Sequence[str], now: float) -> tuple[str, Task] | None:
        """The next worker and task, or None while no worker has room or nothing is due.

        The worker with the fewest tasks in hand is served first. A retry that is due goes before fresh tasks. One
        that was there when a worker died is tried alone: if that worker dies too, no other task is suspected with it.
        """
        load = dict.fromkeys(workers, 0)
        for worker, trial in self._running.values():
            if worker in load:
                load[worker] += self._depth if trial.lost else 1
        free = sorted((load[worker], worker) for worker in workers if load[worker] < self._depth)
        retry = bool(self._waiting) and self._waiting[0].due <= now
        if retry and free and self._waiting[0].trial.lost and free[0][0] > 0:
            retry, free = False, free[1:]  # the least busy worker gets no more until it is empty
        if not free:
            return None
        drawn = heapq.heappop(self._waiting).trial if retry else self._draw()
        if drawn is None:
            return None
        worker, trial = free[0][1], drawn
        self._running[trial.task.id] = (worker, trial)
        return worker, trial.task

    def succeeded(self, task: Task) -> int | None:
        """Take a finished task off; the number of tries it took, or None if it was not running (told twice)."""
        held = self._running.pop(task.id, None)
        return None if held is None else held[1].attempts + 1

    def failed(self, task: Task, error: MapperError, now: float) -> tuple[int, Verdict | None]:
        """Take a failed task back; how many tries failed, and the verdict, None where it will be tried again."""
        _, trial = self._running.pop(task.id)
        trial.attempts += 1
        trial.lost += isinstance(error, WorkerLostError)
        failures = trial.lost if isinstance(error, WorkerLostError) else trial.attempts
        spread = (task.id * 2654435761 % 2**32) / 2**32  # Knuth's multiplicative hash: even, and the same every time
        answer = after_failure(error, failures, self._policy, spread=spread)
        if isinstance(answer, Verdict):
            return trial.attempts, answer
        self._order += 1
        heapq.heappush(self._waiting, _Waiting(now + answer, self._order, trial))
        return trial.attempts, None

    def seconds_until_due(self, now: float) -> float | None:
        """How long until the next retry may go out; None where none waits."""
        return max(0.0, self._waiting[0].due - now) if self._waiting else None

    def stop_drawing(self) -> None:
        """Hand out nothing more; what is running may finish."""
        self._exhausted = self._stopped = True
        self._fresh = iter(())
        self._added.clear()
        self._waiting.clear()

    def _draw(self) -> _Trial | None:
        task = self._added.popleft() if self._added else next(self._fresh, None)
        if task is None:
            self._exhausted = True
            return None
        return _Trial(task)
