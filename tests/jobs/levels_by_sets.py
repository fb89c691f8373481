"""Which coarser shards are due, by looking at one shard after another: what `jobs/levels.py` is held against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from jobs.levels import Due, Shard
from jobs.plan import Plan
from mapper.grid import Grid
from mapper.pyramid import LevelTask


class LevelsBySets:
    """As ``jobs.levels.Levels``, which keeps arrays: the same rules over sets of shards."""

    def __init__(
        self,
        plan: Plan,
        *,
        wanted: Iterable[int],
        finished: Mapping[int, frozenset[int]],
        built: Mapping[tuple[str, int], int],
    ) -> None:
        """Compare what stands with what should.

        Args:
            plan: of the run.
            wanted: rows of the tiles this run will map, or try to.
            finished: row of a tile → positions of the prompts that are finished there.
            built: key of a coarser shard and prompt position → of how many finished tiles it was built.
        """
        self._plan = plan
        self._pyramids = [grid.pyramid() for grid in plan.grids]
        self._finished: dict[tuple[int, int, int], NDArray[np.bool_]] = {}
        self._waits_for: dict[Shard, int] = defaultdict(int)
        self._changed: dict[Shard, set[int]] = defaultdict(set)
        self._due: list[Due] = []
        self._lacking: set[Shard] = set()
        """Shards over one that was given up."""

        self._next_id = len(plan.tiles)
        touched = {self._tile(row) for row in wanted}
        for row, prompts in finished.items():
            self._mark(row, prompts)
        stale = self._stale(finished, built)
        for level in range(1, max((len(pyramid) for pyramid in self._pyramids), default=1)):
            for shard in touched:
                for parent in self._parents(shard):
                    self._waits_for[parent] += 1
            touched = {parent for shard in touched for parent in self._parents(shard)}
            for shard in stale.get(level, {}):
                self._changed[shard] = stale[level][shard]
                touched.add(shard)
        for shard in sorted(self._changed):
            if not self._waits_for[shard]:
                self._ready(shard)

    def tile_over(self, row: int, prompts: Iterable[int]) -> None:
        """A tile is finished with these prompts, or given up with none."""
        written = frozenset(prompts)
        self._mark(row, written)
        for parent in self._parents(self._tile(row)):
            self._child_over(parent, written)

    def shard_over(self, due: Due, *, built: bool) -> None:
        """A coarser shard is built, or given up."""
        for parent in self._parents(due.shard):
            if not built or due.shard in self._lacking:
                self._lacking.add(parent)
            self._child_over(parent, frozenset(due.task.prompts if built else ()))

    @property
    def behind(self) -> bool:
        """Whether anything is still to be built, beside what was taken."""
        return bool(self._due or self._changed) or any(self._waits_for.values())

    def take(self) -> list[Due]:
        """What has become due since the last call."""
        due, self._due = self._due, []
        return due

    def _child_over(self, shard: Shard, prompts: frozenset[int]) -> None:
        self._waits_for[shard] -= 1
        self._changed[shard] |= prompts
        if self._waits_for[shard]:
            return
        if self._changed[shard]:
            self._ready(shard)
        else:
            del self._changed[shard]
            for parent in self._parents(shard):
                if shard in self._lacking:
                    self._lacking.add(parent)
                self._child_over(parent, prompts)

    def _ready(self, shard: Shard) -> None:
        grid = self._pyramids[shard.grid][shard.level]
        prompts = tuple(sorted(self._changed.pop(shard)))
        task = LevelTask(
            id=self._next_id, grid=grid, tile=grid.tile(shard.row, shard.column), time=shard.step, prompts=prompts
        )
        self._next_id += 1
        tiles = tuple(0 if shard in self._lacking else self._tiles_under(shard, prompt) for prompt in prompts)
        self._due.append(Due(shard=shard, task=task, tiles=tiles))

    def _stale(
        self, finished: Mapping[int, frozenset[int]], built: Mapping[tuple[str, int], int]
    ) -> dict[int, dict[Shard, set[int]]]:
        """Level → shards over finished tiles that were not built of all of them → the prompts concerned."""
        stale: dict[int, dict[Shard, set[int]]] = defaultdict(dict)
        known: dict[tuple[int, int], set[int]] = defaultdict(set)
        for grid, step, prompt in self._finished:
            known[grid, step].add(prompt)
        above = {self._tile(row) for row, prompts in finished.items() if prompts}
        while above := {parent for shard in above for parent in self._parents(shard)}:
            for shard in above:
                key = shard.key(self._plan)
                prompts = known[shard.grid, shard.step]
                late = {p for p in prompts if self._tiles_under(shard, p) != built.get((key, p), 0)}
                if late:
                    stale[shard.level][shard] = late
        return stale

    def _parents(self, shard: Shard) -> Iterator[Shard]:
        """The shards of the next level that it lies under: one, where the grid's box can be halved evenly."""
        pyramid = self._pyramids[shard.grid]
        if shard.level + 1 < len(pyramid):
            core = pyramid[shard.level].tile(shard.row, shard.column).core
            for tile in pyramid[shard.level + 1].tiles_in(core.halved()):
                yield Shard(shard.level + 1, shard.grid, shard.step, tile.row, tile.column)

    def _tiles_under(self, shard: Shard, prompt: int) -> int:
        finished = self._finished.get((shard.grid, shard.step, prompt))
        if finished is None:
            return 0
        base: Grid = self._plan.grids[shard.grid]
        box = self._pyramids[shard.grid][shard.level].tile(shard.row, shard.column).core
        for _ in range(shard.level):
            box = box.doubled()
        rows, columns = box.intersection(base.box).within(base.box)
        side = base.shard_px
        within = finished[rows.start // side : -(-rows.stop // side), columns.start // side : -(-columns.stop // side)]
        return int(within.sum())

    def _tile(self, row: int) -> Shard:
        tile = self._plan.tiles[row]
        return Shard(0, tile.grid, tile.step, tile.row, tile.column)

    def _mark(self, row: int, prompts: Iterable[int]) -> None:
        tile = self._plan.tiles[row]
        for prompt in prompts:
            place = (tile.grid, tile.step, prompt)
            if place not in self._finished:
                self._finished[place] = np.zeros(self._plan.grids[tile.grid].tile_shape, np.bool_)
            self._finished[place][tile.row, tile.column] = True
