"""A mosaic → one picture of its masks alone, from the coarser level that fits: no imagery is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mapper.exports.chosen import chosen_prompt, chosen_time
from mapper.exports.cog import refuse_taken
from mapper.exports.cog_header import PALE
from mapper.grid import Grid, Lattice, PixelBox
from mapper.masks import ABSENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.pixel_area import pixel_area_m2
from mapper.pyramid import coarser
from mapper.questions.asking import When
from mapper.quicklook import COLOURS, overlay

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_PX = 1600
"""Longer side of the map in the picture."""

SMALLEST_PX = 700
"""A map of fewer pixels is drawn with larger ones."""

STRIP_PX = 4096
"""Side of what is read at once where coarser levels are not built yet."""

_INK, _DIM, _PAPER, _LINE = (33, 37, 41), (108, 117, 125), (250, 250, 248), (206, 206, 200)
_MARGIN, _ROW = 28, 30


def write_portrait(
    mosaic_url: str,
    out: Path,
    *,
    prompts: Sequence[str] | None = None,
    time: When | None = None,
    title: str = "",
    bounds: Sequence[tuple[float, float, float, float] | None] = (),
    largest_px: int = LARGEST_PX,
    levels_built: bool = False,
    force: bool = False,
) -> Path:
    """Draw one time step to a PNG, with legend and scale.

    Args:
        mosaic_url: path or URL of the mosaic.
        out: the file.
        prompts: by name; all where left out.
        time: when the step begins, see ``chosen_time``; the latest where left out.
        title: the headline; the sentences where left out.
        bounds: a grid each, in order: (left, bottom, right, top) in units of its CRS, of what is worth showing.
        largest_px: longer side of the map.
        levels_built: whether coarser levels stand over all that is mapped, as after a run that has ended. Otherwise
            every pixel is read, so that what has no level above it yet does not look unmapped.
        force: replace what is at ``out``.

    Raises:
        MosaicError: no mosaic there, or ``out`` exists.
        QuestionError: no such prompt or time.
        StoreError: the mosaic could not be read.
    """
    mosaic = Mosaic.open(mosaic_url, writable=False)
    step = chosen_time(mosaic, time)
    every = range(len(mosaic.prompts))
    positions = list(every) if prompts is None else [chosen_prompt(mosaic, name) for name in prompts]
    refuse_taken(out, force=force)
    lattice, frame, level = _frame(mosaic.grids, bounds, largest_px)
    masks = [
        mask_on(mosaic, lattice, frame, level, time=step, prompt=prompt, levels_built=levels_built)
        for prompt in positions
    ]
    side_m = math.sqrt(float(pixel_area_m2(lattice, _middle(frame))[0, 0]))
    sentences = [f"“{mosaic.prompts[prompt].expression}”" for prompt in positions]
    page = _page(
        masks,
        colours=[COLOURS[prompt % len(COLOURS)] for prompt in positions],
        captions=sentences,
        title=title or ", ".join(sentences),
        metres_per_px=side_m,
        footnote=f"{mosaic.times[step]:%Y-%m-%d} · {mosaic.made_by.get('model', '')}".strip(" ·"),
    )
    draft = out.with_name(f".{out.name}.draft")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        page.save(draft, format="PNG", optimize=True)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out


def _frame(
    grids: Sequence[Grid], bounds: Sequence[tuple[float, float, float, float] | None], largest_px: int
) -> tuple[Lattice, PixelBox, int]:
    """A lattice in the first grid's CRS, the box of all grids on it, and which level its pixels are of."""
    from rasterio.warp import transform_bounds

    first = grids[0]
    around = [_shown(grid, bounds[number] if bounds else None) for number, grid in enumerate(grids)]
    there = [
        box if grid is first else transform_bounds(grid.lattice.crs, first.lattice.crs, *box)
        for grid, box in zip(grids, around, strict=True)
    ]
    lefts, bottoms, rights, tops = zip(*there, strict=True)
    whole = (min(lefts), min(bottoms), max(rights), max(tops))
    level, grid = 0, first
    while max(grid.lattice.pixels(whole).shape) > largest_px:
        level, grid = level + 1, grid.coarser()
    return grid.lattice, grid.lattice.pixels(whole), level


def _shown(grid: Grid, bounds: tuple[float, float, float, float] | None) -> tuple[float, float, float, float]:
    box = grid.box if bounds is None else grid.lattice.pixels(bounds).intersection(grid.box)
    return grid.lattice.bounds(grid.box if box.empty else box)


def mask_on(
    mosaic: Mosaic,
    lattice: Lattice,
    frame: PixelBox,
    level: int,
    *,
    time: int,
    prompt: int,
    levels_built: bool,
) -> NDArray[np.uint8]:
    """One prompt of all zones on a picture's pixels; where zones meet, what was looked at wins.

    Args:
        mosaic: open for reading.
        lattice: of the picture.
        frame: of the picture, in pixels of its lattice.
        level: whose pixels are about as large as the picture's.
        time: position on the time axis.
        prompt: position on the prompt axis.
        levels_built: as in ``write_portrait``.

    Returns:
        uint8 ``(y, x)``, in the four values of a mask.
    """
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    out = np.full(frame.shape, UNMAPPED, np.uint8)
    for grid in mosaic.grids:
        coarse = grid
        for _ in range(level):
            coarse = coarse.coarser()
        stored = _view(mosaic, grid, coarse, time=time, prompt=prompt, levels_built=levels_built)
        there = np.full(frame.shape, UNMAPPED, np.uint8)
        reproject(
            stored,
            there,
            src_transform=coarse.lattice.transform(coarse.box),
            src_crs=coarse.lattice.crs,
            dst_transform=lattice.transform(frame),
            dst_crs=lattice.crs,
            resampling=Resampling.nearest,
            src_nodata=UNMAPPED,
            dst_nodata=UNMAPPED,
        )
        out = np.where(out == UNMAPPED, there, out)
    return out


