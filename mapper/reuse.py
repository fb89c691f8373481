"""What the model said of windows that neighbouring tiles look at too, kept until they ask.

A window across the border of two shards belongs to both of their tiles. Where one worker maps both, it is looked at
once: what it shows is the key, so that nothing but the same pixels and the same sentences can give the same answer,
and no rule about where windows lie is needed to trust it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

import numpy as np

from mapper.imagery import Pixels
from mapper.segmenter import Logits

REMEMBERED_BYTES = 512 * 1024 * 1024
"""What one worker keeps. A shard of 4096 px has 44 windows of 512 px on its border, 1 MB each and prompt; along a
space-filling curve a dozen shards are enough to find three of four neighbours' windows again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said of one window."""

    logits: Logits
    """float32 ``(prompt, y, x)``."""

    seconds: float
    """Its share of the time the model took; 0 where the answer was remembered."""


class Remembered:
    """Answers by what the window shows, the least recently used forgotten first. Threads may share one."""

    def __init__(self, budget_bytes: int = REMEMBERED_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[bytes, tuple[Future[Answer], int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Held now, or on its way."""
        return self._bytes

    def answers(
        self,
        keys: Sequence[bytes | None],
        nbytes: int,
        ask: Callable[[Sequence[int]], Sequence[Future[Answer]]],
    ) -> list[tuple[Future[Answer], bool]]:
        """What was said under each key, or else what is said when asked now; and whether it was remembered.

        Args:
            keys: as ``key_of`` gives them; None for what nobody else will ask.
            nbytes: of the logits of one.
            ask: gives those at these positions to the model, all at once.
        """
        with self._lock:
            known = {key: position for position, key in reversed(list(enumerate(keys))) if key is not None}
            missing = [n for n, key in enumerate(keys) if key is None or (known[key] == n and not self._knows(key))]
            asked = dict(zip(missing, ask(missing), strict=True))
            found = []
            for n, key in enumerate(keys):
                if n in asked:
                    found.append((asked[n], False))
                    self._hold(key, asked[n], nbytes)
                elif key is not None:
                    found.append((asked.get(known[key]) or self._held[key][0], True))
            self._forget_oldest()
            return found

    def own(self, key: bytes) -> None:
        """Let go of the batch that an answer came with: it is a view of all the windows asked with it."""
        with self._lock:
            held = self._held.get(key)
            if held is None or not held[0].done() or _failed(held[0]) or held[0].result().logits.base is None:
                return
            future: Future[Answer] = Future()
            future.set_result(Answer(logits=held[0].result().logits.copy(), seconds=0.0))
            self._held[key] = (future, held[1])

    def _knows(self, key: bytes) -> bool:
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
        return held is not None and not _failed(held[0])

    def _hold(self, key: bytes | None, answer: Future[Answer], nbytes: int) -> None:
        if key is not None:
            self._bytes += nbytes - self._held.pop(key, (answer, 0))[1]
            self._held[key] = (answer, nbytes)

    def _forget_oldest(self) -> None:
        while self._bytes > self._budget_bytes:
            self._bytes -= self._held.popitem(last=False)[1][1]


def key_of(pixels: Pixels, prompts: tuple[int, ...]) -> bytes:
    """What a window shows and what is asked of it, in 16 bytes."""
    digest = hashlib.blake2b(repr((prompts, pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _failed(future: Future[Answer]) -> bool:
    return future.cancelled() or (future.done() and future.exception() is not None)
