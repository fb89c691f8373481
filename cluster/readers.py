"""Reading on cores that no GPU has, for nodes whose own cores cannot feed their GPUs.

    threads of a worker ─► RemoteReader ─┬─► Ray actor with a RasterReader, on a node with spare cores
                               ┊         └─► another
                               └┄┄► the worker's own reader, while none is left

One that dies is started again by Ray, and one that does not answer is left alone for a while; others read meanwhile.
A view comes back through Ray's object store and is used where it lies, so its arrays are read-only. Which of them read
a view does not change it.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from mapper.errors import MapperError, ResourceError
from mapper.failpoints import reach
from mapper.grid import Lattice, PixelBox
from mapper.imagery import PlacedItem, View
from mapper.map_tile import Setup, TileMapper
from mapper.read import RasterReader, Reader
from mapper.traffic import TRAFFIC, Calls, calls_since
from mapper.work import SPENT, spent_since

CORES_A_WORKER = 4
"""Cores that feed one GPU. It takes 20 windows of 896 px a second, 16 Mpx: two cores where they are warped (7 Mpx/s
each), and less where they are not; one blends and encodes, and one drives the model."""

CALLS = 4
"""Views one reader reads at once, and its threads: it decodes on one core while others wait for answers."""

PLACED_WITHIN_S = 60.0
"""How long readers are waited for. A run goes without those that have found no core by then."""

RESTARTS = 10
"""How often Ray starts a reader again that died."""

SILENT_S = 120.0
"""How long a reader may take for a view. Reading has no effects: another reader, or the worker, reads it instead."""

AWAY_S = 30.0
"""For so long nothing is asked of a reader that died: Ray takes some seconds to start it again."""

SILENT_AWAY_S = 600.0
"""For so long, of one that did not answer: to find out whether it does costs ``SILENT_S``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    cores: int
    workers: int
    """GPU workers on it."""


def readers_wanted(nodes: Sequence[Node]) -> int:
    """How many readers to place: what cores the nodes with GPUs lack, as far as others have them to spare."""
    needed = [CORES_A_WORKER * node.workers for node in nodes]
    lacking = sum(max(0, cores - node.cores) for node, cores in zip(nodes, needed, strict=True))
    spare = sum(max(0, node.cores - cores) for node, cores in zip(nodes, needed, strict=True))
    return min(lacking, spare)


def cluster_nodes(workers: int) -> list[Node]:
    """The machines of the cluster that this process is connected to, the workers on those with the most GPUs."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's
    nodes = []
    for resources in sorted(found, key=lambda one: one.get("GPU", 0.0), reverse=True):
        here = min(workers, int(resources.get("GPU", 0)))
        nodes.append(Node(cores=int(resources.get("CPU", 0)), workers=here))
        workers -= here
    return nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a reader answers."""

    answer: View | MapperError
    work_s: Mapping[str, float]
    """Seconds of its threads, by ``WORK``, since it last told anybody: most of them for this view. Over all its
    answers they are counted once."""

    calls: tuple[Calls, ...]
    """Likewise."""


