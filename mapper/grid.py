"""Where pixels lie: one lattice for a CRS and resolution, and on it shards, tiles and windows.

All positions are pixels of the lattice, counted from the CRS's own zero, so two jobs of one CRS and
resolution agree on every index whatever areas they ask for::

      column →   left          right
      row  top    ┌──────────────┐        x = phase_x + column · res_x     (left edge of a column)
       ↓          │   PixelBox   │        y = phase_y − row · res_y        (top edge of a row)
          bottom  └──────────────┘

Shards and windows are lattices of larger cells on the same zero. A tile's core is one shard; its windows
are all those that touch the core, and the frame is the box around them: what must be read to know the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from affine import Affine

from mapper.errors import GridError

BLOCK_PX = 512
"""Side of the lattice cells in which whatever could depend on the extent asked for (a warp, a rasterised
outline) is computed: the same cell gives the same bits in every shard layout."""

LONGEST_EDGE_DEG = 0.005
LONGEST_EDGE_M = 500.0
"""Edges are cut to this before they are carried to another CRS, where a straight line is a curve: what is left of
the bow is below 1 cm up to 60° north, and below 3 cm up to 80°."""


@dataclass(frozen=True, slots=True, order=True)
class PixelBox:
    """A half-open box of lattice pixels: rows top..bottom, columns left..right."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.height, self.width

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.height <= 0 or self.width <= 0

    def intersection(self, other: PixelBox) -> PixelBox:
        """The pixels in both; ``empty`` where they do not meet."""
        return PixelBox(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def union(self, other: PixelBox) -> PixelBox:
        """The smallest box that holds both."""
        return PixelBox(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def contains(self, other: PixelBox) -> bool:
        """Whether every pixel of the other is in this one."""
        return self.intersection(other) == other

    def halved(self) -> PixelBox:
        """The smallest box of pixels twice as wide that holds it; those lie on the lattice's zero as these do."""
        return PixelBox(self.top // 2, self.left // 2, -(-self.bottom // 2), -(-self.right // 2))

    def doubled(self) -> PixelBox:
        """The same place in pixels half as wide."""
        return PixelBox(2 * self.top, 2 * self.left, 2 * self.bottom, 2 * self.right)

    def snapped(self, cell_px: int) -> PixelBox:
        """The smallest box of whole cells of a lattice of this side that holds it."""
        return PixelBox(
            math.floor(self.top / cell_px) * cell_px,
            math.floor(self.left / cell_px) * cell_px,
            math.ceil(self.bottom / cell_px) * cell_px,
            math.ceil(self.right / cell_px) * cell_px,
        )

    def cells(self, cell_px: int) -> Iterator[PixelBox]:
        """The cells of the lattice of this side that it touches, row by row."""
        around = self.snapped(cell_px)
        for top in range(around.top, around.bottom, cell_px):
            for left in range(around.left, around.right, cell_px):
                yield PixelBox(top, left, top + cell_px, left + cell_px)

    def within(self, frame: PixelBox) -> tuple[slice, slice]:
        """Rows and columns of it in an array that covers the frame."""
        return (
            slice(self.top - frame.top, self.bottom - frame.top),
            slice(self.left - frame.left, self.right - frame.left),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """All pixels of one CRS and resolution."""

    crs: str
    """An authority code such as ``EPSG:32645``, or WKT where there is none."""

    res_x: float
    """Width of a pixel in units of the CRS."""

    res_y: float
    """Height of a pixel in units of the CRS, positive."""

    phase_x: float = 0.0
    """Left edge of column 0, in ``[0, res_x)``: the imagery's own sub-pixel phase on a native grid, else 0."""

    phase_y: float = 0.0
    """Top edge of row 0, in ``[0, res_y)``."""

    def __post_init__(self) -> None:
        if not (self.res_x > 0 and self.res_y > 0 and math.isfinite(self.res_x) and math.isfinite(self.res_y)):
            raise GridError(f"a pixel of {self.res_x:g} × {self.res_y:g} is no pixel", fix="give a resolution above 0")

    def transform(self, box: PixelBox) -> Affine:
        """Array position (column, row) in the box → CRS coordinates (x, y) of the pixel's upper left corner."""
        return Affine(
            self.res_x,
            0.0,
            self.phase_x + box.left * self.res_x,
            0.0,
            -self.res_y,
            self.phase_y - box.top * self.res_y,
        )

    def bounds(self, box: PixelBox) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the box in units of the CRS."""
        return (
            self.phase_x + box.left * self.res_x,
            self.phase_y - box.bottom * self.res_y,
            self.phase_x + box.right * self.res_x,
            self.phase_y - box.top * self.res_y,
        )

    def pixels(self, bounds: tuple[float, float, float, float]) -> PixelBox:
        """The smallest box of pixels that holds (left, bottom, right, top).

        A bound closer than a thousandth of a pixel to a pixel's edge lies on it: floating point says no more.
        """
        left, bottom, right, top = bounds
        return PixelBox(
            _floor((self.phase_y - top) / self.res_y),
            _floor((left - self.phase_x) / self.res_x),
            _ceil((self.phase_y - bottom) / self.res_y),
            _ceil((right - self.phase_x) / self.res_x),
        )

    def offset_of(self, transform: Affine) -> tuple[int, int] | None:
        """Lattice (row, column) of the upper left pixel of a raster that lies on this lattice, else None.

        A raster lies on it when it is north-up, its pixels have the lattice's size to a millionth, and its corner
        is within a hundredth of a pixel of a lattice corner (transforms in files carry a few millimetres of dust).
        """
        if transform.b or transform.d:
            return None
        if abs(transform.a / self.res_x - 1) > 1e-6 or abs(-transform.e / self.res_y - 1) > 1e-6:
            return None
        column = (transform.c - self.phase_x) / self.res_x
        row = (self.phase_y - transform.f) / self.res_y
        if abs(column - round(column)) > 0.01 or abs(row - round(row)) > 0.01:
            return None
        return round(row), round(column)


def _floor(value: float) -> int:
    return math.floor(value + 1e-3)


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """The unit of reading, inference, writing and retry: one shard of the mosaic, on any level of its pyramid."""

    row: int
    """Row of the shard in its grid, counted down from the north edge."""

    column: int
    """Column of the shard in its grid, counted from the west edge."""

    core: PixelBox
    """The pixels this tile alone writes: one whole shard."""

    @property
    def name(self) -> str:
        """Row and column, as people say it in logs."""
        return f"r{self.row}c{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The pixels of one mosaic array: a box of whole shards on a lattice, or a coarser level of one."""

    lattice: Lattice
    box: PixelBox
    shard_px: int
    chunk_px: int
    name: str = ""
    """Name of its tree in the mosaic: empty, or ``utm14n`` and the like."""

    level: int = 0
    """How often its pixels were halved: 0 is what the model answered. Only there does the box end with a shard."""

    def __post_init__(self) -> None:
        if self.chunk_px <= 0 or self.shard_px % self.chunk_px:
            raise GridError(
                f"shard_px {self.shard_px} is not a multiple of chunk_px {self.chunk_px}",
                fix=f"use shard_px: {max(1, round(self.shard_px / max(1, self.chunk_px))) * max(1, self.chunk_px)}",
            )
        if self.box.empty or (self.level == 0 and self.box != self.box.snapped(self.shard_px)):
            raise GridError(f"{self.box} is not a box of whole shards of {self.shard_px} px")

    @classmethod
    def over(
        cls,
        lattice: Lattice,
        bounds: tuple[float, float, float, float],
        *,
        shard_px: int,
        chunk_px: int,
        name: str = "",
    ) -> Grid:
        """The grid of whole shards that holds (left, bottom, right, top) in units of the CRS."""
        box = lattice.pixels(bounds)
        box = box.union(PixelBox(box.top, box.left, box.top + 1, box.left + 1))
        return cls(lattice=lattice, box=box.snapped(shard_px), shard_px=shard_px, chunk_px=chunk_px, name=name)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns in pixels."""
        return self.box.shape

    @property
    def path(self) -> str:
        """Of its group in the mosaic: ``0``, or ``utm14n/3`` and the like."""
        return f"{self.name}/{self.level}".lstrip("/")

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Rows, columns in shards."""
        return -(-self.box.height // self.shard_px), -(-self.box.width // self.shard_px)

    def tile(self, row: int, column: int) -> Tile:
        """The tile at a row and column of shards."""
        rows, columns = self.tile_shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise GridError(f"no tile r{row}c{column} in a grid of {rows} × {columns} shards")
        top, left = self.box.top + row * self.shard_px, self.box.left + column * self.shard_px
        shard = PixelBox(top, left, top + self.shard_px, left + self.shard_px)
        return Tile(row=row, column=column, core=shard.intersection(self.box))

    def tiles(self) -> Iterator[Tile]:
        """Every tile, row by row from the north-west."""
        return self.tiles_in(self.box)

    def tiles_in(self, box: PixelBox) -> Iterator[Tile]:
        """Every tile whose core touches the box, row by row."""
        meets = self.box.intersection(box)
        if meets.empty:
            return
        for row in range(
            (meets.top - self.box.top) // self.shard_px, -((self.box.top - meets.bottom) // self.shard_px)
        ):
            first, end = meets.left - self.box.left, self.box.left - meets.right
            for column in range(first // self.shard_px, -(end // self.shard_px)):
                yield self.tile(row, column)

    def coarser(self) -> Grid:
        """The next level of its pyramid: pixels twice as wide, on the lattice of all jobs at that resolution."""
        lattice = replace(self.lattice, res_x=2 * self.lattice.res_x, res_y=2 * self.lattice.res_y)
        return replace(self, lattice=lattice, box=self.box.halved(), level=self.level + 1)

    def pyramid(self) -> tuple[Grid, ...]:
        """Itself and every coarser level, down to the one that fits into a single chunk."""
        levels = [self]
        while max(levels[-1].shape) > self.chunk_px:
            levels.append(levels[-1].coarser())
        return tuple(levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The squares the model looks at: a lattice of its own, of overlapping cells.

    Window *k* of an axis begins at ``k · stride_px`` and is ``size_px`` long, so a pixel lies in one or two
    windows an axis, and which these are depends on nothing but the pixel.
    """

    size_px: int
    overlap_px: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_px <= self.size_px // 2:
            raise GridError(
                f"windows of {self.size_px} px cannot overlap by {self.overlap_px} px",
                fix=f"set windows.overlap_px between 0 and {self.size_px // 2}",
            )

    @property
    def stride_px(self) -> int:
        """From one window to the next."""
        return self.size_px - self.overlap_px

    def touching(self, box: PixelBox) -> Iterator[PixelBox]:
        """Every window that shares a pixel with the box, row by row: the order in which they are blended."""
        for top in self._starts(box.top, box.bottom):
            for left in self._starts(box.left, box.right):
                yield PixelBox(top, left, top + self.size_px, left + self.size_px)

    def frame(self, box: PixelBox) -> PixelBox:
        """The box around all windows that touch it: what must be read to know its pixels."""
        rows, columns = self._starts(box.top, box.bottom), self._starts(box.left, box.right)
        return PixelBox(rows[0], columns[0], rows[-1] + self.size_px, columns[-1] + self.size_px)

    def _starts(self, begin: int, end: int) -> range:
        first = (begin - self.size_px) // self.stride_px + 1
        last = (end - 1) // self.stride_px
        return range(first * self.stride_px, last * self.stride_px + 1, self.stride_px)
