"""When ticks are due: against a search minute by minute through what a clock on the wall shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.monitors.schedule import Due, Schedule
from mapper.errors import SpecError
from tests.simulation.wall import due_between

ZONES = {
    "Europe/Paris": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    "Africa/Casablanca": (datetime(2026, 2, 15, 2, tzinfo=UTC), datetime(2026, 3, 22, 2, tzinfo=UTC)),
    "Asia/Kolkata": (datetime(2026, 3, 29, tzinfo=UTC),),
    "Pacific/Apia": (datetime(2011, 12, 30, 10, tzinfo=UTC),),
    "America/St_Johns": (datetime(2010, 11, 7, 2, 31, tzinfo=UTC), datetime(2011, 3, 13, 3, 31, tzinfo=UTC)),
    "America/Scoresbysund": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
}
"""Zones, and instants at which they do something: leap half an hour, a whole day, or back over midnight."""

PARIS = "Europe/Paris"


@st.composite
def crons(draw: st.DrawFn) -> str:
    """Schedules that come at least every few days, many of them when zones leap: at night."""
    minute = draw(st.sampled_from(["0", "15", "30", "59", "*/15", "*/20", "0,30", "*", "7-9"]))
    hour = draw(st.sampled_from(["0", "1", "2", "3", "23", "*", "*/2", "*/6", "1-3", "0,2", "22-23", "6"]))
    days = draw(st.sampled_from(["* * *", "* * *", "* * 0", "* * 1-5", "*/2 * *", "29-31 * *", "* * sun,sat"]))
    return f"{minute} {hour} {days}"


def moments(zone: str) -> st.SearchStrategy[datetime]:
    """Within two days of what a zone does."""
    shift = st.integers(-48 * 3600, 48 * 3600).map(lambda seconds: timedelta(seconds=seconds))
    return st.builds(lambda at, by: at + by, st.sampled_from(ZONES[zone]), shift)


@given(data=st.data(), zone=st.sampled_from(sorted(ZONES)), text=crons())
def test_the_next_instant_is_what_a_clock_on_the_wall_says(data: st.DataObject, zone: str, text: str) -> None:
    moment = data.draw(moments(zone))
    schedule = Schedule.parse(text, zone)
    after = schedule.after(moment)
    assert after > moment
    assert after.tzinfo is UTC
    span = min(after, moment + timedelta(days=3))
    assert due_between(text, zone, moment, span) == ([after] if after == span else [])


@given(data=st.data(), zone=st.sampled_from(sorted(ZONES)), text=crons())
def test_what_was_missed_is_counted_as_a_clock_on_the_wall_does(data: st.DataObject, zone: str, text: str) -> None:
    since = data.draw(moments(zone))
    until = since + timedelta(seconds=data.draw(st.integers(-3600, 3 * 86400)))
    found = due_between(text, zone, since, until)
    expected = Due(at=found[-1], missed=len(found) - 1, first=found[0]) if found else None
    assert Schedule.parse(text, zone).latest(since, until) == expected


@given(zone=st.sampled_from(sorted(ZONES)), text=crons(), days=st.integers(8, 100), second=st.integers(0, 86400))
def test_a_long_time_away_is_counted_as_one_instant_after_the_other(
    zone: str, text: str, days: int, second: int
) -> None:
    since = ZONES[zone][0] - timedelta(days=days // 2, seconds=second)
    parts = [since + timedelta(days=days) * n / 3 for n in range(4)]
    schedule = Schedule.parse(text, zone)
    whole = schedule.latest(since, parts[-1])
    pieces = [due for begin, end in pairwise(parts) if (due := schedule.latest(begin, end))]
    assert (0 if whole is None else whole.missed + 1) == sum(due.missed + 1 for due in pieces)
    if whole is not None:
        assert (whole.first, whole.at) == (pieces[0].first, pieces[-1].at)


@given(
    every=st.integers(1, 10**6),
    unit=st.sampled_from("smhd"),
    at=st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),
)
@example(every=7, unit="s", at=datetime(2026, 1, 1, 0, 0, 0, 999_999))
def test_an_interval_is_each_so_many_seconds_since_1970(every: int, unit: str, at: datetime) -> None:
    seconds = every * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    if seconds > 366 * 86400:
        return
    moment = at.replace(tzinfo=UTC)
    schedule = Schedule.parse(f"every {every}{unit}")
    after = schedule.after(moment)
    assert after.timestamp() % seconds == 0
    assert timedelta(0) < after - moment <= timedelta(seconds=seconds)
    later = after + timedelta(seconds=3 * seconds, microseconds=1)
    assert schedule.latest(moment, later) == Due(at=after + timedelta(seconds=3 * seconds), missed=3, first=after)


@pytest.mark.parametrize("text", ["5 4 * * *", "*/7 1-5 * * 1", "0 0 L * *", "30 12 1,15 * fri", "0 6 * * mon#1"])
def test_where_a_zone_does_nothing_it_is_cron(text: str) -> None:
    walk = croniter(text, datetime(2026, 1, 10))
    schedule = Schedule.parse(text, "UTC")
    moment = datetime(2026, 1, 10, tzinfo=UTC)
    for _ in range(40):
        moment = schedule.after(moment)
        assert moment.replace(tzinfo=None) == walk.get_next(datetime)


def walked(schedule: Schedule, since: datetime, until: datetime) -> list[datetime]:
    """One instant after the other."""
    found = [schedule.after(since)]
    while found[-1] <= until:
        found.append(schedule.after(found[-1]))
    return found[:-1]


def test_an_hour_that_a_zone_leaves_out_is_made_up_for_at_once() -> None:
    schedule = Schedule.parse("30 2 * * *", PARIS)
    due = walked(schedule, datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC))
    assert [f"{at.astimezone(ZoneInfo(PARIS)):%d %H:%M}" for at in due] == ["28 02:30", "29 03:00", "30 02:30"]


def test_an_hour_that_comes_twice_has_one_tick_unless_every_hour_has() -> None:
    night = datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 4, tzinfo=UTC)
    assert Schedule.parse("30 2 * * *", PARIS).latest(*night) == Due(
        at=datetime(2026, 10, 25, 0, 30, tzinfo=UTC), first=datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    hourly = Schedule.parse("30 * * * *", PARIS).latest(*night)
    assert hourly is not None
    assert hourly.missed + 1 == 6


def test_a_day_that_a_zone_leaves_out_is_made_up_for_when_the_next_begins() -> None:
    schedule = Schedule.parse("0 6 * * *", "Pacific/Apia")
    due = walked(schedule, datetime(2011, 12, 29, 18, tzinfo=UTC), datetime(2011, 12, 31, 12, tzinfo=UTC))
    assert due == [datetime(2011, 12, 30, 10, tzinfo=UTC), datetime(2011, 12, 30, 16, tzinfo=UTC)]


def test_thirty_years_of_quarters_of_an_hour_are_counted() -> None:
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2056, 1, 1, tzinfo=UTC)
    due = Schedule.parse("*/15 * * * *", PARIS).latest(since, until)
    assert due is not None
    assert due.missed + 1 == (until - since) / timedelta(minutes=15)


@pytest.mark.parametrize(
    ("text", "zone", "says"),
    [
        ("0 6 * * *", PARIS, "every day at 06:00, Europe/Paris"),
        ("@daily", "UTC", "every day at 00:00, UTC"),
        ("5 * * * *", "UTC", "every hour at :05, UTC"),
        ("30 9 * * 1", "UTC", "every Monday at 09:30, UTC"),
        ("0 0 15 * *", "UTC", "every month on day 15 at 00:00, UTC"),
        ("0 0 15 * 1", "UTC", "cron 0 0 15 * 1, UTC"),
        ("0 */6  * 1 *", "UTC", "cron 0 */6 * 1 *, UTC"),
        ("every 15m", PARIS, "every 15 minutes"),
        ("every  1d", "UTC", "every day"),
    ],
)
def test_a_schedule_is_told_in_words(text: str, zone: str, says: str) -> None:
    assert Schedule.parse(text, zone).says == says


@pytest.mark.parametrize(
    ("text", "zone", "what", "fix"),
    [
        ("6 * * *", "UTC", "has 4 fields, and cron has five", '"0 6 * * *"'),
        ("*/5 * * * * *", "UTC", "has 6 fields, and cron has five", "seconds and years are no fields"),
        ("0 0 1 1 * 0 2030", "UTC", "has 7 fields", "seconds and years are no fields"),
        ("", "UTC", "has 0 fields", "every 15m"),
        ("every 0s", "UTC", "between one second and 366 days", '"every 15m"'),
        ("every 400d", "UTC", "between one second and 366 days", '"every 15m"'),
        ("every 99999999999999d", "UTC", "is no interval", '"every 15m"'),
        ("every -5m", "UTC", "is no interval", '"every 15m"'),
        ("every 5 minutes", "UTC", "is no interval", '"every 15m"'),
        ("every 1.5h", "UTC", "is no interval", '"every 15m"'),
        ("0 25 * * *", "UTC", "is no cron", '"0 6 * * *"'),
        ("a b c d e", "UTC", "is no cron", '"0 6 * * *"'),
        ("H * * * *", "UTC", "another on every machine", '"0 6 * * *"'),
        ("R * * * *", "UTC", "another on every machine", '"0 6 * * *"'),
        ("0 0 30 2 *", "UTC", "never comes", "day of the month"),
        ("0 6 * * *", "Mars/Olympus", "there is no zone 'Mars/Olympus'", "Europe/Paris"),
        ("0 6 * * *", "Europe", "there is no zone 'Europe'", "Europe/Paris"),
        ("0 6 * * *", "../../etc/passwd", "there is no zone", "Europe/Paris"),
        ("every 15m", "", "there is no zone", "Europe/Paris"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_to_write(text: str, zone: str, what: str, fix: str) -> None:
    with pytest.raises(SpecError) as refused:
        Schedule.parse(text, zone)
    assert what in refused.value.what
    assert fix in refused.value.fix


def test_a_tick_that_is_asked_for_stands_for_what_was_missed_before_it() -> None:
    schedule = Schedule.parse("every 1h")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    asked = noon + timedelta(hours=2, minutes=20)
    assert schedule.standing_for(noon, asked) == Due(at=asked, missed=2, first=noon + timedelta(hours=1))
    assert schedule.standing_for(noon, noon + timedelta(hours=2)) == schedule.latest(noon, noon + timedelta(hours=2))
    assert schedule.standing_for(noon, noon + timedelta(minutes=5)).missed == 0
