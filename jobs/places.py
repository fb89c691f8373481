"""The tiles of a mosaic by one number each, whichever of its runs planned them; and what differs between two plans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.renewal import TurnedRun
from jobs.tile_file import TilePlaces
from jobs.tile_table import TileTable
from mapper.grid import Grid
from mapper.mosaic import Mosaic

Keys: TypeAlias = NDArray[np.int64]
"""Tiles as single numbers; their order is that of step, grid, row and column."""


class Spread(NamedTuple):
    """Where tiles lie, a value a tile."""

    step: NDArray[np.int64]
    """Position in ``Places.moments``."""

    grid: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]


class Places:
    """The places in a mosaic that a tile can have, and in the steps of time that it has no room for yet."""

    def __init__(self, grids: Sequence[Grid], moments: Sequence[datetime], *, on_axis: int) -> None:
        """Number them.

        Args:
            grids: of the mosaic.
            moments: where its steps of time begin, in the order of its axis, then those of others.
            on_axis: how many of them are on the axis.
        """
        self.grids = tuple(grids)
        self.moments = tuple(moments)
        self.on_axis = on_axis
        self.position = {moment: number for number, moment in enumerate(moments)}
        """Of each moment."""

        rows, columns = (max(grid.tile_shape[axis] for grid in grids) for axis in (0, 1))
        self._extent = (len(self.moments), len(self.grids), rows, columns)

    @classmethod
    def of(cls, mosaic: Mosaic, runs: Sequence[TurnedRun], *, also: Collection[datetime]) -> Places:
        """Those of a mosaic, in its steps, in the steps its runs planned, and in others."""
        times = mosaic.times
        planned = {step for run in runs for step in run.steps}
        return cls(mosaic.grids, [*times, *sorted((planned | set(also)) - set(times))], on_axis=len(times))

    def keys(self, tiles: TileTable | TilePlaces) -> Keys:
        """The numbers of tiles whose steps and grids are counted as here."""
        return self.numbers(tiles.step, tiles.grid, tiles.row, tiles.column)

    def of_run(self, run: TurnedRun) -> Keys:
        """The numbers of the tiles of a run, by row of its plan."""
        places = run.folder.places()
        names = {grid.name: number for number, grid in enumerate(self.grids)}
        steps = np.array([self.position[step] for step in run.steps] or [0], np.int64)
        grids = np.array([names[name] for name in run.facts.get("grids", names)], np.int64)
        return self.numbers(steps[places.step], grids[places.grid], places.row, places.column)

    def split(self, keys: Keys) -> Spread:
        """Where the tiles of these numbers lie."""
        return Spread(*(np.asarray(of, np.int64) for of in np.unravel_index(keys, self._extent)))

    def numbers(
        self,
        step: NDArray[np.integer],
        grid: NDArray[np.integer],
        row: NDArray[np.integer],
        column: NDArray[np.integer],
    ) -> Keys:
        """The numbers of tiles that lie in the mosaic."""
        columns = (np.asarray(of, np.int64) for of in (step, grid, row, column))
        return np.asarray(np.ravel_multi_index(tuple(columns), self._extent), np.int64)


def changed_tiles(old: TileTable, new: TileTable, places: Places) -> tuple[Keys, Keys]:
    """Tiles that show other items than before, or in another order, and tiles that show none any more.

    Args:
        old: the tiles as they were, none of them twice.
        new: as they are now; items, steps and grids have one numbering in both.
        places: counts steps and grids likewise.
    """
    old_keys, new_keys = places.keys(old), places.keys(new)
    row = rows_of_keys(new_keys, old_keys)
    counts, old_counts = np.diff(new.first_item), np.diff(old.first_item)
    alike = np.flatnonzero((row >= 0) & (counts == np.append(old_counts, -1)[row]))
    ours, owner = items_of_tiles(new, alike)
    theirs, _ = items_of_tiles(old, row[alike])
    same = np.zeros(len(new), np.bool_)
    same[alike[np.bincount(owner[ours != theirs], minlength=len(alike)) == 0]] = True
    return new_keys[~same], old_keys[rows_of_keys(old_keys, new_keys) < 0]


def rows_of_keys(keys: Keys, among: Keys) -> NDArray[np.int64]:
    """Where each of some numbers stands among others, which are different; -1 where it does not."""
    if not len(among):
        return np.full(len(keys), -1, np.int64)
    order = np.argsort(among)
    at = order[np.minimum(among.searchsorted(keys, sorter=order), len(among) - 1)]
    return np.where(among[at] == keys, at, -1)


def items_of_tiles(tiles: TileTable, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The items of some tiles, one tile after another; and for each, which of these tiles it shows, by position."""
    counts = np.diff(tiles.first_item)[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return tiles.item[tiles.first_item[rows][owner] + within], owner
