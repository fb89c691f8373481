"""Small mosaics in every kind of place, and what a run does with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import icechunk
import numpy as np
import pytest
import zarr

from mapper.grid import Grid, Lattice, PixelBox
from mapper.icechunk_storage import storage_at
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers, Written
from mapper.prompts import Prompt
from mapper.storage import EngineName

LATTICE = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)
GRID = Grid(lattice=LATTICE, box=PixelBox(-6_120_064, 668_032, -6_120_000, 668_096), shard_px=32, chunk_px=32)
PROMPTS = (Prompt(name="building", expression="the buildings"), Prompt(name="lake", expression="all the lakes"))
TIMES = (datetime(2020, 5, 1, tzinfo=UTC), datetime(2021, 5, 1, tzinfo=UTC))
SPEC = MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={"model": {"name": "colour"}})
TILES = tuple(GRID.tiles())
ROAD, LATER = Prompt(name="road", expression="the roads"), datetime(2022, 5, 1, tzinfo=UTC)

Place = Callable[[], str]


@dataclass(frozen=True)
class Sink:
    """An engine in a kind of place."""

    engine: EngineName
    place: Place
    """A URL at which nothing is yet; another at each call."""

    def create(self, spec: MosaicSpec = SPEC) -> Mosaic:
        return Mosaic.create(self.place(), spec, engine=self.engine)


def sink_of(request: pytest.FixtureRequest, engine: EngineName, store: str, folder: Path) -> Sink:
    root = {"folder": "", "memory": "memory:/"}.get(store)
    if root is None:
        root = str(request.getfixturevalue("bucket"))
    numbers = itertools.count()
    return Sink(engine=engine, place=lambda: f"{root}{folder}/{next(numbers)}.map")


SHARED: list[tuple[EngineName, str]] = [("zarr", "folder"), ("zarr", "s3"), ("icechunk", "folder"), ("icechunk", "s3")]
"""Those that several processes can reach."""


def layers(seed: int = 0, *, prompts: tuple[int, ...] = (0, 1)) -> TileLayers:
    """What a tile writes: every kind of value, the same for the same seed."""
    draw = np.random.default_rng(seed)
    score = draw.integers(0, SCORE_ONE + 1, (len(prompts), 32, 32)).astype(np.uint8)
    score[:, :4], score[:, 4:8] = UNOBSERVED, UNMAPPED
    mask = np.where(score > SCORE_ONE, score, score >= 125).astype(np.uint8)
    source = draw.integers(0, 9, (32, 32)).astype(np.uint32)
    source[:8] = NO_SOURCE
    return TileLayers(mask=mask, score=score, source=source, prompts=prompts)


def put(mosaic: Mosaic, number: int, *, seed: int | None = None, time: int = 0) -> Written:
    return mosaic.write(GRID, TILES[number], time, layers(number if seed is None else seed))


def keep(mosaic: Mosaic, written: Sequence[Written], run: str = "r1") -> str | None:
    """What the coordinator of a run does with what its workers hand in."""
    receipts = [one.receipt for one in written if one.receipt is not None]
    return mosaic.commit(receipts, f"{len(receipts)} shards", {"run": run})


def holds(mosaic: Mosaic, number: int, *, seed: int | None = None, time: int = 0) -> bool:
    """Whether a tile reads as it was written, to the last pixel of both prompts."""
    meant = layers(number if seed is None else seed)
    assert meant.source is not None
    read = [mosaic.read(GRID, TILES[number], time, prompt) for prompt in (0, 1)]
    return all(
        (mask == meant.mask[prompt]).all() and (score == meant.score[prompt]).all() and (source == meant.source).all()
        for prompt, (mask, score, source) in enumerate(read)
    )


def is_gap(mosaic: Mosaic, number: int, *, time: int = 0) -> bool:
    """Whether nothing at all is there of a tile."""
    read = [mosaic.read(GRID, TILES[number], time, prompt) for prompt in (0, 1)]
    return all(
        (mask == UNMAPPED).all() and (score == UNMAPPED).all() and (source == NO_SOURCE).all()
        for mask, score, source in read
    )


def content(url: str) -> dict[str, bytes]:
    """Every file below a URL."""
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {name: fs.cat_file(name) for name in sorted(fs.find(path))}


def others(url: str, engine: EngineName, fill: Callable[[zarr.Group], Any]) -> None:
    """What somebody else makes with the engine's own tools."""
    if engine == "zarr":
        fill(zarr.create_group(url, zarr_format=3))
    else:
        session = icechunk.Repository.create(storage_at(url)).writable_session("main")
        fill(zarr.create_group(session.store, zarr_format=3))
        session.commit("theirs")
