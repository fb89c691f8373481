"""The Ray actors of a pool: asked for, told to begin, killed; and those that read for them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import ray
from ray._private.state import state
from ray.exceptions import ActorDiedError, RayError

from cluster.gpu_actor import GpuActor, Load, Works
from cluster.lines import Contact
from cluster.placement import Fleet
from cluster.ray_cluster import first_line
from cluster.readers import cluster_nodes, place_readers, readers_wanted
from cluster.seats import Seat
from mapper.map_tile import Setup

MORE_READERS_S = 10.0
"""How long workers that join wait for the readers that are placed for them."""

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Over:
    """The call in which an actor worked is over."""

    line: int
    said: str
    """By Ray."""

    taken: bool
    """Whether its machine was taken away, and it was known that it would be."""


class RayActors:
    """Makes the actors of one pool. To be used in the thread that drives it; ``ring`` is called from others."""

    def __init__(
        self,
        setup: Setup,
        load: Load,
        worker: Callable[[str, Setup, Load], Works],
        *,
        fleet: Fleet,
        readers: int | None,
        ring: Callable[[], None],
    ) -> None:
        """Nothing is asked for yet.

        Args:
            setup: what every worker must know.
            load: makes the tile mapper in the actor.
            worker: makes what the actor owns.
            fleet: where workers may be, and what each takes.
            readers: actors that read for them; None for as many as ``readers_wanted``, more as workers join.
            ring: tells the pool that something has come.
        """
        self._setup, self._load, self._worker = setup, load, worker
        self._fleet, self._asked, self._ring = fleet, readers, ring
        self._readers: list[Any] = []
        self._over: SimpleQueue[Over] = SimpleQueue()
        self._ready: SimpleQueue[tuple[Sequence[Seat], list[Any]]] = SimpleQueue()
        self._closed = threading.Event()

    def ask_for(self, seat: Seat, *, beside: Collection[str] = ()) -> None:
        """Have Ray find a place for an actor of this seat, on none of these nodes."""
        remote: Any = ray.remote(GpuActor)
        options = self._fleet.asks_for(beside=beside) | {"max_restarts": 0, "max_task_retries": 0}
        seat.actor = remote.options(**options).remote(seat.name, self._setup, self._load, self._worker)

    def begin(self, seat: Seat, contact: Contact, alive_every_s: float) -> None:
        """Have its actor load and work, once it has a place."""
        call = seat.actor.serve.remote(contact, self._readers, alive_every_s)

        def over(done: Future[None], line: int = contact.number) -> None:
            error = done.exception()
            taken = isinstance(error, ActorDiedError) and error.preempted
            self._over.put(Over(line, "its call is over" if error is None else _reason(error), taken))
            self._ring()

        call.future().add_done_callback(over)

    def over(self) -> Iterator[Over]:
        """The calls that are over, since last asked."""
        yield from _all(self._over)

    def without_place(self, seats: Sequence[Seat]) -> list[Seat]:
        """Of these, those whose actors Ray has started on no node yet. Asks the head."""
        return [seat for seat in seats if not self._started(seat.actor)]

    def place_readers(self, workers: int) -> None:
        """Place those that read for so many first workers. These must have been asked for: no reader takes a core that
        one of them needs."""
        count = self._lacking(workers) if self._asked is None else self._asked
        self._readers = place_readers(self._setup, count)

    def place_more_readers(self, seats: Sequence[Seat], workers: int) -> None:
        """Have seats that came later begin once there are readers for them, where nodes lack cores."""
        if self._asked is not None:
            self._ready.put((seats, []))
            return

        def place() -> None:
            readers: list[Any] = []
            try:
                if (count := self._lacking(workers)) > 0:
                    readers = place_readers(self._setup, count, timeout_s=MORE_READERS_S)
            except Exception as error:  # the border of a thread: workers read by themselves
                _log.warning("no readers were placed for workers that joined: %s", first_line(error))
            self._ready.put((seats, readers))
            if self._closed.is_set():
                self._kill_late_readers()
            self._ring()

        threading.Thread(target=place, name="readers", daemon=True).start()

    def ready(self) -> Iterator[Seat]:
        """Seats that came later and may begin, since last asked."""
        for seats, readers in _all(self._ready):
            self._readers += readers
            yield from seats

    def kill(self, actor: Any) -> None:
        """End one, wherever it is."""
        with contextlib.suppress(RayError, ValueError):  # Ray has forgotten it already
            ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End those that read."""
        self._closed.set()
        self._kill_late_readers()
        for reader in self._readers:
            self.kill(reader)

    def _started(self, actor: Any) -> bool:
        """Whether it has a process; so it is taken to have where the head does not say."""
        try:
            known = state.actor_table(actor._actor_id.hex())
        except Exception:  # whatever is wrong with the head: nobody is taken away for it
            return True
        return bool(known.get("Address", {}).get("IPAddress"))

    def _kill_late_readers(self) -> None:
        for _, readers in _all(self._ready):
            for reader in readers:
                self.kill(reader)

    def _lacking(self, workers: int) -> int:
        gpus = math.ceil(workers / self._fleet.workers_per_gpu)
        return max(0, readers_wanted(cluster_nodes(gpus)) - len(self._readers))


def _all(queue: SimpleQueue[Value]) -> Iterator[Value]:
    """What is in a queue by now."""
    with contextlib.suppress(Empty):
        while True:
            yield queue.get_nowait()


def _reason(error: BaseException) -> str:
    """What Ray says an actor died of, in a line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "because" in line or "exit detail" in line), first_line(error))
