"""Several pictures of one place → one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE, Pixels, Source, Valid, View


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
        self._bands = bands
        self._only: Layer | None = None
        """The one layer so far, where it covers the frame: most tiles have no other, and nothing is copied."""

        self._view: View | None = None
        """What all layers together show, where it is more than that."""

    def unseen(self, box: PixelBox) -> PixelBox:
        """The smallest box around what no layer has seen of a box inside the frame; ``empty`` where all is seen."""
        valid = self._view.valid if self._view is not None else self._only.valid if self._only is not None else None
        return box if valid is None else box_around(~valid[box.within(self._frame)], box)

    def add(self, box: PixelBox, layer: Layer) -> None:
        """Lay one under those that came before, over a box inside the frame."""
        if self._only is None and self._view is None and box == self._frame:
            self._only = layer
            return
        view = self._view = self._own()
        here = box.within(self._frame)
        fresh = layer.valid & ~view.valid[here]
        np.copyto(view.pixels[:, *here], layer.pixels, where=fresh)
        np.copyto(view.source[here], np.uint32(layer.index), where=fresh)
        view.valid[here] |= fresh

    def view(self) -> View:
        """What all layers together show. It may share the arrays of a layer that covers the frame."""
        if self._only is not None and self._view is None:
            return View(pixels=self._only.pixels, valid=self._only.valid, source=self._source_of(self._only))
        return self._own()

    def _own(self) -> View:
        """What was laid, in arrays that may be written to."""
        if self._view is not None:
            return self._view
        if self._only is not None:
            only = self._only
            return View(pixels=only.pixels.copy(), valid=only.valid.copy(), source=self._source_of(only))
        return View(
            pixels=np.zeros((self._bands, *self._frame.shape), np.uint8),
            valid=np.zeros(self._frame.shape, np.bool_),
            source=np.full(self._frame.shape, NO_SOURCE, np.uint32),
        )

    def _source_of(self, layer: Layer) -> Source:
        source = np.full(layer.valid.shape, layer.index, np.uint32)
        np.copyto(source, NO_SOURCE, where=~layer.valid)
        return source


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
