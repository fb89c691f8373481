"""What stands in a mosaic: the items its runs have mapped, read from the runs themselves and from nowhere else."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from catalogs.columns import DOCUMENT, ROWS_AT_ONCE, table_documents
from catalogs.conditions import date_of
from catalogs.snapshot import StacItem, thawed_rows
from jobs.ledger import reading_runs
from jobs.renewal import TurnedRun, runs_in_turn
from mapper.errors import MosaicError
from mapper.storage import EngineName

Key: TypeAlias = tuple[str, str]
"""Collection and id of an item."""

_DATES = ("datetime", "start_datetime", "end_datetime")


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedItem:
    """An item as one run mapped it."""

    run: str
    row: int
    """In the item table of that run."""

    source: int
    """What the source layer holds where it is seen."""

    collection: str
    id: str
    datetime: datetime
    """As ``Item.datetime``: what decides its time step."""

    @property
    def key(self) -> Key:
        """What makes it that item."""
        return self.collection, self.id


class MappedItems:
    """The items that stand in a mosaic, as its runs told when this was made. Item tables are read when asked for."""

    def __init__(self, mosaic: str, *, engine: EngineName | None = None) -> None:
        """Look at the runs; there may be none, and no mosaic yet.

        Args:
            mosaic: its path or URL.
            engine: as in ``state_folder``.

        Raises:
            MosaicError: a file of a run is damaged.
        """
        self.mosaic = mosaic
        self.runs: tuple[TurnedRun, ...] = tuple(runs_in_turn(mosaic, engine=engine))
        """In their turn."""

    @property
    def renewals(self) -> int:
        """How many renewing runs there have been; the next one has the number after that."""
        return max((run.turn for run in self.runs), default=0)

    @property
    def standing(self) -> Mapping[Key, MappedItem]:
        """Every item that stands, by its key: as the last run that has it mapped it, and not gone since.

        Raises:
            MosaicError: an item table is missing or damaged.
        """
        return self._told[0]

    @property
    def sources_end(self) -> int:
        """The first number for the source layer that no run has used. Raises as ``standing``."""
        return self._told[1]

    @property
    def area(self) -> BaseGeometry | None:
        """What the runs were asked for, longitude and latitude; None where there are none."""
        if not self.runs:
            return None
        with reading_runs(self.mosaic):
            return shapely.from_wkb(self.runs[0].folder.area())

    def documents(self, keys: Collection[Key]) -> dict[Key, StacItem]:
        """The STAC items behind some keys, as they were frozen; keys that do not stand are left out.

        Raises:
            MosaicError: an item table is missing or damaged.
        """
        wanted: dict[str, dict[int, Key]] = defaultdict(dict)
        for key in keys:
            if (item := self.standing.get(key)) is not None:
                wanted[item.run][item.row] = key
        found: dict[Key, StacItem] = {}
        for run in self._tabled:
            if rows := wanted.get(run.folder.run):
                documents = thawed_rows(self._table(run), sorted(rows))
                found |= {rows[row]: document for row, document in documents.items()}
        return {key: found[key] for key in keys if key in found}

    @cached_property
    def _told(self) -> tuple[Mapping[Key, MappedItem], int]:
        found: dict[Key, MappedItem] = {}
        end = 0
        for run in self._tabled:
            for key in run.renewal.gone if run.renewal is not None else ():
                found.pop(key, None)
            for item in _items(run, self._table(run)):
                found[item.key] = item
                end = max(end, item.source + 1)
        return MappingProxyType(found), end

    @property
    def _tabled(self) -> list[TurnedRun]:
        """The runs whose item tables tell something new: ordinary runs of one mosaic all have the first one's."""
        ordinary = [run for run in self.runs if run.renewal is None]
        return [*ordinary[:1], *(run for run in self.runs if run.renewal is not None)]

    def _table(self, run: TurnedRun) -> bytes:
        with reading_runs(self.mosaic):
            return run.folder.items()


def _items(run: TurnedRun, frozen: bytes) -> Iterator[MappedItem]:
    """The rows of an item table, of which only the columns that name and date them are decoded."""
    file = _opened(frozen, run)
    begin = run.renewal.sources_from if run.renewal is not None else 0
    row = 0
    try:
        held = set(file.schema_arrow.names)
        names = [name for name in ("id", "collection", *_DATES) if name in held]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
            documents = list(table_documents(pa.Table.from_batches([batch])))
            vague = [row + n for n, document in enumerate(documents) if _is_vague(document)] if DOCUMENT in held else []
            whole = thawed_rows(frozen, vague) if vague else {}
            for document in documents:
                yield MappedItem(
                    run=run.folder.run,
                    row=row,
                    source=begin + row,
                    collection=str(document.get("collection") or ""),
                    id=str(document["id"]),
                    datetime=date_of(whole.get(row, document)),
                )
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise _damaged(run) from error


def _is_vague(document: StacItem) -> bool:
    """Whether the columns may not tell the moment as the item does: a table of items that have little in common says
    where a range begins in place of a moment, and some items do so themselves."""
    said = [document["properties"].get(name) for name in _DATES]
    return bool(said[0] == said[1] != said[2])


def _opened(frozen: bytes, run: TurnedRun) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(frozen))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(run) from error


def _damaged(run: TurnedRun) -> MosaicError:
    return MosaicError(
        "the item table of a run is damaged",
        fix="bring items.parquet of that run back from a copy",
        mosaic=run.folder.mosaic,
        run=run.folder.run,
    )
