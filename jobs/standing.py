"""How far all runs of a mosaic have come with what one job asks: the ledgers, read in columns against the plan."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.ledger import FINISHED, RunFolder, with_state
from jobs.levels import BuiltShards
from jobs.plan import Plan
from jobs.renewal import runs_in_turn
from jobs.tile_table import Flags
from mapper.mosaic import Mosaic

if TYPE_CHECKING:
    from jobs.prepare import Prepared

Place: TypeAlias = Mapping[str, int]
"""Position of each name along an axis."""

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
class Redo:
    """What is done again though a ledger calls it finished: it was found to be damaged."""

    tiles: NDArray[np.int64]
    """Rows of the plan."""

    shards: NDArray[np.int32]
    """Of coarser levels: ``(shard, 5)``, level, grid, step, row, column."""

    only: bool = False
    """Whether these tiles alone are done, and an unfinished run stays so."""


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

    redone: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows that are mapped again because they were found to be damaged."""


def standing(prepared: Prepared, mosaic: Mosaic, *, retry: bool, redo: Redo | None = None) -> Standing:
    """Read the ledgers of all runs of this mosaic that speak of what is to be written.

    An ordinary run goes on where other ordinary runs have come to: they show the same pictures. A renewing run shows
    other pictures than any run before it, so its own ledger alone counts, and it is asked all sentences of the mosaic.
    Once a later run has renewed the mosaic, an earlier one repairs what it is told and goes on with nothing else.

    Args:
        prepared: the job and its plan.
        mosaic: where it writes.
        retry: whether tiles given up before are taken again.
        redo: what this run has recorded and must do again. A tile lacks all prompts then that it recorded: its next
            row in the ledger has to speak of all of them.
    """
    plan, turn = prepared.plan, 0 if prepared.renewal is None else prepared.renewal.number
    position = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}
    finished = np.zeros((len(position), len(plan.tiles)), np.bool_)
    sources = np.zeros(len(plan.tiles), np.bool_)
    given_up = np.zeros(len(plan.tiles), np.bool_)
    built: list[NDArray[np.int32]] = []
    overtaken = False
    for run in runs_in_turn(mosaic.url):
        own = run.folder.run == prepared.run
        folder = prepared.folder if own else run.folder
        overtaken |= run.turn > turn
        if not own and (turn or run.turn):
            continue
        rows = None if own else rows_of(folder, plan)
        for batch in folder.last_words("state", "prompts"):
            if own and redo is not None:
                batch = batch.filter(pa.array(~np.isin(batch.column("tile").to_numpy(), redo.tiles)))
            _enter(batch, rows, position, finished, sources)
            if own and not retry:
                lost = pc.is_in(batch.column("state"), value_set=pa.array(["quarantined"]))
                given_up[batch.filter(lost).column("tile").to_numpy()] = True
        built += _built(folder, plan, position)
    if redo is not None:
        sources[redo.tiles] = False
        built = [without(batch, redo.shards) for batch in built]
    here = list(position.values()) if turn else [position[prompt.name] for prompt in prepared.job.spec.prompts]
    missing = ~finished[here] & ~given_up
    if redo is not None and (redo.only or overtaken):
        missing &= np.isin(np.arange(len(plan.tiles)), redo.tiles)
    return Standing(
        wanted=Wanted(missing, here),
        sources=Rows(sources),
        finished=finished,
        built=BuiltShards.of(built),
        redone=np.empty(0, np.int64) if redo is None else redo.tiles,
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
    position: Place,
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
    known = prompts >= 0
    finished[prompts[known], np.repeat(row, times)[known]] = True


def tile_rows(batch: pa.RecordBatch, position: Place) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Prompt by prompt, by position: the rows of the plan whose entries in a batch of a ledger speak of it."""
    prompts, times = _prompts(batch, position)
    tiles = np.repeat(batch.column("tile").to_numpy(), times)
    for prompt in position.values():
        yield prompt, tiles[prompts == prompt]


def without(built: NDArray[np.int32], shards: NDArray[np.int32]) -> NDArray[np.int32]:
    """Batches of ``BuiltShards`` without what stands of some shards."""
    extent = np.concatenate([built[:5], shards.T], axis=1).max(axis=1, initial=0) + 1
    keys, gone = (np.ravel_multi_index(list(of.astype(np.int64)), extent.tolist()) for of in (built[:5], shards.T))
    return built[:, ~np.isin(keys, gone)]


def _prompts(batch: pa.RecordBatch, position: Place) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Positions of the prompts of all rows, one after another, -1 for unknown ones, and how many each row has."""
    lists = batch.column("prompts")
    names = lists.flatten()
    known = np.array([position.get(name, -1) for name in names.dictionary.to_pylist()] or [0], np.int32)
    return known[names.indices.to_numpy(zero_copy_only=False)], lists.value_lengths().to_numpy(zero_copy_only=False)


def _built(folder: RunFolder, plan: Plan, position: Place) -> list[NDArray[np.int32]]:
    """What a run put on coarser levels, in the order recorded: batches with columns as ``BuiltShards`` has them."""
    grids = {grid.name: number for number, grid in enumerate(plan.grids)}
    steps = {step.isoformat(): number for number, step in enumerate(plan.steps)}
    found = []
    for batch in folder.built("prompts", "tiles"):
        for begin in reversed(range(0, len(batch), IN_HAND)):
            found.append(level_rows(batch.slice(begin, IN_HAND), grids, steps, position)[0])
    return found[::-1]


def level_rows(batch: pa.RecordBatch, grids: Place, steps: Place, position: Place) -> tuple[NDArray[np.int32], Flags]:
    """Shards of coarser levels that were put, as numbers.

    Args:
        batch: of a run's ``built``, with its ``prompts`` and ``tiles``.
        grids: position of each zone by its name.
        steps: position of each time step by its moment.
        position: of each prompt by its name.

    Returns:
        ``(column, row)``, a row a shard and prompt, columns as ``BuiltShards`` has them; and which of all rows these
        are: whatever speaks of another zone, step or prompt is left out.
    """
    words = pc.split_pattern(batch.column("key"), "/").flatten()
    name, moment, *numbers = (words.take(pa.array(np.arange(n, len(words), 5))) for n in range(5))
    level, row, column = (of.cast(pa.int32()).to_numpy() for of in numbers)
    prompts, times = _prompts(batch, position)
    tiles = batch.column("tiles").flatten().cast(pa.int32()).to_numpy()
    shards = np.stack([level, _numbered(name, grids), _numbered(moment, steps), row, column])
    columns = np.concatenate([np.repeat(shards, times, axis=1), [prompts, tiles]])
    kept = np.asarray((columns[[1, 2, 5]] >= 0).all(axis=0))
    return np.asarray(columns[:, kept]), kept


def _numbered(texts: pa.Array, position: Place) -> NDArray[np.int32]:
    """Position of each text; -1 where it has none."""
    coded = texts.dictionary_encode()
    known = np.array([position.get(text, -1) for text in coded.dictionary.to_pylist()] or [0], np.int32)
    return np.asarray(known[coded.indices.to_numpy(zero_copy_only=False)])


def _numbers(rows: NDArray[np.int64]) -> Iterator[int]:
    for begin in range(0, len(rows), IN_HAND):
        yield from rows[begin : begin + IN_HAND].tolist()
