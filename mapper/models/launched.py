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
        out = answer(here.to(device, non_blocking=True))
        back = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
        back.copy_(out, non_blocking=True)
        over = torch.cuda.Event()  # type: ignore[no-untyped-call]
        over.record()

    def fetched() -> Logits:
        over.synchronize()
        return np.asarray(back.numpy())

    return fetched
