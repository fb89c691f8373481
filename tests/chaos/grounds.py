"""What is mapped while things are killed, and how it is seen that nothing came of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from jobs.ledger import RunFolder, run_names
from tests.chaos.drivers import drive
from tests.stories.world import World
from tests.undisturbed import Undisturbed

EngineName = Literal["zarr", "icechunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One job in a folder of its own."""

    folder: Path
    job: Path
    mosaic: str
    left: Undisturbed
    """By a run to which nothing happened."""


def lay(world: World, folder: Path, *, engine: EngineName = "zarr", **changes: Any) -> Path:
    """A job file in a folder, whose mosaic will lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    job = world.job(folder / "map", **{"output": {"engine": engine}, "area": SMALL_AREA, **changes})
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


SMALL_AREA = World.rectangle(-10, 0, 300, 300)
"""Sixteen shards of the small world at 128 pixels; one of them is crossed by the area's border on two sides."""


def undisturbed(world: World, folder: Path, *, engine: EngineName = "zarr", **changes: Any) -> Ground:
    """The job, run to its end by one driver to which nothing happens."""
    job = lay(world, folder / "undisturbed", engine=engine, **changes)
    over = drive(folder, "run", str(job), "--local", "--json")
    assert over.status == 0, over.err
    mosaic = str(job.parent / "map")
    return Ground(folder=folder, job=job, mosaic=mosaic, left=Undisturbed.of(mosaic))


def unrecorded(mosaic: Path) -> int:
    """Tiles of a Zarr mosaic whose source layer is put and which no book knows: the next driver puts them again."""
    names = run_names(str(mosaic))
    if not names:
        return 0
    folder = RunFolder(str(mosaic), names[0])
    known = set(folder.states())
    tiles = folder.tiles()
    return sum(
        (mosaic / f"0/source/c/0/{tiles[row].row}/{tiles[row].column}").exists()
        for row in range(len(tiles))
        if row not in known
    )
