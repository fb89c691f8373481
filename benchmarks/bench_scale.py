"""How much of their time many GPUs work, and what one driver costs: for 1 to 64 GPUs on Ray, and on paper beyond.

::

    python -m benchmarks.bench_scale                     all of it: half an hour
    python -m benchmarks.bench_scale --actors 1,4 --tiles 10 --repeats 1 --many 2000 --out /tmp/scale.json

On Ray: each GPU is an actor in a process of its own whose tile takes a fixed time (``--tile-s``) in which it holds no
core, one tile at a time. All else is real: a plan with four items a tile, the loop, dispatch and Ray pool of a run, its
books with shards of coarser levels, and its ledger on the local disk. The clock runs from when all actors are ready to
when the last outcome is in the ledger. The ideal is the model alone: tiles × time of a tile, shared by all GPUs.

In this process: the same loop and books with workers that answer at once, for what the driver's own code costs and
whether its memory grows with the number of tiles.

On paper: ``cluster/simulated.py`` with the driver's time a tile as measured on Ray.

Every run is a process of its own. A tile of a real model takes longer than this one: a slower driver would do.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.many_tiles import DATES, Instant, StandIn, plan_of, prepared_for, setup
from benchmarks.record import circumstances, record
from cluster import Outcome, Pool, outcomes
from cluster.ray_pool import RayPool
from cluster.simulated import SimulatedPool, Times, World
from jobs.books import Books, Tally
from jobs.prepare import Prepared
from jobs.standing import standing
from jobs.watch import Silent
from mapper.mosaic import Mosaic
from mapper.pyramid import LevelTask

ACTORS = (1, 2, 4, 8, 16, 32, 64)
ON_PAPER = (1, 4, 16, 64, 256, 1024)
PAPER_TILES = 60
"""A simulated worker."""

IDLE_S = 3.0
"""What Ray's own threads in the driver take while nothing goes on is measured over this: with few GPUs they are most
of the driver's time."""

PROFILED = 10_000
PARTS = {
    "the plan's tasks": ("plan.py", "tasks"),
    "dispatch: what goes where": ("dispatch.py", "next_for"),
    "dispatch: what is over": ("dispatch.py", "succeeded"),
    "a task to bytes": ("many_tiles.py", "start"),
    "books: an outcome": ("books.py", "enter"),
    "books: settling": ("books.py", "more"),
    "of it, the ledger's parts": ("parts.py", "flush"),
    "of it, levels that become due": ("levels.py", "tile_over"),
}
"""What is told apart in the profile: file and function, with all it calls. Dispatch draws the plan's tasks."""


def main() -> None:
    """Measure all, or one run for ``--one``."""
    asked = _arguments()
    if asked.one:
        print(json.dumps(_one(json.loads(asked.one))))
        return
    on_ray = [_on_ray(actors, asked) for actors in asked.actors]
    here = _process({"tiles": asked.many})
    driver_s = on_ray[-1]["driver_cpu_ms_a_tile"]["median"] / 1000
    figures = {
        "tile_s": asked.tile_s,
        "tiles_an_actor": asked.tiles,
        "items_a_tile": DATES,
        "repeats": asked.repeats,
        "on_ray": on_ray,
        "in_process": here,
        "one_driver_carries_tiles_a_second": round(1 / driver_s),
        "on_paper": [_on_paper(workers, asked.tile_s, driver_s) for workers in ON_PAPER],
    }
    if asked.out:
        asked.out.write_text(json.dumps({"made_with": circumstances(), **figures}, indent=2) + "\n", encoding="utf-8")
        print(asked.out)
    else:
        print(record("scale", figures))


def _arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(description="Weak scaling, and what the driver costs.")
    words.add_argument("--actors", type=numbers, default=ACTORS, help="numbers of GPU actors, with commas")
    words.add_argument("--tiles", type=int, default=60, help="an actor")
    words.add_argument("--tile-s", type=float, default=1.0, help="seconds a tile takes on a GPU")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--many", type=int, default=100_000, help="tiles of the run in this process")
    words.add_argument("--out", type=Path, help="write here, not to results/")
    words.add_argument("--one", help=argparse.SUPPRESS)
    return words.parse_args()


def numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


# Runs, each a process -------------------------------------------------------------------------------------------------


def _on_ray(actors: int, asked: argparse.Namespace) -> dict[str, Any]:
    work = {"actors": actors, "tiles": actors * asked.tiles, "tile_s": asked.tile_s}
    runs = [_process(work) for _ in range(asked.repeats)]
    figures = {"actors": actors, "tiles": work["tiles"]} | {name: _spread(runs, name) for name in runs[0]}
    print(
        f"{actors:5} GPUs on Ray: efficiency {figures['efficiency']['median']:.3f}, "
        f"driver {figures['driver_cpu_ms_a_tile']['median']:.2f} ms of CPU a tile"
    )
    return figures


