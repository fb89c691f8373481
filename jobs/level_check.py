"""Shards of coarser levels, held against what was last put there: by the run that renewed last, if any has.

One that lies over tiles which a later run has planned, and which that run has not recorded, may be the old or the new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.faults import FROM_COPY, REBUILD, Fault
from jobs.levels import shards_over
from jobs.run_check import KnownRun, lost_before
from jobs.speaking import Axes, renews_of
from jobs.standing import Place, level_rows
from jobs.stored_shards import DamagedError, Odd, StoredShards, hands_for, in_threads
from jobs.summary import ENDED
from jobs.tile_table import Flags
from mapper.errors import GridError
from mapper.grid import Grid, Tile
from mapper.mosaic import Mosaic, checksum, source_checksum
from mapper.pyramid import coarser, coarser_source, finer_level

ODD = "its bytes have changed; its pixels have not"

_SHARD = 5
"""Columns that say which shard a row is of: level, grid, step, row, column; the prompt follows, then the tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What one layer of one shard should hold, or two: mask and score go together."""

    place: tuple[int, ...]
    """Level, grid, step, row, column."""

    prompt: int | None
    """None: the source layer."""

    crc: int | None
    """None: the ledgers do not agree, so it is built again and compared."""

    run: int
    unsure: bool
    """Whether a run that renews what lies under it may have put it anew, and not recorded it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelsRead:
    """What was found on coarser levels."""

    faults: list[Fault]
    bytes_compared: bool
    """Whether stored bytes told anything."""

    unrecorded: int
    """Layers of shards that a run may have put anew and not recorded yet."""


def level_faults(mosaic: Mosaic, runs: Sequence[KnownRun]) -> LevelsRead:
    """Read back all that the runs have recorded on coarser levels, but for what those say that cannot be read."""
    rows, crcs = _recorded(mosaic, runs)
    renews = np.array([renews_of(run.facts) for run in runs], np.int32)
    later = _Later(mosaic, runs)
    check = _Check(mosaic, [run.name for run in runs])
    bad = list(_missing_words(mosaic, runs, rows, renews))
    odd: Odd[Fault] = Odd()
    unrecorded = 0
    for looked in in_threads(check.look, _expected(rows, crcs, renews, later), hands_for(mosaic)):
        bad += looked.bad
        unrecorded += looked.unrecorded
        odd.see(looked.intact + looked.unrecorded, looked.odd)
    return LevelsRead(faults=[*bad, *odd.faults()], bytes_compared=odd.tell, unrecorded=unrecorded)


class _Later:
    """Which coarser shards lie over tiles that renewing runs have planned."""

    def __init__(self, mosaic: Mosaic, runs: Sequence[KnownRun]) -> None:
        self._lost = max((lost_before(run) for run in runs), default=0)
        found = [np.empty((_SHARD + 1, 0), np.int32)]
        axes = Axes(mosaic)
        for run in runs:
            if renews_of(run.facts) and run.planned:
                found += _over(mosaic, axes, run, slice(None))
        rows = np.concatenate(found, axis=1)
        order = np.lexsort(rows[::-1])
        rows = rows[:, order]
        last = np.append((rows[:_SHARD, 1:] != rows[:_SHARD, :-1]).any(axis=0), True)[: rows.shape[1]]
        self._shards, self._renews = rows[:_SHARD, last], rows[_SHARD, last]

    def than(self, shards: NDArray[np.int32], renews: NDArray[np.int32]) -> Flags:
        """Whether each of some shards, ``(5, shard)``, lies over tiles that a run of a higher number has planned."""
        unsure = np.asarray(renews < self._lost)
        if not self._shards.shape[1]:
            return unsure
        extent = (np.concatenate([self._shards, shards], axis=1).max(axis=1) + 1).tolist()
        known, asked = (np.ravel_multi_index(list(of.astype(np.int64)), extent) for of in (self._shards, shards))
        at = np.minimum(known.searchsorted(asked), len(known) - 1)
        return np.asarray(unsure | ((known[at] == asked) & (self._renews[at] > renews)))


def _missing_words(
    mosaic: Mosaic, runs: Sequence[KnownRun], rows: NDArray[np.int32], renews: NDArray[np.int32]
) -> Iterator[Fault]:
    """Of a run that has renewed tiles and is done: shards over them that neither it nor a later run has recorded."""
    axes, times = Axes(mosaic), [time.isoformat() for time in mosaic.times]
    for run in runs:
        over = run.facts.get("state") in ENDED and not run.facts.get("levels_behind")
        if not (renews_of(run.facts) and run.readable and over):
            continue
        finished = run.folder.finished()
        owed = [np.empty((_SHARD + 1, 0), np.int32), *_over(mosaic, axes, run, finished)]
        shards = np.unique(np.concatenate(owed, axis=1)[:_SHARD], axis=1)
        said = rows[:_SHARD, renews[rows[7]] >= renews_of(run.facts)]
        extent = (np.concatenate([shards, said], axis=1).max(axis=1, initial=0) + 1).tolist()
        keys, known = (np.ravel_multi_index(list(of.astype(np.int64)), extent) for of in (shards, said))
        for level, zone, step, row, column in shards[:, ~np.isin(keys, known)].T.tolist():
            grid = mosaic.grids[zone].pyramid()[level]
            yield Fault(
                run=run.name, tile=f"{grid.path}/{grid.tile(row, column).name}/t{step}", kind="level", fix=REBUILD,
                reason="what lies under it was renewed, and no ledger has a word on it since",
                key=f"{grid.name}/{times[step]}/{level}/{row}/{column}",
            )  # fmt: skip


