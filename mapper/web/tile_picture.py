"""A web tile's values → a small PNG, and the legend that tells its colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.quicklook import COLOURS
from mapper.web.webtiles import PENDING, Layer

SCORE_STEPS = 10
"""How many shades a score is drawn in: with the gaps' they fit into four bits a pixel."""

_HATCH_PX = 8
"""From one line of a hatching to the next: tiles are whole multiples of it, so lines go on from tile to tile."""

_VEIL = (255, 255, 255, 56)
"""Of absent: looked at and not there. Light enough for imagery below, and still not the nothing of unmapped."""

_GROUND, _LINE = (138, 138, 148, 72), (124, 124, 136, 228)
_DOTTED, _DOT = (138, 138, 148, 28), (124, 124, 136, 180)
_NOTHING = (0, 0, 0, 0)
_STRONG = 235
"""Opacity of present, of 255."""

# Positions in a palette, from its end: before them stand absent, the shades of a score, and present.
_GROUND_AT, _LINE_AT, _DOTTED_AT, _DOT_AT, _NOTHING_AT = -5, -4, -3, -2, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """One line of a legend."""

    value: int
    """In the tile's values."""

    name: str
    meaning: str
    """A sentence."""

    colour: str
    """``#rrggbbaa``; of a pattern, the colour of its lines."""

    pattern: str
    """``plain``, ``hatched``, ``dotted`` or ``none``."""


def colour_of(prompt: int) -> tuple[int, int, int]:
    """Red, green, blue of the prompt at this position."""
    return COLOURS[prompt % len(COLOURS)]


def legend(prompt: int) -> tuple[Meaning, ...]:
    """What each colour of a mask means, for the prompt at this position."""
    lines = (
        (PRESENT, "present", "it is here", (*colour_of(prompt), _STRONG), "plain"),
        (ABSENT, "absent", "the ground was seen, and it is not here", _VEIL, "plain"),
        (UNOBSERVED, "unobserved", "imagery was looked for, and the ground was not seen", _LINE, "hatched"),
        (UNMAPPED, "unmapped", "nobody has looked here", _NOTHING, "none"),
        (PENDING, "not drawn yet", "no overview of this place is made yet: zoom in to see it", _DOT, "dotted"),
    )
    return tuple(
        Meaning(value=value, name=name, meaning=meaning, colour="#" + bytes(colour).hex(), pattern=pattern)
        for value, name, meaning, colour, pattern in lines
    )


def png(values: NDArray[np.uint8], *, prompt: int, layer: Layer = "mask") -> bytes:
    """A tile as PNG with a palette of at most 16 colours; the same values give the same bytes.

    Args:
        values: uint8 ``(y, x)`` as ``WebTiles.tile`` gives them; both sides multiples of 8.
        prompt: position of the prompt, for its colour.
        layer: what the values are.
    """
    from PIL import Image

    palette = _palette(prompt, layer)
    inks = _inks(layer)[values]
    y, x = np.indices(values.shape)
    inks[(values == UNOBSERVED) & ((x + y) % _HATCH_PX < 2)] = len(palette) + _LINE_AT
    inks[(values == PENDING) & (x % _HATCH_PX < 2) & (y % _HATCH_PX < 2)] = len(palette) + _DOT_AT
    picture = Image.fromarray(inks, "P")
    picture.putpalette(bytes(part for colour in palette for part in colour[:3]))
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=bytes(colour[3] for colour in palette))
    return out.getvalue()


def _palette(prompt: int, layer: Layer) -> list[tuple[int, int, int, int]]:
    """Absent, the shades towards present, and the gaps."""
    full = (*colour_of(prompt), _STRONG)
    steps = 1 if layer == "mask" else SCORE_STEPS - 1
    shades = [
        tuple(round(veil + (ink - veil) * step / steps) for veil, ink in zip(_VEIL, full, strict=True))
        for step in range(steps + 1)
    ]
    red_green_blue_alpha = [(shade[0], shade[1], shade[2], shade[3]) for shade in shades]
    return [*red_green_blue_alpha, _GROUND, _LINE, _DOTTED, _DOT, _NOTHING]


@lru_cache(maxsize=2)
def _inks(layer: Layer) -> NDArray[np.uint8]:
    """``(256,)``: value → position in the palette."""
    shades = 2 if layer == "mask" else SCORE_STEPS
    size = shades - _GROUND_AT
    inks = np.full(256, size + _NOTHING_AT, np.uint8)
    if layer == "mask":
        inks[ABSENT], inks[PRESENT] = 0, 1
    else:
        score = np.arange(SCORE_ONE + 1)
        inks[: SCORE_ONE + 1] = np.minimum(score * SCORE_STEPS // SCORE_ONE, SCORE_STEPS - 1)
    inks[UNOBSERVED], inks[PENDING] = size + _GROUND_AT, size + _DOTTED_AT
    return inks
