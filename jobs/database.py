"""The registry's address → an engine: a file that only its owner reads, or a PostgreSQL; its schema of today."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from jobs.migrations import WRITES, bring_up_to_date
from jobs.settings import data_folder
from mapper.errors import MapperError

BUSY_S = 20.0
"""How long a writer waits for another. A transaction here takes milliseconds."""

CONNECT_S = 10
_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")


def connect(address: str) -> sa.Engine:
    """An engine for the registry at this address, its schema brought up to date.

    SQLite keeps its file in the log mode that lets many read while one writes. That needs a disk of this machine:
    a registry that several machines share is a PostgreSQL.

    Raises:
        MapperError: it cannot be opened, or a newer resmap has made it.
    """
    with telling("opened"):
        url = sa.make_url(address)
        if url.drivername.partition("+")[0] == "sqlite":
            engine = _sqlite(url)
        elif url.drivername in _POSTGRES:
            engine = _postgres(url)
        else:
            raise MapperError(
                f"the registry cannot be a {url.drivername[:40]}",
                fix="set RESMAP_REGISTRY to sqlite:////path/to/registry.db or postgresql://user@host/database",
            )
        try:
            bring_up_to_date(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine


@contextlib.contextmanager
def telling(act: str) -> Iterator[None]:
    """What a database raises, as a sentence that holds no address: it may have a password in it.

    Raises:
        MapperError: in place of those.
    """
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        module = f", {error.name} is not installed" if isinstance(error, ImportError) and error.name else ""
        raise MapperError(
            f"the registry cannot be {act}: {type(error).__name__}{module}",
            fix="pip install 'resmap[postgres]'" if module else "check RESMAP_REGISTRY",
        ) from error


def _sqlite(url: sa.URL) -> sa.Engine:
    place = url.database or ""
    if place in ("", ":memory:") or place.startswith("file:"):
        raise MapperError(
            "the registry is a file, not memory", fix="set RESMAP_REGISTRY to sqlite:////path/to/registry.db"
        )
    _keep_private(Path(place))
    # A connection is opened in a fraction of a millisecond, and one that is kept is a file nobody closes.
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _keep_private(file: Path) -> None:
    """Make the folder and the file where there are none; what others could read is closed to them."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    ours = [file, file.parent] if file.parent == data_folder() else [file]
    for path in ours:
        mode = path.stat().st_mode
        if path.stat().st_uid == os.getuid() and stat.S_IMODE(mode) & 0o077:
            path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own: we say which kind it is
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_S)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres(url: sa.URL) -> sa.Engine:
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=2,
        # A network that has gone silent is an error after a minute, and not a thread that waits for ever.
        connect_args={"connect_timeout": CONNECT_S, "keepalives_idle": 20, "keepalives_interval": 10,
                      "keepalives_count": 4, "tcp_user_timeout": 60_000},
    )  # fmt: skip
