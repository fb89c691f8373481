"""TIFF files byte by byte: what no library would write."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""Numbers, one or many; text or bytes; or a ``Tag``."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SAMPLE_FORMAT = 322, 323, 324, 325, 339
SCALE, TIEPOINT, MATRIX, GEOKEYS, GEO_DOUBLES, GEO_TEXT, METADATA, NODATA = (
    33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113,
)  # fmt: skip
SHORT, LONG, ASCII, DOUBLE, LONG8 = 3, 4, 2, 12, 16
_LETTER = {SHORT: "H", LONG: "I", DOUBLE: "d", LONG8: "Q"}
_SHORTS = (BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, SAMPLE_FORMAT, GEOKEYS)
_DOUBLES = (SCALE, TIEPOINT, MATRIX, GEO_DOUBLES)
_TEXTS = (GEO_TEXT, METADATA, NODATA, 270)


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory, said in full."""

    kind: int
    count: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiff:
    """A file of directories, each tag → value; blocks lie behind them."""

    directories: Sequence[Mapping[int, Value]]
    data: bytes = b""
    """Put at the end. A tag's value ``"data"`` is where it begins."""

    links: Mapping[int, int] = field(default_factory=dict)
    """Directory → the one that it says comes next, instead of the one that does; offsets where negative."""

    big: bool = False
    order: str = "<"

    def written(self) -> bytes:
        """The file."""
        head, entry, count, offset = (16, 20, "Q", "Q") if self.big else (8, 12, "H", "I")
        starts, extras, at = [], [], head
        for tags in self.directories:
            starts.append(at)
            at += struct.calcsize("=" + count) + entry * len(tags) + struct.calcsize("=" + offset)
        for tags in self.directories:
            extras.append(at)
            at += sum(len(part) for part in self._contents(tags, 0) if len(part) > struct.calcsize("=" + offset))
        parts = [self._head(starts[0] if starts else 0)]
        tails = []
        for number, tags in enumerate(self.directories):
            following = self.links.get(number, number + 1)
            after = starts[following] if 0 <= following < len(starts) else 0 if following >= 0 else -following
            entries, tail = self._directory(tags, extras[number], at)
            parts.append(struct.pack(self.order + count, len(tags)) + entries + struct.pack(self.order + offset, after))
            tails.append(tail)
        return b"".join(parts) + b"".join(tails) + self.data

    def _head(self, first: int) -> bytes:
        mark = b"II" if self.order == "<" else b"MM"
        if self.big:
            return mark + struct.pack(self.order + "HHHQ", 43, 8, 0, first)
        return mark + struct.pack(self.order + "HI", 42, first)

    def _contents(self, tags: Mapping[int, Value], data: int) -> list[bytes]:
        return [self._tag(code, tags[code], data).content for code in sorted(tags)]

    def _directory(self, tags: Mapping[int, Value], extra: int, data: int) -> tuple[bytes, bytes]:
        entries, tail = b"", b""
        room, counter = (8, "Q") if self.big else (4, "I")
        for code in sorted(tags):
            tag = self._tag(code, tags[code], data)
            entries += struct.pack(self.order + "HH" + counter, code, tag.kind, tag.count)
            if len(tag.content) <= room:
                entries += tag.content.ljust(room, b"\0")
            else:
                entries += struct.pack(self.order + counter, extra + len(tail))
                tail += tag.content
        return entries, tail

    def _tag(self, code: int, value: Value, data: int) -> Tag:
        if isinstance(value, Tag):
            return value
        if value == "data":
            value = data
        if isinstance(value, str):
            value = value.encode() + b"\0"
        if isinstance(value, bytes):
            return Tag(ASCII if code in _TEXTS else 7, len(value), value)
        values = list(value) if isinstance(value, Sequence) else [value]
        kind = DOUBLE if code in _DOUBLES else SHORT if code in _SHORTS else LONG8 if max(values) >= 2**32 else LONG
        return Tag(kind, len(values), struct.pack(f"{self.order}{len(values)}{_LETTER[kind]}", *values))


def utm45_keys(code: int = 32645) -> tuple[int, ...]:
    """The geographic keys of a projected CRS."""
    return (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, code)
