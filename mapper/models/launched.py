"""Windows to the device and logits back, with neither side waiting for the other.

On a GPU all is launched in order and fetched later: while it works on one call, the CPU cuts and copies the next. The
pixels travel as uint8, a quarter of what they are as numbers, from memory the GPU can read by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapper.segmenter import Logits
from mapper.work import SPENT


def launched(answer: Callable[[Tensor], Tensor], pixels: NDArray[np.uint8], device: str) -> Callable[[], Logits]:
    """Start a model on windows; what comes back waits for the logits and gives them.

    Args:
        answer: uint8 ``(window, band, y, x)`` on the device → float32 ``(window, prompt, y, x)`` there.
        pixels: uint8 ``(window, band, y, x)``.
        device: as torch says it.

    Returns:
        A function without arguments that gives float32 ``(window, prompt, y, x)``.
    """
    if not pixels.flags.writeable:  # torch has no tensors that may not be written to
        pixels = pixels.copy()
    with torch.inference_mode():
        if torch.device(device).type != "cuda":
            said = answer(torch.from_numpy(pixels).to(device)).cpu()
            return lambda: np.asarray(said.numpy())
        here = torch.from_numpy(pixels).pin_memory()
        sent, arrived, answered, over = (torch.cuda.Event(enable_timing=True) for _ in range(4))  # type: ignore[no-untyped-call]
        sent.record()
        there = here.to(device, non_blocking=True)
        arrived.record()
        out = answer(there)
        back = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
        answered.record()
        back.copy_(out, non_blocking=True)
        over.record()

    def fetched() -> Logits:
        over.synchronize()
        SPENT.add("copy", (sent.elapsed_time(arrived) + answered.elapsed_time(over)) / 1000)
        return np.asarray(back.numpy())

    return fetched
