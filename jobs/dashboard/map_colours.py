"""What the live map draws of tiles: values → a few classes, their colours, and the legend that tells them.

The classes are ordered: where several tiles fall in one pixel, the one that a person should know of first is shown, so
that nothing vanishes however far one is away. The colours are told apart by the colour-blind too, by their lightness
alone.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jobs.dashboard.views import TILE_STATES
from jobs.dashboard.words import TILE_WORDS, figure
from jobs.planned_map import Codes
from mapper.web.webtiles import TILE_PX

STATE_COLOURS = {
    "nodata": "#b9d7ec",
    "done": "#2a78b5",
    "waiting": "#9ba1a6",
    "failed": "#f2a900",
    "quarantined": "#9c1033",
}
"""State → colour, from that which is shown last to that which is shown first."""

_SECONDS = ("#440154", "#3f4a8a", "#26828e", "#4dbf6b", "#fde725")
_PRESENT = ("#f7efdc", "#fdd08a", "#f08f3c", "#c24d14", "#6e1f05")
_NOT_KNOWN = ("#9ba1a6", "not known")

_SHARES = (0.0, 0.01, 0.05, 0.2)
"""Upper ends of the classes of shares, but for the last; the first is for none at all."""

_SAMPLE = 1 << 16
"""Tiles of which the times are sorted to find where classes end: within half a per cent of them."""

_LINE = 0.62
"""How light the line between tiles is, beside what it encloses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How one layer's values become classes, 1 to the number of ``lines``; 0 is nothing."""

    lines: tuple[tuple[str, str], ...]
    """Colour (``#rrggbb``) and meaning of each class, in order."""

    ends: tuple[float, ...] = ()
    """Upper ends of all classes of numbers but the last; what is not known is class 1."""

    def of_states(self, state: NDArray[np.uint8]) -> Codes:
        """Classes of states, as ``TILE_STATES`` numbers them."""
        order = list(STATE_COLOURS)
        table = np.array([order.index(name) + 1 for name in TILE_STATES], np.uint8)
        return np.asarray(table[state])

    def of_numbers(self, values: NDArray[np.float32]) -> Codes:
        """Classes of numbers, those that are not known first."""
        classes = np.searchsorted(np.array(self.ends, np.float32), values, side="left").astype(np.uint8) + np.uint8(2)
        classes[np.isnan(values)] = 1
        return classes


def state_scale() -> Scale:
    """States of tiles, the worst last."""
    return Scale(lines=tuple((colour, TILE_WORDS[name]) for name, colour in STATE_COLOURS.items()))


def seconds_scale(seconds: NDArray[np.float32]) -> Scale:
    """Seconds a tile took, in fifths of the tiles; fewer classes where many took equally long."""
    sample = seconds[:: max(1, len(seconds) // _SAMPLE)]
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return Scale(lines=(_NOT_KNOWN,))
    fifths = np.quantile(sample, [0.2, 0.4, 0.6, 0.8]).tolist()
    # A class ends at a number that its legend can say, and one at least lies beyond the last.
    ends = sorted({_two_digits(end) for end in fifths if _two_digits(end) < float(sample.max())})
    said = [figure(end, "s") for end in ends]
    if said:
        words = [f"up to {said[0]}", *map(" to ".join, pairwise(said)), f"over {said[-1]}"]
    else:
        words = [f"up to {figure(_two_digits(float(sample.max()), up=True), 's')}"]
    chosen = [_SECONDS[round(n * (len(_SECONDS) - 1) / max(1, len(words) - 1))] for n in range(len(words))]
    return Scale(lines=(_NOT_KNOWN, *zip(chosen, words, strict=True)), ends=tuple(ends))


def present_scale() -> Scale:
    """Share of what was seen of a tile that has what was asked for."""
    words = ["nothing present", *(f"up to {end:.0%}".replace("%", " %") for end in _SHARES[1:])]
    words.append(f"over {_SHARES[-1]:.0%}".replace("%", " %"))
    return Scale(lines=(_NOT_KNOWN, *zip(_PRESENT, words, strict=True)), ends=_SHARES)


def classes_png(codes: Codes, edges: NDArray[np.bool_], scale: Scale) -> bytes:
    """A picture of classes as PNG with a palette; the same classes give the same bytes.

    Args:
        codes: ``(y, x)``, a class of the scale; 0 is transparent.
        edges: ``(y, x)``, where a line between tiles is drawn.
        scale: of the classes.
    """
    from PIL import Image

    inks = [_parts(colour) for colour, _ in scale.lines]
    lines = [tuple(round(part * _LINE) for part in ink) for ink in inks]
    palette = [(0, 0, 0), *(colour for pair in zip(inks, lines, strict=True) for colour in pair)]
    places = np.where(codes == 0, 0, 2 * codes - 1 + edges).astype(np.uint8)
    picture = Image.fromarray(places, "P")
    picture.putpalette(bytes(part for colour in palette for part in colour))
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=0)
    return out.getvalue()


def rgba_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture ``(y, x, 4)`` of red, green, blue and opacity as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, "PNG", compress_level=4)
    return out.getvalue()


@cache
def empty_png() -> bytes:
    """A picture of nothing."""
    return rgba_png(np.zeros((TILE_PX, TILE_PX, 4), np.uint8))


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _two_digits(value: float, *, up: bool = False) -> float:
    """The nearest number of two digits, or the next above."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{(math.ceil if up else round)(value / step) * step:.12g}")
