"""Amounts as people read them: about how much, and how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An estimate and how far it may be off."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Range:
        """Each of the three, multiplied."""
        return Range(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)

    def by(self, other: Range) -> Range:
        """One after the other: low by low, and so on. Neither may be below 0."""
        return Range(low=self.low * other.low, likely=self.likely * other.likely, high=self.high * other.high)


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:,.0f} days"
