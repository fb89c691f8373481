"""A mosaic as one PMTiles file: every zoom of a web map, which a browser or QGIS reads piece by piece from any server.

The tiles of a zoom are walked along the archive's own curve, from the whole Earth down, and a branch under which no
shard is stored is never entered: a continent's coast costs nothing for the sea. Tiles with nothing in them are left
out, equal ones are kept once, and the same mosaic gives the same bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from mapper.errors import MosaicError, QuestionError
from mapper.exports.chosen import chosen_prompt, chosen_time, iso
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.web.degrees import Bounds
from mapper.web.tile_picture import legend, png
from mapper.web.webtiles import PENDING, TILE_PX, WebTiles

ENCODERS = min(4, os.cpu_count() or 1)
"""Threads that read and encode tiles."""

Place: TypeAlias = tuple[int, int, int]
"""Zoom, column, row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileArchive:
    """What was written."""

    path: Path
    prompt: str
    time: datetime
    tiles: int
    """With something in them."""

    min_zoom: int
    max_zoom: int
    bounds: Bounds
    """West, south, east, north in degrees."""

    size_bytes: int


def write_pmtiles(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: str | datetime | None = None,
    max_zoom: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TileArchive:
    """Write one prompt and time step as raster tiles; a file of that name is replaced when the new one is whole.

    What is not in the file yet waits in the temporary folder (``TMPDIR``), so that must hold as much as the file.

    Args:
        mosaic_url: path or URL of the mosaic.
        out: the file to write.
        prompt: name of the prompt; may be left out where there is one.
        time: when its time step begins; the latest where left out.
        max_zoom: the deepest zoom; where left out, the first that shows every pixel of the mosaic.
        progress: told the zoom and the tiles written so far, after each tile.

    Raises:
        QuestionError: no such prompt, time step, or zoom, or nothing to write a file at.
        MosaicError: no mosaic, nothing in it, or levels above that are not built.
    """
    mosaic = Mosaic.open(mosaic_url, writable=False)
    prompt_at, time_at = chosen_prompt(mosaic, prompt), chosen_time(mosaic, time)
    tiles = WebTiles(mosaic)
    deepest = tiles.max_zoom if max_zoom is None else max_zoom
    if not 0 <= deepest <= tiles.max_zoom:
        raise QuestionError(f"there is no zoom {deepest}", fix=f"give 0 to {tiles.max_zoom}", mosaic=mosaic_url)
    if out.is_dir():
        raise QuestionError("this is a folder", fix="name a file that ends in .pmtiles", out=out)

    def drawn(place: Place) -> bytes | None:
        values = tiles.tile(*place, prompt=prompt_at, time=time_at)
        if (values == PENDING).any():
            raise MosaicError(
                "the coarser levels of this mosaic are not built yet, so there is no overview to export",
                fix="finish its run with `resmap run JOB`",
                mosaic=mosaic_url,
            )
        return None if (values == UNMAPPED).all() else png(values, prompt=prompt_at)

    places = places_with_anything(tiles.stored_bounds(prompt=prompt_at, time=time_at), deepest)
    with _draft_of(out) as file:
        writer = Writer(file)  # type: ignore[no-untyped-call]  # pmtiles states types for half of itself
        with contextlib.closing(writer.tile_f):
            for place, picture in _in_order(drawn, places):
                if picture is not None:
                    writer.write_tile(zxy_to_tileid(*place), picture)  # type: ignore[no-untyped-call]  # as above
                    if progress is not None:
                        progress(place[0], writer.addressed_tiles)
            if not writer.tile_entries:
                raise MosaicError("nothing of this prompt and time step is mapped yet", mosaic=mosaic_url)
            header = _header(tiles.bounds, deepest)
            writer.finalize(header, _metadata(tiles, prompt_at, time_at))  # type: ignore[no-untyped-call]  # as above
    return TileArchive(
        path=out,
        prompt=mosaic.prompts[prompt_at].name,
        time=mosaic.times[time_at],
        tiles=writer.addressed_tiles,
        min_zoom=header["min_zoom"],
        max_zoom=header["max_zoom"],
        bounds=tiles.bounds,
        size_bytes=out.stat().st_size,
    )


def places_with_anything(stored: NDArray[np.float64], max_zoom: int) -> Iterator[Place]:
    """Every tile that can show one of these boxes, zoom by zoom, in the order of the archive's curve.

    Args:
        stored: west, south, east, north in degrees, a row a box.
        max_zoom: the deepest zoom.
    """
    boxes = _on_the_map(stored)
    for zoom in range(max_zoom + 1):
        # A pixel of a coarser level may reach beyond the boxes it was made of, and is not larger than the tile's.
        margin = 1 / (TILE_PX << zoom)
        yield from _under((0, 0, 0), zoom, boxes + margin * np.array([-1, -1, 1, 1]))


def _under(place: Place, zoom: int, boxes: NDArray[np.float64]) -> Iterator[Place]:
    z, x, y = place
    near = boxes * (1 << z)
    touching = (near[:, 0] < x + 1) & (near[:, 2] > x) & (near[:, 1] < y + 1) & (near[:, 3] > y)
    if not touching.any():
        return
    if z == zoom:
        yield place
        return
    quarters = [(z + 1, 2 * x + right, 2 * y + below) for right in (0, 1) for below in (0, 1)]
    for quarter in sorted(quarters, key=lambda each: zxy_to_tileid(*each)):
        yield from _under(quarter, zoom, boxes[touching])


def _on_the_map(stored: NDArray[np.float64]) -> NDArray[np.float64]:
    """Left, top, right, bottom as shares of the map; a box across the 180th meridian is there on both sides of it."""
    west, south, east, north = stored.T
    down = [0.5 - np.arctanh(np.sin(np.radians(np.clip(edge, -89.9, 89.9)))) / (2 * math.pi) for edge in (north, south)]
    boxes = np.stack([west / 360 + 0.5, down[0], east / 360 + 0.5, down[1]], axis=1)
    return np.concatenate([boxes + turn * np.array([1, 0, 1, 0]) for turn in (-1, 0, 1)])


def _in_order(drawn: Callable[[Place], bytes | None], places: Iterable[Place]) -> Iterator[tuple[Place, bytes | None]]:
    """The picture of each place, in order, with a few threads and a few tiles ahead."""
    waiting: deque[tuple[Place, Future[bytes | None]]] = deque()
    with ThreadPoolExecutor(ENCODERS) as threads:
        try:
            for place in places:
                waiting.append((place, threads.submit(drawn, place)))
                if len(waiting) > 4 * ENCODERS:
                    first, picture = waiting.popleft()
                    yield first, picture.result()
            while waiting:
                first, picture = waiting.popleft()
                yield first, picture.result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _draft_of(out: Path) -> Iterator[IO[bytes]]:
    """A file beside the target that takes its name once all is in it, and else is gone."""
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            yield file
        draft.replace(out)
    except OSError as error:
        raise QuestionError(
            f"the file cannot be written: {error.strerror}", fix="choose another --out", out=out
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _header(bounds: Bounds, max_zoom: int) -> dict[str, Any]:
    west, south, east, north = bounds
    # The zoom at which the mosaic is about as wide as three tiles, a window's worth.
    fits = math.floor(math.log2(360 * 3 / max(east - west, 1e-9)))
    return {
        "version": 3,
        "tile_type": TileType.PNG,
        "tile_compression": Compression.NONE,
        "min_lon_e7": round(west * 1e7),
        "min_lat_e7": round(south * 1e7),
        "max_lon_e7": round(east * 1e7),
        "max_lat_e7": round(north * 1e7),
        "center_lon_e7": round((west + east) / 2 * 1e7),
        "center_lat_e7": round((south + north) / 2 * 1e7),
        "center_zoom": max(0, min(fits, max_zoom)),
    }


def _metadata(tiles: WebTiles, prompt: int, time: int) -> dict[str, Any]:
    mosaic = tiles.mosaic
    asked, step = mosaic.prompts[prompt], mosaic.times[time]
    return {
        "name": asked.expression,
        "description": f"Where “{asked.expression}” was found, {step:%Y-%m-%d}",
        "type": "overlay",
        "format": "png",
        "legend": [asdict(line) for line in legend(prompt) if line.value != PENDING],
        "prompt": {"name": asked.name, "expression": asked.expression, "threshold": asked.threshold},
        "time": iso(step),
        "made_by": mosaic.made_by,
        "resmap": version("resmap"),
    }
