"""Training examples: a crop of a picture, disturbed, with sentences and their masks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pocket.labels import BIT, WATERS, Bits, Picture
from benchmarks.pocket.sentences import sentence
from benchmarks.pocket.thesaurus import CONCEPTS, common_words
from mapper.models.pocket import WordNet, word_hash

COMMON = Path(__file__).parent / "common_words.txt"
"""The commonest words of the table, made by ``words.py``."""

CHIP_PX = 256
WATER_COLOURS = (
    (22, 30, 34), (35, 48, 52), (48, 66, 70), (44, 62, 48), (66, 84, 62), (74, 92, 96), (60, 84, 104), (92, 112, 104),
    (120, 128, 108), (128, 116, 92), (150, 150, 138), (38, 58, 84), (84, 110, 134), (20, 38, 30),
)  # fmt: skip
"""Of real lakes, ponds and rivers: clear and deep, green with algae, brown with silt, with glint."""

SENTENCES = 6
"""Sentences asked of each chip; at least one of them is of something absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One example. Truth is of every concept and at half size, as the network answers."""

    pixels: Tensor
    """uint8 ``(3, y, x)``."""
    sentences: tuple[str, ...]
    meant: tuple[int, ...]
    """What each sentence means: a number in ``CONCEPTS``, or their count for what is nowhere."""
    yes: Tensor
    """float32 ``(concept + 1, y/2, x/2)``: share of the pixels where it is; the last is nowhere."""
    known: Tensor
    """float32 ``(concept + 1, y/2, x/2)``: 1 where that is known."""


def absent_words(words: WordNet) -> list[str]:
    """Common words that mean nothing we label: below 0.45 in cosine with every word of the concepts."""
    rows = F.normalize(words.table.float(), dim=1)
    at = {int(key): row for row, key in enumerate(words.keys)}
    of_concepts = torch.stack([rows[at[word_hash(w)]] for w in sorted(common_words()) if word_hash(w) in at])
    ranked = [word for word in COMMON.read_text().split() if word.isalpha() and len(word) > 2]
    nearest = (torch.stack([rows[at[word_hash(word)]] for word in ranked]) @ of_concepts.T).amax(1)
    return [word for word, near in zip(ranked, nearest.tolist(), strict=True) if near < 0.45]


def chip_of(picture: Picture, rng: random.Random, absent: Sequence[str], style: Picture | None) -> Chip:
    """A random crop, turned, scaled and recoloured, with ``SENTENCES`` sentences.

    Args:
        picture: where it is cut from.
        rng: decides all.
        absent: words for things that are nowhere.
        style: a picture whose colours it is given first, or None.
    """
    pixels, yes, known = _crop(picture, rng)
    x = torch.from_numpy(pixels.astype(np.float32) / 255.0)
    if style is not None:
        x = _recoloured(x, torch.from_numpy(style.pixels.astype(np.float32) / 255.0), rng)
    if picture.synthetic and rng.random() < 0.7:
        x = _other_water(x, torch.from_numpy((yes & BIT["water"]) > 0), rng)
    if rng.random() < 0.3:
        x = _shaded(x, rng)
    sentences, wanted = _sentences(yes, known, rng, absent, synthetic=picture.synthetic)
    order = list(CONCEPTS)
    meant = tuple(order.index(concept) if concept else len(order) for concept in wanted)
    return Chip(
        pixels=_disturbed(x, rng),
        sentences=tuple(sentences),
        meant=meant,
        # The share of each 2 × 2 pixels; known only where all four are.
        yes=F.avg_pool2d(_spread(yes, nowhere=False), 2),
        known=(F.avg_pool2d(_spread(known, nowhere=True), 2) > 0.99).float(),
    )


def _spread(truth: Bits, *, nowhere: bool) -> Tensor:
    """Bits ``(y, x)`` to float32 ``(concept + 1, y, x)``, the last of them all ``nowhere``."""
    layers = [(truth & BIT[concept]) > 0 for concept in CONCEPTS]
    return torch.from_numpy(np.stack([*layers, np.full(truth.shape, nowhere)])).float()


def _crop(picture: Picture, rng: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of 0.55 to 2 times the chip's size, brought to it, turned and flipped."""
    height, width = picture.yes.shape
    side = min(height, width, round(CHIP_PX * math.exp(rng.uniform(math.log(0.55), math.log(2.0)))))
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    cut = slice(top, top + side), slice(left, left + side)
    pixels = torch.from_numpy(picture.pixels[:, cut[0], cut[1]].astype(np.float32))[None]
    pixels = F.interpolate(pixels, (CHIP_PX, CHIP_PX), mode="bilinear", antialias=side > CHIP_PX, align_corners=False)
    nearest = (np.arange(CHIP_PX) + 0.5) * side / CHIP_PX
    take = np.ix_(nearest.astype(int), nearest.astype(int))
    layers = [pixels[0].numpy(), picture.yes[cut][take], picture.known[cut][take]]
    turns, flip = rng.randrange(4), rng.random() < 0.5
    layers = [np.rot90(layer, turns, axes=(-2, -1)) for layer in layers]
    layers = [np.ascontiguousarray(layer[..., ::-1] if flip else layer) for layer in layers]
    return layers[0], layers[1], layers[2]


