"""Which tile goes where next, whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.dispatch import Dispatch
from cluster.retries import RetryPolicy, Verdict
from mapper.errors import AssetError, MapperError, ReadError, WorkerLostError
from mapper.map_tile import Task
from tests.cluster.tiles import tile_tasks

POLICY = RetryPolicy(attempts=3, lost_workers=2, first_wait_s=1.0, longest_wait_s=4.0)


class Run(RuleBasedStateMachine):
    """A run in which tasks fail, workers come and go, and time passes, in any order."""

    @initialize(count=st.integers(0, 12), depth=st.integers(1, 3))
    def begin(self, count: int, depth: int) -> None:
        self.tasks, self.depth = tile_tasks(count), depth
        self.drawn = self.handed_out = 0
        self.dispatch = Dispatch(self._draw(), depth=depth, policy=POLICY)
        self.now = 0.0
        self.workers = ["a", "b"]
        self.running: dict[int, tuple[str, Task]] = {}
        self.due: dict[int, float] = {}
        self.tried: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.ended: list[int] = []

    def _draw(self) -> Iterator[Task]:
        for task in self.tasks:
            self.drawn += 1
            yield task

    @rule()
    def hand_out(self) -> None:
        chosen = self.dispatch.next_for(self.workers, self.now)
        if chosen is None:
            return
        worker, task = chosen
        assert worker in self.workers
        assert task.id not in self.running
        assert task.id not in self.ended
        assert self.due.pop(task.id, 0.0) <= self.now
        self.running[task.id] = (worker, task)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        task = self._one_of_the_running(data)
        assert self.dispatch.succeeded(task) == self.tried.get(task.id, 0) + 1
        self._end(task)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from([ReadError, AssetError]))
    def fail(self, data: st.DataObject, kind: type[MapperError]) -> None:
        self._failed(self._one_of_the_running(data), kind("it broke"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        worker = self.running[self._one_of_the_running(data).id][0]
        for held, task in list(self.running.values()):
            if held == worker:
                self._failed(task, WorkerLostError("gone"))

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(workers=st.lists(st.sampled_from("abc"), unique=True))
    def workers_come_and_go(self, workers: list[str]) -> None:
        self.workers = workers

    @invariant()
    def no_worker_holds_more_than_its_depth(self) -> None:
        held = [worker for worker, _ in self.running.values()]
        assert all(held.count(worker) <= self.depth for worker in held)

    @invariant()
    def what_lost_a_worker_is_tried_alone(self) -> None:
        for worker, task in self.running.values():
            if self.lost.get(task.id):
                assert [held for held, _ in self.running.values()].count(worker) == 1

    @invariant()
    def tasks_are_drawn_only_when_a_worker_takes_them(self) -> None:
        assert self.drawn == len(self.running) + len(self.due) + len(self.ended)

    @invariant()
    def it_is_finished_when_every_task_has_ended(self) -> None:
        if self.dispatch.finished:
            assert sorted(self.ended) == [task.id for task in self.tasks]

    def teardown(self) -> None:
        """Whatever happened, with workers and time the rest ends too, each once."""
        if not hasattr(self, "dispatch"):
            return
        self.workers = ["a", "b"]
        for _ in range(200):
            if self.dispatch.finished:
                break
            self.hand_out()
            for _, task in list(self.running.values())[1:] or list(self.running.values()):
                self.dispatch.succeeded(task)
                self._end(task)
            self.now += 1.0
        assert self.dispatch.finished
        assert sorted(self.ended) == [task.id for task in self.tasks]

    def _one_of_the_running(self, data: st.DataObject) -> Task:
        return self.running[data.draw(st.sampled_from(sorted(self.running)))][1]

    def _failed(self, task: Task, error: MapperError) -> None:
        attempts, verdict = self.dispatch.failed(task, error, self.now)
        self.tried[task.id] = self.tried.get(task.id, 0) + 1
        lost = isinstance(error, WorkerLostError)
        self.lost[task.id] = self.lost.get(task.id, 0) + lost
        assert attempts == self.tried[task.id]
        hopeless = not error.retryable or (self.lost[task.id] >= 2 if lost else attempts >= 3)
        assert (verdict is Verdict.QUARANTINE) == hopeless
        if hopeless:
            self._end(task)
        else:
            del self.running[task.id]
            self.due[task.id] = self.now + 1.0  # the shortest wait there is

    def _end(self, task: Task) -> None:
        del self.running[task.id]
        self.ended.append(task.id)


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=80, stateful_step_count=40)


def started(count: int, *, depth: int = 2, workers: tuple[str, ...] = ("a",)) -> tuple[Dispatch, list[Task]]:
    """A dispatch that has handed out all it can, and what it handed out."""
    dispatch = Dispatch(tile_tasks(count), depth=depth, policy=POLICY)
    taken = []
    while (chosen := dispatch.next_for(workers, 0.0)) is not None:
        taken.append(chosen[1])
    return dispatch, taken


def test_the_worker_with_the_fewest_tasks_is_served_first() -> None:
    dispatch = Dispatch(tile_tasks(4), depth=2)
    served = [dispatch.next_for(["a", "b"], 0.0) for _ in range(4)]
    assert [chosen[0] for chosen in served if chosen] == ["a", "b", "a", "b"]


def test_a_retry_that_is_due_goes_before_fresh_tasks() -> None:
    dispatch, (first, second) = started(4)
    dispatch.failed(first, ReadError("slow"), 0.0)
    chosen = dispatch.next_for(["a"], 10.0)
    assert chosen == ("a", first)
    assert second.id != first.id


def test_a_retry_is_not_handed_out_before_it_is_due() -> None:
    dispatch, (first, _) = started(2)
    dispatch.failed(first, ReadError("slow"), 0.0)
    due_s = dispatch.seconds_until_due(0.0)
    assert due_s is not None
    assert due_s >= POLICY.first_wait_s
    assert dispatch.next_for(["a"], due_s / 2) is None


def test_a_task_that_read_badly_once_may_still_lose_a_worker() -> None:
    dispatch, (only,) = started(1)
    dispatch.failed(only, ReadError("slow"), 0.0)
    dispatch.next_for(["a"], 10.0)
    assert dispatch.failed(only, WorkerLostError("gone"), 10.0) == (2, None)


def test_those_who_were_there_when_a_worker_died_are_not_given_up_with_the_one_that_killed_it() -> None:
    dispatch, held = started(3, depth=3)
    killer, given_up, now = held[1], [], 0.0
    for task in held:
        dispatch.failed(task, WorkerLostError("gone"), now)
    while not dispatch.finished:
        now += 1.0
        together = []
        while (chosen := dispatch.next_for(["a"], now)) is not None:
            together.append(chosen[1])
        for task in together:
            if killer in together:
                _, verdict = dispatch.failed(task, WorkerLostError("gone"), now)
                given_up += [task] if verdict else []
            else:
                dispatch.succeeded(task)
    assert given_up == [killer]


def test_success_told_twice_counts_once() -> None:
    dispatch, (first, _) = started(2)
    assert dispatch.succeeded(first) == 1
    assert dispatch.succeeded(first) is None


def test_after_a_stop_nothing_is_handed_out_and_what_runs_may_finish() -> None:
    dispatch, taken = started(9)
    dispatch.stop_drawing()
    assert dispatch.next_for(["a", "b"], 0.0) is None
    assert not dispatch.finished
    for task in taken:
        dispatch.succeeded(task)
    assert dispatch.finished
