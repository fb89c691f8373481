"""Files that nobody may open, and who did."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np

from tests.hostile.rasters import FRAME, geotiff
from tests.hostile.rasters_disguised import CANARY

CANARIES = ("canary.tif", "canary_half.tif")
_OPENED, _NOT_BLOCKING = 0x20, 0o4000


def plant(folder: Path) -> None:
    """Put the canaries in a folder: of the size of the corpus' files, and of half of it, as an overview is."""
    for name, size in zip(CANARIES, (1, 2), strict=True):
        pixels = np.full((3, FRAME.height // size, FRAME.width // size), CANARY, np.uint8)
        (folder / name).write_bytes(geotiff(pixels))


class Watched:
    """Tells which canaries of some folders were opened, by any process: the kernel says so (inotify)."""

    def __init__(self, *folders: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(_NOT_BLOCKING)
        assert self._handle >= 0, os.strerror(ctypes.get_errno())
        for folder in folders:
            watch = self._libc.inotify_add_watch(self._handle, os.fsencode(folder), _OPENED)
            assert watch >= 0, os.strerror(ctypes.get_errno())

    def opened(self) -> list[str]:
        """Names of the canaries opened since it was last asked, and whatever was lost of the record."""
        names = []
        try:
            while events := os.read(self._handle, 1 << 16):
                at = 0
                while at < len(events):
                    _, mask, _, length = struct.unpack_from("iIII", events, at)
                    name = events[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                    at += 16 + length
                    if name in CANARIES or mask & 0x4000:  # the queue overflowed: more was opened than is known
                        names.append(name or "unknown")
        except BlockingIOError:
            pass
        return names

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)
