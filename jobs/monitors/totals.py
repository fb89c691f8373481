"""What monitors have done so far, added up in the registry itself: the list of monitors asks it every few seconds."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from jobs.monitors.rows import ALERTS, COUNTED, MONITORS, TICKS, TickRow, tick_of
from jobs.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of one monitor, over all its ticks: those that its history has no longer, too."""

    ticks: Mapping[str, int] = field(default_factory=dict)
    """Those that are over, by state."""

    counts: Mapping[str, int | None] = field(default_factory=dict)
    """New, changed and gone items, those set aside, tiles mapped; None where no tick has counted."""

    last: TickRow | None = None
    """The tick that was due last."""

    knew: TickRow | None = None
    """The tick that was due last of those that looked and knew."""

    alerts_waiting: int = 0
    alerts_tried: int = 0
    """Of those that wait, sent and not taken."""

    alerts_given_up: int = 0
    alerts_delivered: int = 0
    alert_error: str = ""
    """Why one of those was not taken."""


def totals(registry: Registry) -> dict[str, Totals]:
    """Name of each monitor that has a tick or an alert → what it has done."""
    with registry.reading() as connection:
        states, counts = _by_state(connection)
        last = _latest(connection, sa.true())
        knew = _latest(connection, TICKS.c.state.in_(("done", "nothing")))
        alerts = _alerts(connection)
    return {
        name: replace(
            alerts.get(name, Totals()),
            ticks=states.get(name, {}),
            counts=counts.get(name, {}),
            last=last.get(name),
            knew=knew.get(name),
        )
        for name in {*states, *last, *alerts}
    }


def _by_state(connection: sa.Connection) -> tuple[dict[str, Counter[str]], dict[str, dict[str, int | None]]]:
    columns = [sa.func.sum(TICKS.c[name]).label(name) for name in COUNTED]
    wanted = sa.select(TICKS.c.monitor, TICKS.c.state, sa.func.count().label("ticks"), *columns)
    states: dict[str, Counter[str]] = defaultdict(Counter)
    counts: dict[str, dict[str, int | None]] = defaultdict(lambda: dict.fromkeys(COUNTED))
    for row in connection.execute(wanted.group_by(TICKS.c.monitor, TICKS.c.state)).mappings():
        if row["state"] != "running":
            states[row["monitor"]][row["state"]] = int(row["ticks"])
        _add(counts[row["monitor"]], dict(row))
    for forgotten in connection.execute(sa.select(MONITORS.c.name, MONITORS.c.sums)).mappings():
        name, sums = forgotten["name"], json.loads(forgotten["sums"])
        states[name].update({state: many for state, many in sums.items() if state not in COUNTED})
        _add(counts[name], sums)
    return states, counts


def _add(counts: dict[str, int | None], more: Mapping[str, Any]) -> None:
    for name in COUNTED:
        if (value := more.get(name)) is not None:
            counts[name] = (counts[name] or 0) + int(value)


def _latest(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, TickRow]:
    newest = sa.select(TICKS.c.monitor, sa.func.max(TICKS.c.due).label("due")).where(which).group_by(TICKS.c.monitor)
    found = newest.subquery()
    same = sa.and_(TICKS.c.monitor == found.c.monitor, TICKS.c.due == found.c.due)
    rows = connection.execute(sa.select(TICKS).join(found, same)).mappings()
    return {row["monitor"]: tick_of(row) for row in rows}


def _alerts(connection: sa.Connection) -> dict[str, Totals]:
    """Name of each monitor that has alerts → how they stand; nothing else of it."""
    open_, tried = ALERTS.c.delivered.is_(None), ALERTS.c.attempts > 0
    given_up = sa.and_(open_, tried, ALERTS.c.next_try.is_(None))
    waits = sa.and_(open_, sa.not_(given_up))

    def many(which: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((which, 1), else_=0))

    wanted = sa.select(
        ALERTS.c.monitor,
        many(waits).label("waiting"),
        many(sa.and_(waits, tried)).label("tried"),
        many(given_up).label("given_up"),
        many(ALERTS.c.delivered.is_not(None)).label("delivered"),
        sa.func.max(sa.case((open_, ALERTS.c.error), else_="")).label("error"),
    ).group_by(ALERTS.c.monitor)
    return {
        row["monitor"]: Totals(
            alerts_waiting=int(row["waiting"]),
            alerts_tried=int(row["tried"]),
            alerts_given_up=int(row["given_up"]),
            alerts_delivered=int(row["delivered"]),
            alert_error=str(row["error"]),
        )
        for row in connection.execute(wanted).mappings()
    }
