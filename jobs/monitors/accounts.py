"""The books of a monitor's ticks, within one transaction: what is settled, and who answers for which instant.

The ticks of a monitor divide time among themselves: each stands for the instants after the tick before it, up to its
own. One that is entered before another takes what is its own out of the account of that other: a catch-up of a clock
that was ahead had stood for it before it came.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from jobs.monitors.rows import (
    ALERTS,
    COUNTED,
    MONITORS,
    TICKS,
    MonitorRow,
    TickEnd,
    TickRow,
    text_of,
    tick_of,
    values_of,
)
from mapper.errors import told

KEPT_EMPTY = 100
"""Ticks of a monitor that mapped nothing and are kept in its history."""

KEPT_RUNS = 5000
"""Ticks that have a run, and are kept: the runs themselves are told of beside the mosaic."""

MOST_SPANS = 64
"""Of settled instants that no tick tells of. A clock that leaps, or a machine that is off, makes one more. Of too many
the nearest two are joined: on a clock that goes back to between those, no tick would be due."""

FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=60), timedelta(hours=1)
"""Before a failed tick is tried again: doubled each time, up to the second."""

LONGEST_SAID = 2000


def running_tick(connection: sa.Connection, row: MonitorRow) -> TickRow | None:
    """The tick at work."""
    return _one(connection, TICKS.c.monitor_id == row.id, TICKS.c.state == "running")


def tick_at(connection: sa.Connection, row: MonitorRow, due: datetime) -> TickRow | None:
    """The tick of an instant."""
    return _one(connection, TICKS.c.monitor_id == row.id, TICKS.c.due == text_of(due))


def settled(connection: sa.Connection, row: MonitorRow, now: datetime) -> datetime | None:
    """The latest settled instant that has come by now; None where the clock is before all of them."""
    return settled_of_all(connection, [row], now)[row.id]


def settled_of_all(connection: sa.Connection, rows: Sequence[MonitorRow], now: datetime) -> dict[str, datetime | None]:
    """The same of several monitors, by their ids."""
    wanted = sa.select(TICKS.c.monitor_id, sa.func.max(TICKS.c.due)).where(TICKS.c.due <= text_of(now))
    wanted = wanted.where(TICKS.c.monitor_id.in_([row.id for row in rows])).group_by(TICKS.c.monitor_id)
    entered = {of: datetime.fromisoformat(due) for of, due in connection.execute(wanted)}
    folded = {row.id: [min(end, now) for begin, end in row.spans if begin <= now] for row in rows}
    return {
        row.id: max([*folded[row.id], *([entered[row.id]] if row.id in entered else [])], default=None) for row in rows
    }


def enter(connection: sa.Connection, row: MonitorRow, at: datetime, now: datetime, **values: Any) -> TickRow | None:
    """Enter the tick of an instant that has none; None where it is settled all the same."""
    since = settled(connection, row, at)
    if since is None or since == at:
        return None
    due = row.schedule.standing_for(since, at)
    known = {"attempts": 1, "beat": 0, "said": "", "began": text_of(now)} | values
    connection.execute(
        sa.insert(TICKS).values(
            monitor_id=row.id, monitor=row.name, due=text_of(at), first=text_of(due.first), missed=due.missed, **known
        )
    )
    _take_from_the_next(connection, row, at)
    mine = TICKS.c.monitor_id == row.id
    connection.execute(sa.update(TICKS).where(mine, TICKS.c.state == "failed").values(next_try=None))
    connection.execute(sa.update(MONITORS).where(MONITORS.c.id == row.id).values(asked=None))
    return tick_at(connection, row, at)


def take(connection: sa.Connection, tick: TickRow, holder: str) -> TickRow | None:
    """Give a tick that was left, or has failed, to another holder."""
    change(connection, tick, state="running", holder=holder, beat=tick.beat + 1, attempts=tick.attempts + 1,
           ended=None, next_try=None, stop_asked=None)  # fmt: skip
    return _one(connection, TICKS.c.number == tick.number)


def end(connection: sa.Connection, row: MonitorRow, tick: TickRow, said: TickEnd, now: datetime) -> TickRow | None:
    """Enter how a tick ended, and what it saw. One that stopped unasked is left for the next to take up."""
    values = values_of(said) | {"said": told(said.said, LONGEST_SAID)}
    retryable, seen = values.pop("retryable"), {name: values.pop(name) for name in ("watermark", "swept")}
    if said.state == "stopped" and tick.stop_asked is None:
        change(connection, tick, **(values | {"state": "running", "holder": None}))
        return tick_at(connection, row, tick.due)
    if said.state == "stopped":
        values["state"] = "replaced"
    elif said.state == "failed" and retryable and tick.stop_asked is None:
        values["next_try"] = text_of(now + wait_before_retry(tick.attempts))
    change(connection, tick, ended=text_of(now), **values)
    if kept := {name: value for name, value in seen.items() if value is not None}:
        connection.execute(sa.update(MONITORS).where(MONITORS.c.id == row.id).values(**kept))
    fold(connection, row)
    return tick_at(connection, row, tick.due)


def replaced(connection: sa.Connection, tick: TickRow, now: datetime) -> None:
    """Enter that a tick made way which nobody has at work any more."""
    change(connection, tick, state="replaced", ended=text_of(now), said="made way before it was done")


def change(connection: sa.Connection, tick: TickRow, **values: Any) -> None:
    """Set columns of one."""
    connection.execute(sa.update(TICKS).where(TICKS.c.number == tick.number).values(**values))


def wait_before_retry(attempts: int) -> timedelta:
    """After a tick has failed so often."""
    doubled: int = 2 ** min(attempts - 1, 20)
    return min(FIRST_WAIT * doubled, LONGEST_WAIT)


def tried_again(tick: TickRow, now: datetime) -> bool:
    """Whether a failed tick is to be tried again by now: one that a clock which was wrong put off longer is, too."""
    return tick.next_try is not None and not now < tick.next_try <= now + LONGEST_WAIT


def begin_at(connection: sa.Connection, row: MonitorRow, now: datetime) -> None:
    """Count from now on, on a clock that is before all that is settled."""
    _keep(connection, row, [(now, now), *row.spans])


def fold(connection: sa.Connection, row: MonitorRow) -> None:
    """Forget the ticks of long ago; that they are settled is kept."""
    ended = sa.select(TICKS).where(TICKS.c.monitor_id == row.id, TICKS.c.state != "running", TICKS.c.next_try.is_(None))
    old = [
        tick_of(found)
        for with_run, kept in ((TICKS.c.run.is_(None), KEPT_EMPTY), (TICKS.c.run.is_not(None), KEPT_RUNS))
        for found in connection.execute(ended.where(with_run).order_by(TICKS.c.number.desc()).offset(kept)).mappings()
    ]
    if not old:
        return
    spans = list(row.spans)
    for tick in sorted(old, key=lambda tick: tick.due):
        spans = _with(connection, row, spans, tick.due)
    for tick in old:
        connection.execute(sa.delete(TICKS).where(TICKS.c.number == tick.number))
        of_it = sa.and_(ALERTS.c.monitor == row.name, ALERTS.c.due == text_of(tick.due))
        connection.execute(sa.delete(ALERTS).where(of_it, ALERTS.c.delivered.is_not(None)))
    _keep(connection, row, spans, folded=row.folded + len(old), sums=json.dumps(_summed(row, old)))


def _summed(row: MonitorRow, old: Sequence[TickRow]) -> Counter[str]:
    """What is still told of ticks that are forgotten."""
    sums = Counter(row.sums)
    for tick in old:
        sums[tick.state] += 1
        sums.update({name: value for name in COUNTED if (value := getattr(tick, name)) is not None})
    return sums


Span = tuple[datetime, datetime]


def _with(connection: sa.Connection, row: MonitorRow, spans: list[Span], at: datetime) -> list[Span]:
    """The spans with one more instant in them."""
    if any(begin <= at <= until for begin, until in spans):
        return spans
    before = [span for span in spans if span[1] < at]
    rest = [span for span in spans if span[1] > at]
    if before:
        between = sa.and_(TICKS.c.due > text_of(before[-1][1]), TICKS.c.due <= text_of(at))
        gaps = sa.select(sa.func.count()).where(TICKS.c.monitor_id == row.id, between, TICKS.c.missed > 0)
        if connection.scalar(gaps) == 0:
            return [*before[:-1], (before[-1][0], at), *rest]
    return [*before, (at, at), *rest]


def _keep(connection: sa.Connection, row: MonitorRow, spans: list[Span], **values: Any) -> None:
    spans = sorted(spans)
    while len(spans) > MOST_SPANS:
        gaps = [after[0] - before[1] for before, after in pairwise(spans)]
        nearest = gaps.index(min(gaps))
        spans[nearest : nearest + 2] = [(spans[nearest][0], spans[nearest + 1][1])]
    text = json.dumps([[text_of(begin), text_of(until)] for begin, until in spans])
    connection.execute(sa.update(MONITORS).where(MONITORS.c.id == row.id).values(spans=text, **values))


def _take_from_the_next(connection: sa.Connection, row: MonitorRow, at: datetime) -> None:
    later = sa.select(TICKS).where(TICKS.c.monitor_id == row.id, TICKS.c.due > text_of(at))
    found = connection.execute(later.order_by(TICKS.c.due).limit(1)).mappings().first()
    if found is not None and (after := tick_of(found)).first <= at:
        left = row.schedule.standing_for(at, after.due)
        change(connection, after, first=text_of(left.first), missed=left.missed)


def _one(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> TickRow | None:
    found = connection.execute(sa.select(TICKS).where(*where).order_by(TICKS.c.number)).mappings().first()
    return None if found is None else tick_of(found)
