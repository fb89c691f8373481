"""One slice of a mosaic → a Cloud-Optimised GeoTIFF, for every program that knows GeoTIFF.

Its overviews are the mosaic's coarser levels, pixel for pixel. For that its frame ends on whole pixels of the
coarsest overview: each overview then covers what the file covers, and lies on the lattice of its level::

    frame     ├─┬─┬─┬─┬─┬─┬─┬─┤      what was asked for, grown by less than one pixel of the coarsest overview
    overview  ├───┬───┬───┬───┤      level 1
    overview  ├───────┬───────┤      level 2

Where a level is not built yet, it is reduced from the one below, as building it would. Pixels pass through in
blocks; what does not fit in memory waits, compressed, in a hidden folder beside the file.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.errors import MosaicError, StoreError
from mapper.exports.chosen import chosen_prompt, chosen_time, chosen_zone
from mapper.exports.cog_header import Layer, described, facts, qgis_style
from mapper.grid import Grid, PixelBox
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.pyramid import coarser
from mapper.questions.asking import When

if TYPE_CHECKING:
    from rasterio.io import DatasetWriter

TILE_PX = 512
"""Side of the file's tiles; the coarsest overview is one."""

BLOCK_PX = 8 * TILE_PX
"""Side of what is in memory at once: 16 MB a layer."""

CELL_PX = 256
"""Side of what is reduced at once: it stays in a processor's cache, which makes it twice as fast."""

_ORIGIN = PixelBox(0, 0, 0, 0)

Block: TypeAlias = NDArray[np.uint8]
"""``(layer, y, x)``: the mask, and under it the score where that is exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """What is exported, and from where."""

    mosaic: Mosaic
    prompt: int
    time: int
    layers: tuple[Layer, ...]

    def read(self, grid: Grid, box: PixelBox) -> Block:
        return np.stack(
            [self.mosaic.layer(grid, name, box, time=self.time, prompt=self.prompt) for name in self.layers]
        )

    def reduced(self, finer: Block) -> Block:
        """A block of the next coarser level."""
        out = np.full((len(finer), finer.shape[1] // 2, finer.shape[2] // 2), UNMAPPED, np.uint8)
        for cell in PixelBox(0, 0, *out.shape[1:]).cells(CELL_PX):
            under = finer[:, *cell.doubled().within(_ORIGIN)]
            if (under[0] != UNMAPPED).any():
                mask, score = coarser(under[0], under[-1], self.mosaic.pyramid)
                out[:, *cell.within(_ORIGIN)] = [mask, score][: len(finer)]
        return out


def write_cog(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: When | None = None,
    layer: Layer = "mask",
    zone: str | None = None,
    within: PixelBox | None = None,
    tags: Mapping[str, str] | None = None,
    levels_built: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write one prompt and time step as a Cloud-Optimised GeoTIFF.

    Names of the values go beside it, for GDAL (``.tif.aux.xml``) and, of a mask, for QGIS (``.qml``).

    Args:
        mosaic_url: path or URL of the mosaic.
        out: the file.
        prompt: by name; the only one where left out.
        time: when the step begins, see ``chosen_time``; the latest where left out.
        layer: ``mask``, with a colour table, or ``score``, 0 to 250. 254 is unobserved in both; 255, unmapped, is
            the file's nodata.
        zone: which, where the mosaic has several.
        within: pixels of the grid's lattice to export; all of the grid where left out.
        tags: more to write into the file's metadata.
        levels_built: whether the mosaic's coarser levels may be taken as they are, as after a run that has ended:
            shards of them that are missing are made. Otherwise all are made of the pixels: the same, in a third more
            time, and right while a run goes on.
        force: replace what is at ``out``.
        progress: is told blocks done and blocks in all.

    Raises:
        MosaicError: no mosaic there, or ``out`` exists or cannot be written.
        QuestionError: no such prompt, time or zone, or several.
        StoreError: the mosaic could not be read.
    """
    mosaic = Mosaic.open(mosaic_url, writable=False)
    chosen = _Slice(
        mosaic=mosaic,
        prompt=chosen_prompt(mosaic, prompt),
        time=chosen_time(mosaic, time),
        layers=("mask",) if layer == "mask" else ("mask", "score"),
    )
    grid = chosen_zone(mosaic, zone)
    frame, depth = framed(grid, within)
    refuse_taken(out, force=force)
    with _desk(out) as desk:
        levels = _write_levels(chosen, grid, frame, depth, desk, progress, levels_built=levels_built)
        source = desk / "source.vrt"
        place = (grid.lattice.crs, grid.lattice.transform(frame), frame.shape)
        words = facts(mosaic, prompt=chosen.prompt, time=chosen.time, layer=layer) | dict(tags or {})
        source.write_bytes(described(levels, *place, layer=layer, prompt=chosen.prompt, tags=words))
        _copy(source, desk / out.name, score=layer == "score")
        names = desk / f"{out.name}.aux.xml"
        if names.exists():
            names.replace(out.with_name(names.name))
        if layer == "mask":
            (desk / "style.qml").write_bytes(qgis_style(chosen.prompt))
            (desk / "style.qml").replace(out.with_suffix(".qml"))
        (desk / out.name).replace(out)
    return out


