"""A GPU that is not there: a model that takes as long as one would, and holds no core while it does.

So that what surrounds a GPU can be measured where there is none. It is a model like any other, ``model: {name:
stand-in}``, for whoever has ``benchmarks/plugins`` and the repository on PYTHONPATH; its weights are a JSON file::

    {"windows_per_s": 20, "log": "/tmp/device.log"}

The device is serial. A batch of k windows takes k / windows_per_s from the moment it was handed over, or from when
the device became free if that came later: whoever hands the next batch over in time gets exactly that many windows a
second. What it costs besides sleep is the answer: a quarter of a millisecond of one core for a window and a prompt.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mapper.segmenter import Logits

WINDOW_PX = 512

WAKE_S = 0.001
"""Up to this, waking late is the stand-in's own doing and no gap of whoever feeds it. Beyond, the host was busy with
something else, and a GPU would have waited too."""

_STEEPNESS = np.float32(1 / 16)
_LINE = struct.Struct("<ddqq")


class Device:
    """Takes batches, one after the other, and time for each. Threads may share it."""

    def __init__(self, windows_per_s: float, log: Path | None = None) -> None:
        """A device that is free now.

        Args:
            windows_per_s: how many it does.
            log: what it did is added to this file, batch by batch, so that it survives the process.
        """
        self._rate = windows_per_s
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()
        self._free_at = self._overslept_s = 0.0

    def begin(self, windows: int, *, shown: int, handed_over: float) -> Callable[[], None]:
        """Put a batch in line; what comes back returns when it is done.

        Args:
            windows: in this batch.
            shown: of them, those that are not black.
            handed_over: reading of ``time.monotonic()`` when it was.
        """
        with self._lock:
            began = max(handed_over - self._overslept_s, self._free_at)
            self._free_at = ended = began + windows / self._rate

        def wait() -> None:
            slept = False
            while (left_s := ended - time.monotonic()) > 0:
                time.sleep(left_s)
                slept = True
            with self._lock:
                self._overslept_s = min(time.monotonic() - ended, WAKE_S) if slept else 0.0
            if self._log is not None:
                os.write(self._log, _LINE.pack(began, ended, windows, shown))

        return wait


class Batch(NamedTuple):
    """One batch, as the log has it."""

    began: float
    """Seconds of the machine's monotonic clock, the same in all its processes."""

    ended: float
    windows: int
    shown: int
    """Of them, those that were not black: a batch may be filled up with black ones, whose answers nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What a device did, by its log."""

    batches: tuple[Batch, ...]
    """In the order in which they ended."""

    @classmethod
    def read(cls, log: Path) -> Worked:
        """What the log tells; nothing where there is none."""
        content = log.read_bytes() if log.exists() else b""
        batches = (Batch(*fields) for fields in _LINE.iter_unpack(content))
        return cls(batches=tuple(sorted(batches, key=lambda batch: batch.ended)))

    @property
    def windows(self) -> int:
        """In all batches."""
        return sum(batch.windows for batch in self.batches)

    @property
    def shown(self) -> int:
        """Those that were not black."""
        return sum(batch.shown for batch in self.batches)

    @property
    def busy_s(self) -> float:
        """Seconds in which it worked."""
        return sum(batch.ended - batch.began for batch in self.batches)

    @property
    def span_s(self) -> float:
        """From the first batch's beginning to the last one's end."""
        return self.batches[-1].ended - min(batch.began for batch in self.batches) if self.batches else 0.0


class StandIn:
    """A ``Segmenter``: what is brighter in green than a level of the sentence's own, less so towards a window's edge.

    Windows therefore disagree where they meet, as those of a real model do, and blending them has something to do.
    """

    band_names = ("red", "green", "blue")
    device = "stand-in"
    """Not ``cpu``: batches are those of a GPU."""

    fingerprint = "stand-in 1"

    def __init__(self, device: Device, *, name: str = "stand-in", window_px: int = WINDOW_PX) -> None:
        self.name, self.window_px = name, window_px
        place = np.linspace(-1, 1, window_px, dtype=np.float32)
        self._bowl = place[:, None] ** 2 + place[None, :] ** 2  # 0 in the middle, 2 in the corners
        self._device = device

    def encode_text(self, expressions: Sequence[str]) -> list[NDArray[np.float32]]:
        """Of each sentence, the green from which its answer is yes, ``(y, x)``."""
        levels = [80 + zlib.crc32(expression.encode()) % 96 for expression in expressions]
        return [np.float32(level) + self._bowl / _STEEPNESS for level in levels]

    def logits(self, pixels: NDArray[np.uint8], text: Sequence[NDArray[np.float32]]) -> Logits:
        """uint8 ``(window, 3, y, x)`` to float32 ``(window, prompt, y, x)``, when the device would be done."""
        return self.begin(pixels, text)()

    def begin(self, pixels: NDArray[np.uint8], text: Sequence[NDArray[np.float32]]) -> Callable[[], Logits]:
        """Hand a batch over and go on; what comes back waits for its logits."""
        handed_over = time.monotonic()
        green = pixels[:, 1].astype(np.float32)
        answer = np.empty((len(pixels), len(text), self.window_px, self.window_px), np.float32)
        for prompt, level in enumerate(text):
            np.subtract(green, level, out=answer[:, prompt])
            answer[:, prompt] *= _STEEPNESS
        wait = self._device.begin(len(pixels), shown=int(green.any(axis=(1, 2)).sum()), handed_over=handed_over)

        def logits() -> Logits:
            wait()
            return answer

        return logits


@dataclass(frozen=True, slots=True)
class Wide:
    """What ``mapper.models`` asks of a module, of a stand-in with larger windows."""

    WINDOW_PX: int

    def load(self, weights: Path | None, *, device: str, precision: str) -> StandIn:
        """As ``load`` of this module."""
        return StandIn(_device(weights), name=f"stand-in-{self.WINDOW_PX}", window_px=self.WINDOW_PX)


WIDE = Wide(896)
"""``stand-in-896``: with the windows of RemoteSAM."""


def load(weights: Path | None, *, device: str, precision: str) -> StandIn:
    """The stand-in its weights file describes; 20 windows a second where there is none."""
    return StandIn(_device(weights))


def _device(weights: Path | None) -> Device:
    facts = {} if weights is None else json.loads(weights.read_text(encoding="utf-8"))
    return Device(float(facts.get("windows_per_s", 20)), Path(facts["log"]) if "log" in facts else None)


def write_weights(path: Path, *, windows_per_s: float, log: Path) -> Path:
    """A weights file of the stand-in."""
    path.write_text(json.dumps({"windows_per_s": windows_per_s, "log": str(log)}), encoding="utf-8")
    return path
