"""One lattice cell of a raster that lies elsewhere: which of its pixels it needs, and the warp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds

from mapper.grid import BLOCK_PX, Lattice, PixelBox
from mapper.imagery import Valid
from mapper.raster import Cell, Raster, Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpSource:
    """The pixels of a raster under one lattice cell, with a margin."""

    box: PixelBox
    """In pixels of the raster."""

    step: int
    """A power of two: so many pixels a side are averaged to one before the warp."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns once averaged."""
        return math.ceil(self.box.height / self.step), math.ceil(self.box.width / self.step)


def warp_source(raster: Raster, lattice: Lattice, cell: PixelBox, resampling: Resampling) -> WarpSource | None:
    """What must be read to warp one lattice cell, or None where the two do not meet.

    Imagery finer than the lattice is averaged down by a power of two first (overviews serve that), so that a
    coarse map of fine imagery is not a sample of single pixels.
    """
    bounds = transform_bounds(lattice.crs, raster.crs, *lattice.bounds(cell), densify_pts=21)
    to_pixel = ~raster.transform
    corners = [to_pixel @ (x, y) for x in bounds[::2] for y in bounds[1::2]]
    columns, rows = [c for c, _ in corners], [r for _, r in corners]
    finer = min(max(columns) - min(columns), max(rows) - min(rows)) / BLOCK_PX
    step = 1 if resampling == Resampling.nearest else 2 ** max(0, math.floor(math.log2(max(finer, 1.0)) + 1e-9))
    margin = 2 * step  # a bilinear kernel reaches one pixel further on each side
    box = PixelBox(
        math.floor(min(rows)) - margin, math.floor(min(columns)) - margin,
        math.ceil(max(rows)) + margin, math.ceil(max(columns)) + margin,
    ).snapped(step).intersection(raster.box)  # fmt: skip
    return None if box.empty else WarpSource(box=box, step=step)


def warp_cell(
    raster: Raster,
    source: WarpSource,
    raw: Raw,
    seen: Valid | None,
    cell: PixelBox,
    lattice: Lattice,
    resampling: Resampling,
) -> Cell:
    """One lattice cell, warped.

    Args:
        raster: where the pixels lie.
        source: which of its pixels they are.
        raw: stored values ``(band, y, x)`` of ``source.shape``.
        seen: ``(y, x)``, where they are real; None where all are.
        cell: a cell of ``BLOCK_PX`` of the lattice.
        lattice: where to.
        resampling: bilinear, or nearest for classes.
    """
    scale = Affine.scale(source.box.width / source.shape[1], source.box.height / source.shape[0])
    # The valid mask travels as an alpha band: the warper weighs pixels by it, so no nodata bleeds into the edge.
    work = raw.dtype if raw.dtype in (np.uint8, np.uint16, np.int16, np.float32) else np.dtype(np.float32)
    top = 1 if work == np.float32 else np.iinfo(work.name).max
    stack = np.full((len(raw) + 1, *source.shape), top, work)
    stack[:-1] = raw
    if seen is not None:
        stack[-1][~seen] = 0
    warped = np.zeros((len(stack), *cell.shape), work)
    reproject(
        stack,
        warped,
        src_transform=raster.transform @ Affine.translation(source.box.left, source.box.top) @ scale,
        src_crs=raster.crs,
        dst_transform=lattice.transform(cell),
        dst_crs=lattice.crs,
        resampling=resampling,
        src_alpha=len(stack),
        dst_alpha=len(stack),
        tolerance=0.0,  # exact: the approximation's error would depend on the cell
        num_threads=1,
    )
    valid = warped[-1] > top / 2
    return warped[:-1].astype(raw.dtype), None if valid.all() else valid
