"""The models, one file each, and those that other packages bring.

A model is a module (or any object) with ``WINDOW_PX``, the side of its windows, and ``load(weights, device=,
precision=)``, which gives a ``Segmenter``. It may have ``CARD``, what people should know before they use it, and
``from_upstream(state_dict, config)``, the bare network of a published checkpoint. A package adds a model by an entry
point in the group ``resmap.models``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mapper.errors import ModelError
from mapper.models.card import Card
from mapper.segmenter import Precision, Segmenter

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Card", "ModelModule", "card", "from_upstream", "load", "names", "window_px"]

_OWN = {name: f"mapper.models.{name}" for name in ("pocket", "remotesam", "rsrefseg", "rsrefseg2", "sam3")}


class ModelModule(Protocol):
    """What a model's module offers."""

    WINDOW_PX: int

    def load(self, weights: Path | None, *, device: str, precision: Precision) -> Segmenter:
        """The model with these weights; None takes the ones that come with it."""


def names() -> tuple[str, ...]:
    """The models that can be loaded."""
    return (*_OWN, *sorted(entry.name for entry in entry_points(group="resmap.models") if entry.name not in _OWN))


def window_px(name: str) -> int:
    """Side of the windows a model looks at, in pixels, known without loading it.

    Raises:
        ModelError: no such model.
    """
    return _module(name).WINDOW_PX


def card(name: str) -> Card:
    """What people should know of a model before they use it.

    Raises:
        ModelError: no such model.
    """
    found: Card = getattr(_module(name), "CARD", Card(name=name, title=name))
    return found


def from_upstream(name: str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> nn.Module:
    """The bare network of a published checkpoint, in evaluation mode.

    Args:
        name: ``remotesam``, ``rsrefseg``, ``rsrefseg2``, or another that has published checkpoints.
        state_dict: the checkpoint's tensors under their own names; every one must find its place.
        config: sizes of the network; None is the published size.

    Raises:
        ModelError: no such model, it has no published form, or a key is missing, unknown or of another shape.
    """
    module = _module(name)
    if not hasattr(module, "from_upstream"):
        raise ModelError(f"{name} has no published checkpoints", fix=f"load it: mapper.models.load({name!r})")
    net: nn.Module = module.from_upstream(state_dict, config)
    return net.eval()


def load(
    name: str,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    compiled: bool = False,
) -> Segmenter:
    """A model, ready to segment.

    Args:
        name: one of ``names()``.
        weights: path of a safetensors file; None takes the ones that ship.
        sha256: what the file's digest must be, in hex; None trusts the path.
        device: as torch says it, ``cpu`` or ``cuda:0``; ``auto`` is the GPU where there is one.
        precision: of the arithmetic; scores are float32 either way.
        compiled: let torch compile the network: minutes at the start, less time a window after.

    Raises:
        ModelError: no such model, or its weights are missing or not what they should be.
    """
    module = _module(name)
    path = None if weights is None else Path(weights)
    if path is not None and sha256 is not None:
        _check_digest(path, sha256)
    net = module.load(path, device=_device() if device == "auto" else device, precision=precision)
    if compiled:
        if not hasattr(net, "compile"):
            raise ModelError(f"{name} cannot be compiled", fix="leave model.compiled out")
        net.compile()
    return net


def _module(name: str) -> ModelModule:
    if name in _OWN:
        own: ModelModule = import_module(_OWN[name])
        return own
    for entry in entry_points(group="resmap.models", name=name):
        module: ModelModule = entry.load()
        return module
    near = difflib.get_close_matches(name, names(), n=1)
    fix = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(names())}"
    raise ModelError(f"there is no model named {name!r}", fix=fix)


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
