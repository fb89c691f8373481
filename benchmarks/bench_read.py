"""Frames of neighbouring tiles of a scene on its own grid, over HTTP: our reader against those people use.

python -m benchmarks.bench_read [--size 6144] [--repeats 3] [--latency-ms 0 30] [--out FILE]

What is read is what a run reads: along a Hilbert curve, for each shard the frame around all model windows that touch
it, so that neighbours overlap. Scenes have noise and structure, so that they compress as imagery does: an aerial
picture (three bands of uint8 in one file, pixel-interleaved, 512 px blocks; deflate, and zstd) and a satellite's (three
files of uint16, deflate); predictor 2 in all.

Every way runs in a process of its own on the same cores as the server, with as many callers as the others. It reads
each time under addresses nobody has asked for before, after one time that warms it up; so every header is asked for
anew. Seconds run from before a scene is opened to its last box. Afterwards all boxes are read once more, untimed, and
compared with what the files hold. Ours does more than its peers: it stretches to uint8 where they give uint16, and says
what is valid and which item it shows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.ranged_server import RangedServer, delivers, ranged_server
from benchmarks.read_peers import LATTICE, STRETCH, WAYS, Scene
from benchmarks.record import record
from mapper.curve import hilbert
from mapper.develop import Stretched
from mapper.grid import PixelBox, Windows
from mapper.imagery import Asset, Band

SHARD_PX, WINDOW_PX, OVERLAP_PX = 2048, 896, 128
"""A job's default shards and overlap; the windows of RemoteSAM."""

SCENES: dict[str, dict[str, Any]] = {
    "aerial, deflate": {"files": ("rgb-deflate.tif",), "dtype": "uint8"},
    "aerial, zstd": {"files": ("rgb-zstd.tif",), "dtype": "uint8"},
    "satellite, deflate": {"files": ("red.tif", "green.tif", "blue.tif"), "dtype": "uint16"},
}


def main() -> None:
    """Make the scenes, measure every way on each, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=6144, help="pixels a side of a scene")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0.0, 30.0])
    parser.add_argument("--callers", type=int, default=2 * (os.cpu_count() or 1), help="windows asked for at a time")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="a folder for the scenes, made where they are not there yet")
    parser.add_argument("--out", type=Path, help="a file for the figures, instead of results/read.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a process of one way is told
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_measured(**json.loads(asked.one))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (asked.keep or Path(scratch)) / f"scenes-{asked.size}"
        if not folder.exists():  # in a process of its own: what a process held at its peak, its children say they held
            maker = multiprocessing.get_context("spawn").Process(target=_make, args=(folder, asked.size))
            maker.start()
            maker.join()
        figures = _all(folder, asked)
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(asked.out or record("read", figures))


def _all(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures; each is told as it comes."""
    boxes = frames(asked.size)
    _link(folder, asked.repeats)
    measured = []
    for latency_ms in asked.latency_ms:
        with ranged_server(folder, latency_s=latency_ms / 1000) as server:
            limit = delivers(server, "rgb-deflate.tif")
            for scene in SCENES:
                facts = {"scene": scene, "latency_ms": latency_ms, "server": limit}
                ways = {}
                for way in asked.only:
                    word = {"way": way, "scene": scene, "url": server.url, "folder": str(folder)}
                    word |= {"size": asked.size, "repeats": asked.repeats, "callers": asked.callers}
                    ways[way] = _in_a_process(word)
                measured.append(facts | {"ways": _compared(ways, boxes)})
                _tell(measured[-1])
    return {
        "size_px": asked.size,
        "shard_px": SHARD_PX,
        "window_px": WINDOW_PX,
        "overlap_px": OVERLAP_PX,
        "frames": len(boxes),
        "frames_px": sum(box.height * box.width for box in boxes),
        "callers": asked.callers,
        "repeats": asked.repeats,
        "compressed_to": {path.name: round(_share(path), 3) for path in sorted(folder.glob("*.tif"))},
        "measured": measured,
    }


