"""The same job in many ways, bit by bit: workers, shards, Ray or none, and a part of the area.

python -m benchmarks.one_answer

The tests show it with small models of known answers; this shows it with the model that ships, at the shard sizes
that people use.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.record import record
from catalogs.synthetic import DEMO_AREA, write_demo_catalog
from jobs.job import Job
from jobs.progress import Lines
from jobs.run import start

PART = (11.9900, 55.4100, 12.0050, 55.4180)
"""Of the area: inside it on all sides, and on both sides of the zones' border."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the job."""

    name: str
    shard_px: int
    actors: int | None
    """Ray actors; None is in this process, without Ray."""

    area: tuple[float, float, float, float] = DEMO_AREA


WAYS = (
    Way(name="in process, shards of 1024", shard_px=1024, actors=None),
    Way(name="1 actor, shards of 1024", shard_px=1024, actors=1),
    Way(name="3 actors, shards of 1024", shard_px=1024, actors=3),
    Way(name="3 actors, shards of 2048", shard_px=2048, actors=3),
    Way(name="in process, shards of 2048", shard_px=2048, actors=None),
    Way(name="a part of the area, 2 actors, shards of 512", shard_px=512, actors=2, area=PART),
)


def main() -> None:
    """Run all ways, compare each with the first, record."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_demo_catalog(folder / "world")
        mosaics = [_mapped(way, folder, number) for number, way in enumerate(WAYS)]
        compared = {}
        for way, mosaic in zip(WAYS[1:], mosaics[1:], strict=True):
            compared[way.name] = {zone: _compared(mosaics[0], mosaic, zone) for zone in ("utm32n", "utm33n")}
            print(way.name, compared[way.name])
        same = all(zone["differing_px"] == 0 for zones in compared.values() for zone in zones.values())
        print(record("one_answer", {"reference": WAYS[0].name, "compared": compared, "bit_identical": same}))


def _mapped(way: Way, folder: Path, number: int) -> str:
    document: dict[str, Any] = {
        "name": way.name,
        "area": {"bbox": list(way.area)},
        "imagery": {"catalog": "world/catalog.json", "collections": ["resmap-demo"], "composite": "least-cloudy"},
        "grid": {"crs": "utm", "resolution_m": 1.0, "shard_px": way.shard_px, "chunk_px": 256},
        "prompts": [
            {"name": "building", "expression": "the buildings"},
            {"name": "lake", "expression": "all the lakes"},
        ],
        "output": {"mosaic": f"{number}.zarr"},
    }
    job = Job.from_dict(document, folder=folder)
    run = start(job, gpus=way.actors, local=way.actors is None, watcher=Lines(every_s=30))
    return run.wait().mosaic


def _compared(one: str, other: str, zone: str) -> dict[str, int]:
    """Pixels that both mosaics mapped, and those among them that differ in mask, score or source."""
    first, second = (xr.open_zarr(mosaic, group=f"{zone}/0", mask_and_scale=False) for mosaic in (one, other))
    first, second = xr.align(first, second, join="inner")
    both = ((first["mask"] != 255) & (second["mask"] != 255)).values
    differing = np.zeros(both.shape, np.bool_)
    for name in ("mask", "score", "source"):
        differing |= (first[name] != second[name]).values
    return {"shared_px": int(both.sum()), "differing_px": int((differing & both).sum())}


if __name__ == "__main__":
    main()
