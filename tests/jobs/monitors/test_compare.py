"""What is compared, and of which steps people are told, whatever broke off before."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from jobs.monitors.compare import Compared, compare
from mapper.changes import changes_folder
from mapper.mosaic import Mosaic
from tests.jobs.monitors.growing import EARLIER, LATER, WEST, Growing
from tests.jobs.monitors.growing import ground as ground
from tests.jobs.monitors.scenes import Ground

MONITOR = {"schedule": "every 1d", "late": "300d", "changes": {"hysteresis": 0.0}}


@pytest.fixture
def growing(ground: Ground, tmp_path: Path) -> Growing:
    made = Growing(ground, tmp_path / "map.zarr", [WEST], monitor=MONITOR)
    made.first()
    return made


def compared(growing: Growing) -> Compared:
    return compare(growing.job, lambda said: None)


def times(growing: Growing) -> tuple[datetime, ...]:
    return Mosaic.open(str(growing.mosaic), writable=False).times


def test_of_what_the_first_run_finds_nobody_is_told_and_it_is_compared_once(growing: Growing) -> None:
    first = compared(growing)
    assert {one.time for one in first.steps} == set(times(growing))
    assert (first.alerted, first.says) == ((), [])
    first.done()
    assert compared(growing).steps == ()


def test_what_a_tick_renewed_is_told_of_though_the_first_run_was_never_compared(growing: Growing) -> None:
    compared(growing)  # and broke off: nobody said that it is done
    growing.tick([WEST, LATER])
    found = compared(growing)
    assert {one.time for one in found.steps} == set(times(growing))
    assert {one.time for one in found.alerted} == {times(growing)[-1]}


def test_a_step_that_followed_from_a_tick_that_broke_off_is_told_of_by_the_next(growing: Growing) -> None:
    growing.tick([WEST, LATER])
    compared(growing).done()
    growing.tick([WEST, LATER, EARLIER])
    broken_off = {one.time for one in compared(growing).alerted}
    assert broken_off > {times(growing)[-1]}  # the one that came late, and steps after it
    again = {one.time for one in compared(growing).alerted}
    assert again == broken_off
    growing.tick([WEST, LATER])  # the late one is withdrawn
    found = compared(growing)
    assert {one.time for one in found.alerted} >= broken_off
    found.done()
    assert compared(growing).steps == ()
    assert Path(changes_folder(str(growing.mosaic))).is_dir()
