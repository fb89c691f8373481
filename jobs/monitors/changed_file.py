"""The changed polygons of an alert as a GeoParquet file, whole: an alert itself holds the largest alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pyproj import CRS

from jobs.monitors.alert import Alert, ChangedPlace, Feature
from mapper.errors import DeliveryError, StoreError
from mapper.exports.geoparquet import write_geoparquet
from mapper.questions.places import LONLAT
from mapper.storage import Folder

NAME = "places.parquet"

MOMENT = pa.timestamp("ms", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("area_m2", pa.float64(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("first_seen", MOMENT),
        pa.field("last_seen", MOMENT),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""``area_m2`` is of the part inside the alert's place, and so is the geometry."""


def geoparquet_bytes(table: pa.Table, facts: dict[str, Any]) -> bytes:
    """A table whose last column is ``geometry`` (WKB, longitude and latitude) as a GeoParquet 1.1 file."""
    with tempfile.TemporaryDirectory(prefix="resmap-") as folder:
        path = Path(folder) / "rows.parquet"
        write_geoparquet(path, table.schema, table.to_batches(), CRS.from_user_input(LONLAT), lambda: facts)
        return path.read_bytes()


def written(features: Sequence[Feature]) -> bytes:
    """The file of these polygons."""
    rows = [
        {**dict(one.properties), "geometry": shapely.to_wkb(shapely.geometry.shape(one.geometry))} for one in features
    ]
    return geoparquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA), {})


def read_back(content: bytes) -> tuple[Feature, ...]:
    """The polygons in such a file, the largest first.

    Raises:
        DeliveryError: it is none.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(content)).select(SCHEMA.names).to_pylist()
        found = [feature(shapely.from_wkb(row.pop("geometry")), **row) for row in rows]
    except (pa.ArrowException, ValueError, KeyError, shapely.errors.ShapelyError) as error:
        raise DeliveryError("the file of an alert's polygons is damaged", fix="see what lies there") from error
    return tuple(sorted(found, key=lambda one: (-one.properties.area_m2, one.id)))


def feature(
    geometry: Any,
    *,
    id: str,
    area_m2: float,
    score: float | None,
    first_seen: datetime | None,
    last_seen: datetime | None,
) -> Feature:
    """One polygon as alerts have it."""
    place = ChangedPlace(id=id, area_m2=area_m2, score=score, first_seen=first_seen, last_seen=last_seen)
    return Feature(id=id, geometry=json.loads(shapely.to_geojson(geometry)), properties=place)


def every_polygon(alert: Alert) -> tuple[Feature, ...]:
    """All changed polygons of an alert: its own where it holds them all, else those of its file.

    Raises:
        DeliveryError: the file is gone or damaged.
        StoreError: it cannot be read now.
    """
    held = alert.polygons.features
    if len(held) == alert.count or alert.places is None:
        return held
    folder, _, name = alert.places.rpartition("/")
    try:
        return read_back(Folder(folder).read(name))
    except FileNotFoundError as error:
        raise DeliveryError(
            f"the alert has {alert.count:,} polygons, and the file that holds them all is gone",
            fix="bring it back, or remove the alert",
            file=alert.places,
        ) from error
    except StoreError as error:
        raise StoreError(
            "the file of an alert's polygons cannot be read now", fix=error.fix, file=alert.places
        ) from error
