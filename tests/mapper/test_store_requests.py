"""What a tile costs in requests to a bucket, counted by a server before it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic, TileLayers
from mapper.storage import EngineName
from mapper.traffic import TRAFFIC, Calls
from tests.mapper.s3_gate import Gate, gate_before
from tests.mapper.sinks import GRID, SPEC


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before the bucket, for processes that start from now on: this one has its connections."""
    assert not Mosaic.exists(f"{bucket}/nothing")
    with gate_before(os.environ["AWS_ENDPOINT_URL"]) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gate.url)
        yield gate


def requests_of_tiles(gate: Gate, url: str, tiles: Sequence[TileLayers | None]) -> list[list[tuple[str, str]]]:
    """Method and path of what each tile costs, all at one place, written by one process; None is read."""
    requests = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        for tile in tiles:
            gate.asked.clear()
            process.submit(put_or_get_at_128, url, tile).result(60)
            requests.append([(method, path.partition("?")[0].partition("/0/")[2]) for method, path in gate.asked])
    return requests


GRID_128 = replace(GRID, box=PixelBox(0, 0, 128, 256), shard_px=128, chunk_px=64)
"""Shards that are too large for icechunk's manifests, where it keeps small ones."""

held = lru_cache(Mosaic.open)


def put_or_get_at_128(url: str, tile: TileLayers | None) -> None:
    if tile is None:
        held(url).read(GRID_128, GRID_128.tile(0, 1), 0, 0)
    else:
        held(url).write(GRID_128, GRID_128.tile(0, 1), 0, tile)


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
def test_a_tile_costs_one_put_a_shard_and_nothing_is_asked(
    engine: EngineName, gate: Gate, bucket: str, tmp_path: Path
) -> None:
    mosaic = Mosaic.create(f"{bucket}{tmp_path}/{engine}", replace(SPEC, grids=(GRID_128,)), engine=engine)
    _, once, again = requests_of_tiles(gate, mosaic.url, [layers_128(seed) for seed in (0, 1, 1)])
    for tile in (once, again):
        assert [method for method, _ in tile] == ["PUT"] * 5
    if engine == "zarr":
        assert {path for _, path in once} == {path for _, path in again}
        assert sorted(path for _, path in once) == [
            "mask/c/0/0/0/1", "mask/c/1/0/0/1", "score/c/0/0/0/1", "score/c/1/0/0/1", "source/c/0/0/1"
        ]  # fmt: skip


def test_a_tile_is_read_and_one_that_becomes_a_gap_written_with_one_request_a_shard(
    gate: Gate, bucket: str, tmp_path: Path
) -> None:
    mosaic = Mosaic.create(f"{bucket}{tmp_path}/map", replace(SPEC, grids=(GRID_128,)))
    nothing = np.full((2, 128, 128), UNMAPPED, np.uint8)
    gap = TileLayers(mask=nothing, score=nothing, source=np.full((128, 128), NO_SOURCE, np.uint32), prompts=(0, 1))
    _, read, written = requests_of_tiles(gate, mosaic.url, [layers_128(0), None, gap])
    assert sorted(read) == [("GET", "mask/c/0/0/0/1"), ("GET", "score/c/0/0/0/1"), ("GET", "source/c/0/0/1")]
    assert len(written) == 5
    assert not mosaic.is_stored(GRID_128, GRID_128.tile(0, 1), time=0, prompt=0)


def test_each_try_is_counted_also_one_that_the_library_makes_again_by_itself(
    gate: Gate, bucket: str, tmp_path: Path
) -> None:
    mosaic = Mosaic.create(f"{bucket}{tmp_path}/map", replace(SPEC, grids=(GRID_128,)))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        gate.busy = 2
        (calls,) = process.submit(calls_of_a_put, mosaic.url, layers_128(0)).result(60)
    assert (calls.kind, calls.host) == ("store", bucket.removeprefix("s3://").partition("/")[0])
    assert (calls.done, calls.failed, calls.throttled) == (5 + 2, 2, 2)
    assert calls.done == sum(calls.took)
    assert calls.moved_bytes > 2 * 128 * 128  # two scores of noise cannot be made smaller


def calls_of_a_put(url: str, tile: TileLayers) -> tuple[Calls, ...]:
    """What one process says of the requests that it made for one tile."""
    put_or_get_at_128(url, tile)
    return TRAFFIC.calls()


def layers_128(seed: int) -> TileLayers:
    draw = np.random.default_rng(seed)
    score = draw.integers(0, 251, (2, 128, 128)).astype(np.uint8)
    source = draw.integers(0, 9, (128, 128)).astype(np.uint32)
    return TileLayers(mask=(score > 125).astype(np.uint8), score=score, source=source, prompts=(0, 1))
