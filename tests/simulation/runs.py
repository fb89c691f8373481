"""One run from its plan to its end, through whatever its seed has in store, and what must be true of it then."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch
from zlib import crc32

from cluster.shard_state import FINISHED
from jobs import parts
from jobs.prepare import Prepared
from mapper.errors import MapperError
from tests.simulation.sittings import Code, sit
from tests.simulation.store import Bucket
from tests.simulation.workers import ORPHANED_S
from tests.simulation.world import LAYERS, BrokenError, Faults, KilledError, World, named

OURS = Code()
MERGE = 6
"""Parts that become one here, so that short runs merge too."""

CALM_SITTINGS = 4
NO_PROCESS = 2**22 + 1
"""Linux gives no process a number this high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of one run."""

    tiles: int
    sittings: int
    steps: int
    seconds: float
    """On the clock of the simulation."""

    failed: int
    """Times that a tile was entered as failed, to be taken again by the next sitting."""

    hit: Counter[str]


def simulate(
    seed: int,
    *,
    code: Code = OURS,
    only: Callable[[Faults, random.Random], Faults] = lambda faults, chance: faults,
    log: Callable[[str], None] = lambda text: None,
) -> Told:
    """Run the world of a seed to its end.

    Args:
        seed: the same seed is the same run, step by step.
        code: what runs.
        only: makes other faults of those that the seed has drawn.
        log: is told each step.

    Raises:
        BrokenError: a promise was not kept.
    """
    world = drawn(seed, only=only, log=log)
    with patch.object(parts, "MERGE", MERGE):
        return _Run(world, code).to_its_end()


def drawn(seed: int, *, only: Callable[[Faults, random.Random], Faults], log: Callable[[str], None]) -> World:
    """The world of a seed. Each kind of fault is in about half of the worlds, so that each is met alone, too."""
    chance = random.Random(f"world {seed}")
    rows, columns = chance.randint(1, 6), chance.randint(5, 7)
    numbers = list(range(rows * columns))
    chance.shuffle(numbers)

    def share(most: float) -> float:
        return chance.uniform(0.01, most) if chance.random() < 0.5 else 0.0

    def steps(most: int) -> int:
        return chance.randint(1, most) if chance.random() < 0.5 else 0

    sittings = chance.randint(0, 4)
    outages = [(begin, begin + chance.uniform(5, 120)) for begin in (chance.uniform(0, 60) for _ in range(2))]
    faults = Faults(
        read=share(0.3), put=share(0.3), lost_answer=share(0.3), die=share(0.15), hang=share(0.1), slow=share(0.5),
        part=share(0.3), part_lost=share(0.3), outages=tuple(outages[: chance.choice((0, 0, 1, 2))]),
        kills=tuple(steps(90) for _ in range(sittings)),
        stops=tuple(steps(60) for _ in range(sittings)),
        rivals=tuple(steps(60) for _ in range(sittings)),
        poison=frozenset(numbers[: chance.choice((0, 0, 1, 2))]),
        bad=frozenset(numbers[2 : chance.choice((2, 2, 3, 4))]),
        nodata=frozenset(numbers[4 : chance.choice((4, 5))]),
        leave=share(0.15),
    )  # fmt: skip
    return World(
        seed=seed, rows=rows, columns=columns, workers=chance.randint(1, 4), holds=chance.randint(1, 3),
        commits=chance.random() < 0.5, faults=only(faults, chance), log=log,
    )  # fmt: skip


class _Run:
    """A run that is under way: sitting after sitting, one beside the other where the seed says so."""

    def __init__(self, world: World, code: Code) -> None:
        self._world, self._code = world, code
        self._prepared: Prepared = world.prepared()
        self._expected = world.undisturbed()
        self._finished: set[int] = set()
        """Tiles that the ledger has ever said to be finished."""

        self._fate: dict[str, int] = {}
        world.at_step = self._at_step
        with self._undisturbed():
            self._prepared.folder.save_facts({"created": "now"})

    def to_its_end(self) -> Told:
        world = self._world
        while world.sitting < len(world.faults.kills):
            self._sit()
        world.calm = True
        for _ in range(CALM_SITTINGS):
            world.wait(100.0)
            world.sitting, self._fate = world.sitting + 1, {}
            if sit(world, self._prepared, self._code):
                break
        else:
            raise BrokenError("the run does not end, though all is calm")
        self._look(at_the_end=True)
        entries = self._prepared.folder.entries()
        return Told(
            tiles=world.rows * world.columns, sittings=world.sitting, steps=world.steps, seconds=world.now(),
            failed=sum(entry.state == "failed" for entry in entries), hit=world.hit,
        )  # fmt: skip

    def _sit(self) -> None:
        """A sitting that may end in any way."""
        world, faults = self._world, self._world.faults
        number = world.sitting
        world.sitting += 1
        world.driver_step = 0
        self._fate = {"kill": faults.kills[number], "stop": faults.stops[number], "rival": faults.rivals[number]}
        try:
            sit(world, self._prepared, self._code)
        except KilledError:
            self._after_a_kill()
        except MapperError as error:
            world.tell(f"driver ended: {type(error).__name__}")
            world.wait(30.0)
        with self._undisturbed():
            self._look(at_the_end=False)

    def _after_a_kill(self) -> None:
        """The next driver is another machine's, which waits, or sees at once that the process is gone."""
        world = self._world
        if world.chance.random() < 0.5:
            world.wait(70.0)
            return
        world.wait(ORPHANED_S + 2.0)
        path = next((path for path in Bucket.objects if path.endswith("lease.json")), None)
        if path is not None:
            Bucket.objects[path] = json.dumps({**json.loads(Bucket.objects[path]), "pid": NO_PROCESS}).encode()

    def _at_step(self) -> None:
        """Kill, stop, or set another driver beside the one that has come to this step."""
        world, step = self._world, self._world.driver_step
        if step == self._fate.get("kill"):
            world.tell("driver killed")
            raise KilledError
        for what in ("stop", "rival"):
            if step != self._fate.get(what) or world.sitting >= len(world.faults.kills):
                continue
            world.tell("driver stopped" if what == "stop" else "rival begins")
            mine = (world.sitting, world.driver_step, self._fate)
            if what == "stop":
                world.wait(world.chance.uniform(50.0, 150.0))
            self._sit_beside()
            _, world.driver_step, self._fate = mine
            world.log(f"{world.now():9.2f}  driver {mine[0]} goes on")

    def _sit_beside(self) -> None:
        held = self._world.sitting
        self._sit()
        assert self._world.sitting > held  # each sitting has a fate of its own, so this comes to an end

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """For whoever looks from outside."""
        world = self._world
        calm, world.calm = world.calm, True
        step, world.at_step = world.at_step, lambda: None
        try:
            yield
        finally:
            world.calm, world.at_step = calm, step

    def _look(self, *, at_the_end: bool) -> None:
        """What is true whenever anybody looks, and what is true in the end."""
        world, folder, expected = self._world, self._prepared.folder, self._expected
        states = folder.states()
        for name, content in world.sink.items():
            if name.startswith("0/") and content != expected.get(name):
                raise BrokenError(f"{name} is half a shard, or nobody's: {content!r}")
        for row, entry in states.items():
            if entry.state in ("done", "nodata"):
                names = [named((0, *divmod(row, world.columns)), layer) for layer in LAYERS]
                if [crc32(world.sink.get(name, b"")) for name in names] != [*entry.checksums, entry.source_checksum]:
                    raise BrokenError(f"the ledger says that tile {row} is {entry.state}; the store does not")
        finished = {row for row, entry in states.items() if entry.state in FINISHED}
        if lost := self._finished - finished:
            raise BrokenError(f"tiles {sorted(lost)} were finished, and are not any more")
        self._finished = finished
        if not at_the_end:
            return
        if set(states) != set(range(world.rows * world.columns)):
            raise BrokenError("tiles have no state in the end")
        given_up = {row for row, entry in states.items() if entry.state not in ("done", "nodata")}
        if given_up != world.faults.poison | world.faults.bad or any(states[n].state == "failed" for n in given_up):
            raise BrokenError(f"given up are {sorted(given_up)}")
        if any((entry.state == "nodata") != (row in world.faults.nodata) for row, entry in states.items()
               if row not in given_up):  # fmt: skip
            raise BrokenError("a gap is told as an answer, or an answer as a gap")
        if world.sink != expected:
            wrong = sorted(n for n in world.sink.keys() | expected if world.sink.get(n) != expected.get(n))
            raise BrokenError(f"the mosaic is not the undisturbed one: {wrong}")
        self._look_at_levels()

    def _look_at_levels(self) -> None:
        """Each coarser shard stands as its last row says."""
        world = self._world
        built = {}
        for batch in reversed(list(self._prepared.folder.built("checksums", "source_checksum"))):
            for row in batch.to_pylist():
                built[row["key"]] = [*row["checksums"], row["source_checksum"]]
        there = {}
        for name in world.sink:
            level, row, column, _ = name.split("/")
            if level != "0":
                key = (int(level), int(row), int(column))
                sums = [crc32(world.sink[named(key, layer)]) for layer in LAYERS]
                there[f"{world.grid.name}/2020-05-01T00:00:00+00:00/{level}/{row}/{column}"] = sums
        if built != there:
            raise BrokenError("the ledger of the levels and the store disagree")


