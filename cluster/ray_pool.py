"""A pool of Ray actors, one a GPU: place them, hand them tasks, replace those that die or hang.

    a seat a worker ─┬─ its actor now: placed ─► loading ─► working ─► lost ─┐
                     └◄──────────────── another actor ◄──────────────────────┤
                                                    gone ◄── third in a row ─┘

What a lost actor had in hand comes back as lost. Its line is hung up first, so what it says later reaches nobody.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.gpu_actor import Alive, Answered, GpuActor, Load, Loaded, NotLoaded, Placed, Works
from cluster.lines import Switchboard
from cluster.liveness import LOOK_S, Limits, Signs, Watched
from cluster.pool import Finished, WorkerFacts
from cluster.ray_cluster import connect, first_line
from cluster.readers import cluster_nodes, place_readers, readers_wanted
from cluster.readings import Reading
from cluster.worker import Worker
from mapper.errors import MapperError, ModelError, ResourceError, WorkerLostError
from mapper.map_tile import Setup, Task, TileMapper

SAID_EVERY_S = 1.0
"""How often an actor says what it measured, and with it that it lives."""

MOST_FALLS = 3
"""Actors in a row that a seat may lose before one of them has finished a task."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One worker's place, and the actor that has it now."""

    name: str
    actor: Any = None
    line: int = 0
    signs: Signs = field(default_factory=Signs)
    placed: Placed | None = None
    facts: WorkerFacts | None = None
    """None until its model is loaded."""

    hand: dict[int, tuple[Task, int]] = field(default_factory=dict)
    """Number → task and token."""

    falls: int = 0