def _spread(runs: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    taken = [run[name] for run in runs]
    return {"median": round(statistics.median(taken), 4), "least": min(taken), "most": max(taken)}


def _process(work: Mapping[str, Any]) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.bench_scale", "--one", json.dumps(work)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _one(work: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if "actors" in work:
            return _ray_run(Path(folder), **work)
        return _grown(Path(folder) / "many", work["tiles"]) | {"profile_us": _profile(Path(folder) / "profiled")}


def _ray_run(folder: Path, *, actors: int, tiles: int, tile_s: float) -> dict[str, float]:
    prepared, mosaic = prepared_for(folder, tiles)
    pool = RayPool(setup(prepared), workers=actors, worker=partial(StandIn, tile_s=tile_s))
    try:
        while len(pool.facts()) < actors:
            pool.finished(0.1)
        own = time.process_time()
        time.sleep(IDLE_S)
        idle_s = time.process_time() - own
        busy, own, begun = _machine_s(), time.process_time(), time.perf_counter()
        for _ in _run(pool, prepared, mosaic):
            pass
        wall_s, own_s, busy_s = time.perf_counter() - begun, time.process_time() - own, _machine_s() - busy
    finally:
        pool.close()
    return {
        "wall_s": round(wall_s, 3),
        "efficiency": round(tiles * tile_s / (actors * wall_s), 4),
        "driver_cpu_ms_a_tile": round(own_s / tiles * 1000, 4),
        "idle_driver_cpu_ms_a_second": round(idle_s / IDLE_S * 1000, 4),
        "cores_busy": round(busy_s / wall_s, 3),
        "driver_mb": _own_mb(),
    }


def _grown(folder: Path, tiles: int) -> dict[str, Any]:
    """What the driver's own code costs, and its memory on the way."""
    prepared, mosaic = prepared_for(folder, tiles)
    held_mb: dict[str, float] = {}
    own = time.process_time()
    for number, _ in enumerate(_run(Instant(16), prepared, mosaic)):
        if number + 1 in (1000, 10_000, 100_000, tiles):
            gc.collect()
            held_mb[str(number + 1)] = _own_mb()
    own_s = time.process_time() - own
    return {"tiles": tiles, "driver_cpu_ms_a_tile": round(own_s / tiles * 1000, 4), "driver_mb_after_tiles": held_mb}


def _profile(folder: Path) -> dict[str, float]:
    """Microseconds a tile of each part; the profiler itself makes all of them longer."""
    prepared, mosaic = prepared_for(folder, PROFILED)
    watched = cProfile.Profile()
    watched.enable()
    for _ in _run(Instant(16), prepared, mosaic):
        pass
    watched.disable()
    spent: dict[tuple[str, str], float] = {}
    for (file, _, function), (_, _, _, with_all, _) in pstats.Stats(watched).stats.items():  # type: ignore[attr-defined]  # of the standard library, untyped
        spent[Path(file).name, function] = spent.get((Path(file).name, function), 0.0) + with_all
    return {part: round(spent.get(place, 0.0) / PROFILED * 1e6, 1) for part, place in PARTS.items()}


def _on_paper(workers: int, tile_s: float, driver_s: float) -> dict[str, float]:
    pool = SimulatedPool(World(workers=workers, model_s=Times(median_s=tile_s), driver_s=driver_s))
    plan = plan_of(workers * PAPER_TILES)
    wanted = dict.fromkeys(range(len(plan.tiles)), (0,))
    for _ in outcomes(pool, plan.tasks(wanted, written_sources=frozenset()), now=pool.now):
        pass
    report = pool.report()
    print(f"{workers:5} GPUs on paper: efficiency {report.efficiency:.3f}")
    return {"workers": workers, "efficiency": round(report.efficiency, 4), "makespan_s": round(report.makespan_s, 2)}


def _run(pool: Pool, prepared: Prepared, mosaic: Mosaic) -> Iterator[Outcome]:
    """As a run does it: the outcomes of all tiles, entered in its books."""
    todo = standing(prepared, mosaic, retry=False)
    books = Books(prepared, mosaic, todo, Tally(), Silent())
    tasks = prepared.plan.tasks(todo.wanted, written_sources=frozenset())
    for outcome in outcomes(pool, tasks, more=books.more):
        books.enter(outcome)
        if not isinstance(outcome.task, LevelTask):
            yield outcome
    books.close()


def _machine_s() -> float:
    """Seconds that all cores together have worked since the machine started."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.system)


def _own_mb() -> float:
    return round(psutil.Process().memory_info().rss / 1e6, 1)


if __name__ == "__main__":
    main()
