"""Which pixels a job maps: native, UTM by zone, or a named CRS; and where items lie on them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from catalogs.select import utm_zones
from jobs.areas import area_km2, projected
from jobs.spec import JobSpec
from mapper.errors import EmptySearchError, GridError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import Item, PlacedItem, Placement
from mapper.pixel_area import pixel_area_m2

_UTM = re.compile(r"^EPSG:32[67]\d\d$")

AREA_CELL = 50_000.0
"""Units of the CRS. A map's scale is averaged over cells of this side at most, from their corners: in UTM that is
within 4e-5 of the truth there, in web mercator within 5e-5."""

AREA_TILES = 16
"""Tiles along the side of the squares for which it is asked at once."""


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


def same_grids(spec: JobSpec, grids: Sequence[Grid], area: BaseGeometry) -> list[tuple[Grid, BaseGeometry]]:
    """The grids of a mosaic that there is, each with the part of the area it maps, in its CRS: as they were laid, and
    wherever items that came later may lie."""
    zones = utm_zones(area) if spec.grid.crs == "utm" else []
    parts = {zone.name: zone.strip for zone in zones}
    return [(grid, projected(parts.get(grid.name, area), grid.lattice.crs)) for grid in grids]


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
    known: set[Placement] = set()
    for item in items:
        placement = item.bands[0].asset.placement
        if placement is None:
            raise GridError(
                "crs: native needs items that say where their pixels lie (proj:code, proj:transform)",
                fix="set grid.crs and grid.resolution_m",
                item=item.id,
            )
        if placement in known:
            continue
        known.add(placement)
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
    return PlacedItem(item=item, extent=_spot_of(item).extent(lattice))


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an item lies: where its files do, or its footprint where one of them does not say."""

    rasters: tuple[Placement, ...]
    bounds: tuple[float, float, float, float] | None
    """Longitude and latitude; None where ``rasters`` tell."""

    def extent(self, lattice: Lattice) -> PixelBox:
        """The lattice pixels under any of the files."""
        if self.bounds is not None:
            return _pixels_between("OGC:CRS84", self.bounds, lattice)
        extents = [_extent_of_raster(raster.crs, raster.transform, raster.shape, lattice) for raster in self.rasters]
        return reduce(PixelBox.union, extents)


class Spots:
    """Where many items lie. Scenes of one place share a spot, so that it is looked for once and not every date."""

    def __init__(self, items: Sequence[Item]) -> None:
        known: dict[Spot, int] = {}
        numbers = (known.setdefault(_spot_of(item), len(known)) for item in items)
        self.of: NDArray[np.intp] = np.fromiter(numbers, np.intp, len(items))
        """Position of an item → position of its spot."""

        self._spots = tuple(known)
        self._in_utm: tuple[NDArray[np.intp], NDArray[np.float64], float] | None = None

    def extents(self, grid: Grid, *, margin_px: int) -> NDArray[np.int64]:
        """``(spot, 4)``: the extent of each as top, left, bottom, right, in lattice pixels.

        All 0 where it is sure to be further than ``margin_px`` from the grid.
        """
        extents = np.zeros((len(self._spots), 4), np.int64)
        for position in np.flatnonzero(self._near(grid, margin_px)):
            extent = self._spots[position].extent(grid.lattice)
            if not extent.empty:
                extents[position] = extent.top, extent.left, extent.bottom, extent.right
        return extents

    def _near(self, grid: Grid, margin_px: int) -> NDArray[np.bool_]:
        """Which may lie near a grid: between UTM zones most do not, and a look at degrees tells."""
        near = np.ones(len(self._spots), np.bool_)
        if not _UTM.match(grid.lattice.crs):
            return near
        self._in_utm = self._in_utm or self._degrees()
        positions, degrees, side_m = self._in_utm
        left, bottom, right, top = grid.lattice.bounds(grid.box)
        # An extent is a box around what may be turned: it ends within two diagonals of any corner of it.
        margin = 4 * side_m + margin_px * max(grid.lattice.res_x, grid.lattice.res_y)
        around = shapely.segmentize(box(left - margin, bottom - margin, right + margin, top + margin), 100_000)
        at = np.column_stack(_transformer(grid.lattice.crs, "OGC:CRS84").transform(*around.exterior.xy))
        if len(positions) and np.isfinite(at).all():
            # What crosses the antimeridian reaches around the Earth here: too near, and never too far.
            meets = (degrees[:, :2] <= at.max(axis=0)) & (degrees[:, 2:] >= at.min(axis=0))
            near[positions] = meets.all(axis=1) | ~np.isfinite(degrees).all(axis=1)
        return near

    def _degrees(self) -> tuple[NDArray[np.intp], NDArray[np.float64], float]:
        """The spots that lie in one UTM zone: position, bounds of the corners in degrees, longest side in metres."""
        by_crs: dict[str, list[int]] = defaultdict(list)
        for position, spot in enumerate(self._spots):
            if len(spot.rasters) == 1 and _UTM.match(spot.rasters[0].crs):
                by_crs[spot.rasters[0].crs].append(position)
        found, side_m = [np.empty((0, 4))], 0.0
        for crs, positions in by_crs.items():
            rasters = [self._spots[position].rasters[0] for position in positions]
            bounds = np.array([_bounds_of(raster.transform, raster.shape) for raster in rasters])
            side_m = max(side_m, float((bounds[:, 2:] - bounds[:, :2]).max()))
            x, y = bounds[:, [0, 2, 2, 0]], bounds[:, [1, 1, 3, 3]]
            corners = np.stack(_transformer(crs, "OGC:CRS84").transform(x, y), axis=1)
            found.append(np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=1))
        return np.array([n for ones in by_crs.values() for n in ones], np.intp), np.concatenate(found), side_m


