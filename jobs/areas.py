"""The area of a job: from a box, a file or text to a valid geometry in longitude and latitude."""

from __future__ import annotations

import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import shapely
from pyproj import Geod, Transformer
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from jobs.spec import Area
from mapper.errors import SpecError
from mapper.questions.placed import LONGEST_EDGE_DEG

LARGEST_FILE_BYTES = 256 * 1024 * 1024
METRES_PER_DEGREE = 111_320.0
_GEOD = Geod(ellps="WGS84")


def geometry_of(area: Area, *, folder: Path) -> BaseGeometry:
    """The area as a polygon or several, in longitude and latitude.

    Args:
        area: as in the job file.
        folder: where relative file names begin.

    Raises:
        SpecError: it cannot be read, is no polygon, is empty, or leaves the globe.
    """
    if area.bbox is not None:
        return box(*area.bbox)
    if area.wkt is not None:
        try:
            geometry = shapely.from_wkt(area.wkt)
        except shapely.errors.ShapelyError as error:
            raise SpecError(
                f"area.wkt is not WKT: {error}", fix="as in POLYGON((12 55, 12.1 55, 12.1 55.1, 12 55))"
            ) from error
    else:
        assert area.geojson is not None  # Area has exactly one of the three
        geometry = _from_geojson(_load(area.geojson, folder), area.geojson)
    return _checked(geometry)


def _load(source: str, folder: Path) -> Any:
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=30) as answer:
                content = answer.read(LARGEST_FILE_BYTES + 1)
        else:
            path = folder / source
            if path.stat().st_size > LARGEST_FILE_BYTES:
                raise SpecError("area.geojson is larger than 256 MB", fix="simplify it", file=source)
            content = path.read_bytes()
        return json.loads(content)
    except OSError as error:
        raise SpecError(f"area.geojson cannot be read: {error}", fix="check the path or URL", file=source) from error
    except ValueError as error:
        raise SpecError(f"area.geojson is not JSON: {error}", fix="save it as GeoJSON", file=source) from error


def _from_geojson(document: Any, source: str) -> BaseGeometry:
    try:
        if document["type"] == "FeatureCollection":
            return shapely.union_all([shape(feature["geometry"]) for feature in document["features"]])
        return shape(document["geometry"] if document["type"] == "Feature" else document)
    except (KeyError, TypeError, AttributeError, ValueError, shapely.errors.ShapelyError) as error:
        raise SpecError(
            "area.geojson holds no GeoJSON geometry",
            fix="give a Polygon, a Feature or a FeatureCollection",
            file=source,
        ) from error


def _checked(geometry: BaseGeometry) -> BaseGeometry:
    polygons = [part for part in shapely.get_parts(shapely.make_valid(geometry)) for part in shapely.get_parts(part)]
    whole = shapely.union_all([part for part in polygons if part.geom_type in ("Polygon", "MultiPolygon")])
    if whole.is_empty:
        raise SpecError("the area is empty or has no surface", fix="give a polygon")
    west, south, east, north = whole.bounds
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise SpecError(
            f"the area reaches {west:g}, {south:g}, {east:g}, {north:g}, which is not longitude and latitude",
            fix="give degrees, longitude first",
        )
    return whole


def grown(area: BaseGeometry, margin_m: float) -> BaseGeometry:
    """The area and at least this far around it."""
    _, south, _, north = area.bounds
    shrink = max(0.05, math.cos(math.radians(min(89.0, max(abs(south), abs(north))))))
    # Round corners are drawn as two chords a quarter, which pass closer than the margin; a degree has 1 % to and fro.
    return area.buffer(1.01 * margin_m / math.cos(math.pi / 8) / METRES_PER_DEGREE / shrink, quad_segs=2)


def projected(area: BaseGeometry, crs: str) -> BaseGeometry:
    """The area in another CRS, its edges bent as they must."""
    transformer = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    fine = shapely.segmentize(area, LONGEST_EDGE_DEG)
    there = shapely.transform(fine, lambda xy: _moved(transformer, xy))
    return shapely.make_valid(there) if not there.is_valid else there


def _moved(transformer: Transformer, xy: Any) -> Any:
    import numpy as np

    return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))


def area_km2(area: BaseGeometry) -> float:
    """Its surface on the ellipsoid."""
    return float(sum(abs(_GEOD.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(area)) / 1e6)
