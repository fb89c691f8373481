"""What the loop makes of a thousand GPUs, on a clock of its own. Nothing here takes the time it speaks of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from cluster import Outcome, outcomes
from cluster.retries import RetryPolicy
from cluster.simulated import Report, SimulatedPool, Times, World
from cluster.sizing import Limits, Queues, Sizes, sized
from mapper.curve import hilbert
from mapper.grid import Grid, PixelBox
from mapper.map_tile import TileTask
from tests.mapper.rasters import UTM45

SIDE = 64
GROUND = Grid(lattice=UTM45, box=PixelBox(0, 0, SIDE * 64, SIDE * 64), shard_px=64, chunk_px=64)
USUAL = World(model_s=Times(median_s=1.0, sigma=0.2))
FAR = replace(USUAL, latency_s=Times(median_s=0.2, sigma=0.5), requests=12)


def along_the_curve(count: int) -> Iterator[TileTask]:
    """Tiles in the order of a plan, over and over the same ground."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    order = np.argsort(hilbert(rows, columns, shape=(SIDE, SIDE)))
    for number in range(count):
        place = int(order[number % len(order)])
        tile = GROUND.tile(*divmod(place, SIDE))
        yield TileTask(id=number, grid=GROUND, tile=tile, time=0, items=(), prompts=(0,), clipped=False)


def mapped(world: World, *, tiles: int, patience_s: float = 5.0) -> tuple[Report, list[Outcome]]:
    """The report of a run, and its outcomes, one a tile."""
    pool = SimulatedPool(world)
    policy = RetryPolicy(lost_workers=5)
    found = list(outcomes(pool, along_the_curve(tiles), policy=policy, now=pool.now, patience_s=patience_s))
    assert sorted(outcome.task.id for outcome in found) == list(range(tiles))
    return pool.report(), found


def test_a_world_is_the_same_each_time() -> None:
    world = replace(FAR, workers=3, latency_s=Times(median_s=0.1, sigma=1.0, tail=0.05))
    assert mapped(world, tiles=100)[0] == mapped(world, tiles=100)[0]
    assert mapped(world, tiles=100)[0] != mapped(replace(world, seed=1), tiles=100)[0]


def test_a_worker_alone_takes_what_its_stages_take() -> None:
    world = World(
        model_s=Times(median_s=2.0), latency_s=Times(median_s=0.1), requests=3, decode_s=Times(median_s=0.5),
        encode_s=Times(median_s=0.4), read_bytes=10e6, write_bytes=5e6, store_bytes_per_s=10e6,
    )  # fmt: skip
    report, _ = mapped(world, tiles=1)
    assert report.makespan_s == pytest.approx(0.3 + 1.0 + 0.5 + 2.0 + 0.4 + 0.1 + 0.5)
    assert report.busy == {"gpu-0": pytest.approx(2.0 / 4.8)}


def test_what_many_transfer_at_once_takes_as_long_as_one_after_the_other() -> None:
    world = World(
        workers=8, model_s=Times(median_s=0.0), latency_s=Times(median_s=0.0), decode_s=Times(median_s=0.0),
        encode_s=Times(median_s=0.0), read_bytes=10e6, write_bytes=0.0, store_bytes_per_s=10e6,
    )  # fmt: skip
    assert mapped(world, tiles=24)[0].makespan_s == pytest.approx(24.0)


def test_reading_far_away_keeps_no_gpu_waiting_when_enough_is_read_at_once() -> None:
    enough, _ = mapped(replace(FAR, workers=4, sizes=Sizes(readers=5)), tiles=4 * 100)
    too_few, _ = mapped(replace(FAR, workers=4, sizes=Sizes(readers=1)), tiles=4 * 100)
    assert enough.efficiency >= 0.95
    assert too_few.efficiency < 0.4
    assert enough.queues["model"] > 1.0 > too_few.queues["model"]


@pytest.mark.parametrize("requests", [6, 12, 24])
def test_a_worker_finds_out_by_itself_how_many_readers_keep_its_gpu_at_work(requests: int) -> None:
    def size(sizes: Sizes, queues: Queues) -> Sizes:
        return sized(sizes, queues, Limits())

    report, _ = mapped(replace(FAR, workers=2, requests=requests, size=size), tiles=2 * 500)
    assert report.efficiency >= 0.95


