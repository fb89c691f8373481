"""What the runs beside a mosaic tell of it: the area they were asked for, their items, how far they are.

``jobs/ledger.py`` writes these files and says what they hold; here they are read only, with what a notebook has.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from mapper.errors import MosaicError
from mapper.storage import state_folder

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import pyarrow as pa

DOCUMENT = "resmap:item"
"""The column of the item table that holds each item as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How far a run is."""

    run: str
    name: str
    state: str
    """planned, running, finished and the like."""

    levels_behind: bool
    """Whether coarser levels may be older than what lies under them: it goes on, was cut short, or gave some up."""

    tiles: dict[str, int]
    """State → number of tiles, as the run's file says; empty until it ends."""


def newest_run(mosaic: str) -> RunFacts | None:
    """The run that was planned last; None where there is none."""
    found = _runs(mosaic)
    if not found:
        return None
    run, facts = found[-1]
    summary = facts.get("summary")
    tiles = summary.get("tiles") if isinstance(summary, dict) else None
    return RunFacts(
        run=run,
        name=str(facts.get("name", "")),
        state=str(facts.get("state", "")),
        levels_behind=levels_behind(facts),
        tiles={str(key): int(value) for key, value in tiles.items()} if isinstance(tiles, dict) else {},
    )


def levels_behind(facts: Mapping[str, Any]) -> bool:
    """As ``RunFacts.levels_behind``, of a run's file of facts."""
    over = facts.get("state") in ("done", "quarantined") or "taken_over_by" in facts
    return not over or bool(facts.get("levels_behind"))


def asked_area(mosaic: str) -> BaseGeometry | None:
    """The area that the mosaic's runs were asked for, longitude and latitude; None where there are no runs."""
    folder = state_folder(mosaic).child("runs")
    contents = {folder.read(name) for name in folder.names("*/area.wkb")}
    if not contents:
        return None
    try:
        return shapely.union_all([shapely.from_wkb(content) for content in sorted(contents)])
    except shapely.errors.ShapelyError as error:
        raise _damaged(folder.url, "area.wkb") from error


def item_table(mosaic: str) -> gpd.GeoDataFrame:
    """The items that a mosaic was made of: the index is what the source layer holds.

    A monitor's runs number their items behind those of all runs before; an item that was mapped by several of them has
    a number in each.

    Returns:
        A GeoDataFrame in longitude and latitude, with the columns of stac-geoparquet.

    Raises:
        MosaicError: no run lies beside the mosaic, or a table is damaged.
    """
    import geopandas as gpd
    import pandas as pd

    frames = []
    for begin, table in _tables(mosaic):
        frame = table.drop_columns([DOCUMENT] if DOCUMENT in table.column_names else []).to_pandas()
        outlines = shapely.from_wkb(frame["geometry"]) if "geometry" in frame else [None] * len(frame)
        frame.index = pd.RangeIndex(begin, begin + len(frame))
        frames.append(frame.drop(columns="geometry", errors="ignore").assign(geometry=list(outlines)))
    held = [frame for frame in frames if len(frame)] or frames[:1]  # a run that found things gone may show no item
    known = gpd.GeoDataFrame(_in_one(held), geometry="geometry", crs="EPSG:4326")
    known.index.name = "source"
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItems:
    """Some columns of the items by what the source layer holds."""

    numbers: NDArray[np.int64]
    """What the source layer holds for each item, rising."""

    columns: Mapping[str, NDArray[np.object_]]
    """Name of a column → the value of each item, None where it has none."""

    def rows(self, sources: NDArray[Any]) -> NDArray[np.int64]:
        """Position of each number among the items; -1 where no run has such an item."""
        wanted = sources.astype(np.int64)
        if not len(self.numbers):
            return np.full(wanted.shape, -1, np.int64)
        at = np.minimum(self.numbers.searchsorted(wanted), len(self.numbers) - 1)
        return np.where(self.numbers[at] == wanted, at, -1)

    def of(self, column: str, sources: NDArray[Any]) -> NDArray[np.object_]:
        """A column's value for each number; None where no run has such an item."""
        rows = self.rows(sources)
        found = np.full(rows.shape, None, np.object_)
        found[rows >= 0] = self.columns[column][rows[rows >= 0]]
        return found


