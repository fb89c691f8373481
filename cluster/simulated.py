"""A pool of workers that exist on paper: a clock, a queue of events, and what each stage of a tile takes.

    held ─► reader: requests, transfer, decoding ─► model ─► writer: encoding, transfer ─► over
            as many as ``sizes`` says               one      as many as ``sizes`` says
                     └──────────── one store, its bandwidth shared by all ─────┘

Nothing here sleeps, starts a thread, or differs from one run to the next: hours of a thousand GPUs take seconds, and
the loop that drives them is the one that drives real ones::

    pool = SimulatedPool(World(workers=64))
    for outcome in outcomes(pool, tasks, now=pool.now):
        …
    pool.report().efficiency

A model is as good as what is left out of it: network between driver and workers, memory, levels above the tiles (any
task is a tile here), and stores that refuse. Times are drawn by task and worker, not in order of events, so that two
worlds can be compared tile by tile.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from zlib import crc32

from cluster.events import Clock, Line, Store, Story, Wait, go_on
from cluster.pool import Finished, WorkerFacts
from cluster.readings import WORK, Reading
from cluster.sizing import Queues, Sizes
from cluster.tally import Tally, stage_of
from mapper.errors import HandedBackError, MapperError, WorkerLostError
from mapper.map_tile import Task, TileResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long one act takes: log-normal around a median, and now and then much longer."""

    median_s: float
    sigma: float = 0.0
    """Of the logarithm; 0 is always the median."""

    tail: float = 0.0
    """Share of the acts that take ``tail_times`` as long."""

    tail_times: float = 10.0

    def draw(self, chance: random.Random) -> float:
        """One of them, in seconds."""
        usual = self.median_s * math.exp(self.sigma * chance.gauss(0.0, 1.0))
        return usual * (self.tail_times if chance.random() < self.tail else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is simulated."""

    workers: int = 1
    model_s: Times = Times(median_s=1.0)
    """The GPU's time for a tile."""

    latency_s: Times = Times(median_s=0.03)
    """Of one request to the store."""

    requests: int = 8
    """Of one tile, one after the other: what is asked for at once counts once."""

    decode_s: Times = Times(median_s=0.1)
    read_bytes: float = 30e6
    encode_s: Times = Times(median_s=0.1)
    write_bytes: float = 1e6
    store_bytes_per_s: float = math.inf
    """Shared by all workers."""

    driver_s: float = 0.0
    """Of the driver, for each task: it does one thing at a time."""

    sizes: Sizes = field(default_factory=Sizes)
    """Readers and writers that each worker begins with."""

    size: Callable[[Sizes, Queues], Sizes] = lambda sizes, queues: sizes
    """The sizes to have, asked each time a tile leaves the model."""

    slow: Mapping[str, float] = field(default_factory=dict)
    """Worker → how many times as long all takes there, but for transfers."""

    deaths: Sequence[tuple[float, str]] = ()
    """When which worker dies with all it has in hand."""

    leaves: Sequence[tuple[float, str, float]] = ()
    """When it is told of which worker that its machine goes, and how many seconds it has from then on."""

    restart_s: float = 30.0
    """From a death, or a machine's going, until another worker is in its place."""

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    tiles: int
    """That a worker finished, copies included."""

    makespan_s: float
    """Until the last of them was over."""

    busy: Mapping[str, float]
    """Worker → share of the makespan in which its GPU worked."""

    queues: Mapping[str, float]
    """Queue → tiles in it, the mean over time and workers: for a reader, for the model, for a writer."""

    @property
    def efficiency(self) -> float:
        """Share of all GPU time in which a GPU worked: 1 is model-only."""
        return sum(self.busy.values()) / len(self.busy)


class SimulatedPool:
    """A ``Pool`` whose clock moves only while the driver waits, or works."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = Clock()
        self._store = Store(self._clock, world.store_bytes_per_s)
        self._heard = 0.0
        self._over: deque[Finished] = deque()
        self._tiles = 0
        self._last = 0.0
        self._workers = {f"gpu-{n}": _Worker(self._clock, world.sizes) for n in range(world.workers)}
        self._holds = dict.fromkeys(self._workers, world.sizes.holds)
        for at, name in world.deaths:
            self._clock.at(at, partial(self._die, name))
        for at, name, within_s in world.leaves:
            self._clock.at(at, partial(self._leave, name, within_s))

    def now(self) -> float:
        """Seconds since the beginning, as the driver knows them."""
        return self._heard

    def workers(self) -> Mapping[str, int]:
        """Those alive, and what they want in hand."""
        return self._holds

    def facts(self) -> Sequence[WorkerFacts]:
        """Of all."""
        return [
            WorkerFacts(name=name, device="paper", fingerprint="paper", host="paper", pid=0) for name in self._workers
        ]

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Hand a task to a worker."""
        self._heard += self._world.driver_s
        at, held = self._workers[worker], _Held(task, token)
        at.held.append(held)
        held.story = self._tile(worker, at, held)
        self._clock.at(self._heard, partial(go_on, self._clock, held))

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tries that are over by now; if there are none, the clock moves on to the first."""
        self._clock.run_until(self._heard)
        late = self._heard + timeout_s
        while not self._over and self._clock.next_at <= late:
            self._clock.step()
            self._heard = max(self._heard, self._clock.time)
        if not self._over:
            self._heard = late
        over = list(self._over)
        self._over.clear()
        return over

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """Of those alive, as of now."""
        return {name: (0.0, self._workers[name].reading(name)) for name in self._holds}

    def close(self) -> None:
        """Nothing to let go of."""

    def report(self) -> Report:
        """What came of it, up to now."""
        spent = max(self._last, 1e-9)
        lines = {
            "reader": [worker.readers for worker in self._workers.values()],
            "model": [worker.model for worker in self._workers.values()],
            "writer": [worker.writers for worker in self._workers.values()],
        }
        return Report(
            tiles=self._tiles,
            makespan_s=self._last,
            busy={name: worker.busy_s / spent for name, worker in self._workers.items()},
            queues={name: sum(line.waited_s for line in of) / spent / len(of) for name, of in lines.items()},
        )

    def _tile(self, name: str, at: _Worker, held: _Held) -> Story:
        """The story of one tile in one worker; each ``yield`` is a wait."""
        world, times = self._world, self._world.slow.get(name, 1.0)
        of_tile = world.seed * 1_000_003 + held.task.id
        model_s = times * world.model_s.draw(random.Random(of_tile))
        chance = random.Random(of_tile << 32 | crc32(name.encode()))  # another day at the store for another worker
        at.waits()
        yield at.readers
        if held.back:
            at.readers.leave()
            return
        held.begun = True
        read_s = self._clock.time
        yield times * sum(world.latency_s.draw(chance) for _ in range(world.requests))
        yield self._store.transfer(world.read_bytes)
        decode_s = times * world.decode_s.draw(chance)
        at.worked(read=self._clock.time - read_s, decode=decode_s)
        yield decode_s
        at.readers.leave()
        yield at.model
        at.tally.compute()
        at.waits()
        yield model_s
        at.busy_s += model_s
        at.worked(infer=model_s)
        at.tally.rest()
        at.model.leave()
        at.resize(world.size(at.sizes, at.queues()))
        if name in self._holds:
            self._holds[name] = at.sizes.holds
        at.waits()
        yield at.writers
        encode_s, latency_s = times * world.encode_s.draw(chance), times * world.latency_s.draw(chance)
        yield encode_s + latency_s
        write_s = self._clock.time
        yield self._store.transfer(world.write_bytes)
        at.worked(encode=encode_s, write=latency_s + self._clock.time - write_s)
        at.writers.leave()
        at.tiles += 1
        at.held.remove(held)
        at.waits()
        self._tiles += 1
        self._tell(name, held, _result(held.task))

    def _tell(self, name: str, held: _Held, result: TileResult | MapperError) -> None:
        self._over.append(Finished(worker=name, task=held.task, result=result, token=held.token))
        self._last = self._clock.time

    def _die(self, name: str) -> None:
        if self._holds.pop(name, None) is None:
            return  # it is dead already
        dead = self._workers[name]
        for held in dead.held:
            held.story = iter(())
            self._tell(name, held, WorkerLostError("the worker died", worker=name, tile=held.task.name))
        self._clock.at(self._clock.time + self._world.restart_s, partial(self._replace, name, dead.busy_s))

    def _leave(self, name: str, within_s: float) -> None:
        """It takes no more, gives back what it has not begun, and in the end what is not over."""
        if self._holds.pop(name, None) is None:
            return
        leaving = self._workers[name]
        for held in [held for held in leaving.held if not held.begun]:
            held.back = True
            leaving.held.remove(held)
            self._give_back(name, held)
        self._clock.at(self._clock.time + within_s, partial(self._go, name, leaving))

    def _go(self, name: str, gone: _Worker) -> None:
        for held in gone.held:
            held.story = iter(())
            self._give_back(name, held)
        self._clock.at(self._clock.time + self._world.restart_s, partial(self._replace, name, gone.busy_s))

    def _give_back(self, name: str, held: _Held) -> None:
        self._tell(name, held, HandedBackError("its worker leaves", worker=name, tile=held.task.name))

    def _replace(self, name: str, busy_s: float) -> None:
        self._workers[name] = _Worker(self._clock, self._world.sizes, busy_s=busy_s)
        self._holds[name] = self._world.sizes.holds


@dataclass(slots=True, eq=False)
class _Held:
    """A task in the hand of a worker."""

    task: Task
    token: int
    story: Story = field(default_factory=lambda: iter(()))
    """Ends where its worker dies."""

    begun: bool = False
    """Whether anything of it has been read."""

    back: bool = False
    """Whether it was given back before."""

    def __iter__(self) -> Story:
        return self

    def __next__(self) -> Wait:
        return next(self.story)


class _Worker:
    """One GPU, its readers and its writers."""

    def __init__(self, clock: Clock, sizes: Sizes, *, busy_s: float = 0.0) -> None:
        self.sizes, self.busy_s = sizes, busy_s
        self.readers = Line(clock, sizes.readers)
        self.model = Line(clock, 1)
        self.writers = Line(clock, sizes.writers)
        self.held: list[_Held] = []
        self.tiles = 0
        self.tally = Tally(lambda: clock.time)
        self._began = clock.time
        self._work_s = dict.fromkeys(WORK, 0.0)

    def waits(self) -> None:
        """What it has in hand has changed."""
        seen = self.queues()
        unwritten, full = seen.unwritten + seen.writing, len(self.held) >= self.sizes.holds
        reading = seen.reading + seen.waiting
        self.tally.stage(stage_of(ready=seen.ready, reading=reading, unwritten=unwritten, full=full))

    def worked(self, **seconds: float) -> None:
        """Count what a tile took, by ``WORK``."""
        for work, more in seconds.items():
            self._work_s[work] += more

    def reading(self, name: str) -> Reading:
        charged = self.tally.charged(self._work_s)
        return Reading(
            worker=name, host="paper", device="paper", began=self._began, up_s=charged.up_s, busy_s=charged.busy_s,
            waited_s=charged.waited_s, work_s=dict(self._work_s), tiles=self.tiles, windows=self.tiles, batch=1,
            in_hand=len(self.held), holds=self.sizes.holds, queues=asdict(self.queues()),
        )  # fmt: skip

    def queues(self) -> Queues:
        return Queues(
            waiting=len(self.readers.line),
            reading=self.readers.taken,
            ready=len(self.model.line) + self.model.taken,
            unwritten=len(self.writers.line),
            writing=self.writers.taken,
        )

    def resize(self, sizes: Sizes) -> None:
        self.sizes = sizes
        for line, places in ((self.readers, sizes.readers), (self.writers, sizes.writers)):
            line.places = places
            line.admit()


def _result(task: Task) -> TileResult:
    return TileResult(
        id=task.id, nodata=False, checksums=(), source_checksum=None, asked_px=0, seen_px=0, present_px=(),
        windows=1, reused=0, seam=None, read_bytes=0, written_bytes=0,
    )  # fmt: skip
