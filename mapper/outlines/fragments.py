"""One shard → the objects it holds, and what of them goes on next door.

Pixels are taken as spans: what is present from one column to another in one row. A shard of a hundred houses is some
thousand spans, and all that follows is arithmetic on those.

    spans ──touch by a side──► parts ──touch by a corner──► objects ──touch the border──► contacts
                                └──► corners, see mapper/outlines/rings.py
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mapper.grid import PixelBox
from mapper.outlines.rings import Corners, order_by_place
from mapper.outlines.span_area import SpanAreas
from mapper.outlines.spans import Int, Spans, Votes

Connectivity: TypeAlias = Literal[4, 8]
"""Whether pixels are of one object where they share a side (4), or where they share a corner too (8)."""

TOP, LEFT, BOTTOM, RIGHT = range(4)
"""Sides of a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What is known of objects and adds up; row ``n`` of each array is one object, or one shard's share of it."""

    anchor: Int
    """``(n, 2)``: lattice row and column of the northernmost, then westernmost pixel."""

    pixels: Int
    score: Int
    """Sum of the stored scores."""

    area: Int
    """In units of ``SpanAreas``."""

    bounds: Int
    """``(n, 4)``: top, left, bottom, right in lattice pixels, half-open."""

    wanted: NDArray[np.bool_]
    """Whether it has a pixel in the box asked for."""

    def __len__(self) -> int:
        return len(self.pixels)

    def of(self, rows: NDArray[Any]) -> Sums:
        """Some of them."""
        return Sums(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def joined(cls, some: list[Sums]) -> Sums:
        """One behind the other."""
        return cls(**{field.name: np.concatenate([getattr(one, field.name) for one in some]) for field in fields(cls)})

    def added_up(self, number: Int, count: int) -> Sums:
        """What has the same number, 0 to ``count``, as one."""
        order = order_by_place(number, self.anchor[:, 0], self.anchor[:, 1])
        first = np.searchsorted(number[order], np.arange(count))
        low = np.minimum.reduceat(self.bounds[order, :2], first)
        high = np.maximum.reduceat(self.bounds[order, 2:], first)
        return Sums(
            anchor=self.anchor[order[first]],
            pixels=np.add.reduceat(self.pixels[order], first),
            score=np.add.reduceat(self.score[order], first),
            area=np.add.reduceat(self.area[order], first),
            bounds=np.hstack([low, high]),
            wanted=np.logical_or.reduceat(self.wanted[order], first),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contacts:
    """Where parts touch the border of their shard, and may go on behind it."""

    part: Int
    side: Int
    line: Int
    """The lattice line that the border lies on."""

    begin: Int
    """First pixel along the line, in lattice pixels."""

    end: Int
    tile: Int
    """``(n, 2)``: row and column of the shard."""

    def __len__(self) -> int:
        return len(self.part)

    def of(self, rows: NDArray[Any]) -> Contacts:
        """Some of them."""
        return Contacts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def joined(cls, some: list[Contacts]) -> Contacts:
        """One behind the other."""
        return cls(**{field.name: np.concatenate([getattr(one, field.name) for one in some]) for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """Objects, or what one or several shards hold of them."""

    sums: Sums
    object_of_part: Int
    corners: Corners
    votes: Votes
    contacts: Contacts

    def touching_border(self) -> NDArray[np.bool_]:
        """Which objects have a contact."""
        touching = np.zeros(len(self.sums), np.bool_)
        touching[self.object_of_part[self.contacts.part]] = True
        return touching

    def of(self, chosen: NDArray[np.bool_]) -> Fragments:
        """Chosen objects, bool ``(object,)``, in their order."""
        parts = chosen[self.object_of_part]
        object_number, part_number = np.cumsum(chosen) - 1, np.cumsum(parts) - 1
        contacts = self.contacts.of(parts[self.contacts.part])
        return Fragments(
            sums=self.sums.of(chosen),
            object_of_part=object_number[self.object_of_part[parts]],
            corners=self.corners.of(parts, part_number),
            votes=self.votes.of(chosen, object_number),
            contacts=replace(contacts, part=part_number[contacts.part]),
        )

    @classmethod
    def joined(cls, some: list[Fragments]) -> Fragments:
        """One behind the other, still apart."""
        objects = np.cumsum([0, *(len(one.sums) for one in some)])
        parts = np.cumsum([0, *(len(one.object_of_part) for one in some)])
        return cls(
            sums=Sums.joined([one.sums for one in some]),
            object_of_part=np.concatenate(
                [one.object_of_part + before for one, before in zip(some, objects, strict=False)]
            ),
            corners=Corners.joined(
                [replace(one.corners, part=one.corners.part + before) for one, before in zip(some, parts, strict=False)]
            ),
            votes=Votes.joined(
                [
                    replace(one.votes, object=one.votes.object + before)
                    for one, before in zip(some, objects, strict=False)
                ]
            ),
            contacts=Contacts.joined(
                [
                    replace(one.contacts, part=one.contacts.part + before)
                    for one, before in zip(some, parts, strict=False)
                ]
            ),
        )


def pairs(
    line: tuple[Int, Int], begin: tuple[Int, Int], end: tuple[Int, Int], connectivity: Connectivity
) -> tuple[Int, Int]:
    """Which stretches of one list touch which of another, on the same line.

    Args:
        line: of both lists, sorted by line and then along it; those of one line do not overlap.
        begin: of both.
        end: of both.
        connectivity: 4 where they must share a pixel's side, 8 where a corner is enough.

    Returns:
        Positions in the first and in the second list.
    """
    low = min(int(begin[0].min(initial=0)), int(begin[1].min(initial=0)))
    span = max(int(end[0].max(initial=0)), int(end[1].max(initial=0))) - low + 1
    one_begin, other_begin = (at * span + (place - low) for at, place in zip(line, begin, strict=True))
    one_end, other_end = (at * span + (place - low) for at, place in zip(line, end, strict=True))
    corner = connectivity == 8
    first = np.searchsorted(other_end, one_begin, side="left" if corner else "right")
    last = np.searchsorted(other_begin, one_end, side="right" if corner else "left")
    many = np.maximum(last - first, 0)
    one = np.repeat(np.arange(len(many)), many)
    other = np.arange(len(one)) + np.repeat(first - (np.cumsum(many) - many), many)
    return one, other


def components(count: int, one: Int, other: Int) -> tuple[int, Int]:
    """How many groups the links between ``count`` things make, and the group of each, by their first members."""
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    groups, group = connected_components(links, directed=False)
    first = np.empty(groups, np.int64)
    first[group[::-1]] = np.arange(count)[::-1]
    number = np.empty(groups, np.int64)
    number[np.argsort(first)] = np.arange(groups)
    return int(groups), number[group]


def find_fragments(
    spans: Spans,
    areas: SpanAreas,
    *,
    connectivity: Connectivity,
    sides: tuple[bool, bool, bool, bool],
    tile: tuple[int, int],
    wanted: PixelBox,
) -> Fragments:
    """What one shard holds of objects, northernmost first.

    Args:
        spans: of what is present in it, at least one.
        areas: of spans in the shard's box.
        connectivity: what makes one object of pixels.
        sides: on which of its sides, top, left, bottom, right, another shard lies.
        tile: its row and column.
        wanted: the box asked for.
    """
    box, count = spans.box, len(spans.row)
    upper, lower = pairs((spans.row + 1, spans.row), (spans.begin,) * 2, (spans.end,) * 2, connectivity)
    by_side = (spans.begin[lower] < spans.end[upper]) & (spans.end[lower] > spans.begin[upper])
    parts, part = components(count, upper[by_side], lower[by_side])
    corner = ~by_side
    objects, object_of_part = components(parts, part[upper[corner]], part[lower[corner]])
    owner = object_of_part[part]
    row, begin, behind = spans.row + box.top, spans.begin + box.left, spans.end + box.left
    here = wanted.intersection(box)
    inside = (row >= here.top) & (row < here.bottom) & (behind > here.left) & (begin < here.right)
    sums = Sums(
        anchor=np.column_stack([row, begin]),
        pixels=spans.end - spans.begin,
        score=spans.score,
        area=areas(spans.row, spans.begin, spans.end),
        bounds=np.column_stack([row, begin, row + 1, behind]),
        wanted=inside,
    )
    return Fragments(
        sums=sums.added_up(owner, objects),
        object_of_part=object_of_part,
        corners=_corners(spans, part),
        votes=replace(spans.votes, object=owner[spans.votes.object]).added_up(),
        contacts=_contacts(spans, part, sides, tile),
    )


def _corners(spans: Spans, part: Int) -> Corners:
    """The corners of each part, as though nothing were present outside of the shard."""
    box = spans.box
    width = box.width + 1
    ends = np.stack([spans.begin, spans.end], axis=1).ravel()
    upper = np.repeat(spans.row, 2) * width + ends
    place = np.concatenate([upper, upper + width])
    sign = np.tile(np.array([1, -1], np.int8), len(spans.row))
    order = np.argsort(place, kind="stable")  # two sorted halves, merged
    place, sign = place[order], np.concatenate([sign, -sign])[order]
    # In one place at most two meet: one from above, one from below. Of a straight edge they are of opposite signs.
    straight = (place[1:] == place[:-1]) & (sign[1:] != sign[:-1])
    kept = np.ones(len(place), np.bool_)
    kept[1:] &= ~straight
    kept[:-1] &= ~straight
    span = order[kept] % (2 * len(part)) // 2
    row, column = np.divmod(place[kept], width)
    return Corners(part=part[span], row=row + box.top, column=column + box.left, sign=sign[kept])


def _contacts(spans: Spans, part: Int, sides: tuple[bool, bool, bool, bool], tile: tuple[int, int]) -> Contacts:
    box = spans.box
    found = []
    for side, edge, line in ((TOP, 0, box.top), (BOTTOM, box.height - 1, box.bottom)):
        at = np.flatnonzero(spans.row == edge) if sides[side] else np.empty(0, np.int64)
        found.append((side, line, part[at], spans.begin[at] + box.left, spans.end[at] + box.left))
    for side, touches, line in ((LEFT, spans.begin == 0, box.left), (RIGHT, spans.end == box.width, box.right)):
        at = np.flatnonzero(touches) if sides[side] else np.empty(0, np.int64)
        row = spans.row[at]
        new = np.ones(len(at) + 1, np.bool_)  # rows that follow one another touch, so they are one part
        new[1:-1] = np.diff(row) != 1
        first = np.flatnonzero(new[:-1])
        last = np.flatnonzero(new[1:])
        found.append((side, line, part[at[first]], row[first] + box.top, row[last] + 1 + box.top))
    many = [len(parts) for _, _, parts, _, _ in found]
    return Contacts(
        part=np.concatenate([parts for _, _, parts, _, _ in found]),
        side=np.repeat([side for side, *_ in found], many),
        line=np.repeat([line for _, line, *_ in found], many),
        begin=np.concatenate([begin for *_, begin, _ in found]),
        end=np.concatenate([end for *_, end in found]),
        tile=np.tile(np.array(tile, np.int64), (sum(many), 1)),
    )
