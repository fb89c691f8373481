"""Mosaics without pixels, whose runs say what a test wants; and what a catalog of one says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pystac
import shapely
import yaml
from shapely.geometry.base import BaseGeometry

from catalogs.snapshot import freeze
from jobs.ledger import RunFolder
from jobs.stac.places import footprint
from jobs.stac.published import Published
from jobs.tile_table import PlannedTile, TileTable
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.models.fetch import sha256_of
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt

PROMPTS = (Prompt(name="roof", expression="the red roofs"), Prompt(name="a/b", expression="“lakes”"))
GRID = Grid(
    lattice=Lattice(crs="EPSG:32632", res_x=1, res_y=1),
    box=PixelBox(-6_100_480, 691_200, -6_099_968, 691_712),
    shard_px=256,
    chunk_px=128,
)
"""Two by two shards of 256 m."""

POCKET = Path(str(files("mapper.models") / "weights" / "pocket.safetensors"))


def item_document(name: str, moment: str, area: BaseGeometry) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": name,
        "collection": "small",
        "geometry": shapely.geometry.mapping(area),
        "bbox": list(area.bounds),
        "properties": {"datetime": moment},
        "links": [],
        "assets": {"image": {"href": f"https://example.com/{name}.tif"}},
    }


def on_earth(grid: Grid = GRID) -> BaseGeometry:
    """What the grid covers, in degrees."""
    return footprint(grid, None, None)


def told_mosaic(
    folder: Path,
    *,
    grid: Grid = GRID,
    area: BaseGeometry | None = None,
    steps: tuple[datetime, ...] = (datetime(2024, 6, 1, tzinfo=UTC),),
    tiles: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)),
    moments: tuple[str, ...] = ("2024-06-01T10:30:00Z", "2024-06-20T10:30:00Z"),
    job: Mapping[str, Any] | None = None,
    documents: list[dict[str, Any]] | None = None,
    **facts: Any,
) -> str:
    """A mosaic without pixels, and a run beside it that says what these arguments say."""
    area = on_earth(grid) if area is None else area
    spec = MosaicSpec(grids=(grid,), prompts=PROMPTS, times=steps, made_by={"model": "pocket", "answer_key": "ab" * 32})
    mosaic = Mosaic.create(str(folder), spec)
    items = documents or [item_document(f"scene-{n}", moment, area) for n, moment in enumerate(moments)]
    planned = [
        PlannedTile(grid=0, step=step, row=row, column=column, clipped=False, items=tuple(range(len(items))))
        for step, row, column in tiles
    ]
    RunFolder(mosaic.url, "run-1").save_plan(
        job=yaml.safe_dump(
            {"imagery": {"time_step": "all"}, "model": {"name": "pocket", "weights": None}, **(job or {})}
        ),
        area=shapely.to_wkb(area),
        items=freeze(items),
        tiles=TileTable.of(planned),
        facts={
            "run": "run-1",
            "name": "Red roofs",
            "state": "done",
            "ended": "2026-01-02T03:04:05+00:00",
            "fingerprint": f"{sha256_of(POCKET)}/fp32 on cpu",
            "versions": {"resmap": "0.1.0", "torch": "2.13.0"},
            "steps": [step.isoformat() for step in steps],
            **facts,
        },
    )
    return mosaic.url


def read(done: Published) -> tuple[pystac.Catalog, pystac.Collection, list[pystac.Item]]:
    """The catalog, the mosaic's collection and its items, as pystac reads them."""
    catalog = pystac.Catalog.from_file(str(done.catalog))
    (collection,) = catalog.get_children()
    assert isinstance(collection, pystac.Collection)
    return catalog, collection, list(collection.get_items())


def documents(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every STAC document below a folder."""
    for path in sorted(folder.rglob("*.json")):
        document = json.loads(path.read_text())
        if "stac_version" in document:
            yield path, document
