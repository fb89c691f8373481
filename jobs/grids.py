"""Which pixels a job maps: native, UTM by zone, or a named CRS; and where items lie on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from catalogs.select import utm_zones
from jobs.areas import area_km2, projected
from jobs.spec import JobSpec
from mapper.errors import EmptySearchError, GridError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import Item, PlacedItem


def lay_grids(spec: JobSpec, items: Sequence[Item], area: BaseGeometry) -> list[tuple[Grid, BaseGeometry]]:
    """The grids of a job, each with the part of the area it maps, in its CRS."""
    shard_px, chunk_px = spec.grid.shard_px, spec.grid.chunk_px
    if spec.grid.crs == "utm":
        assert spec.grid.resolution_m is not None  # GridSpec asks for it
        laid = []
        for zone in utm_zones(area):
            lattice = Lattice(crs=zone.crs, res_x=spec.grid.resolution_m, res_y=spec.grid.resolution_m)
            shape = projected(zone.strip, zone.crs)
            laid.append((Grid.over(lattice, shape.bounds, name=zone.name, shard_px=shard_px, chunk_px=chunk_px), shape))
        return laid
    lattice = native_lattice(items) if spec.grid.crs == "native" else _named_lattice(spec)
    shape = projected(area, lattice.crs)
    return [(Grid.over(lattice, shape.bounds, shard_px=shard_px, chunk_px=chunk_px), shape)]


def _named_lattice(spec: JobSpec) -> Lattice:
    assert spec.grid.resolution_m is not None  # GridSpec asks for it
    try:
        crs = CRS.from_user_input(spec.grid.crs)
    except CRSError as error:
        raise GridError(
            f"grid.crs {spec.grid.crs!r} is no CRS", fix="use native, utm, or a code such as EPSG:32645"
        ) from error
    if not crs.is_projected:
        raise GridError(
            f"grid.crs {spec.grid.crs} counts in degrees, and the resolution is in metres",
            fix="use a projected CRS, or utm",
        )
    return Lattice(crs=spec.grid.crs, res_x=spec.grid.resolution_m, res_y=spec.grid.resolution_m)


def native_lattice(items: Sequence[Item]) -> Lattice:
    """The lattice that all items lie on.

    Raises:
        GridError: an item does not say where its pixels lie, or they lie on several lattices.
    """
    lattice: Lattice | None = None
    for item in items:
        placement = item.bands[0].asset.placement
        if placement is None:
            raise GridError(
                "crs: native needs items that say where their pixels lie (proj:code, proj:transform)",
                fix="set grid.crs and grid.resolution_m",
                item=item.id,
            )
        own = _lattice_of(placement.crs, placement.transform)
        if lattice is None:
            lattice = own
        elif own.crs != lattice.crs or lattice.offset_of(placement.transform) is None:
            raise GridError(
                f"the items lie on several pixel grids ({_described(lattice)}; {_described(own)})",
                fix=f"set grid: {{crs: {_suggested(items)}, resolution_m: {lattice.res_x:g}}}",
                item=item.id,
            )
    if lattice is None:
        raise EmptySearchError("no imagery to take a native grid from", fix="widen the search")
    return lattice


def _lattice_of(crs: str, transform: Affine) -> Lattice:
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise GridError("crs: native needs imagery that is north-up", fix="set grid.crs and grid.resolution_m")
    return Lattice(
        crs=crs,
        res_x=transform.a,
        res_y=-transform.e,
        phase_x=_phase(transform.c, transform.a),
        phase_y=_phase(transform.f, -transform.e),
    )


def _phase(edge: float, res: float) -> float:
    """The sub-pixel part of an edge; a thousandth of a pixel is dust of the file format, not a phase."""
    part = edge / res - math.floor(edge / res + 1e-3)
    return 0.0 if part < 1e-3 else part * res


def _described(lattice: Lattice) -> str:
    return f"{lattice.crs} at {lattice.res_x:g}, phase {lattice.phase_x:.3g} {lattice.phase_y:.3g}"


def _suggested(items: Sequence[Item]) -> str:
    codes = Counter(item.bands[0].asset.placement.crs for item in items if item.bands[0].asset.placement)
    return next(iter(codes)) if len(codes) == 1 else "utm"


def placed(item: Item, lattice: Lattice) -> PlacedItem:
    """The item with the lattice pixels it may fill."""
    return PlacedItem(item=item, extent=_extent(item, lattice))


@lru_cache(maxsize=500_000)
def _extent_of_raster(crs: str, transform: Affine, shape: tuple[int, int], lattice: Lattice) -> PixelBox:
    offset = lattice.offset_of(transform) if crs == lattice.crs else None
    if offset is not None:
        return PixelBox(offset[0], offset[1], offset[0] + shape[0], offset[1] + shape[1])
    rows, columns = shape
    corners = [transform @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return _pixels_between(crs, (min(x), min(y), max(x), max(y)), lattice)


def _extent(item: Item, lattice: Lattice) -> PixelBox:
    """The pixels under any of the item's files; from the footprint where a file's place is not stated."""
    extent: PixelBox | None = None
    for band in item.bands:
        placement = band.asset.placement
        if placement is None:
            return _pixels_between("OGC:CRS84", item.footprint.bounds, lattice)
        own = _extent_of_raster(placement.crs, placement.transform, placement.shape, lattice)
        extent = own if extent is None else extent.union(own)
    assert extent is not None  # an item has at least one band
    return extent


def _pixels_between(crs: str, bounds: tuple[float, float, float, float], lattice: Lattice) -> PixelBox:
    left, bottom, right, top = _transformer(crs, lattice.crs).transform_bounds(*bounds, densify_pts=21)
    if not all(math.isfinite(value) for value in (left, bottom, right, top)):
        return PixelBox(0, 0, 0, 0)
    near = lattice.pixels((left, bottom, right, top))
    return PixelBox(near.top - 1, near.left - 1, near.bottom + 1, near.right + 1)


@lru_cache(maxsize=256)
def _transformer(one: str, other: str) -> Transformer:
    return Transformer.from_crs(one, other, always_xy=True)


def pixel_km2(lattice: Lattice, place: PixelBox) -> float:
    """Surface of a pixel in the middle of a box, on the ellipsoid."""
    row, column = (place.top + place.bottom) // 2, (place.left + place.right) // 2
    outline = box(*lattice.bounds(PixelBox(row, column, row + 1, column + 1)))
    corners = shapely.transform(outline, lambda xy: _lonlat(lattice.crs, xy))
    return area_km2(corners)


def _lonlat(crs: str, xy: object) -> object:
    points = np.asarray(xy)
    return np.column_stack(_transformer(crs, "OGC:CRS84").transform(points[:, 0], points[:, 1]))
