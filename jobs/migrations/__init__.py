"""The registry's schema, as it came to be: a step a file in ``versions``, taken by whoever opens an older one.

v0001_runs          the index of runs; a registry from before there were steps has just this table
v0002_submissions   jobs that were submitted, and who changed what
v0003_monitors      maps that keep themselves current: their ticks, and the alerts that wait
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from mapper.errors import MapperError

STEPS = ("0001", "0002", "0003")
"""All that this resmap knows, oldest first: alembic, which reads the files, is imported only to take one."""

WRITES = "resmap_writes"
"""Execution option of connections that will write: SQLite then gives them its one lock at once, not halfway."""

TURN = 0x7265736D6170
"""Number of the lock that whoever changes the schema of a PostgreSQL holds."""

_HERE = threading.Lock()
"""Alembic keeps what it works on in module state: one thread of a process at a time."""


def bring_up_to_date(engine: sa.Engine) -> None:
    """Give a registry the schema of today. What is current is left as it is, after one look.

    Raises:
        MapperError: a newer resmap has made it.
    """
    with engine.connect() as connection:
        if _step(connection) == STEPS[-1]:
            return
    with _HERE, engine.execution_options(**{WRITES: True}).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TURN)))
        if _step(connection) != STEPS[-1]:  # nobody else has done it while we waited
            _take_steps(connection)


def _step(connection: sa.Connection) -> str | None:
    """The last step that was taken; None where there was none yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and found not in STEPS:
        raise MapperError(
            "a newer resmap has made this registry",
            fix="use that version here too, or another registry: set RESMAP_REGISTRY",
            schema=str(found)[:40],
        )
    return None if found is None else str(found)


def _take_steps(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    # In alembic's configuration a percent sign begins a name.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    command.upgrade(config, "head")
