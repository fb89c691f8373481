"""A small world to map with a pool, and tile mappers that misbehave on request.

The functions that load them are named by Ray's workers, which import this module: they carry no state.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster import WorkerFacts
from cluster.readings import Reading
from mapper.errors import MapperError, ModelError, ReadError
from mapper.grid import Grid, PixelBox
from mapper.imagery import View
from mapper.layout import MosaicSpec
from mapper.map_tile import ModelChoice, Result, Setup, Task, TileMapper, TileTask, TileView
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from tests.mapper.rasters import UTM45, item_of, placed, smooth_pixels, write_raster

BOX = PixelBox(-6_120_064, 668_032, -6_120_064 + 192, 668_032 + 256)
GRID = Grid(lattice=UTM45, box=BOX, shard_px=64, chunk_px=32)
PROMPTS = (Prompt(name="red", expression="what is red"),)
TIMES = (datetime(2020, 5, 1, tzinfo=UTC),)
BAD_TILE = 6
"""The tile that the misbehaving mappers stumble over; the others are fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A mosaic of 3 × 4 tiles that nobody has mapped yet."""

    setup: Setup
    tasks: tuple[TileTask, ...]

    def scores(self) -> NDArray[np.uint8]:
        """The score ``(y, x)`` as it lies in the mosaic."""
        mosaic = Mosaic.open(self.setup.mosaic, writable=False)
        score = np.zeros(GRID.shape, np.uint8)
        for tile in GRID.tiles():
            score[tile.core.within(GRID.box)] = mosaic.read(GRID, tile, 0, 0)[1]
        return score


def world(folder: Path) -> World:
    """A new one."""
    wide = PixelBox(BOX.top - 100, BOX.left - 100, BOX.bottom + 100, BOX.right + 100)
    raster = folder / "scene.tif"
    if not raster.exists():
        write_raster(raster, smooth_pixels(wide), UTM45.transform(wide))
    mosaic = folder / f"map-{len(list(folder.glob('map-*')))}.zarr"
    Mosaic.create(str(mosaic), MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={}))
    setup = Setup(
        mosaic=str(mosaic), model=ModelChoice(name="colour"), prompts=PROMPTS, bands=3, stretch=None,
        composite="first", overlap_px=32, blend=True, batch=None, areas={},
    )  # fmt: skip
    return World(setup=setup, tasks=tuple(tile_tasks(12, item_of(raster))))


def tile_tasks(count: int, item: object = None) -> list[TileTask]:
    """Tasks with ids from 0, tile after tile."""
    items = () if item is None else (placed(item),)  # type: ignore[arg-type]  # an Item where there is one
    return [
        TileTask(
            id=number, grid=GRID, tile=GRID.tile(number // 4 % 3, number % 4), time=0, items=items, prompts=(0,),
            clipped=False,
        )
        for number in range(count)
    ]  # fmt: skip


def with_missing_file(task: TileTask) -> TileTask:
    """The task, of an item whose file is gone."""
    return replace(task, items=(placed(item_of("/no/such/file.tif", name="gone")),))


class _Slow(TileMapper):
    def read(self, task: TileTask) -> TileView:
        time.sleep(0.4)
        return super().read(task)


class _Deadly(TileMapper):
    def read(self, task: TileTask) -> TileView:
        if task.id == BAD_TILE:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)  # so that others are in hand when the worker goes
        return super().read(task)


class _Hanging(TileMapper):
    def read(self, task: TileTask) -> TileView:
        if task.id == BAD_TILE and not (hung := Path(f"{self._setup.mosaic}.hung")).exists():
            hung.touch()
            time.sleep(3600)
        return super().read(task)


class _Defective(TileMapper):
    def read(self, task: TileTask) -> TileView:
        if task.id == BAD_TILE:
            raise ZeroDivisionError("nobody thought of this")
        return super().read(task)


class Hungrier:
    """A worker that does nothing, and wants one tile more in hand after each."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        self._name = name
        self.holds, self.moves = 1, 0

    def facts(self) -> WorkerFacts:
        return WorkerFacts(name=self._name, device="none", fingerprint="none", host="here", pid=os.getpid())

    def run(self, task: Task) -> Result | MapperError:
        self.holds += 1
        return ReadError("nothing was read")

    def leave(self, within_s: float) -> None:
        """It has begun with all it has."""

    def reading(self) -> Reading:
        return Reading(worker=self._name)


def load_slow(setup: Setup) -> TileMapper:
    """A tile mapper that takes its time."""
    return _Slow.load(setup)


def load_deadly(setup: Setup) -> TileMapper:
    """A tile mapper that one tile kills, as one does that makes a driver crash."""
    return _Deadly.load(setup)


def load_hanging(setup: Setup) -> TileMapper:
    """A tile mapper that never comes back from one tile, the first time that any worker has it."""
    return _Hanging.load(setup)


class _Blind:
    """A reader that must not be needed."""

    def read(self, items: object, lattice: object, frame: object) -> View:
        raise AssertionError("the worker read by itself")


def load_blind(setup: Setup) -> TileMapper:
    """A tile mapper that has others read for it, or fails."""
    mapper = TileMapper.load(setup)
    mapper.read_with(lambda own: _Blind())
    return mapper


def load_defective(setup: Setup) -> TileMapper:
    """A tile mapper with a bug."""
    return _Defective.load(setup)


def load_nothing(setup: Setup) -> TileMapper:
    """No tile mapper."""
    raise ModelError("the weights have sha256 0000…", fix="get the right file", weights="w.safetensors")
