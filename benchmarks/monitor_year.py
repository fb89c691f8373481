"""A year of revisits over one MGRS tile: what the registry and the mosaic grow to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from rasterio.transform import from_origin

import mapper
from benchmarks.monitored import collection, kept, monitored, work_of
from benchmarks.real_input import item_of, with_base
from mapper.changes import open_changes
from tests.pgstac import pgstac
from tests.servers import files_from_another_process

REVISITS = 73
"""Every five days for a year."""


def year(data: Path, scratch: Path) -> dict[str, Any]:
    """A scene of 109.8 km every five days, in 36 shards; pixels of 40 m, so that a year takes minutes."""
    side_m, res_m = 109_800, 40.0
    side = int(side_m / res_m)
    transform = from_origin(300_000, 6_200_040, res_m, res_m)
    rng = np.random.default_rng(7)
    ground = np.kron(rng.integers(0, 255, (3, 61, 61)), np.ones((1, 45, 45))).astype(np.uint8)[:, :side, :side]
    scenes = scratch / "scenes"
    scenes.mkdir()
    for number in range(4):  # four kinds of weather over one ground
        pixels = np.clip(ground.astype(np.int16) + rng.integers(-40, 40), 1, 255).astype(np.uint8)
        with rasterio.open(
            scenes / f"{number}.tif", "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", nodata=0,
            crs="EPSG:32633", transform=transform, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
        ) as file:  # fmt: skip
            file.write(pixels)
    with ExitStack() as stack:
        files = stack.enter_context(files_from_another_process(scenes))
        api = stack.enter_context(pgstac([collection("revisits", [11.8, 54.9, 13.6, 56.0])]))
        items = []
        for number in range(REVISITS):
            day = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=5 * number)
            item = item_of(
                f"T33UUB_{day:%Y%m%d}", "revisits", f"{day:%Y-%m-%dT%H:%M:%SZ}", f"{number % 4}.tif", "EPSG:32633",
                list(transform)[:6], (side, side), 3,
            )  # fmt: skip
            items.append(with_base(item, files))
        west, south, east, north = items[0]["bbox"]
        job = {
            "name": "a year of revisits",
            "area": {"bbox": [west + 0.02, south + 0.02, east - 0.02, north - 0.02]},
            "imagery": {"bands": ["red", "green", "blue"], "time_step": "day"},
            "grid": {"crs": "EPSG:32633", "resolution_m": res_m, "shard_px": 512, "chunk_px": 256},
            "prompts": [{"name": "warm", "expression": "what is red"}],
            "model": {"name": "colour"},
            "windows": {"overlap_px": 32},
        }
        document = monitored(job, api, "revisits", scratch)
        document["monitor"]["alerts"] = []
        watched = stack.enter_context(kept(document, scratch))
        mosaic = watched.job.spec.output.mosaic
        for item in items:
            api.post(item)
            watched.tick()
        return {
            "ticks": len(watched.ends),
            "done": sum(end.state == "done" for end in watched.ends),
            "tick_s": {"first_ten": _median(watched.seconds[1:11]), "last_ten": _median(watched.seconds[-10:])},
            "registry_bytes": (scratch / "registry.db").stat().st_size,
            "metadata_bytes": _bytes(Path(mosaic), "zarr.json"),
            "root_document_bytes": Path(mosaic, "zarr.json").stat().st_size,
            "run_files": sum(1 for path in Path(mosaic, ".resmap").rglob("*") if path.is_file()),
            "run_bytes": _bytes(Path(mosaic, ".resmap"), "*"),
            "mosaic_bytes": _bytes(Path(mosaic), "*"),
            "open_mosaic_s": _opening(lambda: mapper.open_mosaic(mosaic)),
            "open_zarr_s": _opening(lambda: xr.open_zarr(mosaic, group="0")),
            "open_changes_s": _opening(lambda: open_changes(mosaic)),
            "steps": int(mapper.open_mosaic(mosaic).sizes["time"]),
            "work": work_of(mosaic),
        }


def _opening(act: Callable[[], object]) -> float:
    took = []
    for _ in range(7):
        begun = time.perf_counter()
        act()
        took.append(time.perf_counter() - begun)
    return round(statistics.median(took), 4)


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
