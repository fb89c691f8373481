"""Stored values → what a reader keeps of them: pixels for the model, or what hides the ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mapper.errors import SpecError
from mapper.imagery import Band, CloudMask, Valid
from mapper.raster import Cell, Raw


class Develop(Protocol):
    """Makes of the stored values of a cell what is kept of it, in memory of its own. Equal ones do the same."""

    def __call__(self, raw: Raw, seen: Valid | None) -> Cell:
        """What is kept of stored values ``(band, y, x)``, real where ``seen``; None where all are."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Untouched:
    """Stored values as they are."""

    def __call__(self, raw: Raw, seen: Valid | None) -> Cell:
        """A copy."""
        return raw.copy(), None if seen is None or seen.all() else seen.copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretched:
    """uint8 ``(band, y, x)`` as a model is given it, rounded; what is not finite becomes 0, and +∞ 255."""

    lines: tuple[tuple[float, float], ...] | None
    """Gain and shift of each band; None leaves uint8 as it is and refuses the rest."""

    names: tuple[str, ...]
    """Of the bands, for who must be told that they are not uint8."""

    @classmethod
    def of(cls, bands: tuple[Band, ...], stretch: tuple[float, float] | None) -> Stretched:
        """The physical values that become 0 and 255, as arithmetic on what these bands store."""
        names = tuple(band.name or str(band.index) for band in bands)
        if stretch is None:
            return cls(lines=None, names=names)
        low, high = stretch
        lines = tuple((255 * band.scale / (high - low), 255 * (band.offset - low) / (high - low)) for band in bands)
        return cls(lines=lines, names=names)

    def __call__(self, raw: Raw, seen: Valid | None) -> Cell:
        """The pixels of a cell.

        Raises:
            SpecError: no range was said for values that are not uint8.
        """
        if self.lines is None:
            if raw.dtype != np.uint8:
                raise SpecError(
                    f"band {self.names[0]} holds {raw.dtype}, and the model wants 0 to 255",
                    fix="say which range to map there, as in imagery.scale: {from: [0, 3000]}",
                )
            return Untouched()(raw, seen)
        pixels = np.empty(raw.shape, np.uint8)
        scaled = np.empty(raw.shape[1:], np.float32)
        for into, values, (gain, shift) in zip(pixels, raw, self.lines, strict=True):
            np.multiply(values, np.float32(gain), out=scaled, dtype=np.float32, casting="unsafe")
            np.add(scaled, np.float32(shift), out=scaled)
            if np.issubdtype(raw.dtype, np.inexact):
                np.nan_to_num(scaled, copy=False)
            np.clip(scaled, 0, 255, out=scaled)
            np.rint(scaled, out=scaled)
            np.copyto(into, scaled, casting="unsafe")
        return pixels, None if seen is None or seen.all() else seen.copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """bool ``(1, y, x)``: True where a cloud band has one of the values or bits that hide the ground."""

    values: frozenset[int]
    bits: int

    @classmethod
    def of(cls, cloud: CloudMask) -> Hidden:
        """What this cloud band hides."""
        return cls(values=cloud.values, bits=cloud.bits)

    def __call__(self, raw: Raw, seen: Valid | None) -> Cell:
        """Where a cell hides the ground; where the band itself has nothing, it hides nothing."""
        hidden = np.isin(raw, list(self.values)) if self.values else np.zeros(raw.shape, np.bool_)
        if self.bits:
            hidden |= (raw.astype(np.int64) & self.bits) != 0
        return hidden if seen is None else hidden & seen, None
