"""The loop that drives any pool, with a pool whose failures are scripted."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from cluster import Finished, Outcome, Telemetry, WorkerFacts, outcomes
from cluster.dispatch import PATIENCE_S, STRETCH
from cluster.readings import Reading
from cluster.retries import BUDGETS, RetryPolicy
from mapper.errors import AssetError, CredentialsError, MapperError, ReadError, SpecError, WorkerLostError
from mapper.map_tile import Task, TileResult, TileTask
from mapper.pyramid import LevelTask
from tests.cluster.tiles import GRID, tile_tasks

QUICK = RetryPolicy(first_wait_s=0.001, longest_wait_s=0.002)
HANGS = "hangs"
HOLDS = 3


class ScriptedPool:
    """Workers that do as a table says: (task, attempt) → the error it ends with, or that it hangs; else it is done."""

    def __init__(
        self, table: Mapping[tuple[int, int], MapperError | str] | None = None, *, workers: Sequence[str] = ("a", "b")
    ) -> None:
        self.table = dict(table or {})
        self.names = list(workers)
        self.tries: dict[int, int] = {}
        self.held: deque[tuple[str, Task, int, int]] = deque()
        self.time = 0.0
        self.most_held = 0
        self.waits: list[float] = []

    def workers(self) -> Mapping[str, int]:
        return dict.fromkeys(self.names, HOLDS)

    def facts(self) -> Sequence[WorkerFacts]:
        return [WorkerFacts(name=name, device="cpu", fingerprint="f", host="h", pid=1) for name in self.names]

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        self.tries[task.id] = self.tries.get(task.id, 0) + 1
        self.held.append((worker, task, self.tries[task.id], token))
        self.most_held = max(self.most_held, len(self.held))

    def finished(self, timeout_s: float) -> list[Finished]:
        self.waits.append(timeout_s)
        for _ in range(len(self.held)):
            worker, task, attempt, token = self.held.popleft()
            end = self.table.get((task.id, attempt))
            if end != HANGS:
                result = end if isinstance(end, MapperError) else done(task)
                return [Finished(worker=worker, task=task, result=result, token=token)]
            self.held.append((worker, task, attempt, token))
        time.sleep(min(timeout_s, 0.01))
        self.time += timeout_s
        return []

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        return {name: (0.0, Reading(worker=name)) for name in self.names}

    def now(self) -> float:
        """A clock that stands still while anything comes back."""
        return self.time

    def close(self) -> None:
        self.held.clear()


def done(task: Task) -> TileResult:
    """What a tile that went well reports."""
    return TileResult(
        id=task.id, nodata=False, checksums=(), source_checksum=None, asked_px=1, seen_px=1, present_px=(1,), windows=4,
        reused=0, seam=None, read_bytes=0, written_bytes=0, seconds={"read": 0.1, "infer": 0.2, "write": 0.3},
    )  # fmt: skip


def ended(pool: ScriptedPool, tasks: Sequence[TileTask]) -> dict[int, Outcome]:
    """Every task's outcome; each must come once."""
    found = list(outcomes(pool, tasks, policy=QUICK))
    assert len({outcome.task.id for outcome in found}) == len(found)
    return {outcome.task.id: outcome for outcome in found}


def test_every_task_has_one_outcome() -> None:
    assert set(ended(ScriptedPool(), tile_tasks(50))) == set(range(50))


def test_no_task_is_no_outcome() -> None:
    assert ended(ScriptedPool(), []) == {}


def test_workers_never_hold_more_than_they_may() -> None:
    pool = ScriptedPool()
    ended(pool, tile_tasks(50))
    assert pool.most_held == 2 * HOLDS


def test_ten_million_tasks_are_never_in_memory() -> None:
    drawn = itertools.count()

    def endless() -> Iterator[TileTask]:
        while True:
            yield tile_tasks(next(drawn) + 1)[-1]

    run = outcomes(ScriptedPool(), endless(), policy=QUICK)
    for _ in range(5):
        next(run)
    assert next(drawn) <= 2 * STRETCH + 5 + STRETCH


def test_a_task_that_failed_once_is_tried_again_and_tells_so() -> None:
    found = ended(ScriptedPool({(3, 1): ReadError("slow"), (3, 2): ReadError("slow")}), tile_tasks(8))
    assert (found[3].attempts, found[3].error, found[3].result) == (3, None, done(tile_tasks(4)[3]))


