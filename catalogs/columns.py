"""Columns of a stac-geoparquet table → the JSON of its items.

Most of what a table says, it says of thousands of rows in the same words. So a nested column is turned into JSON once
for every different value of it, and the rows that have it share the result: documents made here are to be read only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

DOCUMENT = "resmap:item"
"""The column of a frozen search that holds each item as JSON; no property of the item."""

ROWS_AT_ONCE = 8192

_TOP_LEVEL = frozenset(
    ("type", "stac_version", "stac_extensions", "id", "bbox", "geometry", "collection", "links", "assets")
)
"""Columns of a table that are no properties of the item."""

_SCALARS = frozenset((str, int, float, bool, type(None)))
_LONGEST, _MOST_LENGTHS = 64, 16
"""Of lists that are compared with one another; others count as different."""


def table_documents(table: pa.Table, *, fields: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a stac-geoparquet table as STAC items, without the nulls of columns that a row has nothing in.

    Args:
        table: of items.
        fields: of items, and of assets, that will be looked at; others are left out. None: all.
    """
    names = [name for name in table.schema.names if name != DOCUMENT and (fields is None or name in fields)]
    for batch in table.select(names).to_batches(max_chunksize=ROWS_AT_ONCE):
        if fields is not None and "assets" in names:
            at = names.index("assets")
            batch = batch.set_column(at, "assets", _fewer(batch.column(at), fields))
        columns = [_json_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
        for row in zip(*columns, strict=True):
            doc: dict[str, Any] = {"properties": {}}
            for name, value in zip(names, row, strict=True):
                if value is not None:
                    (doc if name in _TOP_LEVEL else doc["properties"])[name] = value
            yield doc


def _fewer(assets: pa.StructArray, fields: Collection[str]) -> pa.StructArray:
    """Assets with fewer fields, those that have any of them."""
    parts = {}
    for field, asset in zip(assets.type, assets.flatten(), strict=True):
        kept = [n for n, each in enumerate(field.type) if each.name in fields] if pa.types.is_struct(field.type) else []
        if kept:
            children, kinds = asset.flatten(), list(field.type)
            parts[field.name] = pa.StructArray.from_arrays(
                [children[n] for n in kept], fields=[kinds[n] for n in kept], mask=asset.is_null()
            )
    if not parts:
        return assets
    return pa.StructArray.from_arrays(list(parts.values()), list(parts), mask=assets.is_null())


def _json_values(name: str, column: pa.Array) -> list[Any]:
    """A column as JSON, None where a row has nothing."""
    kind = column.type
    if name.rpartition(":")[2] == "geometry":
        return _once_each(column, _geometries)
    if pa.types.is_timestamp(kind):
        in_utc = column.cast(pa.timestamp(kind.unit, tz="UTC"))
        return _flat_values(pc.strftime(in_utc, format="%Y-%m-%dT%H:%M:%SZ"))
    if name == "bbox" and pa.types.is_struct(kind):
        boxes = map(list, zip(*map(_flat_values, column.flatten()), strict=True))
        return _or_none(column, list(boxes))
    return _nested_values(column) if pa.types.is_nested(kind) else _flat_values(column)


def _nested_values(column: pa.Array) -> list[Any]:
    """Any column within another, as JSON without nulls."""
    kind = column.type
    if not pa.types.is_nested(kind):
        values = _flat_values(column)
        return values if set(map(type, values)) <= _SCALARS else list(map(_plain, values))
    if pa.types.is_struct(kind) and kind.get_field_index("href") >= 0:  # no two assets have the same
        return _built(column)
    return _once_each(column, _built)


def _built(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_struct(kind) and kind.num_fields:
        names = [field.name for field in kind]
        parts = zip(*map(_nested_values, column.flatten()), strict=True)
        rows = [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in parts]
        return _or_none(column, rows)
    if pa.types.is_list(kind):
        values = _nested_values(column.flatten())
        ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)).tolist()
        return _or_none(column, [values[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)])
    return list(map(_plain, column.to_pylist()))


def _once_each(column: pa.Array, values: Callable[[pa.Array], list[Any]]) -> list[Any]:
    """What a function makes of a column, asked once for every different value of it."""
    _, first, of = np.unique(_kinds(column), return_index=True, return_inverse=True)
    if 2 * len(first) > len(column):
        return values(column)
    different = values(column.take(pa.array(first)))
    return [different[n] for n in of.tolist()]


def _or_none(column: pa.Array, values: list[Any]) -> list[Any]:
    if not column.null_count:
        return values
    return [value if there else None for value, there in zip(values, column.is_valid().to_pylist(), strict=True)]


def _flat_values(column: pa.Array) -> list[Any]:
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = (pa.types.is_floating(kind) or pa.types.is_integer(kind)) and not column.null_count
    return column.to_numpy(zero_copy_only=False).tolist() if text or number else column.to_pylist()  # type: ignore[no-any-return]


def _geometries(column: pa.Array) -> list[Any]:
    written = shapely.to_geojson(shapely.from_wkb(column.to_numpy(zero_copy_only=False)))
    return [None if text is None else json.loads(text) for text in written.tolist()]


def _plain(node: Any) -> Any:
    """What Arrow gave, as JSON without nulls."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return list(map(_plain, node))
    if isinstance(node, bytes):
        return json.loads(shapely.to_geojson(shapely.from_wkb(node)))
    return node.isoformat().replace("+00:00", "Z") if isinstance(node, date) else node


def _kinds(column: pa.Array) -> NDArray[np.int64]:
    """A number a row: rows of one number have equal values, to the bit."""
    kind, rows = column.type, len(column)
    if pa.types.is_struct(kind):
        codes = np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.int64)
        for part in column.flatten():
            codes = _both(codes, _kinds(part))
        return codes
    if pa.types.is_list(kind):
        return _list_kinds(column)
    if pa.types.is_null(kind):
        return np.zeros(rows, np.int64)
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        return np.arange(rows, dtype=np.int64)
    if pa.types.is_floating(kind):  # as numbers, 0.0 and -0.0 are equal
        column = column.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width])
    found = column.dictionary_encode(null_encoding="encode").indices
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _list_kinds(column: pa.Array) -> NDArray[np.int64]:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = _kinds(column.flatten())
    begin = np.cumsum(np.maximum(lengths, 0)) - np.maximum(lengths, 0)
    known, of = np.unique(lengths, return_inverse=True)
    if len(known) > _MOST_LENGTHS or known[-1:].max(initial=0) > _LONGEST:
        return np.arange(len(column), dtype=np.int64)
    codes = np.zeros(len(column), np.int64)
    for n, length in enumerate(known.tolist()):
        rows = np.flatnonzero(of == n)
        for place in range(length):
            codes[rows] = _both(codes[rows], inner[begin[rows] + place])
    return _both(of.astype(np.int64), codes)


def _both(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every pair, small enough to be paired again."""
    pairs = one * (other.max(initial=0) + 1) + other
    return np.asarray(np.unique(pairs, return_inverse=True)[1], np.int64)