ONE_SITTING: dict[str, Any] = {"kills": (0,), "stops": (0,), "rivals": (0,)}
"""In which all that goes wrong does so; then all is calm."""


def only_outages(faults: Faults, chance: random.Random) -> Faults:
    """The store is away for up to two minutes at a time, and nothing else goes wrong."""
    begin = chance.uniform(0, 20)
    return Faults(**ONE_SITTING, outages=((begin, begin + chance.uniform(60, 120)),), nodata=faults.nodata)


def stopped_drivers(faults: Faults, chance: random.Random) -> Faults:
    """Drivers are stopped, and wake when others have taken over; tiles fail often enough to be given up."""
    stops = tuple(chance.randint(5, 60) for _ in range(3))
    return replace(faults, kills=(0, 0, 0), stops=stops, rivals=(0, 0, 0), read=0.5, outages=(), part=0.0)


def zombies(faults: Faults, chance: random.Random) -> Faults:
    """Workers hang, are given up, and speak again when another is in their place."""
    return Faults(**ONE_SITTING, hang=0.3, slow=faults.slow)


def spot_machines(faults: Faults, chance: random.Random) -> Faults:
    """Machines go away all the time, and nothing else goes wrong."""
    return Faults(**ONE_SITTING, leave=0.4, slow=faults.slow, nodata=faults.nodata)
