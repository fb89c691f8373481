"""The map that needs no script: pictures side by side, and links that move and zoom it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from jobs.dashboard.views import MapInfo

COLUMNS, ROWS = 5, 3
"""Pictures of 256 px side by side, the middle one being the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainMap:
    """A place, and what of it is shown. Each change of it has an address."""

    z: int
    x: int
    y: int
    """The picture in the middle, by web mercator's scheme."""

    layer: str
    prompt: int
    step: int
    deepest: int

    def pictures(self) -> list[list[tuple[int, int, int] | None]]:
        """Rows from the north, each from the west; None beyond the edge of the world."""
        side = 2**self.z
        across = range(self.x - COLUMNS // 2, self.x + COLUMNS // 2 + 1)
        down = range(self.y - ROWS // 2, self.y + ROWS // 2 + 1)
        return [[(self.z, x, y) if 0 <= x < side and 0 <= y < side else None for x in across] for y in down]

    def moved(self, right: int, down: int) -> PlainMap:
        """So many pictures on, as far as the world goes."""
        side = 2**self.z
        return replace(self, x=min(max(self.x + right, 0), side - 1), y=min(max(self.y + down, 0), side - 1))

    def nearer(self, x: int | None = None, y: int | None = None) -> PlainMap:
        """Twice as large, around a picture or around the middle."""
        if self.z >= self.deepest:
            return self
        x, y = self.x if x is None else x, self.y if y is None else y
        return replace(self, z=self.z + 1, x=2 * x + 1, y=2 * y + 1)

    def farther(self) -> PlainMap:
        """Half as large."""
        return self if self.z == 0 else replace(self, z=self.z - 1, x=self.x // 2, y=self.y // 2)

    def query(self) -> str:
        """What an address ends in to show it."""
        kept = {"z": self.z, "x": self.x, "y": self.y, "layer": self.layer, "prompt": self.prompt, "step": self.step}
        return "?" + urlencode(kept)


def plain_map(info: MapInfo, query: Mapping[str, str]) -> PlainMap:
    """The place that an address asks for; the whole area where it asks for none, or for what is not there."""
    whole = _whole(info)
    z = _within(query.get("z"), info.max_zoom + 1)
    x, y = (_within(query.get(name), 2 ** (z or 0)) for name in ("x", "y"))
    layer = query.get("layer", "")
    there = whole if z is None or x is None or y is None else replace(whole, z=z, x=x, y=y)
    return replace(
        there,
        layer=layer if layer in info.layers else whole.layer,
        prompt=_within(query.get("prompt"), len(info.prompts)) or 0,
        step=whole.step if (step := _within(query.get("step"), len(info.steps))) is None else step,
    )


def _whole(info: MapInfo) -> PlainMap:
    """All of the area, as large as it fits."""
    left, bottom, right, top = info.bounds
    west, north, east, south = _across(left), _down(top), _across(right), _down(bottom)
    fits = min((COLUMNS - 1) / max(east - west, 1e-9), (ROWS - 1) / max(south - north, 1e-9))
    z = min(max(math.floor(math.log2(fits)), 0), info.max_zoom)
    side = 2**z
    return PlainMap(
        z=z,
        x=min(int((west + east) / 2 * side), side - 1),
        y=min(int((north + south) / 2 * side), side - 1),
        layer=info.layers[0],
        prompt=0,
        step=max(0, len(info.steps) - 1),
        deepest=info.max_zoom,
    )


def _across(longitude: float) -> float:
    return min(max(longitude / 360 + 0.5, 0.0), 1.0)


def _down(latitude: float) -> float:
    clipped = math.radians(min(max(latitude, -85.05), 85.05))
    return 0.5 - math.asinh(math.tan(clipped)) / (2 * math.pi)


def _within(text: str | None, count: int) -> int | None:
    """A number of an address, if it is below the count."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return int(text) if int(text) < count else None
