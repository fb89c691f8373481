"""Which nodes go away: whatever the head answers, or does not; and as a real one does, once it was told."""

from __future__ import annotations

import logging
import math
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.drain import Drained, drain
from cluster.draining import Draining, node_here
from mapper.errors import ResourceError
from tests.cluster.nodes import RAY, until

NOW = 1_800_000_000.0


class Head:
    """Answers what it is told to, and counts the questions."""

    def __init__(self) -> None:
        self.answer: Mapping[str, int] | Exception = {}
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> Mapping[str, int]:
        self.asked += 1
        self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextmanager
def watching(head: Head) -> Iterator[Draining]:
    draining = Draining(head, every_s=0.01, now=lambda: NOW)
    try:
        yield draining
    finally:
        head.may_answer.set()
        draining.close()


def asked_again(head: Head) -> None:
    """Wait until an answer that is given from now on has been heard."""
    asked = head.asked
    until(lambda: head.asked > asked + 1)


def test_nodes_that_drain_are_told_with_the_seconds_they_have() -> None:
    head = Head()
    with watching(head) as draining:
        asked_again(head)
        assert draining.leaving() == {}
        head.answer = {"aa": int((NOW + 90) * 1000), "bb": int((NOW - 5) * 1000), "cc": 0}
        asked_again(head)
        assert draining.leaving() == {"aa": pytest.approx(90), "bb": 0.0, "cc": math.inf}
        head.answer = {}  # it is gone
        asked_again(head)
        assert draining.leaving() == {}


def test_a_head_that_fails_is_asked_again_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    head = Head()
    head.answer = {"aa": 0}
    with caplog.at_level(logging.WARNING), watching(head) as draining:
        asked_again(head)
        for error in (ConnectionError("gone"), RuntimeError("not started"), TypeError("of another Ray")):
            head.answer = error
            asked_again(head)
            assert draining.leaving() == {"aa": math.inf}  # as it was told last
        head.answer = {"bb": 0}
        asked_again(head)
        assert set(draining.leaving()) == {"bb"}
    assert [record.getMessage() for record in caplog.records] == [
        "the head does not say which nodes drain: ConnectionError: gone"
    ]


def test_a_head_that_does_not_answer_holds_nobody_up() -> None:
    head = Head()
    head.answer = {"aa": 0}
    with watching(head) as draining:
        asked_again(head)
        head.may_answer.clear()
        asked = head.asked
        until(lambda: head.asked > asked)
        assert set(draining.leaving()) == {"aa"}
        draining.close()


def test_after_it_is_closed_nobody_is_asked() -> None:
    head = Head()
    with watching(head) as draining:
        asked_again(head)
    asked = head.asked
    assert draining.leaving() == {}
    assert not draining._thread.is_alive()
    assert head.asked == asked


def test_outside_ray_there_is_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert node_here() == ""


class GpuActor:
    """A stand-in by its name: what `resmap drain` waits for."""

    def ready(self) -> str:
        return node_here()


@pytest.mark.chaos
def test_a_real_head_that_is_told_says_so_and_is_asked_until_no_worker_is_left(ray_cluster: Any) -> None:
    address = ray_cluster.get_runtime_context().gcs_address
    words = [*RAY, "start", f"--address={address}", "--num-cpus=1", "--num-gpus=0", "--resources", '{"passing": 1}']
    start = subprocess.Popen([*words, "--block"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    draining = Draining()
    try:
        remote = ray_cluster.remote(GpuActor).options(num_cpus=0, resources={"passing": 1})
        actor = remote.remote()
        node = ray_cluster.get(actor.ready.remote())
        assert draining.leaving().get(node) is None

        told = drain(within_s=3600.0, node=node, address=address)
        assert told == Drained(node=node, within_s=3600.0, workers=1, left=1)
        until(lambda: node in draining.leaving())
        assert 3000.0 < draining.leaving()[node] <= 3600.0
        assert drain(within_s=0.2, node=node, address=address, wait=True).left == 1  # the time is up
        until(lambda: draining.leaving()[node] < 3000.0)

        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(drain, within_s=3600.0, node=node, address=address, wait=True)
            until(lambda: draining.leaving().get(node, 0.0) > 3000.0)  # told once more
            ray_cluster.kill(actor)
            assert waiting.result().left == 0
        until(lambda: node not in draining.leaving())  # Ray has ended it
        with pytest.raises(ResourceError, match="the Ray cluster has no node"):
            drain(within_s=1.0, node=node, address=address)
    finally:
        draining.close()
        start.terminate()
        start.wait()
