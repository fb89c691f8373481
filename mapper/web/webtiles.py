"""A mosaic as a web map wants it: square tiles of Web Mercator, halved from zoom to zoom.

    z, x, y ──► longitude, latitude of every pixel ──► pixel of each zone ──► its shards, on the level that fits

A tile's pixel shows the mosaic's pixel under its centre, on the coarsest level whose pixels are not larger than the
tile's: what is between is what ``mapper/pyramid.py`` says of it, and nothing is blended here. Where zones overlap, an
observed pixel wins over a gap, and else the zone named first.

A shard of a coarser level that is not stored is one of two things: a gap all over, or not built yet. It is the first
where any level above it is stored, because those are built last; else the finer level under it is looked at instead,
``DESCENT`` levels down at most. What lies deeper is ``PENDING``, which is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.errors import QuestionError
from mapper.grid import Grid, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.web.degrees import Bounds, GridInDegrees, widened

Layer: TypeAlias = Literal["mask", "score"]

PENDING = 253
"""In a tile: the levels above these pixels are not built yet, and too many lie under them to be looked at."""

DESCENT = 4
"""How many levels below the one that fits are looked at in place of shards that are not built: 64 million pixels for
a tile of 256 px at most, a shard of them in memory at once."""

TILE_PX = 256
DEEPEST = 26
"""The largest zoom there is: pixels of two millimetres."""

NORTHERNMOST = math.degrees(math.atan(math.sinh(math.pi)))
"""Latitude of the upper edge of the map, 85.05°."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """What the mosaic says of one place."""

    masks: tuple[int, ...]
    """One a prompt, in the four values of a mask."""

    scores: tuple[int, ...]
    """One a prompt, as stored."""

    source: int | None
    """Row of the scene in the item table; None where none was seen."""

    crs: str
    """Of the zone that answers; empty where the place is outside them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a tile shows: one layer of one prompt and time step."""

    layer: Layer
    prompt: int
    time: int


class WebTiles:
    """The tiles of one mosaic, and its values by longitude and latitude. Threads may share one."""

    def __init__(self, mosaic: Mosaic, *, growing: bool = False) -> None:
        """Lay the zones out.

        Args:
            mosaic: open for reading.
            growing: a run is writing it, or has left levels out: a level above may be older than what lies under it,
                and is not believed when it says that there is nothing.
        """
        self.mosaic = mosaic
        self.growing = growing
        self._zones = tuple(GridInDegrees(grid) for grid in mosaic.grids)
        self._stored: set[tuple[str, int, int, int, int]] = set()

    @property
    def bounds(self) -> Bounds:
        """West, south, east, north in degrees; where the mosaic lies across the 180th meridian, all longitudes."""
        return map_bounds(self._zones)

    @property
    def max_zoom(self) -> int:
        """The first zoom whose pixels (256 a tile) are nowhere larger than the mosaic's."""
        return largest_zoom(self._zones)

    def tile(
        self, z: int, x: int, y: int, *, prompt: int, time: int, layer: Layer = "mask", size_px: int = TILE_PX
    ) -> NDArray[np.uint8]:
        """One tile of one prompt and time step.

        Args:
            z: zoom, 0 to ``DEEPEST``; at z there are 2^z tiles an axis.
            x: column, counted from the 180th meridian eastwards.
            y: row, counted from the north.
            prompt: position on the prompt axis.
            time: position on the time axis.
            layer: mask or score, in the values they are stored in, and ``PENDING``.
            size_px: of its sides.

        Returns:
            uint8 ``(y, x)``.

        Raises:
            QuestionError: there is no such tile.
            StoreError: a shard under it cannot be read.
        """
        longitude, latitude = centres(z, x, y, size_px)
        out = np.full((size_px, size_px), UNMAPPED, np.uint8)
        pixel = 2 * math.pi / (size_px << z)
        asked = _Asked(layer=layer, prompt=prompt, time=time)
        for zone in self._zones:
            for rows, columns, turn in zone.part_of(longitude, latitude):
                seen = self._look(zone, longitude[columns] + turn, latitude[rows], pixel, asked)
                out[rows, columns] = better(out[rows, columns], seen)
        return out

    def spot(self, longitude: float, latitude: float, *, time: int) -> Spot:
        """The finest values at a place in degrees.

        Raises:
            QuestionError: there is no such place.
            StoreError: a shard under it cannot be read.
        """
        if not (math.isfinite(longitude) and abs(latitude) <= 90):
            raise QuestionError("this is no place on Earth", fix="give degrees", lon=longitude, lat=latitude)
        prompts = range(len(self.mosaic.prompts))
        masks, scores = np.full((2, len(prompts)), UNMAPPED, np.uint8)
        source, crs = int(NO_SOURCE), ""
        wrapped = (np.array([longitude]) + 180) % 360 - 180
        for zone in self._zones:
            for _, _, turn in zone.part_of(wrapped, np.array([latitude])):
                row, column, inside = zone.pixels(wrapped + turn, np.array([latitude]))
                if not inside.all():
                    continue
                pixel = PixelBox(row.item(), column.item(), row.item() + 1, column.item() + 1)
                layers: tuple[tuple[Layer, NDArray[np.uint8]], ...] = (("mask", masks), ("score", scores))
                for name, values in layers:
                    here = [self.mosaic.layer(zone.grid, name, pixel, time=time, prompt=p).item() for p in prompts]
                    values[:] = better(values, np.array(here, np.uint8))
                if source == NO_SOURCE:
                    source = int(self.mosaic.layer(zone.grid, "source", pixel, time=time).item())
                    crs = zone.grid.lattice.crs if source != NO_SOURCE or not crs else crs
        return Spot(
            masks=tuple(masks.tolist()),
            scores=tuple(scores.tolist()),
            source=None if source == NO_SOURCE else source,
            crs=crs,
        )

    def stored_bounds(self, *, prompt: int, time: int) -> NDArray[np.float64]:
        """Where there is anything: west, south, east, north in degrees, a row a stored shard of the finest level.

        They are widened a little; east may be above 180.
        """
        found = [
            widened(zone.bounds_of(tile.core))
            for zone in self._zones
            for tile in zone.grid.tiles()
            if self.mosaic.is_stored(zone.grid, tile, time=time, prompt=prompt)
        ]
        return np.array(found, np.float64).reshape(-1, 4)

    def _look(
        self,
        zone: GridInDegrees,
        longitude: NDArray[np.float64],
        latitude: NDArray[np.float64],
        pixel: float,
        asked: _Asked,
    ) -> NDArray[np.uint8]:
        """``(y, x)``: what one zone says at the crossings of meridians and parallels."""
        row, column, inside = zone.crossings(longitude, latitude)
        out = np.full(row.size, UNMAPPED, np.uint8)
        level = zone.level_for(longitude[len(longitude) // 2], latitude[len(latitude) // 2], pixel)
        self._take(zone, level, (row, column), np.flatnonzero(inside), out, asked, level - DESCENT)
        return out.reshape(len(latitude), len(longitude))

    def _take(
        self,
        zone: GridInDegrees,
        number: int,
        pixels: tuple[NDArray[np.int64], NDArray[np.int64]],
        wanted: NDArray[np.intp],
        out: NDArray[np.uint8],
        asked: _Asked,
        deepest: int,
    ) -> None:
        """Fill the wanted places of ``out`` from one level, shard by shard, or from those under it."""
        if not wanted.size:
            return
        level = zone.levels[number]
        row, column = pixels[0][wanted] >> number, pixels[1][wanted] >> number
        for tile in level.tiles_in(_box_around(row, column)):
            core = tile.core
            here = (row >= core.top) & (row < core.bottom) & (column >= core.left) & (column < core.right)
            if not here.any():
                continue
            box = _box_around(row[here], column[here])
            if self._is_stored(level, box, asked):
                values = self.mosaic.layer(level, asked.layer, box, time=asked.time, prompt=asked.prompt)
                out[wanted[here]] = values[row[here] - box.top, column[here] - box.left]
            elif number and not self._known_above(zone, level, box, asked):
                if number > deepest:
                    self._take(zone, number - 1, pixels, wanted[here], out, asked, deepest)
                else:
                    out[wanted[here]] = PENDING

    def _known_above(self, zone: GridInDegrees, level: Grid, box: PixelBox, asked: _Asked) -> bool:
        """Whether a level above stands over these pixels: then all under it was looked at when it was built."""
        if self.growing:
            return False
        for above in zone.levels[level.level + 1 :]:
            box = box.halved()
            if self._is_stored(above, box, asked):
                return True
        return False

    def _is_stored(self, level: Grid, box: PixelBox, asked: _Asked) -> bool:
        """Whether a shard under the box is stored. What is stored once stays."""
        for tile in level.tiles_in(box):
            key = (level.path, tile.row, tile.column, asked.prompt, asked.time)
            if key in self._stored:
                return True
            if self.mosaic.is_stored(level, tile, time=asked.time, prompt=asked.prompt):
                self._stored.add(key)
                return True
        return False


def better(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of two answers about the same pixels the one that knows more: observed, else pending, unobserved, unmapped.

    Of two that know the same, the first.
    """
    return np.where(_ignorance(other) < _ignorance(one), other, one)


def _ignorance(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.maximum(values, PENDING - 1)


def _box_around(row: NDArray[np.int64], column: NDArray[np.int64]) -> PixelBox:
    return PixelBox(int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max()) + 1)


def centres(
    z: int, x: int, y: int, size_px: int = TILE_PX, *, margin_px: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes and latitudes of the middles of a tile's columns and rows, in degrees.

    Args:
        z: zoom; x and y as in ``WebTiles.tile``.
        x: column.
        y: row.
        size_px: of its sides.
        margin_px: so many columns and rows more on each side; longitudes go on beyond 180 there.

    Raises:
        QuestionError: there is no such tile.
    """
    if not (0 <= z <= DEEPEST and 0 <= x < 1 << z and 0 <= y < 1 << z):
        raise QuestionError("there is no such tile", fix=f"z is 0 to {DEEPEST}, x and y below 2^z", tile=f"{z}/{x}/{y}")
    share = (np.arange(-margin_px, size_px + margin_px) + 0.5) / (size_px << z)
    northing = math.pi * (1 - 2 * (share + y / (1 << z)))
    return 360 * (share + x / (1 << z)) - 180, np.degrees(np.arctan(np.sinh(northing)))


def map_bounds(zones: Sequence[GridInDegrees]) -> Bounds:
    """West, south, east, north of a map of these zones in degrees; all longitudes where it lies across the 180th
    meridian."""
    west, east = min(zone.bounds[0] for zone in zones), max(zone.bounds[2] for zone in zones)
    if west < -180 or east > 180:
        west, east = -180.0, 180.0
    south = max(min(zone.bounds[1] for zone in zones), -NORTHERNMOST)
    north = min(max(zone.bounds[3] for zone in zones), NORTHERNMOST)
    return west, south, east, north


def largest_zoom(zones: Sequence[GridInDegrees]) -> int:
    """The first zoom whose pixels (256 a tile) are nowhere larger than those of the zones."""
    tiles = max(zone.most_pixels_a_radian() for zone in zones) * 2 * math.pi / TILE_PX
    return min(math.ceil(math.log2(max(tiles, 1.0)) - 1e-6), DEEPEST)
