"""One GPU, one loaded model, and the threads around it. The same in a Ray actor and in this process.

calling threads   read ─┐                ┌ blend, write
(one a tile)      read ─┤→ the model's ──┤ blend, write     as many at each stage as the queues ask for:
                  read ─┘   one thread   └ blend, write     cluster/sizing.py

What the tiles in hand take in memory is bounded: one that would go beyond waits before it is read.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from cluster.account import Account
from cluster.lane import Lane, ran_out_of_memory
from cluster.pool import WorkerFacts
from cluster.readings import Reading
from cluster.sizing import Limits, Queues, Sizes, sized
from cluster.tally import Tally, stage_of
from mapper.errors import HandedBackError, MapperError, ResourceError
from mapper.map_tile import Result, Setup, Task, TileMapper, TileResult, TileTask
from mapper.pyramid import LevelTask

MOST_HELD = 16
"""Tasks a worker may hold at most: so many threads an actor has for them."""

HELD_BYTES = 2 * 1024**3
"""Memory of all tiles a worker has read and not yet written. One tile alone may take more."""


class Worker:
    """Maps tiles. ``run`` may be called from ``MOST_HELD`` threads at once."""

    def __init__(
        self,
        name: str,
        setup: Setup,
        load: Callable[[Setup], TileMapper] = TileMapper.load,
        *,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Load the model in the thread that will own it.

        Raises:
            MapperError: the model or the mosaic cannot be opened.
        """
        self._name = name
        self._lane = Lane(name, lambda: load(setup))
        self._mapper = self._lane.mapper
        self._numbers = itertools.count()
        self._stages = _Stages(held_bytes, self._lane.tally)
        self._account = Account(name, self._mapper.segmenter.device, self._lane.tally)

    def facts(self) -> WorkerFacts:
        """What it is and where."""
        return WorkerFacts(
            name=self._name,
            device=self._mapper.segmenter.device,
            fingerprint=self._mapper.model.fingerprint,
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    @property
    def holds(self) -> int:
        """How many tasks it wants in hand at present, 1 to ``MOST_HELD``."""
        return self._stages.holds

    @property
    def moves(self) -> int:
        """How often anything in it has got on so far: a tile from one stage to the next, a batch through the model."""
        return self._stages.moves + self._lane.batches

    def reading(self) -> Reading:
        """What it says of itself now."""
        stages = self._stages
        return self._account.reading(
            batch=self._lane.batch, in_hand=stages.in_hand, holds=self.holds, queues=asdict(stages.queues())
        )

    def leave(self, within_s: float) -> None:
        """Begin nothing more: its machine goes. What is begun goes on where it can be over in so many seconds."""
        self._stages.leave(within_s)

    def run(self, task: Task) -> Result | MapperError:
        """Map one tile, or build one shard above them, beside the model's thread. This is the task border: whatever
        goes wrong comes back as a value with its place."""
        with self._stages.in_hands():
            return self._done(task)

    def _done(self, task: Task) -> Result | MapperError:
        try:
            if isinstance(task, LevelTask):
                with self._stages.writing(of_tile=False):
                    return self._mapper.build(task)
            result = self._mapped(task)
            self._account.count(result)
            return result
        except MapperError as error:
            error.where.setdefault("tile", task.name)
            if isinstance(error, HandedBackError):
                error.where.setdefault("worker", self._name)
            return error
        except Exception as error:
            if ran_out_of_memory(error):
                host = isinstance(error, MemoryError)
                return ResourceError(
                    f"memory ran out: {error}" if host else "the GPU's memory ran out",
                    fix="lower grid.shard_px" if host else "lower compute.batch",
                    tile=task.name,
                )
            where = traceback.extract_tb(error.__traceback__)[-1]
            return MapperError(
                f"a defect in resmap: {type(error).__name__}: {error}",
                fix="please report it with this line",
                tile=task.name,
                at=f"{os.path.basename(where.filename)}:{where.lineno}",  # noqa: PTH119  # a frame's name, not a path to open
            )

    def close(self) -> None:
        """Let the model's thread end."""
        self._lane.close()

    def _mapped(self, task: TileTask) -> TileResult:
        with self._stages.held(self._mapper.held_bytes(task)):
            with self._stages.reading():
                view = self._mapper.read(task)
            read_at = time.monotonic()
            with self._stages.on_model():
                # Numbered once read: what was read first is looked at first, and a slow read holds nobody up.
                scores = self._mapper.segment(task, view, self._lane.ask(next(self._numbers)))
            with self._stages.writing():
                result = self._mapper.write(task, view, scores)
            self._stages.took(time.monotonic() - read_at)
            return result


class _Stages:
    """How many tiles are at which stage, and how many may be: the sizes follow the queues. What the model waits for
    follows them, too."""

    def __init__(self, budget_bytes: int, tally: Tally) -> None:
        self.sizes = Sizes()
        self.moves = self.in_hand = 0
        self._limits = Limits()
        self._budget_bytes, self._tally = budget_bytes, tally
        self._bytes = self._waiting = self._reading = self._ready = self._unwritten = self._writing = 0
        self._kept_out = self._tiles_unwritten = 0
        self._until = math.inf
        """When it has to be over, where its machine goes; by the monotonic clock."""

        self._leaves = False
        self._rest_s = 0.0
        """From a tile's being read until it is written, as it took lately."""

        self._change = threading.Condition()

    @property
    def holds(self) -> int:
        """Tasks to have in hand."""
        return min(self.sizes.holds, MOST_HELD)

    def leave(self, within_s: float) -> None:
        """Let no task begin, and none go on that would not be over in so many seconds."""
        with self._change:
            self._leaves, self._until = True, min(self._until, time.monotonic() + within_s)
            self._change.notify_all()

    @contextmanager
    def in_hands(self) -> Iterator[None]:
        """While a task is in hand."""
        with self._change:
            self.in_hand += 1
            self._changed()
        try:
            yield
        finally:
            with self._change:
                self.in_hand -= 1
                self._changed()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """While a tile is in memory."""
        with self._change:
            self._kept_out += 1
            self._changed()
            self._change.wait_for(
                lambda: self._leaves or self._bytes == 0 or self._bytes + nbytes <= self._budget_bytes
            )
            self._kept_out -= 1
            self._may_begin()
            self._bytes += nbytes
        try:
            yield
        finally:
            with self._change:
                self._bytes -= nbytes
                self._changed()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a tile is read: not more at once than there are readers."""
        with self._change:
            self._waiting += 1
            self._change.wait_for(lambda: self._leaves or self._reading < self.sizes.readers)
            self._waiting -= 1
            self._may_begin()
            self._reading += 1
            self._changed()
        try:
            yield
        finally:
            with self._change:
                self._reading -= 1
                self.moves += 1
                self._changed()

    @contextmanager
    def on_model(self) -> Iterator[None]:
        """From a tile's being read until all is said of it. Where its machine goes, the model is left to tiles that can
        still be written."""
        with self._change:
            if self._leaves and time.monotonic() + self._rest_s > self._until:
                raise HandedBackError("its worker leaves before it could be over")
            self._ready += 1
            self._changed()
        try:
            yield
        finally:
            with self._change:
                self._ready -= 1
                self.moves += 1
                self.sizes = sized(self.sizes, self.queues(), self._limits)
                self._changed()

    @contextmanager
    def writing(self, *, of_tile: bool = True) -> Iterator[None]:
        """While a tile, or a shard above them, is encoded and put."""
        with self._change:
            self._unwritten += 1
            self._tiles_unwritten += of_tile
            self._changed()
            self._change.wait_for(
                lambda: self._writing < self.sizes.writers or (self._leaves and not of_tile)  # nothing of it is begun
            )
            self._unwritten -= 1
            if not of_tile:
                self._may_begin()
            self._writing += 1
        try:
            yield
        finally:
            with self._change:
                self._writing -= 1
                self._tiles_unwritten -= of_tile
                self.moves += 1
                self._changed()

    def took(self, rest_s: float) -> None:
        """So long a tile took from its being read until it was written."""
        self._rest_s = rest_s if self._rest_s == 0 else 0.8 * self._rest_s + 0.2 * rest_s

    def queues(self) -> Queues:
        """Tiles by what they are at."""
        return Queues(
            waiting=self._waiting,
            reading=self._reading,
            ready=self._ready,
            unwritten=self._unwritten,
            writing=self._writing,
        )

    def _may_begin(self) -> None:
        if self._leaves:
            self._changed()
            raise HandedBackError("its worker leaves, and had not begun with it")

    def _changed(self) -> None:
        """Say so to who waits for it, and to who counts."""
        self._change.notify_all()
        self._tally.stage(
            stage_of(
                ready=self._ready,
                reading=self._reading + self._waiting,
                unwritten=self._tiles_unwritten,
                full=self._kept_out > 0 or self.in_hand >= self.holds,
            )
        )
