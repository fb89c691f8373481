"""Places on a grid: which pixels are theirs. A pixel belongs to a place when its centre lies in it.

Outlines are kept in pixels of the lattice, ``(column, −row)``: a shard's corner is a whole number, so that moving an
outline into a shard's own frame rounds nothing, and two places that share an edge never share a pixel or lose one.

Where a mosaic has several UTM zones, their grids overlap by up to a shard. Land belongs to the zone between whose two
meridians it lies, as it did when it was mapped: each place is cut there, and no pixel is counted in two zones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from shapely.geometry import MultiPolygon, box
from shapely.geometry.base import BaseGeometry

from mapper.errors import QuestionError
from mapper.grid import BLOCK_PX, LONGEST_EDGE_DEG, LONGEST_EDGE_M, Grid, PixelBox, Tile
from mapper.imagery import Valid
from mapper.questions.places import LONLAT, Places, polygons_of

NUDGE_PX = (7.2e-7, 5.4e-7)
"""Outlines are moved by this, east and north. Borders that people draw do run through centres (of a coarser grid, of a
round number of metres), and GDAL gives such pixels to both sides; moved together, they fall to one."""

MANY_VERTICES = 500
"""Outlines of more are cut to a row of shards before they are cut to each."""

SAME_SHARE, SAME_M2 = 1e-4, 1.0
"""To this a surface measured in one CRS agrees with the same measured in another: edges bow, and PROJ's geodesics know
a surface to a tenth of a square metre."""

Outlines: TypeAlias = "NDArray[np.object_]"
"""Shapely geometries, one a place; empty where it does not lie on the grid."""

_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The part of one place in one box of pixels."""

    place: int
    """Its position among the places."""

    box: PixelBox
    inside: Valid | None
    """``(y, x)`` over the box: whose centre lies in the place. None where all do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """A shard and the places that touch it."""

    tile: Tile
    whole: tuple[int, ...]
    """Positions of the places in which all of it lies."""

    partly: tuple[int, ...]
    """Positions of the others."""


class Placed:
    """Places on one grid. For one thread: rasterio and GEOS keep state while they work."""

    def __init__(self, places: Places, grid: Grid, *, zoned: bool = False) -> None:
        """Carry the places to the grid's CRS and its pixels.

        Args:
            places: in any CRS.
            grid: of the mosaic.
            zoned: whether it is one of several, and the places end where its zone does.

        Raises:
            QuestionError: an outline cannot be carried to the grid's CRS.
        """
        self.grid = grid
        carried = _carried(places, grid)
        if zoned:
            carried = _areal(shapely.intersection(carried, own_land(grid)))
        frame = box(*grid.lattice.bounds(grid.box))
        on_pixels = _areal(shapely.intersection(carried, frame))
        self.ground_m2 = [ground_m2(outline, grid.lattice.crs) for outline in on_pixels]
        """Surface of each place that lies on the grid's pixels."""
        self.ends_within = shapely.within(carried, frame) | shapely.is_empty(carried)
        """Whether no place that the grid holds a part of goes on beyond its pixels; one a place."""
        self._outlines = shapely.transform(carried, lambda xy: _in_pixels(xy, grid))
        shapely.prepare(self._outlines)
        self._tree = shapely.STRtree(self._outlines)
        self._band = lru_cache(maxsize=8)(self._cut_band)

    def rows(self) -> Iterator[list[Touched]]:
        """The shards that a place touches, from the west to the east, row by row."""
        near = [_around(outline) for outline in self._outlines if not outline.is_empty]
        if not near:
            return
        for _, row in groupby(self.grid.tiles_in(reduce(PixelBox.union, near)), key=lambda tile: tile.row):
            tiles = list(row)
            frames = _centres([tile.core for tile in tiles])
            at, places = self._tree.query(frames)
            touching = shapely.intersects(self._outlines[places], frames[at])
            at, places = at[touching], places[touching]
            whole = shapely.contains(self._outlines[places], frames[at])
            met: dict[int, tuple[list[int], list[int]]] = {}
            for column, place, all_of_it in zip(at, places, whole, strict=True):
                met.setdefault(int(column), ([], []))[0 if all_of_it else 1].append(int(place))
            yield [
                Touched(tile=tiles[column], whole=tuple(sorted(inside)), partly=tuple(sorted(others)))
                for column, (inside, others) in sorted(met.items())
            ]

    def pieces(self, part: PixelBox, touched: Touched) -> list[Piece]:
        """The parts of the places in a box of a shard they touch."""
        found = [Piece(place=place, box=part, inside=None) for place in touched.whole]
        burnt = (_burnt(place, self._band(place, part.top, part.bottom), part) for place in touched.partly)
        return [*found, *(piece for piece in burnt if piece is not None)]

    def holders(self, pixels: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Place → positions of the pixels whose centres lie in it, in any order and in parts.

        Args:
            pixels: ``(n, 2)`` lattice rows and columns.
        """
        cells, cell_of = np.unique(pixels // BLOCK_PX, axis=0, return_inverse=True)
        for number, (row, column) in enumerate(cells):
            top, left = int(row) * BLOCK_PX, int(column) * BLOCK_PX
            mine = np.flatnonzero(cell_of.ravel() == number)
            cell = PixelBox(top, left, top + BLOCK_PX, left + BLOCK_PX)
            for place in self._tree.query(_centres([cell])[0]):
                piece = _burnt(int(place), self._band(int(place), cell.top, cell.bottom), cell)
                if piece is None:
                    continue
                down, across = pixels[mine, 0] - piece.box.top, pixels[mine, 1] - piece.box.left
                there = (down >= 0) & (across >= 0) & (down < piece.box.height) & (across < piece.box.width)
                assert piece.inside is not None  # it was burnt
                there[there] = piece.inside[down[there], across[there]]
                if there.any():
                    yield piece.place, mine[there]

    def boxes(self) -> list[PixelBox]:
        """The pixels around the places that lie on the grid, in boxes that share none."""
        around = [_around(outline).intersection(self.grid.box) for outline in self._outlines if not outline.is_empty]
        return _disjoint([box for box in around if not box.empty])

    def _cut_band(self, place: int, top: int, bottom: int) -> BaseGeometry:
        """The outline between two rows, or all of it where it is simple."""
        outline = self._outlines[place]
        if shapely.get_num_coordinates(outline) <= MANY_VERTICES:
            return outline
        left, _, right, _ = outline.bounds
        return shapely.clip_by_rect(outline, left - 1, -bottom - 1, right + 1, -top + 1)


def utm_strip(grid: Grid) -> BaseGeometry | None:
    """Longitude and latitude of the UTM zone that a grid's CRS is made for; None where it is no UTM."""
    zone = CRS.from_user_input(grid.lattice.crs).utm_zone
    if zone is None:
        return None
    left = 6 * int(zone[:-1]) - 186
    return box(left, 0, left + 6, 84) if zone.endswith("N") else box(left, -80, left + 6, 0)


def to_lonlat(shapes: Any, crs: str) -> Any:
    """A geometry, or an array of them, of a CRS in longitude and latitude, edges bent as they must."""
    return shapely.transform(shapely.segmentize(shapes, _longest_edge(crs)), _moving(crs, LONLAT))


def own_land(grid: Grid) -> BaseGeometry:
    """The part of a zone's grid that lies between the zone's own meridians, and some land north and south of it.

    In the grid's CRS.
    """
    strip = utm_strip(grid)
    assert strip is not None  # a grid of several is a zone
    _, south, _, north = _transformer(grid.lattice.crs, LONLAT).transform_bounds(
        *grid.lattice.bounds(grid.box), densify_pts=41
    )
    left, low, right, high = strip.bounds
    part = box(left, max(low, south - 0.1), right, min(high, north + 0.1))
    fine = shapely.segmentize(part, LONGEST_EDGE_DEG)
    return shapely.transform(fine, _moving(LONLAT, grid.lattice.crs))


def ground_m2(outline: BaseGeometry, crs: str) -> float:
    """Square metres of ellipsoid in a polygon or several, their edges straight in the CRS."""
    if outline.is_empty:
        return 0.0
    lonlat = shapely.transform(shapely.segmentize(outline, _longest_edge(crs)), _moving(crs, LONLAT))
    rings = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(lonlat)]
    return float(sum(abs(_GEOD.geometry_area_perimeter(ring)[0]) for ring in rings))


