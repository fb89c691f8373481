"""What people built, and ponds: roads, houses and their plots, worked out one cell of 1 km at a time."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from catalogs.synthetic_cover import BAND_DEG, DEGREE_M, Band, node_at, village_radius_m
from catalogs.synthetic_noise import Bool, Float, Metres, hash_of, key_of, noise, uniforms, unit

PAVED, DIRT = 0, 1
"""Kinds of road."""

RED, BROWN, GREY, DARK, WHITE, PALE, BLUE, FLAT = range(8)
"""Styles of roof: indices into ``ROOFS``."""

ROOFS = np.array(
    [(164, 88, 64), (122, 78, 62), (118, 120, 124), (74, 73, 76), (218, 220, 222), (164, 158, 150),
     (104, 128, 158), (136, 132, 128)],
    np.float32,
)  # fmt: skip
"""Red, green, blue 0..255 of each style of roof."""


@dataclass(frozen=True)
class Cell:
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


@lru_cache(maxsize=1024)
def cell_at(band: Band, i: int, j: int) -> Cell:
    """All that belongs to the road node of cell ``i`` east, ``j`` north."""
    x, y = node_at(band, i, j)
    others = np.array([node_at(band, i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b])
    around = [edges_at(band, i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    roads = np.vstack(around)
    dice = uniforms(band.key(31, i, j), 12)
    village_m = village_radius_m(band, i, j)
    ground = _Ground(band, (x, y), others)
    streets = _streets(ground, village_m, roads, dice) if village_m else np.empty((0, 6))
    roads = np.vstack([roads, streets])
    ponds = _ponds(ground, roads, uniforms(band.key(32, i, j), 20))
    wishes = [
        _halls(village_m, ground, dice, uniforms(band.key(33, i, j), 90)),
        _farms(ground, roads[roads[:, 5] >= 0], village_m, uniforms(band.key(34, i, j), 200)),
        _row_houses(streets, dice, band.key(35, i, j)),
    ]
    houses = np.vstack([wish for wish in wishes if len(wish)] or [np.empty((0, 12))])
    return Cell(x, y, village_m, streets, _those_that_fit(houses, ground, roads, ponds), ponds)


@lru_cache(maxsize=4096)
def edges_at(band: Band, i: int, j: int) -> Metres:
    """Road pieces from a node to its neighbours east, north and north-east: ``(n, 6)`` as in ``Cell``."""
    pieces: list[Metres] = []
    start = np.array(node_at(band, i, j))
    for way, (di, dj) in enumerate(((1, 0), (0, 1), (1, 1))):
        dice = uniforms(band.key(22, i, j, way), 6)
        if dice[0] > (0.86, 0.86, 0.22)[way]:
            continue
        end = np.array(node_at(band, i + di, j + dj))
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
        for node, radius_m in ((start, village_radius_m(band, i, j)), (end, village_radius_m(band, i + di, j + dj))):
            tail[np.hypot(*(line[:-1] - node).T) < radius_m, 1] = PAVED
        pieces.append(np.hstack([line[:-1], line[1:], tail]))
    return np.vstack(pieces) if pieces else np.empty((0, 6))


def houses_near(cells: Sequence[Cell], near: tuple[float, float, float, float]) -> Iterator[Metres]:
    """Rows of ``Cell.houses``, built yet or not, whose middles lie between left, bottom, right and top."""
    left, bottom, right, top = near
    for cell in cells:
        h = cell.houses
        yield from h[(h[:, 0] > left) & (h[:, 0] < right) & (h[:, 1] > bottom) & (h[:, 1] < top)]


def built_over(x: Metres, y: Metres, houses: Iterable[Metres]) -> Bool:
    """Where walls stand or will stand, and yards are kept free: no place for a tree."""
    taken = np.zeros(x.shape, bool)
    for house in houses:
        dx, dy = x - house[0], y - house[1]
        u, v = np.abs(dx * house[2] + dy * house[3]), np.abs(dy * house[2] - dx * house[3])
        yard = house[4] > 9
        taken |= (u < (house[10] if yard else house[4] + 1.5)) & (v < (house[11] if yard else house[5] + 1.5))
    return taken


def inside_village_m(band: Band, x: Metres, y: Metres, cells: Sequence[Cell]) -> Float:
    """Metres inside the nearest village's ragged edge, below zero outside."""
    inside = np.full(x.shape, -1e4, np.float32)
    for cell in cells:
        if cell.village_m:
            np.maximum(inside, band.in_village(x, y, (cell.x, cell.y), cell.village_m), out=inside)
    return inside


def add_ponds(depth: Float, band: Band, date: datetime.date, x: Metres, y: Metres, cells: Sequence[Cell]) -> None:
    """Raises metres inside water by the ponds and by the stand of the day, in place."""
    depth += np.float32(_tide_m(band, date))
    left, bottom, right, top = float(x.min()), float(y.min()), float(x.max()), float(y.max())
    wobble: Float | None = None
    for pond in np.vstack([cell.ponds for cell in cells] or [np.empty((0, 3))]):
        reach = 1.5 * pond[2] + 20
        if left - reach < pond[0] < right + reach and bottom - reach < pond[1] < top + reach:
            if wobble is None:
                wobble = noise(x, y, 22, band.key(91)) * np.float32(0.7) + np.float32(0.65)
            dx, dy = (x - pond[0]).astype(np.float32), (y - pond[1]).astype(np.float32)
            np.maximum(depth, np.float32(pond[2]) * wobble - np.sqrt(dx * dx + dy * dy), out=depth)


def _tide_m(band: Band, date: datetime.date) -> float:
    """Lakes stand a little higher in spring; up to 3 m of shore."""
    year = date.timetuple().tm_yday / 365.25
    wet_year = float(uniforms(key_of(band.seed, 42, date.year), 1)[0])
    return 1.6 * math.sin(2 * math.pi * year) + 1.4 * (wet_year - 0.5)


@dataclass(frozen=True)
class _Ground:
    """Where a cell may build."""

    band: Band
    node: tuple[float, float]
    others: Metres

    def free(self, x: Metres, y: Metres, *, dry_m: float, inner_m: float) -> Bool:
        """Dry by a margin, off the seams, and nearer to this node than to any other by a margin."""
        mine = np.hypot(x - self.node[0], y - self.node[1])
        theirs = np.hypot(x[..., None] - self.others[:, 0], y[..., None] - self.others[:, 1]).min(-1)
        dry = self.band.water_m(x.ravel(), y.ravel()).reshape(x.shape) < -dry_m
        return np.asarray(dry & (theirs - mine > inner_m) & (self.band.seam_m(y) > 45))


def _longest_run(flags: Bool) -> int:
    longest = run = 0
    for flag in flags.tolist():
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


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
    keep = unit(hash_of(ground.band.key(36), (middle[:, 0] * 8).astype(np.int64), (middle[:, 1] * 8).astype(np.int64)))
    beside = (_road_gap_m(ends[:, 0], ends[:, 1], roads) < 15).reshape(-1, 2).all(1)
    all_pieces = all_pieces[fine & (keep < 0.95) & ~beside]
    return np.hstack([all_pieces, np.broadcast_to([2.6 + 0.6 * dice[7], PAVED], (len(all_pieces), 2))])


def _row_houses(streets: Metres, dice: Metres, key: int) -> Metres:
    """Two or three plots on each side of every piece of street."""
    wishes = []
    roll = uniforms(key, len(streets) * 6 * 10).reshape(len(streets), 6, 10)
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
