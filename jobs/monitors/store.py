"""Monitors, their ticks and the alerts that wait, in the registry: each step is one transaction.

    running ──▶ done · nothing · failed · replaced          failed ──▶ running, where it is tried again
       ╰──▶ running, under another holder                   (an instant may also be entered as skipped)

**Clocks.** What is due is judged by the clock of whoever asks. It is the last instant that has come, unless that is
settled, and it stands for all after the latest settled instant *that has come on this clock*. So the ticks of a clock
that was years ahead do not hold up those of today once it is right again. And no instant is ever run twice, for the
early ones are in the books: ``accounts.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from jobs.monitors import accounts, entries, outbox
from jobs.monitors.beats import Beat
from jobs.monitors.lead import Lead
from jobs.monitors.rows import (
    ALERTS,
    MONITORS,
    TICKS,
    AlertRow,
    MonitorRow,
    TickEnd,
    TickRow,
    monitor_of,
    text_of,
    tick_of,
)
from jobs.monitors.schedule import Due
from jobs.registry import Registry
from mapper.errors import BusyError

__all__ = ["AlertRow", "Claimed", "MonitorRow", "Monitors", "Standing", "TickEnd", "TickRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A tick that is ours to run."""

    row: MonitorRow
    tick: TickRow
    due: Due
    """As it stands in the books: the instants it stands for are those that nobody else does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How it stands with a monitor, at an instant."""

    row: MonitorRow
    since: datetime | None
    """The latest settled instant that has come; None where the clock is before all of them."""

    running: TickRow | None
    retry: TickRow | None
    """A failed tick that is to be tried again some time."""


