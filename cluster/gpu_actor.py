"""The Ray actor that owns one GPU and one loaded model: tasks in, answers out, and signs of life, on one line.

driver ─ task ───► the actor's main thread ─► a thread a task ─┐
driver ◄─ answer ──────────────────────────────────────────────┤
driver ◄─ sign of life ─ a thread of its own ──────────────────┘   silent only where the whole process is stuck

Where its machine goes away, the actor hears of it from the driver (``Leave``), which has it from Ray; or from its cloud
or a signal, and tells the driver (``Leaving``), which answers with ``Leave``. What Ray 2.60 does to a worker process:

| what happens                          | what reaches the actor                                                       |
|---------------------------------------|------------------------------------------------------------------------------|
| `resmap drain`, `ray drain-node`      | nothing; its node drains, so the driver says ``Leave``                       |
| SIGTERM to `ray start --block`        | the same: Ray drains the node for RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S (30) |
| SIGTERM to the worker itself          | the signal, which would end it at once; here it is a notice                  |
| `ray stop`, SIGTERM to the raylet     | its end, at once: whatever it holds is lost, and done again elsewhere        |
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

from cluster.drain import drain_here
from cluster.draining import node_here
from cluster.lines import Contact, Line
from cluster.metrics import RayMetrics
from cluster.pool import WorkerFacts
from cluster.readers import reading_with
from cluster.readings import Reading
from cluster.spot import Leaving, Spot
from cluster.worker import MOST_HELD
from mapper.errors import HandedBackError, MapperError
from mapper.map_tile import Result, Setup, Task, TileMapper

__all__ = [
    "Alive", "Answered", "GpuActor", "Leave", "Leaving", "Load", "Loaded", "NotLoaded", "Placed", "Said", "Works",
]  # fmt: skip

TERM_S = 10.0
"""After a signal a process has so long at the least: Docker waits 10 s, Kubernetes 30 s, systemd 90 s."""

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

    def leave(self, within_s: float) -> None:
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

        self._hand: dict[int, Task] = {}
        """Number → task that is not answered yet."""

        self._leaves: Leave | None = None
        self._lock = threading.Lock()

    def serve(self, contact: Contact, readers: Sequence[Any], alive_every_s: float) -> None:
        """Load the model and work until the driver hangs up. One call, as long as the actor lives."""
        self._line = Line(contact)
        self._say(Placed(socket.gethostname(), os.getpid(), node_here()))
        over, notices = threading.Event(), SimpleQueue[Leaving | None]()
        threading.Thread(target=self._live, args=(over, alive_every_s), name="alive", daemon=True).start()
        threading.Thread(target=self._warn, args=(notices,), name="warn", daemon=True).start()
        threading.Thread(target=_ask_cloud, args=(over, notices), name="spot", daemon=True).start()
        unhear = _hear_sigterm(notices)
        try:
            worker = self._worker = self._make(reading_with(self._load, readers))
            self._say(Loaded(worker.facts(), worker.holds, self._reading(worker)))
            self._work(worker)
        except MapperError as error:
            self._say(NotLoaded(error))
            self._line.heard()  # hung up on, once that has been heard
        finally:
            unhear()
            over.set()
            notices.put(None)
            self._line.close()

    def _work(self, worker: Works) -> None:
        threads = ThreadPoolExecutor(MOST_HELD, thread_name_prefix="tile")
        while (message := self._line.heard()) is not None:
            said = pickle.loads(message)
            if isinstance(said, Leave):
                self._leave(worker, said)
                continue
            number, task = said
            self._hand[number] = task
            if self._leaves is None:
                threads.submit(self._run, worker, number, task)
            else:
                self._hand_back(worker, number, task, "its worker leaves, and takes no more")
        threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, worker: Works, number: int, task: Task) -> None:
        try:
            result = worker.run(task)
            reading = self._reading(worker)
            last = reading is not None and not reading.in_hand
            said = _packed(Answered(number, result, worker.holds, reading if last else None))
        except Exception as error:  # an answer that cannot be sent, say: somebody waits for one
            what = f"a defect in resmap: {type(error).__name__}: {error}"
            lost = MapperError(what, fix="please report it with this line", tile=task.name)
            said = _packed(Answered(number, lost, worker.holds))
        self._answer(number, said)

    def _answer(self, number: int, said: bytes) -> None:
        """Say what became of a task, unless it was given back before."""
        with self._lock:
            waited_for = self._hand.pop(number, None) is not None
        if waited_for:
            self._line.send(said)

    # Leave ------------------------------------------------------------------------------------------------------------

    def _leave(self, worker: Works, leave: Leave) -> None:
        """Take no more, and give back in time what is not over. The shortest time that was said counts."""
        if self._leaves is not None and leave.within_s >= self._leaves.within_s:
            return
        self._leaves = leave
        worker.leave(leave.within_s)
        if math.isfinite(leave.within_s):
            timer = threading.Timer(leave.within_s, self._give_back, args=(worker,))
            timer.daemon = True
            timer.start()

    def _give_back(self, worker: Works) -> None:
        """The time is up."""
        for number, task in self._hand.copy().items():
            self._hand_back(worker, number, task, "its worker leaves before it could be over")

    def _hand_back(self, worker: Works, number: int, task: Task, what: str) -> None:
        back = HandedBackError(what, worker=self._name, tile=task.name)
        self._answer(number, _packed(Answered(number, back, worker.holds)))

    def _warn(self, notices: SimpleQueue[Leaving | None]) -> None:
        """Tell the driver what a cloud or a signal said."""
        while (leaving := notices.get()) is not None:
            self._say(leaving)

    # Say --------------------------------------------------------------------------------------------------------------

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
        self._line.send(_packed(said))


def _packed(said: Said) -> bytes:
    return pickle.dumps(said, protocol=pickle.HIGHEST_PROTOCOL)


def _ask_cloud(over: threading.Event, notices: SimpleQueue[Leaving | None]) -> None:
    """Pass on the first notice of the cloud, and have Ray place nothing more on this node."""
    spot = Spot.here()
    while (wait_s := spot.ask_every_s) is not None and not over.wait(wait_s):
        if (leaving := spot.notice()) is not None:
            notices.put(leaving)
            drain_here(leaving.within_s, leaving.reason)
            return


def _hear_sigterm(notices: SimpleQueue[Leaving | None]) -> Callable[[], None]:
    """Take the first SIGTERM for a notice; a second one ends the process, as Ray would have it at the first. What takes
    it back is given."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # only there signals can be heard; Ray calls an actor in it
    ends = signal.getsignal(signal.SIGTERM)

    def unhear() -> None:
        signal.signal(signal.SIGTERM, ends)

    def hear(number: int, frame: Any) -> None:
        unhear()
        notices.put(Leaving(TERM_S, "it was told to end (SIGTERM)"))  # this kind of queue may be filled in a signal

    signal.signal(signal.SIGTERM, hear)
    return unhear
