"""What is mapped while things are killed, and how it is seen that nothing came of that."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from jobs.ledger import FINISHED, RunFolder, run_names
from jobs.verify import verify
from mapper.mosaic import Mosaic
from tests.chaos.drivers import drive
from tests.stories.world import World

EngineName = Literal["zarr", "icechunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One job in a folder of its own."""

    folder: Path
    job: Path
    mosaic: str
    tiles: int
    """What the run of an undisturbed one has planned."""

    bytes: Mapping[str, str]
    """What an undisturbed one holds: as ``held``."""


DRAFT = ".partial"
"""What zarr calls a shard until all of it is there. A driver that dies meanwhile leaves it, and no reader sees it."""


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
    (run,) = run_names(mosaic)
    return Ground(folder=folder, job=job, mosaic=mosaic, tiles=len(RunFolder(mosaic, run).tiles()), bytes=held(mosaic))


def held(mosaic: str) -> dict[str, str]:
    """Layer of a level → digest of every byte of its pixels; and of a Zarr tree every file, metadata too."""
    opened = Mosaic.open(mosaic, writable=False)
    digests = {}
    for level in (level for grid in opened.grids for level in grid.pyramid()):
        for time in range(len(opened.times)):
            for prompt, named in enumerate(opened.prompts):
                for name in ("mask", "score"):
                    pixels = opened.layer(level, name, level.box, time=time, prompt=prompt)
                    digests[f"{level.path}/{name}/{named.name}/{time}"] = _digest(pixels.tobytes())
            source = opened.layer(level, "source", level.box, time=time)
            digests[f"{level.path}/source/{time}"] = _digest(source.tobytes())
    if opened.engine == "zarr":
        root = Path(mosaic)
        files = (
            path for path in root.rglob("*") if path.is_file() and ".resmap" not in path.parts and path.suffix != DRAFT
        )
        digests |= {str(path.relative_to(root)): _digest(path.read_bytes()) for path in files}
    return digests


def complaints(ground: Ground, mosaic: str) -> list[str]:
    """All that tells a finished mosaic from the undisturbed one; empty where nothing does."""
    found = []
    here = held(mosaic)
    found += [f"{name} differs" for name in sorted(ground.bytes) if here.get(name) != ground.bytes[name]]
    found += [f"{name} is left over" for name in sorted(set(here) - set(ground.bytes))]
    (run,) = run_names(mosaic)
    folder = RunFolder(mosaic, run)
    rows = Counter(entry.tile for entry in folder.entries())
    found += [f"tile {tile} stands {times} times in the books" for tile, times in rows.items() if times > 1]
    finished = sum(folder.counts()[state] for state in FINISHED)
    if finished != ground.tiles:
        found.append(f"{finished} of {ground.tiles} tiles are finished")
    if folder.facts()["state"] != "done":
        found.append(f"run.json says {folder.facts()['state']}")
    report = verify(mosaic, full=True)
    found += [f"verify: {bad}" for bad in report.bad]
    if report.checked < ground.tiles or report.unfinished:
        found.append(f"verify read {report.checked} back, {report.unfinished} are unfinished")
    return found


def recorded(mosaic: Path) -> int:
    """Rows in the ledgers of a mosaic's runs."""
    return sum(len(list(RunFolder(str(mosaic), name).entries())) for name in run_names(str(mosaic)))


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
