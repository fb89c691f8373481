"""How long a window takes on a GPU that is not here: as its table says, as one that was timed, or off its data sheet.

seconds_per_window in the table ─► as measured by whoever wrote it
the model was timed on this type ─► as measured here
it was timed on another type    ─► times the ratio of their data sheets
it was timed on neither         ─► operations and bytes of a window, counted, over what the data sheet promises
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from jobs.amounts import Range
from jobs.gpu_prices import GpuType, Reach
from mapper.segmenter import Precision, Segmenter

Basis: TypeAlias = Literal["your table", "timed here", "by ratio", "by data sheet"]

IN_A_RUN = 1.05, 1.25
"""What a run's windows take in times of the model's own: likely, and where it has to wait for reading now and then.
(``results/map_efficiency.json``: a run kept 98.8 % of the model's speed.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one window asks of a device."""

    flops: float
    """A multiplication and an addition are two."""

    moved_bytes: float
    """Read and written by the operations one by one: what is fused or stays in a cache moves less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What is known of the model, from this machine."""

    window_s: float | None = None
    """The model alone, a window."""

    card: str = ""
    """The device as its maker calls it; empty where it has no such name: a CPU."""

    work: Work | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds a window takes in a run on one GPU of a type."""

    seconds: Range
    basis: Basis
    of: str = ""
    """The type that was timed, where this is another."""


def card_name(device: str) -> str:
    """What the maker calls a device; empty for one that has no such name.

    Args:
        device: as torch says it.
    """
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def type_of(card: str, gpus: Mapping[str, GpuType]) -> str | None:
    """The type of a table that a card is: the one with the most words in its name, all of them the card's."""
    fitting = [(len(asked), name) for name in gpus if (asked := _words(name)) <= _words(card)]
    return max(fitting)[1] if fitting else None


def _words(name: str) -> set[str]:
    return {word.removesuffix("B") for word in re.split(r"[^A-Z0-9]+", name.upper()) if word}


def speed_of(
    name: str, gpus: Mapping[str, GpuType], timed: Timed, *, model: str, precision: Precision, reach: Reach
) -> Speed | str:
    """How long a window takes on one GPU of a type; or why nobody knows."""
    gpu = gpus[name]
    if model in gpu.seconds_per_window:
        return Speed(seconds=_in_a_run(gpu.seconds_per_window[model]), basis="your table")
    here = type_of(timed.card, gpus)
    if here == name and timed.window_s is not None:
        return Speed(seconds=_in_a_run(timed.window_s), basis="timed here")
    flops, bandwidth = gpu.tflops.of(precision), gpu.memory_gb_per_s
    if flops is None or bandwidth is None:
        lacks = f"tflops.{precision}" if flops is None else "memory_gb_per_s"
        return f"its data sheet has no {lacks} in the table, and it was not timed"
    if here is not None and timed.window_s is not None:
        other = gpus[here]
        ratios = _ratio(other.tflops.of(precision), flops), _ratio(other.memory_gb_per_s, bandwidth)
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            base = _in_a_run(timed.window_s)
            low, high = base.low * min(known), base.high * max(known)
            return Speed(
                seconds=Range(low=low, likely=base.likely * math.prod(known) ** (1 / len(known)), high=high),
                basis="by ratio",
                of=here,
            )
    if timed.work is None or timed.work.flops <= 0:
        return "the operations of this model cannot be counted, and it was not timed"
    arithmetic, traffic = timed.work.flops / (flops * 1e12), timed.work.moved_bytes / (bandwidth * 1e9)
    # What is fused moves less, so that memory decides at the high end alone.
    return Speed(
        seconds=Range(
            low=arithmetic / reach.high,
            likely=math.sqrt(arithmetic * max(arithmetic, traffic)) / reach.likely,
            high=max(arithmetic, traffic) / reach.low,
        ),
        basis="by data sheet",
    )


def count_work(net: Segmenter, expressions: list[str]) -> Work | None:
    """What a window with these sentences asks of a device, counted as torch goes through it; None where torch does
    nothing of it."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels = np.zeros((1, len(net.band_names), net.window_px, net.window_px), np.uint8)
    text = net.encode_text(expressions)
    moved = _moved_counter()
    with FlopCounterMode(display=False) as flops, moved:
        net.logits(pixels, text)
    total = flops.get_total_flops()
    return Work(flops=float(total), moved_bytes=float(moved.bytes)) if total else None


def _moved_counter() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Moved(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
        """Adds up the tensors that operations take and give; views move nothing."""

        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = func(*args, **(kwargs or {}))
            if not getattr(func, "is_view", False):
                leaves = tree_leaves((args, kwargs or {}, given))
                self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
            return given

    return Moved()  # type: ignore[no-untyped-call]  # torch's


def _in_a_run(seconds: float) -> Range:
    likely, high = IN_A_RUN
    return Range(low=seconds, likely=likely * seconds, high=high * seconds)


def _ratio(timed: float | None, other: float) -> float | None:
    return None if timed is None else timed / other