def _view(mosaic: Mosaic, grid: Grid, wanted: Grid, *, time: int, prompt: int, levels_built: bool) -> NDArray[np.uint8]:
    """The whole of a grid at a coarser level: from the coarsest that tells, or reduced from the pixels themselves."""
    pyramid = grid.pyramid()
    out = np.full(wanted.shape, UNMAPPED, np.uint8)
    coarsest = max(0, wanted.level - len(pyramid) + 1) if levels_built else wanted.level
    for below in range(coarsest, wanted.level + 1):
        level = pyramid[wanted.level - below]
        side = max(1, STRIP_PX >> below)
        for top in range(wanted.box.top, wanted.box.bottom, side):
            for left in range(wanted.box.left, wanted.box.right, side):
                block = PixelBox(top, left, top + side, left + side).intersection(wanted.box)
                finer = block
                for _ in range(below):
                    finer = finer.doubled()
                mask = mosaic.layer(level, "mask", finer, time=time, prompt=prompt)
                for _ in range(below):
                    mask, _unused = coarser(mask, mask, mosaic.pyramid)
                out[block.within(wanted.box)] = mask
        if (out != UNMAPPED).any():
            break
    return out


def _page(
    masks: Sequence[NDArray[np.uint8]],
    *,
    colours: Sequence[tuple[int, int, int]],
    captions: Sequence[str],
    title: str,
    metres_per_px: float,
    footnote: str,
) -> Image:
    """The map under its title, over legend, scale and small print."""
    from PIL import Image, ImageDraw, ImageFont

    larger = max(1, SMALLEST_PX // max(masks[0].shape))
    masks, metres_per_px = [mask.repeat(larger, 0).repeat(larger, 1) for mask in masks], metres_per_px / larger
    height, width = masks[0].shape
    inner = max(width, 560)
    ground = [Image.fromarray(_drawn([np.full((18, 26), value, np.uint8)], [])) for value in (ABSENT, UNOBSERVED)]
    own = [Image.new("RGB", (26, 18), colour) for colour in colours]
    head, entries = 74, [*zip([*own, *ground], [*captions, "absent", "unobserved"], strict=True)]
    size = (inner + 2 * _MARGIN, head + height + 26 + _ROW * math.ceil(len(entries) / 2) + 92)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, 22), _fitted(title, inner, 28), fill=_INK, font=ImageFont.load_default(28))
    left = _MARGIN + (inner - width) // 2
    page.paste(Image.fromarray(_drawn(masks, colours)), (left, head))
    draw.rectangle((left - 1, head - 1, left + width, head + height), outline=_LINE)
    y = head + height + 22
    for number, (swatch, text) in enumerate(entries):
        x, row = _MARGIN + (number % 2) * (inner // 2), y + _ROW * (number // 2)
        page.paste(swatch, (x, row))
        draw.rectangle((x - 1, row - 1, x + 26, row + 18), outline=_LINE)
        draw.text((x + 36, row - 2), _fitted(text, inner // 2 - 46, 17), fill=_INK, font=ImageFont.load_default(17))
    base = size[1] - 40
    length_m, text = _scale(metres_per_px * width / 4)
    draw.rectangle((_MARGIN, base, _MARGIN + length_m / metres_per_px, base + 4), fill=_INK)
    draw.text((_MARGIN, base - 22), text, fill=_INK, font=ImageFont.load_default(15))
    footer = ImageFont.load_default(14)
    draw.text((size[0] - _MARGIN - draw.textlength(footnote, footer), base - 8), footnote, fill=_DIM, font=footer)
    return page


def _drawn(masks: Sequence[NDArray[np.uint8]], colours: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """RGB ``(y, x, 3)`` of masks laid over one another on plain ground."""
    ground = np.empty((3, *masks[0].shape), np.uint8)
    ground[:] = np.reshape(PALE, (3, 1, 1))
    # The overlay gives colours by order: whatever is not shown keeps its place there with nothing present.
    layers = {number: np.where(masks[0] < UNOBSERVED, ABSENT, masks[0]) for number in range(len(COLOURS))}
    layers |= {COLOURS.index(colour): mask for colour, mask in zip(colours, masks, strict=False)}
    return overlay(ground, {str(number): layer for number, layer in layers.items()}, strength=0.75)


def _fitted(text: str, width: float, size: int) -> str:
    """As much of a text as the width holds."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _scale(longest_m: float) -> tuple[float, str]:
    """Length of a scale bar in metres, 1, 2 or 5 of something, and what it says."""
    step = 10 ** math.floor(math.log10(max(longest_m, 1e-6)))
    length_m = max(unit * step for unit in (1, 2, 5) if unit * step <= longest_m)
    return length_m, f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"


def _middle(frame: PixelBox) -> PixelBox:
    row, column = (frame.top + frame.bottom) // 2, (frame.left + frame.right) // 2
    return PixelBox(row, column, row + 1, column + 1)
