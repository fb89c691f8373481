"""What a run's process said: segments of a file whose beginning and end are kept, however much it says.

    log-00000000000000000000  log-00000000000016777216  …  log-00000000000184549376      named by where they begin

Places in it are counted from the first byte that was ever said, so that whoever reads along is never put off by what
was dropped. Only the standard library is needed: the process that keeps a log is small.
"""

from __future__ import annotations

import os
from pathlib import Path

SEGMENT_BYTES = 16 * 2**20
FIRST, LAST = 2, 2
"""Segments kept of the beginning and of the end: 64 MiB in all."""

AT_ONCE_BYTES = 64 * 1024
"""What a reader is given at a time."""


class LogWriter:
    """Adds to a log; one writer at a time."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder, self._most = folder, segment_bytes
        begin, size = (_segments(folder) or [(0, 0)])[-1]
        self._begin, self._size = begin, size
        self._file = self._open(begin)

    def write(self, said: bytes) -> None:
        """Add it, and drop of the middle what there is no room for."""
        while said:
            if self._size >= self._most:
                self._next()
            part, said = said[: self._most - self._size], said[self._most - self._size :]
            os.write(self._file, part)
            self._size += len(part)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _next(self) -> None:
        os.close(self._file)
        self._begin, self._size = self._begin + self._size, 0
        self._file = self._open(self._begin)
        for begin, _ in _segments(self._folder)[FIRST:-LAST]:
            _path(self._folder, begin).unlink(missing_ok=True)

    def _open(self, begin: int) -> int:
        return os.open(_path(self._folder, begin), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def read_log(folder: Path, *, after: int = 0) -> tuple[str, int]:
    """What was said beyond so many bytes, 64 KiB at most and no half letters, and where that ends.

    Where it was dropped, a line says how much is missing, and it goes on behind that.
    """
    segments = _segments(folder)
    if not segments or after >= segments[-1][0] + segments[-1][1]:
        return "", after
    begin, size = next(((begin, size) for begin, size in segments if after < begin + size), segments[-1])
    missing = ""
    if begin > after:
        missing, after = f"… {begin - after:,} bytes are left out here …\n", begin
    try:
        with _path(folder, begin).open("rb") as file:
            file.seek(after - begin)
            said = file.read(AT_ONCE_BYTES)
    except FileNotFoundError:  # dropped in this moment: the next reader is told so
        return "", after
    last = begin == segments[-1][0] and after + len(said) >= begin + size
    whole = said if last else _whole_letters(said)
    return missing + whole.decode("utf-8", errors="replace"), after + len(whole)


def _whole_letters(said: bytes) -> bytes:
    """Up to the last byte before which no letter of UTF-8 is cut in two."""
    for back in range(1, min(4, len(said)) + 1):
        byte = said[-back]
        if byte < 0x80:
            return said
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return said if length <= back or back == len(said) else said[:-back]
    return said


def _segments(folder: Path) -> list[tuple[int, int]]:
    """Where each begins, and its bytes; in order."""
    found = []
    for path in folder.glob("log-*"):
        try:
            found.append((int(path.name.removeprefix("log-")), path.stat().st_size))
        except (ValueError, FileNotFoundError):  # not ours, or dropped in this moment
            continue
    return sorted(found)


def _path(folder: Path, begin: int) -> Path:
    return folder / f"log-{begin:020d}"
