"""Tiles by the million: which of a grid's an area touches, and which items show each. All of it by array.

A grid's tiles are looked at in blocks of ``BLOCK`` × ``BLOCK``, so that no array is as large as the grid: an area may
be two fields a continent apart. The Hilbert curve leaves a block only when it has seen all of it, so the blocks in
their order are the tiles in theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from jobs.tile_table import Flags, Ints
from mapper.curve import hilbert
from mapper.grid import Grid, Windows

BLOCK = 1024
"""Tiles along the side of a block, a power of two."""

AT_ONCE = 1 << 17
"""Outlines that are held as geometries at a time: some 50 MB."""

Boxes: TypeAlias = NDArray[np.int64]
"""``(box, 4)``: top, left, bottom, right, half-open; in pixels or in tiles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The tiles that an area touches in one block of a grid."""

    top: int
    left: int
    number: Ints
    """``(row, column)`` from top and left: position in the tiles of the area, -1 where it touches none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaTiles:
    """The tiles of a grid that an area touches, along the Hilbert curve. Columns are 1-D, one value a tile."""

    row: Ints
    column: Ints
    clipped: Flags
    """Whether the area's outline crosses the tile."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """Some tiles and the items that show them."""

    number: Ints
    """Positions in the tiles of the area, rising."""

    by: Ints
    """How many items show each tile."""

    item: Ints
    """Tile after tile, in the order in which they are laid."""


def area_tiles(grid: Grid, area: BaseGeometry, *, block: int = BLOCK) -> AreaTiles:
    """The tiles whose outline meets an area.

    Quarter by quarter: what lies outside is dropped whole, what lies inside is taken whole, and only what the
    outline crosses is looked at more closely.

    Args:
        grid: whose tiles.
        area: in the grid's CRS.
        block: tiles along the side of the blocks in which they are kept, a power of two. No answer depends on it.
    """
    shapely.prepare(area)
    rows, columns = grid.tile_shape
    size = 1 << (max(rows, columns) - 1).bit_length()
    row, column = np.zeros(1, np.int32), np.zeros(1, np.int32)
    found: list[tuple[Ints, Ints, Flags]] = []
    while len(row):
        inside, crossed = _judged(grid, area, row, column, size)
        found.append(_all_tiles(grid, row[inside], column[inside], size))
        row, column = row[crossed], column[crossed]
        if size == 1:
            found.append((row, column, np.ones(len(row), np.bool_)))
            break
        size //= 2
        row = np.concatenate([row, row, row + size, row + size], dtype=np.int32)
        column = np.concatenate([column, column + size, column, column + size], dtype=np.int32)
        within = (row < rows) & (column < columns)
        row, column = row[within], column[within]
    row, column, clipped = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _along_the_curve(grid, row, column, clipped, block)


def _judged(grid: Grid, area: BaseGeometry, row: Ints, column: Ints, size: int) -> tuple[Flags, Flags]:
    """Which squares of tiles lie inside an area, and which its outline crosses."""
    rows, columns = grid.tile_shape
    inside, crossed = np.zeros(len(row), np.bool_), np.zeros(len(row), np.bool_)
    for first in range(0, len(row), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        top = grid.box.top + row[part].astype(np.int64) * grid.shard_px
        left = grid.box.left + column[part].astype(np.int64) * grid.shard_px
        bottom = grid.box.top + np.minimum(row[part].astype(np.int64) + size, rows) * grid.shard_px
        right = grid.box.left + np.minimum(column[part].astype(np.int64) + size, columns) * grid.shard_px
        lattice = grid.lattice
        outlines = shapely.box(
            lattice.phase_x + left * lattice.res_x,
            lattice.phase_y - bottom * lattice.res_y,
            lattice.phase_x + right * lattice.res_x,
            lattice.phase_y - top * lattice.res_y,
        )
        meets = shapely.intersects(area, outlines)
        inside[part][meets] = shapely.contains(area, outlines[meets])
        crossed[part] = meets & ~inside[part]
    return inside, crossed


def _all_tiles(grid: Grid, row: Ints, column: Ints, size: int) -> tuple[Ints, Ints, Flags]:
    """The tiles in squares of them."""
    rows, columns = grid.tile_shape
    south, east = np.divmod(np.arange(size * size, dtype=np.int32), np.int32(size))
    row, column = (row[:, None] + south).ravel(), (column[:, None] + east).ravel()
    within = (row < rows) & (column < columns)
    return row[within], column[within], np.zeros(int(within.sum()), np.bool_)


def _along_the_curve(grid: Grid, row: Ints, column: Ints, clipped: Flags, block: int) -> AreaTiles:
    position = np.empty(len(row), np.uint64)
    for first in range(0, len(row), 1 << 20):
        part = slice(first, first + (1 << 20))
        position[part] = hilbert(row[part], column[part], shape=grid.tile_shape)
    order = np.argsort(position)
    del position
    row, column, clipped = row[order], column[order], clipped[order]
    new = (np.diff(row // block) != 0) | (np.diff(column // block) != 0)
    ends = [0, *(np.flatnonzero(new) + 1).tolist(), len(row)]
    blocks = tuple(_block(row[begin:end], column[begin:end], begin) for begin, end in itertools.pairwise(ends))
    return AreaTiles(row=row, column=column, clipped=clipped, blocks=blocks if len(row) else ())


def _block(row: Ints, column: Ints, begin: int) -> Block:
    top, left = int(row.min()), int(column.min())
    number = np.full((int(row.max()) - top + 1, int(column.max()) - left + 1), -1, np.int32)
    number[row - top, column - left] = np.arange(begin, begin + len(row))
    return Block(top=top, left=left, number=number)


def tiles_seen(grid: Grid, windows: Windows, extents: Boxes) -> tuple[Boxes, Boxes]:
    """Boxes of tiles: those with a window that sees some of each extent, and those with a pixel of their own in it.

    Args:
        grid: whose tiles.
        windows: what the model looks at.
        extents: in lattice pixels.
    """
    rows, columns = grid.tile_shape
    down = [windows.frame(grid.tile(row, 0).core) for row in range(rows)]
    across = [windows.frame(grid.tile(0, column).core) for column in range(columns)]
    top, left, bottom, right = extents.T
    seen = np.column_stack(
        [
            np.searchsorted([frame.bottom for frame in down], top, side="right"),
            np.searchsorted([frame.right for frame in across], left, side="right"),
            np.searchsorted([frame.top for frame in down], bottom, side="left"),
            np.searchsorted([frame.left for frame in across], right, side="left"),
        ]
    )
    shard_px = grid.shard_px
    touched = np.column_stack(
        [
            np.clip((top - grid.box.top) // shard_px, 0, rows),
            np.clip((left - grid.box.left) // shard_px, 0, columns),
            np.clip(-((grid.box.top - bottom) // shard_px), 0, rows),
            np.clip(-((grid.box.left - right) // shard_px), 0, columns),
        ]
    )
    empty = (bottom <= top) | (right <= left)
    seen[empty], touched[empty] = 0, 0
    return seen, touched


def shown_tiles(tiles: AreaTiles, items: Ints, seen: Boxes, touched: Boxes, *, holes: bool) -> Iterator[Shown]:
    """What shows each tile of an area, in stretches that follow one another along the curve.

    A tile is shown where an item touches it; then by all items that its windows see.

    Args:
        tiles: of the area.
        items: in the order in which they are laid.
        seen: for each item, the tiles with a window that sees some of it.
        touched: for each item, the tiles with a pixel of their own in it.
        holes: whether tiles that no item touches are among the answers, shown by none.
    """
    for block in tiles.blocks:
        corner = np.array([block.top, block.left] * 2)
        size = np.array([0, 0, *block.number.shape])
        meets = ((seen[:, :2] - corner[:2] < size[2:]) & (seen[:, 2:] > corner[:2])).all(axis=1)
        most = np.array(block.number.shape * 2)
        here, own = (np.clip(boxes[meets] - corner, 0, most) for boxes in (seen, touched))
        number = block.number
        if not holes:
            own_ones = own[(own[:, 2:] > own[:, :2]).all(axis=1)]
            if not len(own_ones):
                continue
            (top, left), (bottom, right) = own_ones[:, :2].min(axis=0), own_ones[:, 2:].max(axis=0)
            number = number[top:bottom, left:right]
            most = np.array(number.shape * 2)
            here, own = (np.clip(boxes - (top, left, top, left), 0, most) for boxes in (here, own))
        shown = _shown(number, items[meets], here, own, holes=holes)
        if len(shown.number):
            yield shown


def _shown(number: Ints, items: Ints, seen: Boxes, touched: Boxes, *, holes: bool) -> Shown:
    """The same for one block, or a part of it. Boxes are within it."""
    count, own = np.zeros(number.shape, np.int32), np.zeros(number.shape, np.bool_)
    for (top, left, bottom, right), (first, west, last, east) in zip(seen.tolist(), touched.tolist(), strict=True):
        count[top:bottom, left:right] += 1
        own[first:last, west:east] = True
    own &= number >= 0
    cells = np.flatnonzero(number >= 0) if holes else np.flatnonzero(own)
    cells = cells[np.argsort(number.ravel()[cells])]
    shown_by = np.where(own.ravel()[cells], count.ravel()[cells], 0).astype(np.int32)
    ends = np.cumsum(shown_by, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    # Where the next item of each tile goes; what is no tile's, or a hole's, goes to one place behind them all.
    goes_to = np.full(number.shape, total, np.int64)
    filled = shown_by > 0
    goes_to.ravel()[cells[filled]] = (ends - shown_by)[filled]
    laid = np.empty(total + 1, np.int32)
    for item, (top, left, bottom, right) in zip(items.tolist(), seen.tolist(), strict=True):
        here = goes_to[top:bottom, left:right]
        laid[here] = item
        here += own[top:bottom, left:right]
    return Shown(number=number.ravel()[cells], by=shown_by, item=laid[:total])
