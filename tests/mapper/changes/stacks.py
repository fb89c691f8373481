"""Random series of scores as mosaics of any sharding, and what their changes must be, found in another way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from mapper.changes import ChangeRule, Renewed, open_changes
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import UNMAPPED, UNOBSERVED, to_mask
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt

LATTICE = Lattice(crs="EPSG:32645", res_x=10.0, res_y=10.0)
SIDE = 12
CORNER = (-307_200, 43_200)
"""A row and column of the lattice that begin a shard of any size used here, near the zone's middle."""

PIXEL_M2 = 100.08
"""Of ellipsoid, there, to a hundredth."""

FIRST = datetime(2021, 3, 1, tzinfo=UTC)

_NUMBER = itertools.count()


def step(number: int) -> datetime:
    return FIRST + timedelta(days=5 * number, hours=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The changes of one prompt, ``(time, y, x)`` in order of time."""

    change: NDArray[np.uint8]
    state: NDArray[np.uint8]
    since: NDArray[Any]
    seen: NDArray[Any]

    def same(self, other: Told) -> None:
        for name in ("change", "state", "since", "seen"):
            np.testing.assert_array_equal(getattr(self, name), getattr(other, name), err_msg=name)


def reckoned(scores: NDArray[np.uint8], times: Sequence[datetime], threshold: float, rule: ChangeRule) -> Told:
    """What the rule says, step by step over the whole array at once; least areas are counted in whole pixels."""
    least_px = math.ceil(rule.min_area_m2 / PIXEL_M2)
    shape = scores.shape[1:]
    state = np.full(shape, 254, np.uint8)
    since, seen = np.full(shape, "NaT", "M8[s]"), np.full(shape, "NaT", "M8[s]")
    out: dict[str, list[NDArray[Any]]] = {"change": [], "state": [], "since": [], "seen": []}
    for score, moment in zip(scores, times, strict=True):
        now = np.datetime64(moment.replace(tzinfo=None), "s")
        looked, never = score <= 250, state == 254
        probability = score / 250
        new = np.where(never, (probability >= threshold - 1e-9).astype(np.uint8), state)
        high = probability >= min(threshold + rule.hysteresis, 1) - 1e-9
        low = probability <= max(threshold - rule.hysteresis, 0) + 1e-9
        new = np.where(low & ~high & ~never, 0, np.where(high & ~never, 1, new))
        for was, becomes in ((0, 1), (1, 0)):
            label, count = ndimage.label(looked & (state == was) & (new == becomes), np.ones((3, 3)))
            sizes = np.bincount(label.ravel(), minlength=count + 1)
            small = (sizes < least_px)[label] & (label > 0)
            new[small] = was
        change = np.select([(state == 0) & (new == 1), (state == 1) & (new == 0)], [2, 3], new.astype(int))
        change[never] = 254
        change = np.where(looked, change, score)
        since = np.where(looked & (new != state), now, since)
        seen = np.where(looked, now, seen)
        state = np.where(looked, new, state).astype(np.uint8)
        for name, layer in (("change", change), ("state", state), ("since", since), ("seen", seen)):
            out[name].append(layer.astype(np.uint8) if layer.dtype.kind != "M" else layer)
    return Told(**{name: np.stack(layers) for name, layers in out.items()})


def grid_of(shard_px: int) -> Grid:
    top, left = CORNER
    box = PixelBox(top, left, top + SIDE, left + SIDE)
    return Grid(lattice=LATTICE, box=box, shard_px=shard_px, chunk_px=shard_px // 2)


def laid(
    shard_px: int,
    scores: NDArray[np.uint8],
    *,
    url: str | None = None,
    thresholds: Sequence[float] = (0.5,),
    order: Sequence[int] | None = None,
    **how: Any,
) -> Mosaic:
    """A mosaic of scores ``(time, y, x)``, or ``(prompt, time, y, x)``.

    Args:
        order: the steps in which its time axis has them.
        how: as for ``Mosaic.create``.
    """
    scores = scores[None] if scores.ndim == 3 else scores
    order = range(scores.shape[1]) if order is None else order
    prompts = tuple(Prompt(name=f"thing {n}", expression="things", threshold=t) for n, t in enumerate(thresholds))
    spec = MosaicSpec(
        grids=(grid_of(shard_px),), prompts=prompts, times=tuple(step(number) for number in order), made_by={}
    )
    mosaic = Mosaic.create(url or f"memory://changes/{next(_NUMBER)}/map.zarr", spec, **how)
    receipts = [
        write(mosaic, tile_row, tile_column, at, scores[:, number])
        for at, number in enumerate(order)
        for tile_row, tile_column in np.ndindex(*mosaic.grids[0].tile_shape)
    ]
    if how.get("engine") == "icechunk":
        mosaic.commit([receipt for receipt in receipts if receipt is not None], "all", {})
    return mosaic


def write(mosaic: Mosaic, row: int, column: int, at: int, scores: NDArray[np.uint8]) -> bytes | None:
    """Write one tile of a step from the scores ``(prompt, y, x)`` of all of it."""
    grid = mosaic.grids[0]
    tile = grid.tile(row, column)
    part = scores[:, *tile.core.within(grid.box)]
    layers = TileLayers(
        mask=to_mask(part, [prompt.threshold for prompt in mosaic.prompts]),
        score=np.ascontiguousarray(part),
        source=np.where(part[0] <= 250, np.uint32(at), NO_SOURCE),
        prompts=tuple(range(len(mosaic.prompts))),
    )
    return mosaic.write(grid, tile, at, layers).receipt


def told(mosaic: Mosaic, prompt: int = 0) -> Told:
    """What is stored."""
    opened = open_changes(mosaic.url).isel(prompt=prompt).compute()
    return Told(**{name: opened[name].to_numpy() for name in ("change", "state", "since", "seen")})


def all_of(mosaic: Mosaic, at: int) -> list[Renewed]:
    """Every tile of a step."""
    return [
        Renewed(grid="", time=mosaic.times[at], row=row, column=column)
        for row, column in np.ndindex(*mosaic.grids[0].tile_shape)
    ]


def random_scores(rng: np.random.Generator, steps: int, *, patch: int = 2) -> NDArray[np.uint8]:
    """Patches that come and go, with gaps of both kinds; some shards were not mapped."""
    coarse = -(-SIDE // patch)
    values = np.array([0, 90, 99, 100, 101, 124, 125, 149, 150, 151, 250, UNOBSERVED], np.uint8)
    share = np.array([4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 2.0])
    small = rng.choice(values, (steps, coarse, coarse), p=share / share.sum())
    scores = np.kron(small, np.ones((patch, patch), np.uint8))[:, :SIDE, :SIDE]
    for at, row, column in np.ndindex(steps, SIDE // 4, SIDE // 4):
        if rng.random() < 0.2:
            scores[at, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = UNMAPPED
    scores[:, :2, 3:] = UNMAPPED  # beyond the area asked for
    return np.asarray(scores, np.uint8)


RULES = st.builds(
    ChangeRule,
    hysteresis=st.sampled_from([0.0, 0.1, 0.3]),
    min_area_m2=st.sampled_from([0.0, 4.5 * PIXEL_M2, 20.5 * PIXEL_M2]),
)
