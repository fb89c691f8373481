"""How well the blended map agrees with one look: windows laid across shard borders, off the lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.grids import placed
from jobs.prepare import Prepared, setup_for
from mapper.grid import PixelBox
from mapper.masks import SCORE_ONE
from mapper.mosaic import Mosaic
from mapper.read import RasterReader

SAMPLES = 6
STRIP_PX = 16
"""On each side of the border: where a line would be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What the comparison found."""

    borders: int
    pixels: int
    differ: float | None
    """Share of the pixels beside shard borders whose mask is another than one centred window gives."""

    score_gap: float | None
    """Mean difference of the score there, 0 to 1."""


def measure_seams(prepared: Prepared, *, samples: int = SAMPLES) -> Seams:
    """Compare strips along shard borders with what the model says in a window centred on them."""
    spec, plan = prepared.job.spec, prepared.plan
    mosaic = Mosaic.open(spec.output.mosaic, writable=False)
    setup = setup_for(prepared, mosaic)
    net = setup.model.load()
    reader = RasterReader(bands=setup.bands, stretch=setup.stretch, composite=setup.composite)
    names = [prompt.name for prompt in mosaic.prompts]
    positions = [names.index(prompt.name) for prompt in spec.prompts]
    text = net.encode_text([prompt.expression for prompt in spec.prompts])
    by_place = {(tile.grid, tile.step, tile.row, tile.column): tile for tile in plan.tiles if tile.items}
    pairs = [(tile, by_place[key]) for tile in by_place.values()
             if (key := (tile.grid, tile.step, tile.row, tile.column + 1)) in by_place]  # fmt: skip
    differ = pixels = borders = 0
    gap = 0.0
    for west, east in pairs[:: max(1, len(pairs) // samples)][:samples]:
        grid = plan.grids[west.grid]
        here, there = grid.tile(west.row, west.column), grid.tile(east.row, east.column)
        middle = (here.core.top + here.core.bottom) // 2
        half = net.window_px // 2
        window = PixelBox(middle - half, here.core.right - half, middle + half, here.core.right + half)
        items = [placed(plan.items[item], grid.lattice) for item in dict.fromkeys((*west.items, *east.items))]
        view = reader.read(items, grid.lattice, window)
        once = 1 / (1 + np.exp(-net.logits(view.pixels[None], text)[0]))
        height = min(half, here.core.height) // 2
        rows = slice(half - height, half + height)
        for number, position in enumerate(positions):
            left = mosaic.read(grid, here, west.step, position)[1][:, -STRIP_PX:]
            right = mosaic.read(grid, there, east.step, position)[1][:, :STRIP_PX]
            across = np.concatenate([left, right], axis=1)
            strip = across[middle - height - here.core.top : middle + height - here.core.top]
            single = np.rint(once[number, rows, half - STRIP_PX : half + STRIP_PX] * SCORE_ONE)
            seen = strip <= SCORE_ONE
            floor = round(spec.prompts[number].threshold * SCORE_ONE)
            differ += int((((strip >= floor) != (single >= floor)) & seen).sum())
            gap += float(np.abs(strip.astype(np.float64) - single)[seen].sum()) / SCORE_ONE
            pixels += int(seen.sum())
        borders += 1
    return Seams(
        borders=borders,
        pixels=pixels,
        differ=differ / pixels if pixels else None,
        score_gap=gap / pixels if pixels else None,
    )
