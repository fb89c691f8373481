"""What the processes of one machine ask a store for to open the same files, and what a cache of headers could save.

python -m benchmarks.bench_headers [--scenes 2] [--processes 1 2 4] [--stretch 8] [--out FILE]

Scenes of three files each (uint16, deflate, COG) lie side by side and are read as a run reads them: tiles along a
Hilbert curve, handed out in stretches of neighbours, a reader a process, over HTTP. Every request is counted: HEAD, the
first bytes of a file, and pixels. Scenes, blocks, shards and windows have half the side of usual ones, so that a file
has as many blocks, and its index is as long, as one of 6144 px in blocks of 512.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from affine import Affine

from benchmarks.record import record
from mapper.curve import hilbert
from mapper.grid import Lattice, PixelBox, Windows
from mapper.imagery import Asset, Band, Item, PlacedItem
from mapper.read import RasterReader
from tests.servers import Request, files_over_http

SIDE_PX, BLOCK_PX, SHARD_PX = 3072, 256, 1024
WINDOWS = Windows(size_px=448, overlap_px=64)
LATTICE = Lattice(crs="EPSG:32632", res_x=10.0, res_y=10.0)
BANDS = ("red", "green", "blue")
LEFT, TOP = 60_000, -600_000
"""Lattice pixels of the upper left corner."""

FIRST_BYTES = 65_536
"""A range that begins before this is of a header: of these files, the pixels of overviews lie behind it."""


def main() -> None:
    """Make the scenes, read them with some processes, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2, help="along each side")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stretch", type=int, default=8, help="neighbouring tiles that go to one process")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        _read(**json.loads(asked.read))
        return
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), asked.scenes)
        cases = [_case(Path(folder), asked.scenes, count, asked.stretch) for count in asked.processes]
    facts = {"scenes": asked.scenes**2, "files": asked.scenes**2 * len(BANDS), "stretch": asked.stretch,
             "tiles": len(_tiles(asked.scenes))}  # fmt: skip
    print(record("headers", {**facts, "cases": cases}))


def _make(folder: Path, scenes: int) -> None:
    dice = np.random.default_rng(0)
    coarse = np.kron(dice.integers(500, 3000, (96, 96)), np.ones((32, 32)))
    pixels = (coarse + dice.normal(0, 60, (SIDE_PX, SIDE_PX))).astype(np.uint16)
    for row in range(scenes):
        for column in range(scenes):
            left, top = LEFT + column * SIDE_PX, TOP + row * SIDE_PX
            transform = Affine(10, 0, 10.0 * left, 0, -10, -10.0 * top)
            profile = {"width": SIDE_PX, "height": SIDE_PX, "count": 1, "dtype": "uint16", "nodata": 0}
            with rasterio.open(
                folder / "plain.tif", "w", driver="GTiff", crs=LATTICE.crs, transform=transform, **profile
            ) as plain:
                plain.write(pixels, 1)
            for band in BANDS:
                path = folder / f"{row}-{column}-{band}.tif"
                rasterio.shutil.copy(folder / "plain.tif", path, driver="COG", compress="deflate", blocksize=BLOCK_PX)
    (folder / "plain.tif").unlink()


def _tiles(scenes: int) -> list[tuple[int, int]]:
    side = scenes * SIDE_PX // SHARD_PX
    rows, columns = (axis.ravel() for axis in np.indices((side, side)))
    order = np.argsort(hilbert(rows, columns), kind="stable")
    return [(int(rows[n]), int(columns[n])) for n in order]


def _read(*, url: str, scenes: int, tiles: list[tuple[int, int]]) -> None:
    """As one process of a run does."""
    items: list[PlacedItem] = []
    for row in range(scenes):
        for column in range(scenes):
            bands = tuple(
                Band(asset=Asset(key=band, href=f"{url}/{row}-{column}-{band}.tif"), name=band) for band in BANDS
            )
            item = Item(id=f"{row}-{column}", collection="c", datetime=datetime(2024, 1, 1, tzinfo=UTC),
                        footprint=shapely.box(0, 0, 1, 1), bands=bands, index=len(items))  # fmt: skip
            top, left = TOP + row * SIDE_PX, LEFT + column * SIDE_PX
            items.append(PlacedItem(item=item, extent=PixelBox(top, left, top + SIDE_PX, left + SIDE_PX)))
    reader = RasterReader(bands=3, stretch=(0.0, 3000.0))
    for row, column in tiles:
        top, left = TOP + row * SHARD_PX, LEFT + column * SHARD_PX
        frame = WINDOWS.frame(PixelBox(top, left, top + SHARD_PX, left + SHARD_PX))
        reader.read([item for item in items if not item.extent.intersection(frame).empty], LATTICE, frame)


def _case(folder: Path, scenes: int, processes: int, stretch: int) -> dict[str, Any]:
    tiles = _tiles(scenes)
    stretches = [tiles[at : at + stretch] for at in range(0, len(tiles), stretch)]
    with files_over_http(folder) as served:
        readers = []
        for number in range(processes):
            own = [tile for part in stretches[number::processes] for tile in part]
            asked = json.dumps({"url": served.url, "scenes": scenes, "tiles": own})
            readers.append(subprocess.Popen([sys.executable, "-m", "benchmarks.bench_headers", "--read", asked]))
        if any(reader.wait() for reader in readers):
            raise SystemExit("a reader failed")
    kinds, moved = Counter[str](), Counter[str]()
    for request in served.requests:
        kind, size = _kind(request)
        kinds[kind] += 1
        moved[kind] += size
    files = scenes**2 * len(BANDS)
    total, total_bytes = kinds.total(), moved.total()
    # What is kept must be asked for anew with a HEAD before it is trusted: a cache saves the bytes, and not that.
    spared = max(0, kinds["header"] - files)
    case = {
        "processes": processes,
        "requests": total,
        **{f"{kind}_requests": kinds[kind] for kind in ("head", "header", "pixels")},
        "mb": round(total_bytes / 1e6, 1),
        "header_mb": round(moved["header"] / 1e6, 2),
        "a_cache_saves_requests": round(spared / total, 4),
        "a_cache_saves_bytes": round(spared / max(1, kinds["header"]) * moved["header"] / total_bytes, 4),
    }
    print(json.dumps(case), flush=True)
    return case


def _kind(request: Request) -> tuple[str, int]:
    """What a request is for, and how many bytes it asks for."""
    if request.method == "HEAD":
        return "head", 0
    headers = {name.lower(): value for name, value in request.headers.items()}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
    if wanted is None:
        return "header", 0
    first, last = int(wanted[1]), int(wanted[2])
    return "header" if first < FIRST_BYTES else "pixels", last - first + 1


if __name__ == "__main__":
    main()
