"""How long from ``resmap run … --address`` to the first finished shard, on a cluster that is up; and what it goes to.

A Ray head is started as people start it, with its dashboard and a token. One run warms it up; then every run is a new
process with a new mosaic, first by the head's own address (the driver is here), then by that of its dashboard (the
driver is a Ray job, followed from here). The parts end with: the plan beside the mosaic; a worker that has its model;
the first shard in its place. The model is the one that ships.

python -m benchmarks.bench_start [--repeats 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import circumstances, record
from tests.cluster.ray_head import Head, ray_head
from tests.stories.world import World, write_world

BAR_S = 20.0
LOOK_S = 0.02
PARTS = ("plan", "workers", "first_shard")


def main() -> None:
    """Start a head, warm it up, measure both ways, and record."""
    asked = _asked()
    with tempfile.TemporaryDirectory() as folder, ray_head(cpus=4, gpus=1) as head:
        world = write_world(Path(folder))
        ways = {"driver here": head.gcs, "driver as a Ray job": head.dashboard}
        figures: dict[str, Any] = {"bar_s": BAR_S, "load_before": os.getloadavg()[0]}
        for n, (way, address) in enumerate(ways.items()):
            _timed(world, head, address, Path(folder) / f"warm-{n}")
            runs = [_timed(world, head, address, Path(folder) / f"run-{n}-{i}") for i in range(asked.repeats)]
            figures[way] = {
                "seconds": round(statistics.median(sum(run.values()) for run in runs), 2),
                "spread_s": [round(pick(sum(run.values()) for run in runs), 2) for pick in (min, max)],
                "parts_s": {part: round(statistics.median(run[part] for run in runs), 2) for part in PARTS},
                "repeats": asked.repeats,
            }
        figures["load_after"] = os.getloadavg()[0]
    if asked.out:
        document = {"benchmark": "start", "made_with": circumstances(), **figures}
        asked.out.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    print(asked.out or record("start", figures))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file for the figures, in place of benchmarks/results")
    return parser.parse_args()


def _timed(world: World, head: Head, address: str, folder: Path) -> dict[str, float]:
    """Seconds of each part of one run."""
    folder.mkdir()
    mosaic, job = folder / "map.zarr", folder / "job.yaml"
    settings = {"model": {"name": "pocket"}, "grid": {"shard_px": 256}, "windows": {"overlap_px": 64}}
    job.write_text(yaml.safe_dump(world.job(mosaic, **settings)))
    words = [sys.executable, "-m", "jobs.cli", "run", str(job), "--address", address, "--json"]
    if address.startswith("http"):
        words.append("--same-files")
    heard: list[str] = []
    began = time.time()
    process = subprocess.Popen(
        words, env=dict(head.environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    listener = threading.Thread(target=heard.extend, args=(process.stderr,))
    listener.start()
    loaded = None
    while process.poll() is None:
        if loaded is None and any(_has_workers(facts) for facts in _of_runs(mosaic, "run.json")):
            loaded = time.time()
        time.sleep(LOOK_S)
    listener.join()
    if process.returncode or loaded is None:
        raise SystemExit(f"the run ended with {process.returncode}\n{''.join(heard)[-3000:]}")
    # By the clock of the files: what was there first, however often it was looked at.
    planned = min(path.stat().st_mtime for path in _of_runs(mosaic, "tiles.parquet"))
    shard = min(path.stat().st_mtime for path in mosaic.glob("**/mask/c/**/*") if path.is_file())
    ends = (planned, loaded, shard)
    return {part: end - start for part, start, end in zip(PARTS, (began, *ends), ends, strict=False)}


def _of_runs(mosaic: Path, name: str) -> list[Path]:
    return list(mosaic.glob(f".resmap/runs/*/{name}"))


def _has_workers(facts: Path) -> bool:
    try:
        return bool(json.loads(facts.read_text()).get("fingerprint"))
    except (OSError, ValueError):  # it is being written
        return False


if __name__ == "__main__":
    main()
