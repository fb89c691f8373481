"""What workers' time went to, interval by interval."""

from __future__ import annotations

import pytest

from jobs.dashboard.over_time import INTERVALS, over_time, strip
from tests.jobs.dashboard.telemetry_rows import batch, row


def test_a_run_that_kept_nothing_tells_nothing() -> None:
    assert over_time([]) is None
    assert over_time([batch([])]) is None


def test_each_interval_tells_of_its_own_time_only() -> None:
    rows = [row("a", 60, busy_s=60), row("a", 120, busy_s=60, read=60), row("a", 180, busy_s=90, read=90)]
    told = over_time([batch(rows)])
    assert told is not None
    known = [interval.parts for interval in told.fleet if interval.parts]
    assert [(parts["busy"], parts["read"]) for parts in known] == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    assert all(sum(parts.values()) == pytest.approx(1.0) for parts in known)


def test_an_actor_that_takes_anothers_place_is_counted_from_its_own_beginning() -> None:
    rows = [
        row("a", 100, busy_s=100, tiles=50),
        row("a", 200, began_s=150, busy_s=10, read=40, tiles=2),
        row("a", 300, began_s=150, busy_s=110, read=40, tiles=12),
    ]
    told = over_time([batch(rows[1:]), batch(rows[:1])])
    assert told is not None
    assert sum(interval.tiles_per_s for interval in told.fleet) * told.length_s == pytest.approx(50 + 12)
    known = [interval.parts for interval in told.fleet if interval.parts]
    assert [parts["busy"] for parts in known] == [1.0, 0.2, 1.0]


def test_time_in_which_nobody_worked_is_blank_and_no_zero() -> None:
    rows = [row("a", 60, busy_s=60), row("a", 5000, began_s=4900, busy_s=100)]
    told = over_time([batch(rows)])
    assert told is not None
    blank = [interval for interval in told.fleet if interval.parts is None]
    assert len(told.fleet) == INTERVALS
    assert len(blank) == INTERVALS - 2
    assert strip(told.fleet, who="all").count("<rect") == 1 + 2


def test_the_fleet_is_all_workers_together() -> None:
    rows = [row("a", 60, busy_s=60, tiles=6), row("b", 60, busy_s=0, read=60, tiles=3)]
    told = over_time([batch(rows)])
    assert told is not None
    assert told.fleet[-1].parts is not None
    assert told.fleet[-1].parts["busy"] == 0.5
    tiles = {name: told.length_s * sum(one.tiles_per_s for one in of) for name, of in told.workers.items()}
    assert tiles == {"a": pytest.approx(6), "b": pytest.approx(3)}


def test_a_strip_says_in_words_when_it_was_worst() -> None:
    rows = [row("a", 60, busy_s=60), row("a", 120, busy_s=63, read=57), row("a", 180, busy_s=123, read=57)]
    told = over_time([batch(rows)])
    assert told is not None
    drawn = strip(told.fleet, who="<b>gpu-0</b>")
    assert "waiting for reads 95" in drawn
    assert "<b>" not in drawn
