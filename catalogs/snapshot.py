"""A search frozen to a file, so that workers never ask the API and a run can be told again.

The file is stac-geoparquet, so DuckDB, QGIS and rustac read it. A table has one type a column, and real items
do not: nulls appear, numbers change kind, a key of one item's asset becomes a key of all. So one column more,
``resmap:item``, keeps each document as it was: what is thawed is what was frozen, but for the signatures.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import stac_geoparquet.arrow
from shapely.geometry import mapping

from catalogs.conditions import dates_of
from catalogs.documents import without_nulls
from catalogs.footprints import footprint_of
from catalogs.hrefs import unsigned
from mapper.errors import CatalogError

StacItem: TypeAlias = dict[str, Any]

DOCUMENT = "resmap:item"
"""The column that holds each item as JSON."""

_UNFIT = (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What stac-geoparquet raises over items that make no table together."""


def freeze(items: Sequence[Mapping[str, Any]]) -> bytes:
    """The items as one stac-geoparquet file: row *n* is item *n*, hrefs unsigned.

    The same items give the same bytes with the same versions of the libraries.
    """
    docs = [_unsigned(doc) for doc in items]
    written = pa.array([json.dumps(doc, separators=(",", ":")) for doc in docs], pa.large_string())
    if not docs:
        return _parquet(pa.table({"id": pa.array([], pa.string()), DOCUMENT: written}))
    try:
        return _parquet(_table([_whole(doc) for doc in docs]).append_column(DOCUMENT, written))
    except _UNFIT:
        return _parquet(_table([_bare(doc) for doc in docs]).append_column(DOCUMENT, written))


def thaw(frozen: bytes) -> list[StacItem]:
    """The items of a frozen search, in its order; of a foreign stac-geoparquet file, what its columns tell.

    Raises:
        CatalogError: it is no such file.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(frozen))
        if DOCUMENT in file.schema_arrow.names:
            texts = file.read(columns=[DOCUMENT])[DOCUMENT].to_pylist()
            return [json.loads(text) for text in texts]
        return [without_nulls(doc) for doc in stac_geoparquet.arrow.stac_table_to_items(file.read())]
    except (*_UNFIT, OSError) as error:
        raise CatalogError(f"the frozen search cannot be read: {str(error)[:200]}", fix="plan the job again") from error


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


def _table(docs: Sequence[StacItem]) -> pa.Table:
    return stac_geoparquet.arrow.parse_stac_items_to_arrow(docs).read_all()


def _whole(doc: StacItem) -> StacItem:
    """All that an item says, where the items together make a table."""
    footprint = footprint_of(doc)
    return {**without_nulls(doc), "bbox": list(footprint.bounds), "geometry": mapping(footprint), "links": []}


def _bare(doc: StacItem) -> StacItem:
    """What every item says, in the same kinds."""
    dates = dates_of(doc)
    if dates is None:
        raise CatalogError("an item has no datetime and no range of them", item=doc.get("id"))
    first, last = (moment.isoformat().replace("+00:00", "Z") for moment in dates)
    footprint = footprint_of(doc)
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


def _parquet(table: pa.Table) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.parquet"
        if "geometry" in table.schema.names:
            stac_geoparquet.arrow.to_parquet(table, path, compression="zstd")
        else:
            pq.write_table(table, path, compression="zstd")
        return path.read_bytes()
