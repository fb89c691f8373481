"""Longitude and latitude → pixels of a grid, for many places at once, and only where its projection has an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from mapper.grid import Grid, PixelBox

Bounds: TypeAlias = tuple[float, float, float, float]
"""West, south, east, north in degrees; east above 180 where the 180th meridian lies between."""

_DEGREES = "OGC:CRS84"
_STEP = 1e-6
"""Radians of longitude over which the scale of a projection is measured: six metres."""

_NODE = 16
"""Places from one that is projected to the next, where what lies between is interpolated."""

_WORTH_PX = 0.1
"""Interpolation that may be off by more than this saves nothing."""

_MARGIN = 0.01
"""Share by which the bounds of a box in degrees are widened, because its edges are curves seen at 21 points."""


class GridInDegrees:
    """One grid of a mosaic, and where it lies in longitude and latitude. Threads may share one."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.levels = grid.pyramid()
        self._to_grid = Transformer.from_crs(_DEGREES, grid.lattice.crs, always_xy=True)
        self._to_degrees = Transformer.from_crs(grid.lattice.crs, _DEGREES, always_xy=True)
        self._in_degrees = CRS.from_user_input(grid.lattice.crs).is_geographic
        self.bounds = self.bounds_of(grid.box)

    def bounds_of(self, box: PixelBox) -> Bounds:
        """West, south, east, north of a box in degrees; east above 180 where it lies across that meridian."""
        bounds = self.grid.lattice.bounds(box)
        if not self._in_degrees:
            bounds = self._to_degrees.transform_bounds(*bounds, densify_pts=21)
        west, south, east, north = bounds
        if not all(map(math.isfinite, bounds)):
            return -180.0, -90.0, 180.0, 90.0
        return west, south, east + (360.0 if east < west else 0.0), north

    def part_of(
        self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
    ) -> Iterator[tuple[slice, slice, float]]:
        """The rows and columns that can lie in the zone, and the whole turn that brings their longitudes to it.

        Elsewhere projections answer with nonsense, so they are not asked. Longitudes ascend, latitudes descend.
        """
        west, south, east, north = widened(self.bounds)
        rows = slice(int(np.searchsorted(-latitude, -north)), int(np.searchsorted(-latitude, -south, side="right")))
        for turn in (-360.0, 0.0, 360.0):
            begin = int(np.searchsorted(longitude, west - turn))
            end = int(np.searchsorted(longitude, east - turn, side="right"))
            if begin < end and rows.start < rows.stop:
                yield rows, slice(begin, end), turn

    def pixels(
        self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Row and column of the finest level at each place, and whether the grid has it."""
        return self._whole(self._position(longitude, latitude))

    def degrees_of(
        self, row: NDArray[np.float64], column: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitudes and latitudes of positions in pixels of the lattice; infinite where the projection has no such
        place."""
        lattice = self.grid.lattice
        x, y = self._to_degrees.transform(
            lattice.phase_x + column * lattice.res_x, lattice.phase_y - row * lattice.res_y
        )
        return np.asarray(x), np.asarray(y)

    def crossings(
        self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The same for every crossing of meridians and parallels, flattened from ``(y, x)``.

        Between nodes a projection is nearly straight: there places are interpolated, and those that come nearer to
        a pixel's edge than the error can be are asked for again. The answer is that of ``pixels``, in a quarter of
        the time.
        """
        rows, columns = _nodes(len(latitude)), _nodes(len(longitude))
        across, down = np.meshgrid(longitude, latitude)
        if min(len(rows), len(columns)) < 4:
            return self.pixels(across.ravel(), down.ravel())
        nodes = self._position(across[np.ix_(rows, columns)], down[np.ix_(rows, columns)])
        error_px = _bend(nodes)
        if not error_px < _WORTH_PX:  # not a number where the projection has no such place
            return self.pixels(across.ravel(), down.ravel())
        place = _between(_between(nodes, rows, axis=1), columns, axis=2).reshape(2, -1)
        doubtful = (np.abs(place - np.rint(place)) <= error_px).any(axis=0)
        place[:, doubtful] = self._position(across.ravel()[doubtful], down.ravel()[doubtful])
        return self._whole(place)

    def _position(self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(2, …)``: row and column of the finest level, and shares of them."""
        lattice = self.grid.lattice
        x, y = self._to_grid.transform(longitude, latitude)
        return np.stack(
            [(lattice.phase_y - np.asarray(y)) / lattice.res_y, (np.asarray(x) - lattice.phase_x) / lattice.res_x]
        )

    def _whole(self, place: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        box = self.grid.box
        row, column = np.floor(place)
        inside = (row >= box.top) & (row < box.bottom) & (column >= box.left) & (column < box.right)
        return np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64), inside

    def level_for(self, longitude: float, latitude: float, pixel: float) -> int:
        """The coarsest level whose pixels are not larger than a tile's there, of this many radians of longitude."""
        spanned = min(self.pixels_a_radian(longitude, latitude)) * pixel
        if not math.isfinite(spanned):
            return len(self.levels) - 1
        halvings = int(math.log2(max(spanned, 1.0) * (1 + 1e-6)))  # a tile's pixel may equal one of ours
        return min(halvings, len(self.levels) - 1)

    def most_pixels_a_radian(self) -> float:
        """Columns or rows of the finest level under a radian of Web Mercator, where that is largest on the ground."""
        west, south, east, north = self.bounds
        latitude = min(max(0.0, south), north)
        return max(self.pixels_a_radian((west + east) / 2, max(min(latitude, 85.0), -85.0)))

    def pixels_a_radian(self, longitude: float, latitude: float) -> tuple[float, float]:
        """How many columns and rows of the finest level a square of Web Mercator spans, by its side in radians."""
        north = _latitude(_mercator(latitude) + _STEP)
        x, y = self._to_grid.transform(
            [longitude, longitude + math.degrees(_STEP), longitude], [latitude, latitude, north]
        )
        lattice = self.grid.lattice
        aside = math.hypot(x[1] - x[0], x[2] - x[0]) / lattice.res_x
        return aside / _STEP, math.hypot(y[1] - y[0], y[2] - y[0]) / lattice.res_y / _STEP


def widened(bounds: Bounds) -> Bounds:
    """A box in degrees and a hundredth more on each side."""
    west, south, east, north = bounds
    aside, up = _MARGIN * (east - west), _MARGIN * (north - south)
    return west - aside, max(south - up, -90.0), east + aside, min(north + up, 90.0)


def _nodes(count: int) -> NDArray[np.int64]:
    """Every sixteenth of so many, and the last."""
    return np.append(np.arange(0, count - 1, _NODE), count - 1)


def _between(values: NDArray[np.float64], nodes: NDArray[np.int64], *, axis: int) -> NDArray[np.float64]:
    """Values known at nodes along one axis, as values at every place from the first node to the last."""
    places = np.arange(nodes[-1] + 1)
    after = np.clip(np.searchsorted(nodes, places, side="right"), 1, len(nodes) - 1)
    share = (places - nodes[after - 1]) / (nodes[after] - nodes[after - 1])
    share = share.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    return (1 - share) * values.take(after - 1, axis) + share * values.take(after, axis)


def _bend(nodes: NDArray[np.float64]) -> float:
    """How far at most a smooth function can lie from the straight lines between nodes.

    An eighth of the second difference an axis; taken twice, because it is measured at the nodes alone.
    """
    # The last node stands closer to the one before it, and says nothing of the spacing of the others.
    second = [np.abs(np.diff(nodes[:, :-1, :-1], n=2, axis=axis)).max() for axis in (1, 2)]
    return float(sum(second)) / 4 + 1e-6


def _mercator(latitude: float) -> float:
    return math.asinh(math.tan(math.radians(latitude)))


def _latitude(mercator: float) -> float:
    return math.degrees(math.atan(math.sinh(mercator)))
