"""One GPU, one loaded model, and the threads around it. The same in a Ray actor and in this process.

calling threads   read ─┐                    ┌─ write
(one a task)      read ─┤→ the model's one ──┤─ write       a tile is read while another is on the GPU
                  read ─┘     thread         └─ write       and a third is being written
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.pool import WorkerFacts
from mapper.errors import MapperError, ResourceError
from mapper.map_tile import Result, Setup, Task, TileMapper
from mapper.pyramid import LevelTask

DEPTH = 3
"""Tasks a worker holds: one being read, one on the GPU, one being written."""

MOST_HELD = 16
"""Tasks a worker may hold at most: so many threads an actor has for them."""


CPU_THREADS = 1
"""Torch threads of a model on the CPU. Their number changes the last bits of fp32 convolutions, so it is the same
for every worker, however many share a machine; more workers use more cores."""


def _pin() -> None:
    """In the thread that will run the model: OpenMP counts threads by the thread that asks."""
    import torch

    torch.set_num_threads(CPU_THREADS)


class Worker:
    """Maps tiles. ``run`` may be called from ``DEPTH`` threads at once."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper] = TileMapper.load) -> None:
        """Load the model in the thread that will own it.

        Raises:
            MapperError: the model or the mosaic cannot be opened.
        """
        self._name = name
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-model", initializer=_pin)
        self._mapper = self._model_thread.submit(load, setup).result()

    def facts(self) -> WorkerFacts:
        """What it is and where."""
        segmenter = self._mapper.segmenter
        return WorkerFacts(
            name=self._name,
            device=segmenter.device,
            # A GPU and a CPU round differently: their answers are not mixed in one mosaic.
            fingerprint=f"{segmenter.fingerprint} on {segmenter.device.partition(':')[0]}",
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    @property
    def holds(self) -> int:
        """How many tasks it wants in hand at present, 1 to ``MOST_HELD``."""
        return DEPTH

    def run(self, task: Task) -> Result | MapperError:
        """Map one tile, or build one shard above them, beside the model's thread. This is the task border: whatever
        goes wrong comes back as a value with its place."""
        try:
            if isinstance(task, LevelTask):
                return self._mapper.build(task)
            view = self._mapper.read(task)
            scores = self._model_thread.submit(self._mapper.segment, task, view).result()
            return self._mapper.write(task, view, scores)
        except MapperError as error:
            error.where.setdefault("tile", task.name)
            return error
        except MemoryError as error:
            return ResourceError(f"memory ran out: {error}", fix="lower grid.shard_px", tile=task.name)
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's, named so that torch need not be imported here
                return ResourceError("the GPU's memory ran out", fix="lower compute.batch", tile=task.name)
            where = traceback.extract_tb(error.__traceback__)[-1]
            return MapperError(
                f"a defect in resmap: {type(error).__name__}: {error}",
                fix="please report it with this line",
                tile=task.name,
                at=f"{os.path.basename(where.filename)}:{where.lineno}",  # noqa: PTH119  # a frame's name, not a path to open
            )

    def close(self) -> None:
        """Let the model's thread end."""
        self._model_thread.shutdown(wait=False, cancel_futures=True)
