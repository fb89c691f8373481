"""Where an item lies, from whatever its catalog says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from mapper.errors import CatalogError


def footprint_of(doc: Mapping[str, Any]) -> BaseGeometry:
    """Where an item lies, longitude and latitude within ±180: its geometry, else its box.

    One that crosses the antimeridian comes back as its parts on either side.

    Raises:
        CatalogError: it has neither, or they are no place on Earth.
    """
    written = doc.get("geometry")
    plain = _plain(doc.get("bbox"), written)
    if plain is not None:
        return plain
    try:
        bounds = _bounds(doc.get("bbox"))
        geometry = shape(written) if isinstance(written, Mapping) else None
        if geometry is None or geometry.is_empty:
            if bounds is None:
                raise CatalogError("an item has no geometry and no bbox", item=doc.get("id"))
            west, south, east, north = bounds
            geometry = box(west, south, east + 360 if east < west else east, north)
        elif bounds[2] < bounds[0] if bounds else _jumps(geometry):
            geometry = _unwrapped(geometry)
        geometry = _wrapped(shapely.force_2d(geometry))
        geometry = geometry if geometry.is_valid else shapely.make_valid(geometry)
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CatalogError(f"an item's geometry is none: {str(error)[:120]}", item=doc.get("id")) from error
    if geometry.is_empty or not all(map(math.isfinite, geometry.bounds)):
        raise CatalogError("an item's geometry is no place on Earth", item=doc.get("id"))
    return geometry


def _plain(bbox: object, written: object) -> BaseGeometry | None:
    """The footprint of an ordinary item, in a tenth of the time: a valid polygon of one ring, well within the map.

    None where it may be anything else: then all is looked at.
    """
    if type(written) is not dict or written.get("type") != "Polygon":
        return None
    try:
        west, south, east, north = cast("list[float]", bbox)
        (ring,) = written["coordinates"]
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            return None
        ring = np.array(ring, np.float64)
    except (TypeError, ValueError, KeyError):
        return None
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 4:
        return None
    if not (np.abs(ring[:, 0]) <= 180).all() or not np.isfinite(ring).all() or (ring[0] != ring[-1]).any():
        return None
    polygon = shapely.Polygon(ring)
    return polygon if polygon.is_valid else None


def _bounds(bbox: object) -> tuple[float, float, float, float] | None:
    values = [float(value) for value in (bbox if isinstance(bbox, list | tuple) else ())]
    if len(values) == 6:
        values = [values[0], values[1], values[3], values[4]]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        return None
    return values[0], values[1], values[2], values[3]


def _jumps(geometry: BaseGeometry) -> bool:
    """Whether a polygon spans the Earth only because it is written across the antimeridian."""
    if geometry.geom_type != "Polygon":
        return False
    longitudes = shapely.get_coordinates(geometry)[:, 0]
    east = longitudes % 360
    wide, wrapped = longitudes.max() - longitudes.min(), east.max() - east.min()
    return bool(wide > 300 and 0 < wrapped < 60)


def _unwrapped(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry written across the antimeridian, its western longitudes counted on from 180."""
    return shapely.transform(geometry, lambda xy: np.where([True, False] & (xy < 0), xy + 360, xy))


def _wrapped(geometry: BaseGeometry) -> BaseGeometry:
    """What lies beyond ±180, put back within."""
    west, _, east, _ = geometry.bounds
    if west >= -180 and east <= 180:
        return geometry
    geometry = geometry if geometry.is_valid else shapely.make_valid(geometry)
    parts = []
    for turn in (-360, 0, 360):
        part = geometry.intersection(box(turn - 180, -90, turn + 180, 90))
        if part.area or (not geometry.area and not part.is_empty):
            parts.append(shapely.transform(part, lambda xy, turn=turn: xy - [turn, 0]))
    return shapely.union_all(parts)
