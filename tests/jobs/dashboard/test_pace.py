"""How fast a run gets on, when it is over and what it costs: nothing is known before it is, and a range is a range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.dashboard.pace import POINTS, Pace, cost, history, recent_pace, seconds_left
from jobs.dashboard.views import Cost, Span

NOW = 1_780_000_000.0


def steady(per_s: float, seconds: float) -> NDArray[np.float64]:
    """Tiles entered at even distances up to now."""
    return NOW - np.arange(0.0, seconds, 1 / per_s)


def test_the_pace_is_that_of_the_last_minutes_and_not_since_the_beginning() -> None:
    fast_before = NOW - 3600 - np.arange(0.0, 1800, 0.01)
    pace = recent_pace(np.concatenate([fast_before, steady(2.0, 1200.0)]), began=NOW - 7200, now=NOW)
    assert pace is not None
    assert pace.seconds == 300
    assert pace.tiles_per_s == pytest.approx(2.0, rel=0.01)


def test_tiles_of_an_earlier_sitting_say_nothing_of_this_ones_pace() -> None:
    before = NOW - 100 - np.arange(0.0, 100, 0.1)
    pace = recent_pace(np.concatenate([before, steady(1.0, 60.0)]), began=NOW - 60, now=NOW)
    assert pace is not None
    assert pace.tiles == 60


def test_where_tiles_are_few_the_window_is_made_longer() -> None:
    pace = recent_pace(steady(0.01, 7200.0), began=NOW - 7200, now=NOW)
    assert pace is not None
    assert pace.tiles_per_s == pytest.approx(0.01, rel=0.05)
    assert pace.seconds > 3600


def test_no_pace_is_known_before_the_first_tile() -> None:
    assert recent_pace(np.full(5, np.nan), began=NOW - 100, now=NOW) is None
    assert recent_pace(np.array([NOW - 200]), began=NOW - 100, now=NOW) is None


@pytest.mark.parametrize(("silent_s", "still"), [(0.0, False), (50.0, False), (70.0, True), (200.0, True)])
def test_a_run_stands_still_when_nothing_came_for_longer_than_chance_allows(silent_s: float, still: bool) -> None:
    pace = recent_pace(steady(2.0, 300.0) - silent_s, began=NOW - 1000, now=NOW)
    assert pace is not None
    assert pace.still is still
    assert (seconds_left(100, pace) is None) is still
    assert (pace.tiles_per_s == 0) is still


def test_nothing_is_left_to_wait_for_where_no_tile_is_left() -> None:
    assert seconds_left(0, Pace(seconds=300, counts=(10,) * 24, still=False)) is None


@given(st.lists(st.integers(0, 50), min_size=24, max_size=24).filter(any), st.integers(1, 10**7))
def test_the_range_holds_what_the_recent_pace_alone_would_say(counts: list[int], left: int) -> None:
    pace = Pace(seconds=300, counts=tuple(counts), still=False)
    span = seconds_left(left, pace)
    assert span is not None
    assert 0 < span.low < left / pace.tiles_per_s < span.high < math.inf


@pytest.mark.parametrize("left", [20, 400, 20_000])
@pytest.mark.parametrize("uneven", [0.3, 1.0, 2.0])
def test_the_range_holds_the_truth_about_four_times_in_five(left: int, uneven: float) -> None:
    random = np.random.default_rng([left, int(uneven * 10)])
    shape = 1 / uneven**2
    held = 0
    runs = 400
    for _ in range(runs):
        gaps = random.gamma(shape, 0.5 / shape, 2000 + left)
        at = np.cumsum(gaps)
        now = float(at[1999])
        span = seconds_left(left, recent_pace(at[:2000], began=0.0, now=now))
        assert span is not None
        held += span.low <= float(at[1999 + left]) - now <= span.high
    # The share of 400 draws is known to 2 %; the rule itself may be wide by as much again and a half, for it takes
    # intervals that happen to be alike for a sign that they are.
    assert 0.74 <= held / runs <= 0.92


def test_a_pace_that_drifts_is_given_a_wider_range_than_one_that_only_jitters() -> None:
    jitters = Pace(seconds=300, counts=(10, 20) * 12, still=False)
    drifts = Pace(seconds=300, counts=(10,) * 12 + (20,) * 12, still=False)
    one, other = seconds_left(5000, jitters), seconds_left(5000, drifts)
    assert one is not None
    assert other is not None
    assert other.high / other.low > one.high / one.low


def test_a_history_tells_each_tile_once_and_stays_as_it_was() -> None:
    at = steady(3.0, 900.0)
    earlier, later = history(at[at <= NOW - 60], now=NOW - 60), history(at, now=NOW)
    assert later[: len(earlier)] == earlier
    width = (later[1][0] - later[0][0]).total_seconds()
    assert sum(rate * width for _, rate in later) == pytest.approx(np.sum(at < later[-1][0].timestamp()), abs=3)


@given(st.floats(1.0, 1e7), st.integers(1, 500))
def test_a_history_is_never_too_long_and_ends_before_now(seconds: float, tiles: int) -> None:
    points = history(NOW - np.linspace(0, seconds, tiles), now=NOW)
    assert len(points) <= POINTS
    assert all(moment.timestamp() <= NOW for moment, _ in points)
    assert [moment for moment, _ in points] == sorted({moment for moment, _ in points})


def test_no_history_is_known_before_the_first_tile() -> None:
    assert history(np.full(3, np.nan), now=NOW) == ()


def priced(**said: object) -> Cost:
    known: dict[str, object] = {
        "spent_usd": 100.0, "usd_per_gpu_hour": 2.0, "budget_usd": None, "workers": 8,
        "left": Span(low=3600.0, high=7200.0), "over": False, "mapped_km2": 5000.0, "idle_s": 7200.0,
    }  # fmt: skip
    return cost(**{**known, **said})  # type: ignore[arg-type]


def test_what_it_costs_follows_from_workers_hours_and_price() -> None:
    assert priced() == Cost(
        spent_usd=100.0, at_completion_usd=Span(low=116.0, high=132.0), per_1000_km2_usd=20.0, idle_usd=4.0,
        budget_usd=None, usd_per_gpu_hour=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("price", [None, 0.0])
def test_nothing_costs_anything_where_the_job_names_no_price(price: float | None) -> None:
    told = priced(usd_per_gpu_hour=price, budget_usd=50.0)
    assert (told.spent_usd, told.at_completion_usd, told.per_1000_km2_usd, told.idle_usd) == (None,) * 4
    assert told.budget_usd == 50.0


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ({"left": None}, "at_completion_usd"),
        ({"workers": 0}, "at_completion_usd"),
        ({"spent_usd": None}, "at_completion_usd"),
        ({"mapped_km2": 0.0}, "per_1000_km2_usd"),
        ({"idle_s": None}, "idle_usd"),
    ],
)
def test_what_is_not_known_stays_unknown(said: dict[str, object], unknown: str) -> None:
    assert getattr(priced(**said), unknown) is None


def test_a_run_that_is_over_costs_what_it_has_cost() -> None:
    assert priced(over=True, left=None).at_completion_usd == Span(low=100.0, high=100.0)
