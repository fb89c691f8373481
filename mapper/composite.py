"""Several pictures of one place → one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE, Pixels, Valid, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One item over a box."""

    pixels: Pixels
    valid: Valid
    index: int
    """Row of the item in the run's item table."""


class FirstSeen:
    """At each pixel, the first layer that saw it; tells what is still unseen, so that no more is read than must be."""

    def __init__(self, frame: PixelBox, *, bands: int) -> None:
        self._frame = frame
        self._pixels = np.zeros((bands, *frame.shape), np.uint8)
        self._valid = np.zeros(frame.shape, np.bool_)
        self._source = np.full(frame.shape, NO_SOURCE, np.uint32)

    def unseen(self, box: PixelBox) -> PixelBox:
        """The smallest box around what no layer has seen of a box inside the frame; ``empty`` where all is seen."""
        missing = ~self._valid[box.within(self._frame)]
        return box_around(missing, box)

    def add(self, box: PixelBox, layer: Layer) -> None:
        """Lay one under those that came before, over a box inside the frame."""
        here = box.within(self._frame)
        fresh = layer.valid & ~self._valid[here]
        np.copyto(self._pixels[:, *here], layer.pixels, where=fresh)
        self._source[here][fresh] = layer.index
        self._valid[here] |= fresh

    def view(self) -> View:
        """What all layers together show."""
        return View(pixels=self._pixels, valid=self._valid, source=self._source)


def box_around(wanted: Valid, box: PixelBox) -> PixelBox:
    """The smallest box around the True pixels of an array over a box; ``empty`` where there are none."""
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not len(rows):
        return PixelBox(box.top, box.left, box.top, box.left)
    return PixelBox(
        box.top + int(rows[0]), box.left + int(columns[0]), box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1
    )


def median(layers: Sequence[Layer], frame: PixelBox, *, bands: int) -> View:
    """At each pixel and band, the middle of the layers that saw it; of two middle values, the lower.

    The lower one, because it is a value that was seen. ``source`` is the layer nearest to the result over all
    bands, the earliest of equals.
    """
    if not layers:
        return FirstSeen(frame, bands=bands).view()
    seen = np.stack([layer.valid for layer in layers])  # (layer, y, x)
    count = seen.sum(axis=0)
    valid = count > 0
    middle = np.maximum(count - 1, 0) // 2  # position among the valid ones, sorted
    pixels = np.zeros((bands, *frame.shape), np.uint8)
    for band in range(bands):
        values = np.stack([layer.pixels[band] for layer in layers]).astype(np.uint16)
        values[~seen] = 256  # sorts behind every real value
        values.sort(axis=0)
        pixels[band] = np.take_along_axis(values, middle[None], axis=0)[0] * valid
    distance = np.stack(
        [np.abs(layer.pixels.astype(np.int16) - pixels).sum(axis=0, dtype=np.int32) for layer in layers]
    )
    distance[~seen] = np.iinfo(np.int32).max
    index = np.array([layer.index for layer in layers], np.uint32)
    source = np.where(valid, index[distance.argmin(axis=0)], NO_SOURCE)
    return View(pixels=pixels, valid=valid, source=source.astype(np.uint32))
