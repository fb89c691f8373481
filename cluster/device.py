"""What a worker's process and its card take: memory at most so far, power, temperature, load.

Of the card the driver is asked through NVML where there is one. Nothing here raises: what cannot be had is None.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SAMPLED_EVERY_S = 1.0
"""The card is asked no oftener: an answer takes its driver milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """How a GPU does; None for what it does not say."""

    peak_bytes: int | None = None
    """Of this process: what torch has taken from the card, at most so far."""

    total_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    utilization: float | None = None
    """0 to 1."""


NO_CARD = Card()


def host_peak_bytes() -> int:
    """Memory of this process, at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class CardWatch:
    """Samples the card of one model. Threads may share it."""

    def __init__(
        self,
        device: str,
        *,
        nvml: Any | None = None,
        torch: Any | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the card; nothing is found where there is none.

        Args:
            device: of the model, as torch says it.
            nvml: the module to ask, ``pynvml`` if None.
            torch: likewise ``torch``, if the process has loaded it.
            clock: tells seconds.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._said, self._at = NO_CARD, -float("inf")
        self._torch = self._nvml = self._handle = None
        if not device.startswith("cuda"):
            return
        self._torch = torch or sys.modules.get("torch")
        with contextlib.suppress(Exception):  # no library, no driver, no such card: each has errors of its own
            self._nvml = nvml or _pynvml()
            self._nvml.nvmlInit()
            self._handle = _handle(self._nvml, _named(self._torch, device))

    def sample(self) -> Card:
        """How it does, as of a second ago at most."""
        with self._lock:
            at = self._clock()
            if at - self._at >= SAMPLED_EVERY_S and (self._torch is not None or self._handle is not None):
                self._at, self._said = at, self._asked()
            return self._said

    def _asked(self) -> Card:
        nvml, handle, torch = self._nvml, self._handle, self._torch
        peak = _or_none(lambda: int(torch.cuda.max_memory_reserved())) if torch is not None else None
        total = _or_none(lambda: int(torch.cuda.mem_get_info()[1])) if torch is not None else None
        if nvml is None or handle is None:
            return Card(peak_bytes=peak, total_bytes=total)
        power_mw = _or_none(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        load = _or_none(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        celsius = _or_none(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        return Card(
            peak_bytes=peak,
            total_bytes=total or _or_none(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=None if celsius is None else float(celsius),
            utilization=None if load is None else load / 100,
        )


def _pynvml() -> Any:
    import pynvml

    return pynvml


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # a card that does not know it, a driver that went away
        return None


def _named(torch: Any, device: str) -> str:
    """What the card is called: by its UUID where torch knows it, else as ``CUDA_VISIBLE_DEVICES`` names it."""
    number = int(device.partition(":")[2] or 0)
    uuid = _or_none(lambda: str(torch.cuda.get_device_properties(number).uuid)) if torch is not None else None
    if uuid:
        return f"GPU-{uuid}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number].strip()


def _handle(nvml: Any, name: str) -> Any:
    """The card of that number or UUID, of which the first letters are enough; of a part of a card, the card.

    Raises:
        LookupError: there is none.
    """
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    if name.startswith("MIG-"):
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(name))
    for handle in _handles(nvml):
        uuid = nvml.nvmlDeviceGetUUID(handle)
        if name and (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(name):
            return handle
    raise LookupError(name)


def _handles(nvml: Any) -> Iterator[Any]:
    for number in range(nvml.nvmlDeviceGetCount()):
        yield nvml.nvmlDeviceGetHandleByIndex(number)
