"""Monitors through everything we know: several machines, one registry, clocks that leap, days that change.

python -m tests.simulation.ticks --ticks 10000            each due tick exactly once; figures as JSON
python -m tests.simulation.ticks --seed 17                this world alone, each step of it told
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.record import record
from jobs.monitors import accounts
from jobs.monitors.beats import STALE_S
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from tests.jobs.monitors.registries import new_registry
from tests.simulation.tick_books import Books, instants_of
from tests.simulation.ticks_world import Machine, TickFaults, World
from tests.simulation.world import BrokenError

STARTS = (
    ("Europe/Paris", datetime(2026, 3, 28, 22, tzinfo=UTC)),
    ("Europe/Paris", datetime(2026, 10, 24, 22, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 4, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 12, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 12, tzinfo=UTC)),
    ("Africa/Casablanca", datetime(2026, 2, 15, 0, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 7, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 3, 29, 18, tzinfo=UTC)),
)
"""Zones, and a few hours before they do something."""

SCHEDULES = ("every 5m", "every 7m", "*/10 * * * *", "*/15 0-23 * * *", "*/20 * * * *", "5,35 1-4 * * *", "every 90s")
POLICIES = ("queue", "skip", "replace")
WORLD_TICKS = 100
"""That one world is to have; about."""

CALM_S = 2 * 3600.0


@dataclass(slots=True)
class Seen:
    """What came of some worlds."""

    worlds: int = 0
    broken: list[int] = field(default_factory=list)
    ticks: int = 0
    instants: int = 0
    steps: int = 0
    hours: float = 0.0
    core_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """As they are recorded."""
        return {
            "worlds": self.worlds, "broken": sorted(self.broken), "ticks": self.ticks, "due_instants": self.instants,
            "steps_of_schedulers": self.steps, "hours_on_their_clocks": round(self.hours, 1),
            "core_s": round(self.core_s), "faults": dict(self.faults.most_common()),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of one world."""

    ticks: int
    instants: int
    steps: int
    hours: float
    hit: Counter[str]


def simulate(
    seed: int,
    *,
    ticks: int = WORLD_TICKS,
    only: Callable[[TickFaults], TickFaults] = lambda faults: faults,
    log: Callable[[str], None] = lambda text: None,
) -> Told:
    """Run the world of a seed to its end.

    Args:
        seed: the same seed is the same world, step by step.
        ticks: after about so many all becomes calm.
        only: makes other faults of those that the seed has drawn.
        log: is told each step.

    Raises:
        BrokenError: a promise was not kept.
    """
    with _registry() as path, patch.multiple(accounts, KEPT_EMPTY=12, KEPT_RUNS=6):
        return _Run(seed, path, only=only, log=log).to_its_end(ticks)


