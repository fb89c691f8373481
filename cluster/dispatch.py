"""Which task goes where next: state and rules, with the clock passed in. No threads, no Ray.

tasks  ┄┄┄┄┄┄┄┄ 16 ──► stretch of worker a ──► in hand of a      neighbours on the ground, one after the other
(in order)      16 ──► stretch of worker b ──► in hand of b
added, retries ────────────────────────────────► whoever has most room

When no fresh task is left, a worker with room takes half of the longest stretch; when none is left there either,
it takes a copy of the task that has kept another worker for too long (J. Dean, S. Ghemawat, MapReduce: Simplified
Data Processing on Large Clusters, OSDI 2004, section 3.6). The first of the two to finish is the task's outcome.

Every hand-out has a token of its own, and an answer counts for the hand-out whose token it brings. What a worker says
that was given up for lost and lives on is an answer to nothing, and dropped. So is what one says that has given the
task back before, because its machine leaves: that is nobody's failure, and the task goes out again at once.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from cluster.retries import Outage, RetryPolicy, Verdict, after_failure, wait_before_retry
from cluster.shard_state import ShardState, given_up, moved
from cluster.trials import Given, Hand, Judged, Trial, Waiting, evidence
from mapper.errors import MapperError
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
        self._hands: dict[str, Hand] = {}
        self._rooms: dict[int, dict[str, Hand]] = {}  # load → the workers with room that have this load
        self._given: dict[int, Given] = {}
        self._waiting: list[Waiting] = []
        self._running: dict[int, Trial] = {}  # those without a copy stand by ``since``, the longest first
        self._added: deque[Task] = deque()
        self._durations: dict[type[Task], deque[float]] = {}
        self._order, self._tokens = itertools.count(), itertools.count(1)
        self._outage = Outage(self._policy)
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
                hand = self._hands[name] = Hand(name)
            if hand.holds != holds:
                self._change(hand, holds=holds)
        if len(workers) < len(self._hands):
            for name in self._hands.keys() - workers.keys():
                self._change(self._hands[name], holds=0)

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks that came up on the way; they go out before fresh ones."""
        if not self._stopped:
            self._added.extend(tasks)

    def next_for(self, now: float) -> tuple[str, Task, int] | None:
        """The next worker, its task and the token of this hand-out; None while no worker has room or nothing is due.

        The worker with the fewest tasks in hand is served first. A retry that is due goes before other tasks. One
        that was there when a worker died is tried alone: if that worker dies too, no other task is suspected with it.
        In an outage one task at a time goes out, every second time one that was not tried yet.
        """
        waited_out = not self._outage.holds(now)
        if not waited_out and now < self._outage.probe_at:
            return None
        chosen = self._choose(now, untried_first=not waited_out and self._outage.probes % 2 == 1)
        if waited_out:
            return chosen or self._copy(now)
        if chosen is not None:
            self._outage.probed(now)
        return chosen

    def succeeded(self, token: int, now: float) -> int | None:
        """Take a finished task off; the number of tries it took, or None if nobody waits for the answer to this
        hand-out: it was told before, given up for lost, or left behind by a copy that was faster."""
        trial = self._over(token)
        if trial is None:
            return None
        self._outage.went_well()
        given = trial.on.pop(token)
        self._durations.setdefault(type(trial.task), deque(maxlen=_TIMED)).append(now - given.at)
        self._end(trial, "written")
        return trial.attempts + 1

    def failed(self, token: int, error: MapperError, now: float) -> Judged:
        """Take a failed task back.

        While a copy runs on, a failure is not counted; it goes out again when the copy is late too. Where copies
        have failed as often as one task may, the one that runs on is not waited for: it would hold the run for ever.
        Nor is counted what fails in an outage, or what a leaving worker gives back.
        """
        trial = self._over(token)
        if trial is None:
            return Judged(attempts=0, verdict=None, error=error)
        given = trial.on.pop(token)
        if error.cause == "returned":
            self._returned(trial, now)
            return Judged(attempts=trial.attempts, verdict=None, error=error)
        self._outage.failed(trial.task.id, error, now)
        if error.cause == "worker":
            trial.losses.append(error)
        if trial.on:
            trial.spared += 1
        else:
            trial.attempts += 1
        answer = self._answer(given, error, now)
        if not isinstance(answer, Verdict):
            self._go_on(trial, now + answer, now)
            return Judged(attempts=trial.attempts, verdict=None, error=error)
        self._end(trial, given_up(error))
        told = evidence(trial) if error.cause == "worker" else error
        return Judged(attempts=trial.attempts + trial.spared, verdict=answer, error=told)

    def seconds_until_due(self, now: float) -> float | None:
        """How long until a task may go out that may not yet; None where none waits for its time."""
        if self._outage.holds(now):
            return max(0.0, self._outage.probe_at - now)
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

    def _free(self) -> Iterator[Hand]:
        """Workers with room, the least busy first."""
        for load in sorted(self._rooms):
            yield from self._rooms[load].values()

    def _change(self, hand: Hand, *, load: int = 0, alone: int = 0, holds: int | None = None) -> None:
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

    def _next_of(self, hand: Hand) -> Task | None:
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

    def _choose(self, now: float, *, untried_first: bool) -> tuple[str, Task, int] | None:
        """A retry or a task that no worker had yet, on the least busy worker."""
        free = self._free()
        hand = next(free, None)
        if hand is None:
            return None
        if untried_first and (task := self._untried(hand)) is not None:
            return self._start(hand, Trial(task), now)
        if self._waiting and self._waiting[0].due <= now:
            if not (self._waiting[0].trial.suspect and hand.awaited):
                return self._start(hand, heapq.heappop(self._waiting).trial, now)
            hand = next(free, None)  # the least busy worker gets no more until it is empty
        task = self._untried(hand) if hand is not None else None
        return self._start(hand, Trial(task), now) if hand is not None and task is not None else None

    def _untried(self, hand: Hand) -> Task | None:
        return self._added.popleft() if self._added else self._next_of(hand)

    def _start(self, hand: Hand, trial: Trial, now: float) -> tuple[str, Task, int]:
        trial.state = moved(trial.state, "leased")
        token = next(self._tokens)
        given = Given(hand, trial, now, trial.suspect, hand.left_behind > 0)
        self._given[token] = trial.on[token] = given
        trial.since = now
        self._running[trial.task.id] = trial
        self._change(hand, load=1, alone=given.alone)
        return hand.name, trial.task, token

    def _over(self, token: int) -> Trial | None:
        """Free the room of one try; its trial, taken from the running ones, or None where nobody waits for it."""
        given = self._given.pop(token, None)
        if given is None:
            return None
        if token not in given.trial.on:
            given.hand.left_behind -= 1
            self._change(given.hand, load=-1)
            return None
        del self._running[given.trial.task.id]
        self._change(given.hand, load=-1, alone=-given.alone)
        return given.trial

    def _answer(self, given: Given, error: MapperError, now: float) -> float | Verdict:
        """Seconds until a failed task may go out again, or why it does not; counts the failure where it counts."""
        trial = given.trial
        if error.cause == "transient" and self._outage.too_long(now):
            fresh = not self._exhausted or self._stretched or self._added
            return Verdict.STOP if fresh else Verdict.QUARANTINE
        spread = (trial.task.id * 2654435761 % 2**32) / 2**32  # Knuth's multiplicative hash: even, and always the same
        if error.cause == "transient" and self._outage.holds(now):
            return wait_before_retry(error, 1, self._policy, spread=spread)
        if not trial.on:
            if not (error.cause == "worker" and trial.suspect and given.in_company):
                trial.counted[error.cause] += 1
            return after_failure(error, trial.counted[error.cause], self._policy, spread=spread)
        answer = after_failure(error, max(1, trial.counted[error.cause]), self._policy, spread=spread)
        if answer is Verdict.STOP:
            return answer
        return Verdict.QUARANTINE if trial.spared >= self._policy.attempts else 0.0

    def _go_on(self, trial: Trial, due: float, now: float) -> None:
        """Wait for the copy that runs on, or for the time of the next try."""
        if trial.on:
            trial.since = now
            self._running[trial.task.id] = trial
        else:
            trial.state = moved(trial.state, "planned")
            heapq.heappush(self._waiting, Waiting(due, next(self._order), trial))

    def _returned(self, trial: Trial, now: float) -> None:
        """Given back unfinished: it is due at once, or left to the next run where this one hands out nothing more."""
        if self._stopped and not trial.on:
            trial.state = moved(trial.state, "planned")
        else:
            self._go_on(trial, now, now)

    def _end(self, trial: Trial, state: ShardState) -> None:
        """It is over. A copy that still runs counts for its worker's room, and for nothing else."""
        trial.state = moved(trial.state, state)
        for given in trial.on.values():
            given.hand.left_behind += 1
            self._change(given.hand, alone=-given.alone)
        trial.on.clear()

    def _copy(self, now: float) -> tuple[str, Task, int] | None:
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
            (given,) = trial.on.values()
            for hand in self._free():
                if hand is not given.hand and not (trial.suspect and hand.awaited):
                    return self._start(hand, trial, now)
        return None
