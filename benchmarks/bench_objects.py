"""All objects of a mosaic of 20,000 × 20,000 pixels: shard by shard, against a polygonize of the whole raster.

python -m benchmarks.bench_objects [--keep FOLDER]

Each way runs in a process of its own, several times in turn. Memory is what the process and those it starts hold at
their peak, over what it held with everything imported and nothing read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.transform import IDENTITY
from scipy import ndimage
from shapely.geometry import shape

from benchmarks.record import record
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.masks import ABSENT, PRESENT
from mapper.mosaic import Mosaic, TileLayers
from mapper.outlines import map_objects
from mapper.prompts import Prompt

SIDE_PX = 20_000
SHARD_PX = 2_048
CELL_PX = 84
REPEATS = 3
LAKE_NODE_PX = 50
LATTICE = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)


def main() -> None:
    """Make the mosaic, measure each way in turn, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--keep", help="a folder for the mosaic, which is made where it is not there yet")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(_measured(lambda: WAYS[arguments.way](Mosaic.open(arguments.keep, writable=False)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(arguments.keep or folder) / "objects.zarr")
        if not Mosaic.exists(url):
            _make(url)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(REPEATS):
            for way, taken in runs.items():
                taken.append(_in_a_process(way, url))
                print(way, taken[-1], file=sys.stderr)
    figures = {way: _summary(taken) for way, taken in runs.items()}
    counts = {figure["objects"] for figure in figures.values()}
    assert len(counts) == 1, f"the ways disagree: {counts}"
    whole = figures["whole raster"]
    for way, figure in figures.items():
        print(
            f"{figure['median_s']:6.2f} s  {figure['cpu_s']:6.2f} CPU-s  {figure['peak_mb']:7.0f} MB  "
            f"{whole['median_s'] / figure['median_s']:5.2f} × faster  {whole['peak_mb'] / figure['peak_mb']:5.1f} × "
            f"smaller  {way}"
        )
    circumstances = {"side_px": SIDE_PX, "shard_px": SHARD_PX, "repeats": REPEATS, "connectivity": 8}
    print(record("objects", {**circumstances, "load_before": os.getloadavg(), "ways": figures}))


def _in_a_process(way: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_objects", "--way", way, "--keep", url]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(answer.stdout)
    return figures


def _measured(work: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    """Seconds, CPU-seconds and peak memory of some work, with the processes it starts."""
    process = psutil.Process()
    baseline = process.memory_info().rss
    peak, finished = baseline, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.01):
            held = process.memory_info().rss
            for child in process.children():
                try:
                    held += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, held)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun, cpu = time.perf_counter(), time.process_time()
    objects, points = work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    finished.set()
    watcher.join()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "objects": objects,
        "points": points,
        "s": seconds,
        "cpu_s": cpu + spent.ru_utime + spent.ru_stime,
        "peak_mb": (peak - baseline) / 1e6,
        "load": os.getloadavg()[0],
    }


def _summary(taken: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [one["s"] for one in taken]
    return {
        "objects": taken[0]["objects"],
        "points": taken[0]["points"],
        "median_s": round(statistics.median(seconds), 2),
        "least_s": round(min(seconds), 2),
        "most_s": round(max(seconds), 2),
        "cpu_s": round(statistics.median(one["cpu_s"] for one in taken), 2),
        "peak_mb": round(statistics.median(one["peak_mb"] for one in taken), 1),
        "load": [round(one["load"], 2) for one in taken],
    }


def _whole_raster(mosaic: Mosaic) -> tuple[int, int]:
    """What one does without shards: the whole mask in memory, through GDAL, to shapely."""
    (grid,) = mosaic.grids
    mask = mosaic.layer(grid, "mask", grid.box, time=0)
    shapes = rasterio.features.shapes(mask, mask=mask == PRESENT, connectivity=8, transform=IDENTITY)
    outlines = [shape(outline) for outline, _ in shapes]
    return len(outlines), int(shapely.get_num_coordinates(outlines).sum())


def _by_shard(mosaic: Mosaic, workers: int) -> tuple[int, int]:
    """Ours; with score, area, source and bounds, which the other way does not give. Outlines are used and dropped."""
    objects = points = 0
    for batch in map_objects(mosaic, mosaic.grids[0], prompt=0, time=0, workers=workers):
        objects += len(batch)
        points += int(shapely.get_num_coordinates(batch.geometry).sum())
    return objects, points


WAYS: dict[str, Callable[[Mosaic], tuple[int, int]]] = {
    "whole raster": _whole_raster,
    "by shard, in this process": lambda mosaic: _by_shard(mosaic, 1),
    "by shard, in two processes": lambda mosaic: _by_shard(mosaic, 2),
}


def _make(url: str) -> None:
    """A mosaic with houses turned every way, one a cell, and lakes with islands across many shards."""
    rng = np.random.default_rng(0)
    side = -(-SIDE_PX // SHARD_PX) * SHARD_PX
    mask = np.full((side, side), 255, np.uint8)
    mask[:SIDE_PX, :SIDE_PX] = ABSENT
    _lakes(rng, mask[:SIDE_PX, :SIDE_PX])
    for top in range(0, SIDE_PX - CELL_PX, CELL_PX):
        for left in range(0, SIDE_PX - CELL_PX, CELL_PX):
            cell = mask[top : top + CELL_PX, left : left + CELL_PX]
            if not cell.any():
                cell[4:-4, 4:-4] = _house(rng, CELL_PX - 8)
    grid = Grid(lattice=LATTICE, box=PixelBox(0, 0, side, side), shard_px=SHARD_PX, chunk_px=512)
    spec = MosaicSpec(
        grids=(grid,),
        prompts=(Prompt(name="thing", expression="things"),),
        times=(datetime(2026, 1, 1, tzinfo=UTC),),
        made_by={},
    )
    mosaic = Mosaic.create(url, spec)
    for tile in grid.tiles():
        core = mask[tile.core.within(grid.box)]
        score = np.where(core == PRESENT, 200, 20).astype(np.uint8) + rng.integers(0, 30, core.shape, np.uint8)
        score[core > PRESENT] = 255
        source = np.full(core.shape, tile.row // 3, np.uint32)
        mosaic.write(grid, tile, 0, TileLayers(mask=core[None], score=score[None], source=source, prompts=(0,)))


def _house(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    """A rectangle of 6 to 50 pixels, turned; of some a corner is missing, and some are round."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, long, short = rng.uniform(0, np.pi), *rng.uniform(3, 25, 2)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.random()
    if kind < 0.2:
        return np.asarray((along / long) ** 2 + (across / short) ** 2 < 1)
    house = (np.abs(along) < long) & (np.abs(across) < short)
    return np.asarray(house & ~((along > 0) & (across > 0)) if kind < 0.5 else house)


def _lakes(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """Where noise is high, in bands of rows: shores that are ragged, islands in them, some over ten shards."""
    nodes = SIDE_PX // LAKE_NODE_PX + 1
    noise = ndimage.gaussian_filter(rng.normal(size=(nodes, nodes)), 8)
    noise += 0.3 * ndimage.gaussian_filter(rng.normal(size=(nodes, nodes)), 1) * noise.std()
    level = np.quantile(noise, 0.94)
    at = np.arange(SIDE_PX) / LAKE_NODE_PX
    below = at.astype(np.int64)
    share = (at - below).astype(np.float32)
    for row in range(SIDE_PX):
        line = (1 - share[row]) * noise[below[row]] + share[row] * noise[below[row] + 1]
        mask[row] = (1 - share) * line[below] + share * line[below + 1] > level


if __name__ == "__main__":
    main()
