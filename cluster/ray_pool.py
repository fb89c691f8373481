"""A pool of Ray actors: place them, hand them tasks, replace those that die or hang, and follow the cluster.

Seats are what ``cluster/placement.py`` says there should be: a node that joins gets workers, one that goes takes its
seats with it, and ``cluster/seats.py`` has what becomes of one seat. What a lost actor had in hand comes back as lost,
and what a leaving one has not finished as given back. Its line is hung up first, so what it says later reaches nobody.
"""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ray

from cluster.gpu_actor import Alive, Answered, Leave, Leaving, Load, Loaded, NotLoaded, Placed, Works
from cluster.lines import Switchboard
from cluster.liveness import LOOK_S, Limits, Signs, Watched
from cluster.nodes import Nodes, RayNodes
from cluster.placement import Fleet, check_room
from cluster.pool import Finished, WorkerFacts
from cluster.ray_actors import RayActors
from cluster.ray_cluster import check_nodes, connect
from cluster.readings import Reading
from cluster.seats import MOST_FALLS, NODE_DIED, Seat, nobody_left, nobody_ready, time_to_finish
from cluster.surroundings import Surroundings
from cluster.worker import Worker
from mapper.errors import MapperError, ModelError
from mapper.map_tile import Setup, Task, TileMapper

SAID_EVERY_S = 1.0
"""How often an actor says what it measured, and with it that it lives."""

SETTLE_S = 15.0
"""How long a run that could begin waits for the others that have found a place: they load the same model, and are
there within moments of one another."""

JOIN_S = 1200.0
"""How long a cluster of other machines may take until it has a worker at all: a node is bought, begins, and fetches an
image of some gigabytes."""

FEW_S = 60.0
"""After so long with fewer workers than were asked for, it is said."""

GRACE_S = 2.0
"""After a leaving worker's time is up, what it gives back is waited for so long."""

_log = logging.getLogger(__name__)