def source_items(mosaic: str, columns: Sequence[str] = ("id",)) -> SourceItems:
    """Some columns of all items a mosaic was made of, and no more is read. Raises as ``item_table``."""
    numbers, values = [np.empty(0, np.int64)], {name: [np.empty(0, np.object_)] for name in columns}
    for begin, table in _tables(mosaic, columns):
        numbers.append(np.arange(begin, begin + table.num_rows))
        for name, held in values.items():
            there = table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
            held.append(_objects(there))
    return SourceItems(
        numbers=np.concatenate(numbers), columns={name: np.concatenate(held) for name, held in values.items()}
    )


def _tables(mosaic: str, columns: Sequence[str] | None = None) -> list[tuple[int, pa.Table]]:
    """The item tables that a mosaic's runs brought with them, each with the number of its first row, rising.

    Ordinary runs share one: sentences that are added to a mosaic are asked of the items that are frozen there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = state_folder(mosaic).child("runs")
    last: dict[int, str] = {}
    for run, facts in sorted(_runs(mosaic), key=lambda run: _count(run[1], "renews")):
        if folder.exists(f"{run}/items.parquet"):
            last[_count(facts, "sources_from")] = run
    if not last:
        raise MosaicError(
            "no item table lies beside this mosaic", fix="only a mosaic that a run has written has one", mosaic=mosaic
        )
    found, end = [], 0
    for begin, run in sorted(last.items()):
        try:
            file = pq.ParquetFile(io.BytesIO(folder.read(f"{run}/items.parquet")))
            held = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            table = file.read(columns=held)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(f"{folder.url}/{run}", "items.parquet") from error
        if begin < end:
            raise MosaicError(
                "the runs of this mosaic give one number to two of their items",
                fix="`resmap verify --full` tells whether a run's file was changed", mosaic=mosaic, run=run,
            )  # fmt: skip
        found.append((begin, table))
        end = begin + file.metadata.num_rows
    return found


def _in_one(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One below the other, with the columns of all. What is missing is None, and keeps its kind where none is."""
    import pandas as pd

    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    if len(frames) == 1:
        return frames[0]
    index = np.concatenate([frame.index.to_numpy() for frame in frames])
    columns = {}
    for name in names:
        there = [frame[name] for frame in frames if name in frame]
        if len(there) == len(frames) and len({str(one.dtype) for one in there}) == 1:
            columns[name] = pd.concat(there)
        else:
            parts = [frame[name] if name in frame else [None] * len(frame) for frame in frames]
            columns[name] = pd.Series(_objects([value for part in parts for value in part]), index=index)
    return pd.DataFrame(columns)


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    held = np.empty(len(values), np.object_)
    held[:] = values
    return held


def _count(facts: Mapping[str, Any], name: str) -> int:
    """A number that the file of a renewing run has; 0 in others."""
    said = facts.get(name, 0)
    return said if isinstance(said, int) and said >= 0 else 0


def _runs(mosaic: str) -> list[tuple[str, dict[str, Any]]]:
    """Runs and their files of facts, oldest first."""
    folder = state_folder(mosaic).child("runs")
    found = []
    for path in folder.names("*/run.json"):
        try:
            facts = json.loads(folder.read(path))
        except ValueError as error:
            raise _damaged(folder.url, path) from error
        found.append((path.split("/")[0], facts if isinstance(facts, dict) else {}))
    return sorted(found, key=lambda run: (str(run[1].get("created", "")), run[0]))


def _damaged(folder: str, name: str) -> MosaicError:
    return MosaicError(
        "a file of the run cannot be read: it is damaged", fix="bring it back from a copy", file=f"{folder}/{name}"
    )
