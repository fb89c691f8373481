"""Planned tiles on a web map: which of them lies under each pixel of a picture, and which pixel each falls in.

Near, a tile covers pixels: the centre of each is brought to the rows and columns of the grids. Far, a pixel covers
tiles: their middles are kept in the order of a quadtree over the map,

    key of a tile = bits of x and y in turn      z = 0 │ 1 │ 2 │ …

so those of a picture are neighbours, those of one of its pixels are neighbours too, and the worst of each pixel is
found once a zoom for all pictures of it. Either way a picture costs what its pixels do, however many tiles there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.tile_file import TilePlaces
from mapper.kept import Kept
from mapper.web.degrees import GridInDegrees
from mapper.web.webtiles import TILE_PX, centres

Codes = NDArray[np.uint8]
"""What is drawn of a thing, 0 being nothing; the larger of two is shown where both fall in one pixel."""

NOWHERE = -1
"""Where no tile is planned."""

DEEPEST_PIXELS = 23
"""The largest zoom at which tiles may be smaller than two pixels: those are four centimetres wide."""

ZOOMS_KEPT = 3
"""Zooms of which it is kept which pixels tiles fall in: with them a tile takes 52 bytes at most."""

_PIXEL_BITS = 8
_FINEST = DEEPEST_PIXELS + _PIXEL_BITS
"""Halvings of the map down to the squares that keys name: 62 bits."""

_SEEN_PX, _SURE_PX = 0.5, 2.0
"""Tiles with sides longer than the one are looked for under pixels; those with sides longer than the other cover the
centre of a pixel wherever they lie."""

_DENSE = 1 << 20
"""Rows times columns that are kept as an array even where few of them are planned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Under:
    """The tiles under the pixels of a picture."""

    tile: NDArray[np.int32]
    """``(258, 258)``: row of the plan, or ``NOWHERE``; the picture with a pixel more on each side."""

    side_px: float
    """Pixels along the shortest side of a tile; 0 where all are too small to be looked for."""

    crowded: bool
    """Whether some tiles may be so small that they lie under no pixel's centre."""


