"""A run of a million tiles on 256 GPUs, as it lies beside its mosaic, written by the code that writes a real one.

Nothing is mapped: tiles, outcomes and readings are made up, by rule. The plan, the ledger, the lease, telemetry and
events are put as a driver puts them, and ``go_on`` goes on putting them, so many tiles a second.

python -m benchmarks.simulated_run FOLDER [--tiles 1000000] [--workers 256] [--done 0.4] [--rate 1000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from cluster.pool import WorkerFacts
from cluster.readings import LATENCY_MS, WAITS, WORK, Calls, Reading
from jobs.dashboard.views import run_key
from jobs.job import Job
from jobs.lease import Lease
from jobs.ledger import Entry, RunFolder
from jobs.output import open_output
from jobs.parts import MERGE, new_part
from jobs.plan import Plan
from jobs.prepare import Prepared, save
from jobs.recorder import Recorder, Sums
from jobs.session import register
from jobs.spec import run_id
from jobs.telemetry import ROW_EVERY_S, Row, WorkerNow
from jobs.tile_table import TileTable
from mapper.curve import hilbert
from mapper.grid import Grid, Lattice, PixelBox

SHARD_PX = 2048
LATTICE = Lattice(crs="EPSG:32645", res_x=0.3, res_y=0.3)
CORNER = (-10_000_000 // SHARD_PX * SHARD_PX, 800_000 // SHARD_PX * SHARD_PX)
STEP = datetime(2023, 6, 1, tzinfo=UTC)
BANDS = ("red", "green", "blue")
USD_PER_GPU_HOUR = 2.0
SHARES = {"busy": 0.62, "read": 0.27, "decode": 0.05, "copy": 0.01, "blend": 0.01, "encode": 0.01, "write": 0.02,
          "tasks": 0.01}  # fmt: skip
"""What a worker's time goes to; of every fifth the model is the limit."""

