"""Readers on cores of their own: the same views, the same errors, and nothing lost when one of them is."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.readers import (
    CALLS,
    CORES_A_WORKER,
    RESTARTS,
    Node,
    Read,
    ReaderActor,
    RemoteReader,
    cluster_nodes,
    place_readers,
    readers_wanted,
    reading_with,
)
from mapper.errors import MapperError
from mapper.grid import Lattice, PixelBox
from mapper.imagery import PlacedItem, View
from mapper.map_tile import TileMapper
from mapper.read import RasterReader
from tests.cluster.tiles import GRID, World, with_missing_file, world

FRAME = PixelBox(GRID.box.top, GRID.box.left, GRID.box.top + 96, GRID.box.left + 80)

# How many ------------------------------------------------------------------------------------------------------------

GPU_NODE, LARGE_NODE = Node(cores=4, workers=1), Node(cores=64, workers=8)
SMALL_NODE, POOR_NODE = Node(cores=2, workers=1), Node(cores=12, workers=8)


@pytest.mark.parametrize(
    ("nodes", "readers"),
    [
        ([], 0),
        ([GPU_NODE], 0),
        ([LARGE_NODE, Node(cores=16, workers=0)], 0),
        ([SMALL_NODE], 0),  # there is nobody to help
        ([SMALL_NODE, Node(cores=16, workers=0)], 2),
        ([POOR_NODE, Node(cores=96, workers=0)], 20),
        ([POOR_NODE, Node(cores=8, workers=0)], 8),
        ([POOR_NODE, POOR_NODE, Node(cores=16, workers=0), Node(cores=16, workers=0)], 32),
        ([POOR_NODE, LARGE_NODE], 20),  # the cores beside other GPUs help too, those that are to spare
        ([SMALL_NODE, Node(cores=5, workers=1)], 1),
        ([Node(cores=32, workers=0)], 0),
    ],
)
def test_as_many_readers_are_wanted_as_nodes_with_gpus_lack_cores_and_others_have_them(
    nodes: list[Node], readers: int
) -> None:
    assert CORES_A_WORKER == 4  # what the table reckons with
    assert readers_wanted(nodes) == readers


def test_the_nodes_of_a_cluster_are_those_ray_knows(ray_cluster: Any) -> None:
    assert cluster_nodes(2) == [Node(cores=4, workers=2)]
    assert cluster_nodes(9) == [Node(cores=4, workers=3)]


# What comes back -----------------------------------------------------------------------------------------------------


class Deadly(ReaderActor):
    """Dies of the first view it is asked for."""

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> Read:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().read(items, lattice, frame)


class Known(ReaderActor):
    """Says which process it is."""

    def pid(self) -> int:
        return os.getpid()


class Defective(ReaderActor):
    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> Read:
        raise ZeroDivisionError("nobody thought of this")


class Counted:
    """A reader whose calls are counted before they go out."""

    def __init__(self, reader: Any, together: threading.Barrier | None = None) -> None:
        self._reader, self._together = reader, together
        self.calls = 0

    @property
    def read(self) -> Counted:
        return self

    def remote(self, *asked: Any) -> Any:
        self.calls += 1
        if self._together is not None:
            self._together.wait(60)
        return self._reader.read.remote(*asked)


class Nobody:
    """A reader of one's own that must not be needed."""

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        raise AssertionError("the worker read by itself")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("readers"))


@pytest.fixture
def started(ray_cluster: Any, mapped: World) -> Iterator[Any]:
    """A function that starts actors of some kinds, which are gone after the test."""
    actors: list[Any] = []

    def start(*kinds: type[ReaderActor]) -> list[Any]:
        for kind in kinds:
            remote = ray_cluster.remote(kind)
            actors.append(remote.options(num_cpus=0, max_concurrency=CALLS).remote(mapped.setup))
        return actors[-len(kinds) :]

    yield start
    for actor in actors:
        ray_cluster.kill(actor)


@pytest.fixture(scope="module")
def two_readers(ray_cluster: Any, mapped: World) -> Iterator[list[Any]]:
    placed = place_readers(mapped.setup, 2)
    assert len(placed) == 2
    yield placed
    for actor in placed:
        ray_cluster.kill(actor)


def own_reader() -> RasterReader:
    return RasterReader(bands=3)


def same(one: View, other: View) -> bool:
    pairs = ((one.pixels, other.pixels), (one.valid, other.valid), (one.source, other.source))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_a_view_comes_back_as_one_reads_it_oneself_and_is_not_copied(two_readers: list[Any], mapped: World) -> None:
    items = mapped.tasks[0].items
    view = RemoteReader(two_readers, Nobody()).read(items, GRID.lattice, FRAME)
    assert same(view, own_reader().read(items, GRID.lattice, FRAME))
    for array in (view.pixels, view.valid, view.source):
        assert not array.flags.writeable
        assert not array.flags.owndata


def test_tiles_that_others_read_are_mapped_to_the_same_bits(
    two_readers: list[Any], mapped: World, tmp_path: Path
) -> None:
    alone, helped = world(tmp_path), world(tmp_path)
    mapper = TileMapper.load(alone.setup)
    for task in alone.tasks:
        mapper.map_tile(task)

    def load(setup: Any) -> TileMapper:
        made = TileMapper.load(setup)
        made.read_with(lambda own: Nobody())
        return made

    remote = reading_with(load, two_readers)(helped.setup)
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda task: remote.write(task, view := remote.read(task), remote.segment(task, view)),
                             helped.tasks):  # fmt: skip
            pass
    assert (helped.scores() == alone.scores()).all()
    assert (alone.scores() < 251).any()


