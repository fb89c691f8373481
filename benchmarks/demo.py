"""``resmap demo``, timed and recorded, with its picture for the README.

python -m benchmarks.demo
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import xarray as xr

from benchmarks.real_input import keep_small
from benchmarks.record import record
from jobs.demo import demo
from jobs.progress import Lines


def main() -> None:
    """Run the demo in a folder of its own and record what it reported."""
    with tempfile.TemporaryDirectory() as scratch:
        report = demo(Path(scratch), gpus=2, watcher=Lines(every_s=10))
        keep_small(Path(report.quicklook), "demo")
        summary = report.summary
        begun = time.perf_counter()
        xr.open_zarr(report.mosaic, group="utm32n/0")
        open_s = time.perf_counter() - begun
        figures = {
            "scores": report.scores,
            "seconds": report.seconds,
            "world_s": report.world_s,
            "map_s": summary.seconds,
            "open_s": round(open_s, 4),
            "tiles": dict(summary.tiles),
            "workers": [dict(worker) for worker in summary.workers],
            "overlap_disagreement": summary.seam,
            "seams": {
                "borders": report.seams.borders,
                "differ": report.seams.differ,
                "score_gap": report.seams.score_gap,
            },
        }
        print(record("demo", figures))


if __name__ == "__main__":
    main()
