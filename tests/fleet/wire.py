"""A cable that takes its time: ``python -m tests.fleet.wire NEAR FAR SECONDS``, until stdin closes.

It makes two network devices, and hands each the frames of the other when they are old enough. The kernel's own delays
(netem) are not in every kernel; devices whose frames a program reads are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
TAP_OF_FRAMES = 0x0002 | 0x1000
"""A device of Ethernet frames, with nothing before them."""

FRAME_BYTES = 65_536
AT_ONCE = 256
"""Frames taken from one end before the other is looked at."""


def device(name: str) -> int:
    """The program's end of a new network device."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_OF_FRAMES))
    return end


def carry(ends: tuple[int, int], delay_s: float) -> None:
    """Hand each end the frames of the other, so much later, until stdin closes."""
    under_way: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    while True:
        due = min((frames[0][0] for frames in under_way if frames), default=None)
        wait_s = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([*ends, sys.stdin], [], [], wait_s)
        if sys.stdin in ready:
            return
        for end, frames in zip(ends, under_way, strict=True):
            if end in ready:
                _take(end, frames, time.monotonic() + delay_s)
        now = time.monotonic()
        for end, frames in zip(reversed(ends), under_way, strict=True):
            while frames and frames[0][0] <= now:
                with contextlib.suppress(OSError):  # a device that is not up loses what it is given, as any does
                    os.write(end, frames.popleft()[1])


def _take(end: int, frames: deque[tuple[float, bytes]], due: float) -> None:
    with contextlib.suppress(OSError):
        for _ in range(AT_ONCE):
            frames.append((due, os.read(end, FRAME_BYTES)))


def main() -> None:
    """Make the devices, say so, and carry."""
    near, far, seconds = sys.argv[1:]
    ends = device(near), device(far)
    print("ready", flush=True)
    carry(ends, float(seconds))


if __name__ == "__main__":
    main()
