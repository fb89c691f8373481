"""A plan of as many tiles as wanted, a mosaic with nothing in it, and workers that stand in for GPUs."""

from __future__ import annotations

import math
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from affine import Affine
from shapely.geometry import box

from cluster import Finished, WorkerFacts
from cluster.gpu_actor import Load
from cluster.readings import Reading
from jobs.job import Job
from jobs.ledger import RunFolder
from jobs.plan import Plan
from jobs.prepare import Prepared
from jobs.tile_table import TileTable
from mapper.curve import hilbert
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import Asset, Band, Item, Placement
from mapper.layout import MosaicSpec
from mapper.map_tile import ModelChoice, Result, Setup, Task, TileResult
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.pyramid import LevelResult, LevelTask

SHARD_PX = 2048
SCENE_TILES = 5
"""Tiles along a scene's side."""

DATES = 4
"""Scenes of each place: items of a tile."""

LATTICE = Lattice(crs="EPSG:32614", res_x=0.6, res_y=0.6)
CORNER = (-7_500_000 // SHARD_PX * SHARD_PX, 700_000 // SHARD_PX * SHARD_PX)
TIME = datetime(2023, 6, 1, tzinfo=UTC)
PROMPTS = tuple(Prompt(name=name, expression=f"the {name}s") for name in ("building", "road"))


def prepared_for(folder: Path, tiles: int) -> tuple[Prepared, Mosaic]:
    """A job with its plan, and its mosaic: nothing in it yet."""
    plan = plan_of(tiles)
    url = str(folder / "scale.zarr")
    job = Job.from_dict(
        {
            "name": "scale",
            "area": {"bbox": [-100.0, 35.0, -99.0, 36.0]},
            "imagery": {"catalog": "catalog.json", "collections": ["naip"], "bands": ["red", "green", "blue"]},
            "prompts": [{"name": prompt.name, "expression": prompt.expression} for prompt in PROMPTS],
            "model": {"name": "pocket"},
            "output": {"mosaic": url},
        }
    )
    mosaic = Mosaic.create(url, MosaicSpec(grids=plan.grids, prompts=PROMPTS, times=plan.steps, made_by={}))
    run = RunFolder(url, "scale")
    return Prepared(job=job, run="scale", area=box(0, 0, 1, 1), plan=plan, folder=run, frozen=b"", saved=False), mosaic


def plan_of(tiles: int) -> Plan:
    """A square of ground, as far along its Hilbert curve as there are tiles."""
    side = 1 << math.ceil(math.log2(max(2.0, math.sqrt(tiles))))
    top, left = CORNER
    ground = PixelBox(top, left, top + side * SHARD_PX, left + side * SHARD_PX)
    grid = Grid(lattice=LATTICE, box=ground, shard_px=SHARD_PX, chunk_px=512)
    rows, columns = np.divmod(np.arange(side * side, dtype=np.int32), side)
    order = np.argsort(hilbert(rows, columns, shape=(side, side)))[:tiles]
    row, column = rows[order], columns[order]
    scenes = -(-side // SCENE_TILES)
    scene = row // SCENE_TILES * scenes + column // SCENE_TILES
    item = (scene[:, None] * DATES + np.arange(DATES)).astype(np.int32).ravel()
    return Plan(
        items=tuple(_item(number, scenes) for number in range(scenes * scenes * DATES)),
        grids=(grid,),
        areas={grid.name: box(*LATTICE.bounds(ground))},
        steps=(TIME,),
        tiles=TileTable(
            grid=np.zeros(tiles, np.int16),
            step=np.zeros(tiles, np.int32),
            row=row,
            column=column,
            clipped=np.zeros(tiles, np.bool_),
            first_item=np.arange(tiles + 1, dtype=np.int64) * DATES,
            item=item,
        ),
    )


def _item(number: int, scenes: int) -> Item:
    """A scene of three bands in three files, as an open archive has them."""
    place, date = divmod(number, DATES)
    row, column = divmod(place, scenes)
    size = SCENE_TILES * SHARD_PX
    whole = PixelBox(0, 0, size, size)
    top, left = CORNER[0] + row * size, CORNER[1] + column * size
    transform: Affine = LATTICE.transform(PixelBox(top, left, top + size, left + size))
    name = f"scene_{row:04d}_{column:04d}_2023060{date + 1}"
    bands = tuple(
        Band(
            asset=Asset(
                key=key,
                href=f"https://imagery.example.com/archive/14/{row:04d}/{column:04d}/2023/6/{name}/{key}.tif",
                placement=Placement(crs=LATTICE.crs, transform=transform, shape=whole.shape),
            ),
            name=key,
            dtype="uint8",
        )
        for key in ("red", "green", "blue")
    )
    footprint = box(-100.0, 35.0, -99.9, 35.1)
    return Item(id=name, collection="scenes", datetime=TIME, footprint=footprint, bands=bands, index=number)


def setup(prepared: Prepared) -> Setup:
    """What an actor is told; a stand-in needs none of it."""
    return Setup(
        mosaic=prepared.job.spec.output.mosaic, model=ModelChoice(name="pocket"), prompts=PROMPTS, bands=3,
        stretch=None, composite="first", overlap_px=128, blend=True, batch=None, areas={},
    )  # fmt: skip


class StandIn:
    """What an actor owns here: a GPU that takes its time and holds no core."""

    holds = 3
    """One on the GPU, one behind it, one on its way."""

    moves = 0

    def __init__(self, name: str, setup: Setup, load: Load, *, tile_s: float) -> None:
        self._name, self._tile_s = name, tile_s
        self._gpu = threading.Lock()

    def facts(self) -> WorkerFacts:
        """Of a process without a model."""
        return WorkerFacts(name=self._name, device="none", fingerprint="none", host="here", pid=os.getpid())

    def run(self, task: Task) -> Result:
        """What a tile answers, a tile at a time; shards above them at once, for they need no GPU."""
        if not isinstance(task, LevelTask):
            with self._gpu:
                time.sleep(self._tile_s)
        return _result(task)

    def leave(self, within_s: float) -> None:
        """It goes to its end with all it has."""

    def reading(self) -> Reading:
        """Nothing is measured of a sleep."""
        return Reading(worker=self._name, pid=os.getpid())


class Instant:
    """A pool in this process whose workers answer at once. Tasks become bytes, as on their way to an actor."""

    def __init__(self, workers: int) -> None:
        self._names = {f"gpu-{number}": StandIn.holds for number in range(workers)}
        self._held: deque[tuple[str, Task, int]] = deque()

    def workers(self) -> Mapping[str, int]:
        """All, always."""
        return self._names

    def facts(self) -> Sequence[WorkerFacts]:
        """None: they are nowhere."""
        return ()

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Take a task."""
        pickle.dumps(task, protocol=5)
        self._held.append((worker, task, token))

    def finished(self, timeout_s: float) -> list[Finished]:
        """The task that was given first."""
        worker, task, token = self._held.popleft()
        return [Finished(worker=worker, task=task, result=_result(task), token=token)]

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


def _result(task: Task) -> Result:
    checksums = tuple((prompt, (task.id * 2654435761 + prompt) % 2**32) for prompt in task.prompts)
    if isinstance(task, LevelTask):
        return LevelResult(checksums=checksums, source_checksum=task.id % 2**32)
    return TileResult(
        id=task.id, nodata=False, checksums=checksums, source_checksum=task.id % 2**32, asked_px=SHARD_PX**2,
        seen_px=SHARD_PX**2, present_px=(1000,) * len(task.prompts), windows=25, reused=9, seam=0.01,
        read_bytes=3 * SHARD_PX**2, written_bytes=100_000,
        seconds={"read": 0.5, "infer": 1.0, "blend": 0.2, "write": 0.1},
    )  # fmt: skip
