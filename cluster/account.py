"""What one worker has done and spent: the counters behind its ``Reading``."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping

from cluster.device import CardWatch, host_peak_bytes
from cluster.readings import Reading
from cluster.tally import Tally
from mapper.map_tile import TileResult
from mapper.traffic import TRAFFIC, calls_since
from mapper.work import SPENT, spent_since


class Account:
    """Counts since its worker's model was loaded. Threads may share it."""

    def __init__(self, name: str, device: str, tally: Tally) -> None:
        self._name, self._device, self._tally = name, device, tally
        self._began = time.time()
        self._card = CardWatch(device)
        # A process may have had another worker before.
        self._spent, self._calls = SPENT.seconds(), TRAFFIC.calls()
        self._lock = threading.Lock()
        self._tiles = self._windows = self._reused = self._pixels = 0

    def count(self, result: TileResult) -> None:
        """One tile is done."""
        with self._lock:
            self._tiles += 1
            self._windows += result.windows
            self._reused += result.reused
            self._pixels += result.asked_px

    def reading(self, *, batch: int, in_hand: int, holds: int, queues: Mapping[str, int]) -> Reading:
        """All of it, and how things stand now."""
        work_s = spent_since(self._spent, SPENT.seconds())
        charged = self._tally.charged(work_s)
        card = self._card.sample()
        with self._lock:
            tiles, windows, reused, pixels = self._tiles, self._windows, self._reused, self._pixels
        return Reading(
            worker=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            began=self._began,
            up_s=charged.up_s,
            busy_s=charged.busy_s,
            waited_s=charged.waited_s,
            work_s=work_s,
            tiles=tiles,
            windows=windows,
            reused=reused,
            pixels=pixels,
            batch=batch,
            in_hand=in_hand,
            holds=holds,
            queues=queues,
            host_peak_bytes=host_peak_bytes(),
            device_peak_bytes=card.peak_bytes,
            device_total_bytes=card.total_bytes,
            power_w=card.power_w,
            temperature_c=card.temperature_c,
            utilization=card.utilization,
            calls=calls_since(self._calls, TRAFFIC.calls()),
        )
