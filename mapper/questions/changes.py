"""Mask before + mask after → what appeared, what vanished, and where nobody can say.

value    between two times
0        stayed absent
1        stayed present
2        appeared
3        vanished
254      not comparable: both times were looked at, and one of them did not see the ground
255      not comparable: one of them was never looked at
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED

STAYED_ABSENT, STAYED_PRESENT, APPEARED, VANISHED = 0, 1, 2, 3


def changes(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What became of each pixel, in the values above.

    Args:
        before: uint8 masks of any shape: absent, present, unobserved, unmapped.
        after: of the same shape.
    """
    was, is_now = before == PRESENT, after == PRESENT
    out = np.where(is_now, np.where(was, STAYED_PRESENT, APPEARED), np.where(was, VANISHED, STAYED_ABSENT))
    later = np.maximum(before, after)
    return np.where(later == UNMAPPED, UNMAPPED, np.where(later >= UNOBSERVED, UNOBSERVED, out)).astype(np.uint8)