def test_a_task_that_always_fails_is_given_up_with_its_last_reason() -> None:
    pool = ScriptedPool({(3, attempt): ReadError(f"slow {attempt}") for attempt in range(1, 9)})
    found = ended(pool, tile_tasks(8))
    assert found[3].result is None
    assert str(found[3].error) == "slow 5"
    assert all(outcome.error is None for number, outcome in found.items() if number != 3)


def test_a_bad_file_is_not_tried_again() -> None:
    pool = ScriptedPool({(2, 1): AssetError("corrupt")})
    assert ended(pool, tile_tasks(4))[2].attempts == 1
    assert pool.tries[2] == 1


def test_a_task_that_takes_two_workers_with_it_is_given_up() -> None:
    pool = ScriptedPool({(2, 1): WorkerLostError("gone"), (2, 2): WorkerLostError("gone")})
    found = ended(pool, tile_tasks(6))
    assert isinstance(found[2].error, WorkerLostError)
    assert sum(outcome.result is not None for outcome in found.values()) == 5


@pytest.mark.parametrize("error", [SpecError("wrong job"), CredentialsError("log in")])
def test_a_failure_that_all_tiles_share_stops_the_run_as_itself(error: MapperError) -> None:
    pool = ScriptedPool({(4, attempt): error for attempt in range(1, 9)})
    with pytest.raises(type(error)) as caught:
        ended(pool, tile_tasks(1000))
    assert caught.value is error
    assert pool.tries[4] == (1 if error.cause == "job" else BUDGETS["credentials"].tries)


def test_while_one_task_hangs_the_others_finish() -> None:
    run = outcomes(ScriptedPool({(0, 1): HANGS}), tile_tasks(20), policy=QUICK)
    assert {next(run).task.id for _ in range(19)} == set(range(1, 20))


def test_a_worker_that_hangs_does_not_hold_the_run() -> None:
    pool = ScriptedPool({(18, 1): HANGS, (19, 1): HANGS})
    found = list(outcomes(pool, tile_tasks(20), policy=QUICK, now=pool.now))
    assert sorted(outcome.task.id for outcome in found) == list(range(20))
    assert all(outcome.error is None and outcome.attempts == 1 for outcome in found)
    assert {number: tries for number, tries in pool.tries.items() if tries > 1} == {18: 2, 19: 2}
    assert pool.time < 2 * PATIENCE_S
    assert sorted(task.id for _, task, _, _ in pool.held) == [18, 19]  # left behind for whoever closes the pool


def test_a_shard_above_the_tiles_that_hangs_does_not_hold_the_run() -> None:
    level = LevelTask(id=7, grid=GRID, tile=GRID.tile(0, 0), time=0, prompts=(0,))
    due = [[level], [replace(level, id=8)]]
    pool = ScriptedPool({(8, 1): HANGS})
    more = lambda idle: due.pop(0) if idle and due else []  # noqa: E731  # one line says it
    found = [outcome.task.id for outcome in outcomes(pool, tile_tasks(4), policy=QUICK, more=more, now=pool.now)]
    assert found[4:] == [7, 8]
    assert sorted(found[:4]) == [0, 1, 2, 3]


def test_of_two_copies_only_the_first_to_finish_is_heard_of() -> None:
    # The copy is done at once; what hung comes back while the second wave is worked at, and would stop the run.
    pool = ScriptedPool({(3, 1): HANGS})
    wave = tile_tasks(12)[4:]

    def more(idle: bool) -> list[TileTask]:
        if not idle or not wave:
            return []
        pool.table[3, 1] = SpecError("wrong job")
        again, wave[:] = wave[:], []
        return again

    found = [outcome.task.id for outcome in outcomes(pool, tile_tasks(4), policy=QUICK, more=more, now=pool.now)]
    assert sorted(found) == list(range(12))
    assert not pool.held


def test_without_patience_nothing_is_copied() -> None:
    pool = ScriptedPool({(0, 1): HANGS})

    def stopped() -> bool:
        if pool.time > 2 * PATIENCE_S:
            pool.table.clear()
        return False

    found = list(outcomes(pool, tile_tasks(4), policy=QUICK, now=pool.now, patience_s=math.inf, stopped=stopped))
    assert len(found) == 4
    assert pool.tries == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_stop_is_heard_and_what_is_in_hand_is_finished() -> None:
    pool = ScriptedPool()
    told: list[int] = []
    for outcome in outcomes(pool, tile_tasks(100), policy=QUICK, stopped=lambda: len(told) >= 10):
        told.append(outcome.task.id)
    assert set(told) == set(pool.tries)
    assert 10 <= len(told) <= 10 + 2 * HOLDS


