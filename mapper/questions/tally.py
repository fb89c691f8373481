"""Square metres of each value of a mosaic's masks in each place, shard by shard.

Only shards that a place touches are read, and those that were never written are not even asked for where one listing
costs less than the asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync

from mapper.grid import Grid, PixelBox, Tile
from mapper.masks import UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.pixel_area import box_area_m2, pixel_area_m2
from mapper.questions.changes import changes
from mapper.questions.placed import Piece, Placed, Touched

CODES = (0, 1, 2, 3, UNOBSERVED, UNMAPPED)
"""The values of a mask, and those of ``mapper/questions/changes.py``, in the order of a tally's last axis."""

WORK_PX = 2048
"""Side of what a thread holds in memory: 32 MB of pixel areas."""

THREADS = 4
KEYS_A_PAGE = 1000
"""Names that an object store lists with one request."""

SMALL_PX = 512
"""A place whose box in a shard is smaller has its own pixel areas; larger ones share the shard's."""

Tally = NDArray[np.float64]
"""``(place, look, code)`` in square metres of ellipsoid."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is looked at: a prompt at one time, or at two to compare."""

    prompt: int
    times: tuple[int, ...]
    """Positions on the time axis: one, or before and after."""


def tally(mosaic: Mosaic, placed: Sequence[Placed], looks: Sequence[Look], *, places: int) -> Tally:
    """How much of each place has each value: of the mask, or of the change where a look has two times.

    Args:
        mosaic: where to look.
        placed: the places, on each of its grids.
        looks: what to look at.
        places: how many there are.

    Raises:
        StoreError: a shard could not be read.
    """
    total = np.zeros((places, len(looks), len(CODES)))
    for one in placed:
        rows = list(one.rows())
        written = written_shards(mosaic, one.grid, looks, touched=sum(map(len, rows)))

        def parts(one: Placed = one, rows: list[list[Touched]] = rows, written: Written = written) -> Iterator[_Part]:
            for row in rows:
                left_over = _without_empty(one, row, written, total)
                for touched in left_over:
                    for box in work_boxes(one.grid, touched.tile):
                        pieces = tuple(one.pieces(box, touched))
                        if pieces:
                            needed = reduce(PixelBox.union, (piece.box for piece in pieces))
                            yield _Part(grid=one.grid, tile=touched.tile, box=needed, pieces=pieces, written=written)

        for shares in in_order(lambda part: list(_shares(mosaic, looks, part)), parts()):
            for place, look, share in shares:
                total[place, look] += share
    return total


