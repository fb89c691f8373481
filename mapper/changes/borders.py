"""Pieces of shards → which are large enough, counting what they belong to next door.

        A   │   B   │   C          A was mapped anew, the others were not. What B's piece belongs to may have
      ░░░░░░│░░     │              grown or shrunk with A's, so it is decided anew, and so is C's if B's goes
            │ ░░░░░░│░░░           on there: as far as the chain of small pieces goes. A piece of B that is
            │       │              large enough by itself is kept whatever A's became, and ends the chain.

Only areas, and the pixels along the borders, are remembered of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.changes.pieces import Pieces
from mapper.grid import Grid
from mapper.outlines.fragments import components
from mapper.outlines.spans import Int

Place: TypeAlias = tuple[int, int]
"""Row and column of a shard in its grid."""

Found: TypeAlias = tuple[Pieces | None, ...]
"""The pieces of each kind in a shard."""

_UNSEEN, _SEEN, _DIRTY = range(3)

_AROUND = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
_AHEAD = [(0, 1), (1, -1), (1, 0), (1, 1)]
"""Half of those: the other half is met from the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of pieces of one kind in one shard that touch its border."""

    piece: Int
    large: NDArray[np.bool_]
    """Whether all that each hangs together with is large enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """What is remembered of the pieces of one kind in one shard."""

    place: Place
    kind: int
    piece: Int
    """Numbers of those that touch the border."""

    area: Int
    row: Int
    """Of each pixel along the border."""

    column: Int
    of: Int
    """To which of these pieces each belongs."""


def decide(
    grid: Grid,
    dirty: Iterable[Place],
    look: Callable[[Iterable[Place]], Iterator[Found]],
    least: float,
) -> dict[Place, dict[int, Decided]]:
    """Which pieces along the borders of shards are part of something large enough.

    Args:
        grid: of the shards.
        dirty: shards whose pieces may not be what they were.
        look: shards → the pieces in each, in order. Asked of each shard once.
        least: area in units of ``SpanAreas``; what has less is too small.

    Returns:
        By shard and kind. Of dirty shards all that touch a border, of others those that hang together with one of
        them, or may have done.
    """
    joint = _Joint(grid, least)
    dirty = sorted(set(dirty))
    joint.add(dirty, look(dirty), _DIRTY)
    needed = joint.around(dirty)
    while needed:
        joint.add(needed, look(needed), _SEEN)
        needed = joint.needed()
    return joint.decided()


