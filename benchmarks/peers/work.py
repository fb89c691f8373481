"""What every contender is asked to do, as a file: and the report it hands in."""

from __future__ import annotations

import json
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mapper import models
from mapper.grid import PixelBox
from mapper.segmenter import Segmenter

CPU_THREADS = 1
"""Torch threads of the model, as in the product: it leaves the other cores to whoever reads."""

GDAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 512,
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "CPL_VSIL_CURL_CACHE_SIZE": 256 * 2**20,
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 32 * 2**20,
}
"""How the peers read far COGs: what GDAL's own guides advise for it, and caches of hundreds of megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture of the catalog."""

    href: str
    box: PixelBox
    """The pixels it shows, from the CRS's zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One map, to be made by whoever reads this."""

    catalog: str
    """URL of an item collection: one asset ``visual`` an item, red, green, blue, 0 where not seen."""

    area: str
    """WKT, longitude and latitude: exactly the pixels below."""

    crs: str
    resolution_m: float
    top: int
    left: int
    rows: int
    columns: int
    """The area in pixels from the CRS's zero: whole shards."""

    shard_px: int
    chunk_px: int
    overlap_px: int
    """Of neighbouring windows, which begin at multiples of window less overlap from the CRS's zero."""

    prompts: tuple[str, ...]
    model: str
    weights: str | None
    batch: int
    mosaic: str
    """Where the map goes."""

    report: str
    """Where the report goes."""

    @classmethod
    def asked(cls) -> Work:
        """The work whose file the command line names."""
        fields = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        return cls(**{**fields, "prompts": tuple(fields["prompts"])})

    def write(self, path: Path) -> Path:
        """As a file for ``asked``."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @property
    def box(self) -> PixelBox:
        """The area."""
        return PixelBox(self.top, self.left, self.top + self.rows, self.left + self.columns)

    def cores(self) -> list[PixelBox]:
        """The shards of the map, row by row."""
        return list(self.box.cells(self.shard_px))

    def items(self) -> dict[str, Any]:
        """The item collection."""
        with urllib.request.urlopen(self.catalog, timeout=60) as answer:
            collection: dict[str, Any] = json.load(answer)
        return collection

    def scenes(self) -> list[Scene]:
        """The pictures in the order in which they are laid: the oldest on top."""
        found = []
        for item in sorted(self.items()["features"], key=lambda item: (item["properties"]["datetime"], item["id"])):
            step, _, x, _, _, y = item["properties"]["proj:transform"]
            height, width = item["properties"]["proj:shape"]
            top, left = round(-y / step), round(x / step)
            place = PixelBox(top, left, top + height, left + width)
            found.append(Scene(href=item["assets"]["visual"]["href"], box=place))
        return found

    def load(self) -> Segmenter:
        """The model, in the thread that will run it."""
        import torch  # here, so that whoever only reads has not to pay for it

        torch.set_num_threads(CPU_THREADS)
        return models.load(self.model, weights=self.weights)

    def hand_in(self, *, work_s: float, windows: int, **more: object) -> None:
        """Write the report.

        Args:
            work_s: from when the first tile could be begun, the model loaded and the cluster up, until all was written.
            windows: that the map was made of.
            more: that is worth to be kept.
        """
        report = {"work_s": round(work_s, 3), "windows": windows, **more}
        Path(self.report).write_text(json.dumps(report), encoding="utf-8")
