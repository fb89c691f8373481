"""The area of a job: from a box, a file or text to a valid geometry in longitude and latitude."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import Geod, Transformer
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from catalogs.fetch import Fetch, parse_json
from catalogs.hrefs import is_remote, scheme_of
from jobs.spec import Area
from mapper.errors import MapperError, MissingError, SpecError, told
from mapper.grid import LONGEST_EDGE_DEG

LARGEST_FILE_BYTES = 64 * 1024 * 1024
MOST_CORNERS = 1_000_000
"""The borders of Canada with all their islands have 600,000 in the finest of the free data sets."""

MOST_PLACES = 10_000
"""Features that are places by themselves."""

MENDED_HERE = 20_000
"""Corners up to which any outline, however tangled, is mended within seconds."""

MENDING_S = 120.0
METRES_PER_DEGREE = 111_320.0
_DEEPEST_WKT = 6
_GEOD = Geod(ellps="WGS84")

_MENDER = """
import sys, shapely
given = shapely.from_wkb(sys.stdin.buffer.read())
sys.stdout.buffer.write(shapely.to_wkb(given if given.is_valid else shapely.make_valid(given)))
"""


def geometry_of(area: Area, *, folder: Path) -> BaseGeometry:
    """The area as a polygon or several, in longitude and latitude.

    What crosses itself is mended, a ring that is left open is closed, heights are dropped, and so are the points and
    lines beside polygons: they have no surface.

    Args:
        area: as in the job file.
        folder: where relative file names begin.

    Raises:
        SpecError: it cannot be read, is no polygon, is empty, too large or too tangled, or leaves the globe.
        CatalogError, CredentialsError: it is a URL, and the server is down or refuses us.
    """
    if area.bbox is not None:
        return box(*area.bbox)
    with np.errstate(all="ignore"):  # of numbers that are none: refused, once the geometry is there to be looked at
        if area.wkt is not None:
            return _checked(_from_wkt(area.wkt))
        assert area.geojson is not None  # Area has exactly one of the three
        return _checked(_from_geojson(_load(area.geojson, folder), area.geojson))


def places_of(area: Area, *, folder: Path, name: str) -> tuple[tuple[str, BaseGeometry], ...]:
    """The places of an area with their names: each feature of a GeoJSON document by itself, else the area as one.

    A feature is named as its property ``name`` says, else by its id, else by its number from 1; names that occur twice
    are told apart by a number.

    Args:
        area: as in the job file.
        folder: where relative file names begin.
        name: of the one place that a box or text is.

    Raises:
        SpecError, CatalogError, CredentialsError: as ``geometry_of``, of any of them.
    """
    if area.geojson is None:
        return ((name, geometry_of(area, folder=folder)),)
    document = _load(area.geojson, folder)
    if document.get("type") != "FeatureCollection":
        with np.errstate(all="ignore"):
            return ((_named(document, name), _checked(_from_geojson(document, area.geojson))),)
    features = document.get("features")
    if not isinstance(features, list) or not features:
        raise SpecError("area.geojson holds no features", fix="give some, or leave it out", file=area.geojson)
    if len(features) > MOST_PLACES:
        raise SpecError(
            f"area.geojson has {len(features):,} features; at most {MOST_PLACES:,} are places",
            fix="merge some",
            file=area.geojson,
        )
    names = [_named(feature, str(number)) for number, feature in enumerate(features, 1)]
    often, seen = Counter(names), Counter[str]()
    found = []
    for known, feature in zip(names, features, strict=True):
        seen[known] += 1
        told_apart = f"{known} ({seen[known]})" if often[known] > 1 else known
        with np.errstate(all="ignore"):
            geometry = _from_geojson(feature if isinstance(feature, dict) else {}, area.geojson)
            try:
                found.append((told_apart, _checked(geometry)))
            except SpecError as error:
                raise SpecError(error.what, fix=error.fix, file=area.geojson, feature=told_apart) from error
    return tuple(found)


def _named(feature: object, otherwise: str) -> str:
    """What a feature calls itself, in one line of what can be printed."""
    if not isinstance(feature, dict):
        return otherwise
    properties = feature.get("properties")
    known = properties if isinstance(properties, dict) else {}
    for value in (known.get("name"), known.get("Name"), known.get("NAME"), feature.get("id")):
        if isinstance(value, str | int) and (text := told(" ".join(str(value).split()), 100)):
            return text
    return otherwise


def _from_wkt(text: str) -> BaseGeometry:
    try:
        depth = accumulate(1 if mark == "(" else -1 for mark in re.findall("[()]", text))
        if max(depth, default=0) > _DEEPEST_WKT:  # the parser calls itself for each, until the process ends
            raise ValueError(f"brackets lie more than {_DEEPEST_WKT} deep")
        return shapely.from_wkt(text)
    except (ValueError, NotImplementedError, shapely.errors.ShapelyError) as error:
        raise SpecError(
            f"area.wkt is not WKT: {str(error)[:200]}", fix="as in POLYGON((12 55, 12.1 55, 12.1 55.1, 12 55))"
        ) from error


def _load(source: str, folder: Path) -> dict[str, Any]:
    fetch = Fetch(subject="area.geojson", page_limit_bytes=LARGEST_FILE_BYTES)
    place = source if is_remote(source) or scheme_of(source) else str(folder / source)
    try:
        content = fetch.read(place)
    except MapperError as error:
        kind = SpecError if isinstance(error, MissingError) else type(error)
        raise kind(error.what, fix=error.fix, file=source) from error
    if content.count(b"[") > 2 * MOST_CORNERS:
        raise _too_many("some millions of", source)
    try:
        return parse_json(content, source)
    except MapperError as error:
        said = "is not JSON" if error.__cause__ else "holds no GeoJSON geometry"
        raise SpecError(f"area.geojson {said}", fix="save it as GeoJSON", file=source) from error


def _from_geojson(document: dict[str, Any], source: str) -> BaseGeometry:
    try:
        if document["type"] == "FeatureCollection":
            written = [feature["geometry"] for feature in document["features"]]
            return shapely.GeometryCollection([shape(geometry) for geometry in written if geometry is not None])
        return shape(document["geometry"] if document["type"] == "Feature" else document)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, shapely.errors.ShapelyError) as error:
        raise SpecError(
            "area.geojson holds no GeoJSON geometry",
            fix="give a Polygon, a Feature or a FeatureCollection",
            file=source,
        ) from error


def _checked(geometry: BaseGeometry) -> BaseGeometry:
    corners = int(shapely.get_num_coordinates(geometry))
    if corners > MOST_CORNERS:
        raise _too_many(f"{corners:,}", "")
    if corners:
        _check_degrees(geometry)
    flat = _polygons(_mended(shapely.force_2d(geometry), corners))
    whole = shapely.union_all(flat)
    if whole.is_empty:
        raise SpecError("the area is empty or has no surface", fix="give a polygon")
    return whole


def _check_degrees(geometry: BaseGeometry) -> None:
    longitudes, latitudes = shapely.get_coordinates(geometry).T
    west, south, east, north = longitudes.min(), latitudes.min(), longitudes.max(), latitudes.max()
    if west >= -180 and east <= 180 and south >= -90 and north <= 90:
        return
    said = f"the area reaches {west:g}, {south:g}, {east:g}, {north:g}, which is not longitude and latitude"
    if west >= -90 and east <= 90 and south >= -180 and north <= 180:
        raise SpecError(f"{said}: they stand the other way round", fix="give longitude first, then latitude")
    if south >= -90 and north <= 90 and west >= -360 and east <= 360:
        raise SpecError(
            f"{said} within ±180",
            fix="cut it at the antimeridian: a MULTIPOLYGON with the part on either side",
        )
    raise SpecError(said, fix="give degrees, longitude first")


def _mended(geometry: BaseGeometry, corners: int) -> BaseGeometry:
    """The geometry, valid. A large one is looked at in another process: a tangled one takes hours, and GEOS, which
    looks, cannot be stopped."""
    if corners <= MENDED_HERE:
        return shapely.make_valid(geometry)
    try:
        command = [sys.executable, "-I", "-c", _MENDER]
        done = subprocess.run(
            command, input=shapely.to_wkb(geometry), capture_output=True, timeout=MENDING_S, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise SpecError(
            f"the outline of the area, of {corners:,} corners, crosses itself too often to be mended",
            fix="simplify it",
        ) from error
    return shapely.from_wkb(done.stdout)


def _polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The polygons in a geometry, and in the collections in it."""
    if geometry.geom_type == "Polygon":
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _too_many(corners: str, source: str) -> SpecError:
    return SpecError(
        f"the outline of the area has {corners} corners; at most {MOST_CORNERS:,} are read",
        fix="simplify it: a corner a pixel is more than any map shows",
        file=source,
    )


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
    return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))


def area_km2(area: BaseGeometry) -> float:
    """Its surface on the ellipsoid."""
    return float(sum(abs(_GEOD.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(area)) / 1e6)
