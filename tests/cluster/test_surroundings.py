"""Which nodes of a cluster take workers, and how many seats wait for a place, as it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from cluster.gpu_actor import Placed
from cluster.placement import Fleet, NodeRoom
from cluster.seats import Seat
from cluster.surroundings import AWAY_S, Surroundings


@dataclass(slots=True)
class Known:
    """A cluster that is what a test says."""

    nodes: Sequence[NodeRoom]
    away: dict[str, float] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    closed: bool = False

    def have(self, *nodes: NodeRoom) -> None:
        self.nodes = nodes

    def now(self) -> Sequence[NodeRoom]:
        return self.nodes

    def leaving(self) -> Mapping[str, float]:
        return self.away

    def unfit(self) -> Mapping[str, str]:
        return self.bad

    def close(self) -> None:
        self.closed = True


def room(name: str, gpus: float = 1, free: float | None = None) -> NodeRoom:
    has = {"GPU": gpus, "CPU": 8.0}
    return NodeRoom(node=name, host=name, total=has, free=has | {"GPU": gpus if free is None else free})


def placed(name: str, node: str) -> Seat:
    return Seat(name=name, placed=Placed(node=node, host=node, pid=1))


def waiting(name: str) -> Seat:
    return Seat(name=name)


def test_a_seat_whose_worker_starts_slowly_is_one_too_many_only_after_a_minute() -> None:
    """Ray has given it the GPU of the second node, so that nothing is free there, and it has not spoken yet."""
    known = Known((room("a"), room("b")))
    around = Surroundings(Fleet(), known)
    seats = [placed("gpu-0", "a"), waiting("gpu-1")]
    found = []
    for at in (1.0, 30.0, 60.0, 61.0):
        known.have(room("a", free=0), room("b", free=0))
        found.append(around.change(seats, at))
    assert found == [0, 0, 0, -1]


def test_a_node_that_joins_is_used_at_once_and_a_look_that_is_no_new_one_changes_nothing() -> None:
    known = Known((room("a", free=0),))
    around = Surroundings(Fleet(), known)
    seats = [placed("gpu-0", "a")]
    assert around.change(seats, 1.0) == 0
    known.have(room("a", free=0), room("b", 2))
    assert around.change(seats, 2.0) == 2
    assert around.change([*seats, waiting("gpu-1")], 3.0) == 0


def test_workers_on_nodes_that_go_or_are_unfit_are_told_once_with_the_time_they_have() -> None:
    known = Known((room("a"), room("b"), room("c")))
    around = Surroundings(Fleet(), known)
    seats = [placed("gpu-0", "a"), placed("gpu-1", "b"), placed("gpu-2", "c"), waiting("gpu-3")]
    known.away, known.bad = {"a": 25.0}, {"b": "it has another resmap"}
    told = list(around.leaving(seats))
    assert [(seat.name, left_s, why) for seat, left_s, why in told] == [
        ("gpu-0", 25.0, "Ray drains its node"),
        ("gpu-1", math.inf, "it has another resmap"),
    ]
    for seat, _, _ in told:
        seat.leaves_at = 30.0
    assert list(around.leaving(seats)) == []


def test_nobody_is_put_onto_a_node_that_a_worker_says_goes_until_a_minute_after_it_should_have() -> None:
    known = Known((room("a"), room("b")))
    around = Surroundings(Fleet(least=2, most=2), known)
    around.goes("a", 10.0, within_s=30.0)
    known.have(room("a"), room("b"))
    around.change([], 11.0)
    assert around.shunned == {"a"}
    known.have(room("a"), room("b"))
    around.change([], 10.0 + 30.0 + AWAY_S + 1.0)
    assert around.shunned == frozenset()


def test_places_where_worker_after_worker_died_count_while_their_node_is_there() -> None:
    known = Known((room("a", 2), room("b")))
    around = Surroundings(Fleet(), known)
    around.give_up("a")
    assert around.wanted([]) == 2
    known.have(room("b"))
    around.change([], 1.0)
    assert around.wanted([]) == 1


@pytest.mark.parametrize("fleet", [Fleet(), Fleet(least=1, most=3)])
def test_a_cluster_with_nothing_has_one_that_waits_at_least(fleet: Fleet) -> None:
    around = Surroundings(fleet, known := Known(()))
    assert around.wanted([]) == (fleet.most or 1)
    around.close()
    assert known.closed
