"""A synthetic Earth: any place, any raster, any date, with exact truth. Needs no network and no data.

The world is a pure function of (seed, ground position, date). Nothing is stored and nothing is random at
draw time: whatever is there follows from hashes of the place, so two rasters that show the same ground show
the same things, whatever their CRS, resolution or cut::

    pixel centre ─► lon, lat ─► plane of its latitude band ─► covers  water · woods · parcels  (noise)
    (lattice of        (128 m                (metres true     things  roads · houses · halls   (cells of 1 km)
     the raster)        knots)                to 1 %)                    └─► truth, and the light on it ─► RGB

A sphere does not unroll, so the plane is cut into bands of half a degree of latitude; along a cut runs a
straight east-west road, as the correction lines of the American land survey do, and no house stands on it.

Here is what others import: the world, places in it and the demo. Each step of the way is a file, and each
reads only those above it::

    synthetic_noise     hashes, and smooth noise made of them
    synthetic_cover     bands of the plane; water, woods, parcels, where villages are
    synthetic_pixels    where a raster's pixels are; the camera's grain
    synthetic_light     the sun, the season, the colours of crops
    synthetic_things    roads, houses, ponds, cell by cell
    synthetic_trees     crowns, one by one
    synthetic_paint     all of it → RGB and truth of one block
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from catalogs.synthetic_catalog import (
    SCL_BARE,
    SCL_CLOUD,
    SCL_NODATA,
    SCL_SHADOW,
    SCL_THIN_CLOUD,
    SCL_VEGETATION,
    SCL_WATER,
    Picture,
    write_static_catalog,
)
from catalogs.synthetic_cover import (
    BAND_DEG,
    BUILDING,
    CLASSES,
    DEGREE_M,
    FIELD,
    LAKE,
    LAND,
    ROAD,
    WOODS,
    Band,
    nearest_village,
)
from catalogs.synthetic_light import Light
from catalogs.synthetic_noise import Float, Index, Knots, Metres, key_of, noise, smooth, uniforms
from catalogs.synthetic_paint import Painting
from catalogs.synthetic_pixels import PixelLattice, sense

__all__ = [
    "BUILDING",
    "CLASSES",
    "DEMO_AREA",
    "DEMO_DATES",
    "EARTH",
    "FIELD",
    "LAKE",
    "LAND",
    "ROAD",
    "WOODS",
    "DemoCatalog",
    "Scene",
    "World",
    "random_places",
    "utm_code",
    "write_demo_catalog",
]

BLOCK_PX = 256
"""Pixels along the side of what is drawn at once."""


@dataclass(frozen=True)
class Scene:
    """What a camera above the world sees, and what is there."""

    pixels: NDArray[np.uint8]
    """``(3, y, x)``: red, green, blue. Never 0: that value is left free to mean "not seen"."""

    truth: NDArray[np.uint8]
    """``(y, x)``: index into ``CLASSES`` of what lies at the pixel's centre."""


@dataclass(frozen=True)
class World:
    """One Earth. Another seed is another Earth."""

    seed: int = 7

    def draw(self, *, crs: str, transform: Affine, shape: tuple[int, int], date: datetime.date) -> Scene:
        """The picture and the truth of one raster.

        Args:
            crs: anything PROJ knows, projected or geographic.
            transform: array (column, row) → CRS (x, y) of a pixel's upper left corner.
            shape: rows, columns.
            date: season, sun, state of the crops, and which houses stand.
        """
        pixels = np.empty((3, *shape), np.uint8)
        truth = np.empty(shape, np.uint8)
        lattice = PixelLattice.of(crs, transform)
        for top in range(0, shape[0], BLOCK_PX):
            for left in range(0, shape[1], BLOCK_PX):
                rows = np.arange(top, min(top + BLOCK_PX, shape[0]))
                columns = np.arange(left, min(left + BLOCK_PX, shape[1]))
                where = np.s_[top : rows[-1] + 1, left : columns[-1] + 1]
                block = _draw_block(self.seed, lattice, rows, columns, date)
                pixels[:, where[0], where[1]] = block.pixels
                truth[where] = block.truth
        return Scene(pixels, truth)

    def sky(
        self, *, crs: str, transform: Affine, shape: tuple[int, int], date: datetime.date, cover: float
    ) -> tuple[Float, Float]:
        """Clouds over a raster and their shadows on it, each 0 none to 1 full, ``(y, x)``.

        Args:
            cover: about this share of the sky is cloud.
        """
        lattice = PixelLattice.of(crs, transform)
        lon, lat = lattice.lonlat(np.arange(shape[0]), np.arange(shape[1]))
        band = Band(self.seed, math.floor(float(lat[0, 0]) / BAND_DEG))
        light = Light.of(band, date)
        knots = Knots(
            lon * (DEGREE_M * np.cos(np.radians((np.floor(lat / BAND_DEG) + 0.5) * BAND_DEG))), lat * DEGREE_M
        )
        key = key_of(self.seed, 51, date.toordinal())

        def cloud(x: Metres, y: Metres) -> Float:
            billow = noise(x, y, 760, key) + 0.5 * noise(x, y, 290, key + 1)
            billow += 0.22 * noise(x, y, 110, key + 2) + 0.1 * noise(x, y, 45, key + 3)
            thick = smooth(billow, 1.36 - 0.9 * cover, 1.62 - 0.9 * cover)
            thick[thick < 0.02] = 0
            return thick

        drift = 230 * light.reach
        there = knots.spread(cloud(knots.x, knots.y))
        shade = knots.spread(cloud(knots.x + light.east * drift, knots.y + light.north * drift))
        return there, shade


