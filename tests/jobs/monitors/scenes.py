"""A small piece of ground over which scenes come, are replaced and go: for the growth of a mosaic.

200 × 200 pixels of 1 m, 4 × 4 tiles of 64, at 12° east in EPSG:32632; the area's outline crosses the outer tiles.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from catalogs.snapshot import freeze, thaw
from jobs.job import Job
from jobs.monitors.mapped import Key, MappedItems
from jobs.monitors.news import News
from jobs.renewal import runs_in_turn
from mapper.imagery import NO_SOURCE
from mapper.mosaic import Mosaic
from tests.stories.world import CORNER, World, item_of, merged, write_tiff

CRS = "EPSG:32632"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture: its frame in pixels of the ground, and which version of it."""

    id: str
    top: int
    left: int
    rows: int
    columns: int
    moment: str
    version: int = 1
    shift: float = 0.0
    """Of its pixels against those of the ground, eastwards."""

    @property
    def key(self) -> Key:
        return "scenes", self.id


class Ground:
    """Writes scenes as files, once each, and jobs that map them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._documents: dict[Scene, str] = {}
        self._numbers = itertools.count()

    def document(self, scene: Scene) -> dict[str, Any]:
        """Its STAC item; the file is made when it is first asked for."""
        if scene not in self._documents:
            self._documents[scene] = json.dumps(self._described(scene))
        document: dict[str, Any] = json.loads(self._documents[scene])
        return document

    def _described(self, scene: Scene) -> dict[str, Any]:
        name = f"{scene.id}-{scene.version}-{len(self._documents)}"
        path = self.folder / f"{name}.tif"
        transform = Affine(1.0, 0, CORNER[0] + scene.left + scene.shift, 0, -1.0, CORNER[1] - scene.top)
        write_tiff(
            path, _fields(f"{scene.id}-{scene.version}", scene.rows, scene.columns), crs=CRS, transform=transform
        )
        item = item_of(
            path, name=scene.id, moment=scene.moment, collection="scenes", href=str(path),
            bands=("red", "green", "blue"),
        )  # fmt: skip
        item["properties"]["processing:version"] = str(scene.version)
        return item

    def job(self, mosaic: Path | str, scenes: Iterable[Scene], **changes: Any) -> Job:
        """A job whose catalog holds these scenes."""
        catalog = self.folder / f"catalog-{next(self._numbers)}.parquet"
        catalog.write_bytes(freeze([self.document(scene) for scene in scenes]))
        document = {
            "name": "ground",
            "area": World.rectangle(-5, -5, 190, 190),
            "imagery": {"catalog": str(catalog), "bands": ["red", "green", "blue"], "time_step": "day"},
            "grid": {"crs": CRS, "resolution_m": 1.0, "shard_px": 64, "chunk_px": 32},
            "prompts": [{"name": "warm", "expression": "what is red"}],
            "model": {"name": "colour"},
            "windows": {"overlap_px": 16},
            "output": {"mosaic": str(mosaic)},
        }
        return Job.from_dict(merged(document, changes))

    def news(self, mapped: MappedItems, now: Mapping[Key, Scene], before: Mapping[Key, Scene]) -> News:
        """What a look at a catalog with these scenes finds, where those stood before."""
        return News(
            new=tuple(self.document(scene) for key, scene in now.items() if key not in mapped.standing),
            changed=tuple(
                self.document(scene)
                for key, scene in now.items()
                if key in mapped.standing and before.get(key) != scene
            ),
            gone=tuple(key for key in mapped.standing if key not in now),
        )


def _fields(name: str, rows: int, columns: int) -> NDArray[np.uint8]:
    """``(3, rows, columns)``: fields of 7 pixels, never 0, other ones for every name."""
    dice = np.random.default_rng(list(name.encode()))
    fields = dice.integers(40, 230, (3, rows // 7 + 1, columns // 7 + 1))
    return np.asarray(np.kron(fields, np.ones((7, 7), int))[:, :rows, :columns], np.uint8)


def shown(mosaic: Path | str) -> dict[tuple[str, str, str], NDArray[Any]]:
    """Every layer of every level, by path, name and moment: gaps as one value, and sources as words.

    What is a gap is 255 here, unobserved or unmapped: a tile that has lost its imagery is the one, and in a mosaic that
    never had it, the other. Steps that are gaps all over are left out.
    """
    opened = Mosaic.open(str(mosaic), writable=False)
    names = _sources(mosaic)
    found: dict[tuple[str, str, str], NDArray[Any]] = {}
    for time, moment in enumerate(opened.times):
        layers: dict[tuple[str, str, str], NDArray[Any]] = {}
        seen = False
        for level in (level for grid in opened.grids for level in grid.pyramid()):
            for prompt, one in enumerate(opened.prompts):
                for name in ("mask", "score"):
                    stored = opened.layer(level, name, level.box, time=time, prompt=prompt)
                    layers[level.path, f"{name} of {one.name}", moment.isoformat()] = np.where(
                        stored < 254, stored, 255
                    )
                    seen |= bool((stored < 254).any())
            source = opened.layer(level, "source", level.box, time=time)
            words = np.array([names[number] for number in source.ravel().tolist()]).reshape(source.shape)
            layers[level.path, "source", moment.isoformat()] = words
        if seen:
            found |= layers
    return found


def _sources(mosaic: Path | str) -> dict[int, str]:
    """What the source layer says → which version of which item."""
    named = {int(NO_SOURCE): ""}
    for run in runs_in_turn(str(mosaic)):
        begin = run.renewal.sources_from if run.renewal is not None else 0
        for row, item in enumerate(thaw(run.folder.items())):
            said = f"{item['id']}/{item['properties']['processing:version']}"
            assert named.setdefault(begin + row, said) == said, "two items have one number"
    return named


def same(one: Mapping[Any, NDArray[Any]], other: Mapping[Any, NDArray[Any]]) -> bool:
    """Whether two mosaics hold the same."""
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
