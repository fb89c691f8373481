"""How far all runs of a mosaic have come with what one job asks: the ledgers, read in columns against the plan."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.ledger import FINISHED, RunFolder, run_names, with_state
from jobs.levels import BuiltShards
from jobs.plan import Plan
from jobs.tile_table import Flags
from mapper.mosaic import Mosaic

if TYPE_CHECKING:
    from jobs.prepare import Prepared

IN_HAND = 4096
"""Rows that are Python numbers at a time, where a million are gone through."""


class Rows(Collection[int]):
    """Some rows of the plan, in order: one byte a tile."""

    def __init__(self, flags: Flags) -> None:
        """``flags``: whether each row is one of them."""
        self.flags = flags

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and 0 <= row < len(self.flags) and bool(self.flags[row])

    def __iter__(self) -> Iterator[int]:
        return _numbers(np.flatnonzero(self.flags))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.flags))


class Wanted(Mapping[int, tuple[int, ...]]):
    """Row of a tile that lacks something → positions of the prompts it lacks; by rising row, a few bytes a tile."""

    def __init__(self, missing: Flags, prompts: Sequence[int]) -> None:
        """Take note of what is missing.

        Args:
            missing: ``(prompt, tile)``.
            prompts: position of each of these prompts on the mosaic's axis.
        """
        self._code = np.zeros(missing.shape[1], np.int32)
        self._lacks: list[tuple[int, ...]] = [()]
        for prompt, lacking in zip(prompts, missing, strict=True):
            self._add(prompt, lacking)
        self.rows: NDArray[np.int64] = np.flatnonzero(self._code)
        """All of them."""

    def __getitem__(self, row: int) -> tuple[int, ...]:
        code = int(self._code[row]) if 0 <= row < len(self._code) else 0
        if not code:
            raise KeyError(row)
        return self._lacks[code]

    def __iter__(self) -> Iterator[int]:
        return _numbers(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def items(self) -> ItemsView[int, tuple[int, ...]]:
        """Row and prompts, in order."""
        return _WantedItems(self)

    def pairs(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """As ``items``."""
        for begin in range(0, len(self.rows), IN_HAND):
            rows = self.rows[begin : begin + IN_HAND]
            for row, code in zip(rows.tolist(), self._code[rows].tolist(), strict=True):
                yield row, self._lacks[code]

    def _add(self, prompt: int, lacking: Flags) -> None:
        """Tell the tiles that lack one more prompt from those that do not: of each combination that there is."""
        code = 2 * self._code + lacking
        there = np.bincount(code, minlength=1) > 0
        there[0] = True  # nothing is lacking: always number 0
        self._lacks = [self._lacks[n // 2] + ((prompt,) if n % 2 else ()) for n in np.flatnonzero(there).tolist()]
        self._code = (np.cumsum(there, dtype=np.int32) - 1)[code]


class _WantedItems(ItemsView[int, tuple[int, ...]]):
    """Goes through a million without looking each up."""

    _mapping: Wanted

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        return self._mapping.pairs()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """How far all runs of a mosaic have come with what one job asks."""

    wanted: Wanted
    """What each tile lacks."""

    sources: Rows
    """The tiles whose source layer is written."""

    finished: Flags
    """``(prompt, tile)``: of any job's prompts, by position on the mosaic's axis, and row in the plan."""

    built: BuiltShards
    """What stands on coarser levels."""


def standing(prepared: Prepared, mosaic: Mosaic, *, retry: bool) -> Standing:
    """Read the ledgers of all runs of this mosaic.

    Args:
        prepared: the job and its plan.
        mosaic: where it writes.
        retry: whether tiles given up before are taken again.
    """
    plan = prepared.plan
    position = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}
    finished = np.zeros((len(position), len(plan.tiles)), np.bool_)
    sources = np.zeros(len(plan.tiles), np.bool_)
    given_up = np.zeros(len(plan.tiles), np.bool_)
    built: list[NDArray[np.int32]] = []
    for name in run_names(mosaic.url):
        own = name == prepared.run
        folder = prepared.folder if own else RunFolder(mosaic.url, name)
        rows = None if own else rows_of(folder, plan)
        for batch in folder.last_words("state", "prompts"):
            _enter(batch, rows, position, finished, sources)
            if own and not retry:
                lost = pc.is_in(batch.column("state"), value_set=pa.array(["quarantined"]))
                given_up[batch.filter(lost).column("tile").to_numpy()] = True
        built += _built(folder, plan, position)
    here = [position[prompt.name] for prompt in prepared.job.spec.prompts]
    return Standing(
        wanted=Wanted(~finished[here] & ~given_up, here),
        sources=Rows(sources),
        finished=finished,
        built=BuiltShards.of(built),
    )


def rows_of(folder: RunFolder, plan: Plan) -> NDArray[np.int64] | None:
    """Row of a run's tile → row of the same tile in a plan of the same mosaic; -1 where that has none.

    A tile is the same by its zone's name, its step's moment, its row and its column.

    Returns:
        None where all rows are their own.
    """
    theirs, facts = folder.places(), folder.facts()
    names = [grid.name for grid in plan.grids]
    grids = _positions(facts.get("grids", names), names)  # runs of version 0.1 do not say: they have the plan's own
    steps = _positions([datetime.fromisoformat(step) for step in facts["steps"]], plan.steps)
    grid, step = grids[theirs.grid], steps[theirs.step]
    ours = plan.tiles
    pairs = ((grid, ours.grid), (step, ours.step), (theirs.row, ours.row), (theirs.column, ours.column))
    if all(np.array_equal(one, other) for one, other in pairs):
        return None
    extent = [int(max(one.max(initial=0), other.max(initial=0))) + 1 for one, other in pairs]
    keys, own_keys = (np.ravel_multi_index([np.maximum(pair[n], 0) for pair in pairs], extent) for n in (0, 1))
    order = np.argsort(own_keys, kind="stable")
    at = np.minimum(own_keys.searchsorted(keys, sorter=order), len(order) - 1)
    same = (own_keys[order[at]] == keys) & (grid >= 0) & (step >= 0)
    return np.where(same, order[at], -1)


def _positions(theirs: Sequence[Any], ours: Sequence[Any]) -> NDArray[np.int32]:
    """Position of each of theirs among ours; -1 where it is not."""
    known = {value: number for number, value in enumerate(ours)}
    return np.array([known.get(value, -1) for value in theirs], np.int32)


def _enter(
    batch: pa.RecordBatch,
    rows: NDArray[np.int64] | None,
    position: Mapping[str, int],
    finished: Flags,
    sources: Flags,
) -> None:
    """Enter what a batch of a ledger tells of finished tiles."""
    done = batch.filter(with_state(batch, FINISHED))
    row = done.column("tile").to_numpy()
    if rows is not None:
        row = rows[row]
        done, row = done.filter(pa.array(row >= 0)), row[row >= 0]
    sources[row] = True
    prompts, times = _prompts(done, position)
    finished[prompts, np.repeat(row, times)] = True


def _prompts(batch: pa.RecordBatch, position: Mapping[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Positions of the prompts of all rows, one after another, and how many each row has."""
    lists = batch.column("prompts")
    names = lists.flatten()
    known = np.array([position[name] for name in names.dictionary.to_pylist()] or [0], np.int32)
    return known[names.indices.to_numpy(zero_copy_only=False)], lists.value_lengths().to_numpy(zero_copy_only=False)