def beyond_m2(places: Places, placed: Sequence[Placed]) -> list[float]:
    """The surface of each place that lies on no pixel of the mosaic."""
    beyond = []
    for number, outline in enumerate(places.geometries):
        whole = ground_m2(outline, places.crs)
        on_it = sum(grid.ground_m2[number] for grid in placed)
        rest = max(0.0, whole - on_it)
        nothing = all(grid.ends_within[number] for grid in placed) and rest <= SAME_SHARE * whole + SAME_M2
        beyond.append(0.0 if nothing else rest)
    return beyond


def whole_of(grids: Sequence[Grid]) -> Places:
    """All pixels of a mosaic as one place, for one of which nobody knows what area was asked for."""
    first = grids[0]
    if len(grids) == 1:
        shape = box(*first.lattice.bounds(first.box))
        return Places(names=("whole mosaic",), geometries=(shape,), crs=first.lattice.crs)
    parts = []
    for grid in grids:
        strip = utm_strip(grid)
        assert strip is not None  # several grids are zones
        middle = (strip.bounds[0] + strip.bounds[2]) / 2
        edge = shapely.segmentize(box(*grid.lattice.bounds(grid.box)), _longest_edge(grid.lattice.crs))
        outline = shapely.transform(edge, _moving(grid.lattice.crs, LONLAT))
        parts.append(strip.intersection(shapely.transform(outline, lambda xy, at=middle: _near(xy, at))))
    return Places(names=("whole mosaic",), geometries=(polygons_of(shapely.union_all(parts)),), crs=LONLAT)


