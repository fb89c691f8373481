"""The models, one file each; ``load`` finds them by name."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from mapper.errors import ModelError
from mapper.segmenter import Segmenter

Precision: TypeAlias = Literal["fp32", "bf16"]

__all__ = ["NAMES", "load", "window_px"]


def _pocket(weights: Path | None, device: str, precision: Precision) -> Segmenter:
    from mapper.models import pocket

    return pocket.load(weights, device=device, precision=precision)


_LOADERS: dict[str, Callable[[Path | None, str, Precision], Segmenter]] = {"pocket": _pocket}

NAMES = tuple(_LOADERS)
"""The models that can be loaded."""

_WINDOW_PX = {"pocket": 640}


def window_px(name: str) -> int:
    """Side of the windows a model looks at, in pixels, known without loading it.

    Raises:
        ModelError: no such model.
    """
    return _WINDOW_PX[_known(name)]


def _known(name: str) -> str:
    if name not in _LOADERS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        fix = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(NAMES)}"
        raise ModelError(f"there is no model named {name!r}", fix=fix)
    return name


def load(
    name: str,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
) -> Segmenter:
    """A model, ready to segment.

    Args:
        name: one of ``NAMES``.
        weights: path of a safetensors file; None takes the ones that ship.
        sha256: what the file's digest must be, in hex; None trusts the path.
        device: as torch says it, ``cpu`` or ``cuda:0``; ``auto`` is the GPU where there is one.
        precision: of the arithmetic; scores are float32 either way.

    Raises:
        ModelError: no such model, or its weights are missing or not what they should be.
    """
    loader = _LOADERS[_known(name)]
    path = None if weights is None else Path(weights)
    if path is not None and sha256 is not None:
        _check_digest(path, sha256)
    return loader(path, _device() if device == "auto" else device, precision)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_digest(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read: {error.strerror}", fix="check model.weights", weights=path
        ) from error
    if found != expected:
        raise ModelError(
            f"the weights have sha256 {found[:12]}…, and the job asks for {expected[:12]}…",
            fix="get the right file, or correct model.sha256",
            weights=path,
        )
