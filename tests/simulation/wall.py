"""When ticks are due, said as simply as it can be: look at the clock on the wall, minute by minute.

Shares nothing with ``jobs/monitors/schedule.py`` but the words of its promise, and knows just the fields that tests
use: ``*``, ``*/n``, numbers, ranges and lists.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_MINUTE = timedelta(minutes=1)
_NAMES = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_LOWEST = (0, 0, 1, 1, 0)
_HIGHEST = (59, 23, 31, 12, 6)


def due_between(text: str, zone: str, since: datetime, until: datetime) -> list[datetime]:
    """All instants after the one and not after the other. Zones leap at whole minutes, and so do these."""
    minute = since.replace(second=0, microsecond=0) + _MINUTE
    found = []
    while minute <= until:
        if _due(text, zone, minute):
            found.append(minute)
        minute += _MINUTE
    return found


@lru_cache(maxsize=200_000)
def _due(text: str, zone: str, minute: datetime) -> bool:
    """Whether a tick is due at a minute of UTC."""
    shown, before = _shown(zone, minute), _shown(zone, minute - _MINUTE)
    hours = text.split()[1]
    if hours == "*" or hours.startswith("*/"):
        return _matches(text, shown)
    if _matches(text, shown) and not _was_shown_before(zone, minute):
        return True
    skipped, made_up = before + _MINUTE, False  # minutes that were never shown, between these two
    while skipped < shown:
        made_up = made_up or _matches(text, skipped)
        skipped += _MINUTE
    return made_up


def _shown(zone: str, minute: datetime) -> datetime:
    return minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def _was_shown_before(zone: str, minute: datetime) -> bool:
    """Whether the wall has shown the same within the last three hours: no zone goes back further."""
    shown = _shown(zone, minute)
    for step in range(1, 19):
        earlier = minute - step * timedelta(minutes=10)
        offset = _shown(zone, earlier) - earlier.replace(tzinfo=None)
        at = (shown - offset).replace(tzinfo=UTC)
        if minute - timedelta(hours=3) <= at < minute and _shown(zone, at) == shown:
            return True
    return False


def _matches(text: str, shown: datetime) -> bool:
    minutes, hours, days, months, weekdays = (_allowed(field, n) for n, field in enumerate(text.split()))
    if shown.minute not in minutes or shown.hour not in hours or shown.month not in months:
        return False
    day, weekday = shown.day in days, shown.isoweekday() % 7 in weekdays
    fields = text.split()
    return day or weekday if fields[2][0] != "*" and fields[4][0] != "*" else day and weekday


@lru_cache
def _allowed(field: str, n: int) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, high = (_LOWEST[n], _HIGHEST[n])
        if span != "*":
            first, _, last = span.partition("-")
            low = _number(first)
            high = _number(last) if last else low
        found.update(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str) -> int:
    return _NAMES[text] if text in _NAMES else int(text)
