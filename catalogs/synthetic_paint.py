"""The picture and the truth of one block of pixels, painted layer over layer from the ground up."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from catalogs.synthetic_cover import BUILDING, FIELD, LAKE, LAND, NODE_M, ROAD, WOODS, Band, Farms, node_at
from catalogs.synthetic_light import Light, crop_colours
from catalogs.synthetic_noise import Float, Knots, Metres, key_of, noise, noise_slope, smooth, uniforms
from catalogs.synthetic_things import (
    DIRT,
    FLAT,
    PAVED,
    ROOFS,
    WHITE,
    Cell,
    add_ponds,
    cell_at,
    edges_at,
    houses_near,
    inside_village_m,
)
from catalogs.synthetic_trees import TREE_M, Trees, leaf_colour


class Painting:
    """One block of one band: layers from the ground up, each over the last."""

    def __init__(self, band: Band, x: Metres, y: Metres, pixel_m: float, date: datetime.date) -> None:
        self.band, self.x, self.y, self.pixel_m, self.date = band, x, y, np.float32(pixel_m), date
        self.light = Light.of(band, date)
        self.rgb = np.empty((3, *x.shape), np.float32)
        self.truth = np.zeros(x.shape, np.uint8)
        self.knots = Knots(x, y)
        self._to_pixels = self._inverse()

    def finish(self) -> tuple[Float, NDArray[np.uint8]]:
        """RGB float32 ``(3, y, x)`` and truth ``(y, x)``."""
        cells = list(self._cells())
        knots = self.knots
        village = knots.spread(inside_village_m(self.band, knots.x, knots.y, cells))
        frayed = noise(self.x, self.y, 9, self.band.key(52)) - np.float32(0.5)
        water = knots.spread(self.band.water_m(knots.x, knots.y)) + np.float32(3.5) * frayed
        add_ponds(water, self.band, self.date, self.x, self.y, cells)
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

    def _cells(self) -> Iterator[Cell]:
        left, bottom, right, top = self._near(720)
        for i in range(math.floor(left / NODE_M), math.floor(right / NODE_M) + 1):
            for j in range(math.floor(bottom / NODE_M), math.floor(top / NODE_M) + 1):
                x, y = node_at(self.band, i, j)
                if left < x < right and bottom < y < top:
                    yield cell_at(self.band, i, j)

    def _houses(self, cells: list[Cell]) -> Iterator[Metres]:
        return houses_near(cells, self._near(60))

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
        dry = noise(x, y, 240, key(61)) * 0.6 + noise(x, y, 60, key(62)) * 0.4
        patch = smooth(dry + np.float32(0.55) * (self.band.dry(x, y) - np.float32(0.45)), 0.38, 0.86)
        patch = self.knots.spread(patch)
        g = self.light.green
        lush = (114 - 18 * g, 112 + 4 * g, 78 - 14 * g)
        mottle = self._texture(((14, 63, 10.0), (5, 64, 7.0), (1.6, 65, 6.0), (0.7, 66, 5.0)))
        for band, bare in enumerate((152, 137, 101)):
            self.rgb[band] = patch * np.float32(bare - lush[band]) + (mottle + np.float32(lush[band]))
        if water.max() > -16:
            self._over((92, 104, 62), smooth(water, -16, -3) * np.float32(0.5))
            beach = self.knots.spread(smooth(noise(x, y, 180, key(67)), 0.45, 0.6))
            self._over((176, 162, 124), smooth(water, -7, -1) * (np.float32(0.35) + np.float32(0.6) * beach))

    def _texture(self, octaves: tuple[tuple[float, int, float], ...]) -> Float:
        """Sum of (size in metres, key, amplitude); what is finer than a pixel is averaged away."""
        total = np.zeros(self.x.shape, np.float32)
        for size_m, key, amplitude in octaves:
            seen = min(1.0, size_m / float(self.pixel_m) / 1.5)
            if seen > 0.3:
                wave = noise(self.x, self.y, size_m, self.band.key(key))
                wave -= np.float32(0.5)
                wave *= np.float32(2 * amplitude * seen)
                total += wave
        return total

    def _paint_fields_and_woods(self, village: Float, water: Float, verge: Float, frayed: Float) -> None:
        farm = Farms.at(self.band, self.x, self.y, self.date)
        x, y = self.knots.x, self.knots.y
        woods = self.knots.spread(self.band.wooded(x, y)) + np.float32(0.03) * frayed
        grove = farm.dice < 0.045
        wooded = ((woods > 0) | (grove & (farm.edge_m > 2))) & (village < 0) & (water < -5) & (verge > 0.5)
        tilled = (farm.open > 0.36) & (farm.dice < 0.93) & ~grove
        field = tilled & (farm.edge_m > 1.2) & ~wooded & (village < -6) & (water < -9) & (verge > 1.5)
        alpha = np.clip(farm.edge_m / np.maximum(self.pixel_m, 0.8), 0, 1) * field
        colours = crop_colours(self.light.month)
        shade = 22 * (farm.tint - np.float32(0.5)) + self._furrows(farm)
        warm = 14 * (farm.warmth - np.float32(0.5)) + self.knots.spread(
            26 * noise(x, y, 5200, self.band.key(75)) - np.float32(13)
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

    def _furrows(self, farm: Farms) -> Float:
        """Patches of better soil, tramlines, furrows."""
        x, y, key = self.knots.x, self.knots.y, self.band.key
        soil = 18 * noise(x, y, 120, key(71)) + 10 * noise(x, y, 40, key(72)) - np.float32(14)
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

    def _paint_lots(self, cells: list[Cell]) -> None:
        """The plot of each house: lawn, gravel, or earth while it is being built."""
        year = self.date.year + self.date.timetuple().tm_yday / 366
        coarse = float(self.pixel_m) > 4
        for house in self._houses(cells):
            reach = math.hypot(house[10], house[11])
            where = self._window(house[0], house[1], reach)
            if where is None or year < house[9] - 1:
                continue
            u, v = self._local(house, where)
            edge = np.minimum(np.float32(house[10]) - np.abs(u), np.float32(house[11]) - np.abs(v))
            land = self.truth[where]
            land[edge > 0] = LAND
            if coarse and house[4] <= 9:
                continue  # a garden a few pixels wide: grass on grass
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

    def _local(self, thing: Metres, where: tuple[slice, slice]) -> tuple[Float, Float]:
        """Pixel places in a thing's own axes, metres from its centre."""
        dx = (self.x[where] - thing[0]).astype(np.float32)
        dy = (self.y[where] - thing[1]).astype(np.float32)
        cos, sin = np.float32(thing[2]), np.float32(thing[3])
        return dx * cos + dy * sin, dy * cos - dx * sin

    def _paint_trees(self, cells: list[Cell]) -> None:
        """Crowns on a jittered lattice, thick in woods, sparse in gardens and hedges; and their shadows."""
        if float(self.pixel_m) > 4:
            coarse = self._texture(((18, 81, 12.0), (45, 82, 10.0))) - 2
            woods = (self.truth == WOODS).astype(np.float32)
            tone = leaf_colour(self.knots.spread(noise(self.knots.x, self.knots.y, 60, self.band.key(83))), self.light)
            for band in range(3):
                self.rgb[band] += woods * (tone[band] * 0.80 + coarse - self.rgb[band])
            return
        throw = min(4.0 * self.light.reach, 6.0)
        trees = Trees.over(self.band, self.date, self._near(throw + 2 * TREE_M), cells, self._houses(cells))
        if trees is None:
            return
        x, y = self.x + self.light.east * throw, self.y + self.light.north * throw
        at = np.flatnonzero(trees.near(x, y) & (self.truth != WOODS))  # under the canopy all is shade anyway
        dark = np.float32(0.45) * trees.cover(x.ravel()[at], y.ravel()[at], self.light, self.pixel_m)[0]
        flat = self.rgb.reshape(3, -1)
        for band, shade in enumerate((30, 38, 34)):
            flat[band, at] += dark * (np.float32(shade) - flat[band, at])
        at = np.flatnonzero(trees.near(self.x, self.y))
        crown, tint, glow = trees.cover(self.x.ravel()[at], self.y.ravel()[at], self.light, self.pixel_m)
        relief = np.float32(0.88) + np.float32(0.44) * glow
        grain = self._texture(((1.3, 84, 12.0), (0.6, 85, 12.0))).ravel()[at]
        for band, leaf in enumerate(leaf_colour(tint, self.light)):
            flat[band, at] += crown * (leaf * relief + grain - flat[band, at])

    def _paint_water(self, depth: Float) -> None:
        if not (depth > -2 * self.pixel_m).any():
            return
        x, y = self.knots.x, self.knots.y
        tone = self.knots.spread(smooth(noise(x, y, 2600, self.band.key(92)), 0.35, 0.65))
        silt = self.knots.spread(0.6 * smooth(noise(x, y, 1700, self.band.key(93)), 0.5, 0.75))
        deep = smooth(depth, 0, 26)
        ripple = self._texture(((9, 94, 1.5), (2.5, 95, 1.5)))
        alpha = np.clip(depth / self.pixel_m + np.float32(0.5), 0, 1)
        for band, (blue, green, brown) in enumerate(((34, 62, 92), (56, 78, 84), (74, 66, 62))):
            colour = np.float32(blue) + np.float32(green - blue) * tone
            colour += (np.float32(brown) - colour) * silt
            colour = colour + (1 - deep) * np.float32((24, 24, 12)[band]) + ripple
            self.rgb[band] += alpha * (colour - self.rgb[band])
        self.truth[depth > 0] = LAKE

    def _roads(self, cells: list[Cell]) -> tuple[Float, Float, NDArray[np.uint8]]:
        """Metres to the nearest road's edge (for verges; below zero on it), the same again, and its kind."""
        edge = np.full(self.x.shape, 99, np.float32)
        kind = np.zeros(self.x.shape, np.uint8)
        left, bottom, right, top = self._near(20)
        pieces = [cell.streets for cell in cells]
        for i in range(math.floor(left / NODE_M) - 2, math.floor(right / NODE_M) + 2):
            for j in range(math.floor(bottom / NODE_M) - 2, math.floor(top / NODE_M) + 2):
                pieces.append(edges_at(self.band, i, j))
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
        if not (edge < max(6.0, float(self.pixel_m))).any():
            return
        worn = self.knots.spread(noise(self.knots.x, self.knots.y, 130, self.band.key(101)))
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

    def _paint_houses(self, cells: list[Cell]) -> None:
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
        _, east, north = noise_slope(x, y, 700, self.band.key(111))
        _, east2, north2 = noise_slope(x, y, 190, self.band.key(112))
        facing = (46 * east + 9 * east2) * np.float32(self.light.east)
        facing += (46 * north + 9 * north2) * np.float32(self.light.north)
        slope = self.knots.spread(facing)
        slope[self.truth == LAKE] = 0
        dice = uniforms(key_of(self.band.seed, 43, self.date.toordinal()), 5)
        gain = 0.94 + 0.16 * dice[0] - 0.06 * (1 - self.light.green)
        haze = 0.03 + 0.10 * dice[1] ** 2
        for band in range(3):
            cast = 1 + 0.05 * (dice[2 + band] - 0.5)
            part = self.rgb[band]
            part *= (1 - 1.6 * slope) * np.float32(gain * cast * (1 - haze))
            part += np.float32((176, 186, 200)[band] * haze)
