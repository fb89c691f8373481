"""The places of a question: polygons of a file or a table, a box, or all that a mosaic was asked to map.

An edge is straight in the CRS in which it is given; before it is carried to another it is cut to pieces of 500 m.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry import MultiPolygon, box
from shapely.geometry.base import BaseGeometry

from mapper.errors import QuestionError

if TYPE_CHECKING:
    import geopandas as gpd

LONLAT = "OGC:CRS84"
GEOJSON = (".geojson", ".json", ".geojsonl", ".geojsons")
"""Files whose coordinates are longitude and latitude unless they say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Named polygons in one CRS, in the order of their file."""

    names: tuple[str, ...]
    geometries: tuple[BaseGeometry, ...]
    """Valid polygons and multipolygons, x before y."""

    crs: str
    """A code such as ``EPSG:3035``, or WKT."""

    notes: tuple[str, ...] = field(default=())
    """What was mended or left out, a sentence each."""


def in_box(west: float, south: float, east: float, north: float) -> Places:
    """The place between two meridians and two parallels, in degrees.

    Raises:
        QuestionError: they are no box.
    """
    bounds = (west, south, east, north)
    said = ",".join(f"{value:g}" for value in bounds)
    if not all(math.isfinite(value) for value in bounds):
        raise QuestionError(f"a box of {said} has no bounds", fix="give west,south,east,north in degrees")
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise QuestionError(
            f"a box of {said} leaves the globe", fix="give west,south,east,north in degrees, longitude first"
        )
    if south >= north:
        raise QuestionError(f"a box of {said} has its south above its north", fix="give west,south,east,north")
    if west >= east:
        raise QuestionError(
            f"a box of {said} has its west beyond its east",
            fix="give west,south,east,north; a place across the antimeridian is asked about with a file, "
            "as one feature of two polygons",
        )
    return Places(names=(said,), geometries=(box(*bounds),), crs=LONLAT)


def from_file(path: str | Path, *, column: str | None = None, crs: str | None = None) -> Places:
    """The polygons of a vector file, one place a row.

    Args:
        path: anything GDAL reads as vectors, and GeoParquet.
        column: whose values name the places; the first with ``name`` in its own name where left out, and the row's
            number, from 1, where there is none.
        crs: of its coordinates, where the file does not say; where it does, this goes before it.

    Raises:
        QuestionError: it cannot be read, holds no polygons, or does not say where they lie.
    """
    table, notes = _read(Path(path))
    file = Path(path).name
    if crs is not None:
        known = _crs_of(crs)
        if table.crs is not None and not known.equals(table.crs, ignore_axis_order=True):
            notes.append(f"{file}: coordinates taken as {crs}, not as {_code(table.crs)}, which the file says")
        table = table.set_crs(known, allow_override=True)
    if table.crs is None:
        if Path(path).suffix.lower() not in GEOJSON:
            raise QuestionError(
                "the file does not say in which CRS its coordinates are",
                fix="say it with crs (--crs EPSG:25832 and the like)",
                file=str(path),
            )
        table = table.set_crs(LONLAT)
    return from_table(table, column=column, source=file, notes=notes)


def from_table(
    table: gpd.GeoDataFrame, *, column: str | None = None, source: str = "the table", notes: Sequence[str] = ()
) -> Places:
    """The polygons of a GeoDataFrame, one place a row; see ``from_file``."""
    if table.crs is None:
        raise QuestionError("the table has no CRS", fix="set one, as in table.set_crs('EPSG:25832')")
    said = list(notes)
    kept: list[tuple[str, BaseGeometry]] = []
    for name, geometry in zip(_names(table, column, source), table.geometry.to_numpy(), strict=True):
        polygons = _polygons(name, geometry, source, said)
        if polygons is not None:
            kept.append((name, polygons))
    if not kept:
        raise QuestionError(f"{source} holds no polygons", fix="give polygons, such as the outlines of districts")
    crs = CRS.from_user_input(table.crs)
    if crs.is_geographic:
        _check_degrees(source, np.array([geometry.bounds for _, geometry in kept]))
    return Places(
        names=_told_apart([name for name, _ in kept]),
        geometries=tuple(geometry for _, geometry in kept),
        crs=_code(crs),
        notes=tuple(said),
    )


def did_you_mean(wanted: str, known: Sequence[str]) -> str:
    """What to do about a name that is not there: the nearest that is, or all of them."""
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    listed = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"there is {listed}" if listed else "there is none"


def polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The surfaces of any geometry: a polygon, a multipolygon, or an empty one."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    nested = [inner for part in shapely.get_parts(geometry) if part.geom_type == "GeometryCollection"
              for inner in shapely.get_parts(polygons_of(part))]  # fmt: skip
    flat = [polygon for part in [*parts, *nested] for polygon in shapely.get_parts(part)]
    return MultiPolygon(flat) if flat else MultiPolygon()


def _read(path: Path) -> tuple[gpd.GeoDataFrame, list[str]]:
    """The table of a file, and what should be said of how it was read."""
    import geopandas as gpd

    if not path.exists():
        raise QuestionError("there is no such file", fix="check the path", file=str(path))
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path), []
        listed = gpd.list_layers(path)
        layers = [str(name) for name in listed["name"][listed["geometry_type"].notna()]]
        if not layers:
            raise QuestionError("the file holds no geometries", fix="give a file of polygons", file=str(path))
        table = gpd.read_file(path, layer=layers[0], engine="pyogrio")
    except QuestionError:
        raise
    except Exception as error:  # GDAL, pyarrow and geopandas each have errors of their own for a file that is none
        said = str(error).partition(";")[0][:300]
        raise QuestionError(
            f"the file cannot be read as polygons: {said}",
            fix="give GeoJSON, GeoPackage, GeoParquet or a shapefile",
            file=str(path),
        ) from error
    notes = [f"{path.name}: read its first layer, {layers[0]}, of {len(layers)}"] if len(layers) > 1 else []
    if not isinstance(table, gpd.GeoDataFrame):
        raise QuestionError("the file holds no geometries", fix="give a file of polygons", file=str(path))
    return table, notes


def _names(table: gpd.GeoDataFrame, column: str | None, source: str) -> list[str]:
    columns = [str(name) for name in table.columns if name != table.geometry.name]
    if column is not None and column not in columns:
        raise QuestionError(f"{source} has no column {column!r}", fix=did_you_mean(column, columns))
    if column is None:
        exact = [name for name in columns if name.lower() == "name"]
        column = next(iter([*exact, *(name for name in columns if "name" in name.lower())]), None)
    if column is None:
        return [str(row) for row in range(1, len(table) + 1)]
    values: list[Any] = table[column].tolist()
    missing = table[column].isna().tolist()
    return [
        f"row {row}" if gone or not str(value).strip() else str(value)
        for row, (value, gone) in enumerate(zip(values, missing, strict=True), 1)
    ]


def _polygons(name: str, geometry: BaseGeometry | None, source: str, notes: list[str]) -> BaseGeometry | None:
    """The place as valid polygons; None, with a note, where the row has no geometry."""
    if geometry is None or geometry.is_empty:
        notes.append(f"{source}: {name} has no geometry and is left out")
        return None
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise QuestionError(f"{source}: the outline of {name} has coordinates that are no numbers", fix="mend the file")
    flat = shapely.force_2d(geometry)
    whole = polygons_of(flat)
    if whole.is_empty:
        raise QuestionError(
            f"{source}: {name} is a {geometry.geom_type} and has no surface",
            fix="give polygons; buffer lines and points",
        )
    if flat.geom_type == "GeometryCollection":
        notes.append(f"{source}: {name} is a collection, of which only the polygons are asked about")
    if not whole.is_valid:
        notes.append(f"{source}: the outline of {name} was mended ({shapely.is_valid_reason(whole)})")
        whole = polygons_of(shapely.make_valid(whole))
        if whole.is_empty:
            raise QuestionError(f"{source}: the outline of {name} encloses nothing", fix="mend it or take it out")
    return whole


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that occur twice with a number behind them."""
    times, seen, out = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        out.append(f"{name} ({seen[name]})" if times[name] > 1 else name)
    return tuple(out)


def _check_degrees(source: str, bounds: Any) -> None:
    west, south = bounds[:, :2].min(axis=0)
    east, north = bounds[:, 2:].max(axis=0)
    if west < -180 - 1e-6 or east > 180 + 1e-6 or south < -90 - 1e-6 or north > 90 + 1e-6:
        raise QuestionError(
            f"{source} reaches {west:g}, {south:g}, {east:g}, {north:g}, which is not longitude and latitude",
            fix="say in which CRS its coordinates are, with crs (--crs EPSG:25832 and the like)",
        )


def _crs_of(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise QuestionError(f"{text!r} is no CRS", fix="use a code such as EPSG:25832") from error


def _code(crs: CRS) -> str:
    authority = CRS.from_user_input(crs).to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(CRS.from_user_input(crs).to_wkt())
