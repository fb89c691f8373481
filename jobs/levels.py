"""Which shards of coarser levels are due: each as soon as all that lies under it is over. Rules and state, no effects.

    tile over ──► its parent waits for one less ──► none left: due ──► built ──► its parent waits for one less ──► …

What was built by an earlier run is current as long as it was made of as many finished tiles as lie under it now:
finished tiles never change, so their number says it all.

A level keeps a few numbers a shard, for the shards that lie over planned tiles: some ten bytes a tile in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.plan import Plan
from jobs.tile_table import Flags, Ints
from mapper.grid import Grid
from mapper.pyramid import LevelTask

Keys = NDArray[np.int64]
"""Shards of one level as single numbers; their order is that of grid, step, row and column."""

AT_ONCE = 1 << 18
"""Tiles whose shards of a level are looked up at once: bounds what that takes in between."""


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One shard of any level, at one time step."""

    level: int
    grid: int
    """Position in the plan's grids."""

    step: int
    row: int
    column: int

    def key(self, plan: Plan) -> str:
        """What names it in every run of a mosaic."""
        return f"{plan.grids[self.grid].name}/{plan.steps[self.step].isoformat()}/{self.level}/{self.row}/{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A shard to build, and of how much it will be made."""

    shard: Shard
    task: LevelTask
    tiles: tuple[int, ...]
    """Finished tiles under it, prompt by prompt as in the task; none where it lacks a shard that was given up."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltShards:
    """Shards of coarser levels as they were put, in the order recorded, a row a prompt: the last row counts."""

    level: Ints
    grid: Ints
    """Position in the plan's grids."""

    step: Ints
    row: Ints
    column: Ints
    prompt: Ints
    """Position on the mosaic's prompt axis."""

    tiles: Ints
    """Of how many finished tiles it was made."""

    @classmethod
    def of(cls, batches: Iterable[Ints]) -> BuiltShards:
        """From batches with these columns, in this order: ``(column, shard and prompt)``."""
        level, grid, step, row, column, prompt, tiles = np.concatenate([np.empty((7, 0), np.int32), *batches], axis=1)
        return cls(level=level, grid=grid, step=step, row=row, column=column, prompt=prompt, tiles=tiles)


class Levels:
    """What a run has yet to build above its tiles. ``take`` gives what is due; each of it is given once."""

    def __init__(self, plan: Plan, *, wanted: NDArray[np.int64], finished: Flags, built: BuiltShards) -> None:
        """Compare what stands with what should.

        Args:
            plan: of the run.
            wanted: rows of the tiles this run will map, or try to.
            finished: ``(prompt, tile)``, by position on the mosaic's prompt axis and row in the plan.
            built: what was built before.
        """
        self._plan = plan
        self._finished = finished.copy()
        self._next_id = len(plan.tiles)
        pyramids = [grid.pyramid() for grid in plan.grids]
        depth = max(len(pyramid) for pyramid in pyramids) if len(plan.tiles) else 1
        table = plan.tiles
        tiles = places = _Places(grid=table.grid, step=table.step, row=table.row, column=table.column)
        touched = places.only(wanted)
        self._levels: list[_Level] = []
        nested = True
        for level in range(1, depth):
            here = _Level(pyramids, level, places, steps=len(plan.steps), prompts=len(finished))
            nested = nested and here.nested
            if nested and level > 1:  # a tile under a shard is then under the one shard over that: no need to ask it
                here.count(places, self._levels[-1].under, from_tiles=False)
            else:
                here.count(tiles, self._finished, from_tiles=True)
            here.expect(touched)
            here.compare(built)
            self._levels.append(here)
            places = here.places()
            touched = places.only(np.flatnonzero((here.waits > 0) | here.changed.any(axis=0)))
        self._ready: deque[tuple[int, int]] = deque()
        at_once = [np.flatnonzero((here.waits == 0) & here.changed.any(axis=0)) for here in self._levels]
        self._begun_with = chain.from_iterable(
            ((level, int(at)) for at in ready) for level, ready in enumerate(at_once, start=1)
        )
        self._untaken = sum(len(ready) for ready in at_once)

    def tile_over(self, row: int, prompts: Iterable[int]) -> None:
        """A tile is finished with these prompts, or given up with none."""
        written = frozenset(prompts)
        table = self._plan.tiles
        grid, step = int(table.grid[row]), int(table.step[row])
        place = int(table.row[row]), int(table.column[row])
        news = [prompt for prompt in written if not self._finished[prompt, row]]
        for here in self._levels:
            for at in here.over(grid, step, place, from_tiles=True):
                here.under[news, at] += 1
        self._finished[news, row] = True
        self._child_over(0, grid, step, place, written)

    def shard_over(self, due: Due, *, built: bool) -> None:
        """A coarser shard is built, or given up. What is built over one that was given up lacks it, and says that it is
        made of nothing: so it is built again when that is there."""
        shard = due.shard
        written = frozenset(due.task.prompts if built else ())
        place = (shard.row, shard.column)
        self._child_over(shard.level, shard.grid, shard.step, place, written, whole=built and any(due.tiles))

    @property
    def behind(self) -> bool:
        """Whether anything is still to be built, beside what was taken."""
        return self._untaken > 0 or any((here.waits > 0).any() for here in self._levels)

    def take(self, most: int | None = None) -> list[Due]:
        """What has become due and was not taken yet, or ``most`` of it; what was due from the start comes first."""
        room = self._untaken if most is None else min(most, self._untaken)
        due = [self._due(*one) for one in islice(self._begun_with, room)]
        due += [self._due(*self._ready.popleft()) for _ in range(room - len(due))]
        self._untaken -= room
        return due

    def _child_over(
        self, level: int, grid: int, step: int, place: tuple[int, int], prompts: frozenset[int], *, whole: bool = True
    ) -> None:
        """Of a level's shard, or of a tile: those over it wait for one less."""
        if level == len(self._levels):
            return
        above = self._levels[level]
        for at in above.over(grid, step, place):
            above.waits[at] -= 1
            above.whole[at] &= whole
            above.changed[list(prompts), at] = True
            if above.waits[at]:
                continue
            if above.changed[:, at].any():
                self._ready.append((level + 1, at))
                self._untaken += 1
            else:
                self._child_over(level + 1, *above.place(at), frozenset(), whole=bool(above.whole[at]))

    def _due(self, level: int, at: int) -> Due:
        here = self._levels[level - 1]
        grid, step, (row, column) = here.place(at)
        prompts = tuple(np.flatnonzero(here.changed[:, at]).tolist())
        here.changed[:, at] = False
        of = here.grids[grid]
        assert of is not None  # it has shards
        task = LevelTask(id=self._next_id, grid=of, tile=of.tile(row, column), time=step, prompts=prompts)
        self._next_id += 1
        tiles = tuple(int(here.under[prompt, at]) * bool(here.whole[at]) for prompt in prompts)
        return Due(shard=Shard(level, grid, step, row, column), task=task, tiles=tiles)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Places:
    """Shards of one level, or tiles."""

    grid: NDArray[np.integer]
    step: NDArray[np.integer]
    row: NDArray[np.integer]
    column: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.grid)

    def only(self, chosen: NDArray[np.integer] | slice) -> _Places:
        return _Places(grid=self.grid[chosen], step=self.step[chosen], row=self.row[chosen], column=self.column[chosen])


