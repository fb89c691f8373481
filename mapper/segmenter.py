"""What every model offers: pixels and sentences in, logits out.

``docs/plugin/README.md`` tells how a package brings a model, and what a map relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]
"""Before the sigmoid: unbounded, 0 is a score of one half."""

Precision: TypeAlias = Literal["fp32", "bf16"]
"""Of the arithmetic inside; logits are float32 either way."""

Text: TypeAlias = Any
"""A model's own encoding of sentences: made once a run, handed back with every batch of windows."""


class Segmenter(Protocol):
    """A referring-expression-segmentation model, loaded on one device.

    The same input gives the same bits for as long as the fingerprint is the same. A sentence the model cannot answer
    is refused with a ``ModelError``: no answer must not read as "nothing there".
    """

    @property
    def name(self) -> str:
        """As in the job file."""

    @property
    def window_px(self) -> int:
        """Side of the squares it looks at, in pixels."""

    @property
    def band_names(self) -> tuple[str, ...]:
        """The bands it wants, in order; all published RES models take red, green, blue."""

    @property
    def device(self) -> str:
        """Where it runs, as torch says it."""

    @property
    def fingerprint(self) -> str:
        """What its answers depend on beyond its name: sha256 of the weights, precision, threads."""

    def encode_text(self, expressions: Sequence[str]) -> Text:
        """The sentences as the model understands them; each encoded alone."""

    def logits(self, pixels: NDArray[np.uint8], text: Text) -> Logits:
        """Evidence for each sentence at each pixel.

        Args:
            pixels: uint8 ``(window, band, y, x)``, each ``window_px`` square.
            text: what ``encode_text`` gave.

        Returns:
            float32 ``(window, prompt, y, x)``. A window's logits do not depend on its companions in the batch.
        """


@runtime_checkable
class Beginning(Protocol):
    """What a segmenter on a GPU may offer beside ``logits``: the CPU then prepares one call while another runs."""

    def begin(self, pixels: NDArray[np.uint8], text: Text) -> Callable[[], Logits]:
        """Start on windows; what comes back waits for their logits. Arguments, answer and errors as of ``logits``."""