class RayPool:
    """Actors on a Ray cluster: an existing one by address, or one of this machine, started and stopped with it."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int | None,
        address: str | None = None,
        readers: int | None = 0,
        load: Load = TileMapper.load,
        worker: Callable[[str, Setup, Load], Works] = Worker,
        insecure_ray: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Connect, place the actors, and wait for the first to have its model.

        Args:
            setup: what every worker must know.
            workers: GPU actors; None takes as many as the cluster has GPUs (one where it has none).
            address: of a running cluster, as Ray writes it; None starts one here, whose GPUs are logical ones
                where the machine has none.
            readers: actors that read for the workers, a core each; None takes as many as ``readers_wanted``.
            load: makes the tile mapper in the actor.
            worker: makes what the actor owns, of its name, the setup and ``load``.
            insecure_ray: whether to join a cluster of other machines that asks nobody for a token.
            limits: when an actor is given up.

        Raises:
            ResourceError: the cluster cannot be reached, asks nobody for a token, or has fewer GPUs than asked for.
            MapperError: the model cannot be loaded.
        """
        self._made_of = (setup, load, worker)
        self._limits = limits or Limits()
        self._seats: dict[str, _Seat] = {}
        self._lines: dict[int, _Seat] = {}
        self._holds: dict[str, int] = {}
        self._readings: dict[str, tuple[float, Reading]] = {}
        """Worker → when it said so last, and what."""

        self._ended: list[Finished] = []
        self._over: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._numbers = itertools.count()
        self._readers: list[Any] = []
        self._board: Switchboard | None = None
        self._last_gone: MapperError | None = None
        self._started_ray = connect(workers, address, readers=readers or 0, insecure=insecure_ray)
        try:
            self._open(setup, workers, readers)
        except MapperError:
            self.close()
            raise

    def workers(self) -> Mapping[str, int]:
        """Those whose model is loaded, and how many tiles each wants in hand, as it said last."""
        return self._holds

    def facts(self) -> Sequence[WorkerFacts]:
        """Of all workers that are left once all have loaded."""
        self._await_loaded(lambda: all(seat.facts for seat in self._seats.values()))
        return tuple(seat.facts for seat in self._seats.values() if seat.facts)

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Send a task to an actor."""
        seat, number = self._seats[worker], next(self._numbers)
        if not seat.hand:
            seat.signs.move(self._watched.look(time.monotonic()))
        seat.hand[number] = (task, token)
        self._lines_open.send(seat.line, pickle.dumps((number, task), protocol=pickle.HIGHEST_PROTOCOL))

    def finished(self, timeout_s: float) -> list[Finished]:
        """The calls that are over. An actor that is lost is replaced, and its tasks come back as lost.

        Raises:
            MapperError: no worker is left; what the last one died of.
        """
        until = time.monotonic() + timeout_s
        left_s = timeout_s
        while not self._ended and left_s >= 0:
            if not self._seats:
                raise self._nobody_left()
            self._listen(min(left_s, LOOK_S / 2))
            left_s = until - time.monotonic()
        ended, self._ended = self._ended, []
        return ended

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """What the actors that have loaded said last. One that took another's place has said nothing yet."""
        now = time.monotonic()
        return {name: (max(0.0, now - at), reading) for name, (at, reading) in self._readings.copy().items()}

    def close(self) -> None:
        """Kill the actors, and the cluster if it was started here."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if not ray.is_initialized():
            return
        for actor in (*(seat.actor for seat in self._seats.values()), *self._readers):
            with contextlib.suppress(RayError, ValueError):  # Ray has forgotten it already
                ray.kill(actor, no_restart=True)
        if self._started_ray:
            ray.shutdown()

    # Begin ------------------------------------------------------------------------------------------------------------

    def _open(self, setup: Setup, workers: int | None, readers: int | None) -> None:
        gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]  # Ray's own
        count = workers if workers is not None else max(1, gpus)
        if count > gpus:
            raise ResourceError(
                f"{count} GPU workers were asked of a cluster with {gpus} GPUs", fix=f"pass --gpus {gpus}"
            )
        here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's own
        self._board = Switchboard("127.0.0.1" if self._started_ray else here)
        self._watched = Watched(time.monotonic())
        self._began_waiting = self._judged_at = 0.0
        for number in range(count):
            seat = self._seats[f"gpu-{number}"] = _Seat(name=f"gpu-{number}")
            self._place(seat)
        self._readers = place_readers(setup, readers_wanted(cluster_nodes(count)) if readers is None else readers)
        for seat in self._seats.values():
            self._begin(seat)
        self._await_loaded(lambda: bool(self._holds))

    def _place(self, seat: _Seat) -> None:
        remote: Any = ray.remote(GpuActor)
        setup, load, worker = self._made_of
        options = {"num_gpus": 1, "num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        seat.actor = remote.options(**options).remote(seat.name, setup, load, worker)

    def _begin(self, seat: _Seat) -> None:
        contact = self._lines_open.contact()
        seat.line, seat.signs, seat.placed, seat.facts = contact.number, Signs(), None, None
        self._lines[seat.line] = seat
        call = seat.actor.serve.remote(contact, self._readers, min(SAID_EVERY_S, self._limits.alive_every_s))

        def over(done: Future[None], line: int = seat.line) -> None:
            error = done.exception()
            self._over.put((line, "its call is over" if error is None else _reason(error)))
            if (board := self._board) is not None:
                board.ring()

        call.future().add_done_callback(over)

    def _await_loaded(self, enough: Callable[[], bool]) -> None:
        """Listen until there are enough; whatever else is heard meanwhile is kept."""
        loaded, since = 0, self._watched.look(time.monotonic())
        while not enough():
            self._listen(LOOK_S / 2)
            if not self._seats:
                raise self._nobody_left()
            at = self._watched.look(time.monotonic())
            if len(self._holds) != loaded:
                loaded, since = len(self._holds), at
            elif at - since > self._limits.start_s:
                raise self._nobody_ready()

    @property
    def _lines_open(self) -> Switchboard:
        assert self._board is not None  # closed: nobody uses a pool after that
        return self._board

    # Listen -----------------------------------------------------------------------------------------------------------

    def _listen(self, timeout_s: float) -> None:
        """Take in what actors and Ray said, then look who says nothing any more."""
        heard = self._lines_open.heard(timeout_s)
        at = self._watched.look(time.monotonic())
        for line, message in heard:
            if (seat := self._lines.get(line)) is None:
                continue
            if message is None:
                seat.signs.broken_at = at
            else:
                seat.signs.hear(at)
                self._told(seat, pickle.loads(message), at)
        with contextlib.suppress(Empty):
            while True:
                line, reason = self._over.get_nowait()
                if (seat := self._lines.get(line)) is not None:
                    self._lose(seat, at, "the worker died", said=reason)
        if at - self._judged_at >= min(LOOK_S, self._limits.alive_every_s) / 2:
            self._judged_at = at
            self._judge(at)

    def _told(self, seat: _Seat, said: object, at: float) -> None:
        match said:
            case Answered():
                self._answered(seat, said, at)
            case Alive():
                seat.signs.move(at, said.moves)
                self._read(seat, said.reading)
            case Placed():
                seat.placed = said
            case Loaded():
                self._loaded(seat, said, at)
            case NotLoaded():
                self._not_loaded(seat, said.error, at)

    def _answered(self, seat: _Seat, said: Answered, at: float) -> None:
        task, token = seat.hand.pop(said.number)
        seat.signs.move(at)
        seat.falls = 0
        self._holds[seat.name] = said.holds
        self._read(seat, said.reading)
        self._ended.append(Finished(worker=seat.name, task=task, result=said.result, token=token))

    def _loaded(self, seat: _Seat, said: Loaded, at: float) -> None:
        others = {other.facts.fingerprint for other in self._seats.values() if other.facts}
        if seat.falls and others and said.facts.fingerprint not in others:
            error = ModelError(
                "a worker that took another's place loaded another model",
                fix="give every node the same weights",
                found=said.facts.fingerprint,
            )
            self._not_loaded(seat, error, at)
            return
        seat.facts, self._holds[seat.name] = said.facts, said.holds
        self._read(seat, said.reading)

    def _read(self, seat: _Seat, reading: Reading | None) -> None:
        """Keep what an actor said of itself; its threads speak in any order, and what is older is no news."""
        known = self._readings.get(seat.name)
        if reading is not None and (known is None or known[1].up_s <= reading.up_s):
            self._readings[seat.name] = time.monotonic(), reading

    def _not_loaded(self, seat: _Seat, error: MapperError, at: float) -> None:
        if not seat.falls:
            raise error  # the run's first actors: what is wrong with the model is wrong with the job
        self._lose(seat, at, f"the worker could not load its model: {error}", cause=error)

    # Lose -------------------------------------------------------------------------------------------------------------

    def _judge(self, at: float) -> None:
        for seat in list(self._seats.values()):
            if (why := self._limits.verdict(seat.signs, at, in_hand=len(seat.hand))) is not None:
                self._lose(seat, at, f"the worker was given up: {why}")
        if self._holds:
            self._began_waiting = at
        elif at - self._began_waiting > self._limits.start_s:
            raise self._nobody_ready()

    def _lose(self, seat: _Seat, at: float, what: str, *, said: str = "", cause: MapperError | None = None) -> None:
        """Give an actor up, its tasks back, and its seat to another, or to nobody."""
        self._let_go(seat)
        heard_at = seat.signs.heard_at
        evidence: dict[str, Any] = {
            "worker": seat.name,
            "host": seat.placed.host if seat.placed else "",
            "pid": seat.placed.pid if seat.placed else "",
            "said": said,
            "last_heard": "" if heard_at is None else f"{at - heard_at:.3g} s before",
        }
        for task, token in seat.hand.values():
            lost = WorkerLostError(what, **evidence, tile=task.name)
            self._ended.append(Finished(worker=seat.name, task=task, result=lost, token=token))
        seat.hand.clear()
        seat.falls += 1
        error = WorkerLostError(what, **evidence)
        if seat.falls < MOST_FALLS:
            _log.warning("%s; another takes its place", error)
            self._place(seat)
            self._begin(seat)
            return
        del self._seats[seat.name]
        self._last_gone = cause or error
        _log.warning("%s; %d in a row have finished nothing there: the run goes on without it", error, seat.falls)

    def _let_go(self, seat: _Seat) -> None:
        del self._lines[seat.line]
        self._lines_open.hang_up(seat.line)
        self._holds.pop(seat.name, None)
        self._readings.pop(seat.name, None)
        with contextlib.suppress(RayError, ValueError):  # Ray has forgotten it already
            ray.kill(seat.actor, no_restart=True)

    def _nobody_ready(self) -> ResourceError:
        return ResourceError(
            f"no GPU worker was ready after {self._limits.start_s:g} s",
            fix="ask for fewer with --gpus, or add nodes; `ray status` tells what the cluster waits for",
        )

    def _nobody_left(self) -> MapperError:
        gone = self._last_gone
        if gone is not None and not isinstance(gone, WorkerLostError):
            return gone
        return ResourceError(
            f"no GPU worker is left: each died {MOST_FALLS} times in a row before it finished a tile",
            fix="see what the last one died of",
            last=str(gone),
        )


def _reason(error: BaseException) -> str:
    """What Ray says an actor died of, in a line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "because" in line or "exit detail" in line), first_line(error))
