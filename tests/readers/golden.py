"""A mosaic with known pixels, and the arithmetic by which every reader's answer is judged.

What a reader says of a place is compared with the run's own lattice, never with the attributes that the reader saw:
a transform that is wrong by a pixel on any level is found by whoever reads the values at a few hundred places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from mapper.grid import Grid
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from tests.stories.world import CORNER, World, mapped, merged

Layer: TypeAlias = Literal["mask", "score", "source"]

PROMPTS = [
    {"name": "building", "expression": "buildings with red roofs"},
    {"name": "water", "expression": "blue water"},
]
SHARD_PX, CHUNK_PX = 90, 45
"""Two goes into them once only: from level 2 on a box has odd edges, and a level begins one finer pixel early."""

JUNE = 0
"""Position of the month in which all four values are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in EPSG:32632 of which it is known what one prompt and time step must say, on level 0 to 2."""

    x: float
    y: float
    time: int
    prompt: int
    mask: int

    @property
    def lonlat(self) -> tuple[float, float]:
        """Longitude and latitude."""
        longitude, latitude = Transformer.from_crs(32632, "OGC:CRS84", always_xy=True).transform(self.x, self.y)
        return float(longitude), float(latitude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A mosaic made by a run, with all its levels."""

    path: Path
    places: tuple[Place, ...]
    """One for each of the four values of a mask."""

    @property
    def url(self) -> str:
        """As people write it."""
        return str(self.path)

    @property
    def mosaic(self) -> Mosaic:
        """Open for reading."""
        return Mosaic.open(self.url, writable=False)

    def grid(self, level: int = 0, tree: str = "") -> Grid:
        """A level of its only tree, or of one."""
        return next(grid for grid in self.mosaic.grids if grid.name == tree).pyramid()[level]

    def levels(self, tree: str = "") -> tuple[Grid, ...]:
        """All of a tree's, the finest first."""
        return self.grid(tree=tree).pyramid()

    def stored(self, layer: Layer, grid: Grid, *, time: int = 0, prompt: int = 0) -> NDArray[Any]:
        """One layer of one level, whole."""
        return self.mosaic.layer(grid, layer, grid.box, time=time, prompt=prompt)


def map_world(world: World, path: Path, **changes: Any) -> Path:
    """The whole ground, all levels."""
    mapped(world.job(path, **merged({"grid": {"shard_px": SHARD_PX, "chunk_px": CHUNK_PX}}, changes)))
    return path


def known_places(world: World, grid: Grid) -> tuple[Place, ...]:
    """One place for each value, from the imagery alone.

    The ground is in fields of 9 m: the pixel of level 2 around a field's middle, 4 m wide, lies in that field. At a
    window's corners the model takes 2 from (band - 128) / 32: above 200 it sees the colour, below 120 it does not.
    """
    with rasterio.open(world.files("west")["image"]) as file:
        red = file.read(1)[:396].reshape(44, 9, 40, 9)
    north_west = (slice(8, 20), slice(1, 10))  # west's alone, clear and far from an edge
    present = np.argwhere((red.min(axis=(1, 3)) > 200)[north_west])[0]
    absent = np.argwhere((red.max(axis=(1, 3)) < 120)[north_west])[0]
    x, y = CORNER
    ground = {
        PRESENT: (9 * (present[1] + 1) + 4.5, 9 * (present[0] + 8) + 4.5),
        ABSENT: (9 * (absent[1] + 1) + 4.5, 9 * (absent[0] + 8) + 4.5),
        UNOBSERVED: (150.0, 200.0),  # the middle of the cloud that only west looks at
    }
    left, _, _, top = grid.lattice.bounds(grid.box)
    return (
        *(Place(x=x + east, y=y - south, time=JUNE, prompt=0, mask=mask) for mask, (east, south) in ground.items()),
        Place(x=left + 1.5, y=top - 1.5, time=JUNE, prompt=0, mask=UNMAPPED),  # beyond the area, in its first shard
    )


def scattered(grid: Grid, number: int = 400) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places all over a grid, ``x`` and ``y`` in units of its CRS, half of them a twentieth of a pixel off an edge."""
    dice = np.random.default_rng(7)
    rows, columns = dice.integers(0, grid.shape[0], number), dice.integers(0, grid.shape[1], number)
    inside = np.where(dice.random((2, number)) < 0.5, 0.05, 0.95)
    x, y = grid.lattice.transform(grid.box) @ (columns + inside[0], rows + inside[1])
    return np.asarray(x), np.asarray(y)


def at(grid: Grid, layer: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
    """What a layer of a whole grid says at places, by the lattice's arithmetic."""
    boxes = [grid.lattice.pixels((left, top, left, top)) for left, top in zip(x, y, strict=True)]
    return np.array([layer[box.top - grid.box.top, box.left - grid.box.left] for box in boxes])


def by_transform(
    layer: NDArray[Any], transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[Any]:
    """What an array says at places, if the transform that came with it is to be believed."""
    columns, rows = ~transform @ (x, y)
    read: NDArray[Any] = layer[np.floor(rows).astype(int), np.floor(columns).astype(int)]
    return read


def steps(golden: Golden) -> Iterator[tuple[int, int]]:
    """Every prompt and time, by position."""
    for prompt in range(len(golden.mosaic.prompts)):
        for time in range(len(golden.mosaic.times)):
            yield prompt, time


def tile_around(place: Place, zoom: int = 16) -> tuple[int, int, int, int, int]:
    """The web tile a place lies in, as x, y and zoom, and the row and column of its pixel of 256 there."""
    longitude, latitude = place.lonlat
    x = (longitude / 360 + 0.5) * 2**zoom
    y = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2 * 2**zoom
    return int(x), int(y), zoom, int(y % 1 * 256), int(x % 1 * 256)