class PlannedMap:
    """The planned tiles of one time step. Threads may share one."""

    def __init__(self, zones: Sequence[GridInDegrees], places: TilePlaces, step: int) -> None:
        """Look for all of them: a quarter of a second of work for each million, most of it projection.

        Args:
            zones: the grids, as ``places.grid`` numbers them.
            places: all tiles of the plan.
            step: the time step.
        """
        self._zones = tuple(zones)
        tile = np.flatnonzero(places.step == step).astype(np.int32)
        by_grid = [tile[places.grid[tile] == number] for number in range(len(self._zones))]
        self._finders = tuple(_Finder(places.row[of], places.column[of], of) for of in by_grid)
        keys = [_keys(zone, places.row[of], places.column[of]) for zone, of in zip(self._zones, by_grid, strict=True)]
        key, tile = np.concatenate([np.empty(0, np.uint64), *keys]), np.concatenate([tile[:0], *by_grid])
        on_map = key != _OFF_MAP
        order = np.argsort(key[on_map], kind="stable")
        self._key: NDArray[np.uint64] = key[on_map][order]
        self.tile: NDArray[np.int32] = tile[on_map][order]
        """Rows of the plan, in the order of the map; without those beyond its upper and lower edge."""

        self._pixels: Kept[int, tuple[NDArray[np.uint64], NDArray[np.int32]]] = Kept(ZOOMS_KEPT)

    def under(self, z: int, x: int, y: int) -> Under:
        """The tiles under the pixels of a picture. Where those of several zones are, the one of the zone that maps the
        place; if that has none there, the one whose middle is nearest.

        Raises:
            QuestionError: there is no such picture.
        """
        longitude, latitude = centres(z, x, y, margin_px=1)
        tile = np.full((len(latitude), len(longitude)), NOWHERE, np.int32)
        nearest = np.full(tile.shape, np.inf, np.float32)
        pixel = 2 * np.pi / (TILE_PX << z)
        sides = []
        for zone, finder in zip(self._zones, self._finders, strict=True):
            for rows, columns, turn in zone.part_of(longitude, latitude):
                here = longitude[columns] + turn, latitude[rows]
                spanned = max(zone.pixels_a_radian(here[0][len(here[0]) // 2], here[1][len(here[1]) // 2])) * pixel
                side = zone.grid.shard_px / spanned if 0 < spanned < np.inf else _SEEN_PX
                sides.append(side)
                if side >= _SEEN_PX:
                    found, away = _found(zone, finder, *here)
                    closer = away < nearest[rows, columns]
                    tile[rows, columns][closer] = found[closer]
                    nearest[rows, columns][closer] = away[closer]
        # Where no zone lies under any pixel's centre, all of one may lie between them.
        looked = min(sides, default=0.0)
        return Under(tile=tile, side_px=looked if looked >= _SEEN_PX else 0.0, crowded=looked < _SURE_PX)

    def at(self, longitude: float, latitude: float) -> int | None:
        """The planned tile at a place in degrees, the same as ``under`` has there; None where none is."""
        if not (np.isfinite(longitude) and abs(latitude) <= 90):
            return None
        places = np.array([(longitude + 180) % 360 - 180]), np.array([float(latitude)])
        best, nearest = NOWHERE, np.inf
        for zone, finder in zip(self._zones, self._finders, strict=True):
            for _, _, turn in zone.part_of(*places):
                found, away = _found(zone, finder, places[0] + turn, places[1])
                if away.item() < nearest:
                    best, nearest = int(found.item()), away.item()
        return None if best == NOWHERE else best

    def worst(self, codes: Codes, z: int) -> Codes:
        """The largest code of each pixel of a zoom that any tile falls in, for ``fallen``.

        Args:
            codes: one for each of ``tile``.
            z: zoom, at most ``DEEPEST_PIXELS``.
        """
        _, begins = self._at_zoom(z)
        return np.maximum.reduceat(codes, begins) if len(begins) else codes[:0]

    def fallen(self, z: int, x: int, y: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp]]:
        """Which of the pixels of a zoom that tiles fall in are those of a picture: where their codes are in ``worst``,
        and the row and column of each. 65,536 at most."""
        keys, _ = self._at_zoom(z)
        first = _turned(np.array([x]), np.array([y]))[0] << np.uint64(2 * _PIXEL_BITS)
        begin, end = np.searchsorted(keys, np.array([first, first + np.uint64(1 << 2 * _PIXEL_BITS)])).tolist()
        inside = (keys[begin:end] - first).astype(np.intp)
        return slice(begin, end), _EVEN_BITS[inside >> 1], _EVEN_BITS[inside]

    def _at_zoom(self, z: int) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """Keys of the pixels that tiles fall in, in order, and where the tiles of each begin."""

        def found() -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
            pixels = self._key >> np.uint64(2 * (DEEPEST_PIXELS - z))
            first = np.ones(len(pixels), np.bool_)
            np.not_equal(pixels[1:], pixels[:-1], out=first[1:])
            return pixels[first], np.flatnonzero(first).astype(np.int32)

        return self._pixels.get(z, found)


class _Finder:
    """Row and column of shards → row of the plan. An array where that is small, else a sorted list."""

    def __init__(self, row: NDArray[np.int32], column: NDArray[np.int32], tile: NDArray[np.int32]) -> None:
        self._top, self._left = (int(side.min(initial=0)) if len(tile) else 0 for side in (row, column))
        self._rows, self._columns = (
            int(side.max()) - first + 1 if len(tile) else 0 for side, first in ((row, self._top), (column, self._left))
        )
        key = (row.astype(np.int64) - self._top) * self._columns + (column - self._left)
        self._dense: NDArray[np.int32] | None = None
        if self._rows * self._columns <= max(_DENSE, 4 * len(tile)):
            self._dense = np.full(self._rows * self._columns, NOWHERE, np.int32)
            self._dense[key] = tile
        else:
            order = np.argsort(key)
            self._keys, self._tiles = key[order], tile[order]

    def find(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int32]:
        """The tile at each, or ``NOWHERE``."""
        down, across = row - self._top, column - self._left
        inside = (down >= 0) & (down < self._rows) & (across >= 0) & (across < self._columns)
        key = np.where(inside, down * self._columns + across, 0)
        if not self._rows:
            return np.full(row.shape, NOWHERE, np.int32)
        if self._dense is not None:
            return np.where(inside, self._dense[key], np.int32(NOWHERE))
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return np.where(inside & (self._keys[at] == key), self._tiles[at], np.int32(NOWHERE))


def _found(
    zone: GridInDegrees, finder: _Finder, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """``(y, x)``: tiles at the crossings of meridians and parallels, and how far their middles are, squared; those of
    another zone than the place's own are the farthest."""
    row, column, inside = zone.crossings(longitude, latitude)
    box, side = zone.grid.box, zone.grid.shard_px
    down, across = row - box.top, column - box.left
    tile = finder.find(down // side, across // side)
    off = (2 * (down % side) + 1 - side) ** 2 + (2 * (across % side) + 1 - side) ** 2
    off = off.reshape(len(latitude), len(longitude)) + np.where(_own(zone, longitude, latitude), 0, _FOREIGN)
    away = np.where(inside & (tile != NOWHERE), off.ravel(), np.inf).astype(np.float32)
    shape = len(latitude), len(longitude)
    return tile.reshape(shape), away.reshape(shape)


def _own(zone: GridInDegrees, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``(y, x)``: whether the crossings lie in the strip of the grid's UTM zone; all do in a grid that is of none."""
    utm = _UTM.match(zone.grid.lattice.crs)
    if utm is None:
        return np.ones((1, 1), np.bool_)
    middle = 6 * int(utm[2]) - 183
    in_strip, in_half = np.abs(longitude - middle) <= 3, (latitude >= 0) == (utm[1] == "6")
    return np.asarray(in_half[:, None] & in_strip)


_UTM = re.compile(r"^EPSG:32([67])(\d\d)$")

_FOREIGN = 1 << 40
"""More than the square of any tile's side."""

_OFF_MAP = np.uint64(0xFFFFFFFFFFFFFFFF)


def _keys(zone: GridInDegrees, row: NDArray[np.int32], column: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Where the middles of tiles lie on the map; ``_OFF_MAP`` beyond its edges."""
    box, side = zone.grid.box, zone.grid.shard_px
    middle = [first + (np.asarray(at, np.float64) + 0.5) * side for first, at in ((box.top, row), (box.left, column))]
    longitude, latitude = zone.degrees_of(*middle)
    with np.errstate(invalid="ignore", over="ignore"):
        across = (longitude / 360 + 0.5) % 1.0
        down = 0.5 - np.arcsinh(np.tan(np.radians(latitude))) / (2 * np.pi)
        inside = np.isfinite(longitude) & (np.abs(latitude) < 90) & (down >= 0) & (down < 1)
    squares = [np.where(inside, share * 2.0**_FINEST, 0).astype(np.int64) for share in (across, down)]
    return np.where(inside, _turned(*squares), _OFF_MAP)


def _turned(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Bits of x and y in turn, those of y first."""
    return _spread(x) | (_spread(y) << np.uint64(1))


def _spread(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Each bit at twice its place; 31 bits at most."""
    spread = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333), (1, 0x5555555555555555),
    ):  # fmt: skip
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    return spread


def _even_bits() -> NDArray[np.intp]:
    """``(65536,)``: every other bit of a number from the lowest on, as a number."""
    numbers = np.arange(1 << 2 * _PIXEL_BITS)
    found = np.zeros(len(numbers), np.intp)
    for bit in range(_PIXEL_BITS):
        found |= (numbers >> 2 * bit & 1) << bit
    return found


_EVEN_BITS = _even_bits()
