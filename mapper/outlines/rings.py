"""Corners → rings → polygons, whole batches at once.

The outline of a set of pixels is known by its corners. Each has a sign, from the four pixels around it::

    sign = north-west − north-east − south-west + south-east          (1 where the pixel is in the set, else 0)

0 is no corner: nothing there, all there, or a straight edge. So the corners of a union of disjoint sets are those of
the sets, added up: what is cut along a seam comes together again by adding, and no edge along the seam stays.

In the rows of a set of corners every second one ends what the one before it began, and so in its columns: sorted
twice, they are linked. A sign of 2 or −2 is two corners in one place, where the set touches itself: there the ring
keeps to the pixels outside, so that it never meets itself and a hole touches the outline in a point.

That makes valid polygons of a set that hangs together by the sides of its pixels. One that hangs together by corners
too is several of those, and its geometry a multipolygon of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from mapper.grid import Lattice


@dataclass(frozen=True, slots=True, kw_only=True)
class Corners:
    """Corners of numbered sets of pixels."""

    part: NDArray[np.int64]
    """Number of the set: pixels that hang together by their sides."""

    row: NDArray[np.int64]
    """Lattice line that the corner lies on: the upper edge of the pixels of this row."""

    column: NDArray[np.int64]
    """Likewise, the left edge of the pixels of this column."""

    sign: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.part)

    def of(self, chosen: NDArray[np.bool_], number: NDArray[np.int64]) -> Corners:
        """Those of chosen parts, which get new numbers; both ``(part,)``."""
        kept = np.flatnonzero(chosen[self.part])
        return Corners(part=number[self.part[kept]], row=self.row[kept], column=self.column[kept], sign=self.sign[kept])

    @classmethod
    def joined(cls, some: list[Corners]) -> Corners:
        """All of them, not yet added up."""
        return cls(
            part=np.concatenate([one.part for one in some]),
            row=np.concatenate([one.row for one in some]),
            column=np.concatenate([one.column for one in some]),
            sign=np.concatenate([one.sign for one in some]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Closed rings of lattice corners: the object to their left, on a map; the outer one of a part first."""

    points: NDArray[np.int64]
    """``(point, 2)``: column, row; a ring ends where it began."""

    ring_end: NDArray[np.int64]
    """Behind the last point of each ring."""

    part_end: NDArray[np.int64]
    """Behind the last ring of each part, in the order of the parts' numbers."""

    def northwest(self) -> NDArray[np.int64]:
        """``(part, 2)``: column, row of each part's northernmost, then westernmost corner."""
        first_ring = np.concatenate([[0], self.part_end[:-1]])
        first_point = np.concatenate([[0], self.ring_end])[first_ring]
        # An outer ring begins with its northernmost edge, which runs west.
        return np.asarray(self.points[first_point + 1], np.int64)

    def polygons(self, lattice: Lattice) -> NDArray[np.object_]:
        """A shapely Polygon a part, in the lattice's CRS."""
        points = np.empty(self.points.shape)
        points[:, 0] = lattice.phase_x + self.points[:, 0] * lattice.res_x
        points[:, 1] = lattice.phase_y - self.points[:, 1] * lattice.res_y
        sizes = np.diff(self.ring_end, prepend=0)
        rings = shapely.linearrings(points, indices=np.repeat(np.arange(len(sizes)), sizes))
        many = np.diff(self.part_end, prepend=0)
        polygons: NDArray[np.object_] = shapely.polygons(rings, indices=np.repeat(np.arange(len(many)), many))
        return polygons