def framed(grid: Grid, within: PixelBox | None = None) -> tuple[PixelBox, int]:
    """The pixels a file covers, and how many overviews it has.

    Args:
        grid: of the mosaic.
        within: pixels asked for; all where None. What lies outside the grid is left out.

    Returns:
        A box of whole pixels of the coarsest overview, which fits into one tile.
    """
    wanted = grid.box if within is None else within.intersection(grid.box)
    wanted = grid.box if wanted.empty else wanted
    depth = 0
    while max(wanted.snapped(1 << depth).shape) > TILE_PX << depth:
        depth += 1
    return wanted.snapped(1 << depth), depth


def refuse_taken(out: Path, *, force: bool) -> None:
    """Whether something may be written here.

    Raises:
        MosaicError: something is there, and may not be replaced.
    """
    if out.is_dir():
        raise MosaicError("a folder is where a file should be", fix="choose another --out", out=out)
    if out.exists() and not force:
        raise MosaicError("there is a file already", fix="choose another --out, or add --force", out=out)


@contextmanager
def _desk(out: Path) -> Iterator[Path]:
    """A hidden folder beside the target, gone at the end."""
    desk = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        desk.mkdir()
        yield desk
    except OSError as error:
        raise MosaicError(f"the export cannot be written here: {error}", fix="choose another --out", out=out) from error
    finally:
        shutil.rmtree(desk, ignore_errors=True)


def _write_levels(
    chosen: _Slice,
    grid: Grid,
    frame: PixelBox,
    depth: int,
    desk: Path,
    progress: Callable[[int, int], None],
    *,
    levels_built: bool,
) -> list[Path]:
    """A plain GeoTIFF of each level of what is exported, the finest first."""
    import rasterio

    frames = [frame]
    for _ in range(depth):
        frames.append(frames[-1].halved())
    # One layer a file: GDAL takes the first band of an overview's file, whatever it is told.
    paths = {name: [desk / f"{name}{number}.tif" for number in range(depth + 1)] for name in chosen.layers}
    total, done, known = sum(_count(box) for box in frames), 0, len(grid.pyramid()) if levels_built else 0
    for number, box in enumerate(frames):
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), ExitStack() as open_files:
            files = [open_files.enter_context(_created(paths[name][number], grid, box)) for name in chosen.layers]
            finer = [
                open_files.enter_context(rasterio.open(paths[name][number - 1])) for name in chosen.layers if number
            ]
            for block in _blocks(box):
                if number:
                    window = _window(block.doubled(), frames[number - 1])
                    below = np.stack([file.read(1, window=window) for file in finer])
                    pixels = _coarse(chosen, grid if number < known else None, block, below)
                else:
                    pixels = chosen.read(grid, block)
                for file, layer in zip(files, pixels, strict=True):
                    if (layer != UNMAPPED).any():
                        file.write(layer, 1, window=_window(block, box))
                done += 1
                progress(done, total)
        grid = grid.coarser()
    return paths[chosen.layers[-1]]


def _coarse(chosen: _Slice, level: Grid | None, block: PixelBox, below: Block) -> Block:
    """A block of a coarser level: as the mosaic has it where the shard is built, else reduced from below."""
    if level is None:
        return chosen.reduced(below)
    out = np.full((len(chosen.layers), *block.shape), UNMAPPED, np.uint8)
    for tile in level.tiles_in(block):
        part = tile.core.intersection(block)
        under = below[:, *part.doubled().within(block.doubled())]
        if (under[0] == UNMAPPED).all():
            continue
        stored = chosen.read(level, part)
        out[:, *part.within(block)] = chosen.reduced(under) if (stored[0] == UNMAPPED).all() else stored
    return out


def _created(path: Path, grid: Grid, box: PixelBox) -> DatasetWriter:
    import rasterio

    options: dict[str, Any] = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": box.height, "width": box.width,
        "nodata": UNMAPPED, "crs": grid.lattice.crs, "transform": grid.lattice.transform(box), "tiled": True,
        "blockxsize": TILE_PX, "blockysize": TILE_PX, "compress": "zstd", "zstd_level": 1,
        "bigtiff": "if_safer", "sparse_ok": True,
    }  # fmt: skip
    return rasterio.open(path, "w", **options)


def _copy(source: Path, target: Path, *, score: bool) -> None:
    import rasterio.shutil

    options = {
        "COMPRESS": "DEFLATE", "LEVEL": 6, "PREDICTOR": "YES" if score else "NO", "BLOCKSIZE": TILE_PX,
        "OVERVIEWS": "FORCE_USE_EXISTING", "BIGTIFF": "IF_SAFER", "SPARSE_OK": "TRUE", "NUM_THREADS": "ALL_CPUS",
    }  # fmt: skip
    try:
        rasterio.shutil.copy(str(source), str(target), driver="COG", **options)
    except Exception as error:  # of GDAL, in classes of its own
        raise StoreError(
            f"GDAL could not write the file: {error}", fix="look whether the disk is full", file=target.name
        ) from error


def _blocks(frame: PixelBox) -> Iterator[PixelBox]:
    """Whole tiles of the file, row by row."""
    for top in range(frame.top, frame.bottom, BLOCK_PX):
        for left in range(frame.left, frame.right, BLOCK_PX):
            yield PixelBox(top, left, top + BLOCK_PX, left + BLOCK_PX).intersection(frame)


def _count(frame: PixelBox) -> int:
    return -(-frame.height // BLOCK_PX) * -(-frame.width // BLOCK_PX)


def _window(box: PixelBox, frame: PixelBox) -> Any:
    from rasterio.windows import Window

    return Window(box.left - frame.left, box.top - frame.top, box.width, box.height)
