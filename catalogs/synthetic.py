"""A synthetic Earth: any place, any raster, any date, with exact truth. Needs no network and no data.

The world is a pure function of (seed, ground position, date). Nothing is stored and nothing is random at
draw time: whatever is there follows from hashes of the place, so two rasters that show the same ground show
the same things, whatever their CRS, resolution or cut::

    pixel centre ─► lon, lat ─► plane of its latitude band ─► covers  water · woods · parcels  (noise)
    (lattice of        (128 m                (metres true     things  roads · houses · halls   (cells of 1 km)
     the raster)        knots)                to 1 %)                    └─► truth, and the light on it ─► RGB

A sphere does not unroll, so the plane is cut into bands of half a degree of latitude; along a cut runs a
straight east-west road, as the correction lines of the American land survey do, and no house stands on it.
"""

from __future__ import annotations

import datetime
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer

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

Float: TypeAlias = NDArray[np.float32]
Metres: TypeAlias = NDArray[np.float64]
Hash: TypeAlias = NDArray[np.uint32]
Index: TypeAlias = NDArray[np.int64]
Bool: TypeAlias = NDArray[np.bool_]

CLASSES: tuple[str, ...] = ("land", "field", "woods", "lake", "road", "building")
"""What the ground is; a truth value is an index into it. Lake is all open water, rivers and ponds too."""

LAND, FIELD, WOODS, LAKE, ROAD, BUILDING = range(6)

BAND_DEG = 0.5
DEGREE_M = 111_320.0
KNOT = 128.0
BLOCK_PX = 256
NODE_M = 1000.0
TREE_M = 5.6
FARM_M = 430.0
KNOT_M = 10.0
PAVED, DIRT = 0, 1


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
        lattice = _PixelLattice.of(crs, transform)
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
        lattice = _PixelLattice.of(crs, transform)
        lon, lat = lattice.lonlat(np.arange(shape[0]), np.arange(shape[1]))
        band = _Band(self.seed, math.floor(float(lat[0, 0]) / BAND_DEG))
        light = _Light.of(band, date)
        knots = _Knots(
            lon * (DEGREE_M * np.cos(np.radians((np.floor(lat / BAND_DEG) + 0.5) * BAND_DEG))), lat * DEGREE_M
        )
        key = _key(self.seed, 51, date.toordinal())

        def cloud(x: Metres, y: Metres) -> Float:
            billow = _noise(x, y, 760, key) + 0.5 * _noise(x, y, 290, key + 1)
            billow += 0.22 * _noise(x, y, 110, key + 2) + 0.1 * _noise(x, y, 45, key + 3)
            thick = _smooth(billow, 1.36 - 0.9 * cover, 1.62 - 0.9 * cover)
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
    for lon, lat, settled, east, north in _uniforms(_key(seed, 901), 5 * count).reshape(count, 5).tolist():
        lon, lat = 360 * lon - 180, math.degrees(math.asin(low + (high - low) * lat))
        if settled < villages:
            band = _Band(world.seed, math.floor(lat / BAND_DEG))
            x, y = _nearest_village(band, lon * band.degree_m, lat * DEGREE_M)
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


def _nearest_village(band: _Band, x: float, y: float) -> tuple[float, float]:
    i, j = math.floor(x / NODE_M), math.floor(y / NODE_M)
    for ring in range(30):
        for di in range(-ring, ring + 1):
            for dj in range(-ring, ring + 1):
                if max(abs(di), abs(dj)) == ring and _village_m(band, i + di, j + dj):
                    return _node(band, i + di, j + dj)
    return x, y


# ── from pixels to the plane ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _PixelLattice:
    """Positions that depend on the pixel alone and not on the corner of the array it is asked through.

    Two halves of one raster state their corners with different rounding; counting pixels from the CRS's own
    zero, and keeping the sub-pixel phase to a millionth, gives both the same floating-point numbers.
    """

    crs: CRS
    transform: Affine
    column0: int
    row0: int
    phase_x: float
    phase_y: float
    salt: int

    @classmethod
    def of(cls, crs: str, transform: Affine) -> _PixelLattice:
        a, e = transform.a, transform.e
        column0 = math.floor(transform.c / a + 0.123)  # no real raster has this phase, so no rounding flips it
        row0 = math.floor(transform.f / e + 0.123)
        phase_x = round(transform.c / a - column0, 6) * a
        phase_y = round(transform.f / e - row0, 6) * e
        return cls(CRS.from_user_input(crs), transform, column0, row0, phase_x, phase_y, zlib.crc32(crs.encode()))

    def lonlat(self, rows: Index, columns: Index) -> tuple[Metres, Metres]:
        """Longitude and latitude of pixel centres, each ``(y, x)``."""
        t = self.transform
        if t.b or t.d:
            across, down = np.meshgrid(columns + 0.5, rows + 0.5)
            x, y = t.a * across + t.b * down + t.c, t.d * across + t.e * down + t.f
            if self.crs.is_geographic:
                return x, y
            lon, lat = _to_lonlat(self.crs).transform(x.ravel(), y.ravel())
            return np.asarray(lon).reshape(x.shape), np.asarray(lat).reshape(x.shape)
        x1: Metres = (self.column0 + columns.astype(np.float64) + 0.5) * t.a + self.phase_x
        y1: Metres = (self.row0 + rows.astype(np.float64) + 0.5) * t.e + self.phase_y
        if self.crs.is_geographic:
            return np.broadcast_to(x1, (len(y1), len(x1))).copy(), np.repeat(y1[:, None], len(x1), 1)
        return self._by_knots(x1, y1)

    def _by_knots(self, x: Metres, y: Metres) -> tuple[Metres, Metres]:
        """Inverse projection at knots fixed on the ground, bilinear between: within 1 mm, far faster."""
        kx, ky = np.floor(x / KNOT), np.floor(y / KNOT)
        fx, fy = x / KNOT - kx, (y / KNOT - ky)[:, None]
        ix, iy = (kx - kx.min()).astype(np.int64), (ky - ky.min()).astype(np.int64)
        grid_x, grid_y = np.meshgrid(
            (kx.min() + np.arange(ix.max() + 2)) * KNOT, (ky.min() + np.arange(iy.max() + 2)) * KNOT
        )
        knots = _to_lonlat(self.crs).transform(grid_x.ravel(), grid_y.ravel())
        out = []
        for values in knots:
            k = np.asarray(values).reshape(grid_x.shape)
            along = k[:, ix] * (1 - fx) + k[:, ix + 1] * fx
            out.append(along[iy] * (1 - fy) + along[iy + 1] * fy)
        return out[0], out[1]

    def pixel_m(self, latitude: float) -> float:
        """Side of a pixel on the ground near a latitude, in metres. One number a band, so cuts agree."""
        t = self.transform
        side = math.sqrt(abs(t.a * t.e - t.b * t.d))
        if self.crs.is_geographic:
            return side * DEGREE_M * math.sqrt(math.cos(math.radians(latitude)))
        unit = float(self.crs.axis_info[0].unit_conversion_factor)
        mercator = self.crs.to_epsg() in {3857, 3395}
        return side * unit * (math.cos(math.radians(latitude)) if mercator else 1.0)


