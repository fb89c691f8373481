"""The model's own thread: it takes windows from whichever tiles are ready, a batch at a time, the earliest tile first.

So the model goes on with the next tile's windows while the last one's are being blended, and a batch is full although
a tile's windows seldom are a multiple of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush

from cluster.sizing import Batch
from cluster.tally import Tally
from mapper.errors import ResourceError
from mapper.imagery import Pixels
from mapper.look import Ask
from mapper.map_tile import TileMapper
from mapper.reuse import Answer
from mapper.work import SPENT

CPU_THREADS = 1
"""Torch threads of a model on the CPU. Their number changes the last bits of fp32 convolutions, so it is the same
for every worker, however many share a machine; more workers use more cores."""


@dataclass(order=True, slots=True)
class _Asked:
    """One window for the model."""

    tile: int
    number: int
    pixels: Pixels = field(compare=False)
    prompts: tuple[int, ...] = field(compare=False)
    answer: Future[Answer] = field(compare=False)


class Lane:
    """Runs a model in a thread of its own, which also loads it."""

    def __init__(self, name: str, load: Callable[[], TileMapper]) -> None:
        """Load the model.

        Raises:
            MapperError: the model or the mosaic cannot be opened.
        """
        self._waiting: list[_Asked] = []
        self._number = 0
        self.batches = 0
        """Answered so far."""

        self._closed = False
        self._change = threading.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-model", initializer=_pin)
        self.mapper = self._thread.submit(load).result()
        model = self.mapper.model
        self._batch = Batch(size=model.batch, most=model.batch, least=model.launch)
        self.tally = Tally()
        """Of its time, from now on."""

        self._going = self._thread.submit(self._go)

    @property
    def batch(self) -> int:
        """Windows it takes at once now."""
        return self._batch.size

    def ask(self, tile: int) -> Ask:
        """How one tile's windows reach the model.

        Args:
            tile: its place in line; those with lower numbers are served first.
        """

        def ask(pixels: Sequence[Pixels], prompts: tuple[int, ...]) -> Sequence[Future[Answer]]:
            return [self._put(tile, window, prompts) for window in pixels]

        return ask

    def close(self) -> None:
        """Answer nothing more: who waits is told."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.shutdown(wait=False)

    def _put(self, tile: int, pixels: Pixels, prompts: tuple[int, ...]) -> Future[Answer]:
        answer: Future[Answer] = Future()
        with self._change:
            if self._closed:
                answer.set_exception(ResourceError("the worker was closed", tile=tile))
                return answer
            self._number += 1
            heappush(self._waiting, _Asked(tile, self._number, pixels, prompts, answer))
            self._change.notify()
        return answer

    def _go(self) -> None:
        while asked := self._taken():
            self.tally.compute()
            copied_s = SPENT.seconds()["copy"]
            self._answer(asked)
            self.tally.rest(copied_s=SPENT.seconds()["copy"] - copied_s)
        for one in self._waiting:
            one.answer.set_exception(ResourceError("the worker was closed"))

    def _taken(self) -> list[_Asked]:
        """The next batch: windows that ask for the same prompts. Empty once closed."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            taken = [heappop(self._waiting)]
            while self._waiting and len(taken) < self._batch.size and self._waiting[0].prompts == taken[0].prompts:
                taken.append(heappop(self._waiting))
            while len(taken) > self._batch.least and len(taken) % self._batch.least:
                heappush(self._waiting, taken.pop())  # rather with the next ones than filled up with black
            return taken

    def _answer(self, asked: list[_Asked]) -> None:
        begun, copied_s = time.perf_counter(), SPENT.seconds()["copy"]
        try:
            answers = self.mapper.model.logits([one.pixels for one in asked], asked[0].prompts)
        except Exception as error:
            smaller = self._batch.after(out_of_memory=True) if ran_out_of_memory(error) else None
            if smaller is None:
                for one in asked:
                    one.answer.set_exception(error)
                return
            self._batch = smaller
            with self._change:  # the same windows again, fewer at a time
                for one in asked:
                    heappush(self._waiting, one)
            return
        took_s = time.perf_counter() - begun
        SPENT.add("infer", took_s - (SPENT.seconds()["copy"] - copied_s))
        seconds = took_s / len(asked)
        self.batches += 1
        self._batch = self._batch.after(out_of_memory=False) or self._batch
        for one, logits in zip(asked, answers, strict=True):
            one.answer.set_result(Answer(logits=logits, seconds=seconds))


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a model failed for want of memory. Torch's own error is known by its name: it need not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _pin() -> None:
    """In the thread that will run the model: OpenMP counts threads by the thread that asks."""
    import torch

    torch.set_num_threads(CPU_THREADS)
