"""What a store that fails now and then costs: the same run against an S3 server, undisturbed and through a proxy that
breaks a part of all requests.

A job of about a hundred shards is mapped by a model that takes as long as a GPU would (``benchmarks/stand_in.py``),
in this process, into a bucket of moto or of Ceph's radosgw. The proxy stands before the server in every run, so that
it costs each the same; of what it breaks, every kind falls as often: refusals with 429, 500 and 503, connections reset
before and after the request was carried out, bodies that break off, end early or stall, and slow answers. One more run
meets 20 % and a total outage. Each run must end with every tile done, entered once, and with the same pixels.

python -m benchmarks.bench_faults [--server moto|radosgw] [--engine zarr|icechunk] [--outage 120] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.record import circumstances, record
from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from mapper.mosaic import Mosaic
from mapper.storage import EngineName
from tests.faults.proxy import KINDS, Fault, Kind, broken, some_of_all
from tests.faults.radosgw import radosgw
from tests.servers import s3_bucket
from tests.stories.world import World, write_world

PASSING: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "expired")
WINDOWS_PER_S = 1.0
"""What the model does: a run then takes half a minute, so that a second of waiting here and there does not decide."""

ALLOWED = 1.4
"""How much longer a run may take that loses every twentieth request."""


def main() -> None:
    """Run undisturbed, with 5 % and with 20 % and an outage, and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--server", choices=("moto", "radosgw"), default="moto")
    parser.add_argument("--engine", choices=("zarr", "icechunk"), default="zarr")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--outage", type=float, default=120.0, help="seconds in which nothing is answered")
    parser.add_argument("--out", type=Path, help="a file for the figures, in place of benchmarks/results")
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    with tempfile.TemporaryDirectory() as folder, _server(asked.server) as server:
        world = write_world(Path(folder))
        weights = Path(folder) / "stand-in.json"
        weights.write_text(json.dumps({"windows_per_s": WINDOWS_PER_S}))
        _mapped(world, server, weights, asked.engine, ())  # imports, connections
        runs = {
            name: [_mapped(world, server, weights, asked.engine, faults, seed=n) for n in range(asked.repeats)]
            for name, faults in (("undisturbed", ()), ("5 %", tuple(some_of_all(0.05, PASSING))))
        }
        twenty = tuple(some_of_all(0.2, PASSING))
        runs["20 % and outage"] = [_mapped(world, server, weights, asked.engine, twenty, outage_s=asked.outage)]
    figures = _figures(runs) | {
        "server": asked.server,
        "engine": asked.engine,
        "outage_s": asked.outage,
        "windows_per_s": WINDOWS_PER_S,
    }
    if asked.out is None:
        record(f"faults-{asked.server}-{asked.engine}", figures)
    else:
        document = {"benchmark": "faults", "made_with": circumstances(), **figures}
        asked.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


@contextmanager
def _server(name: str) -> Iterator[str]:
    if name == "radosgw":
        with radosgw() as url:
            yield url
    else:
        with s3_bucket():
            yield os.environ["AWS_ENDPOINT_URL"]


def _mapped(
    world: World,
    server: str,
    weights: Path,
    engine: EngineName,
    faults: tuple[Fault, ...],
    *,
    seed: int = 0,
    outage_s: float = 0.0,
) -> dict[str, Any]:
    """One run into a mosaic of its own: seconds, what was broken, and what it left."""
    mosaic = f"s3://maps/faults/{time.time_ns()}/map"
    job = world.job(
        mosaic,
        grid={"crs": "EPSG:32632", "resolution_m": 0.25, "shard_px": 256, "chunk_px": 128},
        model={"name": "stand-in", "weights": str(weights)},
        output={"engine": engine},
    )
    with broken(server, *faults, seed=seed) as proxy:
        fsspec.config.conf["s3"] = {"endpoint_url": proxy.url}
        outage = proxy.outage_of(outage_s, after=150) if outage_s else None
        begun = time.perf_counter()
        summary = Job.from_dict(job).run(local=True).wait()
        seconds = time.perf_counter() - begun
        if outage is not None:
            outage.join()
        proxy.breaks()
        kinds = Counter(kind for kind, _, _ in proxy.done)
        return {
            "seconds": round(seconds, 2),
            "state": summary.state,
            "tiles": summary.tiles,
            "requests": len(proxy.asked),
            "broken": dict(sorted(kinds.items())),
            "each_tile_once": _each_once(mosaic),
            "pixels": _pixels(mosaic),
        }


def _each_once(mosaic: str) -> bool:
    (run,) = run_names(mosaic)
    folder = RunFolder(mosaic, run)
    entered = Counter(entry.tile for entry in folder.entries() if entry.state in ("done", "nodata"))
    return entered == Counter(range(len(folder.tiles())))


def _pixels(mosaic: str) -> int:
    """CRC-32 of all masks and scores."""
    opened, crc = Mosaic.open(mosaic, writable=False), 0
    for level in (level for grid in opened.grids for level in grid.pyramid()):
        for tile in level.tiles():
            mask, score, _ = opened.read(level, tile, 0, 0)
            crc = zlib.crc32(score.tobytes(), zlib.crc32(mask.tobytes(), crc))
    return crc


def _figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    medians = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    every = [run for of in runs.values() for run in of]
    return {
        "seconds": medians,
        "longer_at_5_percent": round(medians["5 %"] / medians["undisturbed"], 3),
        "allowed": ALLOWED,
        "all_done": all(run["state"] == "done" for run in every),
        "each_tile_once": all(run["each_tile_once"] for run in every),
        "same_pixels": len({run["pixels"] for run in every}) == 1,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