@lru_cache(maxsize=64)
def _to_lonlat(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _draw_block(seed: int, lattice: _PixelLattice, rows: Index, columns: Index, date: datetime.date) -> Scene:
    lon, lat = lattice.lonlat(rows, columns)
    bands = np.floor(lat / BAND_DEG).astype(np.int64)
    rgb = np.empty((3, *lon.shape), np.float32)
    truth = np.empty(lon.shape, np.uint8)
    for number in range(int(bands.min()), int(bands.max()) + 1):
        band = _Band(seed, number)
        x, y = lon * band.degree_m, lat * DEGREE_M
        painted, found = _Painting(band, x, y, lattice.pixel_m(band.latitude), date).finish()
        mine = bands == number
        rgb[:, mine], truth[mine] = painted[:, mine], found[mine]
    return Scene(_sense(rgb, lattice, rows, columns, _key(seed, date.toordinal(), lattice.salt)), truth)


def _sense(rgb: Float, lattice: _PixelLattice, rows: Index, columns: Index, key: int) -> NDArray[np.uint8]:
    """The camera: grain that differs from pixel to pixel and date to date, then eight bits, never 0."""
    row, column = np.meshgrid(rows + lattice.row0, columns + lattice.column0, indexing="ij")
    dice = _hash(key, column, row)
    out = np.empty(rgb.shape, np.uint8)
    common = ((dice & 255).astype(np.float32) + ((dice >> 8) & 255).astype(np.float32) - 255) / 110
    for band in range(3):
        own = ((dice >> (10 + 7 * band)) & 127).astype(np.float32) / 42 - 1.5
        out[band] = np.clip(rgb[band] + common + own + 0.5, 1, 255).astype(np.uint8)
    return out


# ── hashes and noise ────────────────────────────────────────────────────────────────────────────────────────


def _key(*parts: int) -> int:
    """One 32-bit key from several integers."""
    h = 0x9E3779B9
    for part in parts:
        h = ((h ^ (part & 0xFFFFFFFF)) * 0x85EBCA6B + (part >> 32)) & 0xFFFFFFFF
        h = ((h ^ (h >> 15)) * 0xC2B2AE35) & 0xFFFFFFFF
        h ^= h >> 13
    return h


def _hash(key: int, i: NDArray[np.integer], j: NDArray[np.integer]) -> Hash:
    """32 well mixed bits for each pair of integers (twice the finaliser "lowbias32", Chris Wellons, 2018)."""
    h = i.astype(np.uint32)
    h *= np.uint32(0x9E3779B1)
    h += np.uint32(key)
    _mix(h)
    h ^= j.astype(np.uint32) * np.uint32(0x85EBCA77)
    return _mix(h)


def _mix(h: Hash) -> Hash:
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def _unit(h: Hash) -> Float:
    """Hash → [0, 1)."""
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _uniforms(key: int, count: int) -> Metres:
    """So many numbers in [0, 1) that follow from the key."""
    return _unit(_hash(key, np.arange(count), np.zeros(count, np.int64))).astype(np.float64)


def _noise(x: Metres, y: Metres, size_m: float, key: int) -> Float:
    """Smooth noise in 0..1, bumps about ``size_m`` across: value noise on a lattice turned by the key."""
    fu, fv, (a, b, c, d) = _noise_cell(x, y, size_m, key)
    _ease(fu)
    _ease(fv)
    b -= a
    b *= fu
    b += a  # the lower edge
    d -= c
    d *= fu
    d += c  # the upper edge
    d -= b
    d *= fv
    d += b
    return d


def _ease(t: Float) -> None:
    """0..1 → 0..1 with flat ends, in place."""
    steep = t * np.float32(-2)
    steep += np.float32(3)
    t *= t
    t *= steep


def _noise_slope(x: Metres, y: Metres, size_m: float, key: int) -> tuple[Float, Float, Float]:
    """The same noise and its slope towards east and north, per metre."""
    fu, fv, (a, b, c, d) = _noise_cell(x, y, size_m, key)
    su, sv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    du, dv = 6 * fu * (1 - fu), 6 * fv * (1 - fv)
    twist = a - b - c + d
    value = a + (b - a) * su + (c - a) * sv + twist * su * sv
    slope_u = du * ((b - a) + twist * sv) / np.float32(size_m)
    slope_v = dv * ((c - a) + twist * su) / np.float32(size_m)
    cos, sin = (np.float32(part) for part in _turn(key))
    east = np.asarray(slope_u * cos - slope_v * sin, np.float32)
    north = np.asarray(slope_u * sin + slope_v * cos, np.float32)
    return value, east, north


def _turn(key: int) -> tuple[float, float]:
    angle = (key % 4096) * (math.pi / 2048)
    return math.cos(angle), math.sin(angle)


def _noise_cell(
    x: Metres, y: Metres, size_m: float, key: int
) -> tuple[Float, Float, tuple[Float, Float, Float, Float]]:
    """Place within the lattice cell, and the cell's four corner values (u: first axis). All fresh arrays."""
    cos, sin = (part / size_m for part in _turn(key))
    fu, i0, ii = _whole_and_part(x * cos + y * sin)
    fv, j0, jj = _whole_and_part(y * cos - x * sin)
    wide, high = int(ii.max()) + 2, int(jj.max()) + 2
    if wide * high > 2 * x.size + 4096:  # a cell smaller than a pixel: hash where needed
        p, q = ii + i0, jj + j0
        four = [_unit(_hash(key, p + a, q + b)) for b in (0, 1) for a in (0, 1)]
        return fu, fv, (four[0], four[1], four[2], four[3])
    table_i, table_j = np.meshgrid(np.arange(i0, i0 + wide), np.arange(j0, j0 + high))
    jj *= wide
    jj += ii
    return fu, fv, _corners(_unit(_hash(key, table_i, table_j)).ravel(), jj, wide)


def _whole_and_part(u: Metres) -> tuple[Float, int, Index]:
    """Fraction, least whole number, and whole numbers counted from it. Spoils ``u``."""
    whole = np.floor(u)
    u -= whole
    least = int(whole.min())
    whole -= least
    return u.astype(np.float32), least, whole.astype(np.int64)


def _corners(table: Float, at: Index, wide: int) -> tuple[Float, Float, Float, Float]:
    """Values at an index, one further, one row further, and both."""
    return table.take(at), table[1:].take(at), table[wide:].take(at), table[wide + 1 :].take(at)


class _Knots:
    """Slow fields by way of a lattice of the ground: worked out every ``KNOT_M`` metres, bilinear between.

    What has no detail below some tens of metres need not be worked out at every pixel. The knots belong to
    the ground and not to the raster, so this changes nothing about who sees what.
    """

    def __init__(self, x: Metres, y: Metres) -> None:
        self._fu, i0, at_i = _whole_and_part(x / KNOT_M)
        self._fv, j0, at_j = _whole_and_part(y / KNOT_M)
        self._wide, self._high = int(at_i.max()) + 2, int(at_j.max()) + 2
        self.x, self.y = np.meshgrid(np.arange(i0, i0 + self._wide) * KNOT_M, np.arange(j0, j0 + self._high) * KNOT_M)
        at_j *= self._wide
        at_j += at_i
        self._at = at_j

    def spread(self, values: Float) -> Float:
        """Values at the knots → values at the pixels."""
        a, b, c, d = _corners(values.ravel(), self._at, self._wide)
        b -= a
        b *= self._fu
        b += a
        d -= c
        d *= self._fu
        d += c
        d -= b
        d *= self._fv
        d += b
        return d


def _smooth(value: Float, low: float, high: float) -> Float:
    """0 below low, 1 above high, and a soft step between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


# ── covers: what noise alone decides ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Band:
    """One strip of the plane: half a degree of latitude, with its own metres and its own hashes."""

    seed: int
    number: int

    @property
    def latitude(self) -> float:
        return (self.number + 0.5) * BAND_DEG

    @property
    def degree_m(self) -> float:
        """Metres of a degree of longitude."""
        return DEGREE_M * math.cos(math.radians(self.latitude))

    def key(self, *parts: int) -> int:
        return _key(self.seed, self.number, *parts)

    def seam_m(self, y: Metres) -> Metres:
        """Distance to the nearer of the two cuts that bound the band."""
        return np.minimum(
            np.abs(y - self.number * BAND_DEG * DEGREE_M), np.abs((self.number + 1) * BAND_DEG * DEGREE_M - y)
        )

    def water_m(self, x: Metres, y: Metres) -> Float:
        """About how many metres inside open water; below zero on dry ground."""
        level = _noise(x, y, 1500, self.key(1)) + 0.42 * _noise(x, y, 620, self.key(2))
        level += 0.17 * _noise(x, y, 230, self.key(3)) + 0.06 * _noise(x, y, 85, self.key(4))
        lake = (level - np.float32(1.13)) * 420
        course, east, north = _noise_slope(x, y, 3100, self.key(6))
        bend, bend_east, bend_north = _noise_slope(x, y, 520, self.key(7))
        course = course + 0.14 * bend - np.float32(0.57)
        steep = np.sqrt((east + 0.14 * bend_east) ** 2 + (north + 0.14 * bend_north) ** 2) + np.float32(4e-5)
        river = 5 + 9 * _noise(x, y, 900, self.key(8)) - np.abs(course) / steep
        return np.asarray(np.maximum(lake, river), np.float32)

    def wooded(self, x: Metres, y: Metres) -> Float:
        """Above 0 in woods; about 1/50 a metre at their edges."""
        level = _noise(x, y, 820, self.key(11)) + 0.5 * _noise(x, y, 310, self.key(12))
        level += 0.22 * _noise(x, y, 110, self.key(13)) + 0.08 * _noise(x, y, 38, self.key(14))
        return np.asarray(level - np.float32(1.12), np.float32)

    def dry(self, x: Metres, y: Metres) -> Float:
        """Climate, 0 lush to 1 parched: each band has its own, and it drifts over some kilometres."""
        own = np.float32(_uniforms(self.key(15), 1)[0])
        return np.asarray(0.65 * _noise(x, y, 6500, self.key(16)) + 0.35 * own, np.float32)

    def in_village(self, x: Metres, y: Metres, node: tuple[float, float], radius_m: float) -> Float:
        """Metres inside the ragged edge of a village, below zero outside."""
        ragged = np.float32(0.62) + np.float32(0.76) * _noise(x, y, 260, self.key(17))
        away = np.hypot(x - node[0], y - node[1]).astype(np.float32)
        return np.asarray(np.float32(radius_m) * ragged - away, np.float32)


@lru_cache(maxsize=4096)
def _village_m(band: _Band, i: int, j: int) -> float:
    """Radius of the village at a road node; 0 where there is none."""
    dice = _uniforms(band.key(23, i, j), 2)
    x, y = _node(band, i, j)
    if dice[0] > 0.62 or band.water_m(np.array([x]), np.array([y]))[0] > -30:
        return 0.0
    return float(160 + 230 * dice[1])


# ── things: roads and houses, cell by cell ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Cell:
    """What belongs to one road node: it lies nearer to this node than to any other."""

    x: float
    y: float
    village_m: float
    """Radius of its village, 0 where it has none."""

    streets: Metres
    """``(n, 6)``: x0, y0, x1, y1, half width, kind."""

    houses: Metres
    """``(n, 12)``: x, y, cos, sin, half length, half width, height, style, dice, year built, and of the plot
    half length and half width."""

    ponds: Metres
    """``(n, 3)``: x, y, radius."""


def _node(band: _Band, i: int, j: int) -> tuple[float, float]:
    a, b = _uniforms(band.key(21, i, j), 2)
    return (i + 0.5 + 0.44 * (a - 0.5)) * NODE_M, (j + 0.5 + 0.44 * (b - 0.5)) * NODE_M


@lru_cache(maxsize=4096)
def _edges(band: _Band, i: int, j: int) -> Metres:
    """Road pieces from a node to its neighbours east, north and north-east: ``(n, 6)`` as in ``_Cell``."""
    pieces: list[Metres] = []
    start = np.array(_node(band, i, j))
    for way, (di, dj) in enumerate(((1, 0), (0, 1), (1, 1))):
        dice = _uniforms(band.key(22, i, j, way), 6)
        if dice[0] > (0.86, 0.86, 0.22)[way]:
            continue
        end = np.array(_node(band, i + di, j + dj))
        along = end - start
        side = np.array([-along[1], along[0]])
        t = np.linspace(0, 1, 17)[:, None]
        bow = (dice[1] - 0.5) * 0.34 * 4 * t * (1 - t) + 0.035 * (dice[2] - 0.5) * np.sin(2 * math.pi * t)
        line = start + along * t + side * bow
        fine = np.linspace(0, 16, 129)
        wet = band.water_m(np.interp(fine, range(17), line[:, 0]), np.interp(fine, range(17), line[:, 1])) > -4
        if _longest_run(wet) * float(np.hypot(*along)) / 128 > 75:  # longer than a bridge
            continue
        if (band.seam_m(line[:, 1]) < 1).any() or line[:, 1].min() < band.number * BAND_DEG * DEGREE_M:
            continue
        paved = way < 2 and dice[3] < 0.62
        half, kind = (3.1 + 1.7 * dice[4], PAVED) if paved else (2.5 + 0.5 * dice[4], DIRT)
        tail = np.tile([half, kind], (16, 1))
        for node, radius_m in ((start, _village_m(band, i, j)), (end, _village_m(band, i + di, j + dj))):
            tail[np.hypot(*(line[:-1] - node).T) < radius_m, 1] = PAVED
        pieces.append(np.hstack([line[:-1], line[1:], tail]))
    return np.vstack(pieces) if pieces else np.empty((0, 6))


def _longest_run(flags: Bool) -> int:
    longest = run = 0
    for flag in flags.tolist():
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


@lru_cache(maxsize=1024)
def _cell(band: _Band, i: int, j: int) -> _Cell:
    x, y = _node(band, i, j)
    others = np.array([_node(band, i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b])
    around = [_edges(band, i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    roads = np.vstack(around)
    dice = _uniforms(band.key(31, i, j), 12)
    village_m = _village_m(band, i, j)
    ground = _Ground(band, (x, y), others)
    streets = _streets(ground, village_m, roads, dice) if village_m else np.empty((0, 6))
    roads = np.vstack([roads, streets])
    ponds = _ponds(ground, roads, _uniforms(band.key(32, i, j), 20))
    wishes = [
        _halls(village_m, ground, dice, _uniforms(band.key(33, i, j), 90)),
        _farms(ground, roads[roads[:, 5] >= 0], village_m, _uniforms(band.key(34, i, j), 200)),
        _row_houses(streets, dice, band.key(35, i, j)),
    ]
    houses = np.vstack([wish for wish in wishes if len(wish)] or [np.empty((0, 12))])
    return _Cell(x, y, village_m, streets, _those_that_fit(houses, ground, roads, ponds), ponds)


@dataclass(frozen=True)
class _Ground:
    """Where a cell may build."""

    band: _Band
    node: tuple[float, float]
    others: Metres

    def free(self, x: Metres, y: Metres, *, dry_m: float, inner_m: float) -> Bool:
        """Dry by a margin, off the seams, and nearer to this node than to any other by a margin."""
        mine = np.hypot(x - self.node[0], y - self.node[1])
        theirs = np.hypot(x[..., None] - self.others[:, 0], y[..., None] - self.others[:, 1]).min(-1)
        dry = self.band.water_m(x.ravel(), y.ravel()).reshape(x.shape) < -dry_m
        return np.asarray(dry & (theirs - mine > inner_m) & (self.band.seam_m(y) > 45))


def _streets(ground: _Ground, village_m: float, roads: Metres, dice: Metres) -> Metres:
    """A grid of streets, bent a little, cut where it leaves the village or gets wet."""
    x, y = ground.node
    angle, gap, cross = math.pi * dice[2], 58 + 26 * dice[3], 110 + 90 * dice[4]
    step = 38.0
    span_m = 1.35 * village_m
    reach = math.ceil(span_m / step) * step
    along = np.arange(-reach, reach + 1, step)
    lines = []
    for v in np.arange(-math.floor(span_m / gap), math.floor(span_m / gap) + 1) * gap:
        lines.append(np.stack([along, np.full_like(along, v)], 1))
    for u in np.arange(-math.floor(span_m / cross), math.floor(span_m / cross) + 1) * cross:
        lines.append(np.stack([np.full_like(along, u), along], 1))
    pieces = []
    for line in lines:
        u, v = line[:, 0], line[:, 1]
        bent_u = u + 14 * np.sin(v / 97 + 6 * dice[5])
        bent_v = v + 18 * np.sin(u / 131 + 6 * dice[6])
        px = x + bent_u * math.cos(angle) - bent_v * math.sin(angle)
        py = y + bent_u * math.sin(angle) + bent_v * math.cos(angle)
        pieces.append(np.stack([px[:-1], py[:-1], px[1:], py[1:]], 1))
    all_pieces = np.vstack(pieces)
    ends = all_pieces.reshape(-1, 2)
    inside = ground.band.in_village(ends[:, 0], ends[:, 1], ground.node, village_m) > 22
    fine = (inside & ground.free(ends[:, 0], ends[:, 1], dry_m=22, inner_m=60)).reshape(-1, 2).all(1)
    middle = (all_pieces[:, :2] + all_pieces[:, 2:]) / 2
    keep = _unit(_hash(ground.band.key(36), (middle[:, 0] * 8).astype(np.int64), (middle[:, 1] * 8).astype(np.int64)))
    beside = (_road_gap_m(ends[:, 0], ends[:, 1], roads) < 15).reshape(-1, 2).all(1)
    all_pieces = all_pieces[fine & (keep < 0.95) & ~beside]
    return np.hstack([all_pieces, np.broadcast_to([2.6 + 0.6 * dice[7], PAVED], (len(all_pieces), 2))])


def _row_houses(streets: Metres, dice: Metres, key: int) -> Metres:
    """Two or three plots on each side of every piece of street."""
    wishes = []
    roll = _uniforms(key, len(streets) * 6 * 10).reshape(len(streets), 6, 10)
    pitch = 2 if dice[8] < 0.55 else 3
    for piece, rolls in zip(streets, roll, strict=True):
        dx, dy = piece[2] - piece[0], piece[3] - piece[1]
        length = math.hypot(dx, dy)
        dx, dy = dx / length, dy / length
        for slot in range(2 * pitch):
            side = 1 if slot % 2 else -1
            a = rolls[slot]
            if a[0] > 0.86:
                continue
            t = (slot // 2 + 0.5) / pitch * length
            plot = length / pitch / 2
            half_l = min(4.2 + 3.8 * a[1], plot - 1.2) if a[9] < 0.9 else plot * 0.98
            half_w = 4.0 + 2.6 * a[2]
            back = piece[4] + 4.5 + 5 * a[3] + half_w
            turn = math.atan2(dy, dx) + 0.10 * (a[4] - 0.5) + (math.pi / 2 if a[5] < 0.3 else 0)
            wishes.append(
                [
                    piece[0] + dx * t - dy * back * side,
                    piece[1] + dy * t + dx * back * side,
                    math.cos(turn),
                    math.sin(turn),
                    half_l,
                    half_w,
                    3.5 + 4.5 * a[6],
                    _house_style(dice[9], a[7]),
                    a[8],
                    _year_built(a[9], a[0]),
                    plot if a[5] >= 0.3 else 14.0,
                    14.0 if a[5] >= 0.3 else plot,
                ]
            )
    return np.array(wishes).reshape(-1, 12)


RED, BROWN, GREY, DARK, WHITE, PALE, BLUE, FLAT = range(8)


def _house_style(village: float, own: float) -> int:
    """Villages have a fashion, red tiles or grey, and everyone his own taste."""
    fashion = ((RED, RED, BROWN, GREY, DARK, PALE), (GREY, DARK, GREY, RED, WHITE, FLAT))[int(village > 0.62)]
    return fashion[int(own * 6)]


def _year_built(a: float, b: float) -> float:
    """Most of it old; one house in six was or will be built in the years of the satellites."""
    mixed = (a * 7.31 + b * 3.77) % 1.0
    return 1900 + 110 * mixed / 0.83 if mixed < 0.83 else 2014 + 18 * (mixed - 0.83) / 0.17


def _halls(village_m: float, ground: _Ground, dice: Metres, roll: Metres) -> Metres:
    """An industrial estate at the edge of a larger village: halls in two rows."""
    if village_m < 220 or dice[10] > 0.75:
        return np.empty((0, 12))
    away, turn = 2 * math.pi * dice[11], math.pi * dice[2]
    x0 = ground.node[0] + (village_m + 70) * math.cos(away)
    y0 = ground.node[1] + (village_m + 70) * math.sin(away)
    halls = []
    for n in range(8):
        a = roll[n * 10 : n * 10 + 10]
        u, v = (n % 4 - 1.5) * 74, (n // 4 - 0.5) * 62
        half_l, half_w = 14 + 18 * a[1], 10 + 11 * a[2]
        style = (WHITE, PALE, GREY, WHITE, FLAT, BLUE)[int(a[3] * 6)]
        halls.append(
            [
                x0 + u * math.cos(turn) - v * math.sin(turn),
                y0 + u * math.sin(turn) + v * math.cos(turn),
                math.cos(turn), math.sin(turn), half_l, half_w, 7 + 5 * a[4], style, a[5],
                _year_built(a[6], a[7]), 36, 30,
            ]
        )  # fmt: skip
    return np.array(halls)


def _farms(ground: _Ground, roads: Metres, village_m: float, roll: Metres) -> Metres:
    """Lone farmsteads by the roads outside the village: a house and barns about a yard."""
    middle = (roads[:, :2] + roads[:, 2:4]) / 2
    far = np.hypot(middle[:, 0] - ground.node[0], middle[:, 1] - ground.node[1])
    found = []
    places = np.flatnonzero((far > village_m + 90) & (far < 520))
    for n, place in enumerate(places.tolist()[:: max(1, len(places) // 8)][:9]):
        a = roll[n * 20 : n * 20 + 20]
        if a[0] > 0.33:
            continue
        piece = roads[place]
        turn = math.atan2(piece[3] - piece[1], piece[2] - piece[0])
        side = 1 if a[1] < 0.5 else -1
        x0 = middle[place, 0] - math.sin(turn) * side * 42
        y0 = middle[place, 1] + math.cos(turn) * side * 42
        turn += 0.5 * (a[2] - 0.5)
        for k, (u, v, across) in enumerate(((0, -24, 0), (-24, 2, 1), (24, 4, 1), (0, 27, 0))):
            b = a[4 + 4 * k : 8 + 4 * k]
            if b[0] > 0.85:
                continue
            face = turn + across * math.pi / 2
            half_l, half_w = (5.5 + 3 * b[1], 4.5 + 1.5 * b[2]) if k == 0 else (9 + 8 * b[1], 5 + 3.5 * b[2])
            style = (RED, BROWN, DARK, RED)[int(b[3] * 4)] if k == 0 else (PALE, RED, GREY, DARK)[int(b[3] * 4)]
            found.append(
                [
                    x0 + u * math.cos(turn) - v * math.sin(turn),
                    y0 + u * math.sin(turn) + v * math.cos(turn),
                    math.cos(face), math.sin(face), half_l, half_w, 4 + 4 * b[2], style, b[1],
                    _year_built(b[0], b[2]), half_l + 9, half_w + 10,
                ]
            )  # fmt: skip
    return np.array(found).reshape(-1, 12)


def _ponds(ground: _Ground, roads: Metres, roll: Metres) -> Metres:
    """Small round waters away from the roads."""
    x = ground.node[0] + 900 * (roll[0:6] - 0.5)
    y = ground.node[1] + 900 * (roll[6:12] - 0.5)
    radius = 9 + 26 * roll[12:18] ** 2
    clear = _road_gap_m(x, y, roads) > radius * 1.4 + 8
    keep = clear & ground.free(x, y, dry_m=0, inner_m=90) & (roll[12:18] > 0.25)
    return np.stack([x, y, radius], 1)[keep]


def _road_gap_m(x: Metres, y: Metres, roads: Metres) -> Metres:
    """From each point to the nearest road's edge."""
    if not len(roads):
        return np.full(x.shape, np.inf)
    x0, y0, x1, y1, half = (roads[:, k] for k in range(5))
    dx, dy = x1 - x0, y1 - y0
    px, py = x[..., None] - x0, y[..., None] - y0
    t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
    px -= t * dx
    py -= t * dy
    return np.asarray((np.sqrt(px * px + py * py) - half).min(-1))


def _those_that_fit(houses: Metres, ground: _Ground, roads: Metres, ponds: Metres) -> Metres:
    """Houses that stand dry, off the roads, in their own cell, in nobody's way. Earlier rows come first."""
    if not len(houses):
        return houses
    u = np.array([-1, 0, 1, -1, 0, 1, -1, 0, 1]) * (houses[:, 4:5] + 1)
    v = np.array([-1, -1, -1, 0, 0, 0, 1, 1, 1]) * (houses[:, 5:6] + 1)
    cos, sin = houses[:, 2:3], houses[:, 3:4]
    x, y = houses[:, 0:1] + u * cos - v * sin, houses[:, 1:2] + u * sin + v * cos
    fits: Bool = np.asarray(ground.free(x, y, dry_m=14, inner_m=20).all(1))
    near = roads[np.hypot(roads[:, 0] - ground.node[0], roads[:, 1] - ground.node[1]) < 900]
    reach = np.hypot(houses[:, 4] + 1, houses[:, 5] + 1)
    close = fits & (_road_gap_m(houses[:, 0], houses[:, 1], near) < reach + 3)  # the others need no closer look
    fits[close] = (_road_gap_m(x[close], y[close], near) > 2.2).all(1)
    for pond in ponds:
        fits &= np.hypot(x - pond[0], y - pond[1]).min(1) > pond[2] * 1.4 + 5
    return _apart(houses[fits])


def _apart(houses: Metres) -> Metres:
    """Drops each house that meets an earlier one that stays: separating axes, one metre between walls."""
    centre = houses[:, :2]
    reach = np.hypot(houses[:, 4], houses[:, 5]) + 0.5
    gap = np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1))
    one, two = np.nonzero(np.triu(gap < reach[:, None] + reach[None] + 1, 1))
    apart = np.zeros(len(one), bool)
    delta = centre[two] - centre[one]
    for frame in (one, two):
        for ax, ay in ((houses[frame, 2], houses[frame, 3]), (-houses[frame, 3], houses[frame, 2])):
            spread = np.zeros(len(one))
            for body in (one, two):
                cos, sin = houses[body, 2], houses[body, 3]
                spread += houses[body, 4] * np.abs(cos * ax + sin * ay)
                spread += houses[body, 5] * np.abs(cos * ay - sin * ax)
            apart |= np.abs(delta[:, 0] * ax + delta[:, 1] * ay) > spread + 1
    stays = np.ones(len(houses), bool)
    for first, second in zip(one[~apart].tolist(), two[~apart].tolist(), strict=True):
        if stays[first]:
            stays[second] = False
    return houses[stays]