class ReaderActor:
    """The Ray actor that reads for others."""

    def __init__(self, setup: Setup) -> None:
        self._telling = threading.Lock()
        self._told = SPENT.seconds(), TRAFFIC.calls()
        self._reader = RasterReader(bands=setup.bands, stretch=setup.stretch, composite=setup.composite, threads=CALLS)

    def ready(self) -> None:
        """Answers once it runs."""

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> Read:
        """As ``Reader.read``; what goes wrong comes back as a value, as it is."""
        with SPENT.computing("decode"):
            answer = self._view(items, lattice, frame)
        with self._telling:
            (work_s, calls), self._told = self._told, (SPENT.seconds(), TRAFFIC.calls())
            since = spent_since(work_s, self._told[0]), calls_since(calls, self._told[1])
        return Read(answer=answer, work_s=since[0], calls=since[1])

    def _view(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View | MapperError:
        try:
            reach("reader-reads")
            return self._reader.read(items, lattice, frame)
        except MapperError as error:
            return error
        except MemoryError as error:
            return ResourceError(f"a reader's memory ran out: {error}", fix="lower grid.shard_px")


def place_readers(setup: Setup, count: int, *, timeout_s: float = PLACED_WITHIN_S) -> list[Any]:
    """Actors that read, a core each, over all nodes: those that run in time, which may be fewer than asked for.

    To be called once the GPU workers have been asked for, so that no reader takes a core that one of those needs.
    """
    remote: Any = ray.remote(ReaderActor)
    options = {"num_cpus": 1, "max_concurrency": CALLS, "max_restarts": RESTARTS, "max_task_retries": 0}
    asked = [remote.options(**options, scheduling_strategy="SPREAD").remote(setup) for _ in range(count)]
    calls = {actor.ready.remote(): actor for actor in asked}
    up, late = ray.wait(list(calls), num_returns=count, timeout=timeout_s) if calls else ([], [])
    for call in late:
        ray.kill(calls[call], no_restart=True)
    if late:
        _log.warning("%d of %d readers found no core within %g s", len(late), count, timeout_s)
    return [calls[call] for call in up]


def reading_with(load: Callable[[Setup], TileMapper], readers: Sequence[Any]) -> Callable[[Setup], TileMapper]:
    """A way of loading a tile mapper that has these actors read; its own reader is for when none is left."""

    def loaded(setup: Setup) -> TileMapper:
        mapper = load(setup)
        if readers:
            mapper.read_with(lambda own: RemoteReader(readers, own))
        return mapper

    return loaded


class RemoteReader:
    """A ``Reader`` that has others read. Many threads may share one, and should: each waits for one view."""

    def __init__(
        self, readers: Sequence[Any], own: Reader, *, silent_s: float = SILENT_S, away_s: float = AWAY_S
    ) -> None:
        """A reader over some others.

        Args:
            readers: handles of ``ReaderActor``; other workers may have the same ones.
            own: reads while none of them is left.
            silent_s: how long a view is waited for.
            away_s: how long nothing is asked of one that died.
        """
        self._own = own
        self._silent_s, self._away_s = silent_s, away_s
        self._back_at: dict[Any, float] = {}
        self._lock = threading.Lock()
        self._calls = dict.fromkeys(random.sample(readers, len(readers)), 0)  # another order in each worker
        self._last = dict.fromkeys(self._calls, 0)
        self._count = itertools.count(1)

    @property
    def readers(self) -> int:
        """How many others are left, of those that are not away."""
        return len(self._here())

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        """As ``Reader.read``; the arrays are read-only.

        Raises:
            MapperError: as the reader raised it. That a reader is lost is no error: another one reads.
        """
        while (reader := self._least_busy()) is not None:
            try:
                read: Read = ray.get(reader.read.remote(tuple(items), lattice, frame), timeout=self._silent_s)
            except RayTaskError as error:
                self._free(reader)
                raise error.cause from None  # a defect, as it would have been here
            except RayError as error:
                self._free(reader)
                self._leave_out(reader, error)
                continue
            self._free(reader)
            SPENT.add_all(read.work_s)
            TRAFFIC.add_all(read.calls)
            if isinstance(read.answer, MapperError):
                raise read.answer
            return read.answer
        return self._own.read(items, lattice, frame)

    def _least_busy(self) -> Any:
        """The reader with the fewest calls of ours; of those the one asked last, which has the neighbours' blocks."""
        with self._lock:
            if not (here := self._here()):
                return None
            reader = min(here, key=lambda one: (self._calls[one], -self._last[one]))
            self._calls[reader] += 1
            self._last[reader] = next(self._count)
            return reader

    def _here(self) -> list[Any]:
        now = time.monotonic()
        return [reader for reader in self._calls if self._back_at.get(reader, 0.0) <= now]

    def _free(self, reader: Any) -> None:
        with self._lock:
            self._calls[reader] -= 1

    def _leave_out(self, reader: Any, error: RayError) -> None:
        silent = isinstance(error, GetTimeoutError)
        with self._lock:
            first = reader in self._here()  # the first of the calls it had to say so
            self._back_at[reader] = time.monotonic() + (SILENT_AWAY_S if silent else self._away_s)
        if first:
            what = f"said nothing for {self._silent_s:g} s" if silent else "was lost"
            _log.warning("a reader %s, %d are left: %s", what, self.readers, str(error).partition("\n")[0])
