"""What noise alone decides: water, woods, climate, parcels, and where villages are. Reads no roads and no houses."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from catalogs.synthetic_noise import (
    Float,
    Index,
    Metres,
    centred,
    hash_of,
    key_of,
    mix,
    noise,
    noise_slope,
    uniforms,
    unit,
)

CLASSES: tuple[str, ...] = ("land", "field", "woods", "lake", "road", "building")
"""What the ground is; a truth value is an index into it. Lake is all open water, rivers and ponds too."""

LAND, FIELD, WOODS, LAKE, ROAD, BUILDING = range(6)
"""The indices into ``CLASSES``, by name."""

BAND_DEG = 0.5
"""Degrees of latitude in a band of the plane."""

DEGREE_M = 111_320.0
"""Metres of a degree of latitude, and of one of longitude at the equator."""

NODE_M = 1000.0
"""Metres from one road node, and village if it has one, to the next: the side of a cell."""

FARM_M = 430.0
"""Metres from the middle of one farm to the next."""


@dataclass(frozen=True)
class Band:
    """One strip of the plane: half a degree of latitude, with its own metres and its own hashes."""

    seed: int
    number: int

    @property
    def latitude(self) -> float:
        """Of the band's middle, in degrees."""
        return (self.number + 0.5) * BAND_DEG

    @property
    def degree_m(self) -> float:
        """Metres of a degree of longitude."""
        return DEGREE_M * math.cos(math.radians(self.latitude))

    def key(self, *parts: int) -> int:
        """The key of the band's own chance for a purpose and a place."""
        return key_of(self.seed, self.number, *parts)

    def seam_m(self, y: Metres) -> Metres:
        """Distance to the nearer of the two cuts that bound the band."""
        return np.minimum(
            np.abs(y - self.number * BAND_DEG * DEGREE_M), np.abs((self.number + 1) * BAND_DEG * DEGREE_M - y)
        )

    def water_m(self, x: Metres, y: Metres) -> Float:
        """About how many metres inside open water; below zero on dry ground."""
        level = noise(x, y, 1500, self.key(1)) + 0.42 * noise(x, y, 620, self.key(2))
        level += 0.17 * noise(x, y, 230, self.key(3)) + 0.06 * noise(x, y, 85, self.key(4))
        lake = (level - np.float32(1.13)) * 420
        course, east, north = noise_slope(x, y, 3100, self.key(6))
        bend, bend_east, bend_north = noise_slope(x, y, 520, self.key(7))
        course = course + 0.14 * bend - np.float32(0.57)
        steep = np.sqrt((east + 0.14 * bend_east) ** 2 + (north + 0.14 * bend_north) ** 2) + np.float32(4e-5)
        river = 5 + 9 * noise(x, y, 900, self.key(8)) - np.abs(course) / steep
        return np.asarray(np.maximum(lake, river), np.float32)

    def wooded(self, x: Metres, y: Metres) -> Float:
        """Above 0 in woods; about 1/50 a metre at their edges."""
        level = noise(x, y, 820, self.key(11)) + 0.5 * noise(x, y, 310, self.key(12))
        level += 0.22 * noise(x, y, 110, self.key(13)) + 0.08 * noise(x, y, 38, self.key(14))
        return np.asarray(level - np.float32(1.12), np.float32)

    def dry(self, x: Metres, y: Metres) -> Float:
        """Climate, 0 lush to 1 parched: each band has its own, and it drifts over some kilometres."""
        own = np.float32(uniforms(self.key(15), 1)[0])
        return np.asarray(0.65 * noise(x, y, 6500, self.key(16)) + 0.35 * own, np.float32)

    def in_village(self, x: Metres, y: Metres, node: tuple[float, float], radius_m: float) -> Float:
        """Metres inside the ragged edge of a village, below zero outside."""
        ragged = np.float32(0.62) + np.float32(0.76) * noise(x, y, 260, self.key(17))
        away = np.hypot(x - node[0], y - node[1]).astype(np.float32)
        return np.asarray(np.float32(radius_m) * ragged - away, np.float32)


def node_at(band: Band, i: int, j: int) -> tuple[float, float]:
    """Metres east and north of the road node of cell ``i`` east, ``j`` north, in the band's plane."""
    a, b = uniforms(band.key(21, i, j), 2)
    return (i + 0.5 + 0.44 * (a - 0.5)) * NODE_M, (j + 0.5 + 0.44 * (b - 0.5)) * NODE_M


@lru_cache(maxsize=4096)
def village_radius_m(band: Band, i: int, j: int) -> float:
    """Radius of the village at a road node; 0 where there is none."""
    dice = uniforms(band.key(23, i, j), 2)
    x, y = node_at(band, i, j)
    if dice[0] > 0.62 or band.water_m(np.array([x]), np.array([y]))[0] > -30:
        return 0.0
    return float(160 + 230 * dice[1])


def nearest_village(band: Band, x: float, y: float) -> tuple[float, float]:
    """The node of a village near a point of the plane; the point itself where none is within 29 cells."""
    i, j = math.floor(x / NODE_M), math.floor(y / NODE_M)
    for ring in range(30):
        for di in range(-ring, ring + 1):
            for dj in range(-ring, ring + 1):
                if max(abs(di), abs(dj)) == ring and village_radius_m(band, i + di, j + dj):
                    return node_at(band, i + di, j + dj)
    return x, y


@dataclass(frozen=True)
class Farms:
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
    def at(cls, band: Band, x: Metres, y: Metres, date: datetime.date) -> Farms:
        """The farms at points of the plane, with what is sown in the year of a date."""
        u, v = x / FARM_M, y / FARM_M
        i, j = np.floor(u), np.floor(v)
        i0, j0 = int(i.min()) - 1, int(j.min()) - 1
        ii, jj = (i - i0).astype(np.int32), (j - j0).astype(np.int32)
        wide, high = int(ii.max()) + 2, int(jj.max()) + 2
        table_i, table_j = np.meshgrid(np.arange(i0, i0 + wide), np.arange(j0, j0 + high))
        dice = [unit(hash_of(band.key(121, n), table_i, table_j)).ravel() for n in range(6)]
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
        h = hash_of(band.key(122), strip.astype(np.int64) + identity, piece.astype(np.int64))
        sown = mix(h ^ np.uint32(key_of(date.year)))
        keep = (h >> np.uint32(30)) == 0  # one field in four stays grass or fallow from year to year
        crop = np.where(keep, np.array([3, 3, 6, 3])[h % 4], np.array([0, 0, 1, 2, 4, 5, 0, 3])[sown % 8])
        bits = mix(h + np.uint32(77))
        return cls(
            edge_m=np.minimum(edge, fence) - np.float32(0.4),
            across=across,
            open=dice[5][mine],
            dice=unit(h),
            tint=centred(bits) + np.float32(0.5),
            warmth=centred(bits >> np.uint32(8)) + np.float32(0.5),
            crop=crop,
        )
