"""A search frozen to a file, so that workers never ask the API and a run can be told again.

The file is stac-geoparquet, so DuckDB, QGIS and rustac read it. A table has one type a column, and real items
do not: nulls appear, numbers change kind, a key of one item's asset becomes a key of all. So one column more,
``resmap:item``, keeps each document as it was: what is thawed is what was frozen, but for the signatures. Items that
come from such a table are what its columns say, and need no more than these.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import stac_geoparquet.arrow
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from catalogs.columns import DOCUMENT, ROWS_AT_ONCE, table_documents
from catalogs.conditions import dates_of
from catalogs.documents import without_nulls
from catalogs.footprints import footprints_of
from catalogs.hrefs import unsigned
from catalogs.items import many_values
from catalogs.tables import Batches, Hrefs, Rows, has_field, with_asset_hrefs, with_column, with_hrefs
from mapper.errors import CatalogError

StacItem: TypeAlias = dict[str, Any]
Said: TypeAlias = Callable[[StacItem, BaseGeometry], StacItem]

_UNSIGNED = r"^[^?]*$"
"""What certainly carries no signature."""

_UNFIT = (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What stac-geoparquet raises over items that make no table together."""


def freeze(items: Sequence[Mapping[str, Any]], *, at_once: int = ROWS_AT_ONCE) -> bytes:
    """The items as one stac-geoparquet file: row *n* is item *n*, hrefs unsigned.

    The same items give the same bytes with the same versions of the libraries.

    Args:
        items: STAC items.
        at_once: how many are turned into columns at a time: on the way there an item is copied three times.
    """
    if isinstance(items, Rows) and items and _has_boxes(items.batches):
        return _parquet(_unsigned_columns(items.batches))
    with many_values():
        if not items:
            return _parquet(pa.table({"id": pa.array([], pa.string()), DOCUMENT: pa.array([], pa.large_string())}))
        try:
            return _parquet(_table(items, _whole, at_once))
        except _UNFIT:
            return _parquet(_table(items, _bare, at_once))


def thaw(frozen: bytes) -> list[StacItem]:
    """The items of a frozen search, in its order; of a foreign stac-geoparquet file, what its columns tell.

    Raises:
        CatalogError: it is no such file.
    """
    with many_values():
        return list(thawed(frozen))