def _without_empty(placed: Placed, row: list[Touched], written: Written, total: Tally) -> list[Touched]:
    """Count a row's shards that lie in their places as a whole and were never written; the others come back.

    Side by side, such shards are one box: a mostly empty continent is a few hundred of them.
    """
    if not written:
        return row
    there = frozenset().union(*written.values())
    left_over: list[Touched] = []
    runs: dict[int, list[PixelBox]] = {}
    for touched in row:
        if touched.partly or (touched.tile.row, touched.tile.column) in there:
            left_over.append(touched)
            continue
        core = touched.tile.core
        for place in touched.whole:
            boxes = runs.setdefault(place, [])
            if boxes and boxes[-1].right == core.left:
                boxes[-1] = boxes[-1].union(core)
            else:
                boxes.append(core)
    for place, boxes in runs.items():
        for box in boxes:
            total[place, :, -1] += _Areas(placed.grid, box).total_m2(Piece(place=place, box=box, inside=None))
    return left_over


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a thread looks at: a box of a shard, and what of it belongs to the places."""

    grid: Grid
    tile: Tile
    box: PixelBox
    pieces: tuple[Piece, ...]
    written: Written


Written = dict[tuple[int, int], frozenset[tuple[int, int]]]
"""Prompt and time → row and column of the shards that are there; what it does not name may all be there."""

_Share = tuple[int, int, NDArray[np.float64]]


def _shares(mosaic: Mosaic, looks: Sequence[Look], part: _Part) -> Iterator[_Share]:
    """Place, look and square metres by code, in one box of one shard."""
    areas = _Areas(part.grid, part.box)
    place = part.tile.row, part.tile.column
    for number, look in enumerate(looks):
        shards = [part.written.get((look.prompt, time)) for time in look.times]
        there = all(shard is None or place in shard for shard in shards)
        if there:
            masks = [mosaic.layer(part.grid, "mask", part.box, time=time, prompt=look.prompt) for time in look.times]
            values = masks[0] if len(masks) == 1 else changes(masks[0], masks[1])
            there = not (values == UNMAPPED).all()
        for piece in part.pieces:
            if there:
                yield piece.place, number, _by_code(values, part.box, piece, areas)
            else:
                yield piece.place, number, np.array([0, 0, 0, 0, 0, areas.total_m2(piece)])


def _by_code(values: NDArray[np.uint8], part: PixelBox, piece: Piece, areas: _Areas) -> NDArray[np.float64]:
    here, weights = values[piece.box.within(part)], areas.of(piece.box)
    if piece.inside is not None:
        here, weights = here[piece.inside], weights[piece.inside]
    by_value = np.bincount(here.ravel(), weights=weights.ravel(), minlength=256)
    return np.asarray(by_value[list(CODES)], np.float64)


class _Areas:
    """Pixel areas in one box of a grid, found out when first asked for."""

    def __init__(self, grid: Grid, part: PixelBox) -> None:
        self._grid, self._part = grid, part
        self._all: NDArray[np.float64] | None = None
        self._totals: dict[int, float] = {}

    def of(self, box: PixelBox) -> NDArray[np.float64]:
        """``(y, x)`` over a box in it; 0 where the projection has no such place."""
        if self._all is None and max(box.shape) < min(SMALL_PX, max(self._part.shape)):
            return np.nan_to_num(pixel_area_m2(self._grid.lattice, box))
        if self._all is None:
            self._all = np.nan_to_num(pixel_area_m2(self._grid.lattice, self._part))
        return self._all[box.within(self._part)]

    def total_m2(self, piece: Piece) -> float:
        """Of all pixels of a piece."""
        if piece.place not in self._totals:
            if piece.inside is None:
                self._totals[piece.place] = _box_m2(self._grid, piece.box)
            else:
                self._totals[piece.place] = float(self.of(piece.box)[piece.inside].sum())
        return self._totals[piece.place]


def _box_m2(grid: Grid, box: PixelBox) -> float:
    """Square metres in a box; without the pixels for which the projection has no place."""
    whole = box_area_m2(grid.lattice, box)
    if np.isfinite(whole):
        return whole
    cells = (cell.intersection(box) for cell in box.cells(WORK_PX))
    return float(sum(np.nan_to_num(pixel_area_m2(grid.lattice, cell)).sum() for cell in cells))


def work_boxes(grid: Grid, tile: Tile) -> Iterator[PixelBox]:
    """The shard in pieces of whole chunks that a thread can hold."""
    step = max(grid.chunk_px, min(grid.shard_px, WORK_PX // grid.chunk_px * grid.chunk_px))
    core = tile.core
    for top in range(core.top, core.bottom, step):
        for left in range(core.left, core.right, step):
            yield PixelBox(top, left, top + step, left + step).intersection(core)


def written_shards(mosaic: Mosaic, grid: Grid, looks: Sequence[Look], *, touched: int) -> Written:
    """Which shards of the masks are there, where finding out costs fewer requests than asking for those touched."""
    rows, columns = grid.tile_shape
    if touched <= 1 + rows * columns / KEYS_A_PAGE:
        return {}
    store = mosaic.store
    wanted = {(look.prompt, time) for look in looks for time in look.times}
    array = f"{grid.path}/mask"
    if mosaic.engine == "icechunk":  # it lists whole arrays, from a manifest that it has read anyway
        everything = _listed(store, f"{array}/")
        return {pair: _below(everything, f"{array}/c/{pair[0]}/{pair[1]}/") for pair in wanted}
    prefixes = {pair: f"{array}/c/{pair[0]}/{pair[1]}/" for pair in wanted}
    return {pair: _below(_listed(store, prefix), prefix) for pair, prefix in prefixes.items()}


def _listed(store: Store, prefix: str) -> list[str]:
    async def names() -> list[str]:
        return [name async for name in store.list_prefix(prefix)]

    return sync(names())


def _below(names: Iterable[str], prefix: str) -> frozenset[tuple[int, int]]:
    """Row and column of the shards whose names begin so."""
    ends = (name.removeprefix(prefix).split("/") for name in names if name.startswith(prefix))
    return frozenset((int(end[0]), int(end[1])) for end in ends if len(end) == 2 and "".join(end).isdigit())


def in_order(work: Callable[[_In], _Out], parts: Iterable[_In]) -> Iterator[_Out]:
    """What the work makes of each part, in the parts' order, some threads ahead."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
