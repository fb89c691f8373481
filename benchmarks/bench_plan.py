"""Planning a continent: 250 000 scenes to a plan, ten million tiles, what a task costs. Each in a process of its own.

python -m benchmarks.bench_plan [--items N] [--tiles N] [--only CASE …] [--folder DIR] [--out FILE]

Three cases begin with documents, as ``resmap plan`` does: a local stac-geoparquet file, whose items have 19 assets
(13 kB of JSON each), the frozen search made of it, and the same frozen as the documents that an API sends. Their hrefs
name 127.0.0.1, which needs no name server. Two more plan ten million tiles, for all time and month by month. The peers
do one step of it on the same data, in the same process and on one core, for a tenth of the tiles, since they hold each
as a geometry: geopandas joins tiles with extents (and leaves the pairs in no order), and shapely tells of each tile of
the grid how it lies in the area. Making the files is not timed. Memory is the most that a case's own process held at
once; of the documents it holds them all, as a search of an API does.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from benchmarks.continent import BANDS, RESOLUTION_M, continent, made_items, squares, write_snapshot, write_table
from benchmarks.record import circumstances, record
from catalogs.hrefs import check_href
from catalogs.items import FIELDS, items_from_stac
from catalogs.search import Query, search
from catalogs.select import coverage
from catalogs.snapshot import freeze, thawed
from jobs.grids import Spots, lay_grids
from jobs.plan import Plan, lay_plan
from jobs.spec import JobSpec, spec_from
from jobs.tiling import area_tiles, shown_tiles, tiles_seen
from mapper.grid import Windows

Answer = TypeVar("Answer")

WINDOW_PX, OVERLAP_PX = 512, 128
SHARD_PX = 4096
TASKS, UNPACKED = 20_000, 500


class Steps:
    """Seconds by step, on the clock and of the processor: where they differ, the machine was busy with other things."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    def timed(self, name: str, step: Callable[[], Answer]) -> Answer:
        """What the step gives; how long it took is noted."""
        begun, worked = time.perf_counter(), time.process_time()
        answer = step()
        self.seconds[name] = round(time.perf_counter() - begun, 3)
        self.cpu_seconds[name] = round(time.process_time() - worked, 3)
        return answer


