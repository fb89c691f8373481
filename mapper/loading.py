"""Pieces of imagery, read and decoded once for all threads of a process.

A file is read in cells: whole blocks of it, so that no block is fetched or decoded twice while its cell is kept,
however the windows that ask for it overlap. The cells of a window that nobody has yet are read by a few threads, a row
of cells at a time: a row lies in one piece in a COG, so it is one request. What must be warped is warped by the same
threads, in cells of the lattice, and kept likewise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias, TypeVar

import numpy as np
import rasterio
from rasterio.enums import Resampling

from mapper.develop import Develop, Untouched
from mapper.grid import BLOCK_PX, Lattice, PixelBox
from mapper.imagery import Asset, Band, Valid
from mapper.kept import Kept
from mapper.limits import check_source
from mapper.open_files import SHARING, OpenFiles
from mapper.raster import GDAL_OPTIONS, Cell, Raster, Raw
from mapper.traffic import TRAFFIC, host_of
from mapper.warp import WarpSource, warp_cell, warp_source
from mapper.work import SPENT

Done = TypeVar("Done")

CACHE_BYTES = 512 * 1024 * 1024
"""Decoded cells a reader keeps: the frames of some neighbouring tiles."""

Parts: TypeAlias = list[tuple[PixelBox, "Future[Cell | None]"]]
"""Boxes and what is in them, made or still to come; None where there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a kept cell is of."""

    href: str
    bands: tuple[tuple[int, str], ...]
    """Index and nodata of each; the latter as text, for NaN is not equal to itself."""

    box: PixelBox
    """In pixels of the file, or of the lattice where it was warped."""

    develop: Develop
    """What was made of the stored values."""

    warped: tuple[Lattice, Resampling] | None
    """Where to and how; None for the pixels of the file as they lie."""


Claims: TypeAlias = Mapping[Place, "Future[Cell | None]"]


class Loader:
    """Reads cells with a few threads of its own, and keeps them."""

    def __init__(self, *, threads: int, cache_bytes: int) -> None:
        self._files = OpenFiles()
        self._kept: Kept[Place, Cell | None] = Kept(cache_bytes, weigh=_nbytes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="read", initializer=_enter)
        # Whoever claims cells also hands out the work under this lock. So a warp comes after all reads it waits for in
        # the threads' queue, and cannot keep them from running.
        self._handing_out = threading.RLock()

    @property
    def kept_bytes(self) -> int:
        """What the cells kept take."""
        return self._kept.weight

    def look(
        self, bands: Sequence[Band], lattice: Lattice, box: PixelBox, resampling: Resampling, develop: Develop
    ) -> Future[Parts]:
        """Begin to read some bands of one file over a box of lattice pixels.

        Args:
            bands: of one file.
            lattice: where the box lies.
            box: what is wanted.
            resampling: for a file that does not lie on the lattice.
            develop: what is made of the stored values, and kept.

        Returns:
            The cells that touch the box. Where there is none the file shows nothing. The future, or those in it, raise
            ``AssetError`` or one of ``mapper.raster.UNREADABLE`` where the file is bad, or what ``develop`` raises.
        """
        asset = bands[0].asset

        def begin() -> Parts:
            raster = self._files.get(asset).raster
            raster.check(bands)
            offset = raster.offset_on(lattice)
            if offset is None:
                return self._warped(raster, bands, lattice, box, resampling, develop)
            parts = self._cells(raster, bands, _moved(box, -offset[0], -offset[1]), develop)
            return [(_moved(cell, *offset), future) for cell, future in parts]

        if not self._files.known(asset):
            return self._threads.submit(_decoding(begin))
        begun: Future[Parts] = Future()
        try:
            begun.set_result(begin())
        except Exception as error:
            begun.set_exception(error)
        return begun

    def _cells(self, raster: Raster, bands: Sequence[Band], box: PixelBox, develop: Develop) -> Parts:
        """The cells of a file under a box of its own pixels, which may reach beyond it."""
        places = [_place(bands, cell, develop) for cell in raster.cells(box)]
        with self._handing_out:
            claimed, mine = self._kept.claim(places)
            rows = list(_rows(mine))
            for work in [rows] if raster.sequential and rows else [[row] for row in rows]:
                self._hand_out(work, _decoding(self._read), bands, work)
        return [(place.box, claimed[place]) for place in places]

    def _warped(
        self,
        raster: Raster,
        bands: Sequence[Band],
        lattice: Lattice,
        box: PixelBox,
        resampling: Resampling,
        develop: Develop,
    ) -> Parts:
        """The lattice cells under a box of lattice pixels, from a file that does not lie on the lattice."""
        places = [_place(bands, cell, develop, (lattice, resampling)) for cell in box.cells(BLOCK_PX)]
        with self._handing_out:
            claimed, mine = self._kept.claim(places)
            for place, future in mine.items():
                try:
                    source = warp_source(raster, lattice, place.box, resampling)
                    parts = []
                    if source is not None:
                        check_source(np.dtype(raster.dtypes[bands[0].index - 1]), len(bands), source.shape)
                    if source is not None and source.step == 1:
                        parts = self._cells(raster, bands, source.box, Untouched())
                except BaseException as error:
                    self._kept.fail(place, future, error)
                else:
                    self._hand_out([{place: future}], _decoding(self._warp), place, future, bands, source, parts)
        return [(place.box, claimed[place]) for place in places]

    def _hand_out(self, claims: Sequence[Claims], act: Callable[..., None], *told: object) -> None:
        """Have a thread answer what was claimed. At the end of a process there is none, and nobody is left waiting."""
        try:
            self._threads.submit(act, *told)
        except RuntimeError as error:
            for place, future in (claim for claimed in claims for claim in claimed.items()):
                self._kept.fail(place, future, error)

    def _read(self, bands: Sequence[Band], rows: Sequence[Claims]) -> None:
        """Read cells that were claimed, a row at a time."""
        done: set[Place] = set()
        try:
            file = self._files.get(bands[0].asset)
            with file.dataset() as dataset:
                for row in rows:
                    boxes = [place.box for place in row]
                    around = PixelBox(boxes[0].top, boxes[0].left, boxes[-1].bottom, boxes[-1].right)
                    raw, seen = _fetched(file.raster, dataset, bands, around)
                    for place, future in row.items():
                        self._kept.put(place, future, _part(raw, seen, place, around))
                        done.add(place)
        except BaseException as error:
            self._forget(bands[0].asset)
            for row in rows:
                for place, future in row.items():
                    if place not in done:
                        self._kept.fail(place, future, error)

    def _warp(
        self,
        place: Place,
        future: Future[Cell | None],
        bands: Sequence[Band],
        source: WarpSource | None,
        parts: Parts,
    ) -> None:
        """Warp one cell that was claimed, from parts of the file that are read before it, or from the file itself."""
        try:
            cell = None
            if source is not None and place.warped is not None:
                file = self._files.get(bands[0].asset)
                if parts:
                    raw, seen = _joined(parts, source.box)
                else:
                    with file.dataset() as dataset:
                        raw, seen = _fetched(file.raster, dataset, bands, source.box, source.shape)
                cell = place.develop(*warp_cell(file.raster, source, raw, seen, place.box, *place.warped))
            self._kept.put(place, future, cell)
        except BaseException as error:
            self._forget(bands[0].asset)
            self._kept.fail(place, future, error)

    def _forget(self, asset: Asset) -> None:
        """Keep nothing of a file that went wrong, and open it anew at the next try: it may be another by then."""
        self._files.forget(asset.href)
        self._kept.forget(lambda place: place.href == asset.href)


def reading_threads() -> int:
    """How many threads read unless one says otherwise: enough to decode on every core while others wait for answers."""
    return min(16, 4 * (os.cpu_count() or 1))


def _enter() -> None:
    """GDAL's options of a reading thread, as long as it lives: entering them costs milliseconds where credentials are
    looked up."""
    rasterio.Env(**GDAL_OPTIONS | SHARING).__enter__()


def _decoding(act: Callable[..., Done]) -> Callable[..., Done]:
    """The same act, its CPU time counted as decoding."""

    def counted(*given: Any) -> Done:
        with SPENT.computing("decode"):
            return act(*given)

    return counted


def _fetched(
    raster: Raster, dataset: Any, bands: Sequence[Band], box: PixelBox, shape: tuple[int, int] | None = None
) -> Cell:
    """As ``Raster.read``, counted: GDAL fetches and decodes in one call."""
    with SPENT.waiting("read"), TRAFFIC.request("imagery", host_of(bands[0].asset.href)) as request:
        raw, seen = raster.read(dataset, bands, box, shape)
        request.moved_bytes = raw.nbytes
    return raw, seen


def _place(
    bands: Sequence[Band], box: PixelBox, develop: Develop, warped: tuple[Lattice, Resampling] | None = None
) -> Place:
    indexes = tuple((band.index, str(band.nodata)) for band in bands)
    return Place(href=bands[0].asset.href, bands=indexes, box=box, develop=develop, warped=warped)


def _moved(box: PixelBox, rows: int, columns: int) -> PixelBox:
    return PixelBox(box.top + rows, box.left + columns, box.bottom + rows, box.right + columns)


def _nbytes(cell: Cell | None) -> int:
    return 0 if cell is None else cell[0].nbytes + (0 if cell[1] is None else cell[1].nbytes)


def _rows(claims: Claims) -> Iterator[Claims]:
    """Runs of neighbouring cells of one row, which can be read in one piece."""
    for _, row in groupby(claims.items(), key=lambda claim: (claim[0].box.top, claim[0].box.bottom)):
        run: dict[Place, Future[Cell | None]] = {}
        right = None
        for place, future in row:
            if run and place.box.left != right:
                yield run
                run = {}
            run[place], right = future, place.box.right
        yield run


def _part(raw: Raw, seen: Valid | None, place: Place, around: PixelBox) -> Cell:
    """What is kept of one cell of a row of them."""
    here = place.box.within(around)
    return place.develop(raw[:, *here], None if seen is None else seen[here])


def _joined(parts: Parts, box: PixelBox) -> Cell:
    """The pixels of a box from the cells that cover it."""
    first = parts[0][1].result()
    assert first is not None
    raw, seen = np.empty((len(first[0]), *box.shape), first[0].dtype), np.ones(box.shape, np.bool_)
    for where, future in parts:
        cell = future.result()
        assert cell is not None
        common = where.intersection(box)
        there, here = common.within(box), common.within(where)
        raw[:, *there] = cell[0][:, *here]
        if cell[1] is not None:
            seen[there] = cell[1][here]
    return raw, None if seen.all() else seen
