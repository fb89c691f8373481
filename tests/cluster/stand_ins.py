"""Workers for a Ray pool that do nothing, or go wrong as a task's id or a file beside the mosaic says.

Ray's workers import this module by its name: what is here carries no state.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cluster import WorkerFacts
from cluster.readings import Reading
from mapper.errors import MapperError, ReadError
from mapper.map_tile import Result, Setup, Task, TileMapper

SLOW_TILE = 1
STUCK_TILE = 2


class Idle:
    """Answers at once that nothing was read; a second later to ``SLOW_TILE``, and never to ``STUCK_TILE``."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        self._name = name
        self.holds, self.moves = 2, 0

    def facts(self) -> WorkerFacts:
        return WorkerFacts(
            name=self._name, device="none", fingerprint="none", host=socket.gethostname(), pid=os.getpid()
        )

    def run(self, task: Task) -> Result | MapperError:
        time.sleep({SLOW_TILE: 1.0, STUCK_TILE: 3600.0}.get(task.id, 0.0))
        return ReadError("nothing was read", pid=os.getpid())

    def leave(self, within_s: float) -> None:
        """What it has in hand is begun."""

    def reading(self) -> Reading:
        return Reading(worker=self._name, pid=os.getpid(), up_s=time.monotonic())


class Busy(Idle):
    """Gets on all the time with a task that never ends."""

    @property
    def moves(self) -> int:
        return time.monotonic_ns()

    @moves.setter
    def moves(self, count: int) -> None:
        """Nobody counts here."""


class Hung(Idle):
    """Never answers."""

    def run(self, task: Task) -> Result | MapperError:
        time.sleep(3600.0)
        return super().run(task)


class Frail(Idle):
    """Dies while it loads, where a file says so."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        if frail(setup, name).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(name, setup, load)


class Changed(Idle):
    """Has another model where a file says so."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        super().__init__(name, setup, load)
        self._model = "another" if frail(setup, name).exists() else "one"

    def facts(self) -> WorkerFacts:
        return WorkerFacts(
            name=self._name, device="none", fingerprint=self._model, host=socket.gethostname(), pid=os.getpid()
        )


def frail(setup: Setup, name: str) -> Path:
    """The file that says so of a worker."""
    return Path(f"{setup.mosaic}.{name}")


class Mute(Idle):
    """Cannot say how it does."""

    def reading(self) -> Reading:
        raise OSError("no such counter")
