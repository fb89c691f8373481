"""One picture of any size, without a place on Earth: what is where in it, and an overlay to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper import models
from mapper.errors import SpecError
from mapper.grid import PixelBox, Windows
from mapper.masks import Blend
from mapper.prompts import Prompt
from mapper.segmenter import Segmenter

Score: TypeAlias = NDArray[np.float32]
"""Probability, 0 to 1."""

OVERLAP_PX = 128


def segment(pixels: NDArray[Any], expressions: Sequence[str], *, model: str | Segmenter = "pocket") -> Score:
    """How probable each sentence is at each pixel of a picture.

    Args:
        pixels: uint8 ``(y, x, rgb)`` of any size.
        expressions: the sentences.
        model: its name, or one that is loaded.

    Returns:
        float32 ``(prompt, y, x)``, 0 to 1.

    Raises:
        SpecError: the array is no RGB picture, or a sentence is empty.
        ModelError: no such model.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise SpecError(
            f"a picture is uint8 (y, x, 3), and this is {pixels.dtype} {pixels.shape}",
            fix="take its first three bands",
        )
    for expression in expressions:
        Prompt(name="prompt", expression=expression)  # refuses what is no sentence
    net = models.load(model) if isinstance(model, str) else model
    text = net.encode_text(expressions)
    bands = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    height, width = bands.shape[1:]
    size = net.window_px
    windows = Windows(size_px=size, overlap_px=min(OVERLAP_PX, size // 2))
    short = (max(0, size - height), max(0, size - width))
    bands = np.pad(bands, ((0, 0), (0, short[0]), (0, short[1])), mode="symmetric")
    frame = PixelBox(0, 0, *bands.shape[1:])
    blend = Blend(frame, windows, len(expressions))
    for top in _starts(frame.height, windows):
        for left in _starts(frame.width, windows):
            window = PixelBox(top, left, top + size, left + size)
            blend.add(window, net.logits(bands[None, :, *window.within(frame)], text)[0])
    logits = blend.logits(np.ones(frame.shape, np.bool_))[:, :height, :width]
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _starts(length: int, windows: Windows) -> list[int]:
    """Where windows begin so that they cover a side and none leaves it."""
    last = length - windows.size_px
    return [*range(0, last, windows.stride_px), last]
