"""How much of a place a step saw, and how much of that can be compared with what was seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from mapper.changes.raster import Raster
from mapper.masks import UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.pixel_area import box_area_m2, pixel_area_m2
from mapper.questions.changes import VANISHED
from mapper.questions.placed import Piece, Placed, Touched, beyond_m2
from mapper.questions.places import LONLAT, Places
from mapper.questions.tally import work_boxes

_SAME = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of a place, 0 to 1. None where no pixel's centre lies in it: nobody can say."""

    observed: float | None
    """Seen in this step."""

    comparable: float | None
    """Seen in this step and in one before it."""


def shares(mosaic: Mosaic, outline: BaseGeometry, *, prompt: str, step: datetime) -> Shares:
    """What of a place was seen. A pixel belongs to it when its centre lies in it; what the mosaic lacks was not seen.

    Args:
        mosaic: open for reading, changes beside it.
        outline: of the place, longitude and latitude.
        prompt: its name.
        step: when the step begins.

    Raises:
        VerifyError, StoreError, CredentialsError: what is stored cannot be read.
    """
    raster = Raster.open(mosaic.url, writable=False)
    places = Places(names=("place",), geometries=(outline,), crs=LONLAT)
    placed = [Placed(places, grid, zoned=len(mosaic.grids) > 1) for grid in mosaic.grids]
    number = [known.name for known in mosaic.prompts].index(prompt)
    whole, seen, comparable = beyond_m2(places, placed)[0], 0.0, 0.0
    for one in placed:
        looked = _Looked(mosaic, raster, one, prompt=number, step=step)
        for row in one.rows():
            for touched in row:
                amounts = looked.amounts(touched)
                whole, seen, comparable = whole + amounts[0], seen + amounts[1], comparable + amounts[2]
    if whole <= 0:
        return Shares(observed=None, comparable=None)
    return Shares(observed=min(1.0, seen / whole), comparable=min(1.0, comparable / whole))


class _Looked:
    """One zone in one step."""

    def __init__(self, mosaic: Mosaic, raster: Raster | None, placed: Placed, *, prompt: int, step: datetime) -> None:
        self._mosaic, self._raster, self._placed, self._prompt = mosaic, raster, placed, prompt
        self._time = position(mosaic.times, step)
        self._at = None if raster is None else position(raster.times, step)
        self._stored = (
            frozenset[tuple[int, int]]()
            if raster is None or self._at is None
            else frozenset(raster.stored(placed.grid, prompt, self._at))
        )

    def amounts(self, touched: Touched) -> tuple[float, float, float]:
        """Square metres in one shard: of the place, seen, comparable."""
        grid, tile = self._placed.grid, touched.tile
        stored = (tile.row, tile.column) in self._stored
        if not stored and touched.whole:
            area = box_area_m2(grid.lattice, tile.core)
            return (area if np.isfinite(area) else 0.0), 0.0, 0.0
        whole = seen = comparable = 0.0
        change = None
        if stored and self._raster is not None and self._at is not None:
            change = self._raster.change(grid, tile, self._prompt, self._at)
        for box in work_boxes(grid, tile):
            for piece in self._placed.pieces(box, touched):
                areas = np.nan_to_num(pixel_area_m2(grid.lattice, piece.box))
                whole += _sum(areas, piece)
                if change is not None and self._time is not None:
                    mask = self._mosaic.layer(grid, "mask", piece.box, time=self._time, prompt=self._prompt)
                    seen += _sum(np.where(mask < UNOBSERVED, areas, 0.0), piece)
                    same = change[piece.box.within(tile.core)] <= VANISHED
                    comparable += _sum(np.where(same, areas, 0.0), piece)
        return whole, seen, comparable


def _sum(areas: NDArray[np.float64], piece: Piece) -> float:
    return float((areas if piece.inside is None else areas[piece.inside]).sum())


def position(times: Sequence[datetime], step: datetime) -> int | None:
    """Where a step stands on a time axis; None where it does not. Changes know the beginnings of steps to a second."""
    at = min(range(len(times)), key=lambda number: abs(times[number] - step), default=None)
    return at if at is not None and abs(times[at] - step) < _SAME else None
