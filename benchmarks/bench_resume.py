"""What remembering costs: a run of a million finished shards is taken up again, and a hundred thousand outcomes go
through the books of one.

First a job of about a million shards is planned (real items, a real search, a real plan), and its ledgers are written
by the one writer as a run of so many seconds leaves them. Fresh processes then go all the way from the job file to the
first task: the frozen items and the tiles are read, the mosaic is opened, the ledgers of all its runs are read, and it
is decided what is wanted, whose source layer is written and which coarser shards are due. Peak memory is what the
process grew by after its imports.

Then outcomes of a smaller job are entered one by one, at the pace of a clock that is set by hand, so that parts are as
many as in a run of that length: processor time of the driver a tile, and the memory held after each tenth. On local
disk, and with ``--s3`` in a bucket of an S3 server (moto, a process of its own on the loopback).

python -m benchmarks.bench_resume [--tiles 1000000] [--seconds 20000] [--outcomes 100000] [--s3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.record import circumstances, record
from cluster.pool import Outcome
from jobs.books import Books, Tally, tile_entry
from jobs.job import Job
from jobs.ledger import Built
from jobs.levels import Levels
from jobs.output import open_output
from jobs.prepare import Prepared, prepare, save
from jobs.standing import standing
from jobs.watch import Silent
from mapper.map_tile import Task, TileResult, TileTask
from mapper.mosaic import Mosaic
from mapper.pyramid import LevelResult, LevelTask
from mapper.storage import Folder

SHARD_PX = 2048
RESOLUTION_M = 0.3
MIDDLE = (87.0, 27.0)
"""Longitude and latitude: the middle of UTM zone 45."""

ITEM_KM = 15.0
LEFT = 0.03
"""Share of the tiles that the run had not mapped when it ended."""

PROMPTS = ({"name": "building", "expression": "the buildings"}, {"name": "road", "expression": "the roads"})
WORKERS = 64
REPEATS = 5
TENTHS = 10


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def main() -> None:
    """Make what is needed, measure in fresh processes, and record."""
    asked = _asked()
    if asked.within is not None:
        print(json.dumps({"resume": _resume, "feed": _feed}[asked.within](asked)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        facts = _resumed(asked, Path(folder))
        facts["outcomes on local disk"] = _in_a_process("feed", asked, f"{folder}/feed", tiles=asked.outcomes)
        if asked.s3:
            from tests.servers import s3_bucket

            with s3_bucket() as bucket:
                facts["outcomes in a bucket"] = _in_a_process(
                    "feed", asked, f"{folder}/fed", tiles=asked.outcomes, mosaic=f"{bucket}/fed.zarr"
                )
    if asked.out:
        document = {"benchmark": "resume", "made_with": circumstances(), **facts}
        asked.out.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    print(asked.out or record("resume", facts))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--tiles", type=int, default=1_000_000, help="finished shards of the run that is taken up again"
    )
    parser.add_argument("--seconds", type=int, default=20_000, help="how long it ran: a part of its ledger each")
    parser.add_argument("--outcomes", type=int, default=100_000, help="outcomes that go through the books")
    parser.add_argument("--rate", type=float, default=50.0, help="of these, in a second of the run's clock")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--s3", action="store_true", help="in a bucket too")
    parser.add_argument("--folder", help="where to work; a temporary folder of the system's else")
    parser.add_argument("--out", type=Path, help="a file for the figures, in place of benchmarks/results")
    parser.add_argument("--within", choices=("resume", "feed"), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _resumed(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the large run and take it up again."""
    begun = time.perf_counter()
    job = _write_job(folder / "large", shards=math.ceil(asked.tiles / (1 - LEFT)))
    prepared = prepare(Job.from_file(job))
    planned_s = time.perf_counter() - begun
    save(prepared)
    saved_s = time.perf_counter() - begun - planned_s
    mosaic = open_output(prepared)
    shards = _write_ledgers(prepared, mosaic, asked.tiles, asked.seconds)
    run = next((folder / "large").glob("map.zarr/.resmap/runs/*"))
    print(f"made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    words = ["--within", "resume", "--job", str(job)]
    runs = [_process(words) for _ in range(asked.repeats + 1)][1:]  # the first warms the disk up
    totals = [sum(one["seconds"].values()) for one in runs]
    return {
        "planned": len(prepared.plan.tiles),
        "finished": asked.tiles,
        "prompts": len(PROMPTS),
        "items": len(prepared.plan.items),
        "shards of coarser levels": shards,
        "ledger_parts_put": asked.seconds,
        "ledger_parts": len(list(run.glob("ledger/part-*"))),
        "bytes": {
            "tiles.parquet": (run / "tiles.parquet").stat().st_size,
            "ledger": sum(path.stat().st_size for path in run.glob("ledger/*")),
            "levels": sum(path.stat().st_size for path in run.glob("levels/*")),
        },
        "planned_s": round(planned_s, 3),
        "plan_written_s": round(saved_s, 3),
        "repeats": asked.repeats,
        "resume_s": _spread(totals),
        "resume_steps_s": {
            step: round(statistics.median(one["seconds"][step] for one in runs), 3) for step in runs[0]["seconds"]
        },
        "resume_peak_mb": _spread([one["peak_mb"] for one in runs]),
        "imports_mb": round(statistics.median(one["imports_mb"] for one in runs), 1),
        "resume_traced_peak_mb": _process([*words, "--traced"])["traced_peak_mb"],
        "wanted": runs[0]["wanted"],
    }


def _in_a_process(what: str, asked: argparse.Namespace, folder: str, *, tiles: int, mosaic: str = "") -> dict[str, Any]:
    job = _write_job(Path(folder), shards=tiles, mosaic=mosaic)
    return _process(["--within", what, "--job", str(job), "--outcomes", str(tiles), "--rate", str(asked.rate)])


def _process(words: list[str]) -> dict[str, Any]:
    """What a fresh process says."""
    program = [sys.executable, "-m", "benchmarks.bench_resume", *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _resume(asked: argparse.Namespace) -> dict[str, Any]:
    """From the job file to the first task, step by step."""
    if asked.traced:
        tracemalloc.start()
    imports_mb = _most_held_mb()
    seconds: dict[str, float] = {}

    def timed(step: str, act: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        came_of_it = act()
        seconds[step] = time.perf_counter() - begun
        return came_of_it

    prepared = timed("items and tiles read", lambda: prepare(Job.from_file(asked.job)))
    assert prepared.saved
    mosaic = timed("mosaic opened", lambda: open_output(prepared))
    todo = timed("ledgers read", lambda: standing(prepared, mosaic, retry=False))
    books = timed("coarser levels compared", lambda: Books(prepared, mosaic, todo, Tally(), Silent()))
    timed("first tasks", lambda: (books.more(False), next(_tasks(prepared, todo))))
    peak_mb = _most_held_mb() - imports_mb
    traced_mb = (tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory()) / 2**20
    return {
        "seconds": seconds,
        "peak_mb": peak_mb,
        "imports_mb": imports_mb,
        "traced_peak_mb": round(traced_mb, 1) if asked.traced else None,
        "wanted": len(todo.wanted),
    }


def _feed(asked: argparse.Namespace) -> dict[str, Any]:
    """Outcome after outcome through the books of a new run."""
    prepared = prepare(Job.from_file(asked.job))
    save(prepared)
    mosaic = open_output(prepared)
    todo = standing(prepared, mosaic, retry=False)
    clock, tally = Clock(), Tally()
    books = Books(prepared, mosaic, todo, tally, Silent(), clock=clock)
    tasks = _tasks(prepared, todo)
    spent = {"task": 0.0, "enter": 0.0, "settle and more": 0.0}
    held_mb = {}
    begun = time.perf_counter()

    def charged(what: str, act: Callable[[], Any]) -> Any:
        before = time.process_time()
        came_of_it = act()
        spent[what] += time.process_time() - before
        return came_of_it

    count = 0
    while (task := charged("task", lambda: next(tasks, None))) is not None:
        count += 1
        clock.now += 1 / asked.rate
        waiting: list[Task] = [task]
        while waiting:
            outcome = _outcome(waiting.pop())
            charged("enter", partial(books.enter, outcome))
            waiting += charged("settle and more", lambda: books.more(False))
        if count % max(1, asked.outcomes // TENTHS) == 0:
            held_mb[count] = round(_status_mb("VmRSS"), 1)
    charged("settle and more", books.close)
    return {
        "tiles": count,
        "workers": WORKERS,
        "tiles_per_s_of_the_run": asked.rate,
        "cpu_ms_a_tile": round(1000 * sum(spent.values()) / count, 4),
        "cpu_ms_a_tile_steps": {what: round(1000 * seconds / count, 4) for what, seconds in spent.items()},
        "seconds": round(time.perf_counter() - begun, 1),
        "held_mb": held_mb,
        "ledger_parts": len(Folder(f"{mosaic.url}/.resmap/runs/{prepared.run}/ledger").names("part-*")),
    }


def _tasks(prepared: Prepared, todo: Any) -> Iterator[TileTask]:
    return prepared.plan.tasks(todo.wanted, written_sources=todo.sources)


def _outcome(task: Task) -> Outcome:
    """As a worker hands it in, of any of many workers."""
    worker = f"gpu-{task.id % WORKERS}"
    crcs = tuple((prompt, (task.id * 2_654_435_761 + prompt) % 2**32) for prompt in task.prompts)
    if isinstance(task, LevelTask):
        return Outcome(
            worker=worker, task=task, attempts=1, result=LevelResult(checksums=crcs, source_checksum=task.id % 2**32)
        )
    result = TileResult(
        id=task.id,
        nodata=False,
        checksums=crcs,
        source_checksum=task.id % 2**32,
        asked_px=SHARD_PX**2,
        seen_px=SHARD_PX**2 - task.id % 4096,
        present_px=tuple(task.id * 7919 % SHARD_PX**2 for _ in task.prompts),
        windows=36,
        seam=task.id % 97 / 9700,
        read_bytes=12_582_912,
        written_bytes=500_000 + task.id % 65_536,
        seconds={"read": 1 + task.id % 89 / 97, "infer": 1 + task.id % 83 / 91, "write": task.id % 79 / 83},
    )
    return Outcome(worker=worker, task=task, attempts=1, result=result)


def _most_held_mb() -> float:
    """The most that the process has held: of it alone, where ``getrusage`` counts what its parent held too."""
    return _status_mb("VmHWM")


def _status_mb(line: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(found.split()[1]) for found in lines if found.startswith(f"{line}:")) / 1024


def _write_ledgers(prepared: Prepared, mosaic: Mosaic, finished: int, seconds: int) -> int:
    """The ledgers of a run that has finished so many tiles; answers with the number of coarser shards."""
    todo = standing(prepared, mosaic, retry=False)
    names = [prompt.name for prompt in mosaic.prompts]
    clock = Clock()
    ledger = prepared.folder.ledger(clock=clock)
    done = np.zeros((len(names), len(prepared.plan.tiles)), np.bool_)
    tasks = _tasks(prepared, todo)
    for number in range(finished):
        task = next(tasks)
        clock.now = number * seconds / finished
        ledger.record(tile_entry(_outcome(task), names))
        done[:, task.id] = True
    ledger.flush()
    levels = Levels(prepared.plan, wanted=np.empty(0, np.int64), finished=done, built=todo.built)
    shards, built, begun = prepared.folder.level_ledger(clock=clock), 0, clock.now
    while due := levels.take(1024):
        for one in due:
            clock.now = begun + built * 3 * seconds / finished
            result = _outcome(one.task).result
            assert isinstance(result, LevelResult)
            shards.record(
                Built(
                    key=one.shard.key(prepared.plan),
                    prompts=tuple(names[prompt] for prompt, _ in result.checksums),
                    tiles=one.tiles,
                    checksums=tuple(crc for _, crc in result.checksums),
                    source_checksum=result.source_checksum,
                )
            )
            levels.shard_over(one, built=True)
            built += 1
    shards.flush()
    return built


def _write_job(folder: Path, *, shards: int, mosaic: str = "") -> Path:
    """A job over so many shards at least, and the catalog it searches."""
    folder.mkdir(parents=True)
    half = SHARD_PX * RESOLUTION_M * (math.sqrt(shards) + 2) / 2 / 1000
    east, north = half / (111.32 * math.cos(math.radians(MIDDLE[1]))), half / 110.8
    left, bottom, right, top = MIDDLE[0] - east, MIDDLE[1] - north, MIDDLE[0] + east, MIDDLE[1] + north
    along = math.ceil(2 * half / ITEM_KM)
    lons, lats = np.linspace(left, right, along + 1), np.linspace(bottom, top, along + 1)
    items = [
        _item(f"scene-{row}-{column}", lons[column], lats[row], lons[column + 1], lats[row + 1])
        for row in range(along)
        for column in range(along)
    ]
    catalog = folder / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}), encoding="utf-8")
    job = folder / "job.yaml"
    document = {
        "name": "large",
        "area": {"bbox": [left, bottom, right, top]},
        "imagery": {"catalog": str(catalog), "bands": ["visual:1", "visual:2", "visual:3"]},
        "grid": {"crs": "EPSG:32645", "resolution_m": RESOLUTION_M, "shard_px": SHARD_PX, "chunk_px": 512},
        "prompts": list(PROMPTS),
        "model": {"name": "pocket"},
        "output": {"mosaic": mosaic or str(folder / "map.zarr")},
    }
    job.write_text(json.dumps(document), encoding="utf-8")
    return job


def _item(name: str, left: float, bottom: float, right: float, top: float) -> dict[str, Any]:
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "large",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [left, bottom, right, top],
        "properties": {"datetime": datetime(2024, 6, 1, tzinfo=UTC).isoformat()},
        "assets": {
            "visual": {"href": f"{name}.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized"}
        },
        "links": [],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