def trace(corners: Corners) -> Rings:
    """The rings of parts numbered from 0 on, from corners in any order, which are added up first."""
    corners = _added_up(corners)
    along = np.flatnonzero(np.arange(len(corners)) % 2 == 0)  # every second corner begins a level edge
    # What is present lies below a level edge where the signs of its row add up to 1: there the ring runs west.
    below = np.cumsum(corners.sign, dtype=np.int64)[along] == 1
    begins, ends = np.where(below, along + 1, along), np.where(below, along, along + 1)
    upright = _upright_partner(corners)
    edge_at = np.empty(len(corners), np.int64)
    edge_at[begins] = np.arange(len(along))
    order, first = _cycles(edge_at[upright[ends]])
    sizes = 2 * np.diff(first, append=len(order))
    part_of_ring = corners.part[along[order[first]]]
    points = np.stack([begins[order], ends[order]], axis=1).ravel()
    starts = np.cumsum(sizes) - sizes
    points = np.insert(points, starts + sizes, points[starts])  # each ring is closed
    return Rings(
        points=np.column_stack([corners.column[points], corners.row[points]]),
        ring_end=np.cumsum(sizes + 1),
        part_end=np.searchsorted(part_of_ring, np.arange(int(part_of_ring[-1]) + 1), side="right"),
    )


def _added_up(corners: Corners) -> Corners:
    """Sorted by part, row and column; those in one place added up, and what is left twice said twice."""
    order = order_by_place(corners.part, corners.row, corners.column)
    part, row, column = corners.part[order], corners.row[order], corners.column[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (part[1:] != part[:-1]) | (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    first = np.flatnonzero(new)
    total = np.add.reduceat(corners.sign[order], first)
    times = np.abs(total)
    place = np.repeat(first, times)
    return Corners(
        part=part[place], row=row[place], column=column[place], sign=np.repeat(np.sign(total), times).astype(np.int8)
    )


def order_by_place(number: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """What sorts by number, then row, then column; quick where rows and columns are in order already."""
    row, column = row - row.min(initial=0), column - column.min(initial=0)
    order = np.argsort(row * (int(column.max(initial=0)) + 1) + column, kind="stable")
    return order[np.argsort(narrow(number[order]), kind="stable")]


def narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """The values less their smallest, in as few bits as they need: numpy sorts 16 bits in linear time."""
    low = int(values.min(initial=0))
    return (values - low).astype(np.min_scalar_type(int(values.max(initial=0)) - low))


def _upright_partner(corners: Corners) -> NDArray[np.int64]:
    """The corner at the other end of each one's upright edge.

    Of two in one place, sorted along the row, the first ends the edge from the west and the second begins that to
    the east. Along the column the first ends the edge from the north. With the sign 2, north-west and south-east
    being present, a ring that keeps outside couples north with east: the two change places.
    """
    twice = np.zeros(len(corners), np.bool_)
    twice[1:] = (
        (corners.part[1:] == corners.part[:-1])
        & (corners.row[1:] == corners.row[:-1])
        & (corners.column[1:] == corners.column[:-1])
    )
    rank = np.arange(len(corners))
    second = np.flatnonzero(twice & (corners.sign > 0))
    rank[second], rank[second - 1] = second - 1, second
    order = rank[np.argsort(narrow(corners.column[rank]), kind="stable")]  # rows stay in order
    order = order[np.argsort(narrow(corners.part[order]), kind="stable")]
    partner = np.empty(len(corners), np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The members of a permutation cycle by cycle, each in its order, and where in them each cycle begins.

    A cycle begins with its smallest member, and cycles come in the order of those.
    """
    count = len(following)
    steps = np.arange(count + 1)
    cycles, cycle = connected_components(csr_array((np.ones(count, np.int8), following, steps), shape=(count, count)))
    smallest = np.empty(cycles, np.int64)
    smallest[cycle[::-1]] = np.arange(count)[::-1]
    smallest.sort()
    # The cycles are opened and strung together, so that one walk meets all of them.
    before = np.empty(count, np.int64)
    before[following] = np.arange(count)
    path = following.copy()
    path[before[smallest[:-1]]] = smallest[1:]
    graph = csr_array((np.ones(count, np.int8), path, steps), shape=(count, count))
    order = breadth_first_order(graph, int(smallest[0]), return_predecessors=False).astype(np.int64)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return order, place[smallest]
