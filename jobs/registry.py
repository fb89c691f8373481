"""Which runs exist, what was submitted, who changed what: an index. The truth of a run lies beside its mosaic.

What signs an address, and a user's name and password in one, are never kept here.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from catalogs.hrefs import unsigned
from jobs.dashboard.views import run_key
from jobs.database import connect, telling
from jobs.migrations import WRITES
from jobs.settings import registry_url

LONGEST_NOTE = 300
"""Characters of one entry in the audit that strangers can choose."""

META = sa.MetaData()
"""The tables as ``jobs/migrations`` leaves them; a test compares the two."""

_RUNS = sa.Table(
    "runs",
    META,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("mosaic", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("planned", sa.Integer, nullable=False),
    sa.Column("finished", sa.Integer, nullable=False),
    sa.Column("updated", sa.String, nullable=False),
)
_AUDIT = sa.Table(
    "audit",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("origin", sa.String, nullable=False),
    sa.Column("act", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Index("audit_by_key", "key", "number"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run, as it was last heard of."""

    run: str
    mosaic: str
    name: str
    state: str
    planned: int
    finished: int
    updated: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change, and who asked for it."""

    number: int
    at: str
    by: str
    origin: str
    """From where: a client's address, or a terminal."""

    act: str
    """submit · cancel · retry"""

    key: str
    """Of the run: ``run_key``."""

    outcome: str


class Registry:
    """The index, in a SQLite file or a PostgreSQL. Threads may share one."""

    def __init__(self, url: str | None = None) -> None:
        """Open it, and bring its schema up to date.

        Args:
            url: as SQLAlchemy writes them; None takes ``RESMAP_REGISTRY``, or a file in the user's data folder.

        Raises:
            MapperError: it cannot be opened, or a newer resmap has made it.
        """
        self._engine = connect(url or registry_url())
        self._writer = self._engine.execution_options(**{WRITES: True})
        weakref.finalize(self, self._engine.dispose)

    def close(self) -> None:
        """Let go of its connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one moment.

        Raises:
            MapperError: the registry cannot be read.
        """
        with telling("read"), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, alone: sa.Table | None = None) -> Iterator[sa.Connection]:
        """A transaction: all of it is kept, or nothing.

        Args:
            alone: no other process reads this table to write it, from the beginning to the end.

        Raises:
            MapperError: the registry cannot be written.
        """
        with telling("written"), self._writer.begin() as connection:
            if alone is not None and connection.dialect.name == "postgresql":  # in SQLite every writer is alone
                connection.exec_driver_sql(f"LOCK TABLE {alone.name} IN SHARE ROW EXCLUSIVE MODE")
            yield connection

    def save(self, row: RunRow) -> None:
        """Put a run in, in place of what was known of it."""
        with self.writing() as connection:
            _put(connection, row, updated=datetime.now(UTC).isoformat())

    def runs(self) -> list[RunRow]:
        """All runs, the latest first."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(_RUNS).order_by(_RUNS.c.updated.desc())).mappings()
            return [RunRow(**row) for row in rows]

    def find(self, run: str) -> list[RunRow]:
        """The runs of this name, or of this key; several where one job was written to several mosaics."""
        return [row for row in self.runs() if run in (row.run, run_key(row.run, row.mosaic))]

    def run_of(self, key: str) -> RunRow | None:
        """The run of this key."""
        return next((row for row in self.runs() if run_key(row.run, row.mosaic) == key), None)

    def rebuild(self, mosaics: Iterable[str]) -> int:
        """Make the index of these mosaics anew, from the files beside them, and say how many runs there are.

        Raises:
            MosaicError: a file of a run is damaged; nothing is changed.
            StoreError: a mosaic cannot be reached; nothing is changed.
        """
        found = {mosaic: list(_runs_beside(mosaic)) for mosaic in mosaics}
        with self.writing() as connection:
            for mosaic, rows in found.items():
                connection.execute(sa.delete(_RUNS).where(_RUNS.c.mosaic == unsigned(mosaic)))
                for row in rows:
                    _put(connection, row, updated=row.updated)
        return sum(map(len, found.values()))

    def note(self, *, act: str, key: str, outcome: str, by: str = "", origin: str = "") -> None:
        """Enter a change in the audit: lines of printable characters, whatever they are given as."""
        said = {"act": act, "key": key, "outcome": outcome, "by": by, "origin": origin}
        with self.writing() as connection:
            note(connection, **said)

    def audit(self, key: str | None = None, *, last: int = 1000) -> list[AuditRow]:
        """The latest changes, newest first; ``key``: of this run alone."""
        wanted = sa.select(_AUDIT).order_by(_AUDIT.c.number.desc()).limit(last)
        if key is not None:
            wanted = wanted.where(_AUDIT.c.key == key)
        with self.reading() as connection:
            return [AuditRow(**row) for row in connection.execute(wanted).mappings()]


def note(connection: sa.Connection, **said: str) -> None:
    """As ``Registry.note``, within a transaction that is under way."""
    values: dict[str, str] = {"by": "", "origin": ""} | {name: _line(text) for name, text in said.items()}
    connection.execute(sa.insert(_AUDIT).values(at=datetime.now(UTC).isoformat(), **values))


def say_state(connection: sa.Connection, *, run: str, mosaic: str, name: str, state: str) -> None:
    """Set the state of a run, within a transaction; one that is not known yet has no tiles."""
    row = RunRow(run=run, mosaic=mosaic, name=name, state=state, planned=0, finished=0)
    _put(connection, row, updated=datetime.now(UTC).isoformat(), news=("state", "updated"))


def state_of(connection: sa.Connection, *, run: str, mosaic: str) -> str | None:
    """What was last said of a run, within a transaction."""
    found = connection.scalar(sa.select(_RUNS.c.state).where(_RUNS.c.run == run, _RUNS.c.mosaic == mosaic))
    return None if found is None else str(found)


def _line(text: str) -> str:
    return "".join(mark if mark.isprintable() else "�" for mark in text[:LONGEST_NOTE])


def _put(
    connection: sa.Connection,
    row: RunRow,
    *,
    updated: str,
    news: Iterable[str] = ("name", "state", "planned", "finished", "updated"),
) -> None:
    """Put a run in; of one that is there, only these columns are set."""
    values: dict[str, Any] = asdict(row) | {"mosaic": unsigned(row.mosaic), "updated": updated}
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    told = make(_RUNS).values(**values)
    connection.execute(
        told.on_conflict_do_update(
            index_elements=["run", "mosaic"], set_={column: told.excluded[column] for column in news}
        )
    )


def _runs_beside(mosaic: str) -> Iterator[RunRow]:
    from jobs.ledger import FINISHED, RunFolder, reading_runs, run_names

    with reading_runs(mosaic):
        for run in run_names(mosaic):
            folder = RunFolder(mosaic, run)
            facts, counts = folder.facts(), folder.counts()
            yield RunRow(
                run=run,
                mosaic=mosaic,
                name=str(facts.get("name", run)),
                state=str(facts.get("state", "planned")),
                planned=int(facts.get("planned", 0)),
                finished=sum(counts[state] for state in FINISHED),
                updated=str(facts.get("ended") or facts.get("created") or ""),
            )
