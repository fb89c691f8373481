"""One seeded world: what is mapped, what will go wrong and when, and the shards as a dictionary."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast
from zlib import crc32

import numpy as np

from cluster.events import Clock
from jobs.ledger import RunFolder
from jobs.plan import Plan
from jobs.prepare import Prepared
from jobs.tile_table import TileTable
from mapper.errors import StoreError
from mapper.grid import Grid, PixelBox
from mapper.map_tile import Task, TileTask
from mapper.prompts import Prompt
from tests.mapper.rasters import UTM45
from tests.simulation.store import Bucket

URL, RUN = "simulated://bucket/map.zarr", "run-1"
PROMPTS = (Prompt(name="thing", expression="a thing"),)
STEP = datetime(2020, 5, 1, tzinfo=UTC)
SHARD_PX = 64
LAYERS = ("mask", "score")

Key = tuple[int, int, int]
"""Level, row and column of a shard."""


class KilledError(BaseException):
    """The driver is no more: nothing of it runs on, not even what cleans up."""


class BrokenError(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong: shares of the tries or requests, unless said otherwise."""

    read: float = 0.0
    put: float = 0.0
    lost_answer: float = 0.0
    die: float = 0.0
    hang: float = 0.0
    leave: float = 0.0
    """Hand-outs after which the worker's machine goes away: now, in time, or when nobody has said."""

    slow: float = 0.0
    """Share of the workers that are twenty times slower."""

    part: float = 0.0
    """Requests of the driver that the store refuses."""

    part_lost: float = 0.0
    """Puts of the driver that were applied, and whose answer was lost."""

    outages: tuple[tuple[float, float], ...] = ()
    """When the store is away: from, until."""

    kills: tuple[int, ...] = ()
    """Of one sitting after another: the step of the driver at which it is killed; 0 where it is not."""

    stops: tuple[int, ...] = ()
    """The step at which it is stopped, and woken after another has taken over."""

    rivals: tuple[int, ...] = ()
    """The step at which another driver is started beside it."""

    poison: frozenset[int] = frozenset()
    bad: frozenset[int] = frozenset()
    nodata: frozenset[int] = frozenset()


@lru_cache(maxsize=256)
def ground(rows: int, columns: int) -> tuple[Grid, dict[Key, tuple[Key, ...]]]:
    """A grid, and what lies right under each of its coarser shards."""
    box = PixelBox(0, 0, rows * SHARD_PX, columns * SHARD_PX)
    grid = Grid(lattice=UTM45, box=box, shard_px=SHARD_PX, chunk_px=32)
    pyramid = grid.pyramid()
    under = {}
    for finer, coarser in itertools.pairwise(pyramid):
        for tile in coarser.tiles():
            wide = tile.core.doubled()
            under[coarser.level, tile.row, tile.column] = tuple(
                (finer.level, one.row, one.column) for one in finer.tiles() if not one.core.intersection(wide).empty
            )
    return grid, under


