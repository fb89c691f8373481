"""``resmap demo``: a small Earth with known truth, mapped on this machine, scored and drawn. Nothing is downloaded."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalogs.synthetic import CLASSES, DemoCatalog, write_demo_catalog
from jobs.job import Job
from jobs.prepare import prepare
from jobs.quicklook import write_quicklook
from jobs.run import start
from jobs.seams import Seams, measure_seams
from jobs.summary import Summary
from jobs.watch import Watcher
from mapper.grid import Grid
from mapper.masks import PRESENT, UNOBSERVED
from mapper.mosaic import Mosaic

PROMPTS = {"building": "the buildings", "lake": "all the lakes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo did."""

    mosaic: str
    quicklook: str
    job: str
    """The job file it ran, to be changed and run again."""

    scores: dict[str, float]
    """Prompt → intersection over union with the truth, over all observed pixels."""

    seconds: float
    world_s: float
    seams: Seams
    summary: Summary

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def demo(folder: Path, *, gpus: int, watcher: Watcher) -> DemoReport:
    """Make the world, map it, score it, draw it.

    Args:
        folder: where everything goes; a world from before is used again, a mosaic from before is made anew.
        gpus: Ray actors with one logical GPU each.
        watcher: is told how it gets on.
    """
    begun = time.monotonic()
    watcher.say("making a small Earth …")
    catalog = write_demo_catalog(folder / "world")
    world_s = time.monotonic() - begun
    mosaic = folder / "map.zarr"
    if mosaic.exists():
        shutil.rmtree(mosaic)
    job_file = folder / "job.yaml"
    job_file.write_text(_job_text(catalog), encoding="utf-8")
    job = Job.from_file(job_file)
    summary = start(job, gpus=gpus, watcher=watcher).wait()
    watcher.say("scoring against the truth …")
    scores = _scores(catalog, Mosaic.open(str(mosaic), writable=False))
    prepared = prepare(job)
    seams = measure_seams(prepared)
    picture = folder / "quicklook.png"
    captions = {name: f"“{PROMPTS[name]}”   IoU {score:.2f}" for name, score in scores.items()}
    write_quicklook(
        prepared,
        picture,
        captions=captions,
        footnote="A synthetic Earth in two UTM zones; made, mapped and scored by resmap.",
    )
    return DemoReport(
        mosaic=str(mosaic),
        quicklook=str(picture),
        job=str(job_file),
        scores=scores,
        seconds=round(time.monotonic() - begun, 2),
        world_s=round(world_s, 2),
        seams=seams,
        summary=summary,
    )


def _job_text(catalog: DemoCatalog) -> str:
    west, south, east, north = catalog.area
    prompts = "\n".join(f"  - {{name: {name}, expression: {text}}}" for name, text in PROMPTS.items())
    return f"""\
# Change a sentence and run it again: resmap run {{this file}}
name: A small Earth
area: {{bbox: [{west}, {south}, {east}, {north}]}}
imagery:
  catalog: world/{catalog.catalog.name}
  collections: [{catalog.collection}]
  bands: [red, green, blue]
  composite: least-cloudy
grid: {{crs: utm, resolution_m: 1.0, shard_px: 1024, chunk_px: 512}}
prompts:
{prompts}
model: {{name: pocket}}
output: {{mosaic: map.zarr}}
"""


def _scores(catalog: DemoCatalog, mosaic: Mosaic) -> dict[str, float]:
    """Intersection over union of each prompt, over the observed pixels of all zones."""
    hits = dict.fromkeys(PROMPTS, 0)
    either = dict.fromkeys(PROMPTS, 0)
    for grid in mosaic.grids:
        truth = _truth(catalog, grid)
        for number, prompt in enumerate(mosaic.prompts):
            wanted = truth == CLASSES.index(prompt.name)
            for tile in grid.tiles():
                mask = mosaic.read(grid, tile, 0, number)[0]
                there = wanted[tile.core.within(grid.box)]
                observed = mask < UNOBSERVED
                present = mask == PRESENT
                hits[prompt.name] += int((present & there).sum())
                either[prompt.name] += int(((present | there) & observed).sum())
    return {name: round(hits[name] / max(1, either[name]), 4) for name in PROMPTS}


def _truth(catalog: DemoCatalog, grid: Grid) -> np.ndarray[Any, Any]:
    return catalog.truth(crs=grid.lattice.crs, transform=grid.lattice.transform(grid.box), shape=grid.shape)