def main() -> None:
    """Run the cases, each in its own process, and record."""
    asked = _arguments()
    if asked.case:
        print(json.dumps(CASES[asked.case](asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        asked.folder = asked.folder or Path(folder)
        _make_files(asked)
        figures = {name: _in_processes(name, asked) for name in asked.only or CASES}
    facts = {"items": asked.items, "tiles": asked.tiles, "repeats": asked.repeats, "cores_used": 1,
             "versions": {name: version(name) for name in ("shapely", "pyproj", "pyarrow", "geopandas")},
             "cases": figures}  # fmt: skip
    if asked.out:
        asked.out.write_text(json.dumps({"made_with": circumstances(), **facts}, indent=2) + "\n")
    else:
        print(record("plan", facts))
    for name, figure in figures.items():
        print(f"{name}: {json.dumps(figure)}")


def _arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(prog="python -m benchmarks.bench_plan")
    words.add_argument("--items", type=int, default=250_000)
    words.add_argument("--tiles", type=int, default=10_000_000)
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--only", nargs="+", choices=tuple(CASES))
    words.add_argument("--folder", type=Path, help="keeps the catalogs there, and takes those that are")
    words.add_argument("--out", type=Path, help="instead of results/plan.json")
    words.add_argument("--case", choices=tuple(CASES), help=argparse.SUPPRESS)
    return words.parse_args()


def _make_files(asked: argparse.Namespace) -> None:
    asked.folder.mkdir(parents=True, exist_ok=True)
    places = squares(continent())
    for path, make in ((_table(asked), write_table), (_snapshot(asked), write_snapshot)):
        if not path.exists():
            make(path, places, asked.items)


def _table(asked: argparse.Namespace) -> Path:
    return Path(asked.folder / f"items-{asked.items}.parquet")


def _snapshot(asked: argparse.Namespace) -> Path:
    return Path(asked.folder / f"frozen-{asked.items}.parquet")


def _in_processes(case: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Median of the seconds of each step, and their extremes in all; the most memory."""
    words = [sys.executable, "-m", "benchmarks.bench_plan", "--case", case, "--folder", str(asked.folder)]
    words += ["--items", str(asked.items), "--tiles", str(asked.tiles)]
    runs = [json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout) for _ in range(asked.repeats)]
    totals = [sum(run["seconds"].values()) for run in runs]
    medians = {
        clock: {name: round(statistics.median(run[clock][name] for run in runs), 3) for name in runs[0][clock]}
        for clock in ("seconds", "cpu_seconds")
    }
    return {
        **runs[0],
        **medians,
        "total_median_s": round(statistics.median(totals), 2),
        "total_least_s": round(min(totals), 2),
        "total_most_s": round(max(totals), 2),
        "peak_mb": max(run["peak_mb"] for run in runs),
    }


def _from_table(asked: argparse.Namespace) -> dict[str, Any]:
    steps, area = Steps(), continent()
    query = Query(catalog=str(_table(asked)), collections=("sentinel-2-l2a",), area=area, bands=BANDS)
    found = steps.timed("search the table", lambda: search(query))
    steps.timed("freeze", lambda: freeze(found))
    return _planned(steps, found, area)


def _from_snapshot(asked: argparse.Namespace) -> dict[str, Any]:
    return _planned(Steps(), thawed(_snapshot(asked).read_bytes(), fields=FIELDS), continent())


def _from_documents(asked: argparse.Namespace) -> dict[str, Any]:
    """As ``from snapshot``, of a search that an API answered: it is frozen as documents, and thawed as such."""
    steps = Steps()
    found = search(Query(catalog=str(_table(asked)), collections=(), area=continent(), bands=BANDS))
    documents = [list(found)]
    frozen = steps.timed("freeze", lambda: freeze(documents.pop()))
    return _planned(steps, thawed(frozen, fields=FIELDS), continent())


def _planned(steps: Steps, documents: Any, area: BaseGeometry) -> dict[str, Any]:
    def judge(href: str) -> str:
        return check_href(href, catalog="/catalog.parquet")

    items = steps.timed("items", lambda: items_from_stac(documents, bands=BANDS, judge=judge))
    plan = steps.timed("plan", lambda: lay_plan(_spec("utm", SHARD_PX, "month"), items, area, window_px=WINDOW_PX))
    steps.timed("coverage", lambda: coverage(area, items))
    return _figures(steps, plan)


def _ten_million(time_step: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    def case(asked: argparse.Namespace) -> dict[str, Any]:
        steps, area = Steps(), continent()
        scenes = 4 if time_step == "all" else 12
        items = made_items(squares(area), scenes)
        wanted = asked.tiles / (1 if time_step == "all" else 12)
        plan = steps.timed("plan", lambda: lay_plan(_sized(area, wanted, time_step), items, area, window_px=WINDOW_PX))
        return _figures(steps, plan)

    return case


def _tasks(asked: argparse.Namespace) -> dict[str, Any]:
    """What the driver does for each tile: from the middle of a plan, tasks, their bytes and their surface."""
    steps, area = Steps(), continent()
    items = made_items(squares(area), 12)
    plan = lay_plan(_sized(area, asked.tiles / 10, "all"), items, area, window_px=WINDOW_PX)
    middle = len(plan.tiles) // 2
    rows = range(middle, min(middle + TASKS, len(plan.tiles)))
    wanted = dict.fromkeys(rows, (0,))
    tasks = steps.timed("tasks", lambda: list(plan.tasks(wanted, written_sources=frozenset())))
    packed = steps.timed("pickled", lambda: [pickle.dumps(task, pickle.HIGHEST_PROTOCOL) for task in tasks])
    steps.timed("surface", lambda: [plan.pixel_km2(row) for row in rows])
    per_tile = {name: round(1e6 * seconds / len(tasks), 1) for name, seconds in steps.seconds.items()}
    few = packed[:: max(1, len(packed) // UNPACKED)]
    steps.timed("unpickled, by workers", lambda: [pickle.loads(task) for task in few])
    return {
        **_figures(steps, plan),
        "tasks": len(tasks),
        "driver_us_per_tile": per_tile,
        "worker_us_per_tile": round(1e6 * steps.seconds["unpickled, by workers"] / len(few), 1),
        "bytes_per_task": round(statistics.mean(map(len, packed))),
        "items_per_task": round(statistics.mean(len(task.items) for task in tasks), 2),
    }


def _join(asked: argparse.Namespace) -> dict[str, Any]:
    """Tiles and the extents over them, against geopandas.sjoin; how tiles lie in the area, against a test of each."""
    import geopandas

    steps, area = Steps(), continent()
    items = made_items(squares(area), 4)
    spec = _sized(area, asked.tiles / 10, "all", crs="ESRI:102022")
    ((grid, shape),) = lay_grids(spec, items, area)
    windows = Windows(size_px=WINDOW_PX, overlap_px=OVERLAP_PX)
    spots = Spots(items)
    extents = spots.extents(grid, margin_px=WINDOW_PX)[spots.of]
    tiles = steps.timed("area", lambda: area_tiles(grid, shape))
    numbers = np.arange(len(items), dtype=np.int32)
    shown = steps.timed(
        "join", lambda: list(shown_tiles(tiles, numbers, *tiles_seen(grid, windows, extents), holes=True))
    )
    rows, columns = np.divmod(np.arange(np.prod(grid.tile_shape)), grid.tile_shape[1])
    shapely.prepare(shape)
    alone = steps.timed("shapely: a test of every tile", lambda: _met(shape, _outlines(grid, rows, columns)))
    assert alone == len(tiles)
    frames = _frames(grid, windows, tiles.row, tiles.column)
    ground = geopandas.GeoDataFrame(geometry=shapely.box(*(extents[:, [1, 0, 3, 2]].T)))
    pairs = steps.timed(
        "geopandas.sjoin",
        lambda: len(geopandas.GeoDataFrame(geometry=frames).sjoin(ground, predicate="intersects")),
    )
    return {
        "seconds": steps.seconds,
        "cpu_seconds": steps.cpu_seconds,
        "peak_mb": _peak_mb(),
        "grid_tiles": len(rows),
        "tiles": len(tiles),
        "pairs": sum(len(part.item) for part in shown),
        "sjoin_pairs": pairs,
    }


def _met(shape: BaseGeometry, outlines: Any) -> int:
    meets = shapely.intersects(shape, outlines)
    shapely.contains(shape, outlines[meets])
    return int(meets.sum())


def _outlines(grid: Any, rows: Any, columns: Any) -> Any:
    left, _, _, top = grid.lattice.bounds(grid.box)
    side = grid.shard_px * grid.lattice.res_x
    return shapely.box(left + columns * side, top - (rows + 1) * side, left + (columns + 1) * side, top - rows * side)


def _frames(grid: Any, windows: Windows, rows: Any, columns: Any) -> Any:
    """The boxes that tiles' windows see, in pixels, less a hair: boxes that only touch share no pixel."""
    down = [windows.frame(grid.tile(row, 0).core) for row in range(grid.tile_shape[0])]
    across = [windows.frame(grid.tile(0, column).core) for column in range(grid.tile_shape[1])]
    top, bottom = np.array([(frame.top, frame.bottom) for frame in down]).T
    left, right = np.array([(frame.left, frame.right) for frame in across]).T
    return shapely.box(left[columns] + 0.1, top[rows] + 0.1, right[columns] - 0.1, bottom[rows] - 0.1)


def _spec(crs: str, shard_px: int, time_step: str) -> JobSpec:
    return spec_from(
        {
            "name": "continent", "area": {"bbox": [0, 0, 1, 1]}, "prompts": [{"name": "p", "expression": "the lakes"}],
            "imagery": {"catalog": "/catalog.parquet", "time_step": time_step, "bands": list(BANDS)},
            "grid": {"crs": crs, "resolution_m": RESOLUTION_M, "shard_px": shard_px, "chunk_px": 16},
            "windows": {"overlap_px": OVERLAP_PX}, "output": {"mosaic": "continent.zarr"},
        }
    )  # fmt: skip


def _sized(area: BaseGeometry, tiles: float, time_step: str, *, crs: str = "utm") -> JobSpec:
    """A job whose shards are as large as it takes to have so many of them over the area."""
    surface = shapely.area(
        shapely.transform(area, lambda xy: xy * (111_320 * np.cos(np.radians(xy[:, 1:])) ** [[1, 0]]))
    )
    shard_px = max(64, 16 * int(np.sqrt(surface / tiles) / RESOLUTION_M / 16))
    return _spec(crs, shard_px, time_step)


def _figures(steps: Steps, plan: Plan) -> dict[str, Any]:
    return {
        "seconds": steps.seconds,
        "cpu_seconds": steps.cpu_seconds,
        "peak_mb": _peak_mb(),
        "items": len(plan.items),
        "grids": len(plan.grids),
        "steps": len(plan.steps),
        "shard_px": plan.grids[0].shard_px,
        "tiles": len(plan.tiles),
        "items_over_tiles": len(plan.tiles.item),
        "clipped": int(plan.tiles.clipped.sum()),
    }


def _peak_mb() -> int:
    """Of this process alone: ``ru_maxrss`` begins with what the parent held when it made it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


CASES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "from table": _from_table,
    "from snapshot": _from_snapshot,
    "from documents": _from_documents,
    "tiles, all time": _ten_million("all"),
    "tiles, by month": _ten_million("month"),
    "tasks": _tasks,
    "join": _join,
}


if __name__ == "__main__":
    main()
