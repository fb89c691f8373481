"""Square metres under spans of pixels, in whole numbers: a span cut anywhere has the area of its pieces, to the bit.

A pixel's area hardly changes from one to the next. It is asked of ``mapper/pixel_area.py`` at the middle of lattice
cells of up to 64 pixels and 2 km, and is linear between those; so a span costs two evaluations, however long it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from mapper.grid import Lattice, PixelBox
from mapper.pixel_area import pixel_area_m2

CELL_PX = 64
CELL_M = 2_000.0
"""Between points this far apart the areal scale of UTM bends by less than 3e-8."""

UNIT_BITS = 22
"""Areas are counted in parts of a pixel of 2 to minus this, so that an object of 2^40 pixels still fits 63 bits."""

_EQUATOR_M = 111_320.0  # one degree


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanAreas:
    """The areas of spans of pixels inside one box."""

    box: PixelBox
    cell_px: int
    unit_m2: float
    """What the whole numbers count; a power of two, the same all over a lattice."""

    at_middle: NDArray[np.float64]
    """``(row, cell)``: units a pixel, in each row of the box, at the middle of each cell."""

    first_cell: int
    """Lattice number of the first of these cells."""

    west: NDArray[np.int64]
    """``(row, cell)``: units between the middle of the first cell and that of each."""

    def __call__(self, row: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Units under spans.

        Args:
            row: of the box, counted from its top.
            begin: first column, counted from the box's left edge.
            end: the column behind the last one.
        """
        return self._west_of(row, end) - self._west_of(row, begin)

    def _west_of(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
        """Units from the middle of the first cell to a column's left edge."""
        from_middle = np.asarray(column + (self.box.left - (self.first_cell + 0.5) * self.cell_px), np.float64)
        cell = np.floor(from_middle / self.cell_px).astype(np.int64)
        beyond = np.asarray(from_middle - cell * self.cell_px, np.float64)
        units = self.west[row, cell]
        units += _units(self.at_middle[row, cell], self.at_middle[row, cell + 1], beyond, self.cell_px)
        return np.asarray(units, np.int64)


def area_unit_m2(lattice: Lattice) -> float:
    """What areas on a lattice are counted in: of a power of two of square metres, some millionth of a pixel."""
    crs = CRS.from_user_input(lattice.crs)
    side_m = _EQUATOR_M if crs.is_geographic else float(crs.axis_info[0].unit_conversion_factor)
    return float(2.0 ** (math.ceil(math.log2(lattice.res_x * lattice.res_y * side_m**2)) - UNIT_BITS))


def span_areas(lattice: Lattice, box: PixelBox) -> SpanAreas:
    """The areas of spans of pixels inside a box; agree with the sum of ``pixel_area_m2`` to 1e-7."""
    crs = CRS.from_user_input(lattice.crs)
    if crs.is_geographic:
        return _in_degrees(lattice, box)
    metre = float(crs.axis_info[0].unit_conversion_factor)
    side_m = max(lattice.res_x, lattice.res_y) * metre
    cell_px = min(CELL_PX, 1 << max(0, math.floor(math.log2(CELL_M / side_m))))
    unit_m2 = area_unit_m2(lattice)
    around = box.snapped(cell_px)
    cells = PixelBox(
        around.top // cell_px - 1, around.left // cell_px - 1, around.bottom // cell_px + 1, around.right // cell_px + 1
    )
    coarse = replace(lattice, res_x=lattice.res_x * cell_px, res_y=lattice.res_y * cell_px)
    middles = np.nan_to_num(pixel_area_m2(coarse, cells)) / (cell_px**2 * unit_m2)
    down = (np.arange(box.top, box.bottom) + 0.5) / cell_px - (cells.top + 0.5)
    above = np.floor(down).astype(np.int64)
    share = (down - above)[:, None]
    at_middle = (1 - share) * middles[above] + share * middles[above + 1]
    return _of_rows(at_middle, box=box, cell_px=cell_px, unit_m2=unit_m2, first_cell=cells.left)


def _in_degrees(lattice: Lattice, box: PixelBox) -> SpanAreas:
    """All pixels of a row are equal there."""
    unit_m2 = area_unit_m2(lattice)
    around = box.snapped(CELL_PX)
    first, end = around.left // CELL_PX - 1, around.right // CELL_PX + 1
    column = pixel_area_m2(lattice, PixelBox(box.top, box.left, box.bottom, box.left + 1)) / unit_m2
    at_middle = np.repeat(np.nan_to_num(column), end - first, axis=1)
    return _of_rows(at_middle, box=box, cell_px=CELL_PX, unit_m2=unit_m2, first_cell=first)


def _of_rows(
    at_middle: NDArray[np.float64], *, box: PixelBox, cell_px: int, unit_m2: float, first_cell: int
) -> SpanAreas:
    west = np.zeros(at_middle.shape, np.int64)
    whole = np.full(1, float(cell_px))
    np.cumsum(_units(at_middle[:, :-1], at_middle[:, 1:], whole, cell_px), axis=1, out=west[:, 1:])
    return SpanAreas(box=box, cell_px=cell_px, unit_m2=unit_m2, at_middle=at_middle, first_cell=first_cell, west=west)


def _units(
    here: NDArray[np.float64], there: NDArray[np.float64], px: NDArray[np.float64], cell_px: int
) -> NDArray[np.int64]:
    """Units in the first ``px`` columns after a middle, a pixel having ``here`` at it and ``there`` at the next."""
    return np.rint(px * (here + (there - here) * (px / (2 * cell_px)))).astype(np.int64)
