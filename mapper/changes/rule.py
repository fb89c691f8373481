"""What counts as a change: one pixel through time, in whole numbers.

Of each pixel a *state* is carried from step to step, in order of time: never observed, absent or present; with it
``since``, the step in which that began, and ``seen``, the last step that saw the ground::

    score    0 ........... lo | lo+1 ..... hi-1 | hi .......... 250      254, 255
    says        absent        |  as it was      |     present            nothing: the state is carried on
                              ▲        ▲        ▲
                 threshold - hysteresis    |    threshold + hysteresis
                                      threshold: where the mask begins, and what decides the first time a pixel is seen

    step        1     2     3     4     5     6
    score       ?    20   115   180   130    30      threshold 0.5 (125), hysteresis 0.1: lo 100, hi 150
    state     never   0     0     1     1     0
    change     254   254    0     2     1     3
    since        -    2     2     4     4     6

Scores are compared as stored. With a hysteresis of 0 the state is the mask, wherever the mask saw the ground. The best
score there is, 250, always says present, and 0 always absent, however near to the end the threshold lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapper.errors import SpecError
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED, Stored
from mapper.questions.changes import APPEARED, STAYED_ABSENT, STAYED_PRESENT, VANISHED

NEVER = UNOBSERVED
"""State of a pixel that no step has seen yet."""

NO_TIME = np.iinfo(np.int64).min
"""In ``since`` and ``seen`` where there is none: what numpy reads as no time."""

_DUST = 1e-6
"""0.28 * 250 is 70.00000000000001; ``mapper/masks.py`` takes off as much."""

_BETWEEN = 2
"""What a score says that says neither."""

_STATES = (ABSENT, PRESENT, NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRule:
    """What counts as a change from one step to the next."""

    hysteresis: float = 0.1
    """Present from the threshold + this on, absent from the threshold - this; 0 to 0.5, exclusive."""

    min_area_m2: float = 0.0
    """What hangs together, corners included, and covers less of the ellipsoid is no change."""

    def __post_init__(self) -> None:
        if not 0 <= self.hysteresis < 0.5:
            raise SpecError(f"a hysteresis of {self.hysteresis:g} is not in [0, 0.5)", fix="0.1 is usual")
        if not (self.min_area_m2 >= 0 and math.isfinite(self.min_area_m2)):
            raise SpecError(f"{self.min_area_m2:g} m² is no least area of a change", fix="give 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What is known of some pixels after a step; arrays of one shape."""

    state: NDArray[np.uint8]
    """``ABSENT``, ``PRESENT`` or ``NEVER``."""

    since: NDArray[np.int64]
    """When the state began: seconds since 1970, or ``NO_TIME``."""

    seen: NDArray[np.int64]
    """When the ground was last seen, likewise."""

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> Carried:
        """Before the first step."""
        return cls(state=np.full(shape, NEVER, np.uint8), since=np.full(shape, NO_TIME), seen=np.full(shape, NO_TIME))

    def same(self, other: Carried) -> bool:
        """Whether both know the same."""
        return (
            np.array_equal(self.state, other.state)
            and np.array_equal(self.since, other.since)
            and np.array_equal(self.seen, other.seen)
        )


class Verdicts:
    """What becomes of a state under each stored score: a table of 256 columns, a row a state."""

    def __init__(self, threshold: float, hysteresis: float) -> None:
        floor, low, high = limits(threshold, hysteresis)
        score = np.arange(256)
        first = np.where(score >= floor, PRESENT, ABSENT)
        says = np.where(score >= high, PRESENT, np.where(score <= low, ABSENT, _BETWEEN))
        gap = score > SCORE_ONE
        # The states 0, 1 and 254 stand in rows 0, 1 and 2.
        state = np.stack([np.where(says == _BETWEEN, was, says) for was in (ABSENT, PRESENT)] + [first])
        state = np.where(gap, np.array(_STATES)[:, None], state)
        change = np.stack([
            np.where(state[0] == PRESENT, APPEARED, STAYED_ABSENT),
            np.where(state[1] == PRESENT, STAYED_PRESENT, VANISHED),
            np.full(256, UNOBSERVED),
        ])  # fmt: skip
        change = np.where(gap, np.where(score == UNMAPPED, UNMAPPED, UNOBSERVED), change)
        self._state, self._change = state.astype(np.uint8), change.astype(np.uint8)

    def change(self, before: NDArray[np.uint8], score: Stored) -> NDArray[np.uint8]:
        """What would become of pixels, whatever its area: 0 to 3, 254, 255 as in ``mapper/questions/changes.py``.

        Args:
            before: their states.
            score: as stored, of the same shape.
        """
        return np.asarray(self._change[_row(before), score], np.uint8)

    def after(
        self, before: Carried, score: Stored, now: int, kept: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.uint8], Carried]:
        """What becomes of pixels in a step.

        Args:
            before: what was known of them.
            score: as stored.
            now: when the step begins, in seconds since 1970.
            kept: where the state stays what it was though the score says otherwise; None for nowhere.

        Returns:
            The change, and what is known then.
        """
        row = _row(before.state)
        change, state = self._change[row, score], self._state[row, score]
        if kept is not None:
            change[kept] = np.where(before.state[kept] == PRESENT, STAYED_PRESENT, STAYED_ABSENT)
            state[kept] = before.state[kept]
        moment = np.int64(now)
        return change, Carried(
            state=state,
            since=np.where(state != before.state, moment, before.since),
            seen=np.where(score <= SCORE_ONE, moment, before.seen),
        )


def limits(threshold: float, hysteresis: float) -> tuple[int, int, int]:
    """Stored scores: where the mask begins, up to which one says absent, and from which on one says present."""
    floor = math.ceil(threshold * SCORE_ONE - _DUST)
    high = math.ceil((threshold + hysteresis) * SCORE_ONE - _DUST)
    low = math.floor((threshold - hysteresis) * SCORE_ONE + _DUST)
    return floor, min(max(low, 0), floor - 1), max(min(high, SCORE_ONE), floor)


def _row(state: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.minimum(state, np.uint8(2))
