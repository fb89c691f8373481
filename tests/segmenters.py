"""A segmenter of known answers: it sees colour, and needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapper.map_tile import Setup, TileMapper
from mapper.mosaic import Mosaic
from mapper.read import RasterReader
from mapper.segmenter import Logits


class ColourSegmenter:
    """Answers how far the band that a sentence names stands out, and, so that windows matter, how far the pixel
    is from the window's middle: overlapping windows disagree about a pixel, as real models do."""

    name = "colour"
    window_px = 96
    band_names = ("red", "green", "blue")
    device = "cpu"
    fingerprint = "colour/1"

    def encode_text(self, expressions: Sequence[str]) -> list[int]:
        return [
            next((n for n, band in enumerate(self.band_names) if band in text), 0) for text in expressions
        ]

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Logits:
        place = np.linspace(-1, 1, self.window_px, dtype=np.float32)
        bowl = place[:, None] ** 2 + place[None, :] ** 2
        answers = [(pixels[:, band].astype(np.float32) - 128) / 32 - bowl for band in text]
        return np.stack(answers, axis=1)


def load_colour(setup: Setup) -> TileMapper:
    """A tile mapper around the colour segmenter, for pools."""
    reader = RasterReader(bands=setup.bands, stretch=setup.stretch, composite=setup.composite)
    return TileMapper(setup, segmenter=ColourSegmenter(), reader=reader, mosaic=Mosaic.open(setup.mosaic))
