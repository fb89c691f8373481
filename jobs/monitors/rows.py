"""What the registry holds of monitors: its tables, and their rows as values.

Instants are kept as text of one form, so that their order is that of time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from jobs.monitors.schedule import Schedule
from jobs.registry import META

MonitorState: TypeAlias = Literal["active", "paused"]
TickState: TypeAlias = Literal["running", "done", "nothing", "failed", "skipped", "replaced"]
Overlapping: TypeAlias = Literal["skip", "queue", "replace"]

MONITORS = sa.Table(
    "monitors",
    META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("mosaic", sa.String, nullable=False),
    sa.Column("place", sa.String, nullable=False, unique=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("watermark", sa.String),
    sa.Column("swept", sa.String),
    sa.Column("asked", sa.String),
    sa.Column("spans", sa.Text, nullable=False),
    sa.Column("folded", sa.Integer, nullable=False),
    sa.Column("sums", sa.Text, nullable=False),
)
TICKS = sa.Table(
    "ticks",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("monitor_id", sa.String, nullable=False),
    sa.Column("monitor", sa.String, nullable=False),
    sa.Column("due", sa.String, nullable=False),
    sa.Column("first", sa.String, nullable=False),
    sa.Column("missed", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("holder", sa.String),
    sa.Column("beat", sa.Integer, nullable=False),
    sa.Column("stop_asked", sa.String),
    sa.Column("next_try", sa.String),
    sa.Column("began", sa.String, nullable=False),
    sa.Column("ended", sa.String),
    sa.Column("run", sa.String),
    sa.Column("new_items", sa.Integer),
    sa.Column("changed_items", sa.Integer),
    sa.Column("gone_items", sa.Integer),
    sa.Column("set_aside", sa.Integer),
    sa.Column("aside", sa.Text),
    sa.Column("tiles", sa.Integer),
    sa.Column("alerts", sa.Integer),
    sa.Column("said", sa.Text, nullable=False),
    sa.UniqueConstraint("monitor_id", "due"),
    sa.Index("ticks_by_state", "state"),
)
ALERTS = sa.Table(
    "alerts",
    META,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("monitor", sa.String, nullable=False),
    sa.Column("due", sa.String, nullable=False),
    sa.Column("sink", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try", sa.String),
    sa.Column("delivered", sa.String),
    sa.Column("error", sa.Text, nullable=False),
    sa.Index("alerts_by_monitor", "monitor", "delivered"),
)
LEADERS = sa.Table(
    "leaders",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("holder", sa.String),
    sa.Column("beat", sa.Integer, nullable=False),
)

COUNTED = ("new_items", "changed_items", "gone_items", "set_aside", "tiles")
"""Columns of ticks that are added up."""

_INSTANTS = frozenset(
    ("created", "watermark", "swept", "asked", "due", "first", "stop_asked", "next_try", "began", "ended", "delivered")
)
"""Columns that hold one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorRow:
    """A monitor, as it stands."""

    name: str
    job: str
    """Its job, as JSON: the monitor section with it, all paths absolute."""

    mosaic: str
    state: MonitorState
    created: datetime
    watermark: datetime | None
    """Up to where the catalog's changes have been seen; None where it was never looked at."""

    swept: datetime | None
    """When all that the catalog has was last compared with all that is mapped."""

    asked: datetime | None = None
    """When somebody asked for a tick beyond its schedule that has not begun yet."""

    id: str = ""
    """Tells it from another of the same name that was removed before."""

    folded: int = 0
    """How many ticks are no longer in its history: they had nothing in them."""

    sums: Mapping[str, int] = field(default_factory=dict)
    """Of those ticks: how many of each state, and what each of ``COUNTED`` comes to."""

    spans: tuple[tuple[datetime, datetime], ...] = ()
    """Instants from the one to the other, both with it, that are settled though no tick of the history says so."""

    @property
    def section(self) -> Mapping[str, Any]:
        """The monitor section of its job."""
        found: Mapping[str, Any] = json.loads(self.job)["monitor"]
        return found

    @property
    def schedule(self) -> Schedule:
        """When its ticks are due."""
        return Schedule.parse(self.section["schedule"], self.section.get("timezone", "UTC"))

    @property
    def overlapping(self) -> Overlapping:
        """What becomes of a tick that is due while the last is at work."""
        said: Overlapping = self.section.get("overlapping", "queue")
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a tick. Counts are None where nobody has counted."""

    run: str | None = None
    new_items: int | None = None
    changed_items: int | None = None
    gone_items: int | None = None
    set_aside: int | None = None
    aside: str | None = None
    """The first of those, as JSON: a list of collection, id, kind, why."""

    tiles: int | None = None
    alerts: int | None = None
    said: str = ""
    """A sentence: what came of it, or why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickRow(Result):
    """A tick, as it stands."""

    monitor: str
    due: datetime
    first: datetime
    """The earliest instant that it stands for; ``due`` where none was missed before it."""

    missed: int
    """How many earlier instants it stands for, beside its own."""

    state: TickState
    attempts: int = 1
    holder: str | None = None
    """Who has it, or had it last; None where whoever had it has left it for the next to take up."""

    began: datetime
    """On the clock of whoever entered it."""

    ended: datetime | None = None
    stop_asked: datetime | None = None
    next_try: datetime | None = None
    """Of a failed one: when it is tried again; None where it is not."""

    beat: int = 0
    """Grows while its holder lives."""

    number: int = 0
    """In the order in which ticks were entered."""

    monitor_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickEnd(Result):
    """How a tick ended, said by whoever ran it."""

    state: Literal["done", "nothing", "failed", "stopped"]
    """stopped: asked to, before all was mapped. What is left is taken up by the next that has it."""

    watermark: datetime | None = None
    """Kept in the same moment; None leaves the one there is."""

    swept: datetime | None = None
    retryable: bool = False
    """failed: whether the same may go well soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """An alert to one sink."""

    key: str
    """Of the alert and its sink: enters once, whoever enters it how often."""

    monitor: str
    due: datetime
    """Of the tick it came of."""

    sink: str
    body: str
    """JSON."""

    created: datetime
    attempts: int = 0
    next_try: datetime | None = None
    delivered: datetime | None = None
    error: str = ""


def text_of(moment: datetime) -> str:
    """An instant, as the tables hold it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def values_of(row: TickRow | AlertRow | TickEnd) -> dict[str, Any]:
    """The columns of a row."""
    found = {one.name: getattr(row, one.name) for one in fields(row)}
    return {name: text_of(value) if isinstance(value, datetime) else value for name, value in found.items()}


def monitor_of(values: Mapping[str, Any] | sa.RowMapping) -> MonitorRow:
    """A row of the table of monitors."""
    known = _read(values)
    spans = tuple((_moment(begin), _moment(end)) for begin, end in json.loads(known.pop("spans")))
    known.pop("place")
    return MonitorRow(**known | {"sums": json.loads(known["sums"])}, spans=spans)


def tick_of(values: Mapping[str, Any] | sa.RowMapping) -> TickRow:
    """A row of the table of ticks."""
    return TickRow(**_read(values))


def alert_of(values: Mapping[str, Any] | sa.RowMapping) -> AlertRow:
    """A row of the table of alerts."""
    return AlertRow(**_read(values))


def _read(values: Mapping[str, Any] | sa.RowMapping) -> dict[str, Any]:
    known = {str(name): value for name, value in values.items()}
    return {name: _moment(value) if name in _INSTANTS and value else value for name, value in known.items()}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