_FAILURES = (
    ("failed", "ReadError", "range request timed out after 20 s (asset https://imagery.example.com/a.tif); "
                            "lower concurrent_reads"),
    ("quarantined", "AssetError", "the file is cut short (asset https://imagery.example.com/b.tif)"),
    ("quarantined", "WorkerLostError", "the worker died three times on this tile"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A run that was made up."""

    prepared: Prepared
    workers: int
    rate: float
    """Tiles a second."""

    done: int
    """Tiles that were entered before."""

    @property
    def folder(self) -> RunFolder:
        """Where it lies."""
        return self.prepared.folder

    @property
    def tiles(self) -> int:
        """Planned."""
        return len(self.prepared.plan.tiles)


def make(folder: Path, *, tiles: int, workers: int, done: float, rate: float, registered: bool = False) -> Simulated:
    """A run that was under way for as long as such a share of its tiles takes, and whose driver is gone.

    Args:
        folder: for the mosaic.
        tiles: planned.
        workers: GPUs.
        done: share of the tiles that are entered, 0 to 1.
        rate: tiles a second.
        registered: whether the registry is told of it.
    """
    prepared = _prepared(folder, tiles)
    save(prepared)
    open_output(prepared)
    run = Simulated(prepared=prepared, workers=workers, rate=rate, done=int(tiles * done))
    now = datetime.now(UTC)
    began = now - timedelta(seconds=run.done / rate)
    prepared.folder.save_facts(
        prepared.folder.facts()
        | {
            "state": "running",
            "planned": tiles,
            "created": began.isoformat(),
            "spent_usd": workers * run.done / rate / 3600 * USD_PER_GPU_HOUR,
        }
    )
    _put_outcomes(run, began)
    _put_samples(run, began)
    if registered:
        register(prepared, "running", tiles, run.done)
    return run


def go_on(run: Simulated, *, seconds: float, tell: Callable[[float, int], None] = lambda at, entered: None) -> int:
    """Write it on, as its driver would; how many tiles were entered.

    Args:
        run: of ``make``.
        seconds: for how long; less where no tiles are left.
        tell: told the moment and how many tiles are entered in all, each time that a part of the ledger was put.
    """
    mosaic = run.prepared.job.spec.output.mosaic
    entered, begun = run.done, time.monotonic()
    with Lease(mosaic, run.prepared.run) as lease:
        speaking = _Speaking(run, began=time.time() - run.done / run.rate)
        sums = Sums(
            area_km2=speaking.areas,
            spent_usd=lambda: run.workers * (time.time() - speaking.began) / 3600 * USD_PER_GPU_HOUR,
            usd_per_gpu_hour=USD_PER_GPU_HOUR,
            budget_usd=None,
        )
        with Recorder(run.folder, sums, held=lease) as recorder:
            recorder.watch(speaking, _facts(run))
            ledger = run.folder.ledger(held=lease)
            while (passed := time.monotonic() - begun) < seconds and entered < run.tiles:
                upto = min(run.tiles, run.done + int(passed * run.rate))
                for tile in range(entered, upto):
                    ledger.record(_entry(run, tile, datetime.now(UTC)))
                entered = upto
                ledger.flush()
                tell(time.time(), entered)
                time.sleep(max(0.0, begun + math.floor(passed) + 1 - time.monotonic()))
            recorder.leave()
    return entered - run.done


class _Speaking:
    """Workers that say what they would."""

    def __init__(self, run: Simulated, *, began: float) -> None:
        self._run, self.began = run, began
        self._lock = threading.Lock()

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """Of all, now."""
        now = time.time()
        return {name: (0.2, _reading(self._run, n, now - self.began, self.began)) for n, name in _names(self._run)}

    def areas(self) -> Mapping[str, float]:
        """Of tiles handed in."""
        km2 = (SHARD_PX * LATTICE.res_x / 1000) ** 2
        return {name: said.tiles * km2 for name, (_, said) in self.readings().items()}


def _names(run: Simulated) -> Iterator[tuple[int, str]]:
    return ((number, f"gpu-{number:03d}") for number in range(run.workers))


def _facts(run: Simulated) -> list[WorkerFacts]:
    return [
        WorkerFacts(name=name, device="NVIDIA H100", fingerprint="none", host=f"node-{n // 8:02d}", pid=os.getpid())
        for n, name in _names(run)
    ]


def _reading(run: Simulated, number: int, up_s: float, began: float) -> Reading:
    """What one says after so long. Every fifth is as busy as can be, and some are slower than others."""
    shares = SHARES if number % 5 else {"busy": 0.93, "read": 0.07}
    tiles = int(up_s * run.rate / run.workers * (1 - 0.1 * math.sin(number)))
    requests = tiles * 12
    took = np.zeros(len(LATENCY_MS) + 1, np.int64)
    took[[4, 5, 6, 10]] = np.array([0.5, 0.3, 0.19, 0.01]) * requests
    imagery = Calls(kind="imagery", host="imagery.example.com", done=int(took.sum()), failed=requests // 200,
                    throttled=requests // 900, moved_bytes=requests * 1_500_000, took=tuple(took.tolist()))  # fmt: skip
    store = Calls(kind="store", host="maps", done=tiles, moved_bytes=tiles * 90_000,
                  took=(0, 0, 0, 0, tiles, *(0,) * (len(LATENCY_MS) - 4)))  # fmt: skip
    return Reading(
        worker=f"gpu-{number:03d}",
        host=f"node-{number // 8:02d}",
        pid=os.getpid(),
        device="NVIDIA H100",
        began=began,
        up_s=up_s,
        busy_s=up_s * shares["busy"],
        waited_s={wait: up_s * shares.get(wait, 0.0) for wait in WAITS},
        work_s={work: up_s * share for work, share in zip(WORK, (1.6, 0.9, 0.1, 0.6, 0.1, 0.2, 0.1), strict=True)},
        tiles=tiles,
        windows=tiles * 25,
        reused=tiles * 9,
        pixels=tiles * SHARD_PX**2,
        batch=16,
        in_hand=3,
        holds=3,
        queues={"waiting": 0, "reading": 1, "ready": 1, "unwritten": 0, "writing": 1},
        host_peak_bytes=9 << 30,
        device_peak_bytes=31 << 30,
        device_total_bytes=80 << 30,
        power_w=455.0 + 40 * math.sin(number + up_s / 20),
        temperature_c=61.0,
        utilization=shares["busy"],
        calls=(imagery, store),
    )


def _entry(run: Simulated, tile: int, at: datetime) -> Entry:
    """What becomes of a tile: two of a thousand are given up, every fiftieth has no imagery."""
    worker = f"gpu-{tile % run.workers:03d}"
    if tile % 500 == 7:
        state, cause, error = _FAILURES[tile // 500 % len(_FAILURES)]
        return Entry(tile=tile, state=state, attempts=3, worker=worker, at=at, cause=cause, error=error)  # type: ignore[arg-type]
    whole = SHARD_PX**2
    if tile % 50 == 3:
        return Entry(tile=tile, state="nodata", attempts=1, worker=worker, at=at, asked_px=whole, read_s=0.1)
    return Entry(
        tile=tile,
        state="done",
        attempts=1,
        worker=worker,
        at=at,
        prompts=("building", "road"),
        checksums=(tile * 2654435761 % 2**32, tile * 40503 % 2**32),
        source_checksum=tile % 2**32,
        present_px=(tile * 7919 % (whole // 3), tile * 104729 % (whole // 9)),
        asked_px=whole,
        seen_px=whole - tile % 977,
        windows=25,
        seam=0.01,
        read_s=1.4 + tile * 7919 % 1000 / 400,
        infer_s=2.1 + tile * 104729 % 1000 / 900,
        write_s=0.2 + tile * 31 % 100 / 300,
    )


def _put_outcomes(run: Simulated, began: datetime) -> None:
    """What was entered: parts of a second each, of which 64 have become one."""
    parts, schema = run.folder.outcomes, run.folder.outcomes.schema
    seconds = math.ceil(run.done / run.rate)
    for first in range(0, seconds, MERGE):
        last = min(seconds, first + MERGE)
        whole = last - first == MERGE
        bounds = [(first, last)] if whole else [(second, second + 1) for second in range(first, last)]
        for begin, end in bounds:
            tiles = range(int(begin * run.rate), min(run.done, int(end * run.rate)))
            rows = [_entry(run, tile, began + timedelta(seconds=tile / run.rate)) for tile in tiles]
            columns = [pa.array([getattr(row, of.name) for row in rows], of.type) for of in schema]
            parts.write(new_part(1, end, count=end - begin), pa.Table.from_arrays(columns, schema=schema))


def _put_samples(run: Simulated, began: datetime) -> None:
    """What workers said, every ten seconds."""
    ledger = run.folder.telemetry_ledger()
    areas = (SHARD_PX * LATTICE.res_x / 1000) ** 2
    for number, up_s in enumerate(np.arange(ROW_EVERY_S, run.done / run.rate, ROW_EVERY_S).tolist()):
        for worker in range(run.workers):
            said = _reading(run, worker, up_s, began.timestamp())
            at = began + timedelta(seconds=up_s)
            ledger.record(Row(at=at, worker=WorkerNow(reading=said, heard_s=0.2, area_km2=said.tiles * areas)))
        if number % 3 == 2:
            ledger.flush()
    ledger.flush()


def _prepared(folder: Path, tiles: int) -> Prepared:
    from catalogs.snapshot import freeze

    side = 1 << math.ceil(math.log2(max(2.0, math.sqrt(tiles))))
    top, left = CORNER
    ground = PixelBox(top, left, top + side * SHARD_PX, left + side * SHARD_PX)
    grid = Grid(lattice=LATTICE, box=ground, shard_px=SHARD_PX, chunk_px=512)
    row, column = _along_the_curve(side, tiles)
    west, south, east, north = 84.0, 26.0, 88.0, 30.0
    job = Job.from_dict(
        {
            "name": "simulated",
            "area": {"bbox": [west, south, east, north]},
            "imagery": {
                "catalog": "https://example.com/stac",
                "collections": ["naip"],
                "bands": ["red", "green", "blue"],
            },
            "grid": {"crs": LATTICE.crs, "resolution_m": LATTICE.res_x, "shard_px": SHARD_PX, "chunk_px": 512},
            "prompts": [
                {"name": "building", "expression": "the buildings"},
                {"name": "road", "expression": "the roads"},
            ],
            "model": {"name": "pocket"},
            "output": {"mosaic": str(folder / "simulated.zarr")},
            "compute": {"usd_per_gpu_hour": USD_PER_GPU_HOUR},
        }
    )
    area = shapely.box(west, south, east, north)
    plan = Plan(
        items=(),
        grids=(grid,),
        areas={grid.name: shapely.box(*LATTICE.bounds(ground))},
        steps=(STEP,),
        tiles=TileTable(
            grid=np.zeros(tiles, np.int16),
            step=np.zeros(tiles, np.int32),
            row=row,
            column=column,
            clipped=np.zeros(tiles, np.bool_),
            first_item=np.arange(tiles + 1, dtype=np.int64),
            item=np.zeros(tiles, np.int32),
        ),
    )
    run = run_id(job.spec, area_wkb=shapely.to_wkb(area))
    return Prepared(
        job=job,
        run=run,
        area=area,
        plan=plan,
        folder=RunFolder(job.spec.output.mosaic, run, engine="zarr"),
        frozen=freeze([_item(west, south, east, north)]),
        saved=False,
    )


def _along_the_curve(side: int, tiles: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rows, columns = np.divmod(np.arange(side * side, dtype=np.int32), side)
    order = np.argsort(hilbert(rows, columns, shape=(side, side)))[:tiles]
    return rows[order], columns[order]


def _item(west: float, south: float, east: float, north: float) -> dict[str, object]:
    outline = shapely.box(west, south, east, north)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene-1",
        "collection": "naip",
        "bbox": [west, south, east, north],
        "geometry": shapely.geometry.mapping(outline),
        "properties": {"datetime": "2023-06-01T00:00:00Z"},
        "links": [],
        "assets": {
            key: {"href": f"https://imagery.example.com/scene-1/{key}.tif", "type": "image/tiff; application=geotiff"}
            for key in BANDS
        },
    }


def main() -> None:
    """Make one, and go on writing it; a line of JSON says where it is, and one a part what was entered when."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--done", type=float, default=0.4, help="share of the tiles that are entered before")
    parser.add_argument("--rate", type=float, default=1000.0, help="tiles a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it goes on")
    asked = parser.parse_args()
    run = make(
        asked.folder, tiles=asked.tiles, workers=asked.workers, done=asked.done, rate=asked.rate, registered=True
    )
    print(json.dumps({"mosaic": run.folder.mosaic, "key": run_key(run.prepared.run, run.folder.mosaic)}), flush=True)
    go_on(run, seconds=asked.seconds, tell=lambda at, entered: print(json.dumps([at, entered]), flush=True))


if __name__ == "__main__":
    main()
