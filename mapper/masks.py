"""Logits of overlapping windows → score and mask, with the four values kept apart.

value    mask            score
0..1     absent, present
0..250                   250 · probability, rounded
254      unobserved      unobserved        imagery was looked for and the ground was not seen
255      unmapped        unmapped          never looked: outside the area, or not done yet
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.errors import GridError, MapperError
from mapper.grid import PixelBox, Windows
from mapper.imagery import Valid
from mapper.segmenter import Logits

ABSENT, PRESENT, UNOBSERVED, UNMAPPED = 0, 1, 254, 255
SCORE_ONE = 250
"""The stored score that means probability 1."""

STRIP_PX = 64
"""Rows that are worked on at once: what is made of them on the way stays in the processor's cache."""

Stored: TypeAlias = NDArray[np.uint8]
"""``(prompt, y, x)`` in the values above."""


class Blend:
    """Logits of a core, gathered from windows as they come.

    Windows are weighted by a ramp that falls to the edge of the overlap, so where two meet neither ends in a
    line. Every pixel is summed in the lattice's order of windows, in float32: the same windows give the same
    bits whatever core asked for them.

    Weighting: linear feathering, as in R. Szeliski, "Image Alignment and Stitching" (2006), section 6.2.
    """

    def __init__(self, core: PixelBox, windows: Windows, prompts: int, *, feather: bool = True) -> None:
        self._core = core
        self._ramp = _ramps(windows, feather)
        self._sum = np.zeros((prompts, *core.shape), np.float32)
        self._weight = np.zeros(core.shape, np.float32)
        self._met_px = self._differ_px = 0

    def add(self, window: PixelBox, logits: Logits) -> None:
        """Put float32 ``(prompt, y, x)`` of one window in; call in the order of ``Windows.touching``."""
        part = window.intersection(self._core)
        for strip in _strips(part):
            there, here = strip.within(self._core), strip.within(window)
            weight, summed, fresh = self._ramp[here], self._sum[:, *there], logits[:, *here]
            met = self._weight[there] > 0
            if met.any():
                self._met_px += int(np.count_nonzero(met)) * len(logits)
                self._differ_px += int(np.count_nonzero(((summed > 0) != (fresh > 0)) & met))
            summed += weight * fresh
            self._weight[there] += weight

    def logits(self, needed: Valid) -> Logits:
        """float32 ``(prompt, y, x)`` of the core; 0 where no window came. No window can be added after.

        Raises:
            GridError: a needed pixel lies under no window: a window was left out that should not have been.
        """
        if (needed & (self._weight == 0)).any():
            raise GridError("a pixel that was asked for lies under no window", core=self._core)
        for strip in _strips(self._core):
            here = strip.within(self._core)
            weight = self._weight[here]
            self._sum[:, *here] /= np.where(weight == 0, np.float32(1), weight)
        return self._sum

    @property
    def seam(self) -> float | None:
        """Share of the pixels where windows met on which they disagreed at a score of one half; None where none met."""
        return self._differ_px / self._met_px if self._met_px else None


def _strips(box: PixelBox) -> Iterator[PixelBox]:
    """The box, some rows at a time."""
    for top in range(box.top, box.bottom, STRIP_PX):
        yield PixelBox(top, box.left, min(top + STRIP_PX, box.bottom), box.right)


@lru_cache(maxsize=4)
def _ramps(windows: Windows, feather: bool) -> NDArray[np.float32]:
    """Weight of each pixel of a window ``(y, x)``."""
    ramp = _ramp(windows, feather=feather)
    return ramp[:, None] * ramp[None]


def _ramp(windows: Windows, *, feather: bool) -> NDArray[np.float32]:
    """Weight along one axis of a window: rises over the overlap, flat, falls; never 0 if feathered."""
    place = np.arange(windows.size_px, dtype=np.float32) + np.float32(0.5)
    edge = np.minimum(place, np.float32(windows.size_px) - place)
    if not feather:  # the middle of an odd overlap belongs to one of the two windows, and never to none
        half = np.float32(windows.overlap_px / 2)
        return np.asarray((place > half) & (place <= np.float32(windows.size_px) - half), np.float32)
    return np.asarray(np.minimum(edge / max(1, windows.overlap_px), 1), np.float32)


def needed_windows(windows: Iterable[PixelBox], core: PixelBox, needed: Valid) -> list[PixelBox]:
    """The windows that share a needed pixel with the core, in the order given."""
    return [window for window in windows if needed[window.intersection(core).within(core)].any()]


def to_score(logits: Logits, *, valid: Valid, asked: Valid) -> Stored:
    """Stored score of float32 logits ``(prompt, y, x)``; gaps where not valid, or not asked.

    Raises:
        MapperError: the model answered with no number; stored, it would read as absent.
    """
    score = np.empty(logits.shape, np.uint8)
    for top in range(0, logits.shape[1], STRIP_PX):
        rows = slice(top, top + STRIP_PX)
        said, seen, wanted = logits[:, rows], valid[rows], asked[rows]
        if (np.isnan(said).any(axis=0) & seen & wanted).any():
            raise MapperError("what the model answered is not a number", fix="use precision fp32, or another model")
        with np.errstate(over="ignore", invalid="ignore"):  # exp(100) is a score of 0; NaN is in gaps only
            probability = 1 / (1 + np.exp(-said))
            score[:, rows] = np.rint(probability * SCORE_ONE).astype(np.uint8)
        score[:, rows][:, ~seen] = UNOBSERVED
        score[:, rows][:, ~wanted] = UNMAPPED
    return score


def to_mask(score: Stored, thresholds: Sequence[float]) -> Stored:
    """Stored mask of a stored score: present where the score reaches the prompt's threshold.

    From the stored score and not from the logits, so that whoever thresholds the score again gets this mask.
    """
    # Rounded up: a score just under the threshold is not there. Less the dust of 0.28 * 250 = 70.00000000000001.
    floor = np.array([math.ceil(threshold * SCORE_ONE - 1e-6) for threshold in thresholds], np.uint8)[:, None, None]
    return np.where(score > SCORE_ONE, score, (score >= floor).astype(np.uint8))
