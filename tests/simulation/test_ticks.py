"""Some hundred ticks through every fault we know; and that the simulation finds a bug where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

import pytest
import sqlalchemy as sa

from jobs.monitors import accounts
from jobs.monitors.beats import Beat, Watch
from jobs.monitors.rows import MonitorRow
from tests.simulation.ticks import simulate
from tests.simulation.ticks_world import TickFaults
from tests.simulation.world import BrokenError

WORLDS, TICKS = 14, 11
FAULTS = (
    "machine killed", "killed before a call", "killed after a call", "stands still for minutes", "another goes first",
    "registry away", "answer lost", "a clock leaps", "machine drained", "somebody steers", "slow tick", "tick fails",
    "run --once beside them",
)  # fmt: skip


def test_whatever_goes_wrong_each_due_tick_is_run_exactly_once() -> None:
    hit: Counter[str] = Counter()
    ticks = 0
    for seed in range(WORLDS):
        told = simulate(seed, ticks=TICKS)
        hit, ticks = hit + told.hit, ticks + told.ticks
    assert ticks >= WORLDS * TICKS
    assert not [fault for fault in FAULTS if not hit[fault]]


def test_the_same_seed_is_the_same_world_step_by_step() -> None:
    def steps(seed: int) -> list[str]:
        told: list[str] = []
        simulate(seed, ticks=5, log=told.append)
        return [text for text in told if "standing by" not in text and "at work with" not in text]  # names of processes

    assert steps(7) == steps(7)
    assert steps(7) != steps(8)


# Bugs that it must find -----------------------------------------------------------------------------------------------


def takes_from_the_living(watch: Watch, beats: Mapping[object, Beat], *, at: float) -> dict[object, Beat]:
    """Whoever is seen is taken for gone."""
    return dict(beats)


def keeps_all_accounts(connection: sa.Connection, row: MonitorRow, at: datetime) -> None:
    """A catch-up of a clock that was ahead goes on to stand for what has come since."""


@pytest.mark.parametrize(
    ("place", "name", "bug", "faults", "says"),
    [
        (Watch, "look", takes_from_the_living, TickFaults(other=0.3), "taken from one who lives"),
        (accounts, "_take_from_the_next", keeps_all_accounts, TickFaults(leap=0.03), "is the business of"),
    ],
    ids=["takes from the living", "keeps all accounts"],
)
def test_it_finds_a_scheduler_that(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, bug: Callable[..., object], faults: TickFaults, says: str
) -> None:
    monkeypatch.setattr(place, name, bug)
    assert says in found(faults)


def found(faults: TickFaults) -> str:
    """What the first world says that finds the bug."""
    for seed in range(5):
        try:
            simulate(seed, ticks=25, only=lambda drawn: faults)
        except BrokenError as error:
            return str(error)
    raise AssertionError("five worlds and nothing found")
