"""Time the model on this machine, so that a plan's hours are measured and not guessed."""

from __future__ import annotations

import time

import numpy as np

from jobs.estimate import Range
from jobs.prepare import model_choice
from jobs.spec import JobSpec

LOOKS = 3


def seconds_per_window(spec: JobSpec) -> tuple[Range, str]:
    """Seconds one window takes with all the job's sentences, and the device it was timed on.

    The low end is the model alone. The high end allows for reading that the model has to wait for.

    Raises:
        ModelError: the model cannot be loaded.
    """
    import torch

    from cluster.worker import CPU_THREADS

    net = model_choice(spec).load()
    before = torch.get_num_threads()
    torch.set_num_threads(CPU_THREADS)
    try:
        text = net.encode_text([prompt.expression for prompt in spec.prompts])
        pixels = np.random.default_rng(0).integers(
            0, 256, (1, len(net.band_names), net.window_px, net.window_px), np.uint8
        )
        net.logits(pixels, text)  # the first one pays for warming up
        times = []
        for _ in range(LOOKS):
            begun = time.perf_counter()
            net.logits(pixels, text)
            times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return Range(low=min(times), likely=1.15 * float(np.median(times)), high=2.0 * max(times)), net.device
