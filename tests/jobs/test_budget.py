"""A run spends what it was given and no more, and loses nothing by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.pool import Outcome
from cluster.telemetry import WorkerSample
from jobs.budget import KEEP_EVERY_S, Meter, check_budget, dollars
from jobs.job import Job
from jobs.ledger import RunFolder
from jobs.prepare import prepare
from jobs.run import start
from jobs.summary import Summary
from jobs.watch import Silent
from mapper.errors import SpecError
from tests.jobs.test_commands import Clock, outcome
from tests.stories.command_line import Resmap
from tests.stories.world import World, layers, mapped

PER_HOUR = 3600.0
"""Dollars: a worker's second costs one."""

TASK = outcome().task
ONE, TWO = {"a": 3}, {"a": 3, "b": 3}


def meter(clock: Clock, budget_usd: float | None = None, *, gpus: float = 1, **more: Any) -> Meter:
    made = Meter(usd_per_gpu_hour=PER_HOUR, budget_usd=budget_usd, clock=clock, **more)
    made.begin()
    made.have(gpus)
    return made


def mapping(on: Meter, clock: Clock, *, tiles: int, seconds: float, workers: dict[str, int], waiting: int = 100) -> int:
    """Tiles that are handed out and finished one after the other, until the meter says that it is enough."""
    tasks = on.handing_out([TASK] * waiting)
    for _ in range(sum(workers.values())):
        next(tasks)
    for done in range(tiles):
        on.count(workers)
        if on.used_up:
            return done
        next(tasks, None)
        clock.now += seconds
        on.over()
    return tiles


def test_workers_are_paid_for_while_they_start() -> None:
    clock = Clock()
    on = meter(clock, gpus=2)
    clock.now += 60
    on.work(TWO)
    assert on.spent_usd == 120
    clock.now += 10
    on.count(TWO)
    assert on.spent_usd == 140


def test_a_start_that_leaves_some_of_the_budget_is_followed_by_work() -> None:
    clock = Clock()
    on = meter(clock, 100)
    clock.now += 70
    on.work(ONE)
    assert not on.used_up
    assert mapping(on, clock, tiles=100, seconds=2, workers=ONE) > 10


def test_a_worker_that_is_being_replaced_is_paid_for() -> None:
    clock = Clock()
    on = meter(clock, gpus=2)
    on.work(TWO)
    clock.now += 10
    on.count(ONE)
    clock.now += 10
    on.close()
    assert on.spent_usd == 40


def test_a_gpu_is_paid_for_from_when_it_joins_until_it_leaves() -> None:
    clock = Clock()
    on = meter(clock, gpus=0)
    clock.now += 600  # nobody had a place yet
    on.have(1)
    on.work(ONE)
    clock.now += 10
    on.have(3)
    clock.now += 10
    on.have(0.5)  # one of two workers that share a GPU
    clock.now += 10
    on.count(ONE)
    assert on.spent_usd == 10 + 30 + 5


def test_what_earlier_sessions_have_spent_counts() -> None:
    clock = Clock()
    on = meter(clock, 100, spent_usd=70)
    on.work(ONE)
    assert not on.used_up
    clock.now += 31
    on.count(ONE)
    assert on.spent_usd == 101
    assert on.used_up


def test_a_budget_that_bears_no_further_tile_is_used_up_before_a_worker_is_asked_for() -> None:
    assert meter(Clock(), 100, spent_usd=100).used_up
    assert meter(Clock(), 100, spent_usd=97, tile_usd=4).used_up
    assert not meter(Clock(), 100, spent_usd=95, tile_usd=4).used_up


def test_without_a_budget_spending_is_reckoned_and_never_stops() -> None:
    clock = Clock()
    on = meter(clock)
    on.work(ONE)
    assert mapping(on, clock, tiles=90, seconds=1000, workers=ONE) == 90
    on.close()
    assert on.spent_usd == 90_000


