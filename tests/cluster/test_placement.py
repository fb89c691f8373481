"""Which workers there should be: rules over what is asked for and what a cluster has."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Fleet, NodeRoom, Steadied, check_room, matches
from cluster.seats import MARGIN_S, time_to_finish
from mapper.errors import ResourceError

AUTO = Fleet()


def node(name: str = "a", gpus: float = 1, free: float | None = None, *, cpus: float = 8, **labels: str) -> NodeRoom:
    has = {"GPU": gpus, "CPU": cpus}
    return NodeRoom(node=name, total=has, free={**has, "GPU": gpus if free is None else free}, labels=labels)


@pytest.mark.parametrize(
    ("label", "wanted", "answer"),
    [
        ("spot", "spot", True), ("spot", "on-demand", False), (None, "spot", False),
        ("spot", "!spot", False), ("on-demand", "!spot", True), (None, "!spot", True),
        ("b", "in(a, b)", True), ("c", "in(a,b)", False), (None, "in(a, b)", False),
        ("b", "!in(a, b)", False), ("c", "!in(a, b)", True), (None, "!in(a, b)", True),
    ],
)  # fmt: skip
def test_a_label_is_held_against_what_is_wanted_as_ray_does(label: str | None, wanted: str, answer: bool) -> None:
    assert matches(label, wanted) is answer


@pytest.mark.parametrize(
    ("fleet", "has", "room"),
    [
        (Fleet(), {"GPU": 4.0, "CPU": 8.0}, 4),
        (Fleet(), {"GPU": 4.0, "CPU": 3.0}, 3),
        (Fleet(cpus=0), {"GPU": 4.0}, 4),
        (Fleet(cpus=2), {"GPU": 4.0, "CPU": 7.5}, 3),
        (Fleet(workers_per_gpu=3), {"GPU": 1.0, "CPU": 8.0}, 3),
        (Fleet(workers_per_gpu=3), {"GPU": 1 - 2 * 0.3333, "CPU": 8.0}, 1),
        (Fleet(workers_per_gpu=3), {"GPU": 1 - 3 * 0.3333, "CPU": 8.0}, 0),
        (Fleet(gpu_type="L4"), {"GPU": 4.0, "CPU": 8.0}, 0),
        (Fleet(gpu_type="L4"), {"GPU": 4.0, "CPU": 8.0, "accelerator_type:L4": 1.0}, 4),
        (Fleet(gpu_type="L4"), {"GPU": 1.0, "CPU": 8.0, "accelerator_type:L4": 0.997}, 1),
        (Fleet(resources={"licence": 0.5}), {"GPU": 4.0, "CPU": 8.0, "licence": 1.0}, 2),
        (Fleet(), {"CPU": 8.0}, 0),
    ],
)
def test_a_node_has_room_for_what_all_its_resources_allow(fleet: Fleet, has: dict[str, float], room: int) -> None:
    assert fleet.room(NodeRoom(node="a"), has) == room


def test_a_node_without_the_labels_asked_for_has_no_room() -> None:
    fleet = Fleet(labels={"market": "!spot"})
    assert fleet.capacity([node(gpus=4, market="spot"), node(gpus=2, market="on-demand"), node(gpus=1)]) == 3


def test_left_to_the_cluster_there_are_as_many_as_gpus_that_nobody_else_has() -> None:
    assert AUTO.to_wait([node("a", 4), node("b", 2)], {}, {}) == 6
    assert AUTO.to_wait([node("a", 4, free=1), node("b", 2, free=0)], {}, {}) == 1
    assert AUTO.to_wait([node("a", 4, free=1), node("b", 2)], {"a": 3}, {}) == 3
    assert Fleet(workers_per_gpu=2).to_wait([node("a", 2)], {"a": 1}, {}) == 3


def test_left_to_the_cluster_a_first_worker_waits_even_where_there_is_no_room() -> None:
    assert AUTO.to_wait([], {}, {}) == AUTO.to_wait([node("a", 1, free=0)], {}, {}) == 1
    assert AUTO.to_wait([node("a", 1, free=0)], {"a": 1}, {}) == 0


def test_what_ray_says_is_free_a_moment_late_makes_no_worker_too_many() -> None:
    assert AUTO.to_wait([node("a", 2, free=2)], {"a": 2}, {}) == 0


def test_a_number_is_asked_for_whatever_there_is_and_a_range_up_to_its_most() -> None:
    assert Fleet.of(3).to_wait([node("a", 1)], {"a": 1}, {}) == 2
    assert Fleet(least=1, most=8).to_wait([], {"a": 1, "b": 2}, {}) == 5
    assert Fleet(least=1, most=2, workers_per_gpu=4).to_wait([], {}, {}) == 8


def test_where_worker_after_worker_died_nobody_is_put_again() -> None:
    assert Fleet.of(3).to_wait([node("a", 3)], {"a": 1}, {"a": 2}) == 0
    assert AUTO.to_wait([node("a", 3, free=2)], {"a": 1}, {"a": 1}) == 1
    assert AUTO.to_wait([node("a", 1)], {}, {"a": 1}) == 0


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6),
    st.integers(1, 4),
    st.integers(0, 60),
)
def test_left_to_the_cluster_never_more_than_fit_beside_those_that_are_there(
    found: list[tuple[int, int]], per_gpu: int, spread: int
) -> None:
    fleet = Fleet(workers_per_gpu=per_gpu, cpus=0)
    nodes = [node(str(n), gpus, min(gpus, free)) for n, (gpus, free) in enumerate(found)]
    placed = Counter({one.node: min(spread % 5, fleet.room(one, one.total)) for one in nodes})
    asked = fleet.to_wait(nodes, placed, {})
    assert asked + placed.total() <= max(1, fleet.capacity(nodes))


def test_more_that_are_wanted_are_asked_for_once_that_is_seen_twice() -> None:
    steadied = Steadied()
    assert steadied.step(3, 0, 1.0) == 0
    assert steadied.step(2, 0, 2.0) == 2
    assert steadied.step(2, 2, 3.0) == 0


def test_a_node_that_was_not_there_before_is_used_at_once() -> None:
    assert Steadied().step(2, 0, 1.0, joined=True) == 2


def test_too_many_that_wait_are_given_up_once_they_have_been_for_a_while() -> None:
    steadied = Steadied(fewer_after_s=5.0)
    assert [steadied.step(0, 2, at) for at in (1.0, 3.0, 5.9, 6.0)] == [0, 0, 0, -2]
    assert [steadied.step(0, 1, at) for at in (7.0,)] == [-1]
    assert [steadied.step(wanted, 1, at) for wanted, at in ((0, 20.0), (1, 21.0), (0, 22.0), (0, 26.0))] == [
        -1,
        0,
        0,
        0,
    ]


def test_a_cluster_that_cannot_grow_refuses_more_than_it_has_and_one_that_can_is_waited_for() -> None:
    with pytest.raises(ResourceError, match="5 GPU workers were asked of a cluster with 3 GPUs") as refused:
        check_room(Fleet.of(5), [node("a", 3)], may_grow=False)
    assert refused.value.fix == "pass --gpus 3"
    assert "5 GPU workers were asked of a cluster with 3" in check_room(Fleet.of(5), [node("a", 3)], may_grow=True)
    assert check_room(Fleet(least=2, most=5), [node("a", 3)], may_grow=False) == ""
    with pytest.raises(ResourceError, match="with 0 GPUs of type L4, on nodes with market=spot"):
        check_room(Fleet(gpu_type="L4", labels={"market": "spot"}), [node("a", 3)], may_grow=False)


def test_ray_is_asked_for_no_more_than_was_asked_of_us() -> None:
    assert AUTO.asks_for() == {"num_gpus": 1.0, "num_cpus": 1.0}
    fleet = Fleet(workers_per_gpu=3, gpu_type="L4", labels={"market": "spot"}, resources={"licence": 1}, cpus=0.5)
    assert fleet.asks_for(beside=["b", "a"]) == {
        "num_gpus": 0.3333,
        "num_cpus": 0.5,
        "resources": {"licence": 1},
        "accelerator_type": "L4",
        "label_selector": {"market": "spot", "ray.io/node-id": "!in(a, b)"},
    }


@pytest.mark.parametrize(
    ("fleet", "gpus", "cores"),
    [
        (AUTO, None, 0), (Fleet.of(4), 4, 0), (Fleet(least=1, most=8), None, 0), (Fleet(least=2, most=8), 2, 0),
        (Fleet(least=2, most=2, workers_per_gpu=4), 2, 6), (Fleet(workers_per_gpu=4, cpus=2), None, 7),
        (Fleet.of(1), 1, 0), (Fleet(least=2, most=2, cpus=0), 2, 0),
    ],
)  # fmt: skip
def test_a_ray_on_this_machine_has_gpus_and_cores_for_what_is_asked(fleet: Fleet, gpus: int | None, cores: int) -> None:
    assert (fleet.here, fleet.cores_beside) == (gpus, cores)


def test_a_worker_that_leaves_has_its_time_but_for_what_its_answers_take() -> None:
    assert time_to_finish(110.0) == 110.0 - MARGIN_S
    assert time_to_finish(4.0) == 3.0
    assert time_to_finish(0.0) == 0.0
    assert 60.0 <= time_to_finish(float("inf")) <= 900.0
