"""What an actor says on its line when its machine leaves. Without Ray: the line is all there is between the two."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster import WorkerFacts
from cluster.gpu_actor import Answered, GpuActor, Leave, Leaving, Loaded, Placed
from cluster.lines import Switchboard
from cluster.readings import Reading
from mapper.errors import HandedBackError, MapperError, ReadError
from mapper.map_tile import Result, Setup, Task, TileMapper
from tests.cluster.nodes import until
from tests.cluster.test_spot import PREEMPTED, Service, served
from tests.cluster.tiles import tile_tasks

TASKS = tile_tasks(6)
SETUP: Any = None
"""Nobody here looks at it."""


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test may have left one running in this process, whose node would be told that it leaves."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


class Gated:
    """Works that ends a task when it may; told to leave, it hands back those it has not begun."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        self.holds, self.moves = 4, 0
        self.may_end = threading.Event()
        self.begun: list[int] = []
        self.left_s: list[float] = []

    def facts(self) -> WorkerFacts:
        return WorkerFacts(name="gpu-0", device="none", fingerprint="none", host=socket.gethostname(), pid=1)

    def leave(self, within_s: float) -> None:
        self.left_s.append(within_s)

    def run(self, task: Task) -> Result | MapperError:
        self.begun.append(task.id)
        assert self.may_end.wait(60)
        return ReadError("nothing was read")

    def reading(self) -> Reading:
        return Reading(worker="gpu-0")


class Driver:
    """The other end of the line."""

    def __init__(self) -> None:
        self.works = Gated("", SETUP, TileMapper.load)
        self.board = Switchboard("127.0.0.1")
        self.contact = self.board.contact()
        self.said: list[Any] = []
        actor = GpuActor("gpu-0", SETUP, TileMapper.load, lambda name, setup, load: self.works)
        self._thread = threading.Thread(target=actor.serve, args=(self.contact, (), 0.05))

    @contextmanager
    def listening(self) -> Iterator[Driver]:
        self._thread.start()
        try:
            self.hear(lambda: self.of(Loaded))
            yield self
        finally:
            self.works.may_end.set()
            self.board.close()
            self._thread.join()

    def send(self, message: object) -> None:
        self.board.send(self.contact.number, pickle.dumps(message))

    def hear(self, true: Callable[[], object]) -> None:
        def enough() -> object:
            self.said += [pickle.loads(message) for _, message in self.board.heard(0.05) if message is not None]
            return true()

        until(enough)

    def of(self, kind: type) -> list[Any]:
        return [said for said in self.said if isinstance(said, kind)]

    def given_back(self) -> list[int]:
        return sorted(said.number for said in self.of(Answered) if isinstance(said.result, HandedBackError))


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver().listening() as driver:
        yield driver


def test_it_says_where_it_is_first(driver: Driver) -> None:
    assert isinstance(driver.said[0], Placed)
    assert (driver.said[0].host, driver.said[0].node) == (socket.gethostname(), "")


def test_what_comes_after_leave_comes_back_at_once_and_what_was_begun_goes_on(driver: Driver) -> None:
    driver.send((1, TASKS[0]))
    driver.hear(lambda: driver.works.begun)
    driver.send(Leave(3600.0))
    driver.send((2, TASKS[1]))
    driver.hear(driver.given_back)
    assert driver.given_back() == [2]
    assert (driver.works.begun, driver.works.left_s) == ([0], [3600.0])
    driver.works.may_end.set()
    driver.hear(lambda: len(driver.of(Answered)) == 2)
    assert isinstance(driver.of(Answered)[-1].result, ReadError)
    (back,) = [said.result for said in driver.of(Answered) if said.number == 2]
    assert (back.where["worker"], back.where["tile"]) == ("gpu-0", TASKS[1].name)


def test_when_the_time_is_up_all_that_is_not_over_comes_back_and_late_answers_are_not_sent(driver: Driver) -> None:
    for number in (1, 2):
        driver.send((number, TASKS[number]))
    driver.hear(lambda: len(driver.works.begun) == 2)
    driver.send(Leave(0.0))
    driver.hear(lambda: len(driver.given_back()) == 2)
    driver.works.may_end.set()
    driver.send((3, TASKS[3]))
    driver.hear(lambda: 3 in driver.given_back())
    assert [said.number for said in driver.of(Answered)].count(1) == 1
    assert driver.given_back() == [1, 2, 3]
    assert len(driver.of(Answered)) == 3


def test_of_many_times_that_were_said_the_shortest_counts(driver: Driver) -> None:
    driver.send((1, TASKS[0]))
    driver.hear(lambda: driver.works.begun)
    for within_s in (3600.0, 7200.0, 0.0, 60.0):
        driver.send(Leave(within_s))
    driver.hear(driver.given_back)
    driver.send((2, TASKS[1]))
    driver.hear(lambda: len(driver.given_back()) == 2)
    assert driver.works.left_s == [3600.0, 0.0]


def test_what_its_cloud_says_is_told_to_the_driver_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("gcp")
    with served(service) as address:
        monkeypatch.setenv("RESMAP_SPOT", "gcp")
        monkeypatch.setenv("RESMAP_METADATA", address)
        with Driver().listening() as driver:
            assert driver.of(Leaving) == []
            service.says[PREEMPTED] = (200, b"TRUE")
            driver.hear(lambda: driver.of(Leaving))
            assert driver.of(Leaving) == [Leaving(30.0, "Google Cloud preempts it")]
            driver.send((1, TASKS[0]))  # it works on until the driver has its say
            driver.hear(lambda: driver.works.begun)
