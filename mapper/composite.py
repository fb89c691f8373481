"""Several pictures of one place → one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mapper.imagery import NO_SOURCE, Pixels, Valid, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One item over the whole frame."""

    pixels: Pixels
    valid: Valid
    index: int
    """Row of the item in the run's item table."""


def first_valid(layers: Iterable[Layer], *, bands: int, shape: tuple[int, int]) -> View:
    """At each pixel, the first layer that saw it.

    Layers are taken one at a time and only while something is still unseen, so a lazy iterable reads no more
    than it must.
    """
    pixels = np.zeros((bands, *shape), np.uint8)
    valid = np.zeros(shape, np.bool_)
    source = np.full(shape, NO_SOURCE, np.uint32)
    for layer in layers:
        fresh = layer.valid & ~valid
        np.copyto(pixels, layer.pixels, where=fresh)
        source[fresh] = layer.index
        valid |= fresh
        if valid.all():
            break
    return View(pixels=pixels, valid=valid, source=source)


def median(layers: Sequence[Layer], *, bands: int, shape: tuple[int, int]) -> View:
    """At each pixel and band, the middle of the layers that saw it; of two middle values, the lower.

    The lower one, because it is a value that was seen. ``source`` is the layer nearest to the result over all
    bands, the earliest of equals.
    """
    if not layers:
        return first_valid((), bands=bands, shape=shape)
    seen = np.stack([layer.valid for layer in layers])  # (layer, y, x)
    count = seen.sum(axis=0)
    valid = count > 0
    middle = np.maximum(count - 1, 0) // 2  # position among the valid ones, sorted
    pixels = np.zeros((bands, *shape), np.uint8)
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
