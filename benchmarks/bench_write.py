"""Tiles put into a mosaic: ours against zarr, zarr with the zarrs pipeline, and xarray with and without dask.

python -m benchmarks.bench_write [--tiles 12] [--shard-px 2048] [--chunk-px 512] [--out FILE]

All write the same tiles (a mask and a score of one prompt, and a source: 24 MiB at 2048 px) into mosaics made alike:
same arrays, codecs, chunks and shards, same store, same number of threads, tiles that lie in memory before the clock
starts. Each way runs in a process of its own, in turn with the others; a round writes every tile of a time step that
nobody wrote before, after one that warms everything up, and all is read back at the end and compared. The bucket is
that of a server in another process, on the same cores; CPU time and memory are those of the writer alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import dask
import dask.array
import numpy as np
import psutil
import xarray as xr
import zarr
from numpy.typing import NDArray
from obstore.store import S3Store
from scipy import ndimage
from zarr.abc.store import Store
from zarr.storage import ObjectStore

from benchmarks.record import circumstances, record
from mapper.grid import Grid, Lattice, PixelBox, Tile
from mapper.layout import MosaicSpec
from mapper.masks import SCORE_ONE, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt
from mapper.storage import plain_store
from tests.servers import s3_bucket

LATTICE = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)
CONTENTS = 4
"""Different tiles; they are written in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a way has to write: every tile of one time step."""

    mosaic: Mosaic
    time: int
    contents: tuple[TileLayers, ...]
    threads: int

    @property
    def grid(self) -> Grid:
        """The only one."""
        return self.mosaic.grids[0]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Row by row."""
        return tuple(self.grid.tiles())

    def layers(self, tile: Tile) -> TileLayers:
        """What one tile shows."""
        return self.contents[(tile.row * self.grid.tile_shape[1] + tile.column) % CONTENTS]

    def each_tile(self, write: Callable[[Tile], Any]) -> list[Any]:
        """As a worker does: several tiles at once, a thread each."""
        with ThreadPoolExecutor(self.threads) as threads:
            return list(threads.map(write, self.tiles))


def main() -> None:
    """Measure each way in turn, compare what was written, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=12, help="in a round")
    parser.add_argument("--shard-px", type=int, default=2048)
    parser.add_argument("--chunk-px", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="tiles that are written at once")
    parser.add_argument("--rounds", type=int, default=3, help="timed in one process")
    parser.add_argument("--passes", type=int, default=2, help="processes for each way")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--out", type=Path, help="write the figures here, and not to results/write.json")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "URL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_measured(asked.one[0], asked.one[1], asked)))
        return
    with tempfile.TemporaryDirectory() as folder, s3_bucket() as bucket:
        figures = {}
        for place, root in (("local disk", f"{folder}/mosaics"), ("s3", f"{bucket}/mosaics")):
            figures[place] = _compared(place, root, asked)
    nbytes = sum(layer.nbytes for layer in _layers_of(_contents(asked.shard_px, count=1)[0]).values())
    facts = {
        "tiles": asked.tiles, "shard_px": asked.shard_px, "chunk_px": asked.chunk_px, "threads": asked.threads,
        "rounds": asked.rounds, "passes": asked.passes, "bytes_a_tile": nbytes, "codec": "zstd 1 with checksum",
        "s3": "moto in its own process, loopback, the same cores", "load_before": os.getloadavg(), "ways": figures,
    }  # fmt: skip
    if asked.out:
        asked.out.write_text(json.dumps({"made_with": circumstances(), **facts}, indent=2, default=str) + "\n")
    print(asked.out or record("write", facts))


def _compared(place: str, root: str, asked: argparse.Namespace) -> dict[str, Any]:
    taken: dict[str, list[dict[str, Any]]] = {way: [] for way in asked.ways}
    for number in range(asked.passes):
        for way, runs in taken.items():
            url = f"{root}/{number}-{list(WAYS).index(way)}"
            command = [sys.executable, "-m", "benchmarks.bench_write", *sys.argv[1:], "--one", way, url]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(answer.stdout))
            shutil.rmtree(url, ignore_errors=True)
    figures = {way: _summary(runs, asked) for way, runs in taken.items()}
    print(f"{place}:")
    for way, figure in figures.items():
        print(
            f"  {figure['tiles_s']:7.1f} tiles/s  {figure['mb_s']:6.0f} MB/s  "
            f"{1000 * figure['cpu_s_a_tile']:6.1f} ms CPU a tile  {figure['peak_mb']:6.0f} MB  {way}"
        )
    return figures


def _summary(runs: list[dict[str, Any]], asked: argparse.Namespace) -> dict[str, Any]:
    seconds = [one for run in runs for one in run["s"]]
    middle = statistics.median(seconds)
    return {
        "tiles_s": round(asked.tiles / middle, 2),
        "shards_s": round(runs[0]["shards"] / middle, 2),
        "mb_s": round(runs[0]["nbytes"] / 1e6 / middle, 1),
        "round_median_s": round(middle, 4),
        "round_least_s": round(min(seconds), 4),
        "round_most_s": round(max(seconds), 4),
        "cpu_s_a_tile": round(statistics.median(one for run in runs for one in run["cpu_s"]) / asked.tiles, 5),
        "peak_mb": round(statistics.median(run["peak_mb"] for run in runs), 1),
        "stored_mb": round(runs[0]["stored"] / 1e6, 2) if runs[0]["stored"] else None,
    }


def _measured(way: str, url: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds and CPU-seconds of each round, in this process."""
    mosaic = _made(url, asked, engine="icechunk" if "icechunk" in way else "zarr")
    contents = _contents(asked.shard_px, count=CONTENTS)
    rounds = [
        Round(mosaic=mosaic, time=number, contents=contents, threads=asked.threads)
        for number in range(1 + asked.rounds)
    ]
    seconds, cpu = [], []
    chosen = WAYS[way](url)
    with _Peak() as peak:
        for one in rounds:
            begun, spent = time.perf_counter(), time.process_time()
            chosen.write(one)
            seconds.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - spent)
    _compare(Mosaic.open(url, writable=False), rounds)
    written = [rounds[0].layers(tile) for tile in rounds[0].tiles]
    files = [path for path in Path(url).rglob("*") if path.is_file() and ("/c/" in str(path) or "chunks" in str(path))]
    return {
        "s": seconds[1:],
        "cpu_s": cpu[1:],
        "peak_mb": peak.mb,
        "shards": sum(len(_layers_of(layers)) for layers in written),
        "nbytes": sum(layer.nbytes for layers in written for layer in _layers_of(layers).values()),
        "stored": sum(path.stat().st_size for path in files) // len(rounds),
    }