def test_the_last_of_a_budget_is_kept_for_the_tiles_in_hand() -> None:
    clock = Clock()
    on = meter(clock, 100)
    on.work(ONE)
    done = mapping(on, clock, tiles=100, seconds=5, workers=ONE)
    in_hand = 3
    assert on.spent_usd == 5 * done
    assert 5 * (done + in_hand - 1) < 100 <= 5 * (done + in_hand)


def test_once_a_budget_is_used_up_it_stays_so() -> None:
    clock = Clock()
    on = meter(clock, 100)
    on.work(ONE)
    mapping(on, clock, tiles=100, seconds=5, workers=ONE)
    for _ in range(3):
        on.over()  # those in hand took no time at all
    on.count(ONE)
    assert on.used_up


def test_a_first_tile_that_takes_the_whole_budget_is_the_last() -> None:
    clock = Clock()
    on = meter(clock, 100)
    on.work(ONE)
    next(on.handing_out([TASK] * 50))
    clock.now += 49
    on.count(ONE)
    assert not on.used_up
    clock.now += 2
    on.count(ONE)  # as much again may be needed to finish it
    assert on.used_up


def test_a_run_whose_last_tiles_are_in_hand_is_not_stopped_for_what_they_cost() -> None:
    clock = Clock()
    on = meter(clock, 100)
    on.work(ONE)
    assert mapping(on, clock, tiles=19, seconds=5, workers=ONE, waiting=19) == 19
    assert on.spent_usd == 90  # what was spent up to the last look


def test_spending_is_kept_now_and_then_and_at_the_end() -> None:
    clock, kept = Clock(), list[float]()
    on = meter(clock)
    on.keep = kept.append
    on.work(ONE)
    for _ in range(10):
        clock.now += KEEP_EVERY_S / 2
        on.count(ONE)
    on.close()
    assert kept == [30, 60, 90, 120, 150, 150]


@pytest.mark.parametrize(
    ("usd", "said"),
    [(0, "$0.00"), (1234.5, "$1,234.50"), (0.014, "$0.01"), (0.0012, "$0.0012"), (0.000012, "$0.000012")],
)
def test_money_is_told_in_cents_and_smaller_sums_with_two_figures(usd: float, said: str) -> None:
    assert dollars(usd) == said


