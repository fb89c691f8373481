"""What it costs a run that its workers say how they do: the same map made with and without, by turns, in CPU seconds.

Without: nothing is counted, charged or put beside the mosaic. The model is a stand-in that takes next to no CPU, the
shards are small and the run is in one process, so that all else weighs as much as it can. Real maps pay less.

python -m benchmarks.bench_telemetry [--rounds 6] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.record import circumstances, record
from cluster.tally import Charged, Tally
from jobs.job import Job
from jobs.recorder import Recorder
from mapper.traffic import Request, Traffic
from mapper.work import Spent
from tests.stories.world import World, write_world

WINDOWS_PER_S = 2000.0


def main() -> None:
    """Map by turns, and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, help="a file for the figures, in place of benchmarks/results")
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder))
        weights = Path(folder) / "stand-in.json"
        weights.write_text(json.dumps({"windows_per_s": WINDOWS_PER_S}))
        made = [_map(world, weights, Path(folder) / "first")]
        spent: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(asked.rounds):
            for name in ("with", "without") if turn % 2 else ("without", "with"):
                with _silent() if name == "without" else nullcontext():
                    made.append(_map(world, weights, Path(folder) / f"{name}-{turn}"))
                spent[name].append(made[-1]["cpu_s"])
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    figures = {
        "tiles": made[0]["tiles"],
        "cpu_s": spent,
        "median_cpu_s": medians,
        "more_cpu": round(medians["with"] / medians["without"] - 1, 4),
        "more_cpu_ms_a_tile": round(1000 * (medians["with"] - medians["without"]) / made[0]["tiles"], 3),
    }
    if asked.out is None:
        record("telemetry", figures)
    else:
        asked.out.write_text(json.dumps({"made_with": circumstances(), **figures}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def _map(world: World, weights: Path, mosaic: Path) -> dict[str, Any]:
    job = world.job(
        mosaic,
        grid={"crs": "EPSG:32632", "resolution_m": 0.25, "shard_px": 128, "chunk_px": 128},
        model={"name": "stand-in", "weights": str(weights)},
    )
    began = time.process_time()
    summary = Job.from_dict(job).run(local=True).wait()
    assert summary.state == "done", summary
    return {"cpu_s": time.process_time() - began, "tiles": summary.tiles["planned"]}


@contextmanager
def _silent() -> Iterator[None]:
    """Nobody counts, and nobody writes it down."""
    nothing = Charged(busy_s=0.0, waited_s={})
    with ExitStack() as patched:
        for change in (
            patch.object(Spent, "add", lambda *_: None),
            patch.object(Spent, "computing", lambda *_: nullcontext()),
            patch.object(Spent, "waiting", lambda *_: nullcontext()),
            patch.object(Traffic, "request", lambda *_, **__: nullcontext(Request())),
            patch.object(Traffic, "add", lambda *_, **__: None),
            patch.object(Tally, "compute", lambda *_: None),
            patch.object(Tally, "rest", lambda *_, **__: None),
            patch.object(Tally, "stage", lambda *_: None),
            patch.object(Tally, "charged", lambda *_: nothing),
            patch.object(Recorder, "_go", lambda *_: None),
        ):
            patched.enter_context(change)
        yield


if __name__ == "__main__":
    main()