class _Joint:
    """What is known so far along the borders."""

    def __init__(self, grid: Grid, least: float) -> None:
        self._grid, self._least = grid, least
        rows, columns = grid.tile_shape
        self._status = np.full((rows + 2, columns + 2), _SEEN, np.uint8)  # beyond the mosaic nothing goes on
        self._status[1:-1, 1:-1] = _UNSEEN
        self._edges: list[_Edge] = []

    def add(self, places: list[Place], found: Iterator[Found], status: int) -> None:
        for place, pieces_of_kinds in zip(places, found, strict=True):
            self._status[place[0] + 1, place[1] + 1] = status
            for kind, pieces in enumerate(pieces_of_kinds):
                if pieces is not None:
                    self._remember(place, kind, pieces)

    def _remember(self, place: Place, kind: int, pieces: Pieces) -> None:
        row, column, piece = pieces.border()
        if len(piece):
            touching, of = np.unique(piece, return_inverse=True)
            edge = _Edge(
                place=place, kind=kind, piece=touching, area=pieces.area[touching], row=row, column=column, of=of
            )
            self._edges.append(edge)

    def around(self, places: list[Place]) -> list[Place]:
        """The shards beside these that were not seen yet."""
        beside = {(row + down, column + right) for row, column in places for down, right in _AROUND}
        return sorted(place for place in beside if self._status[place[0] + 1, place[1] + 1] == _UNSEEN)

    def needed(self) -> list[Place]:
        """The shards in which pieces that are to be decided go on, as far as is known."""
        if not self._edges:
            return []
        asked, row, column, node = self._asked()
        places: set[Place] = set()
        waiting = asked[node]
        for down, right in self._shards_around(row[waiting], column[waiting]):
            unseen = self._status[down, right] == _UNSEEN
            places.update(zip((down[unseen] - 1).tolist(), (right[unseen] - 1).tolist(), strict=True))
        return sorted(places)

    def decided(self) -> dict[Place, dict[int, Decided]]:
        out: dict[Place, dict[int, Decided]] = {}
        if not self._edges:
            return out
        asked, _, _, _ = self._asked()
        area = np.concatenate([edge.area for edge in self._edges])
        count, group = components(len(area), *self._links())
        total = np.zeros(count, np.int64)
        np.add.at(total, group, area)
        large = total[group] >= self._least
        begin = 0
        for edge in self._edges:
            mine = slice(begin, begin + len(edge.piece))
            begin = mine.stop
            if asked[mine].any():
                chosen = np.flatnonzero(asked[mine])
                decided = Decided(piece=edge.piece[chosen], large=large[mine][chosen])
                out.setdefault(edge.place, {})[edge.kind] = decided
        return out

    def _asked(self) -> tuple[NDArray[np.bool_], Int, Int, Int]:
        """Which pieces are to be decided; and row, column and piece of each pixel along the borders."""
        dirty, area, row, column, node, _ = self._nodes()
        seed = dirty.copy()
        for down, right in self._shards_around(row, column):
            seed[node[self._status[down, right] == _DIRTY]] = True
        goes_on = dirty | (area < self._least)
        one, other = self._links()
        both = goes_on[one] & goes_on[other]
        count, group = components(len(area), one[both], other[both])
        asked_for = np.zeros(count, np.bool_)
        asked_for[group[seed & goes_on]] = True
        return asked_for[group] & goes_on, row, column, node

    def _shards_around(self, row: Int, column: Int) -> Iterator[tuple[Int, Int]]:
        """Places, in the array of what was seen, of the shards of the pixels around each pixel."""
        box, shard_px = self._grid.box, self._grid.shard_px
        for down, right in _AROUND:
            yield (row + down - box.top) // shard_px + 1, (column + right - box.left) // shard_px + 1

    def _nodes(self) -> tuple[NDArray[np.bool_], Int, Int, Int, Int, Int]:
        """Of each piece: whether its shard is dirty, its area. Of each pixel: row, column, piece, kind."""
        edges = self._edges
        many = [len(edge.piece) for edge in edges]
        before = np.cumsum([0, *many])
        dirty = [bool(self._status[edge.place[0] + 1, edge.place[1] + 1] == _DIRTY) for edge in edges]
        return (
            np.repeat(np.array(dirty, np.bool_), many),
            np.concatenate([edge.area for edge in edges]),
            np.concatenate([edge.row for edge in edges]),
            np.concatenate([edge.column for edge in edges]),
            np.concatenate([edge.of + first for edge, first in zip(edges, before, strict=False)]),
            np.repeat([edge.kind for edge in edges], [len(edge.of) for edge in edges]),
        )

    def _links(self) -> tuple[Int, Int]:
        """Pairs of pieces that touch: of one kind, with pixels side by side or corner to corner."""
        _, _, row, column, node, kind = self._nodes()
        box = self._grid.box
        width = box.width + 2  # so that what leaves a row on one side does not enter the next on the other
        key = ((row - box.top) + kind * (box.height + 1)) * width + (column - box.left + 1)
        order = np.argsort(key, kind="stable")
        key, node = key[order], node[order]
        ones, others = [], []
        for down, right in _AHEAD:
            wanted = key + down * width + right
            at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
            met = key[at] == wanted
            ones.append(node[met])
            others.append(node[at[met]])
        return np.concatenate(ones), np.concatenate(others)


def small_pieces(
    pieces: Pieces, decided: Decided | None, least: float, standing: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Which pieces of one kind in one shard are no change.

    Args:
        pieces: all of them.
        decided: what was found of those along the border.
        least: area in units of ``SpanAreas``.
        standing: for a shard that is not dirty: which pieces are a change as it stands; those along the border that
            were not decided anew are what they are.
    """
    small = np.asarray(pieces.area < least, np.bool_)
    if standing is not None:
        along = np.unique(pieces.border()[2])
        small[along] = ~standing[along]
    if decided is not None:
        small[decided.piece] = ~decided.large
    return small
