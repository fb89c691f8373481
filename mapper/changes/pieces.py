"""One shard → the pieces of raw change in it, and which of them touch its border.

A piece is what hangs together of pixels that became the same thing; corners count. One that touches no border is
complete; the others may go on next door, see ``mapper/changes/borders.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE
from mapper.outlines.fragments import components, pairs
from mapper.outlines.span_area import SpanAreas
from mapper.outlines.spans import Int, spans_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Pieces of one kind of change in one shard, numbered from the north."""

    box: PixelBox
    row: Int
    """Of each span of pixels, from the top of the box."""

    begin: Int
    end: Int
    piece: Int
    """The number of each span's piece."""

    area: Int
    """Of each piece, in units of ``SpanAreas``."""

    def border(self) -> tuple[Int, Int, Int]:
        """Lattice row, column and piece of each pixel along the border; one in a corner of the box may come twice."""
        height, width = self.box.shape
        level = np.flatnonzero((self.row == 0) | (self.row == height - 1))
        row, column, piece = _pixels(self.row[level], self.begin[level], self.end[level], self.piece[level])
        left, right = np.flatnonzero(self.begin == 0), np.flatnonzero(self.end == width)
        return (
            np.concatenate([row, self.row[left], self.row[right]]) + self.box.top,
            np.concatenate([column, self.begin[left], self.end[right] - 1]) + self.box.left,
            np.concatenate([piece, self.piece[left], self.piece[right]]),
        )

    def first_pixels(self) -> tuple[Int, Int]:
        """Row and column, in the box, of each piece's northernmost, then westernmost pixel."""
        _, first = np.unique(self.piece, return_index=True)
        return self.row[first], self.begin[first]

    def painted(self, chosen: NDArray[np.bool_], on: NDArray[np.bool_]) -> None:
        """Set the pixels of chosen pieces, bool ``(piece,)``, in an array over the box."""
        spans = np.flatnonzero(chosen[self.piece])
        row, column, _ = _pixels(self.row[spans], self.begin[spans], self.end[spans], self.piece[spans])
        on[row, column] = True


def find_pieces(changed: NDArray[np.bool_], areas: SpanAreas) -> Pieces | None:
    """The pieces of what changed; None where nothing did.

    Args:
        changed: ``(y, x)`` over the box of ``areas``.
        areas: of spans in the shard.
    """
    if not changed.any():
        return None
    nothing = np.broadcast_to(np.uint8(0), changed.shape)
    spans = spans_of(changed, nothing, np.broadcast_to(NO_SOURCE, changed.shape), areas.box)
    upper, lower = pairs((spans.row + 1, spans.row), (spans.begin,) * 2, (spans.end,) * 2, 8)
    count, piece = components(len(spans.row), upper, lower)
    area = np.zeros(count, np.int64)
    np.add.at(area, piece, areas(spans.row, spans.begin, spans.end))
    return Pieces(box=areas.box, row=spans.row, begin=spans.begin, end=spans.end, piece=piece, area=area)


def _pixels(row: Int, begin: Int, end: Int, piece: Int) -> tuple[Int, Int, Int]:
    """Row, column and piece of each pixel of some spans."""
    length = end - begin
    ahead = np.cumsum(length) - length
    column = np.arange(int(length.sum())) + np.repeat(begin - ahead, length)
    return np.repeat(row, length), column, np.repeat(piece, length)
