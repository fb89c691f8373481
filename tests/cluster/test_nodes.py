"""Which nodes there are: asked again and again, whatever the head answers; those that join are looked at."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.nodes import RayNodes, nodes_of_ray
from cluster.placement import NodeRoom
from mapper.errors import ResourceError
from tests.cluster.nodes import until


class Head:
    """Answers what it is told to; some nodes have another resmap."""

    def __init__(self, *nodes: str) -> None:
        self.answer: tuple[str, ...] | Exception = nodes
        self.old: set[str] = set()
        self.asked = 0

    def ask(self) -> tuple[NodeRoom, ...]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return tuple(NodeRoom(node=name) for name in self.answer)

    def check(self, nodes: Collection[str]) -> None:
        if old := sorted(self.old & set(nodes)):
            raise ResourceError(f"node {old[0]} has another resmap")


@contextmanager
def watching(head: Head) -> Iterator[RayNodes]:
    nodes = RayNodes(ask=head.ask, check=head.check, every_s=0.01)
    try:
        yield nodes
    finally:
        nodes.close()


def test_a_cluster_is_what_ray_knows_of_its_nodes(ray_cluster: Any) -> None:
    (node,) = nodes_of_ray()
    assert (node.total["GPU"], node.total["CPU"]) == (3.0, 4.0)
    assert node.free.get("GPU", 0.0) <= 3.0
    assert node.labels["ray.io/node-id"] == node.node


def test_a_cluster_of_which_one_node_has_another_resmap_is_refused_and_one_that_joins_later_is_unfit(
    ray_cluster: Any,
) -> None:
    head = Head("a", "b")
    head.old = {"b", "c"}
    with pytest.raises(ResourceError, match="node b has another resmap"):
        RayNodes(ask=head.ask, check=head.check)
    head.answer = ("a",)
    with watching(head) as nodes:
        head.answer = ("a", "c", "d")
        until(nodes.unfit)
        assert set(nodes.unfit()) == {"c"}
        assert "another resmap" in nodes.unfit()["c"]
        until(lambda: [node.node for node in nodes.now()] == ["a", "c", "d"])


def test_a_head_that_does_not_answer_is_asked_again_and_said_once(
    ray_cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    head = Head("a")
    with watching(head) as nodes:
        head.answer = ConnectionError("nobody there")
        asked = head.asked
        until(lambda: head.asked > asked + 3)
        assert [node.node for node in nodes.now()] == ["a"]
        head.answer = ("a", "b")
        until(lambda: len(nodes.now()) == 2)
    assert sum("does not say which nodes there are" in line.message for line in caplog.records) == 1
