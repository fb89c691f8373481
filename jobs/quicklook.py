"""A quick-look of a mosaic: imagery read again, coarsely, and the masks over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from shapely.geometry import mapping

from catalogs.select import items_order
from jobs.grids import pixel_km2, placed
from jobs.plan import Plan
from jobs.prepare import Prepared
from mapper.exports.portrait import mask_on
from mapper.grid import Lattice, PixelBox
from mapper.masks import UNMAPPED
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
    lattice, box, level = _frame(plan)
    reader = RasterReader(
        bands=len(spec.imagery.bands), stretch=spec.imagery.scale.from_ if spec.imagery.scale else None
    )
    serving = {item for tile in plan.tiles if tile.step == step for item in tile.items}
    items = items_order([plan.items[item] for item in sorted(serving)], spec.imagery.composite)
    view = reader.read([placed(item, lattice) for item in items], lattice, box)
    inside = _inside(plan, lattice, box)
    names = [prompt.name for prompt in mosaic.prompts]
    masks = {}
    for prompt in spec.prompts:
        mask = mask_on(
            mosaic,
            lattice,
            box,
            level,
            time=step,
            prompt=names.index(prompt.name),
            levels_built=not prepared.folder.facts().get("levels_behind", True),
        )
        masks[prompt.name] = _closed(mask, inside)
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


def _frame(plan: Plan) -> tuple[Lattice, PixelBox, int]:
    """A coarse lattice in the first grid's CRS, the box of the whole area on it, and the level whose pixels it has."""
    grid = plan.grids[0]
    left, bottom, right, top = plan.areas[grid.name].bounds
    for other in plan.grids[1:]:
        more = rasterio.warp.transform_bounds(other.lattice.crs, grid.lattice.crs, *plan.areas[other.name].bounds)
        left, bottom = min(left, more[0]), min(bottom, more[1])
        right, top = max(right, more[2]), max(top, more[3])
    level = grid
    while max(level.lattice.pixels((left, bottom, right, top)).shape) > LARGEST_PX:
        level = level.coarser()
    return level.lattice, level.lattice.pixels((left, bottom, right, top)), level.level


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