def test_a_stop_does_not_wait_for_retries() -> None:
    pool = ScriptedPool({(0, 1): ReadError("slow")})
    patient = RetryPolicy(first_wait_s=3600, longest_wait_s=3600)
    begun = time.monotonic()
    told: list[Outcome] = []
    for outcome in outcomes(pool, tile_tasks(5), policy=patient, stopped=lambda: len(told) == 4):
        told.append(outcome)
    assert time.monotonic() - begun < 5


def test_without_a_worker_tasks_wait_until_there_is_one() -> None:
    pool = ScriptedPool(workers=())
    polls = itertools.count()

    def stopped() -> bool:
        if next(polls) == 1:
            pool.names = ["late"]
        return False

    found = list(outcomes(pool, tile_tasks(3), policy=QUICK, stopped=stopped))
    assert {outcome.worker for outcome in found} == {"late"}


def test_a_retry_that_waits_for_room_does_not_spin() -> None:
    table: dict[tuple[int, int], MapperError | str] = {(0, 1): ReadError("slow")}
    table |= {(number, 1): HANGS for number in range(1, 4)}  # all room there is, before the first is due again
    pool = ScriptedPool(table, workers=("a",))
    polls = itertools.count()

    def stopped() -> bool:
        if next(polls) == 20:
            pool.table.clear()
        return False

    list(outcomes(pool, tile_tasks(4), policy=RetryPolicy(first_wait_s=0.05), stopped=stopped))
    assert len(pool.waits) > 20
    assert min(pool.waits) > 0


def test_telemetry_adds_up_what_each_worker_did() -> None:
    telemetry = Telemetry()
    for outcome in ended(ScriptedPool({(2, 1): AssetError("corrupt")}), tile_tasks(9)).values():
        telemetry.record(outcome, area_km2=2.0)
    samples = list(telemetry.samples())
    assert [sample.worker for sample in samples] == ["a", "b"]
    assert sum(sample.tiles for sample in samples) == 8
    assert sum(sample.area_km2 for sample in samples) == 16
    assert sum(sample.windows for sample in samples) == 32
    assert sum(sample.seconds["infer"] for sample in samples) == pytest.approx(1.6)


def test_rates_are_per_second_of_the_wall_clock() -> None:
    telemetry = Telemetry()
    task = tile_tasks(1)[0]
    telemetry.record(Outcome(worker="a", task=task, attempts=1, result=done(task)), area_km2=2.0)
    (sample,) = telemetry.samples()
    assert sample.rates(0.5) == pytest.approx({"tiles_per_s": 2.0, "km2_per_h": 14400.0, "busy": 0.4})


def test_what_comes_up_on_the_way_goes_out_before_what_was_planned() -> None:
    planned, extra = tile_tasks(20)[:15], tile_tasks(20)[15:]
    order: list[int] = []

    def more(idle: bool) -> list[TileTask]:
        return [extra.pop()] if extra and len(order) >= 3 else []

    for outcome in outcomes(ScriptedPool(), planned, policy=QUICK, more=more):
        order.append(outcome.task.id)
    assert sorted(order) == list(range(20))
    assert max(order.index(number) for number in range(15, 20)) < 18


def test_the_end_waits_for_what_comes_up_when_nothing_is_left() -> None:
    # As levels do: each can be begun only once the last one is over.
    tasks = tile_tasks(6)
    asked: list[bool] = []

    def more(idle: bool) -> list[TileTask]:
        asked.append(idle)
        return [tasks[len(over)]] if idle and len(over) < 6 else []

    over: list[int] = []
    for outcome in outcomes(ScriptedPool(), tasks[:3], policy=QUICK, more=more):
        over.append(outcome.task.id)
    assert (sorted(over[:3]), over[3:]) == ([0, 1, 2], [3, 4, 5])
    assert asked[-1]


def test_once_stopped_nothing_that_comes_up_goes_out() -> None:
    found: list[int] = []

    def more(idle: bool) -> list[TileTask]:
        return [tile_tasks(40)[39]] if len(found) >= 4 else []

    stopped = lambda: len(found) >= 4  # noqa: E731  # one line says it
    for outcome in outcomes(ScriptedPool(), tile_tasks(20), policy=QUICK, more=more, stopped=stopped):
        found.append(outcome.task.id)
    assert 39 not in found
    assert len(found) <= 4 + 6
