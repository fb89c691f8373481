"""Trees one by one, for pixels small enough to show a crown: where they stand, and how much of each covers a point."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from catalogs.synthetic_cover import Band, Farms
from catalogs.synthetic_light import Light
from catalogs.synthetic_noise import Bool, Float, Metres, centred, hash_of, mix, noise, unit
from catalogs.synthetic_things import Cell, add_ponds, built_over, inside_village_m

TREE_M = 5.6
"""Metres from one tree to the next where they stand thickest."""


@dataclass(frozen=True)
class Trees:
    """Crowns of one block: a table over the tree lattice."""

    i0: int
    j0: int
    wide: int
    x: Float
    y: Float
    radius: Float
    tint: Float

    @classmethod
    def over(
        cls,
        band: Band,
        date: datetime.date,
        near: tuple[float, float, float, float],
        cells: Sequence[Cell],
        houses: Iterable[Metres],
    ) -> Trees | None:
        """The trees between left, bottom, right and top, and a few more; None where there are none.

        Args:
            houses: all that could be in a tree's way, as rows of ``Cell.houses``.
        """
        i0, j0 = math.floor(near[0] / TREE_M) - 2, math.floor(near[1] / TREE_M) - 2
        i1, j1 = math.floor(near[2] / TREE_M) + 3, math.floor(near[3] / TREE_M) + 3
        i, j = np.meshgrid(np.arange(i0, i1), np.arange(j0, j1))
        h = hash_of(band.key(131), i, j)
        ox = np.float32(0.5) * (j & 1) + np.float32(0.5) + centred(h) * np.float32(0.6)
        oy = np.float32(0.5) + centred(h >> np.uint32(8)) * np.float32(0.6)
        x = np.asarray((i + ox.astype(np.float64)) * TREE_M, np.float64)
        y = np.asarray((j + oy.astype(np.float64)) * TREE_M, np.float64)
        village, water = inside_village_m(band, x, y, cells), band.water_m(x, y)
        add_ponds(water, band, date, x, y, cells)
        farm = Farms.at(band, x, y, date)
        grove = (farm.dice < 0.045) & (farm.edge_m > 2)
        woods = ((band.wooded(x, y) > 0) | grove) & (village < 0) & (water < -5)
        hedged = noise(x, y, 300, band.key(132))
        wish = np.where(village > 0, np.float32(0.11), np.float32(0.012))
        wish[(farm.edge_m < 1.5) & (village < 0) & (hedged > 0.52)] = 0.45
        wish[(farm.open > 0.36) & (farm.edge_m > 1.5) & (village < -6)] = 0.001
        wish[(water > -12) & (wish < 0.14)] = 0.14
        wish[woods] = 0.96
        wish[(water > -3) | built_over(x, y, houses)] = 0
        stands = unit(mix(h + np.uint32(9))) < wish
        if not stands.any():
            return None
        size = ((h >> np.uint32(16)) & np.uint32(255)).astype(np.float32) / 255
        radius = (np.float32(0.44) + np.float32(0.25) * size) * np.float32(TREE_M) * stands
        radius = np.where(woods, radius, radius * np.float32(0.75))
        mixed = noise(x, y, 170, band.key(133)) * np.float32(0.7) + unit(mix(h + np.uint32(5))) * np.float32(0.3)
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

    def cover(self, x: Metres, y: Metres, light: Light, pixel_m: np.float32) -> tuple[Float, Float, Float]:
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
        east, north = np.float32(0.55 * light.east), np.float32(0.55 * light.north)
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
        return np.clip(top / np.maximum(pixel_m, np.float32(0.7)), 0, 1), tint, glow


def leaf_colour(tint: Float, light: Light) -> list[Float]:
    """Tint below 0.35 is conifer; the rest turns with the year."""
    g, a = light.green, light.autumn
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
