"""Published checkpoints with low-rank adapters, read as the plain tensors of a network.

Training leaves an adapted layer in three pieces, and all it computes is one sum (Hu et al. 2021, section 4.1):

    W + alpha/r · B A        a linear layer (out, in):            A (r, in),        B (out, r)
                             a convolution (out, in, y, x):       A (r, in, y, x),  B (out, r, 1, 1)

The sum is made once, at load, so an adapted network costs nothing more than the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mapper.models.weights import check_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a checkpoint names what a network has."""

    renames: tuple[tuple[str, str], ...]
    """Regular expressions and what replaces them, one after the other, from our name to the published one."""

    adapted: re.Pattern[str]
    """Matches, at its end, the path (ours) of every module that has an adapter."""

    rank: int
    alpha: float

    unused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Published tensors that no answer depends on: they must be there, of these shapes, and are left alone."""

    def published(self, name: str) -> str:
        """The published name of a tensor or module of ours."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def pieces(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The published tensors that make one of ours, with their shapes; base first, then A and B."""
        path, _, leaf = name.rpartition(".")
        if not self.adapted.search(path):
            return {self.published(name): shape}
        stem = self.published(name).rpartition(".")[0]
        if leaf != "weight":
            return {f"{stem}.base_layer.{leaf}": shape}
        return {
            f"{stem}.base_layer.weight": shape,
            f"{stem}.lora_A.default.weight": (self.rank, *shape[1:]),
            f"{stem}.lora_B.default.weight": (shape[0], self.rank, *(1 for _ in shape[2:])),
        }


def published_shapes(net: nn.Module, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every tensor the checkpoint of such a network has, by published name; ``net`` may be on the meta device."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in net.state_dict().items():
        shapes |= layout.pieces(name, tuple(tensor.shape))
    return {**shapes, **layout.unused}


def load_published(net: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, *, model: str) -> None:
    """Give a network the tensors of a checkpoint, adapters merged, as float32.

    Args:
        net: best made on the meta device: its own tensors are replaced, not filled. What needs no change is
            shared with ``tensors``.
        tensors: under their published names, of any floating dtype.
        layout: how those names are made.
        model: for the sentence of an error.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape; nothing was loaded.
    """
    check_shapes(published_shapes(net, layout), tensors, model=model)
    plain = {
        name: _merged([tensors[piece] for piece in layout.pieces(name, tuple(tensor.shape))], layout)
        for name, tensor in net.state_dict().items()
    }
    net.load_state_dict(plain, strict=True, assign=True)
    net.requires_grad_(False)


def _merged(pieces: list[Tensor], layout: Layout) -> Tensor:
    base, *adapter = pieces
    if adapter:
        a, b = (piece.double().flatten(1) for piece in adapter)  # (r, in*y*x), (out, r)
        base = base.double() + layout.alpha / layout.rank * (b @ a).view_as(base)
    return base.to(torch.float32) if base.is_floating_point() else base