class Monitors:
    """All that the registry knows of monitors. Threads and processes may share one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.lead = Lead(registry)
        """Who leads those that serve."""

    # Monitors ---------------------------------------------------------------------------------------------------------

    def add(self, name: str, *, job: str, mosaic: str, now: datetime | None = None) -> MonitorRow:
        """Enter a monitor; its first tick is the first that is due from now on.

        Args:
            name: one line.
            job: as JSON, the monitor section with it, all paths absolute.
            mosaic: URL of what it keeps current.
            now: the clock's reading.

        Raises:
            SpecError: its name or its mosaic is another monitor's, or its schedule is none.
        """
        values = entries.new(name, job=job, mosaic=mosaic, at=now or datetime.now(UTC))
        with self._registry.writing(alone=MONITORS) as connection:
            return entries.enter(connection, values)

    def find(self, name: str) -> MonitorRow | None:
        """The monitor of this name."""
        with self._registry.reading() as connection:
            return entries.find(connection, name)

    def get(self, name: str) -> MonitorRow:
        """The monitor of this name.

        Raises:
            QuestionError: there is none.
        """
        with self._registry.reading() as connection:
            return entries.get(connection, name)

    def all(self) -> list[MonitorRow]:
        """All monitors, by name."""
        with self._registry.reading() as connection:
            return entries.every(connection)

    def pause(self, name: str) -> MonitorRow:
        """Have no tick of it begin; one at work goes on."""
        return self._change(name, state="paused")

    def resume(self, name: str) -> MonitorRow:
        """Have its ticks go on: those that were missed catch up once."""
        return self._change(name, state="active")

    def ask(self, name: str, *, now: datetime | None = None) -> MonitorRow:
        """Ask for a tick beyond its schedule, of whoever serves."""
        return self._change(name, asked=text_of(now or datetime.now(UTC)))

    def saw(self, name: str, watermark: datetime | None, swept: datetime | None) -> MonitorRow:
        """Keep up to where the catalog was seen; None leaves what there is."""
        seen = {"watermark": watermark, "swept": swept}
        return self._change(name, **{column: text_of(at) for column, at in seen.items() if at is not None})

    def remove(self, name: str) -> bool:
        """Forget a monitor and its ticks; the mosaic stays. One at work is asked to stop.

        Returns:
            Whether one is at work: it is forgotten when it has stopped.

        Raises:
            QuestionError: there is none.
        """
        with self._registry.writing(alone=MONITORS) as connection:
            row = entries.get(connection, name)
            connection.execute(sa.delete(MONITORS).where(MONITORS.c.id == row.id))
            held = sa.and_(TICKS.c.monitor_id == row.id, TICKS.c.state == "running", TICKS.c.holder.is_not(None))
            asked = sa.update(TICKS).where(held, TICKS.c.stop_asked.is_(None))
            connection.execute(asked.values(stop_asked=text_of(datetime.now(UTC))))
            connection.execute(sa.delete(TICKS).where(TICKS.c.monitor_id == row.id, sa.not_(held)))
            connection.execute(sa.delete(ALERTS).where(ALERTS.c.monitor == name))
            return connection.scalar(sa.select(sa.func.count()).where(held)) != 0

    def _change(self, name: str, **values: Any) -> MonitorRow:
        with self._registry.writing(alone=MONITORS) as connection:
            row = entries.get(connection, name)
            if values:
                connection.execute(sa.update(MONITORS).where(MONITORS.c.id == row.id).values(**values))
            return entries.get(connection, name)

    def export(self, name: str) -> dict[str, Any]:
        """All that is known of a monitor, as JSON has it, without what opens a store or a webhook."""
        with self._registry.reading() as connection:
            return entries.told(connection, name)

    # Ticks ------------------------------------------------------------------------------------------------------------

    def standing(self, now: datetime) -> tuple[list[Standing], list[TickRow]]:
        """How it stands with each monitor on a clock that shows this; and ticks at work whose monitor was removed."""
        again = sa.and_(TICKS.c.state == "failed", TICKS.c.next_try.is_not(None))
        with self._registry.reading() as connection:
            rows = entries.every(connection)
            found = connection.execute(sa.select(TICKS).where(sa.or_(TICKS.c.state == "running", again))).mappings()
            ticks = {(tick.monitor_id, tick.state): tick for tick in map(tick_of, found)}
            since = accounts.settled_of_all(connection, rows, now)
        standings = [
            Standing(
                row=row, since=since[row.id],
                running=ticks.pop((row.id, "running"), None), retry=ticks.pop((row.id, "failed"), None),
            )
            for row in rows
        ]  # fmt: skip
        return standings, list(ticks.values())

    def begin_at(self, name: str, now: datetime) -> None:
        """Count from now on, on a clock that is before all that is settled: it was wrong then, or is now."""
        with self._registry.writing(alone=MONITORS) as connection:
            row = entries.find(connection, name)
            if row is not None and accounts.settled(connection, row, now) is None:
                accounts.begin_at(connection, row, now)

    def claim(
        self, name: str, due: Due, holder: str, *, now: datetime | None = None, stood: Beat | None = None
    ) -> Claimed | None:
        """Take a tick: enter it, take it up where it was left, or try again what failed.

        Args:
            name: of an active monitor.
            due: when it is due. For which instants it stands is reckoned here, from the books.
            holder: who takes it: no two takings have one name.
            now: the clock's reading.
            stood: the beat that was seen to stand still, of the tick that is at work.

        Returns:
            None where another has it or is at work on another, or it is settled.
        """
        at = now or datetime.now(UTC)
        with self._registry.writing(alone=MONITORS) as connection:
            row = entries.find(connection, name)
            if row is None or row.state != "active":
                return None
            tick = accounts.running_tick(connection, row)
            if tick is None:
                tick = accounts.tick_at(connection, row, due.at)
                if tick is None:
                    tick = accounts.enter(connection, row, due.at, at, state="running", holder=holder)
                else:
                    tick = accounts.take(connection, tick, holder) if accounts.tried_again(tick, at) else None
            elif tick.due != due.at or (tick.holder is not None and Beat(tick.holder, tick.beat) != stood):
                tick = None
            elif tick.stop_asked is not None:  # whoever was asked is gone
                accounts.replaced(connection, tick, at)
                tick = None
            else:
                tick = accounts.take(connection, tick, holder)
            account = None if tick is None else Due(at=tick.due, missed=tick.missed, first=tick.first)
            return None if tick is None or account is None else Claimed(row=row, tick=tick, due=account)

    def skip(self, name: str, due: Due, *, now: datetime | None = None) -> TickRow | None:
        """Enter a tick as skipped, because the last is at work; None where it is settled, or none is at work."""
        at = now or datetime.now(UTC)
        with self._registry.writing(alone=MONITORS) as connection:
            row = entries.find(connection, name)
            if row is None or accounts.running_tick(connection, row) is None:
                return None
            if accounts.tick_at(connection, row, due.at) is not None:
                return None
            said = "the last tick was still at work"
            tick = accounts.enter(connection, row, due.at, at, state="skipped", ended=text_of(at), said=said)
            accounts.fold(connection, row)
            return tick

    def beat(self, tick: TickRow) -> TickRow:
        """Say that its holder lives. Gives it as it stands: whether it was asked to stop.

        Raises:
            BusyError: another has taken it; nothing more may come of ours.
        """
        ours = sa.and_(TICKS.c.number == tick.number, TICKS.c.holder == tick.holder, TICKS.c.state == "running")
        with self._registry.writing() as connection:
            connection.execute(sa.update(TICKS).where(ours).values(beat=TICKS.c.beat + 1))
            found = connection.execute(sa.select(TICKS).where(ours)).mappings().first()
            if found is None:
                raise _lost(tick)
            return tick_of(found)

    def finish(self, tick: TickRow, end: TickEnd, *, now: datetime | None = None) -> TickRow | None:
        """Enter how a tick ended, and what was seen, in one.

        Args:
            tick: as it was claimed.
            end: what came of it. One that stopped before its end is left for the next to take up, unless it was asked
                to make way.
            now: the clock's reading.

        Returns:
            As it stands now; None where its monitor was removed: nothing of it is kept.

        Raises:
            BusyError: another has taken it; nothing is changed.
        """
        with self._registry.writing(alone=MONITORS) as connection:
            found = connection.execute(sa.select(TICKS).where(TICKS.c.number == tick.number)).mappings().first()
            if found is None or found["holder"] != tick.holder:
                raise _lost(tick)
            if found["state"] != "running":  # it was entered, and the answer was lost
                return tick_of(found)
            values = connection.execute(sa.select(MONITORS).where(MONITORS.c.id == tick.monitor_id)).mappings().first()
            if values is None:
                connection.execute(sa.delete(TICKS).where(TICKS.c.number == tick.number))
                return None
            return accounts.end(connection, monitor_of(values), tick_of(found), end, now or datetime.now(UTC))

    def ask_stop(self, name: str, *, now: datetime | None = None) -> bool:
        """Ask the tick at work to stop and make way. Whether there was one that was not asked before."""
        at = now or datetime.now(UTC)
        with self._registry.writing(alone=MONITORS) as connection:
            tick = accounts.running_tick(connection, entries.get(connection, name))
            if tick is None or tick.stop_asked is not None:
                return False
            if tick.holder is None:
                accounts.replaced(connection, tick, at)
            else:
                accounts.change(connection, tick, stop_asked=text_of(at))
            return True

    def bury(self, tick: TickRow, stood: Beat) -> None:
        """Forget the tick of a removed monitor, whose holder was seen to be gone."""
        still = sa.and_(TICKS.c.holder == stood.holder, TICKS.c.beat == stood.number)
        with self._registry.writing() as connection:
            connection.execute(sa.delete(TICKS).where(TICKS.c.number == tick.number, still))

    def history(self, name: str, last: int = 20) -> list[TickRow]:
        """Its latest ticks, the last entered first. Those of long ago with nothing in them are not kept."""
        with self._registry.reading() as connection:
            row = entries.get(connection, name)
            wanted = sa.select(TICKS).where(TICKS.c.monitor_id == row.id).order_by(TICKS.c.number.desc()).limit(last)
            return [tick_of(one) for one in connection.execute(wanted).mappings()]

    # Alerts -----------------------------------------------------------------------------------------------------------

    def enqueue(self, alerts: Sequence[AlertRow]) -> int:
        """Enter alerts that are to be delivered; a key that is there is left as it is. How many were new."""
        with self._registry.writing() as connection:
            return outbox.enqueue(connection, alerts)

    def waiting(self, now: datetime) -> list[AlertRow]:
        """Alerts that are to be delivered now, the oldest first."""
        with self._registry.reading() as connection:
            return outbox.waiting(connection, now)

    def alerts(self, name: str, last: int = 100) -> list[AlertRow]:
        """The latest alerts of a monitor, delivered or not, the last first."""
        with self._registry.reading() as connection:
            return outbox.latest(connection, name, last)

    def alert_keys(self, begin: str = "") -> list[str]:
        """Keys of alerts that begin so, delivered or not, in the order in which they were entered."""
        with self._registry.reading() as connection:
            wanted = sa.select(ALERTS.c.key).where(ALERTS.c.key.startswith(begin, autoescape=True))
            return list(connection.scalars(wanted.order_by(ALERTS.c.created, ALERTS.c.key)))

    def delivered(self, key: str, *, now: datetime | None = None) -> None:
        """Enter that somebody took an alert."""
        with self._registry.writing() as connection:
            outbox.tried(connection, key, delivered=now or datetime.now(UTC))

    def failed(self, key: str, error: str, next_try: datetime | None) -> None:
        """Enter that nobody took it, and when it is tried again; None: it is given up."""
        with self._registry.writing() as connection:
            outbox.tried(connection, key, error=error, next_try=next_try)


def _lost(tick: TickRow) -> BusyError:
    return BusyError(
        "another has taken this tick over, or it is settled: this one was away for too long",
        fix="nothing is lost; `resmap monitor history` shows who has it",
        monitor=tick.monitor,
        due=tick.due.isoformat(),
    )
