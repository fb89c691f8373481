"""Imagery and masks → a picture a person enjoys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mapper.imagery import Pixels
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ((230, 97, 0), (26, 133, 255), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233))
"""One a prompt; told apart by the colour-blind too (after M. Okabe and K. Ito, "Color Universal Design")."""

_INK, _DIM, _PAPER = (33, 37, 41), (108, 117, 125), (250, 250, 248)
_MARGIN, _GAP = 28, 20


def overlay(pixels: Pixels, masks: Mapping[str, NDArray[np.uint8]], *, strength: float = 0.55) -> NDArray[np.uint8]:
    """RGB ``(y, x, 3)``: the picture, greyed a little, with each mask laid on in its colour and outlined.

    Args:
        pixels: uint8 ``(3, y, x)``.
        masks: prompt → stored mask ``(y, x)``.
        strength: 0 to 1, how much of the colour covers the picture.
    """
    colour = pixels.transpose(1, 2, 0).astype(np.float32)
    grey = colour.mean(axis=2, keepdims=True)
    out = 0.45 * colour + 0.55 * (grey * 0.75 + 50)
    for number, mask in enumerate(masks.values()):
        ink = np.array(COLOURS[number % len(COLOURS)], np.float32)
        present = mask == PRESENT
        out[present] = (1 - strength) * out[present] + strength * ink
        out[present & ~_inner(present)] = ink
    seen = np.stack(list(masks.values())).min(axis=0) if masks else np.full(pixels.shape[1:], ABSENT, np.uint8)
    out[seen == UNOBSERVED] = _hatched(seen.shape)[seen == UNOBSERVED]
    out[seen == UNMAPPED] = _PAPER
    return np.asarray(np.clip(out, 0, 255), np.uint8)


def sheet(
    pixels: Pixels,
    valid: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.uint8]],
    *,
    title: str,
    captions: Mapping[str, str],
    metres_per_px: float | None,
    footnote: str = "",
) -> Image:
    """Imagery and map side by side (one above the other where they are wide), with legend and scale.

    Args:
        pixels: uint8 ``(3, y, x)``.
        valid: ``(y, x)``, where the imagery is.
        masks: prompt → stored mask ``(y, x)``.
        title: the headline.
        captions: prompt → what the legend says of it.
        metres_per_px: for the scale bar; None draws none.
        footnote: a line of small print.
    """
    from PIL import Image, ImageDraw, ImageFont

    plain = pixels.transpose(1, 2, 0).copy()
    plain[~valid] = _PAPER
    seen = np.stack(list(masks.values())).min(axis=0) if masks else np.zeros(valid.shape, np.uint8)
    plain[(seen == UNOBSERVED) & ~valid] = _hatched(seen.shape)[(seen == UNOBSERVED) & ~valid]
    panels = [Image.fromarray(plain), Image.fromarray(overlay(pixels, masks))]
    height, width = valid.shape
    stacked = width > 1.6 * height
    across, down = (1, 2) if stacked else (2, 1)
    head, foot = 74, 40 + 30 * math.ceil((len(masks) + 1) / 2)
    full = (
        2 * _MARGIN + across * width + (across - 1) * _GAP,
        head + down * height + (down - 1) * _GAP + foot + _MARGIN,
    )
    page = Image.new("RGB", full, _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, 22), title, fill=_INK, font=ImageFont.load_default(30))
    for number, panel in enumerate(panels):
        x = _MARGIN + (0 if stacked else number * (width + _GAP))
        y = head + (number * (height + _GAP) if stacked else 0)
        page.paste(panel, (x, y))
    if metres_per_px is not None:
        _scale_bar(draw, (_MARGIN + 16, head + height - 24), metres_per_px, width)
    y = head + down * height + (down - 1) * _GAP + 18
    half = (full[0] - 2 * _MARGIN) // 2
    entries = [(COLOURS[n % len(COLOURS)], captions.get(name, name)) for n, name in enumerate(masks)]
    for number, (colour, text) in enumerate([*entries, (None, "hatched: unobserved")]):
        left, top = _MARGIN + (number % 2) * half, y + 30 * (number // 2)
        if colour is None:
            page.paste(Image.fromarray(_hatched((18, 26))), (left, top + 2))
        else:
            draw.rectangle((left, top + 2, left + 26, top + 20), fill=colour)
        draw.text((left + 36, top), text, fill=_INK, font=ImageFont.load_default(17))
    if footnote:
        draw.text((_MARGIN, full[1] - 30), footnote, fill=_DIM, font=ImageFont.load_default(14))
    return page


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are in the mask too."""
    wide = np.pad(mask, 1)
    return wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def _hatched(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    y, x = np.indices(shape[:2])
    out = np.full((*shape[:2], 3), 232, np.uint8)
    out[(x + y) % 9 < 2] = 190
    return out


def _scale_bar(draw: Any, place: tuple[int, int], metres_per_px: float, width: int) -> None:
    from PIL import ImageFont

    target = metres_per_px * width / 5
    step = 10 ** math.floor(math.log10(max(target, 1e-6)))
    length_m = max(unit * step for unit in (1, 2, 5) if unit * step <= target)
    text = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    x, y = place
    draw.rectangle((x - 8, y - 26, x + length_m / metres_per_px + 8, y + 10), fill=(255, 255, 255))
    draw.rectangle((x, y, x + length_m / metres_per_px, y + 4), fill=_INK)
    draw.text((x, y - 22), text, fill=_INK, font=ImageFont.load_default(15))