# ── painting ────────────────────────────────────────────────────────────────────────────────────────────────

# Colours by month, first of January first; the year closes on itself.
CROPS: tuple[tuple[tuple[int, int, int], ...], ...] = (
    # winter wheat: green over winter, gold in July, stubble, ploughed
    ((112, 112, 74), (106, 112, 70), (96, 120, 64), (82, 124, 56), (74, 118, 52), (110, 126, 62),
     (186, 164, 98), (186, 164, 112), (150, 124, 92), (120, 96, 74), (114, 102, 72), (112, 108, 72)),
    # rape: yellow in May
    ((100, 112, 70), (98, 112, 68), (92, 118, 62), (118, 136, 56), (206, 190, 50), (128, 140, 66),
     (140, 128, 80), (156, 138, 100), (126, 102, 78), (104, 112, 66), (98, 116, 66), (98, 114, 68)),
    # maize: bare in spring, dark green in late summer
    ((126, 106, 84), (124, 104, 82), (126, 104, 80), (134, 108, 82), (136, 112, 82), (108, 116, 66),
     (70, 106, 48), (64, 98, 44), (104, 112, 58), (160, 142, 98), (132, 112, 86), (128, 108, 84)),
    # grass
    ((108, 114, 72), (106, 114, 70), (102, 122, 66), (94, 130, 60), (88, 128, 56), (98, 130, 62),
     (112, 130, 70), (120, 130, 74), (110, 126, 70), (104, 120, 68), (106, 116, 70), (108, 114, 72)),
    # beet and potato
    ((118, 98, 78), (116, 96, 76), (122, 98, 76), (140, 112, 86), (130, 114, 82), (86, 122, 58),
     (70, 116, 50), (68, 112, 48), (78, 112, 54), (110, 100, 70), (116, 96, 76), (116, 96, 76)),
    # spring barley
    ((120, 102, 80), (118, 100, 78), (130, 106, 82), (128, 116, 80), (92, 128, 60), (120, 138, 70),
     (200, 178, 116), (178, 156, 108), (140, 116, 88), (122, 98, 76), (118, 100, 78), (120, 102, 80)),
    # bare and fallow
    ((140, 118, 92), (138, 116, 90), (142, 118, 90), (150, 124, 94), (152, 128, 94), (146, 132, 92),
     (150, 136, 96), (158, 140, 102), (150, 126, 96), (142, 118, 92), (138, 116, 90), (138, 116, 90)),
)  # fmt: skip

