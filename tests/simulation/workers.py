"""Workers that die, hang, leave, wake up too late, and put what nobody waits for any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

from cluster.pool import Finished, WorkerFacts
from cluster.readings import Reading
from jobs.lease import HEARTBEAT_S, Claim
from mapper.errors import AssetError, HandedBackError, MapperError, ReadError, StoreError, WorkerLostError
from mapper.map_tile import Result, Task, TileResult, TileTask
from mapper.pyramid import LevelResult
from tests.simulation.world import LAYERS, BrokenError, Key, World, key_of, named

HUNG_FOR_S = 12.0
"""After so long without a word a worker is given up for lost."""

REPLACED_S = 4.0
IN_TIME_S = 30.0
"""Enough for a tile of most workers."""

ORPHANED_S = 3.0
"""How long the workers of a dead driver go on. The next driver needs longer to begin."""


@dataclass(slots=True, eq=False)
class _Held:
    worker: str
    task: Task
    token: int
    lost: bool = False
    """The driver was told that its worker is lost, or has given it back: it holds no room, though it may live on."""

    dead: bool = False


class FaultyPool:
    """A ``Pool`` on paper whose workers keep to nothing but the contract's letter."""

    def __init__(self, world: World, claim: Claim, *, forgets_tokens: bool = False) -> None:
        """``forgets_tokens``: what a lost worker says late passes for the answer of whoever has the task now."""
        self._world, self._claim, self._forgets = world, claim, forgets_tokens
        self._alive = {f"gpu-{n}": world.holds for n in range(world.workers)}
        self._slow = {name: 20.0 if world.happens("slow worker", world.faults.slow) else 1.0 for name in self._alive}
        self._held: list[_Held] = []
        self._over: list[Finished] = []
        self._beaten = world.now()
        self._closed_at: float | None = None

    def workers(self) -> Mapping[str, int]:
        """Those alive."""
        return dict(self._alive)

    def facts(self) -> Sequence[WorkerFacts]:
        """Nothing."""
        return ()

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Hand a task to a worker, and settle what will become of it."""
        world, faults = self._world, self._world.faults
        if sum(held.worker == worker and not held.lost for held in self._held) >= self._alive.get(worker, 0):
            raise BrokenError(f"{worker} was given {task.name} and had no room")
        held = _Held(worker, task, token)
        self._held.append(held)
        times = self._slow[worker]
        read_s, put_s = times * world.chance.uniform(0.2, 1.0), times * world.chance.uniform(0.1, 0.5)
        if isinstance(task, TileTask) and task.id in faults.poison:
            world.clock.at(world.now() + read_s, partial(self._die, held, "poison tile"))
        elif self._may_be_lost(worker) and world.happens("worker dies", faults.die):
            self._mark_lost(worker)
            world.clock.at(world.now() + world.chance.uniform(0, read_s + put_s), partial(self._die, held, "chance"))
            world.clock.at(world.now() + read_s, partial(self._read, held, put_s))
        elif self._may_be_lost(worker) and world.happens("worker hangs", faults.hang):
            self._mark_lost(worker)
            world.clock.at(world.now() + HUNG_FOR_S, partial(self._die, held, "hung", wakes=True))
            late_s = HUNG_FOR_S * world.chance.choice((world.chance.uniform(0.1, 2.0), world.chance.uniform(0.9, 1.2)))
            world.clock.at(world.now() + late_s, partial(self._read, held, put_s))
        else:
            world.clock.at(world.now() + read_s, partial(self._read, held, put_s))
        if world.happens("machine leaves", faults.leave):
            within_s = world.chance.choice((0.0, world.chance.uniform(0, 2), IN_TIME_S, math.inf))
            world.clock.at(world.now() + world.chance.uniform(0, 2), partial(self._leave, worker, within_s))

    def finished(self, timeout_s: float) -> list[Finished]:
        """The tries that are over by now; time passes until the first."""
        world = self._world
        world.step("listens to its workers")
        late = world.now() + timeout_s
        while not self._over and world.clock.next_at <= late:
            world.clock.step()
        if not self._over:
            world.clock.time = max(world.clock.time, late)
        self.beat()
        over, self._over = self._over, []
        return over

    def beat(self) -> None:
        """What the driver's own thread does beside it."""
        if self._world.now() - self._beaten >= HEARTBEAT_S:
            self._beaten = self._world.now()
            try:
                self._claim.beat()
            except MapperError:
                return

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """Nothing is measured on paper."""
        return {name: (0.0, Reading(worker=name)) for name in self._alive}

    def close(self) -> None:
        """All workers go."""
        for held in self._held:
            held.dead = True

    def orphan(self) -> None:
        """Their driver is dead: they go on for a moment."""
        self._world.clock.at(self._world.now() + ORPHANED_S, self.close)

    # What becomes of a task -------------------------------------------------------------------------------------------

    def _may_be_lost(self, worker: str) -> bool:
        return not any(held.task.id in self._world.lost_once for held in self._held if held.worker == worker)

    def _mark_lost(self, worker: str) -> None:
        self._world.lost_once |= {held.task.id for held in self._held if held.worker == worker}

    def _die(self, cause: _Held, why: str, *, wakes: bool = False) -> None:
        """A worker is lost with all it has in hand; ``wakes``: it lives on all the same, and says so late."""
        if cause.lost or cause.dead or cause not in self._held:
            return
        self._world.tell(f"worker lost: {why}")
        name = cause.worker
        for held in self._of(name):
            held.lost, held.dead = True, not wakes
            self._world.lost_once.add(held.task.id)
            error = WorkerLostError("the worker is gone", worker=name, host="paper", said=why)
            self._over.append(Finished(worker=name, task=held.task, result=error, token=held.token))
        if (holds := self._alive.pop(name, None)) is not None:  # else its machine leaves: another comes anyway
            self._world.clock.at(self._world.now() + REPLACED_S, partial(self._alive.__setitem__, name, holds))

    def _leave(self, name: str, within_s: float) -> None:
        """A worker takes no more, gives back some of what it has as not begun, and in the end what is not over."""
        world = self._world
        if (holds := self._alive.pop(name, None)) is None:
            return
        for held in self._of(name):
            if world.chance.random() < 0.5:
                self._give_back(held, "not begun")
        world.clock.at(world.now() + within_s, partial(self._go, name))
        world.clock.at(world.now() + REPLACED_S, partial(self._come, name, holds))

    def _go(self, name: str) -> None:
        """The time of a leaving worker is up. What it gives back it may finish all the same, and say so."""
        for held in self._of(name):
            self._give_back(held, "not over", goes_on=self._world.chance.random() < 0.5)

    def _come(self, name: str, holds: int) -> None:
        """Another worker, once the one that leaves has nothing more in hand."""
        if self._of(name):
            self._world.clock.at(self._world.now() + REPLACED_S, partial(self._come, name, holds))
        else:
            self._alive[name] = holds

    def _of(self, name: str) -> list[_Held]:
        return [held for held in self._held if held.worker == name and not held.lost]

    def _give_back(self, held: _Held, why: str, *, goes_on: bool = False) -> None:
        self._world.tell(f"tile given back: {why}")
        held.lost, held.dead = True, not goes_on
        error = HandedBackError("its worker leaves", worker=held.worker, tile=held.task.name)
        self._over.append(Finished(worker=held.worker, task=held.task, result=error, token=held.token))

    def _read(self, held: _Held, put_s: float) -> None:
        world, task = self._world, held.task
        if held.dead:
            return
        if isinstance(task, TileTask) and task.id in world.faults.bad:
            self._tell(held, AssetError("corrupt"))
        elif world.away or world.happens("read fails", world.faults.read):
            world.hit["outage"] += world.away
            self._tell(held, ReadError("no answer"))
        else:
            seen = dict(world.sink)
            content = {named(key_of(task), layer): world.content(key_of(task), layer, seen) for layer in LAYERS}
            world.clock.at(world.now() + put_s, partial(self._put, held, list(content.items()), put_s, {}))

    def _put(self, held: _Held, left: list[tuple[str, bytes]], put_s: float, done: dict[str, bytes]) -> None:
        """One object after the other: whoever looks in between sees some of them, each whole."""
        world = self._world
        if held.dead:
            return
        if world.away or world.happens("put fails", world.faults.put):
            world.hit["outage"] += world.away
            self._tell(held, StoreError("no answer"))
            return
        (name, content), *left = left
        done[name] = content
        if not world.commits:
            world.sink[name] = content
        if world.happens("put applied, answer lost", world.faults.lost_answer):
            self._tell(held, StoreError("reset"))
        elif left:
            world.clock.at(world.now() + put_s, partial(self._put, held, left, put_s, done))
        else:
            self._tell(held, result_of(world, held.task, done))

    def _tell(self, held: _Held, result: Result | MapperError) -> None:
        self._held.remove(held)
        token = held.token
        if held.lost:
            self._world.tell("zombie answers")
            same = [one for one in self._held if one.task.id == held.task.id]
            token = same[0].token if self._forgets and same else token
        self._over.append(Finished(worker=held.worker, task=held.task, result=result, token=token))


def result_of(world: World, task: Task, written: dict[str, bytes]) -> Result:
    """What a worker says of a shard that is put."""
    receipt = None
    if world.commits:
        receipt = str(len(world.staged)).encode()
        world.staged[receipt] = written
    sums = [crc32(content) for content in written.values()]
    if not isinstance(task, TileTask):
        return LevelResult(checksums=((0, sums[0]),), source_checksum=sums[1], receipt=receipt)
    return TileResult(
        id=task.id, nodata=task.id in world.faults.nodata, checksums=((0, sums[0]),), source_checksum=sums[1],
        asked_px=1, seen_px=1, present_px=(1,), windows=1, seam=None, read_bytes=0, written_bytes=0,
        seconds={"read": 0.1, "infer": 0.1, "write": 0.1}, receipt=receipt,
    )  # fmt: skip


def build_here(world: World, task: Task) -> Result:
    """A coarser shard, built by the driver itself."""
    key: Key = key_of(task)
    written = {named(key, layer): world.content(key, layer, dict(world.sink)) for layer in LAYERS}
    if not world.commits:
        world.sink |= written
    return result_of(world, task, written)
