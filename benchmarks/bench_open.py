"""A mosaic of 800 000 × 800 000 pixels: opened, a window of it read, and asked. Each in a process of its own.

python -m benchmarks.bench_open [folder for the mosaic]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt

SHARD_PX = 2048
SHARDS = 391
"""Along a side: 800 768 pixels, 400 km."""

REPEATS = 5
PROMPTS = ("building", "road", "lake")
TIMES = (datetime(2023, 6, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
WRITTEN = ((40, 50), (40, 51), (41, 50), (41, 51), (200, 300))
"""Row and column of the shards that are mapped; all others were never written."""

STEPS = {
    "open": "ds = open_mosaic(url)",
    "open and show": "ds = open_mosaic(url); repr(ds); ds.resmap._repr_html_()",
    "first window of 512 px": "open_mosaic(url).score[0, 0, 82500:83012, 103000:103512].to_numpy()",
    "same window, no dask": "xr.open_zarr(url, group='0', chunks=None).score[0, 0, 82500:83012, 103000:103512].values",
    "area of a box in four shards": "area(url, box, prompts='lake', times='latest', allow_gaps=1)",
    "area of the whole": "area(url, prompts='lake', times='latest', allow_gaps=1)",
    "objects of a box in four shards": "count(url, box, prompts='lake', times='latest', allow_gaps=1)",
}
"""What is timed, after the imports."""

TIMED = """
import json, sys, time
begun = time.perf_counter()
import xarray as xr
from mapper import open_mosaic
from mapper.questions import area, count
from mapper.questions.found import objects_in
import rioxarray
url, box = sys.argv[1], tuple(json.loads(sys.argv[2]))
imported = time.perf_counter()
{step}
print(json.dumps([imported - begun, time.perf_counter() - imported]))
"""


def main() -> None:
    """Make the mosaic, time each step in fresh processes, and record."""
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "large.zarr")
        box = _make(url)
        figures = {name: _timed(step, url, box) for name, step in STEPS.items()}
    imports = [figure.pop("imports_s") for figure in figures.values()]
    for name, figure in figures.items():
        print(f"{figure['median_s']:6.2f} s  {name}")
    facts = {
        "mosaic_px": [SHARDS * SHARD_PX] * 2,
        "shard_px": SHARD_PX,
        "prompts": len(PROMPTS),
        "times": len(TIMES),
        "shards": SHARDS**2,
        "shards_written": len(WRITTEN),
        "store": "local disk, its pages in memory",
        "repeats": REPEATS,
        "imports_median_s": round(statistics.median(imports), 3),
        "seconds": figures,
    }
    print(record("open", facts))


def _timed(step: str, url: str, box: tuple[float, ...]) -> dict[str, float]:
    """Median and extremes of some processes, after one that warms the disk up."""
    runs = []
    for _ in range(REPEATS + 1):
        words = [sys.executable, "-c", TIMED.format(step=step), url, json.dumps(box)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    taken = [seconds for _, seconds in runs[1:]]
    return {
        "median_s": round(statistics.median(taken), 3),
        "least_s": round(min(taken), 3),
        "most_s": round(max(taken), 3),
        "imports_s": statistics.median(imports for imports, _ in runs[1:]),
    }


def _make(url: str) -> tuple[float, ...]:
    """The mosaic; answers with a box of longitude and latitude around the middle of four shards of it."""
    from pyproj import Transformer

    lattice = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)
    top, left = -3000 * SHARD_PX, 200 * SHARD_PX
    grid = Grid(
        lattice=lattice,
        box=PixelBox(top, left, top + SHARDS * SHARD_PX, left + SHARDS * SHARD_PX),
        shard_px=SHARD_PX,
        chunk_px=512,
    )
    prompts = tuple(Prompt(name=name, expression=f"the {name}s") for name in PROMPTS)
    mosaic = Mosaic.create(url, MosaicSpec(grids=(grid,), prompts=prompts, times=TIMES, made_by={"model": "pocket"}))
    for number, place in enumerate(WRITTEN):
        for time in range(len(TIMES)):
            mosaic.write(grid, grid.tile(*place), time, _layers(number + 10 * time))
    middle = grid.tile(41, 51).core
    around = PixelBox(middle.top - 1500, middle.left - 1500, middle.top + 1500, middle.left + 1500)
    to_lonlat = Transformer.from_crs(lattice.crs, "OGC:CRS84", always_xy=True)
    bounds: tuple[Any, ...] = to_lonlat.transform_bounds(*lattice.bounds(around))
    return tuple(map(float, bounds))


def _layers(seed: int) -> TileLayers:
    """Blots of 16 pixels, a fifth of them present; a strip that was not seen."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(np.array([20, 200], np.uint8), (len(PROMPTS), SHARD_PX // 16, SHARD_PX // 16), p=(0.8, 0.2))
    score = np.kron(cells, np.ones((16, 16), np.uint8))
    score[:, :40] = 254
    mask = np.where(score == 254, 254, score >= 125).astype(np.uint8)
    source = np.zeros(score.shape[1:], np.uint32)
    return TileLayers(mask=mask, score=score, source=source, prompts=tuple(range(len(PROMPTS))))


if __name__ == "__main__":
    main()