def _over(mosaic: Mosaic, axes: Axes, run: KnownRun, tiles: NDArray[np.int64] | slice) -> Iterator[NDArray[np.int32]]:
    """The coarser shards over some tiles of a run's plan: level, grid, step, row, column, and the run's number."""
    places = run.folder.places()
    zone, step = (of[tiles] for of in axes.places(places, run.facts))
    rows, columns = places.row[tiles], places.column[tiles]
    for number, base in enumerate(mosaic.grids):
        down, across = base.tile_shape
        here = (zone == number) & (step >= 0) & (rows < down) & (columns < across)
        for level in base.pyramid()[1:]:
            over_rows, over_columns = shards_over(base, level)
            for row, column in product(over_rows[:, rows[here]], over_columns[:, columns[here]]):
                same = np.ones_like(row)
                of = (level.level * same, number * same, step[here], row, column, renews_of(run.facts) * same)
                yield np.unique(np.stack(of).astype(np.int32), axis=1)


def _recorded(mosaic: Mosaic, runs: Sequence[KnownRun]) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """All that was ever put, a row a prompt in the order recorded.

    Returns:
        ``(column, row)``: a shard's five, the prompt, its tiles and the run; and ``(2, row)``: the checksums of mask
        with score and of the source.
    """
    grids, steps, prompts = axes_of(mosaic)
    rows, crcs = [np.empty((8, 0), np.int32)], [np.empty((2, 0), np.uint32)]
    for number, run in enumerate(runs):
        if not run.readable:
            continue
        batches = list(run.folder.built("prompts", "tiles", "checksums", "source_checksum"))
        for batch in reversed(batches):
            columns, kept = level_rows(batch, grids, steps, prompts)
            rows.append(np.concatenate([columns, np.full((1, columns.shape[1]), number, np.int32)]))
            crcs.append(_checksums(batch)[:, kept])
    return np.concatenate(rows, axis=1), np.concatenate(crcs, axis=1)


def axes_of(mosaic: Mosaic) -> tuple[Place, Place, Place]:
    """Position of each zone by name, of each time step by moment, of each prompt by name."""
    return (
        {grid.name: number for number, grid in enumerate(mosaic.grids)},
        {time.isoformat(): number for number, time in enumerate(mosaic.times)},
        {prompt.name: number for number, prompt in enumerate(mosaic.prompts)},
    )


def _checksums(batch: pa.RecordBatch) -> NDArray[np.uint32]:
    lists = batch.column("checksums")
    times = lists.value_lengths().to_numpy(zero_copy_only=False)
    own = lists.flatten().to_numpy(zero_copy_only=False)
    return np.stack([own, np.repeat(batch.column("source_checksum").to_numpy(zero_copy_only=False), times)])


def _expected(
    rows: NDArray[np.int32], crcs: NDArray[np.uint32], renews: NDArray[np.int32], later: _Later
) -> Iterator[_Expected]:
    """The last word on each shard and prompt, and on each shard's source."""
    yield from _last(rows, crcs[0], renews, later, by=_SHARD + 1)
    yield from _last(rows, crcs[1], renews, later, by=_SHARD)