def _spot_of(item: Item) -> Spot:
    rasters = dict.fromkeys(band.asset.placement for band in item.bands)
    if None in rasters:
        return Spot((), item.footprint.bounds)
    return Spot(tuple(raster for raster in rasters if raster is not None), None)


@lru_cache(maxsize=500_000)
def _extent_of_raster(crs: str, transform: Affine, shape: tuple[int, int], lattice: Lattice) -> PixelBox:
    offset = lattice.offset_of(transform) if crs == lattice.crs else None
    if offset is not None:
        return PixelBox(offset[0], offset[1], offset[0] + shape[0], offset[1] + shape[1])
    return _pixels_between(crs, _bounds_of(transform, shape), lattice)


def _bounds_of(transform: Affine, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    rows, columns = shape
    corners = [transform @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return min(x), min(y), max(x), max(y)


def _pixels_between(crs: str, bounds: tuple[float, float, float, float], lattice: Lattice) -> PixelBox:
    left, bottom, right, top = _transformer(crs, lattice.crs).transform_bounds(*bounds, densify_pts=21)
    if not all(math.isfinite(value) for value in (left, bottom, right, top)):
        return PixelBox(0, 0, 0, 0)
    near = lattice.pixels((left, bottom, right, top))
    return PixelBox(near.top - 1, near.left - 1, near.bottom + 1, near.right + 1)


@lru_cache(maxsize=1024)
def _transformer(one: str, other: str) -> Transformer:
    return Transformer.from_crs(one, other, always_xy=True)


def mean_pixel_km2(grid: Grid, row: int, column: int) -> float:
    """Mean surface of a pixel of one tile, on the ellipsoid, to 1e-4 of it: cheap enough to be asked for every tile."""
    tiles = _tiles_pixel_km2(grid.lattice, grid.shard_px, *_shard_block(grid, row, column))
    shard_row, shard_column = grid.box.top // grid.shard_px + row, grid.box.left // grid.shard_px + column
    return tiles[shard_row % AREA_TILES][shard_column % AREA_TILES]


def _shard_block(grid: Grid, row: int, column: int) -> tuple[int, int]:
    side = grid.shard_px * AREA_TILES
    return (grid.box.top + row * grid.shard_px) // side, (grid.box.left + column * grid.shard_px) // side


@lru_cache(maxsize=1024)
def _tiles_pixel_km2(lattice: Lattice, shard_px: int, block_row: int, block_column: int) -> list[list[float]]:
    """By row and column in a square of shards. They are pixels of a coarser lattice, and so are parts of large ones."""
    parts = math.ceil(shard_px * max(lattice.res_x, lattice.res_y) / AREA_CELL)
    px = shard_px / parts
    cells = replace(lattice, res_x=lattice.res_x * px, res_y=lattice.res_y * px)
    side = AREA_TILES * parts
    top, left = block_row * side, block_column * side
    area = pixel_area_m2(cells, PixelBox(top, left, top + side, left + side))
    means = area.reshape(AREA_TILES, parts, AREA_TILES, parts).mean(axis=(1, 3)) / (px * px) / 1e6
    found: list[list[float]] = means.tolist()
    return found


def pixel_km2(lattice: Lattice, place: PixelBox) -> float:
    """Surface of a pixel in the middle of a box, on the ellipsoid."""
    row, column = (place.top + place.bottom) // 2, (place.left + place.right) // 2
    outline = box(*lattice.bounds(PixelBox(row, column, row + 1, column + 1)))
    corners = shapely.transform(outline, lambda xy: _lonlat(lattice.crs, xy))
    return area_km2(corners)


def _lonlat(crs: str, xy: object) -> object:
    points = np.asarray(xy)
    return np.column_stack(_transformer(crs, "OGC:CRS84").transform(points[:, 0], points[:, 1]))
