"""Shards of coarser levels, held against what was last put there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.faults import FROM_COPY, REBUILD, Fault
from jobs.run_check import KnownRun
from jobs.standing import Place, level_rows
from jobs.stored_shards import DamagedError, Odd, StoredShards, hands_for, in_threads
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


def level_faults(mosaic: Mosaic, runs: Sequence[KnownRun]) -> tuple[list[Fault], bool]:
    """What is wrong on coarser levels, and whether bytes were compared."""
    rows, crcs = _recorded(mosaic, runs)
    check = _Check(mosaic, [run.name for run in runs])
    bad: list[Fault] = []
    odd: Odd[Fault] = Odd()
    for faults, oddities, intact in in_threads(check.look, _expected(rows, crcs), hands_for(mosaic)):
        bad += faults
        odd.see(intact, oddities)
    return [*bad, *odd.faults()], odd.tell


def _recorded(mosaic: Mosaic, runs: Sequence[KnownRun]) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """All that was ever put, a row a prompt in the order recorded.

    Returns:
        ``(column, row)``: a shard's five, the prompt, its tiles and the run; and ``(2, row)``: the checksums of mask
        with score and of the source.
    """
    grids, steps, prompts = axes_of(mosaic)
    rows, crcs = [np.empty((8, 0), np.int32)], [np.empty((2, 0), np.uint32)]
    for number, run in enumerate(runs):
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


def _expected(rows: NDArray[np.int32], crcs: NDArray[np.uint32]) -> Iterator[_Expected]:
    """The last word on each shard and prompt, and on each shard's source."""
    yield from _last(rows, crcs[0], by=_SHARD + 1)
    yield from _last(rows, crcs[1], by=_SHARD)


def _last(rows: NDArray[np.int32], crc: NDArray[np.uint32], *, by: int) -> Iterator[_Expected]:
    """Of the rows that agree in their first columns: what was made of the most tiles, or was recorded last.

    A source is of all prompts, so no number of tiles says which is the newer: where two differ, neither is believed.
    """
    if not rows.shape[1]:
        return
    order = np.lexsort((np.arange(rows.shape[1]), rows[6], *rows[:by][::-1]))
    rows, crc = rows[:, order], crc[order]
    new = np.ones(rows.shape[1], np.bool_)
    new[1:] = (rows[:by, 1:] != rows[:by, :-1]).any(axis=0)
    group = np.cumsum(new) - 1
    last = np.append(np.flatnonzero(new)[1:], rows.shape[1]) - 1
    as_new = rows[6] == rows[6][last][group] if by > _SHARD else np.ones_like(new)
    unsure = np.bincount(group[as_new & (crc != crc[last][group])], minlength=len(last)) > 0
    for begin in range(0, len(last), 4096):
        some = slice(begin, begin + 4096)
        told = rows[:, last[some]].T.tolist(), crc[last[some]].tolist(), unsure[some].tolist()
        for row, expected, doubted in zip(*told, strict=True):
            prompt = row[_SHARD] if by > _SHARD else None
            crc_of = None if doubted else expected
            yield _Expected(place=tuple(row[:_SHARD]), prompt=prompt, crc=crc_of, run=row[7])


class _Check:
    def __init__(self, mosaic: Mosaic, runs: Sequence[str]) -> None:
        self._mosaic, self._runs = mosaic, runs
        self._stored = StoredShards(mosaic)
        self._pyramids = [grid.pyramid() for grid in mosaic.grids]
        self._names = [prompt.name for prompt in mosaic.prompts]
        self._times = [time.isoformat() for time in mosaic.times]

    def look(self, one: _Expected) -> tuple[list[Fault], list[Fault], int]:
        """Faults, oddities, and how many shards have the right pixels."""
        level, zone, step, row, column = one.place
        try:
            grid = self._pyramids[zone][level]
            tile = grid.tile(row, column)
        except (IndexError, GridError):
            reason = "a ledger speaks of a coarser shard that the mosaic does not have"
            name = f"level {level}, r{row}c{column}"
            return [Fault(run=self._runs[one.run], tile=name, reason=reason, fix=FROM_COPY, kind="run")], [], 0
        layers = ("source",) if one.prompt is None else ("mask", "score")
        lead = (step,) if one.prompt is None else (one.prompt, step)
        try:
            shards = [self._stored.read(grid, layer, tile, lead) for layer in layers]
        except DamagedError as damage:
            return [self._fault(one, grid, tile, str(damage))], [], 0
        arrays = [shard.array for shard in shards]
        found = source_checksum(arrays[0]) if one.prompt is None else checksum(arrays[0], arrays[1])
        if found != (self._rebuilt(one, grid, tile) if one.crc is None else one.crc):
            gone = " and ".join(layer for layer, shard in zip(layers, shards, strict=True) if not shard.stored)
            said = f"; of its layers there is no {gone}" if gone else ""
            return [self._fault(one, grid, tile, f"a coarser level differs from what was written{said}")], [], 0
        odd = [layer for layer, shard in zip(layers, shards, strict=True) if shard.odd]
        return [], [self._fault(one, grid, tile, f"{layer}: {ODD}") for layer in odd], len(shards)

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
