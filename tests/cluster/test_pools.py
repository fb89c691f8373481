"""The pools there are, on real tiles: in this process, and on a real Ray with logical GPUs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster import Outcome, Pool, outcomes
from cluster.local import LocalPool
from cluster.ray_pool import RayPool
from cluster.retries import RetryPolicy
from cluster.worker import MOST_HELD
from mapper.errors import AssetError, MapperError, ModelError, ResourceError, WorkerLostError
from mapper.map_tile import ModelChoice, Setup, TileMapper, TileTask
from tests.cluster import tiles
from tests.cluster.clusters import ready
from tests.cluster.tiles import BAD_TILE, World, world

QUICK = RetryPolicy(first_wait_s=0.05, longest_wait_s=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pools")


@pytest.fixture(scope="module")
def expected(folder: Path) -> NDArray[np.uint8]:
    """The scores of a world mapped with no pool at all."""
    mapped = world(folder)
    mapper = TileMapper.load(mapped.setup)
    for task in mapped.tasks:
        mapper.map_tile(task)
    return mapped.scores()


@pytest.fixture
def fresh(folder: Path) -> World:
    return world(folder)


@contextmanager
def closing(pool: Pool) -> Iterator[Pool]:
    try:
        yield pool
    finally:
        pool.close()


def ended(pool: Pool, tasks: tuple[TileTask, ...]) -> dict[int, Outcome]:
    found = list(outcomes(pool, tasks, policy=QUICK))
    assert len({outcome.task.id for outcome in found}) == len(found)
    return {outcome.task.id: outcome for outcome in found}


# In this process -----------------------------------------------------------------------------------------------------


def test_a_pool_in_this_process_maps_what_no_pool_maps(fresh: World, expected: NDArray[np.uint8]) -> None:
    with closing(LocalPool(fresh.setup)) as pool:
        found = ended(pool, fresh.tasks)
    assert all(outcome.error is None for outcome in found.values())
    assert (fresh.scores() == expected).all()


def test_a_worker_says_what_it_is_and_where(fresh: World) -> None:
    with closing(LocalPool(fresh.setup)) as pool:
        (facts,) = pool.facts()
    assert (facts.device, facts.fingerprint, facts.pid) == ("cpu", "colour/1 on cpu", os.getpid())


def test_a_worker_says_how_many_tiles_it_wants_in_hand(fresh: World) -> None:
    with closing(LocalPool(fresh.setup)) as pool:
        assert 1 <= pool.workers()["local-0"] <= MOST_HELD


def test_an_answer_brings_back_the_token_of_its_hand_out(fresh: World) -> None:
    with closing(LocalPool(fresh.setup)) as pool:
        for token in (7, 8):
            pool.start("local-0", fresh.tasks[0], token)
        over = [*pool.finished(30.0), *pool.finished(1.0)]
    assert sorted(one.token for one in over) == [7, 8]


def test_a_tile_with_a_bad_file_is_given_up_and_the_others_finish(fresh: World) -> None:
    tasks = (*fresh.tasks[:3], tiles.with_missing_file(fresh.tasks[3]), *fresh.tasks[4:])
    with closing(LocalPool(fresh.setup)) as pool:
        found = ended(pool, tasks)
    assert {number for number, outcome in found.items() if outcome.error} == {3}
    assert isinstance(found[3].error, AssetError)
    assert found[3].error.where == {"item": "gone", "asset": "/no/such/file.tif", "tile": "0/r0c3/t0"}


def test_a_defect_is_one_tiles_and_says_where_it_is(fresh: World) -> None:
    with closing(LocalPool(fresh.setup, tiles.load_defective)) as pool:
        found = ended(pool, fresh.tasks)
    error = found[BAD_TILE].error
    assert type(error) is MapperError
    assert "ZeroDivisionError: nobody thought of this" in error.what
    assert str(error.where["at"]).startswith("tiles.py:")
    assert sum(outcome.result is not None for outcome in found.values()) == 11


def test_a_model_that_cannot_be_loaded_is_told_at_once(fresh: World) -> None:
    setup = replace(fresh.setup, model=ModelChoice(name="color"))
    with pytest.raises(ModelError, match="no model named 'color'"):
        LocalPool(setup)


# On Ray --------------------------------------------------------------------------------------------------------------


@contextmanager
def ray_pool(
    setup: Setup, *, workers: int | None = 2, load: Callable[[Setup], TileMapper] = TileMapper.load
) -> Iterator[RayPool]:
    pool = RayPool(setup, workers=workers, load=load)
    try:
        yield pool
    finally:
        pool.close()


def test_two_gpus_map_what_one_process_maps(ray_cluster: Any, fresh: World, expected: NDArray[np.uint8]) -> None:
    with ray_pool(fresh.setup) as pool:
        processes = {facts.pid for facts in ready(pool, 2)}
        found = ended(pool, fresh.tasks)
    assert len(processes) == 2
    assert {outcome.worker for outcome in found.values()} == {"gpu-0", "gpu-1"}
    assert (fresh.scores() == expected).all()


def test_what_an_actor_wants_in_hand_is_known_and_changes_as_it_says(ray_cluster: Any, fresh: World) -> None:
    pool = RayPool(fresh.setup, workers=1, worker=tiles.Hungrier)
    with closing(pool):
        seen = [pool.workers()["gpu-0"]]
        for task in fresh.tasks[:3]:
            pool.start("gpu-0", task)
            assert [over.task for over in pool.finished(10.0)] == [task]
            seen.append(pool.workers()["gpu-0"])
    assert seen == [1, 2, 3, 4]


def test_actors_without_a_gpu_read_for_those_that_have_one(
    ray_cluster: Any, fresh: World, expected: NDArray[np.uint8]
) -> None:
    with closing(RayPool(fresh.setup, workers=2, readers=1, load=tiles.load_blind)) as pool:
        found = ended(pool, fresh.tasks)
    assert [outcome.error for outcome in found.values()] == [None] * len(fresh.tasks)
    assert (fresh.scores() == expected).all()


def test_an_error_on_a_gpu_comes_back_as_it_is(ray_cluster: Any, fresh: World) -> None:
    with ray_pool(fresh.setup, workers=1) as pool:
        found = ended(pool, (tiles.with_missing_file(fresh.tasks[0]), fresh.tasks[1]))
    assert isinstance(found[0].error, AssetError)
    assert found[0].error.where["item"] == "gone"
    assert found[1].error is None


def test_what_a_killed_process_had_in_hand_is_redone(
    ray_cluster: Any, fresh: World, expected: NDArray[np.uint8]
) -> None:
    with ray_pool(fresh.setup, load=tiles.load_slow) as pool:
        victim = ready(pool, 2)[0]
        found: dict[int, Outcome] = {}
        for outcome in outcomes(pool, fresh.tasks, policy=QUICK):
            if not found:
                os.kill(victim.pid, signal.SIGKILL)
            assert outcome.task.id not in found
            found[outcome.task.id] = outcome
        after = {facts.name: facts.pid for facts in ready(pool, 2)}
    assert all(outcome.error is None for outcome in found.values())
    assert any(outcome.attempts == 2 for outcome in found.values())
    assert after[victim.name] != victim.pid
    assert (fresh.scores() == expected).all()


def test_a_tile_that_kills_every_worker_is_given_up_and_the_others_finish(ray_cluster: Any, fresh: World) -> None:
    with ray_pool(fresh.setup, load=tiles.load_deadly) as pool:
        found = ended(pool, fresh.tasks)
    assert {number for number, outcome in found.items() if outcome.error} == {BAD_TILE}
    error = found[BAD_TILE].error
    assert isinstance(error, WorkerLostError)
    assert error.where["tile"] == fresh.tasks[BAD_TILE].name
    assert found[BAD_TILE].attempts == 2


def test_a_worker_that_sleeps_for_ever_does_not_hold_the_run(
    ray_cluster: Any, fresh: World, expected: NDArray[np.uint8]
) -> None:
    with ray_pool(fresh.setup, load=tiles.load_hanging) as pool:
        before = {facts.pid for facts in ready(pool, 2)}
        found = list(outcomes(pool, fresh.tasks, policy=QUICK, patience_s=0.5))
        after = {facts.pid for facts in pool.facts()}
    assert sorted(outcome.task.id for outcome in found) == [task.id for task in fresh.tasks]
    assert all(outcome.error is None and outcome.attempts == 1 for outcome in found)
    assert Path(f"{fresh.setup.mosaic}.hung").exists()
    assert after == before  # nobody was killed before the end
    assert (fresh.scores() == expected).all()


def test_more_gpus_than_there_are_is_told_with_how_many_there_are(ray_cluster: Any, fresh: World) -> None:
    with pytest.raises(ResourceError, match="5 GPU workers were asked of a cluster with 3 GPUs") as caught:
        RayPool(fresh.setup, workers=5)
    assert caught.value.fix == "pass --gpus 3"
    assert ray_cluster.is_initialized()


def test_a_model_that_cannot_be_loaded_on_a_gpu_comes_back_as_itself(ray_cluster: Any, fresh: World) -> None:
    with pytest.raises(ModelError) as caught:
        RayPool(fresh.setup, workers=1, load=tiles.load_nothing)
    assert (caught.value.fix, caught.value.where) == ("get the right file", {"weights": "w.safetensors"})
