"""Planned tiles as a file, in slices: ten million of them take little more memory than their columns do."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.parts import damaged
from jobs.tile_table import TileTable
from mapper.storage import Folder

SLICE_TILES = 1 << 16
"""Tiles that are put into Arrow's words, or taken out of them, at once."""

_PLACE = pa.schema([("grid", pa.int16()), ("step", pa.int32()), ("row", pa.int32()), ("column", pa.int32())])
_SCHEMA = pa.schema([*_PLACE, ("clipped", pa.bool_()), ("items", pa.list_(pa.int32()))])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilePlaces:
    """Where tiles lie, by row of the plan; columns as in ``TileTable``."""

    grid: NDArray[np.int16]
    step: NDArray[np.int32]
    row: NDArray[np.int32]
    column: NDArray[np.int32]


def write_tiles(folder: Folder, name: str, tiles: TileTable) -> None:
    """Put all tiles."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, _SCHEMA, compression="zstd", write_page_checksum=True) as file:
        for begin in range(0, len(tiles), SLICE_TILES):
            file.write_batch(_arrow(tiles, begin, min(begin + SLICE_TILES, len(tiles))))
    folder.write(name, sink.getvalue())


def read_tiles(folder: Folder, name: str) -> TileTable:
    """All tiles, as they were put.

    Raises:
        FileNotFoundError: there is no such file.
        MosaicError: it is damaged.
    """
    count, batches = _batches(folder, name, _SCHEMA)
    columns = {of.name: np.empty(count, of.type.to_pandas_dtype()) for of in _SCHEMA if of.name != "items"}
    first_item = np.zeros(count + 1, np.int64)
    item: list[NDArray[np.int32]] = []
    begin = 0
    for batch in batches:
        end = begin + len(batch)
        for column, values in columns.items():
            values[begin:end] = batch.column(column).to_numpy(zero_copy_only=False)
        items = batch.column("items")
        first_item[begin + 1 : end + 1] = items.value_lengths().to_numpy()
        item.append(items.flatten().to_numpy())
        begin = end
    np.cumsum(first_item, out=first_item)
    return TileTable(**columns, first_item=first_item, item=np.concatenate([np.empty(0, np.int32), *item]))


def read_places(folder: Folder, name: str) -> TilePlaces:
    """Where they lie, without what shows them. Raises as ``read_tiles``."""
    count, batches = _batches(folder, name, _PLACE)
    columns = {of.name: np.empty(count, of.type.to_pandas_dtype()) for of in _PLACE}
    begin = 0
    for batch in batches:
        for column, values in columns.items():
            values[begin : begin + len(batch)] = batch.column(column).to_numpy()
        begin += len(batch)
    return TilePlaces(**columns)


def read_items(folder: Folder, name: str, rows: Collection[int]) -> dict[int, tuple[int, ...]]:
    """Row of the plan → rows of the item table that show it, for these tiles; only slices with any of them are decoded.

    Raises:
        FileNotFoundError: there is no such file.
        MosaicError: it is damaged.
    """
    found: dict[int, tuple[int, ...]] = {}
    try:
        file = pq.ParquetFile(io.BytesIO(folder.read(name)), page_checksum_verification=True)
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if wanted := [row for row in rows if begin <= row < end]:
                items = file.read_row_group(group, columns=["items"], use_threads=False).column("items")
                found |= {row: tuple(items[row - begin].as_py()) for row in wanted}
            begin = end
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise damaged(folder, name) from error
    return found


def _arrow(tiles: TileTable, begin: int, end: int) -> pa.RecordBatch:
    offsets = tiles.first_item[begin : end + 1]
    shown_by = tiles.item[offsets[0] : offsets[-1]]
    columns = [
        pa.array(values[begin:end]) for values in (tiles.grid, tiles.step, tiles.row, tiles.column, tiles.clipped)
    ]
    items = pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), pa.array(shown_by))
    return pa.RecordBatch.from_arrays([*columns, items], schema=_SCHEMA)


def _batches(folder: Folder, name: str, schema: pa.Schema) -> tuple[int, Iterator[pa.RecordBatch]]:
    """How many tiles there are, and some columns of them."""
    content = folder.read(name)
    try:
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(folder, name) from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from file.iter_batches(SLICE_TILES, columns=schema.names, use_threads=False)
        except (pa.ArrowException, OSError) as error:  # a page that fails its checksum is an OSError to pyarrow
            raise damaged(folder, name) from error

    return file.metadata.num_rows, batches()
