"""The Ray actor that owns one GPU and one loaded model: tasks in, answers out, and signs of life, on one line.

driver ─ task ───► the actor's main thread ─► a thread a task ─┐
driver ◄─ answer ──────────────────────────────────────────────┤
driver ◄─ sign of life ─ a thread of its own ──────────────────┘   silent only where the whole process is stuck
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from cluster.lines import Contact, Line
from cluster.metrics import RayMetrics
from cluster.pool import WorkerFacts
from cluster.readers import reading_with
from cluster.readings import Reading
from cluster.worker import MOST_HELD
from mapper.errors import MapperError
from mapper.map_tile import Result, Setup, Task, TileMapper

_log = logging.getLogger(__name__)


class Works(Protocol):
    """What an actor owns: a ``Worker``, or what stands in for one where scheduling is measured without a GPU."""

    @property
    def holds(self) -> int:
        """As of ``Worker``."""

    @property
    def moves(self) -> int:
        """As of ``Worker``."""

    def facts(self) -> WorkerFacts:
        """As of ``Worker``."""

    def run(self, task: Task) -> Result | MapperError:
        """As of ``Worker``."""

    def reading(self) -> Reading:
        """As of ``Worker``."""


Load: TypeAlias = Callable[[Setup], TileMapper]


@dataclass(frozen=True, slots=True)
class Placed:
    """Said first, before the model is loaded."""

    host: str
    pid: int
    node: str = ""
    """Ray's id of the node, in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is there."""

    facts: WorkerFacts
    holds: int
    reading: Reading | None


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """The model cannot be loaded; the last that is said."""

    error: MapperError


@dataclass(frozen=True, slots=True)
class Answered:
    """A task is over, and so many tiles are wanted in hand now."""

    number: int
    result: Result | MapperError
    holds: int
    reading: Reading | None = None
    """Where nothing else is in hand: it may be the last for long."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Said every second, with how often anything in the worker has got on so far."""

    moves: int
    reading: Reading | None
    """None until the model is loaded, and where it cannot be told."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Its machine goes away in so many seconds: a cloud has said so, or a signal."""

    within_s: float
    reason: str


Said: TypeAlias = Placed | Loaded | NotLoaded | Answered | Alive | Leaving


@dataclass(frozen=True, slots=True)
class Leave:
    """The driver's word to an actor whose machine goes: take no more. What is not begun comes back at once as
    ``HandedBackError``; what is begun goes on, and comes back likewise if it is not over in so many seconds."""

    within_s: float


class GpuActor:
    """Owns one worker. Ray pins its GPU through CUDA_VISIBLE_DEVICES."""

    def __init__(self, name: str, setup: Setup, load: Load, worker: Callable[[str, Setup, Load], Works]) -> None:
        self._name = name
        self._make, self._load = partial(worker, name, setup), load
        self._worker: Works | None = None
        self._silent = False
        """Whether it has been said that nothing can be said."""

    def serve(self, contact: Contact, readers: Sequence[Any], alive_every_s: float) -> None:
        """Load the model and work until the driver hangs up. One call, as long as the actor lives."""
        self._line = Line(contact)
        self._say(Placed(socket.gethostname(), os.getpid()))
        over = threading.Event()
        threading.Thread(target=self._live, args=(over, alive_every_s), name="alive", daemon=True).start()
        try:
            worker = self._worker = self._make(reading_with(self._load, readers))
            self._say(Loaded(worker.facts(), worker.holds, self._reading(worker)))
            self._work(worker)
        except MapperError as error:
            self._say(NotLoaded(error))
            self._line.heard()  # hung up on, once that has been heard
        finally:
            over.set()
            self._line.close()

    def _work(self, worker: Works) -> None:
        threads = ThreadPoolExecutor(MOST_HELD, thread_name_prefix="tile")
        while (message := self._line.heard()) is not None:
            number, task = pickle.loads(message)
            threads.submit(self._run, worker, number, task)
        threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, worker: Works, number: int, task: Task) -> None:
        try:
            result = worker.run(task)
            reading = self._reading(worker)
            last = reading is not None and not reading.in_hand
            self._say(Answered(number, result, worker.holds, reading if last else None))
        except Exception as error:  # an answer that cannot be sent, say: somebody waits for one
            what = f"a defect in resmap: {type(error).__name__}: {error}"
            lost = MapperError(what, fix="please report it with this line", tile=task.name)
            self._say(Answered(number, lost, worker.holds))

    def _live(self, over: threading.Event, every_s: float) -> None:
        metrics = RayMetrics(self._name, socket.gethostname())
        while not over.wait(every_s):
            worker = self._worker
            reading = None if worker is None else self._reading(worker)
            self._say(Alive(0 if worker is None else worker.moves, reading))
            if reading is not None:
                metrics.say(reading)

    def _reading(self, worker: Works) -> Reading | None:
        """What it says of itself. Whatever goes wrong with that is no concern of its tiles."""
        try:
            return worker.reading()
        except Exception as error:
            if not self._silent:
                self._silent = True
                _log.warning("this worker cannot say how it does: %s: %s", type(error).__name__, error)
            return None

    def _say(self, said: Said) -> None:
        self._line.send(pickle.dumps(said, protocol=pickle.HIGHEST_PROTOCOL))
