"""What the registry said of ticks, read after each of its transactions, and what must be true of it.

Knows nothing of the code but its tables. When ticks are due it reckons by itself: minute by minute, from the wall.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.simulation.wall import due_between
from tests.simulation.world import BrokenError

_COLUMNS = "number, monitor_id, due, first, missed, state, holder, beat, stop_asked, next_try, run"


@dataclass(frozen=True, slots=True)
class _Tick:
    number: int
    monitor_id: str
    due: str
    first: str
    missed: int
    state: str
    holder: str | None
    beat: int
    stop_asked: str | None
    next_try: str | None
    run: str | None


@dataclass(slots=True)
class _Account:
    """For which instants a tick stands, as it was last said."""

    first: datetime
    at: datetime
    missed: int
    folded: bool = False


@dataclass(slots=True)
class _Book:
    """Of one monitor."""

    name: str
    section: dict[str, str]
    created: datetime
    accounts: dict[str, _Account] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    watermark: str | None = None
    removed: bool = False


class Books:
    """Reads the registry from outside."""

    def __init__(self, path: str, *, stale_s: float) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._stale_s = stale_s
        self._ticks: dict[int, _Tick] = {}
        self._beats: dict[int, float] = {}
        self.books: dict[str, _Book] = {}
        self.entered = 0
        self.caught_up = 0

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self, time: float) -> None:
        """See what has changed, at this true time in seconds.

        Raises:
            BrokenError: it should not have.
        """
        self._read_monitors()
        now = {row[0]: _Tick(*row) for row in self._file.execute(f"SELECT {_COLUMNS} FROM ticks ORDER BY number")}
        for number, tick in now.items():
            before = self._ticks.get(number)
            if before != tick:
                self._changed(before, tick, time)
        for number, tick in self._ticks.items():
            if number not in now:
                self._gone(tick)
        self._ticks = now
        atwork = Counter(tick.monitor_id for tick in now.values() if tick.state == "running")
        if any(count > 1 for count in atwork.values()):
            raise BrokenError("a monitor has two ticks at work")

    def at_work(self) -> bool:
        """Whether any tick is."""
        return any(tick.state == "running" for tick in self._ticks.values())

    def leader(self) -> str | None:
        """Who is said to lead."""
        found = self._file.execute("SELECT holder FROM leaders").fetchone()
        return None if found is None else found[0]

    def next_tries(self) -> list[datetime]:
        """When ticks that failed are tried again."""
        return [datetime.fromisoformat(tick.next_try) for tick in self._ticks.values() if tick.next_try]

    def open(self) -> bool:
        """Whether any tick is at work or to be tried again."""
        return any(tick.state == "running" or tick.next_try for tick in self._ticks.values())

    def dues(self) -> dict[str, list[str]]:
        """The instants entered, by monitor."""
        return {book.name: sorted(book.accounts) for book in self.books.values()}

    def _read_monitors(self) -> None:
        rows = self._file.execute("SELECT id, name, job, created, watermark FROM monitors").fetchall()
        for book_id, name, job, created, watermark in rows:
            book = self.books.get(book_id)
            if book is None:
                book = self.books[book_id] = _Book(
                    name=name, section=json.loads(job)["monitor"], created=datetime.fromisoformat(created)
                )
            book.watermark = watermark
        for book_id in self.books.keys() - {row[0] for row in rows}:
            self.books[book_id].removed = True

    def _changed(self, before: _Tick | None, tick: _Tick, time: float) -> None:
        book, at = self.books[tick.monitor_id], datetime.fromisoformat(tick.due)
        if before is None:
            if tick.due in book.accounts:
                raise BrokenError(f"{book.name} is run again for {tick.due}")
            if tick.state == "skipped" and not (book.section["overlapping"] == "skip" and self._running(tick)):
                raise BrokenError(f"{book.name} skips {tick.due}, and nothing was in its way")
            self.entered += tick.state != "skipped"
            self._take_from_folded(book, at)
            self._beats[tick.number] = time
        else:
            self._moved(book, before, tick, time)
        book.accounts[tick.due] = _Account(datetime.fromisoformat(tick.first), at, tick.missed)

    def _moved(self, book: _Book, before: _Tick, tick: _Tick, time: float) -> None:
        if (before.due, before.monitor_id) != (tick.due, tick.monitor_id):
            raise BrokenError(f"{book.name}: a tick has become another")
        if before.state not in ("running", tick.state) and (before.state, tick.state) != ("failed", "running"):
            raise BrokenError(f"{book.name}: a tick that was {before.state} is {tick.state}")
        if before.state == "failed" and tick.state == "running" and before.next_try is None:
            raise BrokenError(f"{book.name}: a tick is tried again that was not to be")
        taken = before.state == tick.state == "running" and before.holder != tick.holder
        if taken and None not in (before.holder, tick.holder) and time - self._beats[tick.number] < self._stale_s:
            raise BrokenError(f"{book.name}: a tick was taken from one who lives")
        if tick.state == "replaced" and before.state != "replaced" and book.section["overlapping"] != "replace":
            raise BrokenError(f"{book.name} has no reason to replace a tick")
        if before.beat != tick.beat:
            self._beats[tick.number] = time
        if before.state == "running" and tick.state in ("done", "nothing"):
            book.ended[tick.due] += 1

    def _gone(self, tick: _Tick) -> None:
        book = self.books[tick.monitor_id]
        if book.removed:
            return
        if tick.state == "running" or tick.next_try is not None:
            raise BrokenError(f"{book.name}: a tick is forgotten that was {tick.state}")
        book.accounts[tick.due].folded = True

    def _running(self, tick: _Tick) -> bool:
        return any(one.monitor_id == tick.monitor_id and one.state == "running" for one in self._ticks.values())

    def _take_from_folded(self, book: _Book, at: datetime) -> None:
        """A tick that is folded is not amended any more; what is entered before it speaks for itself."""
        for account in book.accounts.values():
            if account.folded and account.first <= at < account.at:
                account.first = at + timedelta(microseconds=1)

    # In the end -------------------------------------------------------------------------------------------------------

    def check(self, until: datetime) -> int:
        """Each instant that was due is some tick's, and of one alone; gives how many there were.

        Args:
            until: instants after this may still be open.

        Raises:
            BrokenError: it is not so.
        """
        count = 0
        for book in self.books.values():
            if book.removed:
                continue
            if twice := [due for due, times in book.ended.items() if times > 1]:
                raise BrokenError(f"{book.name} ended twice: {twice}")
            count += self._check_instants(book, until)
        return count

    def _check_instants(self, book: _Book, until: datetime) -> int:
        instants = instants_of(book.section, book.created, until)
        for instant in instants:
            whose = [due for due, one in book.accounts.items() if one.first <= instant <= one.at]
            if len(whose) != 1:
                raise BrokenError(f"{book.name}: {instant} is the business of {whose or 'nobody'}")
        known = set(instants)
        for due, one in book.accounts.items():
            if one.folded or not (book.created < one.first and one.at <= until):
                continue
            earlier = sum(one.first <= instant < one.at for instant in known)
            if earlier != one.missed or (one.missed and one.first not in known):
                raise BrokenError(f"{book.name}: {due} says it stands for {one.missed} more, and it does for {earlier}")
            self.caught_up += one.missed
        return len(instants)


def instants_of(section: dict[str, str], since: datetime, until: datetime) -> list[datetime]:
    """When ticks are due after the one and not after the other."""
    text = section["schedule"]
    if not text.startswith("every"):
        return due_between(text, section["timezone"], since, until)
    seconds = int(text.split()[1][:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
    first = int(since.timestamp()) // seconds + 1
    last = int(until.timestamp()) // seconds
    return [datetime.fromtimestamp(n * seconds, UTC) for n in range(first, last + 1)]
