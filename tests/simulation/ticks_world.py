"""One seeded world of monitors: machines whose clocks leap, a registry that is away at times, ticks of any length.

The registry is real. Time is not: it passes where a machine waits, and between any two calls of the registry the seed
may kill the machine, stop it for minutes, set a clock, or let another machine go first.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa

from jobs.monitors.beats import BEAT_S, STALE_S
from jobs.monitors.loop import Holder, Scheduler
from jobs.monitors.rows import MonitorRow, TickEnd
from jobs.monitors.schedule import Due
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from mapper.errors import BusyError, CatalogError, MapperError, SpecError
from tests.simulation.world import KilledError

DEEPEST = 2
"""Machines that may go first before another has gone on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickFaults:
    """How often what goes wrong: shares of the calls of the registry, unless said otherwise."""

    kill: float = 0.0
    stop: float = 0.0
    """The machine stands still for minutes, and wakes."""

    other: float = 0.0
    """Another machine goes first."""

    away: float = 0.0
    lost: float = 0.0
    """The registry has done it, and its answer is lost."""

    leap: float = 0.0
    """A clock is set, by minutes up to years; a while later it is right again."""

    drain: float = 0.0
    """Share of the steps that are a machine's last ones: it is asked to stop."""

    user: float = 0.0
    """Share of the steps at which somebody pauses, resumes, asks for a tick, or removes and adds a monitor."""

    fails: float = 0.0
    """Share of the ticks."""

    slow: float = 0.0
    """Share of the ticks that take longer than till the next is due."""


class World:
    """All that machines share: true time, the registry's file, chance, and what was seen."""

    def __init__(self, seed: int, url: str, begins: datetime, faults: TickFaults, log: Callable[[str], None]) -> None:
        self.chance = random.Random(f"ticks {seed}")
        self.url, self.begins, self.faults, self.log = url, begins, faults, log
        self.time = 0.0
        self.calm = False
        self.depth = 0
        self.steps = 0
        self.hit: Counter[str] = Counter()
        self.machines: list[Machine] = []
        self.observe: Callable[[], None] = lambda: None

    @property
    def all_down(self) -> bool:
        """Whether no machine is up: nothing can happen till one is."""
        return all(machine.known_as is None for machine in self.machines)

    def lives(self, leader: str | None) -> bool:
        """Whether nobody leads, or one that is up."""
        return leader is None or any(machine.known_as == leader for machine in self.machines)

    @property
    def now(self) -> datetime:
        """The true time of day."""
        return self.begins + timedelta(seconds=self.time)

    def happens(self, what: str, share: float) -> bool:
        """Whether it does, this time."""
        if self.calm or share <= 0 or self.chance.random() >= share:
            return False
        self.tell(what)
        return True

    def tell(self, what: str) -> None:
        """Count what has happened."""
        self.hit[what] += 1
        self.log(f"{self.time:10.1f}  {what}")

    def pass_time(self, seconds: float, *, without: Machine | None = None) -> None:
        """Let time pass: the other machines go on meanwhile."""
        until = self.time + seconds
        while self.time < until:
            self.time = min(until, self.time + self.chance.uniform(6.0, 18.0))
            for machine in self.machines:
                if machine is not without and not machine.busy and self.chance.random() < 0.8:
                    machine.step()

    def others_first(self, machine: Machine) -> None:
        """One of the others takes a step."""
        free = [other for other in self.machines if other is not machine and not other.busy]
        if free and self.depth < DEEPEST:
            self.depth += 1
            self.chance.choice(free).step()
            self.depth -= 1


class StepRegistry(Registry):
    """A registry between whose calls anything may happen to the machine that makes them."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.world.url)
        self._machine = machine

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one moment."""
        self._machine.before_a_call()
        with super().reading() as connection:
            yield connection
        self._machine.after_a_call()

    @contextmanager
    def writing(self, *, alone: sa.Table | None = None) -> Iterator[sa.Connection]:
        """A transaction."""
        self._machine.before_a_call()
        with super().writing(alone=alone) as connection:
            yield connection
        self._machine.world.observe()
        self._machine.after_a_call()


