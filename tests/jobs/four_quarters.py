"""A mosaic of four quarters, one of each value, with hostile words in it; and a server for its preview."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette

from catalogs.snapshot import freeze
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard
from mapper.storage import state_folder

HOSTILE = "<img src=x onerror=\"document.title='caught'\"></script><script>document.title='caught'</script>"
PROMPTS = (
    Prompt(name="building", expression="the buildings", threshold=0.5),
    Prompt(name="hostile", expression=HOSTILE, threshold=0.5),
)
TIMES = (datetime(2023, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))
GRID = Grid(
    lattice=Lattice(crs="EPSG:32633", res_x=10.0, res_y=10.0),
    box=PixelBox(-614_528, 30_976, -614_400, 31_104),
    shard_px=64,
    chunk_px=32,
)
QUARTERS = {(0, 0): PRESENT, (0, 1): ABSENT, (1, 0): UNOBSERVED, (1, 1): UNMAPPED}
"""Row and column of the shard → what all of it is, in the latest time step."""

ITEM: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "scene-<b>7</b>",
    "collection": "tests",
    "geometry": {"type": "Point", "coordinates": [12.0, 55.4]},
    "bbox": [12.0, 55.4, 12.0, 55.4],
    "properties": {"datetime": "2024-05-03T10:00:00Z"},
    "links": [],
    "assets": {},
}


def made(url: Path, *, state: str = "done") -> Mosaic:
    """A mosaic of four quarters, with a run beside it."""
    spec = MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={"model": "pocket"})
    mosaic = Mosaic.create(str(url), spec)
    for (row, column), value in QUARTERS.items():
        layer = np.full((2, 64, 64), value, np.uint8)
        score = np.where(layer == PRESENT, 200, layer).astype(np.uint8)
        source = np.zeros((64, 64), np.uint32) if value < UNOBSERVED else None
        layers = TileLayers(mask=layer, score=score, source=source, prompts=(0, 1))
        mosaic.write(GRID, GRID.tile(row, column), 1, layers)
    for level in GRID.pyramid()[1:]:
        for tile in level.tiles():
            build_shard(mosaic, LevelTask(id=0, grid=level, tile=tile, time=1, prompts=(0, 1)))
    run = state_folder(str(url)).child("runs").child("four-quarters-0")
    run.write("items.parquet", freeze([ITEM]))
    run.write("run.json", json.dumps({"name": "Four quarters", "state": state, "created": "2024-05-02"}).encode())
    return mosaic


@contextmanager
def served(pages: Starlette) -> Iterator[str]:
    """The application on a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(pages, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
