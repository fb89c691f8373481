"""Runs as the live map is asked about them: planned for real, with outcomes that the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely
import yaml

from catalogs.snapshot import freeze
from jobs.dashboard.states import RunView, TileStates
from jobs.ledger import Entry, RunFolder
from jobs.spec import canonical, spec_from
from jobs.tile_table import PlannedTile, TileTable
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt

STEP = datetime(2024, 5, 1, tzinfo=UTC)
GRID = Grid(
    lattice=Lattice(crs="EPSG:32633", res_x=10.0, res_y=10.0),
    box=PixelBox(-614_528, 30_976, -614_208, 31_296),
    shard_px=64,
    chunk_px=32,
)
"""Five by five tiles of 640 m, at 55° north."""

ITEM: Mapping[str, Any] = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "scene-1",
    "collection": "tests",
    "geometry": {"type": "Point", "coordinates": [12.0, 55.4]},
    "bbox": [12.0, 55.4, 12.0, 55.4],
    "properties": {"datetime": "2024-05-03T10:00:00Z"},
    "links": [],
    "assets": {"red": {"href": "https://user:word@example.com/a/red.tif?sig=secret#there", "type": "image/tiff"}},
}


def planned_run(
    place: Path,
    tiles: Sequence[tuple[int, int]],
    *entries: Entry,
    grid: Grid = GRID,
    items: Sequence[Mapping[str, Any]] = (ITEM,),
    prompts: Sequence[Prompt] = (Prompt(name="building", expression="the buildings"),),
    with_mosaic: bool = True,
) -> RunView:
    """A run of these tiles (row and column), each shown by all items, with these outcomes.

    A tile's row in the plan is its position here. There are two time steps, and nothing is planned for the second.
    """
    url = str(place / "map.zarr")
    folder = RunFolder(url, "run-1", engine="zarr")
    shown_by = tuple(range(len(items)))
    planned = [PlannedTile(grid=0, step=0, row=r, column=c, clipped=False, items=shown_by) for r, c in tiles]
    times = (STEP, STEP.replace(year=2025))
    folder.save_plan(
        job=yaml.safe_dump(job_of(url, prompts)),
        area=shapely.to_wkb(shapely.box(12.0, 55.3, 12.1, 55.4)),
        items=freeze(items),
        tiles=TileTable.of(planned),
        facts={"run": "run-1", "state": "running", "grids": [grid.name], "steps": [time.isoformat() for time in times]},
    )
    if with_mosaic:
        Mosaic.create(url, MosaicSpec(grids=(grid,), prompts=tuple(prompts), times=times, made_by={"model": "colour"}))
    record(folder, *entries)
    return view_of(url, "run-1", grids=(grid,) if with_mosaic else ())


def job_of(mosaic: str, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The job of such a run, as it is kept beside the mosaic."""
    spec = spec_from(
        {
            "name": "planned",
            "area": {"bbox": [12.0, 55.3, 12.1, 55.4]},
            "imagery": {"catalog": "https://example.com/catalog.json", "bands": ["red"]},
            "prompts": [{"name": prompt.name, "expression": prompt.expression} for prompt in prompts],
            "output": {"mosaic": mosaic},
        }
    )
    return canonical(spec)


def view_of(mosaic: str, run: str, *, grids: tuple[Grid, ...] | None = None) -> RunView:
    """A run as it is now; of the grids of its mosaic unless told otherwise."""
    folder = RunFolder(mosaic, run, engine="zarr")
    facts, places = folder.facts(), folder.places()
    if grids is None:
        known = {grid.name: grid for grid in Mosaic.open(mosaic, writable=False).grids}
        grids = tuple(known[name] for name in facts["grids"])
    states = TileStates(folder=folder, planned=len(places.row))
    states.refresh()
    return RunView(key=mosaic, folder=folder, mosaic=mosaic, places=places, states=states, facts=facts, grids=grids)


def record(folder: RunFolder, *entries: Entry) -> None:
    """Enter outcomes into the ledger of a run."""
    ledger = folder.ledger()
    for entry in entries:
        ledger.record(entry)
    ledger.flush()


def outcome(tile: int, state: Any = "done", *, seconds: float = 1.5, present_px: int = 40, **more: Any) -> Entry:
    """One outcome of one tile: a third of its seconds in each stage."""
    said = {"cause": "ReadError", "error": "it did not arrive"} if state in ("failed", "quarantined") else {}
    return Entry(
        **{
            "tile": tile, "state": state, "attempts": 1, "worker": "gpu-0", "at": STEP, "prompts": ("building",),
            "present_px": (present_px,), "asked_px": 4096, "seen_px": 0 if state == "nodata" else 4000, "windows": 4,
            "read_s": seconds / 3, "infer_s": seconds / 3, "write_s": seconds / 3, **said, **more,
        }
    )  # fmt: skip
