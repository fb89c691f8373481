"""Fragments of shards → objects, along the lines between shards.

A contact waits for the shard behind its border; and where a corner is enough to touch, for those across the shard's
corners. An object none of whose contacts waits is closed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mapper.grid import Grid, Tile
from mapper.outlines.fragments import BOTTOM, LEFT, RIGHT, TOP, Connectivity, Contacts, Fragments, components, pairs
from mapper.outlines.spans import Int


class Joint:
    """What is open still, and which shards were seen."""

    def __init__(self, grid: Grid, connectivity: Connectivity) -> None:
        self._grid, self._connectivity = grid, connectivity
        rows, columns = grid.tile_shape
        self._seen = np.ones((rows + 2, columns + 2), np.bool_)  # beyond the mosaic there is nothing to wait for
        self._seen[1:-1, 1:-1] = False
        self._open: Fragments | None = None

    def seen(self, tile: Tile) -> None:
        """Wait for this shard no more: what it holds is given to the next ``join``."""
        self._seen[tile.row + 1, tile.column + 1] = True

    def join(self, fragments: list[Fragments]) -> Fragments | None:
        """Add what shards that were seen hold; the objects this closes, of those asked for, or None."""
        some = [*([self._open] if self._open is not None else []), *fragments]
        if not some:
            return None
        joined = _joined(Fragments.joined(some), self._connectivity)
        waits = np.asarray(self._unseen(joined.contacts).any(axis=1), np.bool_)
        waiting = replace(joined, contacts=joined.contacts.of(waits))
        still_open = waiting.touching_border()
        self._open = waiting.of(still_open) if still_open.any() else None
        done = ~still_open & joined.sums.wanted
        return joined.of(done) if done.any() else None

    def needed(self) -> list[Tile]:
        """The shards that objects asked for go on in, as far as is known, row by row."""
        if self._open is None:
            return []
        contacts = self._open.contacts
        asked_for = self._open.sums.wanted[self._open.object_of_part[contacts.part]]
        unseen = self._unseen(contacts) & asked_for[:, None]
        places = np.unique(self._around(contacts)[unseen], axis=0)
        return [self._grid.tile(int(row) - 1, int(column) - 1) for row, column in places]

    def _unseen(self, contacts: Contacts) -> NDArray[np.bool_]:
        """Of the shards around each contact, which it waits for."""
        around = self._around(contacts)
        unseen: NDArray[np.bool_] = ~self._seen[around[..., 0], around[..., 1]]
        return unseen

    def _around(self, contacts: Contacts) -> Int:
        """``(contact, 3, 2)``: the shard behind the border and those a corner of the contact touches, or the same."""
        step = np.zeros((4, 2), np.int64)
        step[[TOP, LEFT, BOTTOM, RIGHT]] = [(-1, 0), (0, -1), (1, 0), (0, 1)]
        around = np.repeat((contacts.tile + 1 + step[contacts.side])[:, None], 3, axis=1)
        if self._connectivity == 8:
            box, shard_px = self._grid.box, self._grid.shard_px
            level = (contacts.side == TOP) | (contacts.side == BOTTOM)
            left = box.left + contacts.tile[:, 1] * shard_px
            around[:, 1, 1] -= level & (contacts.begin == left)
            around[:, 2, 1] += level & (contacts.end == left + shard_px)
        return around


def _joined(fragments: Fragments, connectivity: Connectivity) -> Fragments:
    """Parts and objects of several shards as one where they touch along the lines between them."""
    contacts = fragments.contacts
    by_side: list[tuple[Int, Int]] = []
    by_corner: list[tuple[Int, Int]] = []
    for before, behind in ((BOTTOM, TOP), (RIGHT, LEFT)):
        one, other = (_along_lines(contacts.of(contacts.side == side)) for side in (before, behind))
        lines = np.unique(one.line)  # numbers of their own, so that the keys made of them stay small
        other = other.of(np.isin(other.line, lines))
        line = np.searchsorted(lines, one.line), np.searchsorted(lines, other.line)
        a, b = pairs(line, (one.begin, other.begin), (one.end, other.end), connectivity)
        share = (one.begin[a] < other.end[b]) & (other.begin[b] < one.end[a])
        by_side.append((one.part[a[share]], other.part[b[share]]))
        by_corner.append((one.part[a[~share]], other.part[b[~share]]))
    sides, corners = (np.concatenate(links, axis=1) for links in (by_side, by_corner))
    parts, part = components(len(fragments.object_of_part), sides[0], sides[1])
    links = fragments.object_of_part[np.concatenate([sides, corners], axis=1)]
    objects, number = components(len(fragments.sums), links[0], links[1])
    object_of_part = np.empty(parts, np.int64)
    object_of_part[part] = number[fragments.object_of_part]
    return Fragments(
        sums=fragments.sums.added_up(number, objects),
        object_of_part=object_of_part,
        corners=replace(fragments.corners, part=part[fragments.corners.part]),
        votes=replace(fragments.votes, object=number[fragments.votes.object]).added_up(),
        contacts=replace(contacts, part=part[contacts.part]),
    )


def _along_lines(contacts: Contacts) -> Contacts:
    return contacts.of(np.lexsort((contacts.begin, contacts.line)))
