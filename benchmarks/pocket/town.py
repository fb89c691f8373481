"""Dense towns drawn over real pictures: highways, streets, houses of all roofs with shadows, trees; with exact truth.

The labelled pictures have few crowded quarters; this makes some (copy and paste augmentation). What is under
the town keeps the labels it had.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional as F

from benchmarks.pocket.labels import BIT, EVERYTHING, Picture, bits, training_pictures

SIDE_PX = 512
COUNT = 160
ROOFS = (
    (150, 148, 142), (178, 174, 166), (205, 202, 196), (235, 235, 232), (120, 118, 116), (92, 90, 92),
    (160, 104, 82), (140, 78, 60), (176, 122, 92), (96, 120, 150), (70, 110, 160), (120, 150, 140),
    (110, 84, 70), (190, 160, 130),
)  # fmt: skip
GROUND = ((126, 112, 92), (150, 138, 118), (96, 100, 78), (110, 108, 100), (84, 96, 64), (170, 158, 140))
PAVING = ((108, 106, 104), (130, 126, 122), (150, 140, 124), (84, 84, 86), (164, 150, 128), (58, 54, 56))
ASPHALT = ((34, 32, 40), (46, 42, 44), (58, 52, 58), (70, 66, 66), (90, 86, 88))
"""Of highways, which are dark where they are new."""

NOT_UNDER_TOWN = bits(["field"])


def towns(*, seed: int, count: int = COUNT) -> list[Picture]:
    """``count`` pictures, drawn in memory in about a tenth of a second each."""
    real = [p for p in training_pictures() if ((p.known & BIT["building"]) > 0).mean() > 0.95]
    grounds = [p for p in real if ((p.yes & BIT["water"]) > 0).mean() < 0.1 and not p.name.startswith("trees")]
    return [_town(number, random.Random(f"town/{seed}/{number}"), grounds) for number in range(count)]


def _town(number: int, rng: random.Random, grounds: list[Picture]) -> Picture:
    canvas, yes, known = _ground(rng, grounds)
    noise = np.random.default_rng(rng.getrandbits(32))
    turn, house = (
        rng.uniform(0, math.pi),
        math.exp(rng.uniform(math.log(9), math.log(60))),
    )  # house: side in pixels
    block, street = house * rng.uniform(2.2, 5), house * rng.uniform(0.25, 0.8)
    tall = rng.random() < 0.35
    sun, reach = rng.uniform(0, 2 * math.pi), house * rng.uniform(0.1, 1.5 if tall else 0.7)
    if rng.random() < 0.5:
        _highway(canvas, yes, known, rng, noise)
    roads = _streets(rng, turn, block, street) if rng.random() < 0.85 else np.zeros(yes.shape, bool)
    paving = np.array(rng.choice(PAVING)) * rng.uniform(0.8, 1.15)
    _paint(canvas, roads, paving, noise, grain=6)
    yes[roads], known[roads] = BIT["road"], EVERYTHING & ~bits(["land"])
    houses = _houses(rng, turn, block, street, house) if roads.any() else []
    houses = [quad for quad in houses if not _on(yes, quad)]
    _trees(canvas, yes, known, rng, noise, house)
    shift = reach * math.cos(sun), reach * math.sin(sun)
    shadow = _mask([quad + np.array(shift) * part for quad in houses for part in (0.5, 1.0)])
    canvas[shadow] *= rng.uniform(0.1, 0.5) if tall else rng.uniform(0.4, 0.7)
    built = _mask(houses)
    for quad in houses:
        _roof(canvas, quad, rng, noise)
    yes[built], known[built] = BIT["building"], EVERYTHING
    pixels = np.moveaxis(np.clip(canvas, 0, 255).astype(np.uint8), -1, 0)
    return Picture(name=f"town/{number}", pixels=np.ascontiguousarray(pixels), yes=yes, known=known, synthetic=True)


def _ground(
    rng: random.Random, grounds: list[Picture]
) -> tuple[NDArray[np.float32], NDArray[np.uint16], NDArray[np.uint16]]:
    """A real picture, or bare noise of one colour."""
    if rng.random() < 0.45:
        canvas = np.ones((SIDE_PX, SIDE_PX, 3), np.float32) * np.array(rng.choice(GROUND), np.float32)
        canvas += _cloudy(rng, 40) * 30 + _cloudy(rng, 5) * 18
        known = np.full((SIDE_PX, SIDE_PX), EVERYTHING & ~bits(["land", "grass", "vegetation", "field"]), np.uint16)
        return canvas, np.zeros_like(known), known
    picture = rng.choice(grounds)
    side = min(SIDE_PX, *picture.yes.shape)
    top, left = rng.randint(0, picture.yes.shape[0] - side), rng.randint(0, picture.yes.shape[1] - side)
    cut = np.s_[top : top + side, left : left + side]
    at = (np.arange(SIDE_PX) * side / SIDE_PX).astype(int)
    part = torch.from_numpy(picture.pixels[:, cut[0], cut[1]].astype(np.float32))[None]
    resized = F.interpolate(part, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)[0]
    yes, known = picture.yes[cut][np.ix_(at, at)], picture.known[cut][np.ix_(at, at)] & ~NOT_UNDER_TOWN
    return np.moveaxis(resized.numpy(), 0, -1).copy(), yes & known, known


def _streets(rng: random.Random, turn: float, block: float, street: float) -> NDArray[np.bool_]:
    """A turned grid of streets, some of them missing."""
    picture = Image.new("1", (SIDE_PX, SIDE_PX))
    draw = ImageDraw.Draw(picture)
    for along in (0, 1):
        for line in range(-int(SIDE_PX / block) - 1, int(SIDE_PX / block) + 2):
            if rng.random() < (0.85 if along else 0.5):
                ends = [
                    _turned((line * block, far) if along else (far, line * block), turn) for far in (-SIDE_PX, SIDE_PX)
                ]
                draw.line(ends, fill=1, width=max(2, round(street * rng.uniform(0.7, 1.3))))
    return np.array(picture)


def _highway(
    canvas: NDArray[np.float32], yes: NDArray[np.uint16], known: NDArray[np.uint16], rng: random.Random,
    noise: np.random.Generator,
) -> None:  # fmt: skip
    """A wide road in a bend, of one or two carriageways with their lines; what is between them keeps its labels."""
    start, bend, end = (np.array([rng.uniform(-0.1, 1.1) * SIDE_PX, rng.uniform(-0.1, 1.1) * SIDE_PX]) for _ in "abc")
    t = np.linspace(-0.5, 1.5, 60)[:, None]
    middle = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    along = np.gradient(middle, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
    width = math.exp(rng.uniform(math.log(5), math.log(36)))
    gap = width * rng.uniform(0.55, 0.8)
    colour = np.array(rng.choice(ASPHALT)) * rng.uniform(0.8, 1.2)
    for side in rng.choice(((0.0,), (-gap, gap))):
        road = _stroke(middle + side * across, width)
        _paint(canvas, road, colour, noise, grain=4)
        yes[road], known[road] = BIT["road"], EVERYTHING & ~bits(["land"])
        if width > 8:
            for line in (-0.46, 0.0, 0.46) if rng.random() < 0.7 else ():
                canvas[_stroke(middle + (side + line * width) * across, 1)] += rng.uniform(20, 90)


def _stroke(points: NDArray[np.float64], width: float) -> NDArray[np.bool_]:
    picture = Image.new("1", (SIDE_PX, SIDE_PX))
    line = [(float(x), float(y)) for x, y in points]
    ImageDraw.Draw(picture).line(line, fill=1, width=round(width), joint="curve")
    return np.array(picture)


def _houses(rng: random.Random, turn: float, block: float, street: float, house: float) -> list[NDArray[np.float64]]:
    """Corners of the houses: packed into the blocks with gaps by chance; some a little askew."""
    found = []
    density = rng.uniform(0.35, 1.0)
    reach = int(SIDE_PX / block) + 1
    per_side = max(1, round((block - street) / house))
    slot = (block - street) / per_side
    for i in range(-reach * per_side, reach * per_side):
        for j in range(-reach * per_side, reach * per_side):
            if rng.random() > density:
                continue
            base = [(k // per_side) * block + street / 2 + (k % per_side + 0.5) * slot for k in (i, j)]
            astray = np.array([rng.gauss(0, 0.05 * house), rng.gauss(0, 0.05 * house)])
            centre = np.array(_turned((base[0], base[1]), turn)) + astray
            if not (-house < centre[0] < SIDE_PX + house and -house < centre[1] < SIDE_PX + house):
                continue
            a, b = slot * rng.uniform(0.25, 0.49), slot * rng.uniform(0.25, 0.49)
            angle = turn + rng.gauss(0, 0.08)
            corners = [(-a, -b), (a, -b), (a, b), (-a, b)]
            if rng.random() < 0.2:  # an L
                corners = [(-a, -b), (a, -b), (a, 0), (0, 0), (0, b), (-a, b)]
            cos, sin = math.cos(angle), math.sin(angle)
            found.append(np.array([(x * cos - y * sin, x * sin + y * cos) for x, y in corners]) + centre)
    return found


def _on(yes: NDArray[np.uint16], quad: NDArray[np.float64]) -> bool:
    """Whether the middle of a house is on a road."""
    x, y = np.clip(quad.mean(0), 0, SIDE_PX - 1).astype(int)
    return bool(yes[y, x] & BIT["road"])


def _roof(
    canvas: NDArray[np.float32], quad: NDArray[np.float64], rng: random.Random, noise: np.random.Generator
) -> None:
    """One roof: flat with a parapet and things on it, or pitched with a bright and a dark side."""
    left, top = np.maximum(np.floor(quad.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(quad.max(0)).astype(int) + 1, SIDE_PX)
    if right - left < 2 or bottom - top < 2:
        return
    view = canvas[top:bottom, left:right]
    mask = _mask([quad - (left, top)], (right - left, bottom - top))
    colour = np.array(rng.choice(ROOFS), np.float32) * rng.uniform(0.75, 1.2)
    painted = colour + noise.normal(0, rng.uniform(2, 9), (*mask.shape, 1)).astype(np.float32)
    centre = quad[:4].mean(0) - (left, top)
    if rng.random() < 0.4:
        side = quad[1] - quad[0]
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        over = (x - centre[0]) * -side[1] + (y - centre[1]) * side[0] > 0
        painted *= np.where(over, 1.12, 0.85)[..., None].astype(np.float32)
    elif rng.random() < 0.7:
        inner = _mask([(quad - quad.mean(0)) * 0.86 + quad.mean(0) - (left, top)], (right - left, bottom - top))
        painted[~inner] *= rng.uniform(0.7, 1.25)
        for _ in range(rng.randrange(4)):  # tanks, stairs, panels
            at = quad.mean(0) - (left, top) + [rng.gauss(0, 0.2) * (right - left), rng.gauss(0, 0.2) * (bottom - top)]
            size = 0.1 * np.array([right - left, bottom - top]) * rng.uniform(0.5, 1.6)
            (x0, y0), (x1, y1) = np.maximum(at - size, 0).astype(int), np.maximum(at + size, 0).astype(int)
            painted[y0:y1, x0:x1] = np.array(rng.choice(ROOFS), np.float32) * rng.uniform(0.4, 1.2)
    view[mask] = painted[mask]


def _trees(
    canvas: NDArray[np.float32], yes: NDArray[np.uint16], known: NDArray[np.uint16], rng: random.Random,
    noise: np.random.Generator, house: float,
) -> None:  # fmt: skip
    for _ in range(rng.choice((0, 20, 60, 120))):
        x, y, r = rng.uniform(0, SIDE_PX), rng.uniform(0, SIDE_PX), house * rng.uniform(0.1, 0.4)
        crown = [
            np.array(
                [
                    (x + r * rng.uniform(0.7, 1.1) * math.cos(t), y + r * rng.uniform(0.7, 1.1) * math.sin(t))
                    for t in np.linspace(0, 6.0, 9)
                ]
            )
        ]
        mask = _mask(crown)
        green = np.array((58, 76, 46)) * rng.uniform(0.6, 1.3)
        _paint(canvas, mask, green, noise, grain=12)
        yes[mask] = bits(["vegetation", "woods"])
        known[mask] = EVERYTHING


def _paint(
    canvas: NDArray[np.float32],
    mask: NDArray[np.bool_],
    colour: NDArray[np.float64],
    noise: np.random.Generator,
    *,
    grain: float,
) -> None:
    canvas[mask] = colour + noise.normal(0, grain, (int(mask.sum()), 1))


def _mask(shapes: list[NDArray[np.float64]], size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> NDArray[np.bool_]:
    picture = Image.new("1", size)
    draw = ImageDraw.Draw(picture)
    for shape in shapes:
        draw.polygon([(float(x), float(y)) for x, y in shape], fill=1)
    return np.array(picture)


def _turned(point: tuple[float, float], turn: float) -> tuple[float, float]:
    cos, sin = math.cos(turn), math.sin(turn)
    return point[0] * cos - point[1] * sin + SIDE_PX / 2, point[0] * sin + point[1] * cos + SIDE_PX / 2


def _cloudy(rng: random.Random, size: int) -> NDArray[np.float32]:
    """Smooth noise of about ``size`` pixels, -0.5 to 0.5, ``(y, x, 1)``."""
    seeds = torch.rand(
        1,
        1,
        SIDE_PX // size + 2,
        SIDE_PX // size + 2,
        generator=torch.Generator().manual_seed(rng.getrandbits(31)),
    )
    smooth = F.interpolate(seeds, (SIDE_PX, SIDE_PX), mode="bicubic", align_corners=False)[0, 0, :, :, None] - 0.5
    return np.asarray(smooth.numpy(), np.float32)