class _Peak:
    """What this process holds at most, over what it held at the beginning, in megabytes."""

    def __enter__(self) -> _Peak:
        self._process, self._over = psutil.Process(), threading.Event()
        self._before, self.mb = self._process.memory_info().rss, 0.0
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.mb = max(self.mb, (self._process.memory_info().rss - self._before) / 1e6)

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()


# The ways -------------------------------------------------------------------------------------------------------------


class _Way(Protocol):
    """One way of writing; what it opens stays open."""

    def write(self, one: Round) -> object: ...


class _Ours:
    """Through the mosaic that was made, and what it hands in is committed."""

    def __init__(self, url: str) -> None:
        pass

    def write(self, one: Round) -> object:
        written = one.each_tile(lambda tile: one.mosaic.write(one.grid, tile, one.time, one.layers(tile)))
        receipts = [tile.receipt for tile in written if tile.receipt is not None]
        return one.mosaic.commit(receipts, "a round", {})


class _Zarr:
    """Assignment to a region, array by array; the arrays are opened once."""

    def __init__(self, url: str) -> None:
        self.url = url
        root = zarr.open_group(self.store(), mode="r+")
        self._arrays: dict[str, Any] = {name: root[f"0/{name}"] for name in ("mask", "score", "source")}

    def store(self) -> Store:
        return plain_store(self.url, read_only=False)

    def write(self, one: Round) -> object:
        def write(tile: Tile) -> None:
            place = tile.core.within(one.grid.box)
            for name, pixels in _layers_of(one.layers(tile)).items():
                axes = (one.time,) if name == "source" else (0, one.time)
                self._arrays[name][*axes, *place] = pixels

        return one.each_tile(write)


class _Zarrs(_Zarr):
    """The same through the pipeline in Rust, which knows local folders and obstore's buckets."""

    def __init__(self, url: str) -> None:
        warnings.filterwarnings("ignore", "Successfully reconstructed a store", RuntimeWarning)  # as it should be
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True})
        super().__init__(url)

    def store(self) -> Store:
        if not self.url.startswith("s3://"):
            return super().store()
        bucket, _, folder = self.url.removeprefix("s3://").partition("/")
        server = os.environ["AWS_ENDPOINT_URL"]
        return ObjectStore(S3Store(
            bucket, prefix=folder, endpoint=server, virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        ))  # fmt: skip