@pytest.mark.parametrize("latency_s", [0.01, 0.05, 0.1, 0.2, 0.4])
def test_readers_needed_are_the_time_to_read_over_the_time_of_the_model(latency_s: float) -> None:
    # Little's law (J. D. C. Little, A Proof for the Queuing Formula L = λW, 1961): in reading at a time are the
    # tiles a second times the seconds each takes to read.
    world = World(latency_s=Times(median_s=latency_s), requests=12)
    read_s = 12 * latency_s + world.decode_s.median_s
    needed = math.ceil(read_s / world.model_s.median_s)

    def efficiency(readers: int) -> float:
        return mapped(replace(world, sizes=Sizes(readers=readers)), tiles=200)[0].efficiency

    assert efficiency(needed) >= 0.95
    if needed > 1:
        assert efficiency(needed - 1) < 0.95


def test_a_store_too_slow_for_all_holds_all_up_alike() -> None:
    world = replace(USUAL, workers=8, read_bytes=100e6, write_bytes=0.0, store_bytes_per_s=400e6)
    report, _ = mapped(world, tiles=400)
    assert report.makespan_s >= 400 * 100e6 / 400e6
    assert max(report.busy.values()) - min(report.busy.values()) < 0.1


def test_more_gpus_map_more_ground_in_the_same_time() -> None:
    for workers in (1, 64, 256):
        report, _ = mapped(replace(USUAL, workers=workers, driver_s=0.001), tiles=60 * workers)
        assert report.efficiency >= 0.92, workers


def test_a_worker_that_is_twenty_times_slower_hardly_holds_the_run_up() -> None:
    usual = replace(USUAL, workers=16)
    slow = replace(usual, slow={"gpu-3": 20.0})
    without, _ = mapped(usual, tiles=16 * 60)
    with_copies, _ = mapped(slow, tiles=16 * 60)
    waited_for, _ = mapped(slow, tiles=16 * 60, patience_s=math.inf)
    # One GPU of sixteen is lost (7 %), and what it began is done again at the end.
    assert with_copies.makespan_s <= 1.15 * without.makespan_s
    assert waited_for.makespan_s >= 2 * without.makespan_s
    assert with_copies.tiles <= 16 * 60 + slow.sizes.holds


def test_where_all_is_well_hardly_anything_is_done_twice() -> None:
    report, _ = mapped(replace(USUAL, workers=16), tiles=16 * 60)
    assert report.tiles <= 1.01 * 16 * 60


def test_deaths_lose_no_tile_and_double_none() -> None:
    deaths = [(3.0 + 2.5 * number, f"gpu-{number % 8}") for number in range(8)]
    world = replace(USUAL, workers=8, deaths=deaths, restart_s=10.0)
    report, found = mapped(world, tiles=400)  # each of the tiles has one outcome: ``mapped`` asserts it
    assert all(outcome.error is None for outcome in found)
    assert sum(outcome.attempts > 1 for outcome in found) >= 8
    assert report.makespan_s < 2 * mapped(replace(world, deaths=()), tiles=400)[0].makespan_s


LEAVES = tuple((3.0 + 2.5 * number, f"gpu-{number % 8}") for number in range(8))


@pytest.mark.parametrize("within_s", [0.0, 1.0, 30.0])
def test_machines_that_leave_lose_no_tile_and_nothing_counts_against_any(within_s: float) -> None:
    leaves = [(at, name, within_s) for at, name in LEAVES]
    report, found = mapped(replace(USUAL, workers=8, leaves=leaves, restart_s=10.0), tiles=400)
    assert all((outcome.error, outcome.attempts) == (None, 1) for outcome in found)
    assert report.tiles <= 1.01 * 400


def test_machines_that_leave_in_time_waste_no_gpu_time() -> None:
    usual = replace(USUAL, workers=8, restart_s=1e6)

    def spent_s(world: World) -> float:
        report, _ = mapped(world, tiles=400, patience_s=math.inf)
        return sum(report.busy.values()) * report.makespan_s

    leaves = [(at, name, 30.0) for at, name in LEAVES[:4]]
    assert spent_s(replace(usual, leaves=leaves)) == pytest.approx(spent_s(usual))


def test_neighbours_on_the_ground_are_mostly_mapped_by_one_worker() -> None:
    _, found = mapped(replace(USUAL, workers=16), tiles=SIDE * SIDE)
    by_stretch = {(o.task.tile.row, o.task.tile.column): o.worker for o in found}
    in_turn = {(t.tile.row, t.tile.column): str(t.id % 16) for t in along_the_curve(SIDE * SIDE)}
    assert _same_worker(by_stretch) >= 0.7
    assert _same_worker(in_turn) <= 0.1


def _same_worker(by_place: dict[tuple[int, int], str]) -> float:
    """Share of the borders between tiles that have one worker on both sides."""
    kinds = Counter(
        by_place[place] == by_place[beside]
        for place in by_place
        for beside in ((place[0] + 1, place[1]), (place[0], place[1] + 1))
        if beside in by_place
    )
    return kinds[True] / kinds.total()
