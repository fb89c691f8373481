"""The Ray actor that owns one GPU and one loaded model: tasks in, answers out, and signs of life, on one line.

driver ─ task ───► the actor's main thread ─► a thread a task ─┐
driver ◄─ answer ──────────────────────────────────────────────┤
driver ◄─ sign of life ─ a thread of its own ──────────────────┘   silent only where the whole process is stuck
"""

from __future__ import annotations

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
from cluster.pool import WorkerFacts
from cluster.readers import reading_with
from cluster.worker import MOST_HELD
from mapper.errors import MapperError
from mapper.map_tile import Result, Setup, Task, TileMapper


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


Load: TypeAlias = Callable[[Setup], TileMapper]


@dataclass(frozen=True, slots=True)
class Placed:
    """Said first, before the model is loaded."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is there."""

    facts: WorkerFacts
    holds: int


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


@dataclass(frozen=True, slots=True)
class Alive:
    """Said every few seconds, with how often anything in the worker has got on so far."""

    moves: int


Said: TypeAlias = Placed | Loaded | NotLoaded | Answered | Alive


class GpuActor:
    """Owns one worker. Ray pins its GPU through CUDA_VISIBLE_DEVICES."""

    def __init__(self, name: str, setup: Setup, load: Load, worker: Callable[[str, Setup, Load], Works]) -> None:
        self._make, self._load = partial(worker, name, setup), load
        self._worker: Works | None = None

    def serve(self, contact: Contact, readers: Sequence[Any], alive_every_s: float) -> None:
        """Load the model and work until the driver hangs up. One call, as long as the actor lives."""
        self._line = Line(contact)
        self._say(Placed(socket.gethostname(), os.getpid()))
        over = threading.Event()
        threading.Thread(target=self._live, args=(over, alive_every_s), name="alive", daemon=True).start()
        try:
            worker = self._worker = self._make(reading_with(self._load, readers))
            self._say(Loaded(worker.facts(), worker.holds))
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
            self._say(Answered(number, worker.run(task), worker.holds))
        except Exception as error:  # an answer that cannot be sent, say: somebody waits for one
            what = f"a defect in resmap: {type(error).__name__}: {error}"
            lost = MapperError(what, fix="please report it with this line", tile=task.name)
            self._say(Answered(number, lost, worker.holds))

    def _live(self, over: threading.Event, every_s: float) -> None:
        while not over.wait(every_s):
            self._say(Alive(0 if self._worker is None else self._worker.moves))

    def _say(self, said: Said) -> None:
        self._line.send(pickle.dumps(said, protocol=pickle.HIGHEST_PROTOCOL))
