"""What a worker says of itself: what it did, what its model waited for, whom it asked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.storage import LocalStore
from zarr.testing.store import LatencyStore

from cluster import outcomes
from cluster.local import LocalPool
from cluster.ray_pool import RayPool
from cluster.readings import WAITS, WORK, Reading
from cluster.simulated import SimulatedPool, Times
from cluster.simulated import World as PaperWorld
from cluster.worker import MOST_HELD, Worker
from mapper.engines import ZarrEngine
from mapper.map_tile import Setup, TileMapper, TileTask
from mapper.mosaic import Mosaic
from mapper.read import RasterReader
from tests.cluster import tiles
from tests.cluster.stand_ins import Idle, Mute
from tests.cluster.tiles import World, world
from tests.mapper.rasters import item_of, placed
from tests.servers import Fault, files_over_http

ENDS_S = 60.0


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    return world(tmp_path)


def read_after(worker: Worker, tasks: tuple[TileTask, ...]) -> tuple[list[Any], Reading]:
    """All its answers, and what it says of itself after the last."""
    with ThreadPoolExecutor(MOST_HELD) as threads:
        results = list(threads.map(worker.run, tasks))
    reading = worker.reading()
    worker.close()
    return results, reading


def longest_wait(reading: Reading) -> str:
    return max(reading.waited_s, key=lambda wait: reading.waited_s[wait])


def test_a_worker_counts_what_it_hands_in(fresh: World) -> None:
    results, reading = read_after(Worker("a", fresh.setup), fresh.tasks)
    assert (reading.worker, reading.pid, reading.device) == ("a", os.getpid(), "cpu")
    assert reading.tiles == len(results) == 12
    assert reading.windows == sum(result.windows for result in results) > 0
    assert reading.reused == sum(result.reused for result in results)
    assert reading.pixels == sum(result.asked_px for result in results)
    assert (reading.in_hand, sum(reading.queues.values())) == (0, 0)
    assert reading.batch >= 1
    assert reading.host_peak_bytes > 10_000_000
    assert reading.device_peak_bytes is reading.power_w is reading.utilization is None


def test_computing_and_waiting_make_all_of_its_time(fresh: World) -> None:
    before = time.perf_counter()
    worker = Worker("a", fresh.setup)
    loaded = time.perf_counter()
    _, reading = read_after(worker, fresh.tasks)
    assert tuple(reading.waited_s) == WAITS
    assert reading.up_s == reading.busy_s + sum(reading.waited_s.values())
    assert time.perf_counter() - loaded >= reading.waited_s["tasks"] >= 0
    assert time.perf_counter() - before >= reading.up_s >= reading.busy_s > 0


def test_all_kinds_of_work_of_a_tile_are_counted(fresh: World) -> None:
    _, reading = read_after(Worker("a", fresh.setup), fresh.tasks)
    assert tuple(reading.work_s) == WORK
    assert {work for work, seconds in reading.work_s.items() if seconds > 0} == {*WORK} - {"copy"}  # no device here
    assert reading.work_s["infer"] <= reading.busy_s


def test_a_second_worker_of_a_process_begins_at_0(fresh: World) -> None:
    read_after(Worker("a", fresh.setup), fresh.tasks)
    second = Worker("b", fresh.setup)
    reading = second.reading()
    second.close()
    assert (reading.tiles, sum(reading.work_s.values()), reading.calls) == (0, 0, ())


# What is waited for --------------------------------------------------------------------------------------------------


def test_a_model_that_slow_reads_hold_back_waits_for_reads(fresh: World, tmp_path: Path) -> None:
    with files_over_http(tmp_path) as server:
        server.fail("/scene.tif", Fault(delay_s=0.5))
        far = tuple(replace(task, items=(placed(item_of(f"{server.url}/scene.tif")),)) for task in fresh.tasks)
        _, reading = read_after(Worker("a", fresh.setup), far)
    assert longest_wait(reading) == "read"
    (imagery,) = (calls for calls in reading.calls if calls.kind == "imagery")
    assert (imagery.host, imagery.failed) == ("127.0.0.1", 0)
    assert 2 <= imagery.done == sum(imagery.took)  # the header, and its pixels
    assert imagery.moved_bytes > 192 * 256 * 3


def test_a_model_that_slow_puts_hold_back_waits_for_writes(fresh: World) -> None:
    def load(setup: Setup) -> TileMapper:
        store = LatencyStore(LocalStore(setup.mosaic), set_latency=0.2)
        engine = ZarrEngine(setup.mosaic, zarr.open_group(store, mode="r+", zarr_format=3))
        mosaic = Mosaic(setup.mosaic, engine)
        return TileMapper(setup, segmenter=setup.model.load(), reader=RasterReader(bands=3), mosaic=mosaic)

    worker = Worker("a", fresh.setup, load, held_bytes=1)  # room for one tile: the next waits until it is written
    _, reading = read_after(worker, fresh.tasks)
    assert longest_wait(reading) == "write"
    (store,) = (calls for calls in reading.calls if calls.kind == "store")
    assert (store.host, store.done, store.failed) == ("files", 3 * 12, 0)  # mask, score and source of each tile


def test_a_model_that_nobody_gives_anything_waits_for_tasks(fresh: World) -> None:
    worker = Worker("a", fresh.setup)
    time.sleep(0.2)
    reading = worker.reading()
    worker.close()
    assert reading.waited_s["tasks"] == reading.up_s >= 0.2


def test_on_paper_what_holds_a_model_back_is_known_and_is_what_it_waits_for() -> None:
    usual = PaperWorld(model_s=Times(median_s=1.0))
    slow_reads, slow_decoding = replace(usual, requests=600), replace(usual, decode_s=Times(median_s=18.0))
    slow_puts = replace(usual, encode_s=Times(median_s=0.0), read_bytes=0.0, write_bytes=50e6, store_bytes_per_s=20e6)
    for of, wait in ((slow_reads, "read"), (slow_decoding, "decode"), (slow_puts, "write")):
        pool = SimulatedPool(of)
        for _ in outcomes(pool, tiles.tile_tasks(60), now=pool.now):
            pass
        ((age_s, reading),) = pool.readings().values()
        assert (age_s, reading.tiles) == (0.0, 60)
        assert reading.busy_s == pytest.approx(60.0)  # a sum of sixty
        assert longest_wait(reading) == wait, reading.waited_s
        assert reading.up_s == pytest.approx(pool.report().makespan_s)  # likewise


# Through pools -------------------------------------------------------------------------------------------------------


def test_a_pool_in_this_process_says_what_its_worker_says(fresh: World) -> None:
    pool = LocalPool(fresh.setup)
    list(outcomes(pool, fresh.tasks))
    ((name, (age_s, reading)),) = pool.readings().items()
    pool.close()
    assert (name, age_s, reading.tiles) == ("local-0", 0.0, 12)


def test_when_the_last_tile_is_in_its_worker_has_said_so(ray_cluster: Any, fresh: World) -> None:
    pool = RayPool(fresh.setup, workers=2, readers=1, load=tiles.load_blind)
    try:
        results = [outcome.result for outcome in outcomes(pool, fresh.tasks)]
        readings = {name: reading for name, (_, reading) in pool.readings().items()}
    finally:
        pool.close()
    assert sum(reading.tiles for reading in readings.values()) == len(results) == 12
    assert sum(reading.in_hand for reading in readings.values()) == 0
    # The workers cannot read: what reading cost was said by who read for them.
    imagery = [calls for reading in readings.values() for calls in reading.calls if calls.kind == "imagery"]
    assert sum(calls.done for calls in imagery) >= 2
    assert sum(reading.work_s["decode"] for reading in readings.values()) > 0


def wait_for(pool: RayPool, true: Callable[[Reading], bool]) -> Reading:
    """The first reading of its only worker of which that is true."""
    deadline = time.monotonic() + ENDS_S
    while time.monotonic() < deadline:
        pool.finished(0.2)
        for age_s, reading in pool.readings().values():
            assert age_s >= 0
            if true(reading):
                return reading
    raise AssertionError("nobody has said so")


def test_an_actor_says_how_it_does_every_second_and_one_in_its_place_begins_at_0(
    ray_cluster: Any, fresh: World
) -> None:
    pool = RayPool(fresh.setup, workers=1)
    try:
        list(outcomes(pool, fresh.tasks))
        first = wait_for(pool, lambda reading: reading.tiles == 12)
        later = wait_for(pool, lambda reading: reading.up_s > first.up_s)
        os.kill(first.pid, signal.SIGKILL)
        other = wait_for(pool, lambda reading: reading.pid != first.pid)
    finally:
        pool.close()
    assert (later.began, later.tiles) == (first.began, 12)
    assert other.began > first.began
    assert (other.worker, other.tiles, other.windows, other.busy_s) == (first.worker, 0, 0, 0)
    assert other.calls == ()


def test_a_worker_that_cannot_say_how_it_does_works_on(ray_cluster: Any, fresh: World) -> None:
    pool = RayPool(fresh.setup, workers=1, worker=Mute)
    try:
        pool.start("gpu-0", fresh.tasks[0])
        assert len(pool.finished(ENDS_S)) == 1
        assert pool.readings() == {}
    finally:
        pool.close()
    assert issubclass(Mute, Idle)
