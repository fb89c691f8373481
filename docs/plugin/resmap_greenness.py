"""greenness: vegetation by the excess green index, as a model of resmap. No weights, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapper.errors import ModelError
from mapper.models import Card
from mapper.segmenter import Logits

WINDOW_PX = 512

CARD = Card(
    name="greenness",
    title="Vegetation in leaf, by how much greener a pixel is than grey",
    paper="Woebbecke et al. 1995, https://doi.org/10.13031/2013.27838",
    licence="Apache-2.0",
    prompts="one of: vegetation, trees, grass, crops",
    ships=True,  # nothing to fetch
)

WORDS = frozenset({"vegetation", "trees", "grass", "crops"})

BARE, STEEPNESS = 0.1, 40.0
"""Soil and roofs stay below this excess of green; how fast doubt ends on both sides of it."""


class Greenness:
    """A ``Segmenter``; the same answer to each of its words."""

    name = "greenness"
    window_px = WINDOW_PX
    band_names = ("red", "green", "blue")
    device = "cpu"
    fingerprint = "greenness 1"  # counted up whenever an answer changes

    def encode_text(self, expressions: Sequence[str]) -> int:
        """How many sentences there are; each must name vegetation."""
        for expression in expressions:
            if not WORDS & set(expression.lower().split()):
                raise ModelError(f"greenness cannot find “{expression}”", fix=CARD.prompts)
        return len(expressions)

    def logits(self, pixels: NDArray[np.uint8], text: int) -> Logits:
        """uint8 ``(window, 3, y, x)`` to float32 ``(window, prompt, y, x)``."""
        red, green, blue = np.moveaxis(pixels.astype(np.float32), 1, 0)
        excess = (2 * green - red - blue) / np.maximum(red + green + blue, 1)  # -1 to 2, whatever the light
        return np.repeat((STEEPNESS * (excess - BARE))[:, None], text, axis=1)


def load(weights: Path | None, *, device: str, precision: str) -> Greenness:
    """The model; it takes no weights and runs on the CPU in float32."""
    return Greenness()
