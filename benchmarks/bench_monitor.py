"""A monitor at work: real flights posted to a real STAC API, how long until people know, and a year of it.

    python -m benchmarks.bench_monitor [lakes] [river] [latency] [year] [--data ../shared/data]

- ``lakes``: the four flights of ``naip-nd-series``, posted one by one; "lake" by the shipped model, on the east that it
  was not trained on. Water on each date against NDWI, changes against the masks compared here over the whole picture.
- ``river``: the two years of ``landsat-river-series``; the same for "river".
- ``latency``: ``resmap monitor serve`` in a process of its own, a webhook, and scenes posted while it runs: from the
  post to the alert, and how much of it was reading and inference.
- ``year``: a new scene every five days over one MGRS tile, 73 in all: what the registry and the mosaic grow to.

The catalog is stac-fastapi-pgstac on PostgreSQL with PostGIS (``python -m tests.pgstac --setup``); files come from an
HTTP server with ranges. Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.monitor_latency import latency
from benchmarks.monitor_series import lakes, river
from benchmarks.monitor_year import year
from benchmarks.record import RESULTS, circumstances, record


def main() -> None:
    """Measure what is asked for, and record it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="lakes, river, latency, year; all where left out")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    parts: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
        "lakes": lakes, "river": river, "latency": latency, "year": year,
    }  # fmt: skip
    path = RESULTS / "monitor.json"
    figures = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
    for name in options.parts or parts:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["RESMAP_REGISTRY"] = f"sqlite:///{scratch}/registry.db"
            figures[name] = parts[name](options.data.resolve(), Path(scratch)) | {"made_with": circumstances()}
        print(json.dumps({name: figures[name]}, indent=2), flush=True)
        print(record("monitor", {"parts": figures}))


if __name__ == "__main__":
    main()