EARTH = World()
"""The world of the demo."""


def random_places(
    count: int, *, seed: int = 0, world: World = EARTH, villages: float = 0.4
) -> list[tuple[float, float]]:
    """So many (lon, lat) to draw around, spread over the globe between 60° south and 70° north.

    Args:
        seed: another seed gives other places.
        villages: this share of them lies within 200 m of the middle of a village. Of ground taken blindly
            only one part in a hundred is built on, too little to learn from.
    """
    places = []
    low, high = math.sin(math.radians(-60)), math.sin(math.radians(70))
    for lon, lat, settled, east, north in uniforms(key_of(seed, 901), 5 * count).reshape(count, 5).tolist():
        lon, lat = 360 * lon - 180, math.degrees(math.asin(low + (high - low) * lat))
        if settled < villages:
            band = Band(world.seed, math.floor(lat / BAND_DEG))
            x, y = nearest_village(band, lon * band.degree_m, lat * DEGREE_M)
            lon, lat = (x + 400 * (east - 0.5)) / band.degree_m, (y + 400 * (north - 0.5)) / DEGREE_M
        places.append((lon, lat))
    return places


def utm_code(lon: float, lat: float) -> str:
    """The UTM zone of a place, as ``EPSG:326..`` in the north and ``EPSG:327..`` in the south."""
    zone = min(60, int((lon + 180) // 6) + 1)
    return f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"


DEMO_AREA = (11.9822, 55.4073, 12.0178, 55.4239)
"""Villages, woods and a lake on both sides of 12° E, where UTM zone 32 meets 33."""

DEMO_DATES = (datetime.date(2023, 5, 14), datetime.date(2023, 6, 21), datetime.date(2023, 8, 20))
"""Of the cloudy picture, the clear one and the one with a slanted edge; the same in both zones."""


@dataclass(frozen=True)
class DemoCatalog:
    """A written demo, and the truth about its ground."""

    catalog: Path
    """Of ``catalog.json``."""

    collection: str
    area: tuple[float, float, float, float]
    """West, south, east, north. Everywhere in it at least one item saw the ground, cloudless."""

    world: World

    def truth(
        self, *, crs: str, transform: Affine, shape: tuple[int, int], date: datetime.date = DEMO_DATES[1]
    ) -> NDArray[np.uint8]:
        """``(y, x)`` indices into ``CLASSES`` on any grid.

        Between the demo's dates only a shore moves by a metre or two, and a house or two is built.
        """
        return self.world.draw(crs=crs, transform=transform, shape=shape, date=date).truth


def write_demo_catalog(folder: Path, *, world: World = EARTH, resolution_m: float = 1.0) -> DemoCatalog:
    """Writes a small Earth: 2.2 × 1.9 km in two UTM zones, three dates in each, as a static STAC catalog.

    In each zone, from north to south (the items reach a little over 12° E, so the zones overlap too)::

        ┌──────────┐                  ┌──────────┐
        │  August  │ slanted edge     │          │   The cloudy one lies over the seam of the two clear ones.
        │      .-´ ├──────────┐  May, │          │
        ├───.-´    │          │ cloudy├──────────┤
        └──┴───────┤          │       │  June,   │
                   └──────────┘       │  clear   │
                                      └──────────┘
    """
    path = write_static_catalog(
        folder,
        collection="resmap-demo",
        title="resmap demo",
        description="A synthetic Earth with exact truth: villages, roads, fields, woods and water.",
        pictures=(picture for zone in (32, 33) for picture in _demo_pictures(world, zone, resolution_m)),
    )
    return DemoCatalog(path, "resmap-demo", DEMO_AREA, world)


def _draw_block(seed: int, lattice: PixelLattice, rows: Index, columns: Index, date: datetime.date) -> Scene:
    lon, lat = lattice.lonlat(rows, columns)
    bands = np.floor(lat / BAND_DEG).astype(np.int64)
    rgb = np.empty((3, *lon.shape), np.float32)
    truth = np.empty(lon.shape, np.uint8)
    for number in range(int(bands.min()), int(bands.max()) + 1):
        band = Band(seed, number)
        x, y = lon * band.degree_m, lat * DEGREE_M
        painted, found = Painting(band, x, y, lattice.pixel_m(band.latitude), date).finish()
        mine = bands == number
        rgb[:, mine], truth[mine] = painted[:, mine], found[mine]
    return Scene(sense(rgb, lattice, rows, columns, key_of(seed, date.toordinal(), lattice.salt)), truth)


def _demo_pictures(world: World, zone: int, resolution_m: float) -> Iterator[Picture]:
    west, south, east, north = DEMO_AREA
    border, reach = 12.0, 0.0010
    sides = (west, border + reach) if zone == 32 else (border - reach, east)
    crs = f"EPSG:326{zone}"
    to_utm = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    bounds = to_utm.transform_bounds(sides[0], south, sides[1], north)
    left, bottom, right, top = (
        (math.floor, math.ceil)[n // 2](value / resolution_m + (-2, 2)[n // 2]) for n, value in enumerate(bounds)
    )
    rows, columns = top - bottom, right - left
    plans = (("cloudy", 0.18, 0.78, 0.15), ("clear", 0.36, 1.0, 0.0), ("swath", 0.0, 0.62, 0.0))
    for (name, begin, end, cover), date in zip(plans, DEMO_DATES, strict=True):
        first, last = round(begin * rows), round(end * rows)
        transform = Affine(resolution_m, 0, left * resolution_m, 0, -resolution_m, (top - first) * resolution_m)
        size = last - first, columns
        scene = world.draw(crs=crs, transform=transform, shape=size, date=date)
        pixels, scl = scene.pixels, _clear_classes(scene.truth)
        if cover:
            sky = world.sky(crs=crs, transform=transform, shape=size, date=date, cover=cover)
            _overcast(pixels, scl, *sky)
        if name == "swath":
            down, across = np.ogrid[: size[0], : size[1]]
            unseen = down > size[0] * (0.98 - 0.32 * across / size[1])  # as the edge of an orbit's swath
            pixels[:, unseen], scl[unseen] = 0, SCL_NODATA
        moment = datetime.datetime(date.year, date.month, date.day, 10, 30, tzinfo=datetime.UTC)
        yield Picture(
            id=f"demo-{zone}-{date:%Y%m%d}-{name}",
            moment=moment,
            crs=crs,
            transform=transform,
            pixels=pixels,
            scl=scl,
        )


def _clear_classes(truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    green, bare, wet = SCL_VEGETATION, SCL_BARE, SCL_WATER
    return np.array([green, green, green, wet, bare, bare], np.uint8)[truth]


def _overcast(pixels: NDArray[np.uint8], scl: NDArray[np.uint8], cloud: Float, shade: Float) -> None:
    """Draws clouds and their shadows in place. Where neither is flagged, no pixel changes."""
    shadow = shade > 0.03
    veil = cloud > 0.01
    for band, tone in enumerate((226, 230, 236)):
        ground = pixels[band] * (1 - np.float32(0.55) * np.where(shadow, shade, 0))
        mixed = ground + np.where(veil, cloud, 0) * (np.float32(tone) - ground)
        changed = shadow | veil
        pixels[band][changed] = np.clip(mixed[changed] + 0.5, 1, 255).astype(np.uint8)
    scl[shadow] = SCL_SHADOW
    scl[veil] = SCL_THIN_CLOUD
    scl[cloud > 0.5] = SCL_CLOUD
