"""What a mosaic holds, in a folder or a bucket, and whether that is what an undisturbed run leaves there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import fsspec

from jobs.ledger import FINISHED, RunFolder, run_names
from jobs.verify import verify
from mapper.mosaic import Mosaic

DRAFT = ".partial"
"""What zarr calls a shard in a folder until all of it is there. A driver that dies meanwhile leaves it, and no reader
sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """A run to which nothing happened."""

    tiles: int
    bytes: Mapping[str, str]
    """As ``held``."""

    @classmethod
    def of(cls, mosaic: str) -> Undisturbed:
        """What it has left."""
        return cls(tiles=len(_run(mosaic).tiles()), bytes=held(mosaic))

    def complaints(self, mosaic: str) -> list[str]:
        """All that tells another run's mosaic from this one; empty where nothing does."""
        here = held(mosaic)
        found = [f"{name} differs" for name in sorted(self.bytes) if here.get(name) != self.bytes[name]]
        found += [f"{name} is left over" for name in sorted(set(here) - set(self.bytes))]
        folder = _run(mosaic)
        rows = Counter(entry.tile for entry in folder.entries())
        found += [f"tile {tile} stands {times} times in the books" for tile, times in rows.items() if times > 1]
        finished = sum(folder.counts()[state] for state in FINISHED)
        if finished != self.tiles:
            found.append(f"{finished} of {self.tiles} tiles are finished")
        if folder.facts()["state"] != "done":
            found.append(f"run.json says {folder.facts()['state']}")
        report = verify(mosaic, full=True)
        found += [f"verify: {bad}" for bad in report.bad]
        if report.checked < self.tiles or report.unfinished:
            found.append(f"verify read {report.checked} back, {report.unfinished} are unfinished")
        return found


def held(mosaic: str) -> dict[str, str]:
    """Layer of a level → digest of all its pixels; and of a Zarr tree every object of the store, metadata too."""
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
    if opened.engine != "zarr":
        return digests
    store, root = fsspec.core.url_to_fs(mosaic)
    store.invalidate_cache()
    for path in store.find(root):
        name = path.removeprefix(root).lstrip("/")
        if not name.startswith(".resmap/") and not name.endswith(DRAFT):
            digests[name] = _digest(store.cat_file(path))
    return digests


def recorded(mosaic: str) -> int:
    """Tiles that its runs have in their books so far."""
    return sum(len(list(RunFolder(mosaic, name).entries())) for name in run_names(mosaic))


def by_worker(mosaic: str) -> dict[str, int]:
    """Worker → tiles it has finished, as the books of a mosaic's one run have it."""
    return dict(sorted(Counter(entry.worker for entry in _run(mosaic).entries()).items()))


def _run(mosaic: str) -> RunFolder:
    (name,) = run_names(mosaic)
    return RunFolder(mosaic, name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
