"""The queue of submitted jobs, in the registry: every step is one transaction, so that two servers never both take it.

queued ──▶ starting ──▶ running ──▶ ended
   │           │            └─────▶ cancelled
   └───────────┴──────────────────▶ cancelled        ended and cancelled ones may be queued again: another turn
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from jobs.dashboard.views import RunState
from jobs.interrupts import INTERRUPTED, TERMINATED
from jobs.processes import Process
from jobs.registry import META, Registry, note, say_state, state_of

SubmissionState = Literal["queued", "starting", "running", "ended", "cancelled"]

OPEN: frozenset[SubmissionState] = frozenset(("queued", "starting", "running"))
"""States of a submission that will go on by itself."""

ENDINGS: dict[int, RunState] = {
    0: "done",
    4: "quarantined",
    6: "out-of-budget",
    INTERRUPTED: "interrupted",
    TERMINATED: "interrupted",
}
"""Exit status of ``resmap run`` → the state in which it leaves its run; any other: stopped."""

TABLE = sa.Table(
    "submissions",
    META,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("mosaic", sa.String, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("gpus", sa.Integer),
    sa.Column("local", sa.Boolean, nullable=False),
    sa.Column("retry", sa.Boolean, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("queued", sa.String, nullable=False),
    sa.Column("pid", sa.Integer),
    sa.Column("started", sa.Float),
    sa.Column("cancel_asked", sa.String),
    sa.Column("exit_status", sa.Integer),
    sa.Column("log", sa.String, nullable=False),
    sa.Column("ended", sa.String),
    sa.Index("submissions_by_host", "host", "state", "queued"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job that was submitted, as it stands."""

    key: str
    run: str
    mosaic: str
    job: str
    """Text of the job file, without what signs its addresses."""

    gpus: int | None
    local: bool
    retry: bool
    """Whether tiles that were given up are taken again."""

    state: SubmissionState
    turn: int
    """How often it was queued."""

    created: str
    by: str
    host: str
    """The machine that has it; no other touches it."""

    queued: str
    pid: int | None = None
    """While it runs: of its process. While it starts: of the server that starts it."""

    started: float | None = None
    """When that process began, in seconds since 1970: tells it from a later one of the same number."""

    cancel_asked: str | None = None
    exit_status: int | None = None
    """None where it has not ended, or nobody saw how."""

    log: str = ""
    """Folder of what it said, on its host."""

    ended: str | None = None

    @property
    def process(self) -> Process | None:
        """Whose it is now."""
        return None if self.pid is None or self.started is None else Process(pid=self.pid, began=self.started)

    @property
    def run_state(self) -> RunState:
        """Its state, in the words of runs."""
        if self.state == "ended":
            return "interrupted" if self.exit_status is None else ENDINGS.get(self.exit_status, "stopped")
        return "cancelled" if self.state == "cancelled" else "queued" if self.state == "queued" else "running"


class Queue:
    """Submissions, and the steps that they take."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def all(self, *, host: str | None = None, states: Collection[str] = ()) -> list[Submission]:
        """Those of a host, or in these states, the first queued first."""
        wanted = sa.select(TABLE).order_by(TABLE.c.queued, TABLE.c.key)
        if host is not None:
            wanted = wanted.where(TABLE.c.host == host)
        if states:
            wanted = wanted.where(TABLE.c.state.in_(states))
        with self._registry.reading() as connection:
            return [Submission(**row) for row in connection.execute(wanted).mappings()]

    def find(self, key: str) -> Submission | None:
        """The submission of this run."""
        with self._registry.reading() as connection:
            return _row(connection, key)

    @contextmanager
    def deciding(self) -> Iterator[Decision]:
        """See and change submissions as the only one who does."""
        with self._registry.writing(alone=TABLE) as connection:
            yield Decision(connection)


class Decision:
    """What can be done to submissions within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find(self, key: str) -> Submission | None:
        """As it stands."""
        return _row(self._connection, key)

    def put(self, submission: Submission, *, name: str) -> None:
        """Enter a turn of a job, its first or another; the index of runs says so too."""
        values = {column: getattr(submission, column) for column in submission.__slots__}
        if self.find(submission.key) is None:
            self._connection.execute(sa.insert(TABLE).values(**values))
        else:
            self.change(values.pop("key"), **values)
        place = {"run": submission.run, "mosaic": submission.mosaic}
        if submission.state == "queued" or state_of(self._connection, **place) is None:
            say_state(self._connection, **place, name=name, state=submission.run_state)

    def end(self, submission: Submission, **values: Any) -> None:
        """Enter how a turn ended. The index of runs says it too, where the run itself could not."""
        ended = replace(submission, **values)
        self.change(ended.key, **values)
        place = {"run": ended.run, "mosaic": ended.mosaic}
        said = state_of(self._connection, **place)
        if said in ("queued", "running") or (said == "interrupted" and ended.state == "cancelled"):
            say_state(self._connection, **place, name=ended.run, state=ended.run_state)

    def change(self, key: str, **values: Any) -> None:
        """Set columns of one."""
        self._connection.execute(sa.update(TABLE).where(TABLE.c.key == key).values(**values))

    def next_for(self, host: str, *, at_most: int) -> Submission | None:
        """The first in the queue of a host, unless so many of it are under way already."""
        under_way = self._connection.scalar(
            sa.select(sa.func.count()).where(TABLE.c.host == host, TABLE.c.state.in_(("starting", "running")))
        )
        if int(under_way or 0) >= at_most:
            return None
        wanted = sa.select(TABLE).where(TABLE.c.host == host, TABLE.c.state == "queued")
        found = self._connection.execute(wanted.order_by(TABLE.c.queued, TABLE.c.key).limit(1)).mappings().first()
        return None if found is None else Submission(**found)

    def note(self, *, act: str, key: str, outcome: str, by: str) -> None:
        """Enter it in the audit, or nothing of it happened."""
        note(self._connection, act=act, key=key, outcome=outcome, by=by)


def now() -> str:
    """The moment, as the tables write it."""
    return datetime.now(UTC).isoformat()


def _row(connection: sa.Connection, key: str) -> Submission | None:
    found = connection.execute(sa.select(TABLE).where(TABLE.c.key == key)).mappings().first()
    return None if found is None else Submission(**found)
