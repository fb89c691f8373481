"""Chance without a throw: hashes of whole numbers, and the smooth noise made of them.

The same key and place give the same number in every process and for every raster that shows the place.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
"""Values at points: colours, shares, short distances."""

Metres: TypeAlias = NDArray[np.float64]
"""Places in the plane, and whatever else needs 64 bits: half the Earth is 2 × 10⁷ m, a pixel 0.3 m."""

Hash: TypeAlias = NDArray[np.uint32]
Index: TypeAlias = NDArray[np.int64]
Bool: TypeAlias = NDArray[np.bool_]


KNOT_M = 10.0
"""Metres between the knots of ``Knots``."""


def key_of(*parts: int) -> int:
    """One 32-bit key from several integers."""
    h = 0x9E3779B9
    for part in parts:
        h = ((h ^ (part & 0xFFFFFFFF)) * 0x85EBCA6B + (part >> 32)) & 0xFFFFFFFF
        h = ((h ^ (h >> 15)) * 0xC2B2AE35) & 0xFFFFFFFF
        h ^= h >> 13
    return h


def hash_of(key: int, i: NDArray[np.integer], j: NDArray[np.integer]) -> Hash:
    """32 well mixed bits for each pair of integers (twice the finaliser "lowbias32", Chris Wellons, 2018)."""
    h = i.astype(np.uint32)
    h *= np.uint32(0x9E3779B1)
    h += np.uint32(key)
    mix(h)
    h ^= j.astype(np.uint32) * np.uint32(0x85EBCA77)
    return mix(h)


def mix(h: Hash) -> Hash:
    """Other bits that follow from these. Spoils and returns ``h``."""
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def unit(h: Hash) -> Float:
    """Hash → [0, 1)."""
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def uniforms(key: int, count: int) -> Metres:
    """So many numbers in [0, 1) that follow from the key."""
    return unit(hash_of(key, np.arange(count), np.zeros(count, np.int64))).astype(np.float64)


def centred(h: Hash) -> Float:
    """The low eight bits → -0.5..0.5."""
    return (h & np.uint32(255)).astype(np.float32) / np.float32(255) - np.float32(0.5)


def noise(x: Metres, y: Metres, size_m: float, key: int) -> Float:
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


def noise_slope(x: Metres, y: Metres, size_m: float, key: int) -> tuple[Float, Float, Float]:
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
        four = [unit(hash_of(key, p + a, q + b)) for b in (0, 1) for a in (0, 1)]
        return fu, fv, (four[0], four[1], four[2], four[3])
    table_i, table_j = np.meshgrid(np.arange(i0, i0 + wide), np.arange(j0, j0 + high))
    jj *= wide
    jj += ii
    return fu, fv, _corners(unit(hash_of(key, table_i, table_j)).ravel(), jj, wide)


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


class Knots:
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


def smooth(value: Float, low: float, high: float) -> Float:
    """0 below low, 1 above high, and a soft step between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
