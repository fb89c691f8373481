"""How a tile's windows reach the model, and what it says of them the tile.

A tile may have its model in the same thread (``Model.at_once``) or beside it, shared with other tiles: an ``Ask`` hides
which. Windows across the tile's border are asked about once, however many tiles they belong to (mapper/reuse.py).
"""

from __future__ import annotations

import time as clock
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapper.failpoints import reach
from mapper.grid import PixelBox
from mapper.imagery import Pixels
from mapper.masks import Blend
from mapper.prompts import Prompt
from mapper.reuse import Answer, Remembered, key_of
from mapper.segmenter import Beginning, Logits, Segmenter

CPU_BATCH, GPU_BATCH = 2, 16
"""Windows the model is given at once: on a CPU more of them gain nothing and cost memory."""

GPU_LAUNCH = 8
"""Windows in one call of a model on a GPU, always: there the kernel chosen, and with it the last bit, depends on the
shape. A batch is so many calls; what is missing from the last is filled up with black."""

Ask: TypeAlias = Callable[[Sequence[Pixels], tuple[int, ...]], Sequence[Future[Answer]]]
"""Gives windows ``(band, y, x)`` and positions of prompts to the model; what it says of each comes later."""


class Model:
    """The loaded model, as the tiles of a run use it: always from the thread that loaded it."""

    def __init__(self, segmenter: Segmenter, prompts: Sequence[Prompt], *, batch: int | None) -> None:
        """``batch`` None takes what suits the device."""
        on_cpu = segmenter.device == "cpu"
        self._segmenter = segmenter
        self._prompts = prompts
        self._texts: dict[tuple[int, ...], Any] = {}
        self.batch = batch or (CPU_BATCH if on_cpu else GPU_BATCH)
        """Windows it is given at once, at most."""

        self.launch = 1 if on_cpu else min(self.batch, GPU_LAUNCH)
        """Windows in one call, at least; on a GPU exactly so many, see ``GPU_LAUNCH``."""

    @property
    def fingerprint(self) -> str:
        """What its answers depend on: with a GPU, the shape of a call too. A GPU and a CPU round differently."""
        segmenter = self._segmenter
        shape = "" if self.launch in (1, GPU_LAUNCH) else f" by {self.launch}"
        return f"{segmenter.fingerprint} on {segmenter.device.partition(':')[0]}{shape}"

    def logits(self, pixels: Sequence[Pixels], prompts: tuple[int, ...]) -> Sequence[Logits]:
        """What it says of windows ``(band, y, x)``, at most ``batch`` of them: ``(prompt, y, x)`` each.

        The sentences are encoded at the first call that asks them, then kept for the run.

        Raises:
            ModelError: it refuses a sentence.
        """
        reach("before-infer")
        if prompts not in self._texts:
            self._texts[prompts] = self._segmenter.encode_text([self._prompts[p].expression for p in prompts])
        text = self._texts[prompts]
        if self.launch == 1:
            return list(self._segmenter.logits(np.stack(pixels), text))
        answers: list[Logits] = []
        under_way: deque[Callable[[], Logits]] = deque()
        for first in range(0, len(pixels), self.launch):
            some = pixels[first : first + self.launch]
            full = [*some, *[np.zeros_like(some[0])] * (self.launch - len(some))]
            under_way.append(self._begun(np.stack(full), text))
            if len(under_way) > 1:  # one call is being worked on while the next is prepared
                answers += list(under_way.popleft()())
        while under_way:
            answers += list(under_way.popleft()())
        return answers[: len(pixels)]

    def _begun(self, pixels: NDArray[np.uint8], text: Any) -> Callable[[], Logits]:
        """A call of the model, begun if it can be: ``begin`` is what a segmenter may offer beside ``logits``."""
        if isinstance(self._segmenter, Beginning):
            return self._segmenter.begin(pixels, text)
        logits = self._segmenter.logits(pixels, text)
        return lambda: logits

    def at_once(self, pixels: Sequence[Pixels], prompts: tuple[int, ...]) -> Sequence[Future[Answer]]:
        """``Ask`` in this thread."""
        begun = clock.perf_counter()
        answers: list[Future[Answer]] = []
        for logits in self.logits(pixels, prompts) if pixels else ():
            future: Future[Answer] = Future()
            future.set_result(Answer(logits=logits, seconds=(clock.perf_counter() - begun) / len(pixels)))
            answers.append(future)
        return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One window of a tile, with the model."""

    window: PixelBox
    answer: Future[Answer]
    key: bytes | None = None
    """Of one that may be asked about again."""

    reused: bool = False


class Gathered:
    """What the model says of one tile's windows, blended in the order in which they were looked at."""

    def __init__(self, blend: Blend, remembered: Remembered, prompts: tuple[int, ...], ask: Ask) -> None:
        self._blend, self._remembered, self._prompts, self._ask = blend, remembered, prompts, ask
        self._looks: deque[_Look] = deque()
        self.reused = 0
        self.model_s = 0.0
        """The model's own time for these windows."""

        self.asked_s = 0.0
        """Time this thread spent on asking and waiting, where the model's may pass."""

    def look_at(self, windows: Sequence[PixelBox], shown: Sequence[Pixels], core: PixelBox) -> None:
        """Give windows to the model, at least one, but for those across the core's border that it knows already."""
        begun = clock.perf_counter()
        keys = [
            None if core.contains(window) else key_of(pixels, self._prompts)
            for window, pixels in zip(windows, shown, strict=True)
        ]
        nbytes = np.dtype(np.float32).itemsize * len(self._prompts) * shown[0][0].size
        answers = self._remembered.answers(
            keys, nbytes, lambda some: self._ask([shown[n] for n in some], self._prompts)
        )
        for window, key, (answer, reused) in zip(windows, keys, answers, strict=True):
            self._looks.append(_Look(window=window, answer=answer, key=key, reused=reused))
        self.asked_s += clock.perf_counter() - begun

    def blend_all_but(self, left: int) -> None:
        """Wait for the answers and blend them, until no more than so many are left."""
        while len(self._looks) > left:
            look = self._looks.popleft()
            begun = clock.perf_counter()
            answer = look.answer.result()
            reach("after-infer")
            self.asked_s += clock.perf_counter() - begun
            self._blend.add(look.window, answer.logits)
            self.reused += look.reused
            if not look.reused:
                self.model_s += answer.seconds
                if look.key is not None:
                    self._remembered.own(look.key)