class _Level:
    """The shards of one coarser level, in all grids and steps, that lie over planned tiles."""

    def __init__(
        self, pyramids: list[tuple[Grid, ...]], level: int, below: _Places, *, steps: int, prompts: int
    ) -> None:
        self._level = level
        self.grids = [pyramid[level] if level < len(pyramid) else None for pyramid in pyramids]
        shapes = [grid.tile_shape for grid in self.grids if grid is not None]
        self._steps = steps
        self._rows, self._columns = (max(shape[axis] for shape in shapes) for axis in (0, 1))
        self._over_next = _Over(pyramids, level - 1, level)
        """What lies over a shard of the level below."""

        self._over_tiles = _Over(pyramids, 0, level)
        self._keys: Keys = np.unique(
            np.concatenate([np.unique(keys) for keys, _ in self._above(self._over_next, below)])
        )
        self.waits = np.zeros(len(self._keys), np.int32)
        """Of how many shards below, or tiles, it is not known yet what becomes of them."""

        self.changed = np.zeros((prompts, len(self._keys)), np.bool_)
        """Whether there is more under it than it was made of."""

        self.whole = np.ones(len(self._keys), np.bool_)
        """Whether no shard below it was given up."""

        self.under = np.zeros((prompts, len(self._keys)), np.int32)
        """Finished tiles under it."""

    def places(self) -> _Places:
        """Where its shards lie, in order."""
        above, column = np.divmod(self._keys, self._columns)
        group, row = np.divmod(above, self._rows)
        grid, step = np.divmod(group, self._steps)
        return _Places(
            grid=grid.astype(np.int32), step=step.astype(np.int32), row=row.astype(np.int32),
            column=column.astype(np.int32),
        )  # fmt: skip

    def place(self, at: int) -> tuple[int, int, tuple[int, int]]:
        """Grid, step, and row and column of one."""
        above, column = divmod(int(self._keys[at]), self._columns)
        group, row = divmod(above, self._rows)
        return group // self._steps, group % self._steps, (row, column)

    def over(self, grid: int, step: int, place: tuple[int, int], *, from_tiles: bool = False) -> Iterator[int]:
        """Positions of the shards over one of the level below, or over a tile."""
        if self.grids[grid] is None:
            return
        spans = (self._over_tiles if from_tiles else self._over_next).one(grid, place)
        for row, column in product(*spans):
            key = ((grid * self._steps + step) * self._rows + row) * self._columns + column
            yield int(self._keys.searchsorted(key))

    @property
    def nested(self) -> bool:
        """Whether each shard of the level below, or tile, lies under one of its shards alone."""
        return self._over_next.alone

    def count(self, places: _Places, finished: NDArray[np.int32] | Flags, *, from_tiles: bool) -> None:
        """Count the finished tiles under each: of tiles themselves, or as counted under the shards of the level below.

        Args:
            places: of the tiles, or of those shards.
            finished: ``(prompt, place)``.
            from_tiles: whether they are tiles.
        """
        for keys, at in self._above(self._over_tiles if from_tiles else self._over_next, places):
            above = self._keys.searchsorted(keys)
            for prompt, done in enumerate(finished):
                self.under[prompt] += self._sums(above, done[at])

    def expect(self, touched: _Places) -> None:
        """These of the level below will change, or may."""
        for keys, _ in self._above(self._over_next, touched):
            self.waits += self._sums(self._keys.searchsorted(keys))

    def compare(self, built: BuiltShards) -> None:
        """Those over finished tiles that were not built of all of them have changed."""
        made_of = np.zeros_like(self.under)
        here = built.level == self._level
        keys = self._key(built.grid[here], built.step[here], built.row[here], built.column[here])
        at = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        known = self._keys[at] == keys
        made_of[built.prompt[here][known], at[known]] = built.tiles[here][known]
        self.changed |= (self.under > 0) & (self.under != made_of)

    def _above(self, over: _Over, places: _Places) -> Iterator[tuple[Keys, NDArray[np.int64] | slice]]:
        """Keys of the shards over these, and which of these: those that lie under two or four come as often."""
        reaches = np.array([grid is not None for grid in self.grids])
        for begin in range(0, len(places), AT_ONCE):
            part = places.only(slice(begin, begin + AT_ONCE))
            (top, bottom), (left, right) = over.many(part)
            if over.alone and reaches.all():
                yield self._key(part.grid, part.step, top, left), slice(begin, begin + AT_ONCE)
                continue
            for row, column in product((top, bottom), (left, right)):
                again = (row is bottom) & (top == bottom) | (column is right) & (left == right)
                at = np.flatnonzero(reaches[part.grid] & ~again)
                yield self._key(part.grid[at], part.step[at], row[at], column[at]), at + begin

    def _key(
        self,
        grid: NDArray[np.integer],
        step: NDArray[np.integer],
        row: NDArray[np.integer],
        column: NDArray[np.integer],
    ) -> Keys:
        group = grid.astype(np.int64) * self._steps + step
        return np.asarray((group * self._rows + row) * self._columns + column)

    def _sums(self, at: NDArray[np.int64], of: NDArray[Any] | None = None) -> Ints:
        """What adds up at each of its shards, in whole numbers: how often it is at these positions, or of values."""
        return np.bincount(at, weights=of, minlength=len(self._keys)).astype(np.int32)