def thawed(frozen: bytes, *, fields: Collection[str] | None = None) -> Iterator[StacItem]:
    """The same one by one, so that a quarter of a million of them need never be held at once; to be read only.

    Args:
        frozen: the file.
        fields: of items, and of their assets, that will be looked at: others may be left out. None: all.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(frozen))
        if DOCUMENT in file.schema_arrow.names:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[DOCUMENT]):
                yield from map(json.loads, batch.column(0).to_pylist())
        else:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from table_documents(pa.Table.from_batches([batch]), fields=fields)
    except (*_UNFIT, OSError) as error:
        raise CatalogError(f"the frozen search cannot be read: {str(error)[:200]}", fix="plan the job again") from error


def thawed_rows(frozen: bytes, rows: Collection[int], *, fields: Collection[str] | None = None) -> dict[int, StacItem]:
    """Some items of a frozen search by their rows; what is not asked for is not made, and little of it is decoded.

    Args:
        frozen: the file.
        rows: of items; those that the file does not have are left out.
        fields: as for ``thawed``.

    Raises:
        CatalogError: it is no such file.
    """
    found: dict[int, StacItem] = {}
    try:
        file = pq.ParquetFile(io.BytesIO(frozen))
        documents = [DOCUMENT] if DOCUMENT in file.schema_arrow.names else None
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if any(begin <= row < end for row in rows):
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=documents):
                    wanted = [row for row in rows if begin <= row < begin + len(batch)]
                    some = pa.Table.from_batches([batch.take(pa.array([row - begin for row in wanted], pa.int64()))])
                    told = map(json.loads, some.column(0).to_pylist()) if documents else None
                    found |= zip(wanted, told or table_documents(some, fields=fields), strict=True)
                    begin += len(batch)
            begin = end
    except (*_UNFIT, OSError) as error:
        raise CatalogError(f"the frozen search cannot be read: {str(error)[:200]}", fix="plan the job again") from error
    return found


def _has_boxes(batches: Batches) -> bool:
    """Whether the columns are all that readers of stac-geoparquet look for."""
    schema = batches.held[0].schema
    return "bbox" in schema.names and has_field(schema.field("bbox").type, "xmin")


def _unsigned_columns(batches: Batches) -> pa.RecordBatchReader:
    def bare(hrefs: list[str | None]) -> list[str | None]:
        return [href and unsigned(href) for href in hrefs]

    def each() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            changed = with_column(batch, "assets", with_asset_hrefs(batch.column("assets"), bare, unless=_UNSIGNED))
            yield with_column(changed, "links", _unsigned_links(changed.column("links"), bare)) if linked else changed

    schema = batches.held[0].schema
    links = schema.field("links").type if "links" in schema.names else pa.null()
    linked = pa.types.is_list(links) and has_field(links.value_type, "href")
    first, rest = next(parts := each()), parts
    return pa.RecordBatchReader.from_batches(first.schema, chain([first], rest))


def _unsigned_links(links: pa.ListArray, bare: Hrefs) -> pa.ListArray:
    flat = with_hrefs(links.flatten(), bare, unless=_UNSIGNED)
    sizes = pc.fill_null(pc.list_value_length(links), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, flat, type=links.type, mask=links.is_null())


def _unsigned(doc: Mapping[str, Any]) -> StacItem:
    assets = {
        key: {**asset, "href": unsigned(asset["href"])} if isinstance(asset.get("href"), str) else asset
        for key, asset in doc["assets"].items()
    }
    links = [
        {**link, "href": unsigned(link["href"])} if isinstance(link.get("href"), str) else link
        for link in doc.get("links") or []
    ]
    return {**doc, "assets": assets, "links": links}


def _table(
    items: Sequence[Mapping[str, Any]], said: Callable[[StacItem, BaseGeometry], StacItem], at_once: int
) -> pa.Table:
    """The items as columns, and each as it is."""
    parts = []
    for first in range(0, len(items), at_once):
        docs = [_unsigned(doc) for doc in items[first : first + at_once]]
        written = pa.array([json.dumps(doc, separators=(",", ":")) for doc in docs], pa.large_string())
        table = stac_geoparquet.arrow.parse_stac_items_to_arrow(list(map(said, docs, footprints_of(docs)))).read_all()
        parts.append(table.append_column(DOCUMENT, written))
    return parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="permissive")


class _Own(dict[str, Any]):
    """A document made here and given away: stac-geoparquet need not copy it, which takes longer than all the rest."""

    def __deepcopy__(self, memo: object) -> _Own:
        return self


def _whole(doc: StacItem, footprint: BaseGeometry) -> StacItem:
    """All that an item says, where the items together make a table."""
    said = without_nulls({name: value for name, value in doc.items() if name not in ("bbox", "geometry", "links")})
    return _Own(said, bbox=list(footprint.bounds), geometry=mapping(footprint), links=[])


def _bare(doc: StacItem, footprint: BaseGeometry) -> StacItem:
    """What every item says, in the same kinds."""
    dates = dates_of(doc)
    if dates is None:
        raise CatalogError("an item has no datetime and no range of them", item=doc.get("id"))
    first, last = (moment.isoformat().replace("+00:00", "Z") for moment in dates)
    return {
        "type": "Feature",
        "stac_version": str(doc.get("stac_version") or "1.0.0"),
        "stac_extensions": [],
        "id": doc["id"],
        "collection": str(doc.get("collection") or ""),
        "geometry": mapping(footprint),
        "bbox": list(footprint.bounds),
        "links": [],
        "assets": {},
        "properties": {"datetime": first, "start_datetime": first, "end_datetime": last},
    }


def _parquet(table: pa.Table | pa.RecordBatchReader) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.parquet"
        if "geometry" in table.schema.names:
            stac_geoparquet.arrow.to_parquet(table, path, compression="zstd")
        else:
            pq.write_table(table, path, compression="zstd")
        return path.read_bytes()
