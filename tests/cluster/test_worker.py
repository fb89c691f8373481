"""A worker with many tiles in hand: the answers of one tile at a time, and memory that is bounded."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.worker import MOST_HELD, Worker
from mapper.errors import HandedBackError, ResourceError
from mapper.map_tile import Setup, TileMapper, TileResult, TileTask, TileView
from mapper.mosaic import Mosaic
from mapper.pyramid import LevelTask
from mapper.read import RasterReader
from mapper.segmenter import Logits
from tests.cluster.nodes import until
from tests.cluster.tiles import GRID, World, world


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    return world(tmp_path)


class Watching(TileMapper):
    """Notes how many tiles are in memory."""

    together = most = 0
    lock = threading.Lock()

    def read(self, task: TileTask) -> TileView:
        with self.lock:
            self.together += 1
            self.most = max(self.most, self.together)
        time.sleep(0.01)  # long enough for others to come, if they may
        return super().read(task)

    def write(self, task: TileTask, seen: Any, scores: Any) -> TileResult:
        result = super().write(task, seen, scores)
        with self.lock:
            self.together -= 1
        return result


class Forgetful:
    """The model of known answers, on a device whose memory runs out now and then."""

    def __init__(self, setup: Setup, *, fits: int) -> None:
        self._net = setup.model.load()
        self.name, self.window_px, self.band_names = self._net.name, self._net.window_px, self._net.band_names
        self.device, self.fingerprint, self._fits = "cpu", self._net.fingerprint, fits

    def encode_text(self, expressions: Any) -> Any:
        return self._net.encode_text(expressions)

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Logits:
        if len(pixels) > self._fits:
            raise MemoryError("8 GB")
        return self._net.logits(pixels, text)


def mapper_of(setup: Setup, *, fits: int = 99) -> Watching:
    return Watching(
        setup,
        segmenter=Forgetful(setup, fits=fits),
        reader=RasterReader(bands=3),
        mosaic=Mosaic.open(setup.mosaic),
    )


def answers(worker: Worker, mapped: World) -> list[Any]:
    with ThreadPoolExecutor(MOST_HELD) as threads:
        results = list(threads.map(worker.run, mapped.tasks))
    worker.close()
    return results


@pytest.mark.parametrize("fits", [99, 1], ids=["memory is enough", "memory runs out"])
def test_many_tiles_in_hand_give_the_answers_of_one_at_a_time(fresh: World, tmp_path: Path, fits: int) -> None:
    alone = TileMapper.load(fresh.setup)
    expected = [alone.map_tile(task).checksums for task in fresh.tasks]
    other = world(tmp_path)
    worker = Worker("a", other.setup, lambda setup: mapper_of(setup, fits=fits))
    assert [result.checksums for result in answers(worker, other)] == expected
    assert other.scores().tobytes() == fresh.scores().tobytes()


def test_a_tile_is_not_read_before_there_is_memory_for_it(fresh: World) -> None:
    mapper = mapper_of(fresh.setup)
    assert all(isinstance(result, TileResult) for result in answers(Worker("a", fresh.setup, lambda _: mapper), fresh))
    free, mapper = mapper.most, mapper_of(fresh.setup)
    tight = Worker("b", fresh.setup, lambda _: mapper, held_bytes=1)  # less than any tile: one at a time
    assert all(isinstance(result, TileResult) for result in answers(tight, fresh))
    assert (free > 1, mapper.most) == (True, 1)


def test_memory_that_is_too_small_for_one_window_is_told(fresh: World) -> None:
    mapper = mapper_of(fresh.setup, fits=0)
    error, *_ = answers(Worker("a", fresh.setup, lambda _: mapper), fresh)
    assert isinstance(error, ResourceError)
    assert error.where["tile"] == fresh.tasks[0].name
    assert error.fix


def test_the_stages_of_a_tile_are_timed_apart(fresh: World) -> None:
    worker = Worker("a", fresh.setup)
    for result in answers(worker, fresh):
        assert set(result.seconds) == {"read", "infer", "blend", "write"}
        assert min(result.seconds.values()) >= 0


# A machine that leaves ------------------------------------------------------------------------------------------------


class Gated(Watching):
    """Reads when it may."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.may_read = threading.Event()
        self.segmented = 0

    def read(self, task: TileTask) -> TileView:
        view = super().read(task)
        assert self.may_read.wait(60)
        return view

    def segment(self, *args: Any) -> Any:
        self.segmented += 1
        return super().segment(*args)


def gated(setup: Setup) -> Gated:
    return Gated(
        setup, segmenter=Forgetful(setup, fits=99), reader=RasterReader(bands=3), mosaic=Mosaic.open(setup.mosaic)
    )


def test_what_a_leaving_worker_has_not_begun_comes_back_at_once_and_what_it_has_begun_is_finished(
    fresh: World,
) -> None:
    mapper = gated(fresh.setup)
    worker = Worker("a", fresh.setup, lambda _: mapper)
    with ThreadPoolExecutor(MOST_HELD) as threads:
        running = [threads.submit(worker.run, task) for task in fresh.tasks]
        until(lambda: worker.reading().in_hand == len(running) and mapper.together == 2)
        worker.leave(math.inf)
        until(lambda: sum(one.done() for one in running) == len(running) - 2)
        late = worker.run(fresh.tasks[0])
        mapper.may_read.set()
        results = [one.result() for one in running]
    worker.close()
    back = [result for result in [*results, late] if isinstance(result, HandedBackError)]
    assert len(back) == len(running) - 1
    assert all("had not begun" in error.what for error in back)
    assert {error.where["worker"] for error in back} == {"a"}
    assert sum(isinstance(result, TileResult) for result in results) == 2
    assert mapper.segmented == 2


def test_a_tile_that_cannot_be_over_in_time_is_not_given_to_the_model(fresh: World) -> None:
    mapper = gated(fresh.setup)
    worker = Worker("a", fresh.setup, lambda _: mapper)
    with ThreadPoolExecutor(1) as threads:
        begun = threads.submit(worker.run, fresh.tasks[0])
        until(lambda: mapper.together == 1)
        worker.leave(3600.0)
        worker.leave(0.0)
        worker.leave(3600.0)  # the shortest time counts
        mapper.may_read.set()
        result = begun.result()
    worker.close()
    assert isinstance(result, HandedBackError)
    assert "before it could be over" in result.what
    assert result.where["tile"] == fresh.tasks[0].name
    assert mapper.segmented == 0


def test_a_shard_above_the_tiles_that_is_not_begun_comes_back_too(fresh: World) -> None:
    worker = Worker("a", fresh.setup, lambda _: gated(fresh.setup))
    worker.leave(math.inf)
    result = worker.run(LevelTask(id=100, grid=GRID, tile=GRID.tile(0, 0), time=0, prompts=(0,)))
    worker.close()
    assert isinstance(result, HandedBackError)


def test_a_worker_asks_for_no_more_tiles_than_it_has_threads(fresh: World) -> None:
    worker = Worker("a", fresh.setup)
    assert 3 <= worker.holds <= MOST_HELD
    worker.close()
