"""Workers follow the cluster: those that join get tiles, those that leave give them back, and nothing is done twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import Finished, Outcome, outcomes
from cluster.gpu_actor import Works
from cluster.placement import Fleet
from cluster.ray_actors import RayActors
from cluster.ray_pool import RayPool
from cluster.seats import Seat
from mapper.errors import HandedBackError
from mapper.map_tile import TileMapper
from tests.cluster.clusters import ENDS_S, FAST_S, SLOW_S, Slow, Told, Unequal, ready
from tests.cluster.nodes import until
from tests.cluster.stand_ins import STUCK_TILE, Changed, Idle, frail
from tests.cluster.tiles import World, tile_tasks, world


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("elastic"))


@contextmanager
def pool_of(mapped: World, worker: Callable[..., Works], **asked: Any) -> Iterator[RayPool]:
    pool = RayPool(mapped.setup, worker=worker, **asked)
    try:
        yield pool
    finally:
        pool.close()


def test_two_workers_share_a_gpu_and_who_is_four_times_as_fast_gets_four_times_as_many(
    ray_cluster: Any, mapped: World
) -> None:
    with pool_of(mapped, Unequal, workers=Fleet(most=1, workers_per_gpu=2)) as pool:
        first, second = ready(pool, 2)
        shares = Counter(outcome.worker for outcome in outcomes(pool, tile_tasks(60)))
    assert first.pid != second.pid
    assert first.device == second.device != ""
    assert shares.total() == 60
    assert shares["gpu-1"] > SLOW_S / FAST_S / 2 * shares["gpu-0"]


def test_gpus_that_join_while_a_run_goes_on_get_tiles(ray_cluster: Any, mapped: World) -> None:
    there, paid = Told(1), list[float]()
    found: list[Outcome] = []
    with pool_of(mapped, Slow, workers=None, nodes=lambda: there, paid=paid.append) as pool:
        deadline = time.monotonic() + ENDS_S
        for outcome in outcomes(pool, tile_tasks(10_000), stopped=lambda: len({one.worker for one in found}) == 3):
            found.append(outcome)
            there.have(3)
            assert time.monotonic() < deadline
        assert {facts.name for facts in pool.facts()} == {"gpu-0", "gpu-1", "gpu-2"}
    assert {outcome.worker for outcome in found} == {"gpu-0", "gpu-1", "gpu-2"}
    assert len({outcome.task.id for outcome in found}) == len(found)
    assert paid == [1, 2, 3]


def test_what_leaves_gives_its_tiles_back_and_comes_again_under_another_name(ray_cluster: Any, mapped: World) -> None:
    there, paid = Told(1), list[float]()
    over: list[Finished] = []
    with pool_of(mapped, Idle, workers=None, nodes=lambda: there, paid=paid.append) as pool:
        assert list(pool.workers()) == ["gpu-0"]
        for token in (7, 8):
            pool.start("gpu-0", mapped.tasks[STUCK_TILE], token)
        there.away = {there.node: 2.0}
        deadline = time.monotonic() + ENDS_S
        while len(over) < 2 and time.monotonic() < deadline:
            over += pool.finished(1.0)
            assert not over or pool.workers() == {}
        assert sorted(one.token for one in over) == [7, 8]
        assert all(isinstance(one.result, HandedBackError) for one in over)
        there.away = {}
        assert [facts.name for facts in ready(pool, 1)] == ["gpu-1"]
    assert paid == [1, 0, 1]


def test_a_run_begins_with_those_that_found_a_gpu_while_others_wait_for_theirs(ray_cluster: Any, mapped: World) -> None:
    with pool_of(mapped, Idle, workers=Fleet(least=1, most=5)) as pool:
        assert len(ready(pool, 3)) == 3
        assert len(pool.workers()) == 3


def test_a_run_that_is_stopped_waits_for_no_first_worker(ray_cluster: Any, mapped: World) -> None:
    elsewhere = Fleet(gpu_type="none-such")
    with pool_of(mapped, Idle, workers=elsewhere, address="auto", nodes=lambda: Told(0), stopped=lambda: True) as pool:
        assert pool.facts() == ()
        assert pool.workers() == {}


def test_whoever_ray_has_given_a_process_has_a_place_though_it_has_said_nothing_yet(
    ray_cluster: Any, mapped: World
) -> None:
    actors = RayActors(mapped.setup, TileMapper.load, Idle, fleet=Fleet(), readers=0, ring=lambda: None)
    seats = [Seat(name=f"gpu-{n}") for n in range(4)]  # for a cluster of three
    try:
        for seat in seats:
            actors.ask_for(seat)
        until(lambda: len(actors.without_place(seats)) == 1)
        time.sleep(1.0)
        (waits,) = actors.without_place(seats)
        other = next(seat for seat in seats if seat is not waits)
        actors.kill(other.actor)  # its GPU is the other's then
        until(lambda: actors.without_place([waits]) == [])
    finally:
        for seat in seats:
            actors.kill(seat.actor)
        actors.close()


@pytest.mark.chaos
def test_a_worker_that_joins_with_another_model_is_not_taken(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh, there = world(tmp_path), Told(1)
    frail(fresh.setup, "gpu-1").touch()
    with pool_of(fresh, Changed, workers=None, nodes=lambda: there) as pool:
        assert len(ready(pool, 1)) == 1
        there.have(2)
        deadline = time.monotonic() + ENDS_S
        while "the run goes on without it" not in caplog.text:
            assert pool.finished(0.2) == []
            assert time.monotonic() < deadline
        assert "a worker that joined later loaded another model" in caplog.text
        assert list(pool.workers()) == ["gpu-0"]