class RayPool:
    """Actors on a Ray cluster: an existing one by address, or one of this machine, started and stopped with it."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int | Fleet | None,
        address: str | None = None,
        readers: int | None = 0,
        load: Load = TileMapper.load,
        worker: Callable[[str, Setup, Load], Works] = Worker,
        insecure_ray: bool = False,
        limits: Limits | None = None,
        nodes: Callable[[], Nodes] | None = None,
        paid: Callable[[float], None] = lambda gpus: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect, place the actors, and wait for the first to have its model.

        Args:
            setup: what every worker must know.
            workers: GPU actors, one a GPU; None takes as many as there is room for, those that join and leave later
                too; or what is asked for in full.
            address: of a running cluster, as Ray writes it, which may grow: what it has no room for yet is waited for.
                None starts one here, whose GPUs are logical ones where the machine has none.
            readers: actors that read for the workers, a core each; None takes as many as ``readers_wanted``.
            load: makes the tile mapper in the actor.
            worker: makes what the actor owns, of its name, the setup and ``load``.
            insecure_ray: whether to join a cluster of other machines that asks nobody for a token.
            limits: when an actor is given up.
            nodes: makes who knows the cluster, once there is one; None asks Ray.
            paid: told how many GPUs the workers have now, whenever that changes; from the thread that drives the pool.
            stopped: whether nobody waits for a first worker any more.

        Raises:
            ResourceError: the cluster cannot be reached, asks nobody for a token, or has fewer GPUs than asked for.
            MapperError: the model cannot be loaded.
        """
        self._fleet = fleet = Fleet.of(workers)
        self._limits = limits or Limits()
        self._may_grow = address is not None
        self._actors = RayActors(setup, load, worker, fleet=fleet, readers=readers, ring=self._ring)
        self._paid, self._stopped = paid, stopped
        self._seats: dict[str, Seat] = {}
        self._lines: dict[int, Seat] = {}
        self._holds: dict[str, int] = {}
        self._readings: dict[str, tuple[float, Reading]] = {}
        """Worker → when it said so last, and what."""

        self._ended: list[Finished] = []
        self._numbers, self._seat_numbers = itertools.count(), itertools.count()
        self._board: Switchboard | None = None
        self._surroundings: Surroundings | None = None
        self._held = 0.0
        self._placed = self._settled = self._few_told = False
        self._last_gone: MapperError | None = None
        beside = (readers or 0) + fleet.cores_beside
        self._started_ray = connect(fleet.here, address, readers=beside, insecure=insecure_ray)
        try:
            self._open(nodes or partial(RayNodes, check=None if address is None else check_nodes))
        except MapperError:
            self.close()
            raise

    def workers(self) -> Mapping[str, int]:
        """Those whose model is loaded and who stay, and how many tiles each wants in hand, as it said last."""
        return self._holds

    def facts(self) -> Sequence[WorkerFacts]:
        """Of the workers that have loaded. Asked for the first time, it waits for the others that have found a place:
        a little, where more may join later too."""
        until = time.monotonic() + (SETTLE_S if self._may_grow else self._limits.start_s)
        while not self._settled and time.monotonic() < until and not self._stopped():
            there = min(len(self._seats), self._fleet.capacity(self._around.nodes))
            self._settled = sum(seat.facts is not None for seat in self._seats.values()) >= there
            if not self._settled:
                self._await(LOOK_S / 4)
        self._settled = True
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
            MapperError: no worker is left, nor one to come; what the last one died of.
        """
        until = time.monotonic() + timeout_s
        left_s = timeout_s
        while not self._ended and left_s >= 0:
            self._await(left_s)
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
        if self._surroundings is not None:
            self._surroundings.close()
        if not ray.is_initialized():
            return
        for seat in self._seats.values():
            self._actors.kill(seat.actor)
        self._actors.close()
        if self._started_ray:
            ray.shutdown()

    # Begin ------------------------------------------------------------------------------------------------------------

    def _open(self, nodes: Callable[[], Nodes]) -> None:
        self._surroundings = Surroundings(self._fleet, nodes())
        if warning := check_room(self._fleet, self._around.nodes, may_grow=self._may_grow):
            _log.warning("%s: more are waited for, the first of them %.0f minutes at the most", warning, JOIN_S / 60)
        here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's own
        self._board = Switchboard("127.0.0.1" if self._started_ray else here)
        self._watched = Watched(time.monotonic())
        self._began_waiting = self._judged_at = self._enough_at = 0.0
        seats = self._new_seats(self._around.wanted(self._seats.values()))
        self._actors.place_readers(len(seats))
        for seat in seats:
            self._begin(seat)
        while not self._holds and not self._stopped():
            self._await(LOOK_S / 2)

    def _new_seats(self, count: int) -> list[Seat]:
        """Seats whose actors are asked for; they begin once there are readers for them."""
        seats = [Seat(name=f"gpu-{next(self._seat_numbers)}") for _ in range(count)]
        for seat in seats:
            self._seats[seat.name] = seat
            self._actors.ask_for(seat, beside=self._around.shunned)
        return seats

    def _begin(self, seat: Seat) -> None:
        contact = self._lines_open.contact()
        seat.line, seat.signs, seat.placed, seat.facts = contact.number, Signs(), None, None
        self._lines[seat.line] = seat
        self._actors.begin(seat, contact, min(SAID_EVERY_S, self._limits.alive_every_s))

    def _ring(self) -> None:
        if (board := self._board) is not None:
            board.ring()

    @property
    def _around(self) -> Surroundings:
        assert self._surroundings is not None  # before anything is asked of the pool
        return self._surroundings

    @property
    def _lines_open(self) -> Switchboard:
        assert self._board is not None  # closed: nobody uses a pool after that
        return self._board

    # Listen -----------------------------------------------------------------------------------------------------------

    def _await(self, timeout_s: float) -> None:
        """Listen for a while; whatever is heard is kept.

        Raises:
            MapperError: nobody is left, nor to come.
        """
        if not self._seats and self._around.wanted(()) == 0:
            raise nobody_left(self._last_gone)
        self._listen(min(timeout_s, LOOK_S / 2))

    def _listen(self, timeout_s: float) -> None:
        """Take in what actors and Ray said, then look who says nothing any more, and what the cluster has."""
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
        for over in self._actors.over():
            if (seat := self._lines.get(over.line)) is not None:
                self._lose(seat, at, "the worker died", said=over.said, taken=over.taken)
        for seat in self._actors.ready():
            if self._seats.get(seat.name) is seat:
                self._begin(seat)
        if at - self._judged_at >= min(LOOK_S, self._limits.alive_every_s) / 2:
            self._judged_at = at
            self._judge(at)
            self._follow(at)

    def _told(self, seat: Seat, said: object, at: float) -> None:
        match said:
            case Answered():
                self._answered(seat, said, at)
            case Alive():
                seat.signs.move(at, said.moves)
                self._read(seat, said.reading)
            case Placed():
                seat.placed, seat.paid = said, True
                self._pay()
            case Loaded():
                self._loaded(seat, said, at)
            case NotLoaded():
                self._not_loaded(seat, said.error, at)
            case Leaving():
                self._around.goes(seat.node, at, said.within_s)
                self._send_off(seat, said.within_s, at, said.reason)

    def _answered(self, seat: Seat, said: Answered, at: float) -> None:
        task, token = seat.hand.pop(said.number)
        seat.signs.move(at)
        seat.falls = 0
        self._read(seat, said.reading)
        self._ended.append(Finished(worker=seat.name, task=task, result=said.result, token=token))
        if seat.leaves_at is None:
            self._holds[seat.name] = said.holds
        elif not seat.hand:
            self._remove(seat)

    def _loaded(self, seat: Seat, said: Loaded, at: float) -> None:
        others = {other.facts.fingerprint for other in self._seats.values() if other.facts}
        later = "took another's place" if seat.falls else "joined later" if self._settled else ""
        if later and others and said.facts.fingerprint not in others:
            error = ModelError(
                f"a worker that {later} loaded another model",
                fix="give every node the same weights",
                found=said.facts.fingerprint,
            )
            self._not_loaded(seat, error, at)
            return
        seat.facts, self._holds[seat.name] = said.facts, said.holds
        self._read(seat, said.reading)

    def _read(self, seat: Seat, reading: Reading | None) -> None:
        """Keep what an actor said of itself; its threads speak in any order, and what is older is no news."""
        known = self._readings.get(seat.name)
        if reading is not None and (known is None or known[1].up_s <= reading.up_s):
            self._readings[seat.name] = time.monotonic(), reading

    def _not_loaded(self, seat: Seat, error: MapperError, at: float) -> None:
        if not seat.falls and not self._settled:
            raise error  # the run's first actors: what is wrong with the model is wrong with the job
        self._lose(seat, at, f"the worker could not load its model: {error}", cause=error)

    # Follow the cluster -----------------------------------------------------------------------------------------------

    def _follow(self, at: float) -> None:
        """Send off those whose node goes; have as many wait for a place as should."""
        for seat, left_s, why in list(self._around.leaving(self._seats.values())):
            self._send_off(seat, left_s, at, why)
        change = self._around.change(self._seats.values(), at)
        if change > 0:
            self._actors.place_more_readers(self._new_seats(change), len(self._seats))
        elif change < 0:
            waiting = [seat for seat in self._seats.values() if seat.waits]
            for seat in self._actors.without_place(waiting)[change:]:
                self._remove(seat)

    def _send_off(self, seat: Seat, left_s: float, at: float, why: str) -> None:
        """Give a worker no more: what it has not begun comes back, and what it has begun if its time is up before."""
        within_s = time_to_finish(left_s)
        if seat.leaves_at is not None:
            seat.leaves_at = min(seat.leaves_at, at + within_s)
            return
        soon = "" if math.isinf(left_s) else f" within {left_s:.0f} s"
        _log.warning("worker %s leaves%s with %d tiles in hand: %s", seat.name, soon, len(seat.hand), why)
        seat.leaves_at = at + within_s
        self._holds.pop(seat.name, None)
        if seat.hand:
            self._lines_open.send(seat.line, pickle.dumps(Leave(within_s), protocol=pickle.HIGHEST_PROTOCOL))
        else:
            self._remove(seat)

    def _remove(self, seat: Seat) -> None:
        """Take a seat away. What is still in hand there comes back."""
        self._let_go(seat)
        self._ended += seat.taken_back(seat.return_of("its time is up"))
        del self._seats[seat.name]
        self._pay()

    def _pay(self) -> None:
        gpus = sum(seat.paid for seat in self._seats.values()) / self._fleet.workers_per_gpu
        if gpus != self._held:
            self._held = gpus
            self._paid(gpus)

    # Lose -------------------------------------------------------------------------------------------------------------

    def _judge(self, at: float) -> None:
        for seat in list(self._seats.values()):
            if (why := self._limits.verdict(seat.signs, at, in_hand=len(seat.hand))) is not None:
                self._lose(seat, at, f"the worker was given up: {why}")
            elif seat.leaves_at is not None and at > seat.leaves_at + GRACE_S:
                self._remove(seat)
        placed = not all(seat.waits for seat in self._seats.values())
        limit_s = JOIN_S if self._may_grow and not placed else self._limits.start_s
        if placed is not self._placed or any(seat.facts for seat in self._seats.values()):
            self._placed, self._began_waiting = placed, at
        elif at - self._began_waiting > limit_s:
            raise nobody_ready(limit_s)
        if len(self._holds) >= min(self._fleet.least_workers, self._fleet.most_workers):
            self._enough_at, self._few_told = at, False
        elif at - self._enough_at > FEW_S and not self._few_told:
            self._few_told = True
            few = "%d of the %d GPU workers that were asked for are at work; the run goes on with those"
            _log.warning(few, len(self._holds), self._fleet.least_workers)

    def _lose(
        self, seat: Seat, at: float, what: str, *, said: str = "", cause: MapperError | None = None, taken: bool = False
    ) -> None:
        """Give an actor up, its tasks back, and its seat to another, or to nobody.

        Args:
            seat: whose actor it is.
            at: now.
            what: a clause.
            said: by Ray.
            cause: what it said itself.
            taken: whether its machine was taken away, which is no fault of its own or of a tile.
        """
        if seat.leaves_at is not None or taken:
            if taken:
                _log.warning("worker %s is gone with %d tiles in hand: %s", seat.name, len(seat.hand), said)
            self._remove(seat)
            return
        self._let_go(seat)
        error = seat.loss(what, at, said=said)
        self._ended += seat.taken_back(error)
        if NODE_DIED in said:
            _log.warning("%s; its place is gone too", error)
            self._remove(seat)
            return
        seat.falls += 1
        if seat.falls < MOST_FALLS:
            _log.warning("%s; another takes its place", error)
            self._actors.ask_for(seat, beside=self._around.shunned)
            self._begin(seat)
            return
        self._around.give_up(seat.node)
        self._last_gone = cause or error
        _log.warning("%s; %d in a row have finished nothing there: the run goes on without it", error, seat.falls)
        self._remove(seat)

    def _let_go(self, seat: Seat) -> None:
        self._lines.pop(seat.line, None)
        self._lines_open.hang_up(seat.line)
        self._holds.pop(seat.name, None)
        self._readings.pop(seat.name, None)
        self._actors.kill(seat.actor)