def _built(folder: RunFolder, plan: Plan, position: Mapping[str, int]) -> list[NDArray[np.int32]]:
    """What a run put on coarser levels, in the order recorded: batches with columns as ``BuiltShards`` has them."""
    grids = {grid.name: number for number, grid in enumerate(plan.grids)}
    steps = {step.isoformat(): number for number, step in enumerate(plan.steps)}
    found = []
    for batch in folder.built("prompts", "tiles"):
        for begin in reversed(range(0, len(batch), IN_HAND)):
            found.append(_shards(batch.slice(begin, IN_HAND), grids, steps, position))
    return found[::-1]


def _shards(
    batch: pa.RecordBatch, grids: Mapping[str, int], steps: Mapping[str, int], position: Mapping[str, int]
) -> NDArray[np.int32]:
    words = pc.split_pattern(batch.column("key"), "/").flatten()
    name, moment, *numbers = (words.take(pa.array(np.arange(n, len(words), 5))) for n in range(5))
    level, row, column = (of.cast(pa.int32()).to_numpy() for of in numbers)
    prompts, times = _prompts(batch, position)
    tiles = batch.column("tiles").flatten().cast(pa.int32()).to_numpy()
    shards = np.stack([level, _numbered(name, grids), _numbered(moment, steps), row, column])
    columns = np.concatenate([np.repeat(shards, times, axis=1), [prompts, tiles]])
    return np.asarray(columns[:, (columns[1] >= 0) & (columns[2] >= 0)])


def _numbered(texts: pa.Array, position: Mapping[str, int]) -> NDArray[np.int32]:
    """Position of each text; -1 where it has none."""
    coded = texts.dictionary_encode()
    known = np.array([position.get(text, -1) for text in coded.dictionary.to_pylist()] or [0], np.int32)
    return np.asarray(known[coded.indices.to_numpy(zero_copy_only=False)])


def _numbers(rows: NDArray[np.int64]) -> Iterator[int]:
    for begin in range(0, len(rows), IN_HAND):
        yield from rows[begin : begin + IN_HAND].tolist()
