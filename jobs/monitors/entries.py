"""The registry's table of monitors, within one transaction: each by its name, its mosaic no other's."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from catalogs.hrefs import unsigned
from jobs.monitors.rows import ALERTS, MONITORS, TICKS, MonitorRow, monitor_of, text_of
from jobs.stac.provenance import clean
from mapper.errors import QuestionError, SpecError


def new(name: str, *, job: str, mosaic: str, at: datetime) -> dict[str, Any]:
    """The columns of a monitor that begins at an instant.

    Raises:
        SpecError: its name is no line, or its schedule is none.
    """
    if not name or len(name) > 100 or not name.isprintable():
        raise SpecError("a monitor's name is one line of 1 to 100 characters", fix="give the job another name")
    values = {
        "id": uuid.uuid4().hex, "name": name, "job": job, "mosaic": unsigned(mosaic), "place": _place(mosaic),
        "state": "active", "created": text_of(at), "watermark": None, "swept": None, "asked": None,
        "spans": json.dumps([[text_of(at)] * 2]), "folded": 0, "sums": "{}",
    }  # fmt: skip
    _ = monitor_of(values).schedule  # refused here, not at the first tick
    return values


def enter(connection: sa.Connection, values: Mapping[str, Any]) -> MonitorRow:
    """Enter a monitor.

    Raises:
        SpecError: its name or its mosaic is another monitor's.
    """
    name = values["name"]
    same = sa.or_(MONITORS.c.name == name, MONITORS.c.place == values["place"])
    for other in connection.scalars(sa.select(MONITORS.c.name).where(same)):
        raise SpecError(
            f"there is a monitor {name!r} already"
            if other == name
            else f"monitor {other!r} already keeps this mosaic current, and two would undo one another's work",
            fix=f"`resmap monitor remove {other}` first, or give the job another "
            + ("name" if other == name else "output.mosaic"),
            mosaic=values["mosaic"],
        )
    connection.execute(sa.insert(MONITORS).values(**values))
    return monitor_of(values)


def every(connection: sa.Connection) -> list[MonitorRow]:
    """All monitors, by name."""
    return [monitor_of(row) for row in connection.execute(sa.select(MONITORS).order_by(MONITORS.c.name)).mappings()]


def find(connection: sa.Connection, name: str) -> MonitorRow | None:
    """The monitor of this name."""
    found = connection.execute(sa.select(MONITORS).where(MONITORS.c.name == name)).mappings().first()
    return None if found is None else monitor_of(found)


def get(connection: sa.Connection, name: str) -> MonitorRow:
    """The monitor of this name.

    Raises:
        QuestionError: there is none.
    """
    if (found := find(connection, name)) is None:
        raise QuestionError(f"no monitor is named {name!r}", fix="`resmap monitor list` names them all")
    return found


def told(connection: sa.Connection, name: str) -> dict[str, Any]:
    """All that is known of a monitor, as JSON has it, without what opens a store or a webhook.

    Raises:
        QuestionError: there is none.
    """
    row = get(connection, name)
    values = connection.execute(sa.select(MONITORS).where(MONITORS.c.id == row.id)).mappings().one()
    ticks = sa.select(TICKS).where(TICKS.c.monitor_id == row.id).order_by(TICKS.c.number)
    alerts = sa.select(ALERTS).where(ALERTS.c.monitor == name).order_by(ALERTS.c.created, ALERTS.c.key)
    return {
        **values,
        "job": clean(json.loads(row.job)),
        "spans": json.loads(values["spans"]),
        "sums": json.loads(values["sums"]),
        "ticks": [dict(one) for one in connection.execute(ticks).mappings()],
        "alerts": [{**one, "body": json.loads(one["body"])} for one in connection.execute(alerts).mappings()],
    }


def _place(mosaic: str) -> str:
    """A mosaic's address in one form, so that two ways to write it are one."""
    url = unsigned(mosaic).rstrip("/")
    local = url.removeprefix("file://")
    return url if "://" in local else os.path.realpath(local)
