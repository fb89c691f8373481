"""Which task goes where next: state and rules, with the clock passed in. No threads, no Ray.

tasks  ┄┄┄┄┄┄┄┄ 16 ──► stretch of worker a ──► in hand of a      neighbours on the ground, one after the other
(in order)      16 ──► stretch of worker b ──► in hand of b
added, retries ────────────────────────────────► whoever has most room

When no fresh task is left, a worker with room takes half of the longest stretch; when none is left there either,
it takes a copy of the task that has kept another worker for too long (J. Dean, S. Ghemawat, MapReduce: Simplified
Data Processing on Large Clusters, OSDI 2004, section 3.6). The first of the two to finish is the task's outcome.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.retries import RetryPolicy, Verdict, after_failure
from mapper.errors import MapperError, WorkerLostError
from mapper.map_tile import Task

STRETCH = 16
"""Tasks a worker draws at a time. In Hilbert order they are a patch of ground, at best four by four tiles: then three
of four borders between tiles have the same worker on both sides. A driver holds this many a worker, however long the
plan is."""

PATIENCE_S = 5.0
"""A task is not copied before it has run this long, however short others are."""

LATE = 2.0
"""A task is late when it has run this many times the median of its kind."""

_TIMED = 101
"""Latest durations of a kind that its median is taken of."""


@dataclass(slots=True)
class _Trial:
    """A task and how often it has failed."""

    task: Task
    attempts: int = 0
    lost: int = 0
    """Workers that died with it in hand."""

    spared: int = 0
    """Failures that were not counted, because a copy ran on."""

    since: float = 0.0
    """When the last of its copies went out."""

    on: dict[str, float] = field(default_factory=dict)
    """Worker → when it was given this task: two while a copy runs."""


@dataclass(slots=True)
class _Hand:
    """What one worker has."""

    name: str
    holds: int = 0
    """Tasks it may hold now; 0 while it is away."""

    load: int = 0
    alone: int = 0
    """Tasks in hand that must have the worker to themselves."""

    left_behind: set[int] = field(default_factory=set)
    """Tasks it still works at although they are over: copies that lost."""

    stretch: deque[Task] = field(default_factory=deque)

    @property
    def awaited(self) -> int:
        """Tasks in hand whose outcome somebody waits for."""
        return self.load - len(self.left_behind)

    @property
    def has_room(self) -> bool:
        """Whether it may be given a task."""
        return self.load < self.holds and not self.alone


@dataclass(order=True, slots=True)
class _Waiting:
    due: float
    order: int
    trial: _Trial = field(compare=False)


class Dispatch:
    """Hands tasks to workers, to each as many as it may hold, and takes failed ones back.

    Tasks are drawn from the iterable a stretch a worker, so ten million of them are never in memory.
    """

    def __init__(
        self, tasks: Iterable[Task], *, policy: RetryPolicy | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self._fresh = iter(tasks)
        self._policy = policy or RetryPolicy()
        self._patience_s = patience_s
        self._seen: dict[str, int] = {}
        self._hands: dict[str, _Hand] = {}
        self._rooms: dict[int, dict[str, _Hand]] = {}  # load → the workers with room that have this load
        self._waiting: list[_Waiting] = []
        self._running: dict[int, _Trial] = {}  # those without a copy stand by ``since``, the longest first
        self._added: deque[Task] = deque()
        self._durations: dict[type[Task], deque[float]] = {}
        self._order = itertools.count()
        self._stretched = 0
        self._exhausted = self._stopped = False

    @property
    def running(self) -> int:
        """Tasks in hand whose outcome is not known. Copies left behind are not counted: nobody waits for them."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out, to wait for, or to hear of."""
        left = self._waiting or self._running or self._added or self._stretched
        return self._exhausted and not left

    def see(self, workers: Mapping[str, int]) -> None:
        """Take note of who is there: name → tasks the worker may hold now."""
        if workers == self._seen:
            return
        self._seen = dict(workers)
        for name, holds in workers.items():
            hand = self._hands.get(name)
            if hand is None:
                hand = self._hands[name] = _Hand(name)
            if hand.holds != holds:
                self._change(hand, holds=holds)
        if len(workers) < len(self._hands):
            for name in self._hands.keys() - workers.keys():
                self._change(self._hands[name], holds=0)

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks that came up on the way; they go out before fresh ones."""
        if not self._stopped:
            self._added.extend(tasks)

    def next_for(self, now: float) -> tuple[str, Task] | None:
        """The next worker and task, or None while no worker has room or nothing is due.

        The worker with the fewest tasks in hand is served first. A retry that is due goes before other tasks. One
        that was there when a worker died is tried alone: if that worker dies too, no other task is suspected with it.
        """
        free = self._free()
        hand = next(free, None)
        if hand is None:
            return None
        if self._waiting and self._waiting[0].due <= now:
            if not (self._waiting[0].trial.lost and hand.awaited):
                return self._start(hand, heapq.heappop(self._waiting).trial, now)
            hand = next(free, None)  # the least busy worker gets no more until it is empty
            if hand is None:
                return None
        task = self._added.popleft() if self._added else self._next_of(hand)
        if task is not None:
            return self._start(hand, _Trial(task), now)
        return self._copy(now)

    def succeeded(self, worker: str, task: Task, now: float) -> int | None:
        """Take a finished task off; the number of tries it took, or None if it was over before (told twice, or by a
        copy that was left behind)."""
        trial = self._over(worker, task)
        if trial is None:
            return None
        self._durations.setdefault(type(task), deque(maxlen=_TIMED)).append(now - trial.on.pop(worker))
        self._leave_behind(trial)
        return trial.attempts + 1

    def failed(self, worker: str, task: Task, error: MapperError, now: float) -> tuple[int, Verdict | None]:
        """Take a failed task back; how many tries failed, and the verdict, None where the run goes on with it.

        While a copy runs on, a failure is not counted; it goes out again when the copy is late too. Where copies
        have failed as often as one task may, the one that runs on is not waited for: it would hold the run for ever.
        """
        trial = self._over(worker, task)
        if trial is None:
            return 0, None
        del trial.on[worker]
        lost = isinstance(error, WorkerLostError)
        if trial.on:
            trial.spared += 1
            hopeless = trial.spared >= self._policy.attempts
        else:
            trial.attempts += 1
            trial.lost += lost
            hopeless = False
        spread = (task.id * 2654435761 % 2**32) / 2**32  # Knuth's multiplicative hash: even, and the same every time
        failures = max(1, trial.lost if lost else trial.attempts)
        answer = after_failure(error, failures, self._policy, spread=spread)
        if answer is Verdict.STOP or hopeless or (answer is Verdict.QUARANTINE and not trial.on):
            self._leave_behind(trial)
            return trial.attempts + trial.spared, answer if answer is Verdict.STOP else Verdict.QUARANTINE
        if trial.on:
            trial.since = now
            self._running[task.id] = trial
        elif not isinstance(answer, Verdict):
            heapq.heappush(self._waiting, _Waiting(now + answer, next(self._order), trial))
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
        self._stretched = 0
        for hand in self._hands.values():
            hand.stretch.clear()

    # Who has room -----------------------------------------------------------------------------------------------------

    def _free(self) -> Iterator[_Hand]:
        """Workers with room, the least busy first."""
        for load in sorted(self._rooms):
            yield from self._rooms[load].values()

    def _change(self, hand: _Hand, *, load: int = 0, alone: int = 0, holds: int | None = None) -> None:
        """Change what a worker has or may have, and keep the list of those with room."""
        if hand.has_room:
            level = self._rooms[hand.load]
            del level[hand.name]
            if not level:
                del self._rooms[hand.load]
        hand.load += load
        hand.alone += alone
        hand.holds = hand.holds if holds is None else holds
        if hand.has_room:
            self._rooms.setdefault(hand.load, {})[hand.name] = hand

    # Fresh tasks ------------------------------------------------------------------------------------------------------

    def _next_of(self, hand: _Hand) -> Task | None:
        """The next task of a worker's stretch; of the stream where it is empty; of another's where that is too."""
        if not hand.stretch and not self._exhausted:
            hand.stretch.extend(itertools.islice(self._fresh, STRETCH))
            self._stretched += len(hand.stretch)
            self._exhausted = len(hand.stretch) < STRETCH
        if not hand.stretch and self._stretched:
            longest = max(self._hands.values(), key=lambda other: len(other.stretch))
            half = [longest.stretch.pop() for _ in range((len(longest.stretch) + 1) // 2)]
            hand.stretch.extend(reversed(half))
        if not hand.stretch:
            return None
        self._stretched -= 1
        return hand.stretch.popleft()

    # Trials -----------------------------------------------------------------------------------------------------------

    def _start(self, hand: _Hand, trial: _Trial, now: float) -> tuple[str, Task]:
        trial.since = trial.on[hand.name] = now
        self._running[trial.task.id] = trial
        self._change(hand, load=1, alone=bool(trial.lost))
        return hand.name, trial.task

    def _over(self, worker: str, task: Task) -> _Trial | None:
        """Free the room of one try; its trial, taken from the running ones, or None where nobody waits for it."""
        hand = self._hands[worker]
        if task.id in hand.left_behind:
            hand.left_behind.remove(task.id)
            self._change(hand, load=-1)
            return None
        trial = self._running.get(task.id)
        if trial is None or worker not in trial.on:
            return None
        del self._running[task.id]
        self._change(hand, load=-1, alone=-bool(trial.lost))
        return trial

    def _leave_behind(self, trial: _Trial) -> None:
        """The copy that still runs counts for its worker's room, and for nothing else."""
        for worker in trial.on:
            hand = self._hands[worker]
            hand.left_behind.add(trial.task.id)
            self._change(hand, alone=-bool(trial.lost))

    def _copy(self, now: float) -> tuple[str, Task] | None:
        """A second copy of the task that has been late for longest, on another worker."""
        if self._stopped or not self._running:
            return None
        late_s = {
            kind: max(self._patience_s, LATE * statistics.median(durations))
            for kind, durations in self._durations.items()
        }
        young: set[type[Task]] = set()
        for trial in self._running.values():
            kind = type(trial.task)
            if len(trial.on) > 1 or kind not in late_s:
                continue
            if trial.since + late_s[kind] > now:
                young.add(kind)
                if len(young) == len(late_s):
                    return None  # they stand by age: the others are younger still
                continue
            for hand in self._free():
                if hand.name not in trial.on and not (trial.lost and hand.awaited):
                    return self._start(hand, trial, now)
        return None