class _Over:
    """Which rows and columns of shards of a coarser level lie over those of a finer one: one, or two."""

    def __init__(self, pyramids: list[tuple[Grid, ...]], finer: int, coarser: int) -> None:
        spans = [
            shards_over(pyramid[finer], pyramid[coarser])
            if coarser < len(pyramid)
            else (np.empty((2, 0), np.int32),) * 2
            for pyramid in pyramids
        ]
        self._rows, self._columns = (np.concatenate([span[axis] for span in spans], axis=1) for axis in (0, 1))
        """``(first or last, row)``, the grids one after another."""

        self._first_row, self._first_column = (
            np.cumsum([0, *(span[axis].shape[1] for span in spans)]) for axis in (0, 1)
        )

        self.alone = all(np.array_equal(span[0], span[1]) for span in (self._rows, self._columns))
        """Whether none has two over it."""

    def many(self, places: _Places) -> tuple[Ints, Ints]:
        """First and last row, first and last column over each place; anything where its grid has no such level."""
        rows = np.minimum(self._first_row[places.grid] + places.row, self._rows.shape[1] - 1)
        columns = np.minimum(self._first_column[places.grid] + places.column, self._columns.shape[1] - 1)
        return self._rows[:, rows], self._columns[:, columns]

    def one(self, grid: int, place: tuple[int, int]) -> tuple[range, range]:
        """Rows and columns over one place."""
        row, column = int(self._first_row[grid]) + place[0], int(self._first_column[grid]) + place[1]
        return (
            range(int(self._rows[0, row]), int(self._rows[1, row]) + 1),
            range(int(self._columns[0, column]), int(self._columns[1, column]) + 1),
        )


def shards_over(finer: Grid, coarser: Grid) -> tuple[Ints, Ints]:
    """For each row, and for each column, of shards of a finer level: the first and last of the coarser one over it."""
    halvings = coarser.level - finer.level

    def along(begin: int, end: int, coarser_begin: int) -> Ints:
        starts = np.arange(begin, end, finer.shard_px, dtype=np.int64)
        ends = np.minimum(starts + finer.shard_px, end)
        first = ((starts >> halvings) - coarser_begin) // coarser.shard_px
        last = (-(-ends >> halvings) - coarser_begin - 1) // coarser.shard_px  # rounded up, then the pixel before
        return np.stack([first, last]).astype(np.int32)

    return (
        along(finer.box.top, finer.box.bottom, coarser.box.top),
        along(finer.box.left, finer.box.right, coarser.box.left),
    )