class Ticking(Silent):
    """A watcher to whom every tile takes ten seconds by the clock it moves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: Callable[[int], None] = lambda _: None
        self.seen = 0

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        self._clock.now += 10
        self.seen += 1
        self.at(self.seen)


def run(job: dict[str, Any], *, stop_at: int | None = None) -> Summary:
    """The job in this process, every tile ten seconds long."""
    clock = Clock()
    watcher = Ticking(clock)
    going = start(Job.from_dict(job), local=True, watcher=watcher, clock=clock)
    watcher.at = lambda seen: going.stop() if seen == stop_at else None
    return going.wait(timeout_s=100)


def priced(world: World, mosaic: Path, budget_usd: float | None) -> dict[str, Any]:
    return world.job(mosaic, compute={"usd_per_gpu_hour": 360.0, "budget_usd": budget_usd})  # a dollar a tile


def facts(summary: Summary) -> dict[str, Any]:
    return RunFolder(summary.mosaic, summary.run).facts()


def test_a_run_stops_at_its_budget_and_a_higher_one_finishes_the_same_map(world: World, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    first = run(priced(world, mosaic, 20.0))
    over = first.tiles["done"] + first.tiles["nodata"]
    assert first.state == "out-of-budget"
    assert first.exit_status == 6
    assert 0 < over < first.tiles["planned"] == 33
    assert first.spent_usd == over <= 20
    assert f"${over:.2f} of $20.00 are spent" in first.stopped
    assert f"{33 - over} tiles are left to do, for about ${33 - over:.2f} more" in first.stopped
    assert "raise compute.budget_usd" in first.stopped
    assert facts(first)["state"] == "out-of-budget"
    assert facts(first)["spent_usd"] == over

    second = run(priced(world, mosaic, first.spent_usd))
    assert second.exit_status == 6
    assert second.worked_tiles == 0
    assert second.spent_usd == over
    assert second.device == ""  # no worker was asked for

    third = run(priced(world, mosaic, 50.0))
    assert third.run == first.run
    assert third.exit_status == 0
    assert third.worked_tiles == 33 - over
    assert third.spent_usd == 33
    assert third.stopped == ""

    mapped(world.job(tmp_path / "undisturbed.zarr"))
    for level in (0, 1):
        one, other = layers(mosaic, level=level), layers(tmp_path / "undisturbed.zarr", level=level)
        for name in ("mask", "score", "source"):
            np.testing.assert_array_equal(one[name], other[name])


def test_a_run_that_is_interrupted_knows_what_it_has_spent_when_it_goes_on(world: World, tmp_path: Path) -> None:
    first = run(priced(world, tmp_path / "map.zarr", None), stop_at=5)
    assert first.state == "interrupted"
    assert facts(first)["spent_usd"] == first.spent_usd >= 5
    assert run(priced(world, tmp_path / "map.zarr", None)).spent_usd == 33


def test_the_command_says_that_the_budget_is_used_up_and_what_to_do(
    world: World, resmap: Resmap, tmp_path: Path
) -> None:
    mosaic, job = tmp_path / "map.zarr", tmp_path / "job.yaml"
    first = run(priced(world, mosaic, 20.0))
    job.write_text(yaml.safe_dump(priced(world, mosaic, first.spent_usd)))
    said = resmap("run", "--local", job)
    assert said.status == 6
    assert "is out-of-budget" in said.out
    assert "raise compute.budget_usd and run again" in said.out
    (entry,) = resmap("status", "--json", mosaic).document
    assert entry["state"] == "out-of-budget"
    told = resmap("run", "--local", "--json", job)
    assert told.document["state"] == "out-of-budget"
    assert told.document["stopped"] in told.err

    job.write_text(yaml.safe_dump(priced(world, mosaic, 100.0)))
    assert resmap("run", "--local", job).status == 0
    job.write_text(yaml.safe_dump(priced(world, mosaic, 0.01)))
    again = resmap("run", "--local", job)
    assert again.status == 0
    assert "nothing to do" in again.err


def test_a_plan_that_costs_more_than_its_budget_is_not_begun(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    dear = {"usd_per_gpu_hour": 1e9, "budget_usd": 0.01}
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", compute=dear)))
    said = resmap("run", "--local", job)
    assert said.status == 3
    assert "and the budget is $0.01" in said.complaint
    assert "compute.budget_usd" in said.remedy
    assert not (tmp_path / "map.zarr").exists()


@pytest.mark.parametrize(
    ("budget_usd", "said"),
    [(0.000001, "the run would not begin"), (1e9, "enough"), (None, "")],
)
def test_a_plan_is_held_against_its_budget(
    world: World, resmap: Resmap, tmp_path: Path, budget_usd: float | None, said: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", compute={"budget_usd": budget_usd})))
    told = [line for line in resmap("plan", job).out.splitlines() if line.strip().startswith("budget")]
    assert [said in line for line in told] == ([] if budget_usd is None else [True])


def test_where_the_workers_are_elsewhere_a_machine_without_a_gpu_refuses_nothing(world: World, tmp_path: Path) -> None:
    dear = {"usd_per_gpu_hour": 1e9, "budget_usd": 0.01}
    prepared = prepare(Job.from_dict(world.job(tmp_path / "map.zarr", compute=dear)))
    told: list[str] = []
    check_budget(prepared, elsewhere=True, tell=told.append)
    assert len(told) == 1
    assert "$0.01 is watched as the run goes" in told[0]
    with pytest.raises(SpecError):
        check_budget(prepared, elsewhere=False, tell=told.append)