class _XarrayTiles:
    """``to_zarr(region=…)`` of arrays in memory, tile by tile."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, one: Round) -> object:
        def write(tile: Tile) -> None:
            rows, columns = tile.core.within(one.grid.box)
            layers = _layers_of(one.layers(tile))
            _to_zarr(self.url, layers, one.time, {"y": rows, "x": columns})

        return one.each_tile(write)


class _XarrayDask:
    """One ``to_zarr(region=…)`` of a lazy time step, a dask chunk a shard, on dask's threads."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, one: Round) -> object:
        rows, columns = one.grid.tile_shape
        layers: dict[str, Any] = {}
        array: Any = dask.array  # it has no types of its own
        for name in ("mask", "score", "source"):
            tiles = [[_layers_of(one.layers(one.grid.tile(r, c)))[name] for c in range(columns)] for r in range(rows)]
            layers[name] = array.block([[array.from_array(tile, chunks=-1) for tile in row] for row in tiles])
        with dask.config.set(scheduler="threads", num_workers=one.threads):
            height, width = one.grid.shape
            return _to_zarr(self.url, layers, one.time, {"y": slice(0, height), "x": slice(0, width)})


def _to_zarr(url: str, layers: dict[str, Any], time_step: int, place: dict[str, slice]) -> object:
    variables = {}
    for name, pixels in layers.items():
        dimensions = ("time", "y", "x") if name == "source" else ("prompt", "time", "y", "x")
        variables[name] = xr.Variable(dimensions, pixels[(None,) * (len(dimensions) - 2)])
    region = {"prompt": slice(0, 1), "time": slice(time_step, time_step + 1), **place}
    return xr.Dataset(variables).to_zarr(
        plain_store(url, read_only=False), group="0", region=region, mode="r+", consolidated=False, zarr_format=3
    )


WAYS: dict[str, Callable[[str], _Way]] = {
    "resmap": _Ours,
    "resmap, icechunk, with the commit": _Ours,
    "zarr": _Zarr,
    "zarr with zarrs": _Zarrs,
    "xarray to_zarr, a tile at a time": _XarrayTiles,
    "xarray to_zarr, dask": _XarrayDask,
}


# What is written ------------------------------------------------------------------------------------------------------


def _layers_of(layers: TileLayers) -> dict[str, NDArray[Any]]:
    assert layers.source is not None
    return {"mask": layers.mask[0], "score": layers.score[0], "source": layers.source}


def _made(url: str, asked: argparse.Namespace, *, engine: Any) -> Mosaic:
    """An empty mosaic, as square as so many tiles can be, with a time step for each round."""
    rows = next(rows for rows in range(int(asked.tiles**0.5), 0, -1) if asked.tiles % rows == 0)
    box = PixelBox(0, 0, rows * asked.shard_px, asked.tiles // rows * asked.shard_px)
    grid = Grid(lattice=LATTICE, box=box, shard_px=asked.shard_px, chunk_px=asked.chunk_px)
    times = tuple(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(1 + asked.rounds))
    prompts = (Prompt(name="building", expression="the buildings"),)
    return Mosaic.create(url, MosaicSpec(grids=(grid,), prompts=prompts, times=times, made_by={}), engine=engine)


def _contents(side: int, *, count: int) -> tuple[TileLayers, ...]:
    """Tiles like those of a map: smooth scores with a little noise, blots above the threshold, some scenes, a gap."""
    return tuple(_content(np.random.default_rng(seed), side) for seed in range(count))


def _content(rng: np.random.Generator, side: int) -> TileLayers:
    coarse = ndimage.gaussian_filter(rng.normal(size=(side // 8, side // 8)), 2)
    logits = 3 * ndimage.zoom(coarse / coarse.std(), 8, order=1)[:side, :side] - 3
    logits += 0.02 * rng.normal(size=logits.shape)
    score = np.rint(SCORE_ONE / (1 + np.exp(-logits))).astype(np.uint8)
    score[: side // 16] = UNOBSERVED
    mask = np.where(score == UNOBSERVED, UNOBSERVED, score >= SCORE_ONE // 2).astype(np.uint8)
    y, x = np.mgrid[:side, :side]
    source = ((x + y // 7) // 900 + 5 * ((y - x // 9) // 1100)).astype(np.uint32)
    return TileLayers(mask=mask[None], score=score[None], source=source, prompts=(0,))


def _compare(mosaic: Mosaic, rounds: Iterable[Round]) -> None:
    for one in rounds:
        for tile in one.tiles:
            read = mosaic.read(one.grid, tile, one.time, 0)
            for layer, (name, meant) in zip(read, _layers_of(one.layers(tile)).items(), strict=True):
                assert (layer == meant).all(), f"{name} of {tile.name} in round {one.time} is not what was written"


if __name__ == "__main__":
    main()
