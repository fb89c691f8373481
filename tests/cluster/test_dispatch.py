"""Which task goes where next, whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.dispatch import STRETCH
from cluster.dispatch import Dispatch as ByToken
from cluster.retries import RetryPolicy, Verdict
from mapper.errors import AssetError, HandedBackError, MapperError, ReadError, SpecError, StoreError, WorkerLostError
from mapper.map_tile import Task
from mapper.pyramid import LevelTask
from tests.cluster.tiles import GRID, tile_tasks

POLICY = RetryPolicy(attempts=3, lost_workers=2, first_wait_s=1.0, longest_wait_s=4.0, outage_s=0)
PATIENCE_S = 5.0
NAMES = ("a", "b", "c")


class Dispatch:
    """A dispatch whose answers are told by worker and task: it remembers the token of the last such hand-out."""

    def __init__(
        self, tasks: Iterable[Task], *, policy: RetryPolicy | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.by_token = ByToken(tasks, policy=policy, patience_s=patience_s)
        self.tokens: dict[tuple[str, int], int] = {}
        self.see, self.add, self.stop_drawing = self.by_token.see, self.by_token.add, self.by_token.stop_drawing
        self.seconds_until_due = self.by_token.seconds_until_due

    @property
    def running(self) -> int:
        return self.by_token.running

    @property
    def finished(self) -> bool:
        return self.by_token.finished

    def next_for(self, now: float) -> tuple[str, Task] | None:
        chosen = self.by_token.next_for(now)
        if chosen is None:
            return None
        worker, task, token = chosen
        assert token not in self.tokens.values()
        self.tokens[worker, task.id] = token
        return worker, task

    def succeeded(self, worker: str, task: Task, now: float) -> int | None:
        return self.by_token.succeeded(self.tokens[worker, task.id], now)

    def failed(self, worker: str, task: Task, error: MapperError, now: float) -> tuple[int, Verdict | None]:
        judged = self.by_token.failed(self.tokens[worker, task.id], error, now)
        return judged.attempts, judged.verdict


class Run(RuleBasedStateMachine):
    """A run in which tasks fail, workers come and go, and time passes, in any order."""

    @initialize(count=st.integers(0, 5) | st.integers(0, 40), holds=st.integers(1, 3))
    def begin(self, count: int, holds: int) -> None:
        self.tasks, self.holds = tile_tasks(count), holds
        self.drawn = 0
        self.dispatch = Dispatch(self._draw(), policy=POLICY, patience_s=PATIENCE_S)
        self.now = 0.0
        self.workers = {"a": holds, "b": holds}
        self.running: dict[int, dict[str, float]] = {}
        self.left_behind: set[tuple[str, int]] = set()
        self.due: dict[int, float] = {}
        self.tried: dict[int, int] = {}
        self.spared: dict[int, int] = {}
        self.read_badly: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.ended: list[int] = []
        self.spent: list[int] = []
        self.in_company: dict[tuple[str, int], bool] = {}

    def _draw(self) -> Iterator[Task]:
        for task in self.tasks:
            self.drawn += 1
            yield task

    @rule()
    def hand_out(self) -> None:
        self.dispatch.see(self.workers)
        chosen = self.dispatch.next_for(self.now)
        if chosen is None:
            return
        worker, task = chosen
        assert worker in self.workers
        assert task.id not in self.ended
        assert self.due.pop(task.id, 0.0) <= self.now
        earlier = self.running.setdefault(task.id, {})
        assert worker not in earlier
        assert all(since + PATIENCE_S <= self.now for since in earlier.values())
        earlier[worker] = self.now
        self.in_company[worker, task.id] = any(name == worker for name, _ in self.left_behind)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        worker, task = self._one_of_the_running(data)
        self.spent.append(self.dispatch.tokens[worker, task.id])
        assert self.dispatch.succeeded(worker, task, self.now) == self.tried.get(task.id, 0) + 1
        del self.running[task.id][worker]
        self._end(task)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from([ReadError, AssetError]))
    def fail(self, data: st.DataObject, kind: type[MapperError]) -> None:
        self._failed(*self._one_of_the_running(data), kind("it broke"))

    @rule(worker=st.sampled_from(NAMES))
    def lose_a_worker(self, worker: str) -> None:
        for task in [self.tasks[number] for number, held in self.running.items() if worker in held]:
            self._failed(worker, task, WorkerLostError("gone"))
        for name, number in [one for one in self.left_behind if one[0] == worker]:
            self._late(name, number, done=False)

    @rule(worker=st.sampled_from(NAMES), some=st.booleans())
    def a_worker_leaves(self, worker: str, some: bool) -> None:
        """It gives back what it has, or the first of it, and nothing counts."""
        self.workers = {name: holds for name, holds in self.workers.items() if name != worker}
        self.dispatch.see(self.workers)
        held = [self.tasks[number] for number, held in self.running.items() if worker in held]
        for task in held[:1] if some else held:
            self.spent.append(self.dispatch.tokens[worker, task.id])
            judged = self.dispatch.failed(worker, task, HandedBackError("it leaves"), self.now)
            assert judged == (self.tried.get(task.id, 0), None)
            del self.running[task.id][worker]
            if not self.running[task.id]:
                del self.running[task.id]
                self.due[task.id] = self.now
        for name, number in [one for one in self.left_behind if one[0] == worker]:
            self._late(name, number, done=some)

    @precondition(lambda self: self.left_behind)
    @rule(data=st.data(), done=st.booleans())
    def a_copy_left_behind_is_over(self, data: st.DataObject, done: bool) -> None:
        self._late(*data.draw(st.sampled_from(sorted(self.left_behind))), done=done)

    @precondition(lambda self: self.spent)
    @rule(data=st.data(), done=st.booleans())
    def a_zombie_answers(self, data: st.DataObject, done: bool) -> None:
        """What was given up for lost, or told before: it changes nothing, the invariants say."""
        token = data.draw(st.sampled_from(self.spent))
        if done:
            assert self.dispatch.by_token.succeeded(token, self.now) is None
        else:
            assert self.dispatch.by_token.failed(token, SpecError("late"), self.now).verdict is None

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(workers=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3)))
    def workers_come_and_go(self, workers: dict[str, int]) -> None:
        self.workers, self.holds = workers, max(self.holds, *workers.values(), 1)

    @invariant()
    def no_worker_holds_more_than_it_may(self) -> None:
        for name in NAMES:
            assert self._held_by(name) + sum(worker == name for worker, _ in self.left_behind) <= self.holds

    @invariant()
    def what_lost_a_worker_is_tried_alone(self) -> None:
        for number, held in self.running.items():
            if self.lost.get(number):
                assert all(self._held_by(worker) == 1 for worker in held)

    @invariant()
    def no_task_runs_more_than_twice_at_once(self) -> None:
        assert all(len(held) <= 2 for held in self.running.values())

    @invariant()
    def no_more_is_drawn_ahead_than_a_stretch_a_worker(self) -> None:
        assert 0 <= self.drawn - len(self.running) - len(self.due) - len(self.ended) <= STRETCH * len(NAMES)

    @invariant()
    def it_is_finished_when_every_task_has_ended(self) -> None:
        assert self.dispatch.running == len(self.running)
        if self.dispatch.finished:
            assert sorted(self.ended) == [task.id for task in self.tasks]

    def teardown(self) -> None:
        """Whatever happened, with workers and time the rest ends too, each once."""
        if not hasattr(self, "dispatch"):
            return
        self.workers = {"a": 3, "fresh": 3}
        for _ in range(400):
            if self.dispatch.finished:
                break
            self.hand_out()
            for number, held in list(self.running.items())[1:] or list(self.running.items()):
                worker = next(iter(held))
                self.dispatch.succeeded(worker, self.tasks[number], self.now)
                del held[worker]
                self._end(self.tasks[number])
            self.now += 1.0
        assert self.dispatch.finished
        assert sorted(self.ended) == [task.id for task in self.tasks]

    def _held_by(self, name: str) -> int:
        return sum(name in held for held in self.running.values())

    def _one_of_the_running(self, data: st.DataObject) -> tuple[str, Task]:
        number = data.draw(st.sampled_from(sorted(self.running)))
        return data.draw(st.sampled_from(sorted(self.running[number]))), self.tasks[number]

    def _failed(self, worker: str, task: Task, error: MapperError) -> None:
        self.spent.append(self.dispatch.tokens[worker, task.id])
        attempts, verdict = self.dispatch.failed(worker, task, error, self.now)
        del self.running[task.id][worker]
        if self.running[task.id]:
            self.spared[task.id] = self.spared.get(task.id, 0) + 1
            hopeless = self.spared[task.id] >= 3
        else:
            self.tried[task.id] = self.tried.get(task.id, 0) + 1
            lost = isinstance(error, WorkerLostError)
            blamed = lost and not (self.lost.get(task.id) and self.in_company[worker, task.id])
            self.lost[task.id] = self.lost.get(task.id, 0) + blamed
            self.read_badly[task.id] = self.read_badly.get(task.id, 0) + (not lost)
            hopeless = not error.retryable or (self.lost[task.id] >= 2 if lost else self.read_badly[task.id] >= 3)
        assert attempts == self.tried.get(task.id, 0) + (self.spared.get(task.id, 0) if hopeless else 0)
        assert verdict is (Verdict.QUARANTINE if hopeless else None)
        if hopeless:
            self._end(task)
        elif not self.running[task.id]:
            del self.running[task.id]
            self.due[task.id] = self.now + 1.0  # the shortest wait there is

    def _late(self, worker: str, number: int, *, done: bool) -> None:
        self.left_behind.remove((worker, number))
        if done:
            assert self.dispatch.succeeded(worker, self.tasks[number], self.now) is None
        else:
            assert self.dispatch.failed(worker, self.tasks[number], SpecError("late"), self.now) == (0, None)

    def _end(self, task: Task) -> None:
        self.left_behind |= {(worker, task.id) for worker in self.running.pop(task.id)}
        self.ended.append(task.id)


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=100, stateful_step_count=50)


def handed_out(dispatch: Dispatch, workers: Mapping[str, int], now: float = 0.0) -> list[tuple[str, Task]]:
    """All that these workers are given now."""
    dispatch.see(workers)
    given = []
    while (chosen := dispatch.next_for(now)) is not None:
        given.append(chosen)
    return given


def started(count: int, *, holds: int = 2, workers: Sequence[str] = ("a",)) -> tuple[Dispatch, list[Task]]:
    """A dispatch that has handed out all it can, and what it handed out."""
    dispatch = Dispatch(tile_tasks(count), policy=POLICY, patience_s=PATIENCE_S)
    return dispatch, [task for _, task in handed_out(dispatch, dict.fromkeys(workers, holds))]


def test_the_worker_with_the_fewest_tasks_is_served_first() -> None:
    given = handed_out(Dispatch(tile_tasks(60)), {"a": 2, "b": 2})
    assert [worker for worker, _ in given] == ["a", "b", "a", "b"]


def test_a_worker_is_given_as_many_as_it_says_and_no_more_when_it_says_fewer() -> None:
    dispatch = Dispatch(tile_tasks(60))
    first = handed_out(dispatch, {"a": 1, "b": 4})
    assert sorted(worker for worker, _ in first) == ["a", "b", "b", "b", "b"]
    dispatch.succeeded("b", first[-1][1], 1.0)
    assert [worker for worker, _ in handed_out(dispatch, {"a": 2, "b": 3}, 1.0)] == ["a"]


def test_a_worker_goes_along_its_own_stretch_of_the_plan() -> None:
    dispatch = Dispatch(tile_tasks(200))
    order: dict[str, list[int]] = {"a": [], "b": []}
    for _ in range(48):
        for worker, task in handed_out(dispatch, {"a": 1, "b": 1}):
            order[worker].append(task.id)
            dispatch.succeeded(worker, task, 1.0)
    for ids in order.values():
        for first in range(0, len(ids), STRETCH):
            assert ids[first : first + STRETCH] == list(range(ids[first], ids[first] + STRETCH))


def test_when_the_plan_is_handed_out_an_idle_worker_takes_the_far_half_of_the_longest_stretch() -> None:
    dispatch = Dispatch(tile_tasks(STRETCH))
    ((_, first),) = handed_out(dispatch, {"a": 1})
    given = handed_out(dispatch, {"a": 1, "b": 9})
    assert first.id == 0
    assert [task.id for worker, task in given if worker == "b"][:8] == list(range(8, 16))


def test_the_stretch_of_a_worker_that_is_gone_is_taken_by_others() -> None:
    dispatch = Dispatch(tile_tasks(STRETCH))
    ((_, first),) = handed_out(dispatch, {"a": 1})
    dispatch.failed("a", first, AssetError("corrupt"), 0.0)
    done = []
    while given := handed_out(dispatch, {"b": 1}):
        done += [task.id for _, task in given]
        dispatch.succeeded("b", given[0][1], 0.0)
    assert sorted(done) == list(range(1, STRETCH))


def test_a_retry_that_is_due_goes_before_fresh_tasks() -> None:
    dispatch, (first, _) = started(4)
    dispatch.failed("a", first, ReadError("slow"), 0.0)
    assert handed_out(dispatch, {"a": 2}, 10.0) == [("a", first)]


def test_a_retry_is_not_handed_out_before_it_is_due() -> None:
    dispatch, (first, _) = started(2)
    dispatch.failed("a", first, ReadError("slow"), 0.0)
    due_s = dispatch.seconds_until_due(0.0)
    assert due_s is not None
    assert due_s >= POLICY.first_wait_s
    assert dispatch.next_for(due_s / 2) is None


def test_a_task_that_read_badly_once_may_still_lose_a_worker() -> None:
    dispatch, (only,) = started(1)
    dispatch.failed("a", only, ReadError("slow"), 0.0)
    dispatch.next_for(10.0)
    assert dispatch.failed("a", only, WorkerLostError("gone"), 10.0) == (2, None)


def test_those_who_were_there_when_a_worker_died_are_not_given_up_with_the_one_that_killed_it() -> None:
    dispatch, held = started(3, holds=3)
    killer, given_up, now = held[1], [], 0.0
    for task in held:
        dispatch.failed("a", task, WorkerLostError("gone"), now)
    while not dispatch.finished:
        now += 1.0
        together = [task for _, task in handed_out(dispatch, {"a": 3}, now)]
        for task in together:
            if killer in together:
                _, verdict = dispatch.failed("a", task, WorkerLostError("gone"), now)
                given_up += [task] if verdict else []
            else:
                dispatch.succeeded("a", task, now)
    assert given_up == [killer]


def test_success_told_twice_counts_once() -> None:
    dispatch, (first, _) = started(2)
    assert dispatch.succeeded("a", first, 1.0) == 1
    assert dispatch.succeeded("a", first, 1.0) is None


def test_after_a_stop_nothing_is_handed_out_and_what_runs_may_finish() -> None:
    dispatch, (first, *rest) = started(9, holds=3)
    dispatch.succeeded("a", first, 1.0)
    dispatch.stop_drawing()
    assert handed_out(dispatch, {"a": 3, "b": 3}, 1000.0) == []
    assert not dispatch.finished
    for task in rest:
        dispatch.succeeded("a", task, 1000.0)
    assert dispatch.finished


# Tokens and evidence -------------------------------------------------------------------------------------------------


def test_a_worker_that_was_given_up_for_lost_and_wakes_up_speaks_to_nobody() -> None:
    dispatch = ByToken(tile_tasks(1), policy=POLICY)
    dispatch.see({"a": 1})
    first = dispatch.next_for(0.0)
    assert first is not None
    dispatch.failed(first[2], WorkerLostError("it hangs"), 1.0)
    again = dispatch.next_for(10.0)
    assert again is not None
    assert again[:2] == first[:2]  # the worker in its place has its name, and the task is the same
    assert dispatch.succeeded(first[2], 11.0) is None
    assert not dispatch.finished
    assert dispatch.failed(first[2], SpecError("wrong job"), 11.0).verdict is None
    assert dispatch.succeeded(again[2], 12.0) == 2
    assert dispatch.finished


def test_an_answer_that_brings_no_token_is_none() -> None:
    dispatch = ByToken(tile_tasks(1), policy=POLICY)
    dispatch.see({"a": 1})
    assert dispatch.next_for(0.0) is not None
    assert dispatch.succeeded(0, 1.0) is None
    assert dispatch.running == 1


def test_a_task_that_takes_two_workers_with_it_is_given_up_with_what_is_known_of_both() -> None:
    dispatch = ByToken(tile_tasks(1), policy=POLICY)
    for attempt, (worker, host) in enumerate([("a", "node-1"), ("b", "node-2")]):
        dispatch.see({worker: 1})
        given = dispatch.next_for(10.0 * attempt)
        assert given is not None
        loss = WorkerLostError("the worker died", worker=worker, host=host, said=f"signal {attempt + 9}")
        judged = dispatch.failed(given[2], loss, 10.0 * attempt)
    assert judged.verdict is Verdict.QUARANTINE
    assert (judged.error.where["workers"], judged.error.where["hosts"]) == ("a, b", "node-1, node-2")
    for said in ("signal 9", "signal 10", tile_tasks(1)[0].name):
        assert said in str(judged.error)


# Machines that leave -------------------------------------------------------------------------------------------------


def test_what_a_leaving_worker_gives_back_goes_out_again_at_once_and_before_all_else() -> None:
    dispatch, (first, second) = started(9)
    for task in (second, first):
        assert dispatch.failed("a", task, HandedBackError("it leaves"), 1.0) == (0, None)
    assert handed_out(dispatch, {"b": 2}, 1.0) == [("b", second), ("b", first)]
    assert dispatch.succeeded("b", first, 2.0) == 1  # no try was counted


def test_it_may_be_given_back_more_often_than_anything_may_fail() -> None:
    dispatch = Dispatch(tile_tasks(1), policy=POLICY)
    for times in range(100):
        ((worker, task),) = handed_out(dispatch, {f"spot-{times}": 1}, float(times))
        assert dispatch.failed(worker, task, HandedBackError("it leaves"), float(times)) == (0, None)
    ((worker, task),) = handed_out(dispatch, {"b": 1}, 100.0)
    assert dispatch.failed(worker, task, WorkerLostError("gone"), 100.0) == (1, None)


def test_an_answer_that_comes_after_the_tile_was_given_back_is_nobodys() -> None:
    dispatch = ByToken(tile_tasks(1), policy=POLICY)
    dispatch.see({"a": 1})
    first = dispatch.next_for(0.0)
    assert first is not None
    dispatch.failed(first[2], HandedBackError("it leaves"), 1.0)
    dispatch.see({"b": 1})
    again = dispatch.next_for(1.0)
    assert again is not None
    assert dispatch.succeeded(first[2], 2.0) is None  # it was over in time after all
    assert dispatch.failed(first[2], SpecError("wrong job"), 2.0).verdict is None
    assert not dispatch.finished
    assert dispatch.succeeded(again[2], 3.0) == 1
    assert dispatch.finished


def test_a_leaving_worker_is_no_outage_and_the_end_of_none() -> None:
    dispatch, held = started(9, holds=9)
    for task in held:
        dispatch.failed("a", task, HandedBackError("it leaves"), 1.0)
    assert len(handed_out(dispatch, {"b": 9}, 1.0)) == 9

    away = ByToken(tile_tasks(20), policy=AWAY)
    away.see({"a": 6})
    given = [away.next_for(0.0) for _ in range(6)]
    *failing, (_, _, last) = [one for one in given if one is not None]
    for _, _, token in failing:
        away.failed(token, StoreError("no answer"), 1.0)
    away.failed(last, HandedBackError("it leaves"), 1.0)
    assert away.next_for(1.0) is None  # the outage holds
    assert away.next_for(10.0) is not None
    assert away.next_for(10.0) is None  # one at a time goes out to see


def test_a_suspect_that_is_given_back_is_tried_alone_as_before() -> None:
    dispatch, (suspect, other) = started(9)
    dispatch.succeeded("a", other, 1.0)
    dispatch.failed("a", suspect, WorkerLostError("gone"), 1.0)
    assert handed_out(dispatch, {"a": 2}, 10.0) == [("a", suspect)]
    assert dispatch.failed("a", suspect, HandedBackError("it leaves"), 11.0) == (1, None)
    assert handed_out(dispatch, {"b": 2}, 11.0) == [("b", suspect)]
    assert dispatch.failed("b", suspect, WorkerLostError("gone"), 12.0) == (2, Verdict.QUARANTINE)


def test_one_of_two_copies_that_is_given_back_leaves_the_other_to_finish() -> None:
    dispatch, late = one_late()
    handed_out(dispatch, BOTH, 10.0)
    assert dispatch.failed("b", late, HandedBackError("it leaves"), 11.0) == (0, None)
    assert not dispatch.finished
    assert dispatch.succeeded("a", late, 12.0) == 1
    assert dispatch.finished


def test_after_a_stop_what_is_given_back_is_left_to_the_next_run() -> None:
    dispatch, held = started(9, holds=3)
    dispatch.stop_drawing()
    for task in held[:2]:
        assert dispatch.failed("a", task, HandedBackError("it leaves"), 1.0) == (0, None)
    assert handed_out(dispatch, {"b": 3}, 1.0) == []
    assert not dispatch.finished
    dispatch.succeeded("a", held[2], 2.0)
    assert dispatch.finished


# Outages -------------------------------------------------------------------------------------------------------------

AWAY = RetryPolicy(attempts=5, first_wait_s=1.0, outage_tries=4, outage_s=300.0, probe_s=5.0)


def through_an_outage(
    count: int, *, begins: float, ends: float, holds: int = 2, error: type[MapperError] = StoreError
) -> tuple[float, dict[int, str], int]:
    """When it ended, what became of each task, and how many tries went out while the store was away."""
    dispatch = ByToken(tile_tasks(count), policy=AWAY)
    dispatch.see({"a": holds, "b": holds})
    now, tries, became, held = 0.0, 0, dict[int, str](), list[tuple[Task, int]]()
    while not dispatch.finished:
        while (chosen := dispatch.next_for(now)) is not None:
            held.append(chosen[1:])
        now += 1.0
        for task, token in held:
            if not begins <= now < ends:
                became[task.id] = "done" if dispatch.succeeded(token, now) else became[task.id]
                continue
            tries += 1
            judged = dispatch.failed(token, error("no answer"), now)
            if judged.verdict is Verdict.STOP:
                return now, became | {task.id: "stopped"}, tries
            if judged.verdict is Verdict.QUARANTINE:
                became[task.id] = "given up"
        held.clear()
        assert now < 10_000
    return now, became, tries


def test_a_store_that_is_away_for_two_minutes_costs_no_tile() -> None:
    ended, became, tries = through_an_outage(200, begins=10.0, ends=130.0)
    assert set(became.values()) == {"done"}
    assert len(became) == 200
    assert tries < 40  # one at a time goes out to see
    assert ended < 130.0 + AWAY.probe_s + 60


def test_nor_does_it_when_few_are_left_or_one() -> None:
    for count in (1, 2, 3):
        assert set(through_an_outage(count, begins=0.0, ends=120.0)[1].values()) == {"done"}


def test_where_the_store_never_comes_back_the_run_stops() -> None:
    ended, became, _ = through_an_outage(10_000, begins=10.0, ends=1e9)
    assert "stopped" in became.values()
    assert "given up" not in became.values()
    assert 10.0 + AWAY.outage_s <= ended < 10.0 + AWAY.outage_s + 2 * AWAY.probe_s


def test_where_all_that_is_left_was_tried_through_an_outage_it_is_given_up_and_the_run_ends() -> None:
    ended, became, _ = through_an_outage(6, begins=0.0, ends=1e9)
    assert became == dict.fromkeys(range(6), "given up")
    assert ended < AWAY.outage_s + 60


def test_imagery_that_never_arrives_for_one_tile_is_no_outage() -> None:
    ended, became, tries = through_an_outage(1, begins=0.0, ends=1e9, error=ReadError)
    assert (became, tries) == ({0: "given up"}, AWAY.attempts)
    assert ended < 60.0


def test_in_an_outage_other_ground_is_tried_too_so_that_one_bad_place_is_not_taken_for_it() -> None:
    dispatch = ByToken(tile_tasks(60), policy=AWAY)
    dispatch.see({"a": 1})
    now, became = 0.0, dict[int, str]()
    while not dispatch.finished:
        chosen = dispatch.next_for(now)
        now += 1.0
        if chosen is None:
            continue
        _, task, token = chosen
        if task.id >= 20:
            assert dispatch.succeeded(token, now)
            became[task.id] = "done"
        elif (judged := dispatch.failed(token, ReadError("no answer"), now)).verdict is not None:
            became[task.id] = judged.verdict.value
    assert became == {n: "quarantine" if n < 20 else "done" for n in range(60)}


def test_a_server_that_says_how_long_to_wait_is_not_asked_before() -> None:
    dispatch = ByToken(tile_tasks(1), policy=AWAY)
    dispatch.see({"a": 1})
    given = dispatch.next_for(0.0)
    assert given is not None
    busy = StoreError("slow down")
    busy.wait_s = 42.0
    dispatch.failed(given[2], busy, 0.0)
    assert dispatch.next_for(41.9) is None
    assert dispatch.next_for(63.1) is not None  # at most half as long again


# Copies of what is late ----------------------------------------------------------------------------------------------

BOTH = {"a": 1, "b": 1}


def one_late(*, took_s: float = 1.0) -> tuple[Dispatch, Task]:
    """Worker b has finished its task in this time; a still has the other, begun at 0."""
    dispatch = Dispatch(tile_tasks(2), policy=POLICY, patience_s=PATIENCE_S)
    (_, late), (_, other) = handed_out(dispatch, BOTH)
    dispatch.succeeded("b", other, took_s)
    return dispatch, late


def test_what_runs_for_twice_the_usual_time_is_given_to_a_second_worker_once() -> None:
    dispatch, late = one_late(took_s=10.0)
    assert handed_out(dispatch, BOTH, 19.9) == []
    assert handed_out(dispatch, BOTH, 20.0) == [("b", late)]
    assert handed_out(dispatch, {**BOTH, "c": 1}, 1000.0) == []


def test_short_tasks_are_not_copied_at_the_first_hiccup() -> None:
    dispatch, late = one_late(took_s=0.1)
    assert handed_out(dispatch, BOTH, PATIENCE_S - 0.1) == []
    assert handed_out(dispatch, BOTH, PATIENCE_S) == [("b", late)]


def test_nothing_is_copied_while_anything_else_is_to_be_done() -> None:
    dispatch = Dispatch(tile_tasks(3), policy=POLICY, patience_s=PATIENCE_S)
    (_, late), (_, other) = handed_out(dispatch, BOTH)
    dispatch.succeeded("b", other, 1.0)
    ((_, last),) = handed_out(dispatch, BOTH, 1000.0)
    assert last.id not in (late.id, other.id)
    dispatch.succeeded("b", last, 1001.0)
    assert handed_out(dispatch, BOTH, 1001.0) == [("b", late)]


def test_a_task_is_never_copied_to_the_worker_that_has_it() -> None:
    dispatch, held = started(2, holds=2)
    dispatch.succeeded("a", held[0], 1.0)
    assert handed_out(dispatch, {"a": 2}, 1000.0) == []


def test_what_has_run_longest_is_copied_first() -> None:
    dispatch = Dispatch(tile_tasks(3), policy=POLICY, patience_s=PATIENCE_S)
    (_, early), (_, other) = handed_out(dispatch, BOTH)
    dispatch.succeeded("b", other, 1.0)
    ((_, later),) = handed_out(dispatch, BOTH, 1.0)
    given = handed_out(dispatch, {**BOTH, "c": 2}, 1000.0)
    assert given == [("c", early), ("c", later)]


def test_levels_are_late_by_the_time_levels_take() -> None:
    level = LevelTask(id=100, grid=GRID, tile=GRID.tile(0, 0), time=0, prompts=(0,))
    dispatch, late = one_late(took_s=100.0)
    dispatch.add([level])
    assert handed_out(dispatch, BOTH, 100.0) == [("b", level)]
    dispatch.succeeded("b", level, 101.0)
    assert handed_out(dispatch, BOTH, 199.0) == []
    assert handed_out(dispatch, BOTH, 200.0) == [("b", late)]


def test_the_first_copy_to_finish_wins_and_the_run_does_not_wait_for_the_other() -> None:
    for winner, loser in (("a", "b"), ("b", "a")):
        dispatch, late = one_late()
        handed_out(dispatch, BOTH, 10.0)
        assert dispatch.succeeded(winner, late, 11.0) == 1
        assert dispatch.finished
        assert dispatch.succeeded(loser, late, 12.0) is None


def test_what_the_copy_left_behind_says_is_dropped_even_if_it_would_stop_the_run() -> None:
    for error in (ReadError("slow"), AssetError("corrupt"), WorkerLostError("gone"), SpecError("wrong")):
        dispatch, late = one_late()
        handed_out(dispatch, BOTH, 10.0)
        dispatch.succeeded("b", late, 11.0)
        assert dispatch.failed("a", late, error, 12.0) == (0, None)
        assert dispatch.finished


def test_a_copy_left_behind_takes_room_until_it_is_over() -> None:
    dispatch, late = one_late()
    handed_out(dispatch, BOTH, 10.0)
    dispatch.succeeded("b", late, 11.0)
    dispatch.add(tile_tasks(30)[20:])
    assert [worker for worker, _ in handed_out(dispatch, BOTH, 12.0)] == ["b"]
    dispatch.succeeded("a", late, 13.0)
    assert [worker for worker, _ in handed_out(dispatch, BOTH, 13.0)] == ["a"]


def test_one_of_two_copies_that_fails_counts_nothing_against_the_task() -> None:
    dispatch, late = one_late()
    handed_out(dispatch, BOTH, 10.0)
    assert dispatch.failed("b", late, AssetError("corrupt"), 11.0) == (0, None)
    assert not dispatch.finished
    assert dispatch.succeeded("a", late, 12.0) == 1
    assert dispatch.finished


def test_a_task_that_hangs_here_and_fails_there_is_given_up_in_the_end() -> None:
    dispatch, late = one_late()
    now, verdict = 10.0, None
    for _ in range(POLICY.attempts):
        assert verdict is None
        assert handed_out(dispatch, BOTH, now) == [("b", late)]
        tried, verdict = dispatch.failed("b", late, AssetError("corrupt"), now + 1.0)
        assert handed_out(dispatch, BOTH, now + PATIENCE_S) == []
        now += 1.0 + PATIENCE_S
    assert (tried, verdict) == (POLICY.attempts, Verdict.QUARANTINE)
    assert dispatch.finished
    assert dispatch.succeeded("a", late, now) is None
    dispatch.add(tile_tasks(30)[28:])
    assert sorted(worker for worker, _ in handed_out(dispatch, BOTH, now)) == ["a", "b"]


def test_a_suspect_is_copied_only_to_a_worker_that_has_nothing_else() -> None:
    dispatch, (suspect, other, third) = started(3, holds=2, workers=("a", "b"))
    dispatch.succeeded("b", other, 1.0)
    dispatch.failed("a", suspect, WorkerLostError("gone"), 1.0)
    dispatch.succeeded("a", third, 1.0)
    assert handed_out(dispatch, {"a": 2}, 10.0) == [("a", suspect)]
    busy = tile_tasks(30)[-1]
    dispatch.add([busy])
    assert handed_out(dispatch, {"a": 2, "b": 2}, 20.0) == [("b", busy)]
    dispatch.succeeded("b", busy, 21.0)
    assert handed_out(dispatch, {"a": 2, "b": 2}, 21.0) == [("b", suspect)]
    dispatch.add([busy])
    assert handed_out(dispatch, {"a": 2, "b": 2}, 22.0) == []
    dispatch.succeeded("b", suspect, 23.0)
    dispatch.add(tile_tasks(40)[35:])
    assert sorted(worker for worker, _ in handed_out(dispatch, {"a": 2, "b": 2}, 23.0)) == ["a", "b", "b"]


def test_a_copy_left_behind_does_not_keep_a_suspect_from_its_worker() -> None:
    dispatch, late = one_late()
    handed_out(dispatch, {"a": 3, "b": 3}, 10.0)
    dispatch.succeeded("b", late, 11.0)
    suspect = tile_tasks(30)[-1]
    dispatch.add([suspect])
    assert handed_out(dispatch, {"a": 3, "b": 3}, 12.0) == [("b", suspect)]
    dispatch.failed("b", suspect, WorkerLostError("gone"), 12.0)
    assert handed_out(dispatch, {"a": 3}, 20.0) == [("a", suspect)]


def test_a_suspect_is_not_blamed_where_what_was_left_behind_may_have_killed_its_worker() -> None:
    dispatch, late = one_late()
    handed_out(dispatch, {"a": 3, "b": 3}, 10.0)
    dispatch.succeeded("b", late, 11.0)  # a still works at it, and hangs
    suspect = tile_tasks(30)[-1]
    dispatch.add([suspect])
    handed_out(dispatch, {"b": 3}, 12.0)
    dispatch.failed("b", suspect, WorkerLostError("gone"), 12.0)
    assert handed_out(dispatch, {"a": 3}, 20.0) == [("a", suspect)]
    assert dispatch.failed("a", suspect, WorkerLostError("gone"), 30.0) == (2, None)
    dispatch.failed("a", late, WorkerLostError("gone"), 30.0)
    assert handed_out(dispatch, {"a": 3}, 60.0) == [("a", suspect)]
    assert dispatch.failed("a", suspect, WorkerLostError("gone"), 61.0) == (3, Verdict.QUARANTINE)