class Machine:
    """One that serves: it dies, is stopped, drains, and is started again."""

    def __init__(self, world: World, name: str, *, at_once: int, serves: bool = True) -> None:
        self.world, self.name, self.at_once = world, name, at_once
        self.skew_s = 0.0
        self.right_again = 0.0
        self.busy = False
        self.ends = False
        self._starts = 0.0
        self._scheduler: Scheduler | None = None
        self._registry: StepRegistry | None = None
        self._works: list[Script] = []
        if serves:
            world.machines.append(self)

    @property
    def known_as(self) -> str | None:
        """In the registry; None while it is down."""
        return None if self._scheduler is None else self._scheduler.name

    # Its clock --------------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """What its clock shows."""
        return self.world.now + timedelta(seconds=self.skew_s)

    def monotonic(self) -> float:
        """True seconds."""
        return self.world.time

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Time passes, and the others go on."""
        self.world.pass_time(seconds + self.world.chance.uniform(0, 5), without=self)

    # Its life ---------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One step of what it runs, unless it is down."""
        world = self.world
        if world.time < self._starts and not world.calm:
            return
        self._perhaps_right_again()
        self.busy = True
        try:
            if self._scheduler is None:
                self._start()
            self._step()
        except KilledError:
            self._die("machine killed")
        finally:
            self.busy = False

    def _step(self) -> None:
        scheduler, world = self._scheduler, self.world
        assert scheduler is not None
        world.steps += 1
        if not self.ends and world.happens("machine drained", world.faults.drain):
            self.ends = True
        if self.ends:
            scheduler.step(drain=True)
            if not any(work.under_way for work in self._works):
                stopped = threading.Event()
                stopped.set()
                scheduler.serve(stopped)
                self._down()
            return
        scheduler.step()

    def once(self, name: str | None) -> None:
        """What ``monitor run --once`` does, beside those that serve."""
        self.busy = True
        try:
            self._start().once(name)
            self._down()
        except KilledError:
            self._die("run --once killed")
        except MapperError:
            self._down()
        finally:
            self.busy = False

    def before_a_call(self) -> None:
        """Anything may happen to it here."""
        world, faults = self.world, self.world.faults
        if world.happens("killed before a call", faults.kill):
            raise KilledError
        if world.happens("a clock leaps", faults.leap):
            self._leap()
        if world.depth < DEEPEST and world.happens("stands still for minutes", faults.stop):
            world.depth += 1
            world.pass_time(world.chance.uniform(30.0, 200.0), without=self)
            world.depth -= 1
        elif world.happens("another goes first", faults.other):
            world.others_first(self)
        if world.happens("registry away", faults.away):
            raise MapperError("the registry cannot be reached")

    def after_a_call(self) -> None:
        """And here: what it asked for was done."""
        world, faults = self.world, self.world.faults
        if world.happens("killed after a call", faults.kill):
            raise KilledError
        if world.happens("another goes on", faults.other):
            world.others_first(self)
        if world.happens("answer lost", faults.lost):
            raise MapperError("the registry was cut off")

    def _start(self) -> Scheduler:
        self._registry = StepRegistry(self)
        self._works = []
        self.ends = False
        self._scheduler = Scheduler(
            Monitors(self._registry), cast("Any", self._run_tick), clock=self, at_once=self.at_once, stale_s=STALE_S,
            beat_s=BEAT_S, begin=self._begin, tell=lambda text: self.world.log(f"{'':10}  {self.name}: {text}"),
        )  # fmt: skip
        return self._scheduler

    def _die(self, how: str) -> None:
        """Its works die with it."""
        self.world.tell(how)
        self._down()

    def _down(self) -> None:
        self._scheduler, self._works = None, []
        if self._registry is not None:
            self._registry.close()
        self._starts = self.world.time + self.world.chance.choice((0.0, 5.0, 90.0, 400.0))

    def _leap(self) -> None:
        chance = self.world.chance
        size = chance.choice((120.0, 1800.0, 7200.0, 6 * 3600.0, 30 * 3600.0, 20 * 86400.0, 3 * 365 * 86400.0))
        self.skew_s = chance.choice((-1, 1, 1)) * size * chance.uniform(0.2, 1.0)
        self.right_again = self.world.time + chance.choice((10.0, 300.0, 3600.0, 4 * 3600.0))

    def _perhaps_right_again(self) -> None:
        if self.skew_s and (self.world.calm or self.world.time >= self.right_again):
            self.skew_s = 0.0
            self.world.log(f"{self.world.time:10.1f}  {self.name}: its clock is right again")

    # Its ticks --------------------------------------------------------------------------------------------------------

    def _run_tick(self, row: MonitorRow, due: Due, holder: Holder) -> Script:
        return Script(self.world, row, due, holder)

    def _begin(self, act: Callable[[], object]) -> Script:
        work = cast("Script", act())
        self._works.append(work)
        return work


@dataclass(slots=True)
class Script:
    """A tick at work, as the seed has it."""

    world: World
    row: MonitorRow
    due: Due
    holder: Holder
    over: float = field(init=False)
    ends: object = field(init=False)

    def __post_init__(self) -> None:
        chance = self.world.chance
        slow = self.world.happens("slow tick", self.world.faults.slow)
        self.over = self.world.time + (chance.uniform(200.0, 700.0) if slow else chance.uniform(0.0, 25.0))
        self.ends = self._end()

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.result() is None

    def result(self) -> object | BaseException | None:
        """How it ends; asked to stop, it does so a few seconds later."""
        if self.holder() and self.over > self.world.time + 5.0:
            self.over = self.world.time + 5.0
            self.ends = TickEnd(state="stopped", said="stopped")
        return self.ends if self.world.time >= self.over else None

    def _end(self) -> object:
        chance = self.world.chance
        if self.world.happens("tick fails", self.world.faults.fails):
            return chance.choice(
                (
                    CatalogError("the catalog is down"), OSError("no route"), SpecError("no such band"),
                    BusyError("another writes this mosaic"), ValueError("a bug"),
                    TickEnd(state="failed", said="three tiles failed", run="r", retryable=True),
                )
            )  # fmt: skip
        if chance.random() < 0.2:
            return TickEnd(state="done", run=f"run-{self.due.at:%Y%m%dT%H%M%SZ}", tiles=3, watermark=self.due.at)
        return TickEnd(state="nothing", tiles=0, watermark=self.due.at)
