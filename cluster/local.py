"""A pool in this process: laptops, tests, debugging. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from cluster.pool import Finished, WorkerFacts
from cluster.worker import DEPTH, Worker
from mapper.errors import MapperError
from mapper.map_tile import Result, Setup, Task, TileMapper


class LocalPool:
    """One worker, in threads of this process."""

    def __init__(self, setup: Setup, load: Callable[[Setup], TileMapper] = TileMapper.load) -> None:
        self._worker = Worker("local-0", setup, load)
        self._threads = ThreadPoolExecutor(DEPTH, thread_name_prefix="tile")
        self._running: dict[Future[Result | MapperError], Task] = {}

    @property
    def depth(self) -> int:
        """As in ``Pool``."""
        return DEPTH

    def workers(self) -> Sequence[str]:
        """The one worker."""
        return ("local-0",)

    def facts(self) -> Sequence[WorkerFacts]:
        """Of the one worker."""
        return (self._worker.facts(),)

    def start(self, worker: str, task: Task) -> None:
        """Begin a task in a thread."""
        self._running[self._threads.submit(self._worker.run, task)] = task

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tasks that are over."""
        done, _ = wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)
        return [Finished(worker="local-0", task=self._running.pop(future), result=future.result()) for future in done]

    def close(self) -> None:
        """Wait for the threads, then let the model go."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._worker.close()