class _Run:
    def __init__(
        self, seed: int, path: Path, *, only: Callable[[TickFaults], TickFaults], log: Callable[[str], None]
    ) -> None:
        self._seed = seed
        zone, begins = STARTS[seed % len(STARTS)]
        self._zone = zone
        self._books = Books(str(path), stale_s=STALE_S)
        self._world = world = World(seed, f"sqlite:///{path}", begins, TickFaults(), log)
        world.faults = only(_drawn(world))
        world.observe = lambda: self._books.read(world.time)
        self._registry = Registry(world.url)
        self._user = Monitors(self._registry)
        for number in range(2):
            Machine(world, f"machine {number}", at_once=world.chance.choice((1, 1, 2, 4)))
        self._once = Machine(world, "once", at_once=1, serves=False)
        for number in range(world.chance.randint(1, 3)):
            self._add(f"monitor-{number}")

    def to_its_end(self, ticks: int) -> Told:
        world, books = self._world, self._books
        try:
            while books.entered < ticks:
                self._leap_to_what_is_next()
                world.pass_time(world.chance.uniform(4.0, 16.0))
                self._user_acts()
                if world.happens("run --once beside them", 0.02):
                    self._once.once(None)
            self._calm_down()
            instants = books.check(world.now - timedelta(seconds=120))
            hours = world.time / 3600
            return Told(ticks=books.entered, instants=instants, steps=world.steps, hours=hours, hit=world.hit)
        finally:
            books.close()
            self._registry.close()

    def _add(self, name: str) -> None:
        chance = self._world.chance
        section = {
            "schedule": chance.choice(SCHEDULES), "timezone": self._zone, "overlapping": chance.choice(POLICIES)
        }  # fmt: skip
        self._user.add(name, job=json.dumps({"monitor": section}), mosaic=f"/maps/{name}", now=self._world.now)
        self._world.observe()

    def _user_acts(self) -> None:
        world = self._world
        if not world.happens("somebody steers", world.faults.user):
            return
        name = world.chance.choice([row.name for row in self._user.all()])
        act = world.chance.choice(("pause", "resume", "resume", "resume", "ask", "ask", "remove"))
        world.tell(act)
        if act == "pause":
            self._user.pause(name)
        elif act == "resume":
            self._user.resume(name)
        elif act == "ask":
            self._user.ask(name, now=world.now)
        elif act == "remove" and self._books.entered > 20:
            self._user.remove(name)
            world.observe()
            self._add(name)
        world.observe()

    def _leap_to_what_is_next(self) -> None:
        """Nobody waits for a night to pass in which nothing is due."""
        world = self._world
        if not world.all_down and (self._books.at_work() or not world.lives(self._books.leader())):
            return
        sections = [json.loads(row.job)["monitor"] for row in self._user.all() if row.state == "active"]
        hour = world.now + timedelta(hours=1)
        coming = [at for one in sections for at in instants_of(one, world.now, hour)[:1]]
        coming += [max(at, world.now + timedelta(seconds=30)) for at in self._books.next_tries()]
        world.time += max(0.0, (min([hour, *coming]) - world.now).total_seconds() - world.chance.uniform(0, 6))

    def _calm_down(self) -> None:
        """All clocks are right, nothing fails; what is due is run."""
        world = self._world
        world.calm = True
        for row in self._user.all():
            self._user.resume(row.name)
        for machine in world.machines:
            machine.ends = False
        until = world.time + CALM_S
        while world.time < until and (self._books.open() or world.time < until - CALM_S + 120.0):
            world.pass_time(15.0)
        if self._books.open():
            raise BrokenError("ticks do not end, though all is calm")


def _drawn(world: World) -> TickFaults:
    """The faults of a world: each kind is in about half of them, so that each is met alone, too."""
    chance = world.chance

    def share(most: float) -> float:
        return chance.uniform(most / 10, most) if chance.random() < 0.5 else 0.0

    return TickFaults(
        kill=share(0.004), stop=share(0.006), other=share(0.2), away=share(0.02), lost=share(0.02), leap=share(0.004),
        drain=share(0.01), user=share(0.1), fails=share(0.3), slow=share(0.05),
    )  # fmt: skip


@contextmanager
def _registry() -> Iterator[Path]:
    """A new registry: a real file, where memory is a disk if this machine has such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="ticks-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        path = Path(folder, "registry.db")
        path.write_bytes(new_registry())
        yield path


def many(ticks: int, *, first: int = 0, tell: Callable[[str], None] = lambda text: None) -> Seen:
    """Worlds until there were so many ticks."""
    seen, begun, told_at = Seen(), time.process_time(), time.monotonic()
    while seen.ticks < ticks:
        seed = first + seen.worlds
        seen.worlds += 1
        try:
            told = simulate(seed)
        except BrokenError as error:
            seen.broken.append(seed)
            tell(f"seed {seed}: {error}\n    python -m tests.simulation.ticks --seed {seed}")
            continue
        seen.ticks, seen.instants = seen.ticks + told.ticks, seen.instants + told.instants
        seen.steps, seen.hours = seen.steps + told.steps, seen.hours + told.hours
        seen.faults += told.hit
        if time.monotonic() - told_at > 10.0:
            told_at = time.monotonic()
            tell(f"{seen.ticks} of {ticks} ticks, {len(seen.broken)} worlds broken")
    seen.core_s = time.process_time() - begun
    return seen


def main() -> int:
    """0 where every due tick was run exactly once in every world."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.ticks", description=__doc__)
    parser.add_argument("--ticks", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--seed", type=int, help="this world alone, each step of it told")
    parser.add_argument("--record", action="store_true", help="put the figures into benchmarks/results/ticks.json")
    asked = parser.parse_args()
    if asked.seed is not None:
        print(simulate(asked.seed, log=print))
        return 0
    seen = many(asked.ticks, first=asked.first, tell=lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(seen.figures(), indent=2))
    if asked.record:
        record("ticks", seen.figures())
    return 1 if seen.broken else 0


if __name__ == "__main__":
    sys.exit(main())
