"""The models, one file each; ``load`` finds them by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mapper.errors import ModelError
from mapper.segmenter import Segmenter

__all__ = ["NAMES", "load"]


def _pocket(weights: Path | None, sha256: str | None, device: str, precision: Literal["fp32", "bf16"]) -> Segmenter:
    from mapper.models import pocket

    return pocket.load(weights, sha256=sha256, device=device, precision=precision)


_LOADERS: dict[str, Callable[[Path | None, str | None, str, Literal["fp32", "bf16"]], Segmenter]] = {"pocket": _pocket}

NAMES = tuple(_LOADERS)
"""The models that can be loaded."""


def load(
    name: str,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Segmenter:
    """A model, ready to segment.

    Args:
        name: one of ``NAMES``.
        weights: path of a safetensors file; None takes the ones that ship.
        sha256: what the file's digest must be, in hex; None trusts the path.
        device: as torch says it, ``cpu`` or ``cuda:0``.
        precision: of the arithmetic; scores are float32 either way.

    Raises:
        ModelError: no such model, or its weights are missing or not what they should be.
    """
    if name not in _LOADERS:
        raise ModelError(f"there is no model named {name!r}", fix=f"choose one of: {', '.join(NAMES)}")
    return _LOADERS[name](None if weights is None else Path(weights), sha256, device, precision)
