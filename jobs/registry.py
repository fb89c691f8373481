"""Which runs exist: an index that can be lost. The truth lies beside each mosaic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from jobs.settings import registry_url
from mapper.errors import MapperError

_META = sa.MetaData()
_RUNS = sa.Table(
    "runs",
    _META,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("mosaic", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("planned", sa.Integer, nullable=False),
    sa.Column("finished", sa.Integer, nullable=False),
    sa.Column("updated", sa.String, nullable=False),
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


class Registry:
    """The index, in SQLite by default or any database SQLAlchemy reaches."""

    def __init__(self, url: str | None = None) -> None:
        address = url or registry_url()
        try:
            parsed = sa.make_url(address)
            if parsed.drivername.startswith("sqlite") and parsed.database not in (None, "", ":memory:"):
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(parsed)
            _META.create_all(self._engine)
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            raise MapperError(
                f"the registry cannot be opened: {type(error).__name__}", fix="check RESMAP_REGISTRY"
            ) from error

    def save(self, row: RunRow) -> None:
        """Put a run in, in place of what was known of it."""
        values = {name: getattr(row, name) for name in row.__slots__} | {"updated": datetime.now(UTC).isoformat()}
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_RUNS).where(_RUNS.c.run == row.run, _RUNS.c.mosaic == row.mosaic))
            connection.execute(sa.insert(_RUNS).values(**values))

    def runs(self) -> list[RunRow]:
        """All runs, the latest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_RUNS).order_by(_RUNS.c.updated.desc())).mappings()
            return [RunRow(**row) for row in rows]

    def find(self, run: str) -> list[RunRow]:
        """The runs of this name; several where one job was written to several mosaics."""
        return [row for row in self.runs() if row.run == run]