ROOFS = np.array(
    [(164, 88, 64), (122, 78, 62), (118, 120, 124), (74, 73, 76), (218, 220, 222), (164, 158, 150),
     (104, 128, 158), (136, 132, 128)],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class _Light:
    """The day: where the sun stands and what the year has done to the plants."""

    east: float
    """Of the unit vector, on the ground, that points to the sun."""

    north: float
    reach: float
    """Metres of shadow for each metre of height."""

    green: float
    """0 in winter, 1 in early summer."""

    autumn: float
    """1 when the leaves turn."""

    month: float
    """0 at the first of January of the north; half a year off in the south."""

    @classmethod
    def of(cls, band: _Band, date: datetime.date) -> _Light:
        year = date.timetuple().tm_yday / 365.25
        local = (year + (0.5 if band.latitude < 0 else 0)) % 1
        declination = -23.4 * math.cos(2 * math.pi * (year + 10 / 365.25))
        noon = 90 - abs(band.latitude - declination)
        elevation = math.radians(min(68.0, max(24.0, noon - 7)))
        dice = _uniforms(_key(band.seed, 41, date.toordinal()), 2)
        azimuth = math.radians((148 if band.latitude >= declination else 32) + 24 * (dice[0] - 0.5))
        return cls(
            east=math.sin(azimuth),
            north=math.cos(azimuth),
            reach=1 / math.tan(elevation),
            green=max(0.0, min(1.0, 0.5 - 0.62 * math.cos(2 * math.pi * (local - 0.02)))),
            autumn=max(0.0, 1 - abs(local - 0.80) / 0.09),
            month=12 * local,
        )


class _Painting:
    """One block of one band: layers from the ground up, each over the last."""

    def __init__(self, band: _Band, x: Metres, y: Metres, pixel_m: float, date: datetime.date) -> None:
        self.band, self.x, self.y, self.pixel_m, self.date = band, x, y, np.float32(pixel_m), date
        self.light = _Light.of(band, date)
        self.rgb = np.empty((3, *x.shape), np.float32)
        self.truth = np.zeros(x.shape, np.uint8)
        self.knots = _Knots(x, y)
        self._to_pixels = self._inverse()

    def finish(self) -> tuple[Float, NDArray[np.uint8]]:
        """RGB float32 ``(3, y, x)`` and truth ``(y, x)``."""
        cells = list(self._cells())
        knots = self.knots
        village = knots.spread(self._village(knots.x, knots.y, cells))
        frayed = _noise(self.x, self.y, 9, self.band.key(52)) - np.float32(0.5)
        water = knots.spread(self.band.water_m(knots.x, knots.y)) + np.float32(3.5) * frayed
        self._add_ponds(water, self.x, self.y, cells)
        self._paint_land(water)
        verge, road_edge, road_kind = self._roads(cells)
        self._paint_fields_and_woods(village, water, verge, frayed)
        self._paint_lots(cells)
        self._paint_trees(cells)
        self._paint_water(water)
        self._paint_roads(road_edge, road_kind)
        self._paint_houses(cells)
        self._light_up()
        return self.rgb, self.truth

    # where things are

    def _inverse(self) -> NDArray[np.float64]:
        """Plane → (column, row) of this block, good to a pixel: enough to find a thing's window."""
        rows, columns = self.x.shape
        right, down = max(1, columns - 1), max(1, rows - 1)
        forward = np.array(
            [
                [(self.x[0, -1] - self.x[0, 0]) / right, (self.x[-1, 0] - self.x[0, 0]) / down, self.x[0, 0]],
                [(self.y[0, -1] - self.y[0, 0]) / right, (self.y[-1, 0] - self.y[0, 0]) / down, self.y[0, 0]],
                [0, 0, 1],
            ]
        )
        side = float(self.pixel_m)
        if columns == 1:
            forward[:2, 0] = side, 0
        if rows == 1:
            forward[:2, 1] = 0, -side
        return np.asarray(np.linalg.inv(forward))

    def _window(self, x: float, y: float, reach_m: float) -> tuple[slice, slice] | None:
        """The pixels within reach of a point, and a few more; None where the block has none of them."""
        m = self._to_pixels
        column = m[0, 0] * x + m[0, 1] * y + m[0, 2]
        row = m[1, 0] * x + m[1, 1] * y + m[1, 2]
        reach = reach_m / float(self.pixel_m) * 1.03 + 3
        top, bottom = max(0, math.floor(row - reach)), min(self.x.shape[0], math.ceil(row + reach) + 1)
        left, right = max(0, math.floor(column - reach)), min(self.x.shape[1], math.ceil(column + reach) + 1)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def _near(self, margin_m: float) -> tuple[float, float, float, float]:
        return (
            float(self.x.min()) - margin_m, float(self.y.min()) - margin_m,
            float(self.x.max()) + margin_m, float(self.y.max()) + margin_m,
        )  # fmt: skip

    def _cells(self) -> Iterator[_Cell]:
        left, bottom, right, top = self._near(720)
        for i in range(math.floor(left / NODE_M), math.floor(right / NODE_M) + 1):
            for j in range(math.floor(bottom / NODE_M), math.floor(top / NODE_M) + 1):
                x, y = _node(self.band, i, j)
                if left < x < right and bottom < y < top:
                    yield _cell(self.band, i, j)

    def _tide_m(self) -> float:
        """Lakes stand a little higher in spring; up to 3 m of shore."""
        year = self.date.timetuple().tm_yday / 365.25
        wet_year = float(_uniforms(_key(self.band.seed, 42, self.date.year), 1)[0])
        return 1.6 * math.sin(2 * math.pi * year) + 1.4 * (wet_year - 0.5)

    def _village(self, x: Metres, y: Metres, cells: list[_Cell]) -> Float:
        """Metres inside the nearest village's ragged edge, below zero outside."""
        inside = np.full(x.shape, -1e4, np.float32)
        for cell in cells:
            if cell.village_m:
                np.maximum(inside, self.band.in_village(x, y, (cell.x, cell.y), cell.village_m), out=inside)
        return inside

    def _add_ponds(self, depth: Float, x: Metres, y: Metres, cells: list[_Cell]) -> None:
        """Raises metres inside water by the ponds and by the stand of the day, in place."""
        depth += np.float32(self._tide_m())
        left, bottom, right, top = float(x.min()), float(y.min()), float(x.max()), float(y.max())
        wobble: Float | None = None
        for pond in np.vstack([cell.ponds for cell in cells] or [np.empty((0, 3))]):
            reach = 1.5 * pond[2] + 20
            if left - reach < pond[0] < right + reach and bottom - reach < pond[1] < top + reach:
                if wobble is None:
                    wobble = _noise(x, y, 22, self.band.key(91)) * np.float32(0.7) + np.float32(0.65)
                dx, dy = (x - pond[0]).astype(np.float32), (y - pond[1]).astype(np.float32)
                np.maximum(depth, np.float32(pond[2]) * wobble - np.sqrt(dx * dx + dy * dy), out=depth)

    # layers

    def _over(
        self,
        colour: Float | tuple[float, float, float],
        alpha: Float,
        where: tuple[slice, slice] = np.s_[:, :],
    ) -> None:
        for band in range(3):
            part = self.rgb[band][where]
            part += alpha * (colour[band] - part)

    def _paint_land(self, water: Float) -> None:
        """Grass, heath and bare ground, mottled at every scale; sand and rushes by water."""
        x, y, key = self.knots.x, self.knots.y, self.band.key
        dry = _noise(x, y, 240, key(61)) * 0.6 + _noise(x, y, 60, key(62)) * 0.4
        patch = _smooth(dry + np.float32(0.55) * (self.band.dry(x, y) - np.float32(0.45)), 0.38, 0.86)
        patch = self.knots.spread(patch)
        g = self.light.green
        lush = (114 - 18 * g, 112 + 4 * g, 78 - 14 * g)
        mottle = self._texture(((14, 63, 10.0), (5, 64, 7.0), (1.6, 65, 6.0), (0.7, 66, 5.0)))
        for band, bare in enumerate((152, 137, 101)):
            self.rgb[band] = patch * np.float32(bare - lush[band]) + (mottle + np.float32(lush[band]))
        if water.max() > -16:
            self._over((92, 104, 62), _smooth(water, -16, -3) * np.float32(0.5))
            beach = self.knots.spread(_smooth(_noise(x, y, 180, key(67)), 0.45, 0.6))
            self._over((176, 162, 124), _smooth(water, -7, -1) * (np.float32(0.35) + np.float32(0.6) * beach))

    def _texture(self, octaves: tuple[tuple[float, int, float], ...]) -> Float:
        """Sum of (size in metres, key, amplitude); what is finer than a pixel is averaged away."""
        total = np.zeros(self.x.shape, np.float32)
        for size_m, key, amplitude in octaves:
            seen = min(1.0, size_m / float(self.pixel_m) / 1.5)
            if seen > 0.3:
                wave = _noise(self.x, self.y, size_m, self.band.key(key))
                wave -= np.float32(0.5)
                wave *= np.float32(2 * amplitude * seen)
                total += wave
        return total

    def _paint_fields_and_woods(self, village: Float, water: Float, verge: Float, frayed: Float) -> None:
        farm = _Farms.at(self.band, self.x, self.y, self.date)
        x, y = self.knots.x, self.knots.y
        woods = self.knots.spread(self.band.wooded(x, y)) + np.float32(0.03) * frayed
        grove = farm.dice < 0.045
        wooded = ((woods > 0) | (grove & (farm.edge_m > 2))) & (village < 0) & (water < -5) & (verge > 0.5)
        tilled = (farm.open > 0.36) & (farm.dice < 0.93) & ~grove
        field = tilled & (farm.edge_m > 1.2) & ~wooded & (village < -6) & (water < -9) & (verge > 1.5)
        alpha = np.clip(farm.edge_m / np.maximum(self.pixel_m, 0.8), 0, 1) * field
        colours = _crop_colours(self.light.month)
        shade = 22 * (farm.tint - np.float32(0.5)) + self._furrows(farm)
        warm = 14 * (farm.warmth - np.float32(0.5)) + self.knots.spread(
            26 * _noise(x, y, 5200, self.band.key(75)) - np.float32(13)
        )
        parched = self.knots.spread(np.float32(0.34) * self.band.dry(x, y))
        crop = farm.crop
        for band in range(3):
            colour = colours[:, band][crop]
            colour = colour + parched * (np.float32((170, 148, 108)[band]) - colour) + shade
            colour += warm if band == 0 else -warm if band == 2 else np.float32(0)
            self.rgb[band] += alpha * (colour - self.rgb[band])
        self.truth[field] = FIELD
        g, a = self.light.green, self.light.autumn
        floor = (64 - 16 * g + 34 * a, 68 - 10 * g + 8 * a, 46.0)
        self._over(floor, wooded.astype(np.float32))
        self.truth[wooded] = WOODS

    def _furrows(self, farm: _Farms) -> Float:
        """Patches of better soil, tramlines, furrows."""
        x, y, key = self.knots.x, self.knots.y, self.band.key
        soil = 18 * _noise(x, y, 120, key(71)) + 10 * _noise(x, y, 40, key(72)) - np.float32(14)
        shade = self._texture(((4, 73, 3.0), (1.2, 74, 4.0))) + self.knots.spread(soil)
        px = float(self.pixel_m)
        if px < 2.5:
            lane = np.abs((farm.across / 21) % 1 - 0.5) * 21
            track = np.clip(1.1 - np.abs(lane - 0.95) / max(0.45, px), 0, 1) * (farm.tint > 0.3)
            shade -= np.float32(13 * min(1.0, 0.7 / px)) * track.astype(np.float32)
        if px < 1.1:
            wave = np.abs((farm.across / (1.1 + 1.9 * (farm.tint > 0.55))) % 1 - 0.5).astype(np.float32)
            shade += (wave - np.float32(0.25)) * np.float32(22 * (1.1 - px))
        return shade

    def _paint_lots(self, cells: list[_Cell]) -> None:
        """The plot of each house: lawn, gravel, or earth while it is being built."""
        year = self.date.year + self.date.timetuple().tm_yday / 366
        coarse = float(self.pixel_m) > 4
        for house in self._houses(cells):
            if coarse and house[4] <= 9:
                continue  # a garden in a village: grass on grass, and land already
            reach = math.hypot(house[10], house[11])
            where = self._window(house[0], house[1], reach)
            if where is None or year < house[9] - 1:
                continue
            u, v = self._local(house, where)
            edge = np.minimum(np.float32(house[10]) - np.abs(u), np.float32(house[11]) - np.abs(v))
            alpha = np.clip(edge / self.pixel_m + 0.5, 0, 1)
            dice = house[8]
            if year < house[9]:
                colour, strength = (158.0, 132.0, 102.0), 0.9
            elif house[4] > 9:
                colour, strength = (156.0 + 20 * dice, 150.0 + 18 * dice, 140.0 + 14 * dice), 0.85
            else:
                g = self.light.green
                colour = (110 - 22 * g + 26 * dice, 116 + 12 * g + 8 * dice, 72 - 12 * g + 14 * dice)
                strength = 0.7
            self._over(colour, np.asarray(np.float32(strength) * alpha, np.float32), where)
            hedge = np.clip(1 - np.abs(edge - 0.6) / max(0.7, float(self.pixel_m)), 0, 1)
            if house[4] <= 9 and dice > 0.35:
                strength = 0.75 * min(1.0, 1.2 / float(self.pixel_m))
                self._over((66, 84, 48), np.asarray(strength * hedge, np.float32), where)
            land = self.truth[where]
            land[edge > 0] = LAND

    def _houses(self, cells: list[_Cell]) -> Iterator[Metres]:
        left, bottom, right, top = self._near(60)
        for cell in cells:
            h = cell.houses
            yield from h[(h[:, 0] > left) & (h[:, 0] < right) & (h[:, 1] > bottom) & (h[:, 1] < top)]

    def _built_over(self, x: Metres, y: Metres, cells: list[_Cell]) -> Bool:
        """Where walls stand or will stand, and yards are kept free: no place for a tree."""
        taken = np.zeros(x.shape, bool)
        for house in self._houses(cells):
            dx, dy = x - house[0], y - house[1]
            u, v = np.abs(dx * house[2] + dy * house[3]), np.abs(dy * house[2] - dx * house[3])
            yard = house[4] > 9
            taken |= (u < (house[10] if yard else house[4] + 1.5)) & (v < (house[11] if yard else house[5] + 1.5))
        return taken

    def _local(self, thing: Metres, where: tuple[slice, slice]) -> tuple[Float, Float]:
        """Pixel places in a thing's own axes, metres from its centre."""
        dx = (self.x[where] - thing[0]).astype(np.float32)
        dy = (self.y[where] - thing[1]).astype(np.float32)
        cos, sin = np.float32(thing[2]), np.float32(thing[3])
        return dx * cos + dy * sin, dy * cos - dx * sin

    def _paint_trees(self, cells: list[_Cell]) -> None:
        """Crowns on a jittered lattice, thick in woods, sparse in gardens and hedges; and their shadows."""
        if float(self.pixel_m) > 4:
            coarse = self._texture(((18, 81, 12.0), (45, 82, 10.0))) - 2
            woods = (self.truth == WOODS).astype(np.float32)
            tone = self._leaf_colour(self.knots.spread(_noise(self.knots.x, self.knots.y, 60, self.band.key(83))))
            for band in range(3):
                self.rgb[band] += woods * (tone[band] * 0.80 + coarse - self.rgb[band])
            return
        throw = min(4.0 * self.light.reach, 6.0)
        trees = _Trees.over(self, self._near(throw + 2 * TREE_M), cells)
        if trees is None:
            return
        x, y = self.x + self.light.east * throw, self.y + self.light.north * throw
        at = np.flatnonzero(trees.near(x, y) & (self.truth != WOODS))  # under the canopy all is shade anyway
        dark = np.float32(0.45) * trees.cover(x.ravel()[at], y.ravel()[at], self)[0]
        flat = self.rgb.reshape(3, -1)
        for band, shade in enumerate((30, 38, 34)):
            flat[band, at] += dark * (np.float32(shade) - flat[band, at])
        at = np.flatnonzero(trees.near(self.x, self.y))
        crown, tint, glow = trees.cover(self.x.ravel()[at], self.y.ravel()[at], self)
        relief = np.float32(0.88) + np.float32(0.44) * glow
        grain = self._texture(((1.3, 84, 12.0), (0.6, 85, 12.0))).ravel()[at]
        for band, leaf in enumerate(self._leaf_colour(tint)):
            flat[band, at] += crown * (leaf * relief + grain - flat[band, at])

    def _leaf_colour(self, tint: Float) -> list[Float]:
        """Tint below 0.35 is conifer; the rest turns with the year."""
        g, a = self.light.green, self.light.autumn
        leafy = tint > np.float32(0.35)
        spread = (tint - np.float32(0.5)) * 30
        bare = np.array([104, 94, 76], np.float32)
        full = np.array([68, 92, 46], np.float32)
        rust = np.array([148, 104, 48], np.float32)
        leaf = bare + (full - bare) * min(1.0, 1.5 * g)
        turned = np.clip(np.float32(1.9 * a) - tint * 37 % 1, 0, 1)
        pine = np.array([48, 68, 46], np.float32)
        return [
            np.where(leafy, leaf[b] + (rust[b] - leaf[b]) * turned + spread, pine[b] + spread * np.float32(0.7))
            for b in range(3)
        ]

    def _paint_water(self, depth: Float) -> None:
        if not (depth > -2 * self.pixel_m).any():
            return
        x, y = self.knots.x, self.knots.y
        tone = self.knots.spread(_smooth(_noise(x, y, 2600, self.band.key(92)), 0.35, 0.65))
        silt = self.knots.spread(0.6 * _smooth(_noise(x, y, 1700, self.band.key(93)), 0.5, 0.75))
        deep = _smooth(depth, 0, 26)
        ripple = self._texture(((9, 94, 1.5), (2.5, 95, 1.5)))
        alpha = np.clip(depth / self.pixel_m + np.float32(0.5), 0, 1)
        for band, (blue, green, brown) in enumerate(((34, 62, 92), (56, 78, 84), (74, 66, 62))):
            colour = np.float32(blue) + np.float32(green - blue) * tone
            colour += (np.float32(brown) - colour) * silt
            colour = colour + (1 - deep) * np.float32((24, 24, 12)[band]) + ripple
            self.rgb[band] += alpha * (colour - self.rgb[band])
        self.truth[depth > 0] = LAKE

    def _roads(self, cells: list[_Cell]) -> tuple[Float, Float, NDArray[np.uint8]]:
        """Metres to the nearest road's edge (for verges; below zero on it), the same again, and its kind."""
        edge = np.full(self.x.shape, 99, np.float32)
        kind = np.zeros(self.x.shape, np.uint8)
        left, bottom, right, top = self._near(20)
        pieces = [cell.streets for cell in cells]
        for i in range(math.floor(left / NODE_M) - 2, math.floor(right / NODE_M) + 2):
            for j in range(math.floor(bottom / NODE_M) - 2, math.floor(top / NODE_M) + 2):
                pieces.append(_edges(self.band, i, j))
        r = np.vstack(pieces)
        near = (np.maximum(r[:, 0], r[:, 2]) > left) & (np.minimum(r[:, 0], r[:, 2]) < right)
        near &= (np.maximum(r[:, 1], r[:, 3]) > bottom) & (np.minimum(r[:, 1], r[:, 3]) < top)
        for x0, y0, x1, y1, half, what in r[near].tolist():
            dx, dy = x1 - x0, y1 - y0
            where = self._window((x0 + x1) / 2, (y0 + y1) / 2, math.hypot(dx, dy) / 2 + half + 6)
            if where is None:
                continue
            px, py = (self.x[where] - x0).astype(np.float32), (self.y[where] - y0).astype(np.float32)
            t = np.clip((px * np.float32(dx) + py * np.float32(dy)) / np.float32(dx * dx + dy * dy), 0, 1)
            px -= t * np.float32(dx)
            py -= t * np.float32(dy)
            gap = np.sqrt(px * px + py * py) - np.float32(half)
            part = edge[where]
            closer = gap < part
            part[closer] = gap[closer]
            kind[where][closer] = what
        seam = (self.band.seam_m(self.y) - 4).astype(np.float32)
        kind[seam < edge] = PAVED
        np.minimum(edge, seam, out=edge)
        return edge, edge, kind

    def _paint_roads(self, edge: Float, kind: NDArray[np.uint8]) -> None:
        if not (edge < 6).any():
            return
        worn = self.knots.spread(_noise(self.knots.x, self.knots.y, 130, self.band.key(101)))
        grain = self._texture(((6, 102, 4.0), (1.5, 103, 4.0)))
        verge = np.clip(1 - edge / 2.2, 0, 1) * np.float32(0.5)
        self._over((150, 142, 108), verge)
        alpha = np.clip(np.float32(0.5) - edge / self.pixel_m, 0, 1)
        dirt = kind == DIRT
        for band in range(3):
            paved = np.float32((122, 122, 122)[band]) + 40 * (worn - np.float32(0.45))
            earth = np.float32((178, 158, 122)[band]) + 30 * (worn - np.float32(0.5))
            self.rgb[band] += alpha * (np.where(dirt, earth, paved) + grain - self.rgb[band])
        self.truth[edge < 0] = ROAD

    def _paint_houses(self, cells: list[_Cell]) -> None:
        year = self.date.year + self.date.timetuple().tm_yday / 366
        standing = [house for house in self._houses(cells) if house[9] <= year]
        for house in standing if float(self.pixel_m) < 5 else ():  # beyond, a shadow is part of its pixel
            self._paint_shadow(house)
        for house in standing:
            self._paint_roof(house)

    def _paint_shadow(self, house: Metres) -> None:
        throw = min(float(house[6]) * self.light.reach, 26.0)
        where = self._window(house[0], house[1], math.hypot(house[4], house[5]) + throw)
        if where is None:
            return
        u, v = self._local(house, where)
        cos, sin = house[2], house[3]
        # The shadow is the footprint swept away from the sun: some t in 0..1 brings the point back onto it.
        su = -(self.light.east * cos + self.light.north * sin) * throw
        sv = -(self.light.north * cos - self.light.east * sin) * throw
        low, high = np.zeros_like(u), np.ones_like(u)
        for place, half, sweep in ((u, house[4], su), (v, house[5], sv)):
            sweep = math.copysign(max(abs(sweep), 0.05), sweep)
            a, b = (
                (place - np.float32(half)) / np.float32(sweep),
                (place + np.float32(half)) / np.float32(sweep),
            )
            np.maximum(low, np.minimum(a, b), out=low)
            np.minimum(high, np.maximum(a, b), out=high)
        dark = np.clip((high - low) * np.float32(throw) / self.pixel_m, 0, 1) * np.float32(0.56)
        self._over((26, 32, 44), dark, where)

    def _paint_roof(self, house: Metres) -> None:
        a, b, dice = np.float32(house[4]), np.float32(house[5]), float(house[8])
        where = self._window(house[0], house[1], math.hypot(a, b))
        if where is None:
            return
        u, v = self._local(house, where)
        style = int(house[7])
        cover_u = np.clip((a - np.abs(u)) / self.pixel_m + np.float32(0.5), 0, 1)
        cover_v = np.clip((b - np.abs(v)) / self.pixel_m + np.float32(0.5), 0, 1)
        thin = min(1.0, float(2 * a / self.pixel_m)) * min(1.0, float(2 * b / self.pixel_m))
        alpha = cover_u * cover_v * np.float32(thin)
        pitched = style not in (FLAT, WHITE) or house[4] < 9
        towards = float(self.light.north * house[2] - self.light.east * house[3])
        slope = 0.20 * towards * self.light.reach**0.5 if pitched else 0.03 * towards
        lit = np.float32(1) + np.clip(v / self.pixel_m, -1, 1) * np.float32(slope)
        rib = np.abs((u / np.float32(0.9 if pitched else 2.4)) % 1 - np.float32(0.5)) - np.float32(0.25)
        lit += rib * np.float32(0.16 * min(1.0, 0.5 / float(self.pixel_m)))
        worn = (np.float32(dice) - np.float32(0.5)) * 34
        colour = ROOFS[style]
        for band in range(3):
            part = self.rgb[band][where]
            part += alpha * ((colour[band] + worn) * lit - part)
        self.truth[where][(np.abs(u) < a) & (np.abs(v) < b)] = BUILDING

    def _light_up(self) -> None:
        """Relief, the day's exposure and its haze."""
        x, y = self.knots.x, self.knots.y
        _, east, north = _noise_slope(x, y, 700, self.band.key(111))
        _, east2, north2 = _noise_slope(x, y, 190, self.band.key(112))
        facing = (46 * east + 9 * east2) * np.float32(self.light.east)
        facing += (46 * north + 9 * north2) * np.float32(self.light.north)
        slope = self.knots.spread(facing)
        slope[self.truth == LAKE] = 0
        dice = _uniforms(_key(self.band.seed, 43, self.date.toordinal()), 5)
        gain = 0.94 + 0.16 * dice[0] - 0.06 * (1 - self.light.green)
        haze = 0.03 + 0.10 * dice[1] ** 2
        for band in range(3):
            cast = 1 + 0.05 * (dice[2 + band] - 0.5)
            part = self.rgb[band]
            part *= (1 - 1.6 * slope) * np.float32(gain * cast * (1 - haze))
            part += np.float32((176, 186, 200)[band] * haze)


def _crop_colours(month: float) -> Float:
    table = np.array(CROPS, np.float32)
    now, part = int(month) % 12, np.float32(month % 1)
    return np.asarray(table[:, now] * (1 - part) + table[:, (now + 1) % 12] * part, np.float32)


@dataclass(frozen=True)
class _Farms:
    """Whose land a point is: farms are Voronoi cells, each cut into strips its own way."""

    edge_m: Float
    """To the nearest parcel's edge."""

    across: Metres
    """Metres across the furrows."""

    open: Float
    """Farm land above 0.36, meadow below."""

    dice: Float
    tint: Float
    warmth: Float
    crop: Index

    @classmethod
    def at(cls, band: _Band, x: Metres, y: Metres, date: datetime.date) -> _Farms:
        u, v = x / FARM_M, y / FARM_M
        i, j = np.floor(u), np.floor(v)
        i0, j0 = int(i.min()) - 1, int(j.min()) - 1
        ii, jj = (i - i0).astype(np.int32), (j - j0).astype(np.int32)
        wide, high = int(ii.max()) + 2, int(jj.max()) + 2
        table_i, table_j = np.meshgrid(np.arange(i0, i0 + wide), np.arange(j0, j0 + high))
        dice = [_unit(_hash(band.key(121, n), table_i, table_j)).ravel() for n in range(6)]
        fu, fv = (u - i).astype(np.float32), (v - j).astype(np.float32)
        best = np.full(x.shape, 9, np.float32)
        second = best.copy()
        mine = np.zeros(x.shape, np.int32)
        for dj in (-1, 0, 1):
            for di in (-1, 0, 1):
                at = (jj + dj) * wide + (ii + di)
                du = fu - (di + np.float32(0.15) + np.float32(0.7) * dice[0][at])
                dv = fv - (dj + np.float32(0.15) + np.float32(0.7) * dice[1][at])
                far = du * du + dv * dv
                closer = far < best
                second = np.where(closer, best, np.minimum(second, far))
                best = np.where(closer, far, best)
                mine = np.where(closer, at, mine)
        fence = (np.sqrt(second) - np.sqrt(best)) * np.float32(FARM_M * 0.6) - 2
        angle = dice[2].astype(np.float64) * math.pi
        cos, sin = np.cos(angle)[mine], np.sin(angle)[mine]
        across, along = x * cos + y * sin, y * cos - x * sin
        wide_m, long_m = (
            (55 + 110 * dice[3].astype(np.float64))[mine],
            (140 + 260 * dice[4].astype(np.float64))[mine],
        )
        a, b = across / wide_m, along / long_m
        strip, piece = np.floor(a), np.floor(b)
        fa, fb = (a - strip) - 0.5, (b - piece) - 0.5
        edge = np.minimum((0.5 - np.abs(fa)) * wide_m, (0.5 - np.abs(fb)) * long_m).astype(np.float32)
        identity = (table_i * 7919 + table_j * 104729).ravel()[mine]
        h = _hash(band.key(122), strip.astype(np.int64) + identity, piece.astype(np.int64))
        sown = _mix(h ^ np.uint32(_key(date.year)))
        keep = (h >> np.uint32(30)) == 0  # one field in four stays grass or fallow from year to year
        crop = np.where(keep, np.array([3, 3, 6, 3])[h % 4], np.array([0, 0, 1, 2, 4, 5, 0, 3])[sown % 8])
        bits = _mix(h + np.uint32(77))
        return cls(
            edge_m=np.minimum(edge, fence) - np.float32(0.4),
            across=across,
            open=dice[5][mine],
            dice=_unit(h),
            tint=_spread(bits) + np.float32(0.5),
            warmth=_spread(bits >> np.uint32(8)) + np.float32(0.5),
            crop=crop,
        )


@dataclass(frozen=True)
class _Trees:
    """Crowns of one block: a table over the tree lattice."""

    i0: int
    j0: int
    wide: int
    x: Float
    y: Float
    radius: Float
    tint: Float

    @classmethod
    def over(cls, painting: _Painting, near: tuple[float, float, float, float], cells: list[_Cell]) -> _Trees | None:
        band = painting.band
        i0, j0 = math.floor(near[0] / TREE_M) - 2, math.floor(near[1] / TREE_M) - 2
        i1, j1 = math.floor(near[2] / TREE_M) + 3, math.floor(near[3] / TREE_M) + 3
        i, j = np.meshgrid(np.arange(i0, i1), np.arange(j0, j1))
        h = _hash(band.key(131), i, j)
        ox = np.float32(0.5) * (j & 1) + np.float32(0.5) + _spread(h) * np.float32(0.6)
        oy = np.float32(0.5) + _spread(h >> np.uint32(8)) * np.float32(0.6)
        x = np.asarray((i + ox.astype(np.float64)) * TREE_M, np.float64)
        y = np.asarray((j + oy.astype(np.float64)) * TREE_M, np.float64)
        village, water = painting._village(x, y, cells), band.water_m(x, y)
        painting._add_ponds(water, x, y, cells)
        farm = _Farms.at(band, x, y, painting.date)
        grove = (farm.dice < 0.045) & (farm.edge_m > 2)
        woods = ((band.wooded(x, y) > 0) | grove) & (village < 0) & (water < -5)
        hedged = _noise(x, y, 300, band.key(132))
        wish = np.where(village > 0, np.float32(0.11), np.float32(0.012))
        wish[(farm.edge_m < 1.5) & (village < 0) & (hedged > 0.52)] = 0.45
        wish[(farm.open > 0.36) & (farm.edge_m > 1.5) & (village < -6)] = 0.001
        wish[(water > -12) & (wish < 0.14)] = 0.14
        wish[woods] = 0.96
        wish[(water > -3) | painting._built_over(x, y, cells)] = 0
        stands = _unit(_mix(h + np.uint32(9))) < wish
        if not stands.any():
            return None
        size = ((h >> np.uint32(16)) & np.uint32(255)).astype(np.float32) / 255
        radius = (np.float32(0.44) + np.float32(0.25) * size) * np.float32(TREE_M) * stands
        radius = np.where(woods, radius, radius * np.float32(0.75))
        mixed = _noise(x, y, 170, band.key(133)) * np.float32(0.7) + _unit(_mix(h + np.uint32(5))) * np.float32(0.3)
        return cls(
            i0, j0, i1 - i0, ox.ravel(), oy.ravel(), radius.astype(np.float32).ravel(),
            np.asarray(0.5 + (mixed - 0.5) * 1.6, np.float32).ravel(),
        )  # fmt: skip

    def near(self, x: Metres, y: Metres) -> Bool:
        """Whether any crown could be over a point."""
        stands = (self.radius > 0).reshape(-1, self.wide)
        some = stands.copy()
        for axis, step in (
            (0, 1),
            (0, -1),
            (1, 1),
            (1, -1),
        ):  # crowns of the next cells reach in; a row shift is half
            some |= np.roll(some, step, axis)
        i, j = (
            np.floor(x / TREE_M).astype(np.int64) - self.i0,
            np.floor(y / TREE_M).astype(np.int64) - self.j0,
        )
        return some.ravel().take(j * self.wide + i)

    def cover(self, x: Metres, y: Metres, painting: _Painting) -> tuple[Float, Float, Float]:
        """How much crown (0..1) is over each point, the tint of the topmost, and what light it throws back.

        Odd rows of the lattice are shifted by half a step, and a crown reaches 0.69 of a step with its trunk
        up to 0.3 off its place, so the two nearest of each of three rows are all that can cover a point.
        """
        u, v = x / TREE_M, y / TREE_M
        j = np.floor(v)
        fv = (v - j).astype(np.float32)
        row0 = j.astype(np.int64)
        top = np.zeros(x.shape, np.float32)
        tint = np.zeros(x.shape, np.float32)
        glow = np.zeros(x.shape, np.float32)
        if not x.size:
            return top, tint, glow
        east, north = np.float32(0.55 * painting.light.east), np.float32(0.55 * painting.light.north)
        for dj in (-1, 0, 1):
            row = row0 + dj
            left = np.floor(u - 0.5 - 0.5 * (row & 1))
            fu = (u - left).astype(np.float32)
            at0 = ((row - self.j0) * self.wide + (left.astype(np.int64) - self.i0)).astype(np.int32)
            for di in (0, 1):
                at = at0 + di
                dx = (fu - di - self.x[at]) * np.float32(TREE_M)
                dy = (fv - dj - self.y[at]) * np.float32(TREE_M)
                r = self.radius[at]
                height = r - np.sqrt(dx * dx + dy * dy)
                higher = height > top
                top = np.where(higher, height, top)
                tint = np.where(higher, self.tint[at], tint)
                glow = np.where(
                    higher,
                    (dx * east + dy * north + height * np.float32(0.4)) / np.maximum(r, np.float32(1)),
                    glow,
                )
        return np.clip(top / np.maximum(painting.pixel_m, np.float32(0.7)), 0, 1), tint, glow


def _spread(h: Hash) -> Float:
    """The low eight bits → -0.5..0.5."""
    return (h & np.uint32(255)).astype(np.float32) / np.float32(255) - np.float32(0.5)
