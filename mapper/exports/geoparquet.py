"""GeoParquet 1.1: a file whose readers skip what lies elsewhere.

Objects of one neighbourhood stand together, in groups of rows that know the box they lie in (the ``bbox`` column is the
covering that the standard names). Written as it comes: one group at a time is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pyproj import CRS

GROUP = 8_192
"""Rows of a group: a megabyte or two of houses."""

TOGETHER_BYTES = 16 << 20
"""Of rows that are sorted by place at once, and then written."""

BBOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])


def write_geoparquet(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], crs: CRS, facts: Callable[[], dict[str, Any]]
) -> None:
    """Write batches as they come.

    Args:
        path: of the file.
        schema: of the batches, with a column ``geometry`` of WKB as the last one; ``bbox`` is added.
        batches: the rows.
        crs: of the geometries; longitude comes before latitude.
        facts: what the key ``resmap`` of the file's metadata shall say, asked for when all rows are written.
    """
    full = schema.append(pa.field("bbox", BBOX, nullable=False))
    kinds: set[str] = set()
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with pq.ParquetWriter(path, full, compression="zstd", write_page_index=True) as writer:
        for rows in _together(batches, schema):
            shapes = shapely.from_wkb(rows["geometry"].to_numpy(zero_copy_only=False))
            bounds = shapely.bounds(shapes)
            kinds.update(np.unique([shape.geom_type for shape in shapes]).tolist())
            extent[:2] = np.minimum(extent[:2], bounds[:, :2].min(axis=0))
            extent[2:] = np.maximum(extent[2:], bounds[:, 2:].max(axis=0))
            order = pa.array(_along_a_curve(bounds))
            box = pa.StructArray.from_arrays([pa.array(side) for side in bounds.T], fields=list(BBOX))
            writer.write_table(rows.append_column(full.field("bbox"), box).take(order), row_group_size=GROUP)
        geometry: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(kinds),
            "crs": crs.to_json_dict(),
            "edges": "planar",
            "covering": {"bbox": {side.name: ["bbox", side.name] for side in BBOX}},
        }
        if kinds & {"Polygon", "MultiPolygon"}:
            geometry["orientation"] = "counterclockwise"
        if kinds:
            geometry["bbox"] = extent.tolist()
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        writer.add_key_value_metadata({"geo": json.dumps(geo), "resmap": json.dumps(facts())})


def _together(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterable[pa.Table]:
    held: list[pa.RecordBatch] = []
    nbytes = 0
    for batch in batches:
        held.append(batch)
        nbytes += batch.nbytes
        if nbytes >= TOGETHER_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, nbytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _along_a_curve(bounds: Any) -> Any:
    """An order in which neighbours stand together: the Z-curve of their middles, 2^16 cells a side."""
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    low, high = middle.min(axis=0), middle.max(axis=0)
    cell = ((middle - low) / np.maximum(high - low, np.finfo(float).tiny) * 0xFFFF).astype(np.uint64)
    code = np.zeros(len(cell), np.uint64)
    for bit in range(16):
        for axis in (0, 1):
            code |= ((cell[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + axis)
    return np.argsort(code, kind="stable")
