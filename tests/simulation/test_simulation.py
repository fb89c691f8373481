"""Some hundred runs through every fault we know; and that the simulation finds a bug where there is one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cluster.dispatch import Dispatch
from cluster.retries import RetryPolicy
from jobs.books import Books
from jobs.lease import NOBODY
from mapper.errors import HandedBackError
from tests.simulation.runs import only_outages, simulate, spot_machines, stopped_drivers, zombies
from tests.simulation.sittings import Code
from tests.simulation.world import BrokenError, Faults

RUNS = 60
FAULTS = (
    "read fails", "put fails", "put applied, answer lost", "worker dies", "worker hangs", "zombie answers",
    "machine leaves", "tile given back: not begun", "tile given back: not over", "worker lost: poison tile",
    "slow worker", "outage", "driver killed", "driver stopped", "rival begins", "driver's put refused",
    "driver's put applied, answer lost",
)  # fmt: skip


def test_whatever_goes_wrong_the_mosaic_is_the_undisturbed_one_and_the_ledger_says_so() -> None:
    hit: Counter[str] = Counter()
    for seed in range(RUNS):
        hit += simulate(seed).hit
    assert not [fault for fault in FAULTS if not hit[fault]]


def test_the_same_seed_is_the_same_run_step_by_step() -> None:
    def steps(seed: int) -> list[str]:
        told: list[str] = []
        simulate(seed, log=told.append)
        return [text.rsplit("-", 1)[0] for text in told]  # the names of parts end in a write id

    assert steps(7) == steps(7)
    assert steps(7) != steps(8)


def test_a_store_that_is_away_for_two_minutes_costs_no_tile() -> None:
    for seed in range(10):
        told = simulate(seed, only=only_outages)
        assert told.failed == 0, seed


def test_machines_that_leave_all_the_time_cost_no_tile() -> None:
    hit: Counter[str] = Counter()
    for seed in range(3):
        told = simulate(seed, only=spot_machines)
        assert told.failed == 0, seed
        hit += told.hit
    assert hit["machine leaves"] > 30


# Bugs that it must find -----------------------------------------------------------------------------------------------


class RecordsFirst(Books):
    """Books that enter a tile before its pixels are committed."""

    def _settle(self) -> None:
        receipts, self._receipts = self._receipts, []
        super()._settle()
        self._tiles.flush()
        if receipts:
            self._mosaic.commit(receipts, "", {})


def as_drawn(faults: Faults, chance: random.Random) -> Faults:
    """All that the seed has drawn."""
    return faults


def found(code: Code, *, runs: int, only: Callable[[Faults, random.Random], Faults] = as_drawn) -> str:
    """What the first run says that finds the bug."""
    for seed in range(runs):
        try:
            simulate(seed, code=code, only=only)
        except BrokenError as error:
            return str(error)
    raise AssertionError(f"{runs} runs and nothing found")


def test_it_finds_a_tile_that_is_recorded_before_it_is_put() -> None:
    assert "the store does not" in found(Code(books=RecordsFirst), runs=200)


def test_it_finds_a_driver_that_takes_the_word_of_a_worker_it_gave_up() -> None:
    assert "had no room" in found(Code(forgets_tokens=True), runs=300, only=zombies)


def test_it_finds_a_driver_that_wakes_up_and_overrides_its_successor() -> None:
    # Tiles fail at their first bad read here, so that there is something false to say of those the successor finished.
    hasty = RetryPolicy(attempts=1, outage_s=0)
    simulate(0, code=Code(policy=hasty), only=stopped_drivers)
    said = found(Code(fenced=lambda claim: NOBODY, policy=hasty), runs=200, only=stopped_drivers)
    assert "were finished, and are not any more" in said


def test_it_finds_a_retry_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = Dispatch._go_on

    def drops(self: Dispatch, trial: Any, due: float, now: float) -> None:
        if trial.on or trial.attempts % 3:
            goes_on(self, trial, due, now)

    monkeypatch.setattr(Dispatch, "_go_on", drops)
    assert "nothing was heard of" in found(Code(), runs=200)


def test_it_finds_tiles_that_an_outage_costs() -> None:
    hasty = Code(policy=RetryPolicy(outage_s=0))
    assert any(simulate(seed, code=hasty, only=only_outages).failed for seed in range(20))


def test_it_finds_a_driver_that_holds_a_leaving_machine_against_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HandedBackError, "cause", "worker")
    assert "given up are" in found(Code(), runs=100, only=spot_machines)
