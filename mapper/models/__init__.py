"""The models, one file each, and those that other packages bring.

A model is a module (or any object) with ``WINDOW_PX``, the side of its windows, and ``load(weights, device=,
precision=)``, which gives a ``Segmenter``. It may have ``CARD``, what people should know before they use it, and
``from_upstream(state_dict, config)``, the bare network of a published checkpoint. A package adds a model by an entry
point in the group ``resmap.models``; ``docs/plugin`` has one to begin from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mapper.errors import ModelError
from mapper.models.card import Card, stated
from mapper.models.fetch import fetch as fetched
from mapper.segmenter import Precision, Segmenter

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Card", "ModelModule", "card", "from_upstream", "load", "names", "window_px"]

GROUP = "resmap.models"
"""The entry points that add models."""

_OWN = {name: f"mapper.models.{name}" for name in ("pocket", "remotesam", "rsrefseg", "rsrefseg2", "sam3")}


class ModelModule(Protocol):
    """What a model's module offers."""

    WINDOW_PX: int

    def load(self, weights: Path | None, *, device: str, precision: Precision) -> Segmenter:
        """The model with these weights; None takes the ones that come with it."""


def names() -> tuple[str, ...]:
    """The models that can be loaded: ours first, then those of other packages, which cannot replace ours."""
    return (*_OWN, *sorted({entry.name for entry in entry_points(group=GROUP)} - _OWN.keys()))


def brought_by(name: str) -> str:
    """The package that brings a model, with its version.

    Raises:
        ModelError: no such model, or two packages bring one of this name.
    """
    if name in _OWN:
        return "resmap"
    return _package(_entry(name))


def window_px(name: str) -> int:
    """Side of the windows a model looks at, in pixels, known without loading it.

    Raises:
        ModelError: no such model.
    """
    size: int | None = _stated(name).get("WINDOW_PX")
    return _module(name).WINDOW_PX if size is None else size


def card(name: str) -> Card:
    """What people should know of a model before they use it.

    Raises:
        ModelError: no such model.
    """
    found: Card | None = _stated(name).get("CARD") or getattr(_module(name), "CARD", None)
    return found or Card(name=name, title=name)


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
        weights: a safetensors file: its path, or where it is fetched from (``https://…``, ``s3://…``,
            ``hf://owner/name@revision/file``) once a machine; None takes the ones that ship.
        sha256: what the file's digest must be, in hex. None trusts a path and a commit of the hub, nothing else.
        device: as torch says it, ``cpu`` or ``cuda:0``; ``auto`` is the GPU where there is one.
        precision: of the arithmetic; scores are float32 either way.
        compiled: let torch compile the network: minutes at the start, less time a window after.

    Raises:
        ModelError: no such model, or its weights are missing or not what they should be.
        CredentialsError: the weights lie where someone must log in.
    """
    module = _module(name)
    if weights is None and sha256 is not None:
        raise ModelError("a sha256 is given, and no weights that should have it", fix="give model.weights too")
    path = None if weights is None else fetched(weights, sha256)
    net = module.load(path, device=_device() if device == "auto" else device, precision=precision)
    if compiled:
        if not hasattr(net, "compile"):
            raise ModelError(f"{name} cannot be compiled", fix="leave model.compiled out")
        net.compile()
    return net


def _stated(name: str) -> dict[str, Any]:
    """What the text of one of our modules says of itself; nothing of a stranger's, whose module is imported."""
    spec = find_spec(_OWN[name]) if name in _OWN else None
    source = None if spec is None else getattr(spec.loader, "get_source", lambda _: None)(_OWN[name])
    return {} if source is None else stated(source)


def _module(name: str) -> ModelModule:
    entry = EntryPoint(name, _OWN[name], GROUP) if name in _OWN else _entry(name)
    try:
        module: ModelModule = entry.load()
    except Exception as error:  # a stranger's module may raise anything while it is imported
        raise ModelError(
            f"the model {name} of {_package(entry)} cannot be loaded: {type(error).__name__}: {error}",
            fix=f"install {_package(entry)} again" + ("" if name in _OWN else ", or uninstall it"),
        ) from error
    missing = [part for part in ("WINDOW_PX", "load") if not hasattr(module, part)]
    if missing:
        raise ModelError(
            f"the model {name} of {_package(entry)} has no {' and no '.join(missing)}",
            fix="a model offers WINDOW_PX and load(weights, device=, precision=)",
        )
    return module


def _entry(name: str) -> EntryPoint:
    """Where the model of another package is."""
    found = {(_package(entry), entry.value): entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        packages = " and ".join(sorted({package for package, _ in found}))
        raise ModelError(f"{packages} both bring a model named {name}", fix="uninstall one of them")
    if found:
        return next(iter(found.values()))
    near = difflib.get_close_matches(name, names(), n=1)
    fix = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(names())}"
    raise ModelError(f"there is no model named {name!r}", fix=fix)


def _package(entry: EntryPoint) -> str:
    return "resmap" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
