"""A pool in this process: laptops, tests, debugging. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from cluster.pool import Finished, WorkerFacts, heard
from cluster.readings import Reading
from cluster.worker import MOST_HELD, Worker
from mapper.map_tile import Setup, Task, TileMapper

NAME = "local-0"


class LocalPool:
    """One worker, in threads of this process."""

    def __init__(self, setup: Setup, load: Callable[[Setup], TileMapper] = TileMapper.load) -> None:
        self._worker = Worker(NAME, setup, load)
        self._threads = ThreadPoolExecutor(MOST_HELD, thread_name_prefix="tile")
        self._over: SimpleQueue[Finished] = SimpleQueue()

    def workers(self) -> Mapping[str, int]:
        """The one worker, and how many tiles it wants in hand."""
        return {NAME: self._worker.holds}

    def facts(self) -> Sequence[WorkerFacts]:
        """Of the one worker."""
        return (self._worker.facts(),)

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Begin a task in a thread."""
        self._threads.submit(self._run, task, token)

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tasks that are over."""
        return heard(self._over, timeout_s)

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """Of the one worker, as of now."""
        return {NAME: (0.0, self._worker.reading())}

    def close(self) -> None:
        """Wait for the threads, then let the model go."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._worker.close()

    def _run(self, task: Task, token: int) -> None:
        self._over.put(Finished(worker=NAME, task=task, result=self._worker.run(task), token=token))
