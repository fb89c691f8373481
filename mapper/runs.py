"""What the runs beside a mosaic tell of it: the area they were asked for, their items, how far they are.

``jobs/ledger.py`` writes these files and says what they hold; here they are read only, with what a notebook has.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from mapper.errors import MosaicError
from mapper.storage import state_folder

if TYPE_CHECKING:
    import geopandas as gpd

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
    return facts.get("state") not in ("done", "quarantined") or bool(facts.get("levels_behind"))


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
    """The items that a mosaic was made of: the row's number is what the source layer holds.

    Returns:
        A GeoDataFrame in longitude and latitude, with the columns of stac-geoparquet.

    Raises:
        MosaicError: no run lies beside the mosaic, or its table is damaged.
    """
    import geopandas as gpd
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = state_folder(mosaic).child("runs")
    runs = [run for run, _ in _runs(mosaic) if folder.exists(f"{run}/items.parquet")]
    if not runs:
        raise MosaicError(
            "no item table lies beside this mosaic", fix="only a mosaic that a run has written has one", mosaic=mosaic
        )
    try:
        table = pq.read_table(io.BytesIO(folder.read(f"{runs[-1]}/items.parquet")))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(f"{folder.url}/{runs[-1]}", "items.parquet") from error
    frame = table.drop_columns([DOCUMENT] if DOCUMENT in table.column_names else []).to_pandas()
    outlines = shapely.from_wkb(frame["geometry"]) if "geometry" in frame else [None] * len(frame)
    known = gpd.GeoDataFrame(frame.drop(columns="geometry", errors="ignore"), geometry=list(outlines), crs="EPSG:4326")
    known.index.name = "source"
    return known


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
