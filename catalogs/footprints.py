"""Where an item lies, from whatever its catalog says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    (plain,) = plain_footprints([doc])
    return _any_footprint(doc) if plain is None else plain


def footprints_of(docs: Sequence[Mapping[str, Any]]) -> list[BaseGeometry]:
    """Where each of many items lies; as for one, and sooner."""
    found = plain_footprints(docs)
    return [_any_footprint(doc) if plain is None else plain for doc, plain in zip(docs, found, strict=True)]


def _any_footprint(doc: Mapping[str, Any]) -> BaseGeometry:
    written = doc.get("geometry")
    try:
        with np.errstate(all="ignore"):  # of numbers that are none: refused just below
            return _looked_at(doc, written)
    except (ShapelyError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise CatalogError(f"an item's geometry is none: {str(error)[:120]}", item=str(doc.get("id"))[:200]) from error


def _looked_at(doc: Mapping[str, Any], written: object) -> BaseGeometry:
    """The footprint of any item."""
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
    if geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise CatalogError("an item's geometry is no place on Earth", item=doc.get("id"))
    return geometry


def plain_footprints(docs: Sequence[Mapping[str, Any]]) -> list[BaseGeometry | None]:
    """The footprints of ordinary items, all at once: valid polygons of one ring, well within the map.

    None for an item that may be anything else; there ``footprint_of`` looks at all. Where both answer, they agree.
    """
    found: list[BaseGeometry | None] = [None] * len(docs)
    rings = {n: ring for n, doc in enumerate(docs) if (ring := _plain_ring(doc)) is not None}
    if not rings:
        return found
    try:
        corners = np.array([corner for ring in rings.values() for corner in ring], np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2:
            raise ValueError("corners of more than two numbers")
    except (TypeError, ValueError, OverflowError):  # one odd corner spoils all that are looked at with it
        half = len(docs) // 2
        return [*plain_footprints(docs[:half]), *plain_footprints(docs[half:])] if half else found
    numbers, sizes = np.array(list(rings)), np.array([len(ring) for ring in rings.values()])
    last = np.cumsum(sizes) - 1
    first = last - sizes + 1
    inside = np.isfinite(corners).all(axis=1) & (np.abs(corners[:, 0]) <= 180)
    good = np.logical_and.reduceat(inside, first) & (corners[first] == corners[last]).all(axis=1)
    kept = np.repeat(good, sizes)
    if good.any():
        shells = shapely.linearrings(corners[kept], indices=np.repeat(np.arange(good.sum()), sizes[good]))
        polygons = shapely.polygons(shells)
        for n, polygon, valid in zip(
            numbers[good].tolist(), polygons, shapely.is_valid(polygons).tolist(), strict=True
        ):
            found[n] = polygon if valid else None
    return found


def _plain_ring(doc: Mapping[str, Any]) -> list[Any] | None:
    written = doc.get("geometry")
    if type(written) is not dict or written.get("type") != "Polygon":
        return None
    try:
        west, south, east, north = cast("list[float]", doc.get("bbox"))
        (ring,) = written["coordinates"]
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            return None
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    plain = isinstance(ring, list) and len(ring) >= 4 and isinstance(ring[0], list) and len(ring[0]) == 2
    return ring if plain else None


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
