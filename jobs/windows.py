"""How many windows the model must look at for a plan, by arithmetic on rows and columns: no window is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from jobs.plan import Plan
from mapper.grid import Grid, Windows

Integers = NDArray[np.int64]

TILES_AT_ONCE = 1_000_000
"""Tiles whose columns are expanded together: some hundred megabytes."""

MOST_OUTLINED = 250_000
"""Windows that are held against the area's outline one by one: seconds. Of a plan with more, those that only lie beside
the area within a clipped tile are counted too."""

ROOMY = 16
"""Cells of a table of windows for each tile in it up to which the table is made whole, and not as a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCount:
    """How often the model looks."""

    once: int
    """Where each window is looked at once, whatever tiles share it: the least."""

    own: int
    """Where each tile looks at all of its own: the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """The windows of one axis that each row (or column) of tiles touches, as numbers of windows."""

    first: Integers
    end: Integers

    @classmethod
    def of(cls, begin: int, tiles: int, shard_px: int, low: int, high: int, windows: Windows) -> _Axis:
        """Rows of tiles from pixel ``begin``; of each only what lies within ``low`` and ``high`` is asked for."""
        tops = begin + np.arange(tiles, dtype=np.int64) * shard_px
        bottoms = tops + shard_px
        asked_top, asked_bottom = np.maximum(tops, low), np.minimum(bottoms, high)
        beside = asked_top >= asked_bottom
        asked_top, asked_bottom = np.where(beside, tops, asked_top), np.where(beside, bottoms, asked_bottom)
        return cls(
            first=(asked_top - windows.size_px) // windows.stride_px + 1,
            end=(asked_bottom - 1) // windows.stride_px + 1,
        )

    def strips(self) -> tuple[Integers, Integers, Integers]:
        """Runs of windows that the same rows of tiles touch: the length of each, and the first and end of each row."""
        edges = np.unique(np.concatenate([self.first, self.end]))
        return np.diff(edges), np.searchsorted(edges, self.first), np.searchsorted(edges, self.end)


def count_windows(plan: Plan, windows: Windows) -> WindowCount:
    """The windows of all tiles that have imagery. Blank pixels inside of footprints are not known to a plan."""
    once = own = 0
    seen = ~plan.tiles.holes
    for begin, end in groups(plan):
        grid = plan.grids[int(plan.tiles.grid[begin])]
        here = begin + np.flatnonzero(seen[begin:end])
        if here.size:
            down, across = axes(grid, plan.areas[grid.name], windows)
            rows, columns = plan.tiles.row[here], plan.tiles.column[here]
            own += int(((down.end - down.first)[rows] * (across.end - across.first)[columns]).sum())
            once += _once(down, across, rows, columns)
    beside = _beside(plan, windows, seen)
    return WindowCount(once=once - beside.once, own=own - beside.own)


def axes(grid: Grid, area: BaseGeometry, windows: Windows) -> tuple[_Axis, _Axis]:
    """The windows that each row and each column of tiles touches, as far as the box around the area goes."""
    asked, (rows, columns) = grid.lattice.pixels(area.bounds), grid.tile_shape
    return (
        _Axis.of(grid.box.top, rows, grid.shard_px, asked.top, asked.bottom, windows),
        _Axis.of(grid.box.left, columns, grid.shard_px, asked.left, asked.right, windows),
    )


def groups(plan: Plan) -> Iterator[tuple[int, int]]:
    """First and end row of the tiles of one step and grid; a plan keeps them together."""
    step, grid = plan.tiles.step, plan.tiles.grid
    changes = np.flatnonzero((np.diff(step) != 0) | (np.diff(grid) != 0)) + 1
    edges = [0, *changes.tolist(), len(plan.tiles)]
    return ((begin, end) for begin, end in pairwise(edges) if end > begin)


def _once(down: _Axis, across: _Axis, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> int:
    """Different windows that these tiles of one step and grid touch.

    Windows that the same tiles touch are one cell of a table, strips down × strips across; the cells that any tile
    touches are marked, and each counts for as many windows as it stands for.
    """
    heights, top, bottom = down.strips()
    widths, left, right = across.strips()
    shape = len(heights), len(widths)
    marked = np.zeros(shape[0] * shape[1], np.bool_) if shape[0] * shape[1] <= ROOMY * len(rows) + 2**20 else None
    listed: list[Integers] = []
    for part in range(0, len(rows), TILES_AT_ONCE):
        row, column = rows[part : part + TILES_AT_ONCE], columns[part : part + TILES_AT_ONCE]
        for cells in _cells(top[row], bottom[row], left[column], right[column], shape[1]):
            if marked is None:
                listed.append(np.unique(cells))
            else:
                marked[cells] = True
    if marked is not None:
        return int(heights @ (marked.reshape(shape) @ widths))
    cells = np.unique(np.concatenate(listed))
    return int((heights[cells // shape[1]] * widths[cells % shape[1]]).sum())


def _cells(top: Integers, bottom: Integers, left: Integers, right: Integers, width: int) -> Iterator[Integers]:
    """The cells of each box, as numbers in a table of this width: the first of every box, then the second …"""
    for down in range(int((bottom - top).max())):
        for across in range(int((right - left).max())):
            inside = (top + down < bottom) & (left + across < right)
            yield ((top + down) * width + left + across)[inside]


def _beside(plan: Plan, windows: Windows, seen: NDArray[np.bool_]) -> WindowCount:
    """Windows that clipped tiles touch, and the area within them does not; none where there are too many to look at."""
    once = own = 0
    for number, grid in enumerate(plan.grids):
        width = grid.tile_shape[1]
        here = np.flatnonzero((plan.tiles.grid == number) & seen)
        tiles = plan.tiles.row[here] * np.int64(width) + plan.tiles.column[here]
        clipped, steps = plan.tiles.clipped[here], plan.tiles.step[here]
        keys = np.unique(tiles[clipped])
        places = _placed_windows(grid, plan.areas[grid.name], windows, keys // width, keys % width)
        if places is None:
            continue
        place, row, column = places
        area = plan.areas[grid.name]
        shapely.prepare(area)
        core = keys[place] // width, keys[place] % width
        missed = ~shapely.intersects(area, _boxes(grid, windows, row, column, core))
        window = row * np.int64(2**31) + column
        for step in np.unique(steps[clipped]).tolist():
            at = steps == step
            given = np.isin(keys, tiles[at & clipped])[place]
            own += int((given & missed).sum())
            # A window beside the area in one tile may be another's all the same; one that is nobody's is not looked at.
            nobodys = np.setdiff1d(window[given & missed], window[given & ~missed])
            once += int((~_touched(grid, windows, nobodys >> 31, nobodys % 2**31, tiles[at & ~clipped])).sum())
    return WindowCount(once=once, own=own)


def _touched(grid: Grid, windows: Windows, row: Integers, column: Integers, tiles: Integers) -> NDArray[np.bool_]:
    """Whether each of these windows meets any of these tiles, which are numbered row by row."""
    high, wide = grid.tile_shape
    top, left = row * windows.stride_px - grid.box.top, column * windows.stride_px - grid.box.left
    first = [edge // grid.shard_px for edge in (top, left)]
    last = [(edge + windows.size_px - 1) // grid.shard_px for edge in (top, left)]
    found = np.zeros(len(row), np.bool_)
    reach = (windows.size_px - 1) // grid.shard_px + 2
    for down in range(reach):
        for across in range(reach):
            at = first[0] + down, first[1] + across
            inside = (at[0] >= 0) & (at[0] < high) & (at[0] <= last[0])
            inside &= (at[1] >= 0) & (at[1] < wide) & (at[1] <= last[1])
            found |= inside & np.isin(at[0] * wide + at[1], tiles)
    return found


def _placed_windows(
    grid: Grid, area: BaseGeometry, windows: Windows, rows: Integers, columns: Integers
) -> tuple[Integers, Integers, Integers] | None:
    """Of the windows of these tiles: the tile's position here, and the window's row and column on its own lattice."""
    down, across = axes(grid, area, windows)
    high, wide = (down.end - down.first)[rows], (across.end - across.first)[columns]
    total = int((high * wide).sum())
    if total == 0 or total > MOST_OUTLINED:
        return None
    place = np.repeat(np.arange(len(rows)), high * wide)
    number = np.arange(total) - np.repeat(np.cumsum(high * wide) - high * wide, high * wide)
    return place, down.first[rows[place]] + number // wide[place], across.first[columns[place]] + number % wide[place]


def _boxes(
    grid: Grid, windows: Windows, row: Integers, column: Integers, core: tuple[Integers, Integers] | None = None
) -> NDArray[np.object_]:
    """The windows as polygons in the grid's CRS; where tiles are named, only what lies in their cores."""
    top, left = row * windows.stride_px, column * windows.stride_px
    bottom, right = top + windows.size_px, left + windows.size_px
    if core is not None:
        edge_top, edge_left = grid.box.top + core[0] * grid.shard_px, grid.box.left + core[1] * grid.shard_px
        top, left = np.maximum(top, edge_top), np.maximum(left, edge_left)
        bottom = np.minimum(bottom, edge_top + grid.shard_px)
        right = np.minimum(right, edge_left + grid.shard_px)
    lattice = grid.lattice
    polygons: NDArray[np.object_] = shapely.box(
        lattice.phase_x + left * lattice.res_x, lattice.phase_y - bottom * lattice.res_y,
        lattice.phase_x + right * lattice.res_x, lattice.phase_y - top * lattice.res_y,
    )  # fmt: skip
    return polygons
