"""A quick-look of a mosaic: imagery read again, coarsely, and the masks over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.warp import reproject, transform_geom
from shapely.geometry import mapping

from catalogs.select import items_order
from jobs.grids import pixel_km2, placed
from jobs.plan import Plan
from jobs.prepare import Prepared
from mapper.grid import Lattice, PixelBox
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.quicklook import sheet
from mapper.read import RasterReader

LARGEST_PX = 1600
"""Longer side of one panel."""


def write_quicklook(
    prepared: Prepared,
    path: Path,
    *,
    step: int | None = None,
    captions: dict[str, str] | None = None,
    footnote: str = "",
) -> None:
    """Draw one time step of a prepared job's mosaic to a PNG; the latest step where none is named."""
    spec, plan = prepared.job.spec, prepared.plan
    step = len(plan.steps) - 1 if step is None else step
    mosaic = Mosaic.open(spec.output.mosaic, writable=False)
    lattice, box = _frame(plan)
    reader = RasterReader(
        bands=len(spec.imagery.bands), stretch=spec.imagery.scale.from_ if spec.imagery.scale else None
    )
    serving = {item for tile in plan.tiles if tile.step == step for item in tile.items}
    items = items_order([plan.items[item] for item in sorted(serving)], spec.imagery.composite)
    view = reader.read([placed(item, lattice) for item in items], lattice, box)
    inside = _inside(plan, lattice, box)
    names = [prompt.name for prompt in mosaic.prompts]
    masks = {prompt.name: _mask(mosaic, plan, names.index(prompt.name), step, lattice, box) for prompt in spec.prompts}
    titles = {prompt.name: f"“{prompt.expression}”" for prompt in spec.prompts} | (captions or {})
    when = f" · {plan.steps[step]:%Y-%m-%d}" if len(plan.steps) > 1 else ""
    page = sheet(
        view.pixels[:3] if len(view.pixels) >= 3 else np.repeat(view.pixels[:1], 3, axis=0),
        view.valid & inside,
        masks,
        title=spec.name + when,
        captions=titles,
        metres_per_px=(pixel_km2(lattice, box) * 1e6) ** 0.5,
        footnote=footnote,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)


def _frame(plan: Plan) -> tuple[Lattice, PixelBox]:
    """A coarse lattice in the first grid's CRS, and the box of the whole area on it."""
    grid = plan.grids[0]
    left, bottom, right, top = plan.areas[grid.name].bounds
    for other in plan.grids[1:]:
        more = rasterio.warp.transform_bounds(other.lattice.crs, grid.lattice.crs, *plan.areas[other.name].bounds)
        left, bottom = min(left, more[0]), min(bottom, more[1])
        right, top = max(right, more[2]), max(top, more[3])
    finest = grid.lattice
    longest = max((right - left) / finest.res_x, (top - bottom) / finest.res_y)
    factor = 1
    while longest / factor > LARGEST_PX:
        factor *= 2
    lattice = Lattice(
        crs=finest.crs,
        res_x=finest.res_x * factor,
        res_y=finest.res_y * factor,
        phase_x=finest.phase_x,
        phase_y=finest.phase_y,
    )
    return lattice, lattice.pixels((left, bottom, right, top))


def _mask(mosaic: Mosaic, plan: Plan, prompt: int, step: int, lattice: Lattice, box: PixelBox) -> NDArray[np.uint8]:
    """One prompt's mask on the picture's pixels; where zones meet, what is mapped wins."""
    out = np.full(box.shape, UNMAPPED, np.uint8)
    for number, grid in enumerate(plan.grids):
        factor = max(1, round(lattice.res_x / grid.lattice.res_x))
        coarse = np.full((grid.shape[0] // factor, grid.shape[1] // factor), UNMAPPED, np.uint8)
        for tile in plan.tiles:
            if tile.grid == number and tile.step == step:
                core = grid.tile(tile.row, tile.column).core
                mask, _, _ = mosaic.read(grid, grid.tile(tile.row, tile.column), step, prompt)
                top, left = (core.top - grid.box.top) // factor, (core.left - grid.box.left) // factor
                small = _reduced(mask, factor)
                coarse[top : top + small.shape[0], left : left + small.shape[1]] = small
        there = np.full(box.shape, UNMAPPED, np.uint8)
        reproject(
            coarse,
            there,
            src_transform=grid.lattice.transform(grid.box) @ rasterio.Affine.scale(factor),
            src_crs=grid.lattice.crs,
            dst_transform=lattice.transform(box),
            dst_crs=lattice.crs,
            resampling=Resampling.nearest,
            src_nodata=UNMAPPED,
            dst_nodata=UNMAPPED,
        )
        out = np.where(there == UNMAPPED, out, there)
    return out


def _inside(plan: Plan, lattice: Lattice, box: PixelBox) -> NDArray[np.bool_]:
    """``(y, x)``: the picture's pixels in the area, all zones together."""
    inside = np.zeros(box.shape, np.bool_)
    for grid in plan.grids:
        shape = transform_geom(grid.lattice.crs, lattice.crs, mapping(plan.areas[grid.name]))
        inside |= rasterize([shape], out_shape=box.shape, transform=lattice.transform(box), all_touched=True) > 0
    return inside


def _closed(mask: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The mask with the cracks between zones filled: a picture's pixel there has its centre in a mapped pixel of
    neither, and looks like a pixel beside it. Outside the area it is unmapped."""
    out = mask.copy()
    for axis, step in ((1, 1), (1, -1), (0, 1), (0, -1)):
        crack = (out == UNMAPPED) & inside
        out[crack] = np.roll(mask, step, axis)[crack]
    out[~inside] = UNMAPPED
    return out


def _reduced(mask: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Blocks of ``factor`` pixels a side as one: present where a quarter is, else what most of it is."""
    side = mask.shape[0] // factor
    blocks = mask[: side * factor, : side * factor].reshape(side, factor, side, factor).swapaxes(1, 2)
    shares = {
        value: (blocks.reshape(side, side, -1) == value).mean(axis=2)
        for value in (ABSENT, PRESENT, UNOBSERVED, UNMAPPED)
    }
    out = np.full((side, side), UNMAPPED, np.uint8)
    most = np.stack([shares[value] for value in (ABSENT, UNOBSERVED, UNMAPPED)]).argmax(axis=0)
    for number, value in enumerate((ABSENT, UNOBSERVED, UNMAPPED)):
        out[most == number] = value
    out[shares[PRESENT] >= 0.25] = PRESENT
    return out
