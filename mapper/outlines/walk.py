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
import shapely
from numpy.typing import NDArray

from mapper.errors import ResourceError
from mapper.grid import Grid, PixelBox, Tile
from mapper.imagery import Source
from mapper.masks import PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED, Stored
from mapper.mosaic import Mosaic
from mapper.outlines.fragments import Connectivity, Fragments, find_fragments
from mapper.outlines.joint import Joint
from mapper.outlines.rings import Rings, trace
from mapper.outlines.span_area import area_unit_m2, span_areas
from mapper.outlines.spans import Int, Spans, spans_of

AHEAD = 2
"""Shards a process has in hand, or done and not yet asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBatch:
    """Some objects; row ``n`` of each array is one of them."""

    anchor: NDArray[np.int64]
    """``(n, 2)``: lattice row and column of its northernmost, then westernmost pixel. No two objects share one."""

    pixels: NDArray[np.int64]
    score: NDArray[np.float64]
    """Mean of its pixels, 0 to 1."""

    bounds: NDArray[np.int64]
    """``(n, 4)``: top, left, bottom, right in lattice pixels, half-open."""

    source: Source
    """The scene most of its pixels show, of equals the first in the item table; ``NO_SOURCE`` where there is none."""

    area_m2: NDArray[np.float64]
    """Square metres of ellipsoid."""

    geometry: NDArray[np.object_]
    """Shapely, in the grid's CRS: a Polygon, with its holes; a MultiPolygon where parts meet in corners only. All are
    valid, without needless points, outer rings counter-clockwise. None where outlines were not asked for."""

    def __len__(self) -> int:
        return len(self.pixels)


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
class _Closed:
    """Objects that are complete, with rings for geometries: numbers only, so that they travel light."""

    sums: tuple[Int, Int, Int, Int, Int]
    """Anchor, pixels, score, area, bounds."""

    unit_m2: float
    source: Source
    object_of_part: Int
    rings: Rings | None

    def batch(self, grid: Grid) -> ObjectBatch:
        """With geometries, which are made where they are used."""
        anchor, pixels, score, area, bounds = self.sums
        return ObjectBatch(
            anchor=anchor,
            pixels=pixels,
            score=score / (pixels * float(SCORE_ONE)),
            bounds=bounds,
            source=self.source,
            area_m2=np.asarray(area * self.unit_m2, np.float64),
            geometry=self._geometry(grid),
        )

    def _geometry(self, grid: Grid) -> NDArray[np.object_]:
        count = len(self.source)
        geometry = np.full(count, None, np.object_)
        if self.rings is None:
            return geometry
        polygons = self.rings.polygons(grid.lattice)
        parts = np.bincount(self.object_of_part, minlength=count)
        single = parts[self.object_of_part] == 1
        geometry[self.object_of_part[single]] = polygons[single]
        several = np.flatnonzero(~single)
        corner = self.rings.northwest()[several]
        order = several[np.lexsort((corner[:, 0], corner[:, 1], self.object_of_part[several]))]
        owner, number = np.unique(self.object_of_part[order], return_inverse=True)
        geometry[owner] = shapely.multipolygons(polygons[order], indices=number)
        return geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What one shard holds."""

    closed: _Closed | None
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
        yield _closed(closed, ask).batch(ask.grid)


def _closed(fragments: Fragments, ask: _Ask) -> _Closed:
    """Complete objects, sorted by their anchor."""
    sums = fragments.sums
    rank = np.lexsort((sums.anchor[:, 1], sums.anchor[:, 0]))
    place = np.empty(len(sums), np.int64)
    place[rank] = np.arange(len(sums))
    sums = sums.of(rank)
    return _Closed(
        sums=(sums.anchor, sums.pixels, sums.score, sums.area, sums.bounds),
        unit_m2=area_unit_m2(ask.grid.lattice),
        source=fragments.votes.winners(len(sums))[rank],
        object_of_part=place[fragments.object_of_part],
        rings=trace(fragments.corners) if ask.outlines else None,
    )


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
        closed=_closed(found.of(done), ask) if done.any() else None,
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
