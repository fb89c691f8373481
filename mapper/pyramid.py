"""Coarser levels of a mosaic: four pixels → one, a shard at a time, as the finer shards are finished.

A pixel of the next level covers two by two pixels of this one, on the lattice's zero whatever the mosaic's box. It
answers where at least two of them were observed:

    score    their mean, of the observed alone, rounded half up
    mask     present where at least half of the observed are (``mode``), or where one of the four is (``any``)
    source   the scene most of them show; of two, the one that stands further north, then west

Else it is a gap: unobserved where one of the four is, unmapped where all were never looked at. With ``any`` a
single present pixel answers too: whoever asks where something may be wants no tree lost beside a cloud.

A level depends on the one below and on nothing else, so a pyramid grown with the map equals one built at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapper.failpoints import reach
from mapper.grid import Grid, Tile
from mapper.imagery import NO_SOURCE, Source
from mapper.layout import Reduction
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED, Stored
from mapper.mosaic import Mosaic, TileLayers, checksum, source_checksum

STRIP_PX = 64
"""Rows of the finer level that are reduced at once: what is made of them on the way stays in the processor's cache, and
a shard takes a third of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTask:
    """One shard of a coarser level: a message of a few hundred bytes."""

    id: int
    """Differs from that of any tile and of any other shard of its run."""

    grid: Grid
    """The coarser level."""

    tile: Tile
    time: int
    """Position on the mosaic's time axis."""

    prompts: tuple[int, ...]
    """Positions on the prompt axis."""

    @property
    def name(self) -> str:
        """Zone, level, tile and time step, as people say it in logs."""
        return f"{self.grid.path}/{self.tile.name}/t{self.time}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """What was put for one shard of a coarser level."""

    checksums: tuple[tuple[int, int], ...]
    """Prompt position and CRC-32 of its mask and score."""

    source_checksum: int
    receipt: bytes | None = None
    """What the driver must commit; None where the engine needs no commit."""


def build_shard(mosaic: Mosaic, task: LevelTask) -> LevelResult:
    """Read the finer level under one shard, reduce it and write. Doing it again leaves the same bytes.

    Raises:
        StoreError: the finer level could not be read, or this one not written.
    """
    finer = finer_level(mosaic, task.grid)
    under = task.tile.core.doubled()
    masks, scores = [], []
    for prompt in task.prompts:
        stored = mosaic.layer(finer, "score", under, time=task.time, prompt=prompt)
        present = mosaic.layer(finer, "mask", under, time=task.time, prompt=prompt)
        mask, score = coarser(present, stored, mosaic.pyramid)
        masks.append(mask)
        scores.append(score)
    source = coarser_source(mosaic.layer(finer, "source", under, time=task.time))
    layers = TileLayers(mask=np.stack(masks), score=np.stack(scores), source=source, prompts=task.prompts)
    written = mosaic.write(task.grid, task.tile, task.time, layers)
    reach("level-put")
    return LevelResult(
        checksums=tuple(
            (prompt, checksum(layers.mask[position], layers.score[position]))
            for position, prompt in enumerate(task.prompts)
        ),
        source_checksum=source_checksum(source),
        receipt=written.receipt,
    )


def finer_level(mosaic: Mosaic, level: Grid) -> Grid:
    """The level of the mosaic that a coarser one is made of."""
    base = next(grid for grid in mosaic.grids if grid.name == level.name)
    return base.pyramid()[level.level - 1]


def coarser(mask: Stored, score: Stored, reduction: Reduction) -> tuple[Stored, Stored]:
    """Mask and score of the next level.

    Args:
        mask: uint8 ``(y, x)`` with an even number of rows and columns, in the four values of a mask.
        score: uint8 ``(y, x)``, 0 to 250 where the mask is observed, else the mask's value.
        reduction: how masks are reduced.

    Returns:
        Both uint8, half as many rows and columns.
    """
    out_mask = np.empty((mask.shape[0] // 2, mask.shape[1] // 2), np.uint8)
    out_score = np.empty_like(out_mask)
    for strip, half in _strips(len(mask)):
        out_mask[half], out_score[half] = _coarser_strip(mask[strip], score[strip], reduction)
    return out_mask, out_score


def _coarser_strip(mask: Stored, score: Stored, reduction: Reduction) -> tuple[Stored, Stored]:
    present = _sums(mask == PRESENT, np.uint8)
    if mask.max() < UNOBSERVED:  # as nearly everywhere
        is_present = present > 0 if reduction == "any" else present >= 2
        return is_present.view(np.uint8), ((_sums(score, np.uint16) + 2) >> 2).astype(np.uint8)
    observed = mask < UNOBSERVED
    seen = _sums(observed, np.uint8)
    answers = (seen >= 2) | ((present > 0) if reduction == "any" else False)
    is_present = present > 0 if reduction == "any" else (present > 0) & (2 * present >= seen)
    gap = np.where(_sums(mask == UNOBSERVED, np.uint8) > 0, UNOBSERVED, UNMAPPED)
    total = _sums(np.where(observed, score, 0), np.uint16)
    mean = (2 * total + seen) // np.maximum(2 * seen, 1)
    out_mask = np.where(answers, np.where(is_present, PRESENT, ABSENT), gap)
    return out_mask.astype(np.uint8), np.where(answers, mean, gap).astype(np.uint8)


def _sums(layer: NDArray[Any], dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """``(y, x)``: the sum of the four pixels under each pixel of the next level."""
    rows = np.add(layer[0::2], layer[1::2], dtype=dtype)  # first whole rows: they lie side by side in memory
    return np.asarray(rows[:, 0::2] + rows[:, 1::2])


def coarser_source(source: Source) -> Source:
    """The source layer of the next level: what most of each four pixels show, of those that show any.

    Args:
        source: uint32 ``(y, x)`` with an even number of rows and columns.
    """
    out = np.empty((source.shape[0] // 2, source.shape[1] // 2), source.dtype)
    for strip, half in _strips(len(source)):
        out[half] = _coarser_source_strip(source[strip])
    return out


def _coarser_source_strip(source: Source) -> Source:
    four: Source = _blocks(source)
    if (four == four[0]).all():  # as nearly everywhere: scenes are larger than strips
        everywhere: Source = four[0]
        return everywhere
    votes = (four[:, None] == four[None]).sum(axis=0, dtype=np.uint8)
    votes[four == NO_SOURCE] = 0
    most: Source = np.take_along_axis(four, votes.argmax(axis=0)[None], axis=0)[0]
    return most


def _strips(rows: int) -> Iterator[tuple[slice, slice]]:
    """Rows of a level, some at a time, and the rows of the next level that they become."""
    for top in range(0, rows, STRIP_PX):
        yield slice(top, top + STRIP_PX), slice(top // 2, (top + STRIP_PX) // 2)


def _blocks(layer: NDArray[Any]) -> NDArray[Any]:
    """``(4, y, x)``: the four pixels under each pixel of the next level, from north-west to south-east."""
    return np.stack([layer[row::2, column::2] for row in (0, 1) for column in (0, 1)])
