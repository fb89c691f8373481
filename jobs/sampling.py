"""Which tiles a pilot takes, and what they say of all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from jobs.amounts import Range
from jobs.tile_table import TileTable

CONFIDENCE = 0.95
"""How often the truth lies within the range, as far as the sample can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Tiles that cost alike, and those of them that were drawn."""

    tiles: int
    rows: tuple[int, ...]
    """Of the plan's table."""


def draw(tiles: TileTable, count: int, *, seed: str) -> tuple[Stratum, ...]:
    """A fair sample of a plan: whole tiles, clipped tiles and holes each in its share, two of each kind if it fits.

    Within a kind every n-th tile is taken, from a start that the seed decides. A plan keeps steps, grids and
    neighbours together, so each step, grid and region comes in its share as well.

    Args:
        tiles: of the plan.
        count: how many to take, at least 1; all where there are fewer.
        seed: the same one draws the same tiles; the run's name.
    """
    holes = tiles.holes
    kinds = [np.flatnonzero(one) for one in (~holes & ~tiles.clipped, ~holes & tiles.clipped, holes)]
    kinds = [kind for kind in kinds if kind.size]
    dice = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    shares = _shares([kind.size for kind in kinds], count)
    strata = []
    for kind, share in zip(kinds, shares, strict=True):
        every = kind.size / max(1, share)
        taken = kind[((np.arange(share) + dice.random()) * every).astype(np.int64)]
        strata.append(Stratum(tiles=int(kind.size), rows=tuple(taken.tolist())))
    return tuple(strata)


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of each to take: the largest first where not even one of each fits."""
    count = min(count, sum(sizes))
    least = 2 if count >= 2 * len(sizes) else 1 if count >= len(sizes) else 0
    shares = [min(size, least) for size in sizes]
    while sum(shares) < count:
        # One more where the drawn share lies furthest behind that of the plan; at most a few thousand turns.
        behind = [size * count / sum(sizes) - share if share < size else -np.inf
                  for size, share in zip(sizes, shares, strict=True)]  # fmt: skip
        shares[int(np.argmax(behind))] += 1
    return shares


def total_of(strata: Sequence[Stratum], values: Mapping[int, float]) -> Range:
    """The sum of a value over all tiles of a plan, from those that were drawn.

    Args:
        strata: the sample.
        values: row → value, at least one, none below 0; a drawn tile that is not there could not be measured.

    Returns:
        The sum and its confidence limits: the stratified standard error, times Student's t with the degrees of freedom
        the sample leaves, which makes the range of a small pilot much wider than the spread of its tiles.

    Source: W. G. Cochran, Sampling Techniques, third edition, 1977, sections 5.3 and 5.4 (with Satterthwaite's degrees
    of freedom). A kind of which one tile was measured is taken to vary, in relation to its mean, as all together do.
    """
    everything = np.array(list(values.values()))
    alike = everything.std(ddof=1) / everything.mean() if everything.size > 1 and everything.mean() > 0 else 1.0
    likely, parts, freedoms = 0.0, [], []
    for stratum in strata:
        own = np.array([values[row] for row in stratum.rows if row in values])
        known = own if own.size else everything
        likely += stratum.tiles * float(known.mean())
        deviation = known.std(ddof=1) if known.size > 1 else alike * known.mean()
        left_out = max(0, stratum.tiles - own.size)
        parts.append(float(stratum.tiles * left_out * deviation**2 / known.size))
        freedoms.append(max(1, known.size - 1))
    half = _student(np.array(parts), np.array(freedoms)) * math.sqrt(sum(parts))
    measured = float(everything.sum())  # what has been spent on the sample alone is no guess
    return Range(low=max(likely - half, min(measured, likely)), likely=likely, high=likely + half)


def share_of(strata: Sequence[Stratum], flags: Mapping[int, bool]) -> float | None:
    """The share of the tiles of a plan for which something is true, 0 to 1; None where nothing was measured."""
    known = [(stratum, [flags[row] for row in stratum.rows if row in flags]) for stratum in strata]
    weights = [stratum.tiles for stratum, own in known if own]
    shares = [float(np.mean(own)) for _, own in known if own]
    return float(np.average(shares, weights=weights)) if weights else None


def _student(parts: NDArray[np.float64], freedoms: NDArray[np.int64]) -> float:
    weight = float((parts**2 / freedoms).sum())
    freedom = max(1.0, float(parts.sum()) ** 2 / weight) if weight > 0 else 1.0
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
