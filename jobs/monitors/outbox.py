"""Alerts that wait in the registry, within one transaction: each key once, tried till somebody takes it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobs.monitors.rows import ALERTS, AlertRow, alert_of, text_of, values_of
from mapper.errors import told

LONGEST_WAIT = timedelta(days=1)
"""What is to be tried again later than this was put off by a clock that was wrong, and is tried now."""

LONGEST_ERROR = 2000


def enqueue(connection: sa.Connection, alerts: Iterable[AlertRow]) -> int:
    """Enter them; a key that is there is left as it is. How many were new."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    new = 0
    for alert in alerts:
        entered = make(ALERTS).values(**values_of(alert)).on_conflict_do_nothing(index_elements=["key"])
        new += connection.execute(entered.returning(ALERTS.c.key)).first() is not None
    return new


def waiting(connection: sa.Connection, now: datetime) -> list[AlertRow]:
    """Those that are to be tried now, the oldest first."""
    tried, late = ALERTS.c.next_try <= text_of(now), ALERTS.c.next_try > text_of(now + LONGEST_WAIT)
    due = sa.or_(ALERTS.c.attempts == 0, tried, late)
    wanted = sa.select(ALERTS).where(ALERTS.c.delivered.is_(None), due).order_by(ALERTS.c.created, ALERTS.c.key)
    return [alert_of(row) for row in connection.execute(wanted).mappings()]


def latest(connection: sa.Connection, monitor: str, last: int) -> list[AlertRow]:
    """The last entered of a monitor, the last first."""
    wanted = sa.select(ALERTS).where(ALERTS.c.monitor == monitor)
    rows = connection.execute(wanted.order_by(ALERTS.c.created.desc(), ALERTS.c.key.desc()).limit(last)).mappings()
    return [alert_of(row) for row in rows]


def tried(
    connection: sa.Connection,
    key: str,
    *,
    error: str = "",
    next_try: datetime | None = None,
    delivered: datetime | None = None,
) -> None:
    """Enter an attempt. One that nobody took and that has no next is given up; one that was taken stays so."""
    values: dict[str, Any] = {
        "attempts": ALERTS.c.attempts + 1,
        "error": told(error, LONGEST_ERROR),
        "next_try": None if next_try is None else text_of(next_try),
        "delivered": None if delivered is None else text_of(delivered),
    }
    connection.execute(sa.update(ALERTS).where(ALERTS.c.key == key, ALERTS.c.delivered.is_(None)).values(**values))