def _last(
    rows: NDArray[np.int32], crc: NDArray[np.uint32], renews: NDArray[np.int32], later: _Later, *, by: int
) -> Iterator[_Expected]:
    """Of the rows that agree in their first columns: what the run with the highest number put; of one number, what was
    made of the most tiles, or was recorded last.

    A source is of all prompts, so no number of tiles says which is the newer: where two differ, neither is believed.
    """
    if not rows.shape[1]:
        return
    order = np.lexsort((np.arange(rows.shape[1]), rows[6], renews[rows[7]], *rows[:by][::-1]))
    rows, crc, number = rows[:, order], crc[order], renews[rows[7, order]]
    new = np.ones(rows.shape[1], np.bool_)
    new[1:] = (rows[:by, 1:] != rows[:by, :-1]).any(axis=0)
    group = np.cumsum(new) - 1
    last = np.append(np.flatnonzero(new)[1:], rows.shape[1]) - 1
    as_new = number == number[last][group]
    if by > _SHARD:
        as_new &= rows[6] == rows[6][last][group]
    doubted = np.bincount(group[as_new & (crc != crc[last][group])], minlength=len(last)) > 0
    unsure = later.than(rows[:_SHARD, last], number[last])
    for begin in range(0, len(last), 4096):
        some = slice(begin, begin + 4096)
        told = rows[:, last[some]].T.tolist(), crc[last[some]].tolist(), doubted[some].tolist(), unsure[some].tolist()
        for row, expected, in_doubt, maybe_new in zip(*told, strict=True):
            prompt = row[_SHARD] if by > _SHARD else None
            crc_of = None if in_doubt else expected
            yield _Expected(place=tuple(row[:_SHARD]), prompt=prompt, crc=crc_of, run=row[7], unsure=maybe_new)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What one shard of a coarser level turned out to be."""

    bad: tuple[Fault, ...] = ()
    odd: tuple[Fault, ...] = ()
    intact: int = 0
    """Layers with the right pixels."""

    unrecorded: int = 0
    """Layers with others, which a run may have put and not recorded yet."""


class _Check:
    def __init__(self, mosaic: Mosaic, runs: Sequence[str]) -> None:
        self._mosaic, self._runs = mosaic, runs
        self._stored = StoredShards(mosaic)
        self._pyramids = [grid.pyramid() for grid in mosaic.grids]
        self._names = [prompt.name for prompt in mosaic.prompts]
        self._times = [time.isoformat() for time in mosaic.times]

    def look(self, one: _Expected) -> _Looked:
        """Read one back."""
        level, zone, step, row, column = one.place
        try:
            grid = self._pyramids[zone][level]
            tile = grid.tile(row, column)
        except (IndexError, GridError):
            reason = "a ledger speaks of a coarser shard that the mosaic does not have"
            name = f"level {level}, r{row}c{column}"
            return _Looked(bad=(Fault(run=self._runs[one.run], tile=name, reason=reason, fix=FROM_COPY, kind="run"),))
        layers = ("source",) if one.prompt is None else ("mask", "score")
        lead = (step,) if one.prompt is None else (one.prompt, step)
        try:
            shards = [self._stored.read(grid, layer, tile, lead) for layer in layers]
        except DamagedError as damage:
            return _Looked(bad=(self._fault(one, grid, tile, str(damage)),))
        arrays = [shard.array for shard in shards]
        found = source_checksum(arrays[0]) if one.prompt is None else checksum(arrays[0], arrays[1])
        right = found == (self._rebuilt(one, grid, tile) if one.crc is None else one.crc)
        gone = [layer for layer, shard in zip(layers, shards, strict=True) if not shard.stored]
        if not right and not (one.unsure and (one.prompt is None or not gone)):
            said = f"; of its layers there is no {' and '.join(gone)}" if gone else ""
            return _Looked(bad=(self._fault(one, grid, tile, f"a coarser level differs from what was written{said}"),))
        odd = tuple(
            self._fault(one, grid, tile, f"{layer}: {ODD}")
            for layer, shard in zip(layers, shards, strict=True)
            if shard.odd
        )
        return _Looked(odd=odd, intact=len(shards) * right, unrecorded=len(shards) * (not right))

    def _rebuilt(self, one: _Expected, grid: Grid, tile: Tile) -> int:
        """Checksum of what the finer level makes of it."""
        finer, under, step = finer_level(self._mosaic, grid), tile.core.doubled(), one.place[2]
        if one.prompt is None:
            return source_checksum(coarser_source(self._mosaic.layer(finer, "source", under, time=step)))
        mask = self._mosaic.layer(finer, "mask", under, time=step, prompt=one.prompt)
        score = self._mosaic.layer(finer, "score", under, time=step, prompt=one.prompt)
        return checksum(*coarser(mask, score, self._mosaic.pyramid))

    def _fault(self, one: _Expected, grid: Grid, tile: Tile, reason: str) -> Fault:
        level, _, step, row, column = one.place
        name = "source" if one.prompt is None else self._names[one.prompt]
        return Fault(
            run=self._runs[one.run], tile=f"{grid.path}/{tile.name}/t{step}/{name}", reason=reason, fix=REBUILD,
            kind="level", key=f"{grid.name}/{self._times[step]}/{level}/{row}/{column}",
        )  # fmt: skip


def positions(fault_keys: Sequence[str], grids: Mapping[str, int], steps: Mapping[str, int]) -> NDArray[np.int32]:
    """``(shard, 5)``: level, grid, step, row and column of shards by the names that ledgers give them."""
    rows = []
    for key in fault_keys:
        zone, moment, *numbers = key.split("/")
        level, row, column = (int(number) for number in numbers)
        rows.append((level, grids[zone], steps[moment], row, column))
    return np.array(rows, np.int32).reshape(-1, 5)