def _sentences(
    yes: np.ndarray, known: np.ndarray, rng: random.Random, absent: Sequence[str], *, synthetic: bool
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Sentences, and of each the concept it means; an empty one for what is nowhere."""
    here = [c for c in CONCEPTS if ((yes & BIT[c]) > 0).mean() > 0.002]
    sure = [c for c in CONCEPTS if c not in here and ((known & BIT[c]) > 0).mean() > 0.05]
    rng.shuffle(here)
    rng.shuffle(sure)
    nowhere = 1 + (rng.random() < 0.5)
    for concepts in (here, sure):  # of four names for one water, two will do
        for concept in [c for c in concepts if c in WATERS][2:]:
            concepts.remove(concept)
    wanted = (here[:4] + sure)[: SENTENCES - nowhere]
    wanted += [""] * (SENTENCES - len(wanted))
    return [sentence(concept, rng, absent, synthetic=synthetic) for concept in wanted], wanted


def _recoloured(x: Tensor, style: Tensor, rng: random.Random) -> Tensor:
    """``x`` with the mean and spread of colours of a random part of ``style`` (Reinhard et al. 2001)."""
    side = min(256, *style.shape[1:])
    top, left = rng.randint(0, style.shape[1] - side), rng.randint(0, style.shape[2] - side)
    part = style[:, top : top + side, left : left + side]
    mean, spread = x.mean((1, 2), keepdim=True), x.std((1, 2), keepdim=True) + 0.01
    to_mean, to_spread = part.mean((1, 2), keepdim=True), part.std((1, 2), keepdim=True).clamp(0.05, 0.3)
    share = rng.uniform(0.3, 1.0)
    return x * (1 - share) + share * ((x - mean) / spread * to_spread + to_mean)


def _other_water(x: Tensor, water: Tensor, rng: random.Random) -> Tensor:
    """``x`` with its water in a colour that real water has: the synthetic Earth knows too few."""
    if not water.any():
        return x
    base = torch.tensor(rng.choice(WATER_COLOURS)) / 255 + torch.tensor([rng.gauss(0, 0.04) for _ in range(3)])
    ripples = 0.4 * (x - x[:, water].mean(1)[:, None, None])
    share = rng.uniform(0.6, 1.0)
    return torch.where(water, x * (1 - share) + share * (base[:, None, None] + ripples), x)


def _shaded(x: Tensor, rng: random.Random) -> Tensor:
    """``x`` with patches under a cloud's shadow, or damp: darker, a little bluer, and still what they were."""
    cells = rng.randint(3, 8)
    seeds = torch.rand(1, 1, cells, cells, generator=torch.Generator().manual_seed(rng.getrandbits(31)))
    smooth = F.interpolate(seeds, x.shape[1:], mode="bicubic", align_corners=False)[0]
    patch = ((smooth - rng.uniform(0.35, 0.7)) * math.exp(rng.uniform(math.log(6), math.log(60)))).sigmoid()
    left = rng.uniform(0.3, 0.75) * torch.tensor([1 - rng.uniform(0, 0.1), 1.0, 1 + rng.uniform(0, 0.15)])
    return x * (1 - patch * (1 - left[:, None, None]))


def _disturbed(x: Tensor, rng: random.Random) -> Tensor:
    """Another sensor, season and sky: gain, offset, contrast, saturation, gamma, haze, blur and noise."""
    noise = torch.Generator().manual_seed(rng.getrandbits(31))
    grey = x.mean(0, keepdim=True)
    saturation = rng.choice((1.0, rng.uniform(0.4, 1.0), rng.uniform(1.0, 1.5)))
    x = grey + (x - grey) * saturation
    gain = torch.tensor([math.exp(rng.gauss(0, 0.06)) for _ in range(3)])[:, None, None]
    offset = torch.tensor([rng.gauss(0, 0.02) for _ in range(3)])[:, None, None]
    contrast, brightness = math.exp(rng.uniform(-0.3, 0.3)), rng.uniform(-0.1, 0.1)
    mean = x.mean()
    x = ((x - mean) * contrast + mean + brightness) * gain + offset
    x = x.clamp(0, 1) ** math.exp(rng.uniform(-0.3, 0.3))
    if rng.random() < 0.15:
        haze = rng.uniform(0, 0.4)
        x = x * (1 - haze) + haze * torch.tensor([0.66, 0.69, 0.74])[:, None, None] * rng.uniform(0.8, 1.2)
    if rng.random() < 0.2:
        size = rng.choice((96, 128, 160, 192))
        small = F.interpolate(x[None], (size, size), mode="bilinear", antialias=True)
        x = F.interpolate(small, (CHIP_PX, CHIP_PX), mode="bicubic")[0]
    if rng.random() < 0.5:
        x = x + torch.randn(x.shape, generator=noise) * rng.uniform(0, 0.03)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
