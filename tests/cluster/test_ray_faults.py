"""Actors that die, hang, wake up late or never load: what they had comes back, and the run goes on or says why not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import Finished, outcomes
from cluster.gpu_actor import Works
from cluster.liveness import Limits
from cluster.ray_pool import RayPool
from cluster.retries import RetryPolicy
from cluster.seats import MOST_FALLS
from mapper.errors import ReadError, ResourceError, WorkerLostError
from mapper.map_tile import Setup
from tests.cluster.clusters import ready
from tests.cluster.stand_ins import SLOW_TILE, STUCK_TILE, Busy, Changed, Frail, Hung, Idle, frail
from tests.cluster.tiles import World, world

PATIENT = Limits()
QUICK = Limits(silent_s=8.0, stuck_s=2.0)
"""Seconds instead of minutes. A sign of life is a second away."""

ENDS_S = 60.0


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    return world(tmp_path)


@contextmanager
def pool_of(
    setup: Setup, worker: Callable[..., Works], *, workers: int = 1, limits: Limits = PATIENT
) -> Iterator[RayPool]:
    pool = RayPool(setup, workers=workers, worker=worker, limits=limits)
    try:
        yield pool
    finally:
        pool.close()


def pids(pool: RayPool, count: int = 1) -> dict[str, int]:
    return {facts.name: facts.pid for facts in ready(pool, count)}


def heard(pool: RayPool, count: int) -> list[Finished]:
    """What the pool says until it has said so much."""
    said: list[Finished] = []
    deadline = time.monotonic() + ENDS_S
    while len(said) < count and time.monotonic() < deadline:
        said += pool.finished(1.0)
    return said


def wait_until(pool: RayPool, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENDS_S
    while not true():
        assert time.monotonic() < deadline
        assert pool.finished(0.2) == []


def test_what_a_killed_worker_had_comes_back_with_the_evidence(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped.setup, Idle) as pool:
        victim = pids(pool)["gpu-0"]
        for token in (7, 8):
            pool.start("gpu-0", mapped.tasks[STUCK_TILE], token)
        os.kill(victim, signal.SIGKILL)
        lost = heard(pool, 2)
        assert sorted(over.token for over in lost) == [7, 8]
        assert pids(pool)["gpu-0"] != victim
        pool.start("gpu-0", mapped.tasks[0], 9)
        (after,) = heard(pool, 1)
    for over in lost:
        assert isinstance(over.result, WorkerLostError)
        where = over.result.where
        assert (where["worker"], where["pid"], where["host"]) == ("gpu-0", victim, socket.gethostname())
        assert where["tile"] == mapped.tasks[STUCK_TILE].name
        assert "exit" in str(where["said"])
    assert after.token == 9
    assert isinstance(after.result, ReadError)


def test_a_worker_that_was_stopped_is_replaced_and_what_it_says_when_it_wakes_reaches_nobody(
    ray_cluster: Any, mapped: World
) -> None:
    with pool_of(mapped.setup, Idle, limits=Limits(silent_s=4.0)) as pool:
        sleeper = pids(pool)["gpu-0"]
        pool.start("gpu-0", mapped.tasks[SLOW_TILE], 7)
        os.kill(sleeper, signal.SIGSTOP)
        (lost,) = heard(pool, 1)
        with contextlib.suppress(ProcessLookupError):  # Ray ends a stopped process too, some seconds later
            os.kill(sleeper, signal.SIGCONT)
        assert pids(pool)["gpu-0"] != sleeper
        pool.start("gpu-0", mapped.tasks[SLOW_TILE], 8)
        after = heard(pool, 1)
        assert pool.finished(0.5) == []
    assert isinstance(lost.result, WorkerLostError)
    assert "it has said nothing for" in lost.result.what
    assert (lost.token, lost.result.where["pid"]) == (7, sleeper)
    assert str(lost.result.where["last_heard"]).endswith("s before")
    assert [over.token for over in after] == [8]


def test_a_worker_that_lives_and_gets_nowhere_is_replaced(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped.setup, Idle, limits=QUICK) as pool:
        before = pids(pool)["gpu-0"]
        pool.start("gpu-0", mapped.tasks[STUCK_TILE], 7)
        (lost,) = heard(pool, 1)
        assert pids(pool)["gpu-0"] != before
    assert isinstance(lost.result, WorkerLostError)
    assert "nothing in it has got on for" in lost.result.what


def test_a_worker_that_gets_on_is_kept_however_long_a_task_takes(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped.setup, Busy, limits=QUICK) as pool:
        before = pids(pool)
        pool.start("gpu-0", mapped.tasks[STUCK_TILE])
        assert pool.finished(3 * QUICK.stuck_s) == []
        assert pids(pool) == before


@pytest.mark.chaos
def test_a_worker_whose_successors_die_while_they_load_is_gone_and_the_others_go_on(
    ray_cluster: Any, fresh: World, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(fresh.setup, Frail, workers=2) as pool:
        before = pids(pool, 2)
        frail(fresh.setup, "gpu-0").touch()
        os.kill(before["gpu-0"], signal.SIGKILL)
        wait_until(pool, lambda: f"{MOST_FALLS} in a row have finished nothing there" in caplog.text)
        assert [facts.name for facts in pool.facts()] == ["gpu-1"]
        assert set(pool.workers()) == {"gpu-1"}
        pool.start("gpu-1", fresh.tasks[0], 5)
        assert [over.token for over in heard(pool, 1)] == [5]
        frail(fresh.setup, "gpu-1").touch()
        os.kill(before["gpu-1"], signal.SIGKILL)
        with pytest.raises(ResourceError, match="no GPU worker is left") as caught:
            heard(pool, 1)
    assert "worker gpu-1" in str(caught.value.where["last"])


def test_workers_that_find_no_gpu_are_waited_for_so_long_and_no_longer(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped.setup, Idle, workers=3) as others:
        ready(others, 3)
        with pytest.raises(ResourceError, match="no GPU worker was ready after 3 s"):
            RayPool(mapped.setup, workers=1, worker=Idle, limits=Limits(start_s=3.0))


@pytest.mark.chaos
def test_a_successor_with_another_model_is_not_used(
    ray_cluster: Any, fresh: World, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(fresh.setup, Changed, workers=2) as pool:
        before = pids(pool, 2)
        frail(fresh.setup, "gpu-0").touch()
        os.kill(before["gpu-0"], signal.SIGKILL)
        wait_until(pool, lambda: "the run goes on without it" in caplog.text)
        assert pids(pool) == {"gpu-1": before["gpu-1"]}


def test_a_run_whose_workers_all_hang_ends_with_an_error(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped.setup, Hung, limits=Limits(stuck_s=1.0)) as pool:
        run = outcomes(pool, mapped.tasks, policy=RetryPolicy(first_wait_s=0.05, longest_wait_s=0.1))
        with pytest.raises(ResourceError, match="no GPU worker is left"):
            list(run)