def frames(size_px: int) -> list[PixelBox]:
    """What is read for each shard of a scene, along the curve."""
    windows = Windows(size_px=WINDOW_PX, overlap_px=OVERLAP_PX)
    whole = PixelBox(0, 0, size_px, size_px)
    cores = [core.intersection(whole) for core in whole.cells(SHARD_PX)]
    order = np.argsort(hilbert([core.top // SHARD_PX for core in cores], [core.left // SHARD_PX for core in cores]))
    return [windows.frame(cores[place]).intersection(whole) for place in order]


def _in_a_process(word: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_read", "--one", json.dumps(word)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def _measured(*, way: str, scene: str, url: str, folder: str, size: int, repeats: int, callers: int) -> dict[str, Any]:
    """One way on one scene, in this process."""
    server, boxes, runs = RangedServer(url=url, folder=Path(folder)), frames(size), []
    for repeat in range(repeats + 1):
        before = server.served()
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in WAYS[way](_scene(scene, f"{url}/{repeat}", size), callers)(boxes):
            pass
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        served = server.served() - before
        runs.append({"s": seconds, "cpu_s": cpu, "requests": served.requests, "bytes": served.bytes})
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = [rasterio.open(Path(folder) / name) for name in SCENES[scene]["files"]]
    given = WAYS[way](_scene(scene, f"{url}/{repeats}", size), callers)(boxes)
    same = all(
        np.array_equal(_pixels(pixels), _pixels(_true(files, box))) for pixels, box in zip(given, boxes, strict=True)
    )
    return {"runs": runs[1:], "peak_mb": round(peak_mb), "same": same}


def _scene(scene: str, url: str, size: int) -> Scene:
    facts = SCENES[scene]
    return Scene(urls=tuple(f"{url}/{name}" for name in facts["files"]), size_px=size, dtype=facts["dtype"])


def _true(files: list[Any], box: PixelBox) -> NDArray[Any]:
    """What the files on disk hold."""
    window = rasterio.windows.Window(box.left, box.top, box.width, box.height)
    return np.concatenate([file.read(window=window) for file in files])


def _pixels(values: NDArray[Any]) -> NDArray[Any]:
    """As a model is given them, whether the way did that or not."""
    if values.dtype == np.uint8:
        return values
    band = Band(asset=Asset(key="", href=""))
    return Stretched.of((band,) * len(values), STRETCH)(values, None)[0]


def _compared(ways: dict[str, dict[str, Any]], boxes: list[PixelBox]) -> dict[str, Any]:
    """Medians of each way, and how many times as fast ours is."""
    summed = {way: _summary(figures, boxes) for way, figures in ways.items()}
    if "ours" in summed:
        for figures in summed.values():
            figures["ours_is_faster"] = round(figures["median_s"] / summed["ours"]["median_s"], 2)
            figures["ours_cpu_is_less"] = round(figures["cpu_s"] / summed["ours"]["cpu_s"], 2)
    return summed


def _summary(figures: dict[str, Any], boxes: list[PixelBox]) -> dict[str, Any]:
    runs, pixels = figures["runs"], sum(box.height * box.width for box in boxes)
    seconds = [run["s"] for run in runs]
    median = statistics.median(seconds)
    return {
        "frames_per_s": round(len(boxes) / median, 2),
        "mpx_per_s": round(pixels / median / 1e6, 1),
        "median_s": round(median, 3),
        "least_s": round(min(seconds), 3),
        "most_s": round(max(seconds), 3),
        "cpu_s": round(statistics.median(run["cpu_s"] for run in runs), 3),
        "requests": statistics.median(run["requests"] for run in runs),
        "mb": round(statistics.median(run["bytes"] for run in runs) / 1e6, 1),
        "peak_mb": figures["peak_mb"],
        "pixels_agree": figures["same"],
    }


def _tell(measured: dict[str, Any]) -> None:
    print(f"{measured['scene']}, {measured['latency_ms']:g} ms", file=sys.stderr)
    for way, told in measured["ways"].items():
        print(
            f"{told['frames_per_s']:8.2f} frames/s {told['mpx_per_s']:7.1f} Mpx/s {told['cpu_s']:6.2f} CPU-s"
            f"{told['requests']:6.0f} requests {told['mb']:7.1f} MB{told['peak_mb']:6d} MB held"
            f"{told.get('ours_is_faster', 0):6.2f} × {'' if told['pixels_agree'] else 'WRONG PIXELS '} {way}",
            file=sys.stderr,
        )


def _make(folder: Path, size: int) -> None:
    """The files of all scenes."""
    folder.mkdir(parents=True)
    ground = 30 * _field(size, 200, 1) + 18 * _field(size, 24, 2) + 9 * _field(size, 5, 3)
    rng = np.random.default_rng(0)
    light = np.stack([110 + share * ground + 4 * _noise(rng, size) for share in (1.0, 0.9, 0.8)])
    aerial = np.clip(light, 0, 255).astype(np.uint8)
    for codec in ("deflate", "zstd"):
        _write(folder / f"rgb-{codec}.tif", aerial, compress=codec, interleave="pixel")
    for number, name in enumerate(("red", "green", "blue")):
        stored = np.clip(1800 + 12 * (1 + 0.1 * number) * ground + 40 * _noise(rng, size), 1, 10_000)
        _write(folder / f"{name}.tif", stored.astype(np.uint16)[None], compress="deflate", nodata=0)


def _field(size: int, grain_px: int, seed: int) -> NDArray[np.float32]:
    """Soft hills of about so many pixels."""
    nodes = np.random.default_rng(seed).standard_normal((size // grain_px + 3,) * 2, np.float32)
    return np.asarray(ndimage.zoom(nodes, grain_px, order=1)[:size, :size], np.float32)


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    return rng.standard_normal((size, size), np.float32)


def _write(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    """A cloud-optimised GeoTIFF with predictor 2, no overviews: none is read."""
    bands, height, width = pixels.shape
    corner = Scene(urls=(), size_px=height, dtype=str(pixels.dtype)).transform
    draft = path.with_suffix(".draft")
    with (
        rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"),
        rasterio.open(
            draft, "w", driver="GTiff", count=bands, height=height, width=width, dtype=pixels.dtype, crs=LATTICE.crs,
            transform=corner, tiled=True, blockxsize=512, blockysize=512, predictor=2, **options,
        ) as file,
    ):  # fmt: skip
        file.write(pixels)
    draft.rename(path)


def _link(folder: Path, repeats: int) -> None:
    """The same files under an address for each repeat."""
    for repeat in range(repeats + 1):
        (folder / str(repeat)).mkdir(exist_ok=True)
        for path in folder.glob("*.tif"):
            link = folder / str(repeat) / path.name
            if not link.exists():
                link.hardlink_to(path)


def _share(path: Path) -> float:
    """Bytes of a file over those of its pixels."""
    with rasterio.open(path) as file:
        whole = sum(np.dtype(dtype).itemsize for dtype in file.dtypes) * file.width * file.height
    return float(path.stat().st_size / whole)


if __name__ == "__main__":
    main()