@dataclass(slots=True)
class World:
    """All that drivers and workers of one simulated run share."""

    seed: int
    rows: int
    columns: int
    workers: int
    holds: int
    commits: bool
    """Whether what is put is seen only once it is committed, as under icechunk."""

    faults: Faults
    log: Callable[[str], None] = lambda text: None
    chance: random.Random = field(default_factory=random.Random)
    clock: Clock = field(default_factory=Clock)
    sink: dict[str, bytes] = field(default_factory=dict)
    staged: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    hit: Counter[str] = field(default_factory=Counter)
    lost_once: set[int] = field(default_factory=set)
    """Tasks that had a worker die by chance: another such death would make them suspect, as the rule says."""

    calm: bool = False
    steps: int = 0
    driver_step: int = 0
    sitting: int = 0
    at_step: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.chance.seed(self.seed)
        Bucket.begin(self._reading, self._putting)
        Bucket.objects["bucket/map.zarr/zarr.json"] = b"{}"

    # What is mapped ---------------------------------------------------------------------------------------------------

    @property
    def grid(self) -> Grid:
        """Of the tiles."""
        return ground(self.rows, self.columns)[0]

    def prepared(self) -> Prepared:
        """The job, as its drivers know it."""
        count = self.rows * self.columns
        rows, columns = np.divmod(np.arange(count, dtype=np.int32), self.columns)
        tiles = TileTable(
            grid=np.zeros(count, np.int16), step=np.zeros(count, np.int32), row=rows.astype(np.int32),
            column=columns.astype(np.int32), clipped=np.zeros(count, np.bool_),
            first_item=np.zeros(count + 1, np.int64), item=np.zeros(0, np.int32),
        )  # fmt: skip
        plan = Plan(items=(), grids=(self.grid,), areas={}, steps=(STEP,), tiles=tiles)
        output = SimpleNamespace(mosaic=URL, commit_s=5.0, commit_shards=4)
        job = cast("Any", SimpleNamespace(spec=SimpleNamespace(output=output, prompts=PROMPTS)))
        folder = RunFolder(URL, RUN, engine="zarr")
        return Prepared(job=job, run=RUN, area=cast("Any", None), plan=plan, folder=folder, frozen=b"", saved=True)

    def content(self, key: Key, layer: str, seen: dict[str, bytes]) -> bytes:
        """What a shard must hold: of a coarser one, made of what is seen under it."""
        if key[0] == 0:
            return f"{key} {layer} ".encode() * 8
        under = ground(self.rows, self.columns)[1][key]
        return f"{key} {layer} {crc32(b'|'.join(seen.get(named(one, layer), b'-') for one in under))}".encode()

    def undisturbed(self) -> dict[str, bytes]:
        """What the mosaic holds in the end, if nothing goes wrong but what is wrong with the tiles themselves."""
        left_out = self.faults.poison | self.faults.bad
        found: dict[str, bytes] = {}
        for number in sorted(set(range(self.rows * self.columns)) - left_out):
            key = (0, *divmod(number, self.columns))
            found |= {named(key, layer): self.content(key, layer, found) for layer in LAYERS}
        for key, under in sorted(ground(self.rows, self.columns)[1].items()):
            if any(named(one, LAYERS[0]) in found for one in under):
                found |= {named(key, layer): self.content(key, layer, found) for layer in LAYERS}
        return found

    # Time and chance --------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds."""
        return self.clock.time

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        until = self.clock.time + seconds
        self.clock.run_until(until)
        self.clock.time = max(self.clock.time, until)

    def happens(self, what: str, share: float) -> bool:
        """Whether it does, this time; counted and logged."""
        if self.calm or share <= 0 or self.chance.random() >= share:
            return False
        self.tell(what)
        return True

    def tell(self, what: str) -> None:
        """Count a fault that was hit."""
        self.hit[what] += 1
        self.log(f"{self.clock.time:9.2f}  {what}")

    @property
    def away(self) -> bool:
        """Whether the store is away now."""
        return not self.calm and any(begin <= self.clock.time < end for begin, end in self.faults.outages)

    # The store --------------------------------------------------------------------------------------------------------

    def step(self, what: str) -> None:
        """The driver is about to do something, or has just done it: here it may be killed or stopped."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.steps += 1
        self.driver_step += 1
        self.log(f"{self.clock.time:9.2f}  driver {self.sitting} step {self.driver_step}: {what}")
        self.at_step()

    def _reading(self, path: str) -> None:
        self.step(f"reads {path}")
        if self.away:
            self.hit["outage"] += 1
            raise OSError("the store is away")

    def _putting(self, path: str, put: Callable[[], None]) -> None:
        self.step(f"is about to put {path}")
        self._or_fail(put, path)
        self.step(f"has put {path}")

    def _or_fail(self, act: Callable[[], None], path: str) -> None:
        if self.away:
            self.hit["outage"] += 1
            raise OSError("the store is away")
        if self.happens("driver's put refused", self.faults.part):
            raise OSError(f"503 for {path}")
        act()
        if self.happens("driver's put applied, answer lost", self.faults.part_lost):
            raise OSError(f"reset after {path}")

    def commit(self, receipts: list[bytes]) -> None:
        """Make seen what these receipts stand for: all or nothing.

        Raises:
            StoreError: the store did not answer.
        """
        self.step("is about to commit")
        new: dict[str, bytes] = {}
        for receipt in receipts:
            new |= self.staged[receipt]
        try:
            self._or_fail(lambda: self.sink.update(new), "commit")
        except OSError as error:
            raise StoreError(str(error)) from error
        self.step("has committed")


def named(key: Key, layer: str) -> str:
    """Of an object."""
    return "/".join(str(number) for number in key) + f"/{layer}"


def key_of(task: Task) -> Key:
    """Of the shard a task writes."""
    return (0 if isinstance(task, TileTask) else task.grid.level, task.tile.row, task.tile.column)
