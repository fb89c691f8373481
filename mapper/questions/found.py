"""The objects of a mosaic that belong to places, as a table in longitude and latitude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from mapper.errors import MosaicError
from mapper.grid import PixelBox
from mapper.outlines import ObjectBatch, map_objects
from mapper.questions.asking import Asked
from mapper.questions.placed import Placed, to_lonlat
from mapper.questions.tally import Look
from mapper.runs import source_items

if TYPE_CHECKING:
    import geopandas as gpd

COLUMNS = {
    "feature": "object", "prompt": "object", "time": "datetime64[ns]", "score": "float64", "area_m2": "float64",
    "longitude": "float64", "latitude": "float64", "west": "float64", "south": "float64", "east": "float64",
    "north": "float64", "item": "object", "geometry": "object",
}  # fmt: skip
"""Names of the table's columns, and their dtypes where it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Objects of one batch that belong to one place."""

    place: int
    placed: Placed
    batch: ObjectBatch
    rows: NDArray[np.int64]
    """Their positions in the batch."""


def objects_in(about: Asked, look: Look, *, outlines: bool) -> Iterator[Found]:
    """The objects that begin in each place, each once."""
    (time,) = look.times
    for placed in about.placed:
        boxes = placed.boxes()
        for box in boxes:
            batches = map_objects(about.mosaic, placed.grid, prompt=look.prompt, time=time, box=box, outlines=outlines)
            for batch in batches:
                mine = np.flatnonzero(_in_box(batch.anchor, box))
                for place, rows in placed.holders(batch.anchor[mine]):
                    yield Found(place=place, placed=placed, batch=batch, rows=mine[rows])


def objects_table(
    about: Asked, looks: Sequence[Look], *, limit: int | None, order: Literal["area", "score"], outlines: bool
) -> gpd.GeoDataFrame:
    """The objects that begin in each place, the largest or most certain first; see ``mapper/questions/answers.py``."""
    import geopandas as gpd

    by = ["area_m2", "score"] if order == "area" else ["score", "area_m2"]
    best: list[pd.DataFrame] = []
    kept = 0
    for look in looks:
        for found in objects_in(about, look, outlines=outlines):
            rows = _rows(about, look, found, outlines=outlines)
            best.append(rows)
            kept += len(rows)
            if limit is not None and kept > 4 * limit + 10_000:
                best = [_first(best, by, limit)]
                kept = len(best[0])
    empty = pd.DataFrame({name: pd.Series([], dtype=dtype) for name, dtype in COLUMNS.items()})
    table = _first(best, by, limit) if best else empty
    table["item"] = _item_ids(about.mosaic.url, table["item"].to_numpy())
    return gpd.GeoDataFrame(table[list(COLUMNS)], geometry="geometry", crs="EPSG:4326")


def _first(tables: Sequence[pd.DataFrame], by: list[str], limit: int | None) -> pd.DataFrame:
    """The first rows of several tables; of equals, the northernmost."""
    ordered = pd.concat(tables).sort_values(
        [*by, "latitude", "longitude", "time"], ascending=[False, False, False, True, True]
    )
    return ordered.head(limit if limit is not None else len(ordered)).reset_index(drop=True)


def _rows(about: Asked, look: Look, found: Found, *, outlines: bool) -> pd.DataFrame:
    batch, rows, lattice = found.batch, found.rows, found.placed.grid.lattice
    anchor = batch.anchor[rows]
    at = np.column_stack(
        [lattice.phase_x + (anchor[:, 1] + 0.5) * lattice.res_x, lattice.phase_y - (anchor[:, 0] + 0.5) * lattice.res_y]
    )
    points = shapely.points(at)
    frames = shapely.box(*np.array([lattice.bounds(PixelBox(*map(int, edges))) for edges in batch.bounds[rows]]).T)
    shapes = batch.geometry[rows] if outlines else points
    there = [to_lonlat(one, lattice.crs) for one in (points, frames, shapes)]
    around = shapely.bounds(there[1])
    return pd.DataFrame(
        {
            "feature": about.places.names[found.place],
            "prompt": about.mosaic.prompts[look.prompt].name,
            "time": pd.Timestamp(about.mosaic.times[look.times[0]]).tz_convert("UTC").tz_localize(None),
            "score": batch.score[rows],
            "area_m2": batch.area_m2[rows],
            "longitude": shapely.get_x(there[0]),
            "latitude": shapely.get_y(there[0]),
            "west": around[:, 0],
            "south": around[:, 1],
            "east": around[:, 2],
            "north": around[:, 3],
            "item": batch.source[rows],
            "geometry": there[2],
        }
    )


def _item_ids(mosaic: str, sources: NDArray[Any]) -> list[str | None]:
    """Ids of the items that these numbers of the source layer stand for; None where there is none."""
    try:
        ids = source_items(mosaic).of("id", sources)
    except MosaicError:
        return [None] * len(sources)
    return [None if name is None else str(name) for name in ids]


def _in_box(anchors: NDArray[np.int64], box: PixelBox) -> NDArray[np.bool_]:
    rows, columns = anchors[:, 0], anchors[:, 1]
    inside: NDArray[np.bool_] = (rows >= box.top) & (rows < box.bottom) & (columns >= box.left) & (columns < box.right)
    return inside
