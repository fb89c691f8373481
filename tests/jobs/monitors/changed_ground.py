"""Small mosaics of known scores, step by step, with their changes: what alerts are found in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import SCORE_ONE
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt

LATTICE = Lattice(crs="EPSG:32645", res_x=10.0, res_y=10.0)
SIDE = 16
TOP, LEFT = -307_200, 43_200
PIXEL_M2 = 100.07
"""Of ellipsoid, there, to a hundredth."""

GRID_BOX = PixelBox(TOP, LEFT, TOP + SIDE, LEFT + SIDE)


def step(number: int) -> datetime:
    return datetime(2021, 3, 1, tzinfo=UTC) + timedelta(days=5 * number)


def lonlat(left: float, top: float, right: float, bottom: float) -> Any:
    """What lies between columns and rows, in degrees; its edges as straight as in the grid."""
    flat = shapely.box(10.0 * (LEFT + left), -10.0 * (TOP + bottom), 10.0 * (LEFT + right), -10.0 * (TOP + top))
    to = Transformer.from_crs(LATTICE.crs, "OGC:CRS84", always_xy=True)
    return shapely.transform(shapely.segmentize(flat, 5), lambda xy: np.column_stack(to.transform(xy[:, 0], xy[:, 1])))


def scores(*steps: Sequence[Any]) -> NDArray[np.uint8]:
    """``(time, y, x)``: as sure as can be in these boxes, 0 elsewhere."""
    out = np.zeros((len(steps), SIDE, SIDE), np.uint8)
    for layer, boxes in zip(out, steps, strict=True):
        for box in boxes:
            layer[box] = SCORE_ONE
    return out


def laid(url: Path | str, layers: NDArray[np.uint8], *, shard_px: int = 8) -> str:
    """A mosaic of scores ``(time, y, x)``, or ``(prompt, time, y, x)``; its URL."""
    layers = layers[None] if layers.ndim == 3 else layers
    grid = Grid(lattice=LATTICE, box=GRID_BOX, shard_px=shard_px, chunk_px=shard_px)
    prompts = tuple(Prompt(name=f"thing {n}", expression="things") for n in range(len(layers)))
    spec = MosaicSpec(grids=(grid,), prompts=prompts, times=tuple(step(n) for n in range(layers.shape[1])), made_by={})
    mosaic = Mosaic.create(str(url), spec)
    for tile in grid.tiles():
        for time in range(layers.shape[1]):
            score = layers[:, time, *tile.core.within(grid.box)]
            mask = np.where(score <= SCORE_ONE, score >= SCORE_ONE // 2, score).astype(np.uint8)
            source = np.full(tile.core.shape, NO_SOURCE, np.uint32)
            mosaic.write(
                grid,
                tile,
                time,
                TileLayers(mask=mask, score=score.copy(), source=source, prompts=tuple(range(len(layers)))),
            )
    return mosaic.url
