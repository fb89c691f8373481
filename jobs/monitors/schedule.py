"""When ticks are due: a text of the job file → instants, the same on every machine and whatever was run before.

Cron's fields are read by croniter, against the calendar alone. What becomes of the hours that a zone leaves out or has
twice is decided here:

| the hour field | an hour that a zone leaves out          | an hour that it has twice |
|----------------|-----------------------------------------|---------------------------|
| ``*``, ``*/n`` | no tick: real time has no such hour     | a tick in each            |
| any other      | a tick at the first instant after it    | a tick in the first alone |

Intervals know no zone: ``every 6h`` is each sixth hour since 1970-01-01T00:00Z.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterBadDateError

from mapper.errors import SpecError

LONGEST = timedelta(days=366)
"""Of an interval: what is looked for more rarely than once a year is no monitoring."""

_UNITS = {"s": ("second", 1), "m": ("minute", 60), "h": ("hour", 3600), "d": ("day", 86400)}
_ALIASES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}  # fmt: skip
_CHANCE = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)
"""Letters by which croniter draws a number: another on every machine."""

_EXAMPLES = 'write cron with five fields, such as "0 6 * * *", or an interval, such as "every 15m", "every 6h"'
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)
_NEAR = 3 * _DAY
"""Further than this from an instant lies no date, on whatever side, that could be mistaken for its own: zones are at
most 26 hours apart, and none ever left out more than a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An instant at which a tick is due, and the earlier ones that it stands for."""

    at: datetime
    """Aware, UTC, whole seconds."""

    missed: int = 0
    """How many earlier instants were missed; it stands for them too."""

    first: datetime
    """The earliest instant that it stands for; ``at`` where none was missed."""


class _Instants(Protocol):
    """Instants without end, one after the other."""

    def after(self, moment: datetime) -> datetime:
        """The first that is later than this."""

    def last(self, until: datetime) -> datetime:
        """The last that is not later than this."""

    def count(self, since: datetime, until: datetime) -> int:
        """How many are later than the one, and not later than the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When ticks of a monitor are due."""

    text: str
    timezone: str
    says: str
    """In words: ``every day at 06:00, Europe/Paris``."""

    _instants: _Instants

    @staticmethod
    def parse(text: str, timezone: str = "UTC") -> Schedule:
        """The schedule that a job file asks for.

        Args:
            text: cron with five fields, or ``every`` and a whole number of s, m, h or d.
            timezone: in which cron's hours and days are meant, by its IANA name.

        Raises:
            SpecError: it is none, never comes, or the zone is unknown; the sentence says what to write.
        """
        return _parsed(" ".join(text.split()), timezone)

    def after(self, moment: datetime) -> datetime:
        """The first instant later than a moment; aware, UTC, whole seconds."""
        return self._instants.after(moment.astimezone(UTC))

    def latest(self, since: datetime, until: datetime) -> Due | None:
        """The last instant after ``since`` and not after ``until``, and how many before it lie there too."""
        since, until = since.astimezone(UTC), until.astimezone(UTC)
        if until <= since or (first := self._instants.after(since)) > until:
            return None
        at = self._instants.last(until)
        return Due(at=at, missed=self._instants.count(since, at) - 1, first=first)

    def standing_for(self, since: datetime, at: datetime) -> Due:
        """A tick at any instant, and those after ``since`` that it stands for: what somebody asks for now."""
        found = self.latest(since, at)
        if found is None:
            return Due(at=at, first=at)
        return found if found.at == at else Due(at=at, missed=found.missed + 1, first=found.first)


@lru_cache(maxsize=512)
def _parsed(text: str, timezone: str) -> Schedule:
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise SpecError(
            f"monitor.timezone: there is no zone {timezone!r}", fix="write it as in Europe/Paris, or UTC"
        ) from error
    if text.partition(" ")[0] == "every":
        instants, says = _interval(text)
        return Schedule(text=text, timezone=timezone, says=says, _instants=instants)
    cron = _Cron.parse(_ALIASES.get(text, text), zone, shown=text)
    return Schedule(text=text, timezone=timezone, says=f"{cron.says(text)}, {timezone}", _instants=cron)


# Intervals ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Interval:
    every_s: int

    def after(self, moment: datetime) -> datetime:
        return _at((_seconds(moment) // self.every_s + 1) * self.every_s)

    def last(self, until: datetime) -> datetime:
        return _at(_seconds(until) // self.every_s * self.every_s)

    def count(self, since: datetime, until: datetime) -> int:
        return _seconds(until) // self.every_s - _seconds(since) // self.every_s


def _interval(text: str) -> tuple[_Interval, str]:
    found = re.fullmatch(r"every ([0-9]{1,9})([smhd])", text)
    if found is None:
        raise SpecError(f"monitor.schedule: {text!r} is no interval", fix=_EXAMPLES)
    number, (unit, seconds) = int(found[1]), _UNITS[found[2]]
    if not _SECOND <= number * timedelta(seconds=seconds) <= LONGEST:
        raise SpecError(
            f"monitor.schedule: {text!r} is not between one second and {LONGEST.days} days",
            fix='write an interval such as "every 15m" or "every 6h"',
        )
    return _Interval(number * seconds), f"every {unit}" if number == 1 else f"every {number} {unit}s"


def _seconds(moment: datetime) -> int:
    return int(moment.replace(microsecond=0).timestamp())


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Cron -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cron:
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: str
    """Cron of its midnights: which dates it has, in the calendar of no zone."""

    real: bool
    """Whether each hour that really passes counts, not what a clock on the wall shows."""

    zone: ZoneInfo

    @staticmethod
    def parse(text: str, zone: ZoneInfo, *, shown: str) -> _Cron:
        fields = text.split()
        if len(fields) != 5:
            raise SpecError(
                f"monitor.schedule: {shown!r} has {len(fields)} field{'s' * (len(fields) != 1)}, and cron has five",
                fix=_EXAMPLES + "; seconds and years are no fields here",
            )
        try:
            if _CHANCE.search(text):
                raise ValueError("a number that is drawn would be another on every machine")
            minutes, hours = (tuple(map(_number, field)) for field in croniter.expand(text)[0][:2])
        except (ValueError, KeyError, AttributeError) as error:
            why = str(error).replace(f"[{text}] ", "").strip()
            raise SpecError(f"monitor.schedule: {shown!r} is no cron: {why}", fix=_EXAMPLES) from error
        made = _Cron(
            minutes=tuple(range(60)) if minutes == (-1,) else minutes,
            hours=tuple(range(24)) if hours == (-1,) else hours,
            days=" ".join(["0", "0", *fields[2:]]),
            real=re.fullmatch(r"\*(/[0-9]+)?", fields[1]) is not None,
            zone=zone,
        )
        try:
            next(made._dates(date(2000, 1, 1)))
        except CroniterBadDateError as error:
            raise SpecError(
                f"monitor.schedule: {shown!r} never comes", fix="look at its day of the month and its month"
            ) from error
        return made

    @lru_cache(maxsize=1024)  # noqa: B019 - as of _on; the loop asks each second for what comes after the last tick
    def after(self, moment: datetime) -> datetime:
        """The first that is later than this."""
        best: datetime | None = None
        for day in self._dates(self._date(moment) - _NEAR):
            if best is not None and day > self._date(best) + _NEAR:
                break
            found = self._on(day)
            if (place := bisect_right(found, moment)) < len(found):
                best = found[place] if best is None else min(best, found[place])
        assert best is not None  # a schedule that never comes is none
        return best

    def last(self, until: datetime) -> datetime:
        best: datetime | None = None
        for day in self._dates(self._date(until) + _NEAR, back=True):
            if best is not None and day < self._date(best) - _NEAR:
                break
            found = self._on(day)
            if (place := bisect_right(found, until)) > 0:
                best = found[place - 1] if best is None else max(best, found[place - 1])
        assert best is not None
        return best

    def count(self, since: datetime, until: datetime) -> int:
        """Days on which the zone does nothing have as many instants as there are hours times minutes."""
        begin, end = self._date(since) + _NEAR, self._date(until) - _NEAR
        found, others = 0, set[datetime]()
        for day in self._dates(self._date(since) - _NEAR):
            if day > self._date(until) + _NEAR:
                break
            if begin < day < end and self._quiet(day) and self._quiet(day - _DAY):
                found += len(self.hours) * len(self.minutes)
            else:
                others |= {instant for instant in self._on(day) if since < instant <= until}
        return found + len(others)

    def says(self, text: str) -> str:
        """In words, where they are short."""
        _, _, day, month, weekday = text.split() if len(text.split()) == 5 else _ALIASES[text].split()
        if len(self.minutes) != 1 or month != "*":
            return f"cron {text}"
        minute = self.minutes[0]
        if len(self.hours) == 24 and day == weekday == "*":
            return f"every hour at :{minute:02d}"
        if len(self.hours) != 1:
            return f"cron {text}"
        at = f"at {self.hours[0]:02d}:{minute:02d}"
        if day == weekday == "*":
            return f"every day {at}"
        if day == "*" and weekday in "01234567":
            return f"every {_DAYS[int(weekday) % 7]} {at}"
        if weekday == "*" and day.isdecimal():
            return f"every month on day {int(day)} {at}"
        return f"cron {text}"

    def _dates(self, first: date, *, back: bool = False) -> Iterator[date]:
        """Its dates from this one on, or from this one back."""
        near = _SECOND if back else -_SECOND
        walk = croniter(self.days, datetime.combine(first, time()) + near, ret_type=datetime)
        while True:
            yield (walk.get_prev() if back else walk.get_next()).date()

    def _date(self, moment: datetime) -> date:
        return moment.astimezone(self.zone).date()

    def _quiet(self, day: date) -> bool:
        """Whether each time on the wall is one instant, on this date."""
        return len({self._offset(day, 0), self._offset(day, 12), self._offset(day + _DAY, 0, fold=1)}) == 1

    def _offset(self, day: date, hour: int, fold: int = 0) -> timedelta | None:
        return datetime.combine(day, time(hour, fold=fold), self.zone).utcoffset()

    @lru_cache(maxsize=1024)  # noqa: B019 - a schedule is a value, and is kept by a cache itself
    def _on(self, day: date) -> tuple[datetime, ...]:
        """Its instants on a date as the wall shows it, in order."""
        found = set[datetime]()
        for hour in self.hours:
            for minute in self.minutes:
                shown = datetime.combine(day, time(hour, minute), self.zone)
                real = [one for fold in (0, 1) if self._shows(one := shown.replace(fold=fold).astimezone(UTC), shown)]
                if self.real:
                    found.update(real)
                else:
                    found.add(real[0] if real else self._after_the_gap(shown))
        return tuple(sorted(found))

    def _shows(self, moment: datetime, shown: datetime) -> bool:
        return moment.astimezone(self.zone).replace(tzinfo=None) == shown.replace(tzinfo=None)

    def _after_the_gap(self, shown: datetime) -> datetime:
        """The instant at which the zone leapt over what it should have shown."""
        before, after = (shown.replace(fold=fold).astimezone(UTC) for fold in (1, 0))
        new = after.astimezone(self.zone).utcoffset()
        while after - before > _SECOND:
            middle = (before + (after - before) / 2).replace(microsecond=0)
            if middle.astimezone(self.zone).utcoffset() == new:
                after = middle
            else:
                before = middle
        return after


def _number(value: int | str) -> int:
    return -1 if value == "*" else int(value)
