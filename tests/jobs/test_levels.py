"""Which coarser shards are due: each once, after all that lies under it, whatever the order and the interruptions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from jobs.levels import BuiltShards, Due, Levels, Shard
from jobs.plan import Plan
from jobs.tile_table import PlannedTile, TileTable
from mapper.grid import Grid, Lattice, PixelBox
from tests.jobs.levels_by_sets import LevelsBySets
from tests.strategies import grids

GRID = Grid(lattice=Lattice(crs="EPSG:32632", res_x=1.0, res_y=1.0), box=PixelBox(0, 0, 16, 16), shard_px=8, chunk_px=4)
STEPS = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))


PROMPTS = 2


def plan_over(*grids: Grid, holes: frozenset[int]) -> Plan:
    """Two time steps; of the second, some tiles were not planned."""
    tiles = [
        PlannedTile(grid=position, step=step, row=tile.row, column=tile.column, clipped=False, items=())
        for step in (0, 1)
        for position, grid in enumerate(grids)
        for number, tile in enumerate(grid.tiles())
        if step == 0 or number not in holes
    ]
    return Plan(items=(), grids=grids, areas={"": box(0, 0, 1, 1)}, steps=STEPS, tiles=TileTable.of(tiles))


def levels_of(
    plan: Plan,
    wanted: Iterable[int],
    finished: Mapping[int, Iterable[int]] | None = None,
    built: Mapping[tuple[str, int], int] | None = None,
) -> Levels:
    """The levels of a plan, from what is known by row and by key."""
    flags = np.zeros((PROMPTS, len(plan.tiles)), np.bool_)
    for row, prompts in (finished or {}).items():
        flags[list(prompts), row] = True
    names, steps = [grid.name for grid in plan.grids], [step.isoformat() for step in plan.steps]
    columns = []
    for (key, prompt), tiles in (built or {}).items():
        name, step, level, row_, column = key.split("/")
        columns.append([int(level), names.index(name), steps.index(step), int(row_), int(column), prompt, tiles])
    shards = BuiltShards.of([np.array(columns, np.int32).reshape(-1, 7).T])
    return Levels(plan, wanted=np.array(sorted(wanted), np.int64), finished=flags, built=shards)


@dataclass
class Story:
    """What became of a mosaic over several runs, each of which may end early."""

    plan: Plan
    finished: dict[int, frozenset[int]] = field(default_factory=dict)
    built: dict[tuple[str, int], int] = field(default_factory=dict)
    made_of: dict[tuple[str, int], frozenset[int]] = field(default_factory=dict)
    """Shard and prompt → the tiles whose pixels are in it."""

    lacking: bool = False
    """Whether this run has given up any shard."""

    def run(self, draw: random.Random, prompts: tuple[int, ...], *, fail: float, stop_after: int) -> int:
        wanted = {
            row: tuple(prompt for prompt in prompts if prompt not in self.finished.get(row, ()))
            for row in range(len(self.plan.tiles))
        }
        wanted = {row: missing for row, missing in wanted.items() if missing}
        levels = levels_of(self.plan, wanted, self.finished, self.built)
        open_tiles, open_shards, given = list(wanted), levels.take(), set[tuple[str, int]]()
        acts, self.lacking = 0, False
        while (open_tiles or open_shards) and acts < stop_after:
            acts += 1
            at = draw.randrange(len(open_tiles) + len(open_shards))
            if at < len(open_tiles):
                row = open_tiles.pop(at)
                written = () if draw.random() < fail else wanted[row]
                self.finished[row] = self.finished.get(row, frozenset()) | frozenset(written)
                levels.tile_over(row, written)
            else:
                due = open_shards.pop(at - len(open_tiles))
                given_up = draw.random() < fail / 3
                self.lacking |= given_up
                if not given_up:
                    self.build(due)
                levels.shard_over(due, built=not given_up)
            for due in levels.take():
                named = {(due.shard.key(self.plan), prompt) for prompt in due.task.prompts}
                assert not named & given  # each once a run
                given |= named
                open_shards.append(due)
        assert (levels.behind or bool(open_shards)) == bool(open_tiles or open_shards)
        return acts

    def build(self, due: Due) -> None:
        key = due.shard.key(self.plan)
        for prompt, tiles in zip(due.task.prompts, due.tiles, strict=True):
            under = self.under(due, prompt)
            assert tiles == len(under) or (self.lacking and tiles == 0)
            self.built[key, prompt] = tiles
            self.made_of[key, prompt] = under

    def under(self, due: Due, prompt: int) -> frozenset[int]:
        """The tiles whose pixels the finer level holds there: by its own shards, as they were last built."""
        finer = self.plan.grids[0].pyramid()[due.shard.level - 1]
        below = due.task.tile.core.doubled()
        if finer.level == 0:
            return frozenset(
                row
                for row, tile in enumerate(self.plan.tiles)
                if prompt in self.finished.get(row, ())
                and tile.step == due.shard.step
                and not finer.tile(tile.row, tile.column).core.intersection(below).empty
            )
        found: set[int] = set()
        for tile in finer.tiles_in(below):
            key = f"/{STEPS[due.shard.step].isoformat()}/{finer.level}/{tile.row}/{tile.column}"
            found |= self.made_of.get((key, prompt), frozenset())
        base = self.plan.grids[0]
        return frozenset(row for row in found if touches(base, self.plan.tiles[row], due))


def touches(base: Grid, tile: PlannedTile, due: Due) -> bool:
    core: PixelBox = due.task.tile.core
    for _ in range(due.shard.level):
        core = core.doubled()
    return not base.tile(tile.row, tile.column).core.intersection(core).empty


@given(
    grid=grids(),
    seed=st.integers(0, 10**6),
    holes=st.frozensets(st.integers(0, 24), max_size=8),
    stops=st.lists(st.integers(0, 60), max_size=3),
    fail=st.sampled_from([0.0, 0.3]),
)
def test_after_any_runs_every_level_is_made_of_all_finished_tiles_under_it(
    grid: Grid, seed: int, holes: frozenset[int], stops: list[int], fail: float
) -> None:
    draw = random.Random(seed)
    story = Story(plan_over(grid, holes=holes))
    for stop in stops:
        story.run(draw, draw.choice([(0,), (1,), (0, 1)]), fail=fail, stop_after=stop)
    story.run(draw, (0, 1), fail=0.0, stop_after=10**9)
    pyramid = grid.pyramid()
    for prompt in (0, 1):
        for step in (0, 1):
            for level in pyramid[1:]:
                for tile in level.tiles():
                    core = tile.core
                    for _ in range(level.level):
                        core = core.doubled()
                    under = {
                        row
                        for row, planned in enumerate(story.plan.tiles)
                        if planned.step == step
                        and not grid.tile(planned.row, planned.column).core.intersection(core).empty
                    }
                    key = f"/{STEPS[step].isoformat()}/{level.level}/{tile.row}/{tile.column}"
                    assert story.made_of.get((key, prompt), frozenset()) == under
    assert story.run(draw, (0, 1), fail=0.0, stop_after=10**9) == 0  # and nothing is left to do


def test_a_tile_that_is_given_up_holds_nothing_up() -> None:
    story = Story(plan_over(GRID, holes=frozenset(range(4))))
    levels = levels_of(story.plan, range(4))
    for row in (0, 1, 2):
        levels.tile_over(row, (0,))
    assert levels.take() == []
    levels.tile_over(3, ())
    (due,) = levels.take()
    assert (due.shard.level, due.tiles) == (1, (3,))


def test_a_place_where_every_tile_was_given_up_gets_no_shard() -> None:
    story = Story(plan_over(GRID, holes=frozenset(range(4))))
    levels = levels_of(story.plan, range(4))
    for row in range(4):
        levels.tile_over(row, ())
    assert levels.take() == []
    assert not levels.behind


def test_one_more_prompt_rebuilds_that_prompt_alone() -> None:
    story = Story(plan_over(GRID, holes=frozenset(range(4))))
    story.run(random.Random(1), (0,), fail=0.0, stop_after=10**9)
    before = dict(story.built)
    story.run(random.Random(2), (1,), fail=0.0, stop_after=10**9)
    assert {prompt for key, prompt in story.built if (key, prompt) not in before} == {1}


def summed_up(due: Iterable[Due]) -> set[tuple[Shard, tuple[int, ...], tuple[int, ...]]]:
    return {(one.shard, one.task.prompts, one.tiles) for one in due}


@given(
    grid=grids(),
    other=grids(),
    holes=st.frozensets(st.integers(0, 24), max_size=8),
    draw=st.randoms(use_true_random=False),
)
def test_the_columns_say_what_the_rules_say_of_one_shard_after_another(
    grid: Grid, other: Grid, holes: frozenset[int], draw: random.Random
) -> None:
    plan = plan_over(grid, replace(other, name="utm14n"), holes=holes)
    every = range(len(plan.tiles))
    finished = {row: frozenset(draw.sample((0, 1), draw.randrange(3))) for row in every if draw.random() < 0.6}
    wanted = {row for row in every if draw.random() < 0.5}
    afresh = LevelsBySets(plan, wanted=(), finished=finished, built={})
    built = {
        (due.shard.key(plan), prompt): draw.choice([tiles, tiles, tiles + 1, max(0, tiles - 1)])
        for due in afresh.take()
        for prompt, tiles in zip(due.task.prompts, due.tiles, strict=True)
        if draw.random() < 0.8
    }
    slow = LevelsBySets(plan, wanted=wanted, finished=finished, built=built)
    quick = levels_of(plan, wanted, finished, built)
    waiting: list[tuple[Due, Due]] = []
    tiles_left = draw.sample(sorted(wanted), len(wanted))
    while True:
        expected = {due.shard: due for due in slow.take()}
        found = quick.take()
        assert summed_up(found) == summed_up(expected.values())
        assert [(due.task.grid, due.task.tile) for due in found] == [
            (expected[due.shard].task.grid, expected[due.shard].task.tile) for due in found
        ]
        waiting += [(expected[due.shard], due) for due in found]
        assert quick.behind == slow.behind
        if tiles_left and (not waiting or draw.random() < 0.7):
            row, prompts = tiles_left.pop(), draw.sample((0, 1), draw.randrange(3))
            slow.tile_over(row, prompts)
            quick.tile_over(row, prompts)
        elif waiting:
            one, same = waiting.pop(draw.randrange(len(waiting)))
            is_built = draw.random() < 0.8
            slow.shard_over(one, built=is_built)
            quick.shard_over(same, built=is_built)
        else:
            break
    assert not quick.behind


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_is_taken_than_there_is_room_for_and_nothing_is_lost_by_it(most: int) -> None:
    plan = plan_over(replace(GRID, box=PixelBox(0, 0, 64, 64)), holes=frozenset())
    finished = dict.fromkeys(range(len(plan.tiles)), (0,))
    everything = summed_up(levels_of(plan, (), finished).take())
    levels, taken = levels_of(plan, (), finished), []
    for _ in range(len(everything)):
        some = levels.take(most)
        assert len(some) <= most
        taken += some
    if not most:
        assert (taken, levels.behind) == ([], True)
    assert summed_up(taken + levels.take()) == everything
    assert len({due.task.id for due in taken} | {*range(len(plan.tiles))}) == len(taken) + len(plan.tiles)


def test_a_shard_is_due_again_when_what_stands_was_made_of_less() -> None:
    plan = plan_over(GRID, holes=frozenset(range(4)))
    finished = dict.fromkeys(range(4), (0,))
    (due,) = levels_of(plan, (), finished).take()
    assert (due.shard.level, due.tiles) == (1, (4,))
    key = due.shard.key(plan)
    assert summed_up(levels_of(plan, (), finished, {(key, 0): 3}).take()) == summed_up([due])
    (next_level,) = levels_of(plan, (), finished, {(key, 0): 4}).take()
    assert (next_level.shard.level, next_level.tiles) == (2, (4,))


def test_a_level_takes_a_few_bytes_a_tile() -> None:
    side = 256
    plan = plan_over(replace(GRID, box=PixelBox(0, 0, 8 * side, 8 * side)), holes=frozenset(range(side**2)))
    levels = levels_of(plan, range(len(plan.tiles)))
    held = sum(
        array.nbytes for level in levels._levels for array in vars(level).values() if isinstance(array, np.ndarray)
    )
    assert held / len(plan.tiles) < 10  # a third of the tiles: a key, a count, and for each of two prompts five bytes
