"""What the threads of this process have spent their time on.

A call that fetches and decodes in one (GDAL's) is split by what its thread was at: on a core, or in line for one, it
decodes; for the rest of the time it waits for bytes. So a machine with too few cores is not taken for a slow network.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

WORK = ("read", "decode", "copy", "infer", "blend", "encode", "write")
"""What a worker's threads spend their time on: bytes fetched, decoded and warped, pixels to the device and back, the
model, windows cut and blended, shards encoded, shards put."""


class Spent:
    """Seconds by ``WORK``, of all threads added up, since it was made."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(WORK, 0.0)
        self._lock = threading.Lock()

    def add(self, work: str, seconds: float) -> None:
        """Count some more; never fewer."""
        with self._lock:
            self._seconds[work] += max(0.0, seconds)

    def add_all(self, seconds: Mapping[str, float]) -> None:
        """Count what another process has counted."""
        for work, more in seconds.items():
            self.add(work, more)

    def seconds(self) -> dict[str, float]:
        """All of it."""
        with self._lock:
            return dict(self._seconds)

    @contextmanager
    def computing(self, work: str) -> Iterator[None]:
        """Count the time in which this thread computes, or would if it had a core."""
        began = at_work_s()
        try:
            yield
        finally:
            self.add(work, at_work_s() - began)

    @contextmanager
    def waiting(self, work: str) -> Iterator[None]:
        """Count the rest of the time. It may lie within ``computing`` of another work."""
        began, computed = time.perf_counter(), at_work_s()
        try:
            yield
        finally:
            self.add(work, time.perf_counter() - began - (at_work_s() - computed))


SPENT = Spent()
"""Of this process."""


class _InLine(threading.local):
    """What the kernel knows of this thread: how long it stood in line for a core. 0 where it does not say."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def seconds(self) -> float:
        if self._file is None:
            return 0.0
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) / 1e9  # its second number, in nanoseconds
        except (OSError, LookupError, ValueError):  # another kernel's, or a file of the process this was forked from
            return 0.0

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


_in_line = _InLine()


def at_work_s() -> float:
    """Seconds that this thread has computed or stood in line for a core, since it began."""
    return time.thread_time() + _in_line.seconds()


def spent_since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Seconds between two looks at one ``Spent``."""
    return {work: seconds - before.get(work, 0.0) for work, seconds in now.items()}
