"""The cluster around the seats of a pool: which of its nodes take workers, and how many should wait for a place there.

Rules and state; who knows the cluster is asked in ``cluster/nodes.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from cluster.placement import Fleet, NodeRoom, Steadied
from cluster.seats import Seat, by_node

if TYPE_CHECKING:
    from cluster.nodes import Nodes

AWAY_S = 60.0
"""A worker that says that it goes is believed for so long after it has gone. Where only its process had to, its place
is filled again then."""


class Surroundings:
    """As they were looked at last. Threads must not share one."""

    def __init__(self, fleet: Fleet, cluster: Nodes) -> None:
        """Look for the first time.

        Args:
            fleet: what is asked for.
            cluster: who knows it; closed with this.
        """
        self._fleet, self._cluster = fleet, cluster
        self.nodes: Sequence[NodeRoom] = cluster.now()
        self._staying = self.nodes
        """Of those, where workers may be."""

        self.shunned: frozenset[str] = frozenset()
        """Of the others, those that Ray would still put workers on."""

        self._going: dict[str, float] = {}
        """Nodes of which a worker has said that they go → until when that is believed."""

        self._given_up: Counter[str] = Counter()
        """Node → seats that were given up there."""

        self._steadied = Steadied()

    def close(self) -> None:
        """Ask no more."""
        self._cluster.close()

    def wanted(self, seats: Collection[Seat]) -> int:
        """How many of the seats should be waiting for a place."""
        here = {node.node for node in self.nodes} | {""}
        given_up = {node: count for node, count in self._given_up.items() if node in here}
        return self._fleet.to_wait(self._staying, by_node(seats), given_up)

    def leaving(self, seats: Collection[Seat]) -> Iterator[tuple[Seat, float, str]]:
        """Those that have to go and do not know yet: the seconds each has left, infinite where nobody has said, and
        why."""
        leaving, unfit = self._cluster.leaving(), self._cluster.unfit()
        for seat in seats:
            if seat.waits or seat.leaves_at is not None:
                continue
            if seat.node in leaving:
                yield seat, leaving[seat.node], "Ray drains its node"
            elif seat.node in unfit:
                yield seat, math.inf, unfit[seat.node]

    def change(self, seats: Collection[Seat], at: float) -> int:
        """By how many to change those that wait, at this second; none till the cluster has been asked again."""
        nodes = self._cluster.now()
        if nodes is self.nodes:
            return 0
        joined = bool({node.node for node in nodes} - {node.node for node in self.nodes})
        self.nodes = nodes
        self._going = {node: until for node, until in self._going.items() if until > at}
        unfit, leaving = self._cluster.unfit(), self._cluster.leaving()
        self.shunned = frozenset(node.node for node in nodes if node.node in unfit or node.node in self._going)
        self._staying = [node for node in nodes if node.node not in self.shunned | leaving.keys()]
        waiting = sum(seat.waits for seat in seats)
        return self._steadied.step(self.wanted(seats), waiting, at, joined=joined)

    def goes(self, node: str, at: float, within_s: float) -> None:
        """A worker there has said, at this second, that its machine goes within so many."""
        self._going[node] = at + within_s + AWAY_S

    def give_up(self, node: str) -> None:
        """Worker after worker has died there: one seat fewer."""
        self._given_up[node] += 1
