"""Alerts in one GeoParquet file that grows by a row a changed polygon: DuckDB, geopandas and QGIS open it at any time.

The file is read whole, and put whole in place of itself, by one at a time: whoever reads it sees it before or after,
never between. That costs as much as the file is large, so it is refused past ``MOST_BYTES``, some millions of rows;
then another file is named. What comes twice is kept once, by alert and polygon.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from jobs.monitors.alert import Alert
from jobs.monitors.changed_file import MOMENT, every_polygon, geoparquet_bytes
from jobs.monitors.sinks.turn import alone_with
from mapper.errors import DeliveryError, MapperError, MosaicError, StoreError
from mapper.storage import Folder

MOST_BYTES = 256 << 20

_TEXT = pa.string()

SCHEMA = pa.schema(
    [
        pa.field("alert", _TEXT, nullable=False),
        pa.field("id", _TEXT, nullable=False),
        pa.field("revises", _TEXT),
        *(pa.field(name, _TEXT, nullable=False) for name in ("monitor", "rule", "place", "prompt", "expression")),
        pa.field("change", _TEXT, nullable=False),
        pa.field("time", MOMENT, nullable=False),
        pa.field("before", MOMENT),
        pa.field("due", MOMENT, nullable=False),
        pa.field("area_m2", pa.float64(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("first_seen", MOMENT),
        pa.field("last_seen", MOMENT),
        pa.field("mosaic", _TEXT, nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""``alert`` is its key and ``id`` the polygon's, together they tell rows apart; ``revises`` the key of an earlier alert
whose rows these take the place of. ``area_m2`` and the geometry are of the part inside the place."""


class GrowingFile:
    """One file, on this machine or in a bucket. Threads and processes may grow it together."""

    def __init__(self, url: str) -> None:
        """Nothing is looked at or made yet."""
        folder, _, name = url.rpartition("/")
        self._url, self._name = url, name
        self._folder = Folder(folder or ("/" if url.startswith("/") else "."))

    def send(self, alert: Alert) -> None:
        """Add the rows of one alert that are not there yet. One that takes back what was told has none.

        Raises:
            DeliveryError: somebody else is at it, it is full, or something else is there.
            StoreError, CredentialsError: it cannot be read or written now.
        """
        rows = _rows(alert)
        if not rows.num_rows:
            return
        try:
            with alone_with(self._folder, self._name) as still_alone:
                there = self._read()
                if there is not None:
                    rows = pa.concat_tables([there, _without(rows, there)])
                    if rows.num_rows == there.num_rows:
                        return
                content = geoparquet_bytes(rows, {"rows": "one a changed polygon of an alert"})
                still_alone()
                self._folder.write(self._name, content)
        except (MosaicError, StoreError) as error:
            raise DeliveryError(
                f"the file of alerts cannot be written: {error.what}", fix="mend it, or name another", file=self._url
            ) from error

    def _read(self) -> pa.Table | None:
        """The rows that are there; None where there is no file yet."""
        try:
            content = self._folder.read(self._name)
        except FileNotFoundError:
            return None
        if len(content) > MOST_BYTES:
            raise self._error("is full: every alert writes it anew, and it is larger than that is worth")
        try:
            return pq.read_table(pa.BufferReader(content)).select(SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise self._error("is something else, and is left as it is") from error

    def _error(self, what: str) -> MapperError:
        return DeliveryError(f"the file of alerts {what}", fix="name another in monitor.sinks", file=self._url)


def _rows(alert: Alert) -> pa.Table:
    same = {
        "alert": alert.key,
        **{name: getattr(alert, name) for name in SCHEMA.names if name in Alert.model_fields and name != "area_m2"},
    }
    rows = [
        {**same, **dict(one.properties), "geometry": shapely.to_wkb(shapely.geometry.shape(one.geometry))}
        for one in every_polygon(alert)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _without(rows: pa.Table, there: pa.Table) -> pa.Table:
    """Those rows that are not there yet, by alert and polygon."""
    known = set(zip(there["alert"].to_pylist(), there["id"].to_pylist(), strict=True))
    pairs = zip(rows["alert"].to_pylist(), rows["id"].to_pylist(), strict=True)
    return rows.filter(pa.array([pair not in known for pair in pairs], pa.bool_()))
