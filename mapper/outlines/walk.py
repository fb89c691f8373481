"""The objects of a whole mosaic: exact across shards, in the memory of one, and of what crosses their borders.

    shard ──► fragments ──┬─ touch no border: closed, traced where they were found (a process of its own)
                          └─ touch one: wait with their corners until the shards beside them were seen,
                             are joined by what touches along the lines between shards, and traced when closed

Nothing is cut and nothing doubled: an object is what hangs together, wherever shards end. Gaps belong to none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from multiprocessing import get_context
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.errors import ResourceError
from mapper.grid import Grid, PixelBox, Tile
from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED, Stored
from mapper.mosaic import Mosaic
from mapper.outlines.closed import Closed, ObjectBatch, close
from mapper.outlines.fragments import Connectivity, Fragments, find_fragments
from mapper.outlines.joint import Joint
from mapper.outlines.span_area import span_areas
from mapper.outlines.spans import Spans, spans_of

AHEAD = 2
"""Shards a process has in hand, or done and not yet asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsSeen:
    """How far the looking is."""

    shards: int
    of: int
    pixels: tuple[int, int, int]
    """In the last shard, of the box asked for: observed, unobserved, unmapped."""


Progress: TypeAlias = Callable[[ShardsSeen], None]


def map_objects(
    mosaic: Mosaic,
    grid: Grid,
    *,
    prompt: int,
    time: int,
    box: PixelBox | None = None,
    connectivity: Connectivity = 8,
    outlines: bool = True,
    workers: int | None = None,
    progress: Progress = lambda seen: None,
) -> Iterator[ObjectBatch]:
    """The objects of one prompt and time step, as they are closed.

    Shards are taken row by row from the north-west. What lies within one shard comes with it; what crosses shards
    comes behind the row of shards in which it ends. In both, objects are sorted by their anchor. So the order depends
    on the shards but not on the workers, and the objects depend on neither.

    Args:
        mosaic: open for reading.
        grid: one of its grids, or a coarser level of one.
        prompt: position on the prompt axis.
        time: position on the time axis.
        box: only objects with a pixel in it, but those whole: they are followed over its edge, into the shards they
            touch and no others. None for all.
        connectivity: 8 where pixels that share a corner are of one object, else 4.
        outlines: whether to make geometries.
        workers: processes to look through shards beside this one; None or 1 for none, and all is done here. They
            start in a second each and read the mosaic by its URL, so one in ``memory://`` is read here whatever this
            says. A script that asks for them must do so under ``if __name__ == "__main__"``.
        progress: told of each shard of the box when it was looked through.

    Raises:
        StoreError: a shard is truncated or fails its checksum.
        ResourceError: a worker was ended from outside.
    """
    processes = 1 if mosaic.url.startswith("memory://") else workers or 1
    ask = _Ask(
        url=mosaic.url,
        at=mosaic.snapshot if processes > 1 else None,
        grid=grid,
        prompt=prompt,
        time=time,
        connectivity=connectivity,
        outlines=outlines,
        wanted=grid.box if box is None else grid.box.intersection(box),
    )
    tiles = list(grid.tiles_in(ask.wanted))
    with _Workers(mosaic, ask, processes) as at_work:
        yield from _all_rounds(ask, tiles, at_work, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """What is asked for: a message of a few hundred bytes."""

    url: str
    at: str | None
    """The one state of it that all processes look at, where it has several."""

    grid: Grid
    prompt: int
    time: int
    connectivity: Connectivity
    outlines: bool
    wanted: PixelBox


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What one shard holds."""

    closed: Closed | None
    """The objects it holds whole, of those asked for."""

    open: Fragments | None
    """What goes on behind its border, or may."""

    seen: NDArray[np.int64]
    """Pixels observed, unobserved, unmapped, in the box asked for."""


def _all_rounds(ask: _Ask, tiles: Sequence[Tile], at_work: _Workers, progress: Progress) -> Iterator[ObjectBatch]:
    """Row by row through the shards asked for, then along what leaves them."""
    joint = Joint(ask.grid, ask.connectivity)
    for _, row in groupby(enumerate(at_work.in_order(tiles), 1), key=lambda one: one[1][0].row):
        fragments = []
        for position, (tile, shard) in row:
            observed, unobserved, unmapped = shard.seen.tolist()
            progress(ShardsSeen(shards=position, of=len(tiles), pixels=(observed, unobserved, unmapped)))
            if shard.closed is not None:
                yield shard.closed.batch(ask.grid)
            fragments += [shard.open] if shard.open is not None else []
            joint.seen(tile)
        yield from _batches(joint.join(fragments), ask)
    while following := joint.needed():
        fragments = []
        for tile, shard in at_work.in_order(following):
            fragments += [shard.open] if shard.open is not None else []
            joint.seen(tile)
        yield from _batches(joint.join(fragments), ask)


def _batches(closed: Fragments | None, ask: _Ask) -> Iterator[ObjectBatch]:
    if closed is not None:
        yield close(closed, ask.grid.lattice, outlines=ask.outlines).batch(ask.grid)


def _shard(mosaic: Mosaic, ask: _Ask, tile: Tile) -> _Shard:
    """Read one shard, and find what it holds."""
    spans, seen = _present_spans(mosaic, ask, tile.core)
    if spans is None:
        return _Shard(closed=None, open=None, seen=seen)
    rows, columns = ask.grid.tile_shape
    found = find_fragments(
        spans,
        span_areas(ask.grid.lattice, tile.core),
        connectivity=ask.connectivity,
        sides=(tile.row > 0, tile.column > 0, tile.row + 1 < rows, tile.column + 1 < columns),
        tile=(tile.row, tile.column),
        wanted=ask.wanted,
    )
    still_open = found.touching_border()
    done = ~still_open & found.sums.wanted
    return _Shard(
        closed=close(found.of(done), ask.grid.lattice, outlines=ask.outlines) if done.any() else None,
        open=found.of(still_open) if still_open.any() else None,
        seen=seen,
    )


def _present_spans(mosaic: Mosaic, ask: _Ask, core: PixelBox) -> tuple[Spans | None, NDArray[np.int64]]:
    """What is present in a shard, None where nothing is; and its pixels in the box by what is known of them.

    Score and source are read a row of chunks at a time, and only where something is present: five bytes a pixel are
    never in memory at once.
    """
    mask = mosaic.layer(ask.grid, "mask", core, time=ask.time, prompt=ask.prompt)
    inside = ask.wanted.intersection(core)
    seen = np.zeros(3, np.int64) if inside.empty else _counted(mask[inside.within(core)])
    present = mask == PRESENT
    del mask
    found = []
    for top in range(core.top, core.bottom, ask.grid.chunk_px):
        band = PixelBox(top, core.left, min(top + ask.grid.chunk_px, core.bottom), core.right)
        here = present[band.within(core)]
        if here.any():
            score = mosaic.layer(ask.grid, "score", band, time=ask.time, prompt=ask.prompt)
            source = mosaic.layer(ask.grid, "source", band, time=ask.time)
            found.append(spans_of(here, score, source, band))
    return Spans.joined(found, core) if found else None, seen


def _counted(mask: Stored) -> NDArray[np.int64]:
    """Pixels observed, unobserved, unmapped."""
    gaps = [np.count_nonzero(mask == value) for value in (UNOBSERVED, UNMAPPED)]
    return np.array([mask.size - sum(gaps), *gaps], np.int64)


class _Workers:
    """Shards in, their objects out, in order: in this process, or in several with a few shards in hand each."""

    def __init__(self, mosaic: Mosaic, ask: _Ask, processes: int) -> None:
        self._mosaic, self._ask, self._processes = mosaic, ask, processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self._processes > 1:
            self._pool = ProcessPoolExecutor(self._processes, mp_context=get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, _Shard]]:
        if self._pool is None:
            yield from ((tile, _shard(self._mosaic, self._ask, tile)) for tile in tiles)
            return
        in_hand: deque[tuple[Tile, Future[_Shard]]] = deque()
        try:
            for tile in tiles:
                in_hand.append((tile, self._pool.submit(_shard_by_url, self._ask, tile)))
                if len(in_hand) > AHEAD * self._processes:
                    first, future = in_hand.popleft()
                    yield first, future.result()
            for first, future in in_hand:
                yield first, future.result()
        except BrokenProcessPool as error:
            raise ResourceError(
                "a process that looks for objects was ended from outside",
                fix="take fewer workers if memory ran out; in a script, call it under if __name__ == '__main__'",
            ) from error


def _shard_by_url(ask: _Ask, tile: Tile) -> _Shard:
    return _shard(_opened(ask.url, ask.at), ask, tile)


@lru_cache(maxsize=1)
def _opened(url: str, at: str | None) -> Mosaic:
    return Mosaic.open(url, writable=False, at=at)
