"""The Hilbert curve: an order of the cells of a grid in which what comes next lies beside what came before.

It visits every cell of a square whose side is a power of two, and of each quarter of it all before the next::

    ┌─┐ ┌─┐       each quarter is the whole again: turned in the first and the last, as it is in the two between
    │ └─┘ │
    └─┐ ┌─┘
    ──┘ └──
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_BITS = 31
"""Of a row or column: a position then fits into 64."""


def hilbert(rows: ArrayLike, columns: ArrayLike, *, shape: tuple[int, int] | None = None) -> NDArray[np.uint64]:
    """Where the curve meets each cell, from 0.

    Args:
        rows: of the cells, any shape, not negative.
        columns: of the same cells.
        shape: rows and columns of the grid they lie in. The curve is that of the smallest square with a power of
            two as its side that holds it; None takes the smallest that holds these cells.

    Returns:
        As many positions as there are cells, each below the square of the square's side.

    Source: D. Hilbert, "Über die stetige Abbildung einer Linie auf ein Flächenstück", 1891; computed bit by bit
    from the largest quarter to the smallest.
    """
    row, column = np.array(rows, np.uint32), np.array(columns, np.uint32)
    side = max(shape) if shape is not None else 1 + max(row.max(initial=0), column.max(initial=0))
    bits = int(side - 1).bit_length()
    if bits > MOST_BITS:
        raise ValueError(f"a grid of {side} cells a side has no 64-bit positions")
    position = np.zeros(row.shape, np.uint64)
    for bit in range(bits - 1, -1, -1):
        south, east = (row >> np.uint32(bit)) & np.uint32(1), (column >> np.uint32(bit)) & np.uint32(1)
        position = (position << np.uint64(2)) | ((np.uint32(3) * east) ^ south)
        # What is left of row and column is seen as the quarter sees it: mirrored, and the axes changed over.
        within = np.uint32((1 << bit) - 1)
        row, column = row & within, column & within
        mirrored = (south == 0) & (east == 1)
        row, column = np.where(mirrored, within - row, row), np.where(mirrored, within - column, column)
        turned = south == 0
        row, column = np.where(turned, column, row), np.where(turned, row, column)
    return position
