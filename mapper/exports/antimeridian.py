"""Outlines across the 180th meridian, parted there: a polygon from 179° to −179° would go around the Earth."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

_WIDEST = 180.0
"""Degrees. What is wider was torn apart: nothing that a zone or a map of a continent holds is half an Earth."""

_POLYGON = 3


def parted(outlines: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons in longitude and latitude, those that were torn apart as multipolygons of what lies east and west.

    Args:
        outlines: of things narrower than half the Earth, longitudes in −180 to 180.
    """
    bounds = shapely.bounds(outlines)
    torn = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > _WIDEST)
    if not len(torn):
        return outlines
    whole = shapely.transform(outlines[torn], lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    east = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
    west = shapely.transform(
        shapely.intersection(whole, shapely.box(180, -90, 360, 90)), lambda xy: xy - np.array([360.0, 0.0])
    )
    parts, owner = shapely.get_parts(np.concatenate([east, west]), return_index=True)
    solid = shapely.get_type_id(parts) == _POLYGON
    parts, owner = parts[solid], owner[solid] % len(torn)
    order = np.argsort(owner, kind="stable")
    result = outlines.copy()
    result[torn] = shapely.multipolygons(parts[order], indices=owner[order])
    return result
