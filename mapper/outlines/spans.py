"""Spans: present pixels side by side in one row, from one column to another. And what they show.

A shard of a hundred houses is some thousand spans, and all that is asked of its objects is arithmetic on those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE, Source

Int: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Stretches of present pixels, row by row from the top, and what is known of them."""

    row: Int
    """Counted from the top of the box."""

    begin: Int
    """First column, counted from the left edge of the box."""

    end: Int
    score: Int
    """Sum of the stored scores."""

    votes: Votes
    """Of spans, not of objects."""

    box: PixelBox

    @classmethod
    def joined(cls, some: list[Spans], box: PixelBox) -> Spans:
        """Those of bands of a box, from the top."""
        before = np.cumsum([0, *(len(one.row) for one in some)])
        return cls(
            row=np.concatenate([one.row + (one.box.top - box.top) for one in some]),
            begin=np.concatenate([one.begin for one in some]),
            end=np.concatenate([one.end for one in some]),
            score=np.concatenate([one.score for one in some]),
            votes=Votes.joined(
                [replace(one.votes, object=one.votes.object + first) for one, first in zip(some, before, strict=False)]
            ),
            box=box,
        )


def spans_of(present: NDArray[np.bool_], score: NDArray[np.uint8], source: Source, box: PixelBox) -> Spans:
    """The spans of a box, in which something is present.

    Args:
        present: ``(y, x)``.
        score: ``(y, x)``, as stored.
        source: ``(y, x)``, as stored.
        box: which box it is.
    """
    width = box.width + 1  # a column of nothing between one row and the next
    flat = np.zeros(box.height * width + 1, np.bool_)
    flat[1:].reshape(box.height, width)[:, :-1] = present
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    row, begin = np.divmod(edges[0::2], width)
    behind = np.cumsum(edges[1::2] - edges[0::2])
    total = np.cumsum(score[present], dtype=np.int64)[behind - 1]
    return Spans(
        row=row,
        begin=begin,
        end=edges[1::2] - row * width,
        score=np.diff(total, prepend=0),
        votes=_votes(source[present], behind),
        box=box,
    )


def _votes(source: Source, behind: Int) -> Votes:
    """Stretches of spans that show one scene; ``behind`` is where each span ends in ``source``."""
    new = np.zeros(len(source), np.bool_)
    new[0] = True
    new[1:] = source[1:] != source[:-1]
    new[behind[:-1]] = True
    first = np.flatnonzero(new)
    pixels = np.diff(first, append=len(source))
    seen = source[first] != NO_SOURCE
    return Votes(
        object=np.searchsorted(behind, first[seen], side="right"), source=source[first[seen]], pixels=pixels[seen]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """How many pixels of an object show which scene."""

    object: Int
    source: Source
    pixels: Int

    def of(self, chosen: NDArray[np.bool_], number: Int) -> Votes:
        """Those of chosen objects, which get new numbers; both ``(object,)``."""
        kept = np.flatnonzero(chosen[self.object])
        return Votes(object=number[self.object[kept]], source=self.source[kept], pixels=self.pixels[kept])

    @classmethod
    def joined(cls, some: list[Votes]) -> Votes:
        """One behind the other."""
        return cls(
            object=np.concatenate([one.object for one in some]),
            source=np.concatenate([one.source for one in some]),
            pixels=np.concatenate([one.pixels for one in some]),
        )

    def added_up(self) -> Votes:
        """A row an object and scene, sorted."""
        order = np.lexsort((self.source, self.object))
        owner, source = self.object[order], self.source[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (owner[1:] != owner[:-1]) | (source[1:] != source[:-1])
        first = np.flatnonzero(new)
        pixels = np.add.reduceat(self.pixels[order], first) if len(first) else self.pixels[:0]
        return Votes(object=owner[first], source=source[first], pixels=pixels)

    def winners(self, count: int) -> Source:
        """The scene that most pixels of each object show; of equals the first in the item table."""
        seen = self.added_up()
        order = np.lexsort((-seen.source.astype(np.int64), seen.pixels, seen.object))
        winners = np.full(count, NO_SOURCE, np.uint32)
        winners[seen.object[order]] = seen.source[order]  # of each object the last one stays
        return winners
