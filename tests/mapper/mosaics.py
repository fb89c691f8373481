"""Small mosaics of random masks, and what they hold as plain arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt

PROMPTS = (
    Prompt(name="building", expression="the buildings"),
    Prompt(name="lake", expression="all the lakes", threshold=0.4),
)
TIMES = (datetime(2023, 6, 1, tzinfo=UTC), datetime(2024, 6, 1, 10, 30, tzinfo=UTC))

_NUMBER = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A mosaic and its masks."""

    mosaic: Mosaic
    masks: Mapping[str, NDArray[np.uint8]]
    """Name of the grid → ``(prompt, time, y, x)`` over its box."""

    @property
    def url(self) -> str:
        return self.mosaic.url

    @property
    def grid(self) -> Grid:
        """The only one."""
        (grid,) = self.mosaic.grids
        return grid


def small_grid(
    crs: str, resolution: float, corner: tuple[float, float], *, shards: tuple[int, int] = (2, 3), name: str = ""
) -> Grid:
    """A grid of shards of 32 pixels that begins near (left, top)."""
    left, top = round(corner[0] / resolution / 32) * 32, round(-corner[1] / resolution / 32) * 32
    return Grid(
        lattice=Lattice(crs=crs, res_x=resolution, res_y=resolution),
        box=PixelBox(top, left, top + 32 * shards[0], left + 32 * shards[1]),
        shard_px=32,
        chunk_px=16,
        name=name,
    )


def random_mask(rng: np.random.Generator, shape: Sequence[int], *, gaps: bool = True) -> NDArray[np.uint8]:
    """Every kind of value, in patches."""
    rows, columns = shape[-2:]
    coarse = (*shape[:-2], -(-rows // 3), -(-columns // 3))
    share = (0.4, 0.4, 0.12, 0.08) if gaps else (0.5, 0.5, 0, 0)
    values = rng.choice(np.array([0, 1, UNOBSERVED, UNMAPPED], np.uint8), coarse, p=share)
    return np.asarray(np.kron(values, np.ones((3, 3), np.uint8))[..., :rows, :columns], np.uint8)


def known_mosaic(
    grids: Sequence[Grid],
    *,
    seed: int = 0,
    url: str | None = None,
    gaps: bool = True,
    missing: bool = True,
    prompts: Sequence[Prompt] = PROMPTS,
    times: Sequence[datetime] = TIMES,
    **how: Any,
) -> Known:
    """A mosaic of random masks; some of its shards were never written, where ``missing``."""
    rng = np.random.default_rng(seed)
    spec = MosaicSpec(grids=tuple(grids), prompts=tuple(prompts), times=tuple(times), made_by={"model": "colour"})
    mosaic = Mosaic.create(url or f"memory://known/{next(_NUMBER)}/map.zarr", spec, **how)
    masks = {}
    receipts = []
    for grid in grids:
        masks[grid.name] = random_mask(rng, (len(prompts), len(times), *grid.shape), gaps=gaps)
        for tile in grid.tiles():
            rows, columns = tile.core.within(grid.box)
            for time in range(len(times)):
                if missing and rng.random() < 0.25:
                    masks[grid.name][:, time, rows, columns] = UNMAPPED
                    continue
                mask = masks[grid.name][:, time, rows, columns]
                layers = TileLayers(
                    mask=mask,
                    score=np.where(mask < UNOBSERVED, np.where(mask == 1, 200, 20), mask).astype(np.uint8),
                    source=np.where(mask[0] < UNOBSERVED, np.uint32(time), NO_SOURCE).astype(np.uint32),
                    prompts=tuple(range(len(prompts))),
                )
                receipts.append(mosaic.write(grid, tile, time, layers).receipt)
    if how.get("engine") == "icechunk":
        mosaic.commit([receipt for receipt in receipts if receipt is not None], "all", {})
    return Known(mosaic=mosaic, masks=masks)