def _near(xy: NDArray[np.float64], longitude: float) -> NDArray[np.float64]:
    """Points with their longitude within half a turn of this one."""
    return np.column_stack([(xy[:, 0] - longitude + 180) % 360 - 180 + longitude, xy[:, 1]])


def _carried(places: Places, grid: Grid) -> Outlines:
    """The outlines in the grid's CRS, of what lies near the grid."""
    outlines = np.array(places.geometries, dtype=object)
    here, there = CRS.from_user_input(places.crs), CRS.from_user_input(grid.lattice.crs)
    if here.equals(there, ignore_axis_order=True):
        return outlines
    window = _window(grid, places.crs)
    if window is not None:
        outlines = _areal(shapely.intersection(outlines, window))
    fine = shapely.segmentize(outlines, _longest_edge(places.crs))
    carried = shapely.transform(fine, _moving(places.crs, grid.lattice.crs))
    for name, outline in zip(places.names, carried, strict=True):
        if not np.isfinite(shapely.get_coordinates(outline)).all():
            raise QuestionError(
                f"the outline of {name} cannot be carried to {grid.lattice.crs}",
                fix="cut it to the neighbourhood of the mosaic",
            )
    return _areal(np.where(shapely.is_valid(carried), carried, shapely.make_valid(carried)))


def _window(grid: Grid, crs: str) -> BaseGeometry | None:
    """A box in another CRS that holds the grid with some margin; None where there is none."""
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    margin = 0.05 * max(right - left, top - bottom)
    around = (left - margin, bottom - margin, right + margin, top + margin)
    try:
        west, south, east, north = _transformer(grid.lattice.crs, crs).transform_bounds(*around, densify_pts=41)
    except Exception:  # PROJ refuses where a corner has no such place: then nothing is cut
        return None
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        return None
    if west > east:  # across the antimeridian
        return MultiPolygon([box(west, south, 180, north), box(-180, south, east, north)])
    return box(west, south, east, north)


def _areal(outlines: Outlines) -> Outlines:
    """Without the points and lines that an intersection leaves of what only touches."""
    out = np.empty(len(outlines), object)
    for position, outline in enumerate(outlines):
        out[position] = polygons_of(outline)
    return out


def _longest_edge(crs: str) -> float:
    known = CRS.from_user_input(crs)
    if known.is_geographic:
        return LONGEST_EDGE_DEG
    return LONGEST_EDGE_M / float(known.axis_info[0].unit_conversion_factor)


def _moving(here: str, there: str) -> Any:
    transformer = _transformer(here, there)
    return lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))


@lru_cache(maxsize=64)
def _transformer(here: str, there: str) -> Transformer:
    return Transformer.from_crs(here, there, always_xy=True)


def _in_pixels(xy: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    lattice = grid.lattice
    across = (xy[:, 0] - lattice.phase_x) / lattice.res_x + NUDGE_PX[0]
    return np.column_stack([across, (xy[:, 1] - lattice.phase_y) / lattice.res_y + NUDGE_PX[1]])


def _centres(boxes: Sequence[PixelBox]) -> Outlines:
    """Around the centres of each box's pixels: who holds this holds them all."""
    edges = np.array([(part.left, -part.bottom, part.right, -part.top) for part in boxes], np.float64)
    return np.asarray(shapely.box(*(edges + np.array([0.5, 0.5, -0.5, -0.5])).T), dtype=object)


def _disjoint(boxes: list[PixelBox]) -> list[PixelBox]:
    """Boxes that share no pixel and hold all of these: those that meet become one, until none do."""
    while True:
        shapes = shapely.box(*np.array([(one.left, one.top, one.right, one.bottom) for one in boxes]).reshape(-1, 4).T)
        met = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        graph = coo_matrix((np.ones(met.shape[1], np.bool_), met), shape=(len(boxes), len(boxes)))
        count, group = connected_components(graph, directed=False)
        if count == len(boxes):
            return boxes
        boxes = [reduce(PixelBox.union, (boxes[n] for n in np.flatnonzero(group == one))) for one in range(count)]


def _around(outline: BaseGeometry) -> PixelBox:
    left, bottom, right, top = outline.bounds
    return PixelBox(math.floor(-top), math.floor(left), math.ceil(-bottom), math.ceil(right))


def _burnt(place: int, outline: BaseGeometry, part: PixelBox) -> Piece | None:
    """The pixels of a box whose centres lie in an outline; None where there are none."""
    near = shapely.clip_by_rect(outline, part.left - 1, -part.bottom - 1, part.right + 1, -part.top + 1)
    near = polygons_of(near)
    if near.is_empty:
        return None
    around = _around(near).intersection(part)
    if around.empty:
        return None
    frame = Affine(1, 0, around.left, 0, -1, -around.top)
    burnt = rasterize([(near, 1)], out_shape=around.shape, transform=frame, dtype=np.uint8)
    inside = np.asarray(burnt == 1)
    return Piece(place=place, box=around, inside=inside) if inside.any() else None