def test_without_readers_a_mapper_keeps_its_own(mapped: World) -> None:
    made = reading_with(TileMapper.load, [])(mapped.setup)
    assert made.read(mapped.tasks[0]).view.pixels.flags.writeable


def test_errors_come_back_as_they_are(two_readers: list[Any], mapped: World) -> None:
    items = with_missing_file(mapped.tasks[0]).items
    caught = []
    for reader in (own_reader(), RemoteReader(two_readers, Nobody())):
        with pytest.raises(MapperError) as error:
            reader.read(items, GRID.lattice, FRAME)
        caught.append(error.value)
    assert type(caught[0]) is type(caught[1])
    assert [error.what for error in caught] == [caught[0].what] * 2
    assert (caught[0].fix, caught[0].where) == (caught[1].fix, caught[1].where)
    assert str(pickle.loads(pickle.dumps(caught[1]))) == str(caught[0])


def test_a_defect_comes_back_as_what_it_is(started: Any, mapped: World) -> None:
    reader = RemoteReader(started(Defective), Nobody())
    with pytest.raises(ZeroDivisionError, match="nobody thought of this"):
        reader.read(mapped.tasks[0].items, GRID.lattice, FRAME)
    assert reader.readers == 1


# Who reads -----------------------------------------------------------------------------------------------------------


def test_calls_at_once_are_spread_evenly(two_readers: list[Any], mapped: World) -> None:
    together = threading.Barrier(4)
    counted = [Counted(reader, together) for reader in two_readers]
    reader = RemoteReader(counted, Nobody())
    with ThreadPoolExecutor(4) as threads:
        reads = [threads.submit(reader.read, mapped.tasks[0].items, GRID.lattice, FRAME) for _ in range(4)]
        assert all(same(reads[0].result(), read.result()) for read in reads)
    assert [one.calls for one in counted] == [2, 2]


def test_calls_one_after_the_other_stay_with_the_reader_that_has_the_neighbours(
    two_readers: list[Any], mapped: World
) -> None:
    counted = [Counted(reader) for reader in two_readers]
    reader = RemoteReader(counted, Nobody())
    for _ in range(3):
        reader.read(mapped.tasks[0].items, GRID.lattice, FRAME)
    assert sorted(one.calls for one in counted) == [0, 3]


def test_a_reader_that_dies_is_left_out_and_another_reads(started: Any, two_readers: list[Any], mapped: World) -> None:
    reader = RemoteReader([*started(Deadly), two_readers[0]], Nobody())
    items = mapped.tasks[0].items
    expected = own_reader().read(items, GRID.lattice, FRAME)
    with ThreadPoolExecutor(6) as threads:
        reads = [threads.submit(reader.read, items, GRID.lattice, FRAME) for _ in range(6)]
        assert all(same(read.result(), expected) for read in reads)
    assert reader.readers == 1


def test_when_no_reader_is_left_the_worker_reads_by_itself(started: Any, mapped: World) -> None:
    reader = RemoteReader(started(Deadly), own_reader())
    items = mapped.tasks[0].items
    for _ in range(2):
        assert same(reader.read(items, GRID.lattice, FRAME), own_reader().read(items, GRID.lattice, FRAME))
    assert reader.readers == 0


def test_a_reader_that_was_killed_is_started_again_and_reads_again(ray_cluster: Any, mapped: World) -> None:
    remote = ray_cluster.remote(Known)
    actor = remote.options(num_cpus=0, max_concurrency=CALLS, max_restarts=RESTARTS).remote(mapped.setup)
    items = mapped.tasks[0].items
    expected = own_reader().read(items, GRID.lattice, FRAME)
    reader = RemoteReader([actor], own_reader(), away_s=0.5)
    try:
        assert same(reader.read(items, GRID.lattice, FRAME), expected)
        os.kill(ray_cluster.get(actor.pid.remote()), signal.SIGKILL)
        deadline = time.monotonic() + 60
        seen = []
        while True:  # by the worker itself while the reader is away: its own arrays can be written to
            view = reader.read(items, GRID.lattice, FRAME)
            assert same(view, expected)
            seen.append(view.pixels.flags.writeable)
            if seen[-1] is False and True in seen:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        ray_cluster.kill(actor)


def test_a_reader_that_was_stopped_is_not_waited_for(ray_cluster: Any, started: Any, mapped: World) -> None:
    (actor,) = started(Known)
    os.kill(ray_cluster.get(actor.pid.remote()), signal.SIGSTOP)  # Ray kills it after the test all the same
    items = mapped.tasks[0].items
    reader = RemoteReader([actor], own_reader(), silent_s=1.0)
    assert same(reader.read(items, GRID.lattice, FRAME), own_reader().read(items, GRID.lattice, FRAME))
    assert reader.readers == 0


def test_readers_that_find_no_core_in_time_are_given_up(ray_cluster: Any, mapped: World) -> None:
    held = ray_cluster.available_resources()["CPU"]
    assert place_readers(mapped.setup, int(held) + 3, timeout_s=0) == []
    for _ in range(100):  # Ray says so some moments later
        if ray_cluster.available_resources().get("CPU") == held:
            return
        time.sleep(0.1)
    raise AssertionError("readers that nobody uses have kept their cores")


def test_no_readers_are_placed_where_none_are_wanted(mapped: World) -> None:
    assert place_readers(mapped.setup, 0) == []
