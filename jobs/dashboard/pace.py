"""How fast a run gets on, when it will be over, and what that costs: rules over when tiles were entered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.dashboard.views import Cost, Span

Moments: TypeAlias = NDArray[np.float64]

WINDOW_S = 300.0
"""What is recent."""

LONGEST_WINDOW_S = 6 * 3600.0
INTERVALS = 24
"""Into how many the recent window is cut, to see how even the pace is."""

FEW_TILES = 2 * INTERVALS
"""Where fewer came in the window, it is made longer."""

STILL_S = 60.0
STILL_GAPS = 8.0
"""It stands still where nothing came for so long, and for so many times as long as between two tiles otherwise."""

SPREAD = 1.33
"""Four of five draws lie within so many standard deviations, where the deviation itself is taken from 24 intervals."""

POINTS = 240
"""Of a history at most."""

_WIDTHS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Tiles of a recent window."""

    seconds: float
    """Length of the window."""

    counts: tuple[int, ...]
    """Tiles by interval, oldest first; intervals are of one length."""

    still: bool
    """Whether nothing has come for so long that something must be wrong."""

    @property
    def tiles(self) -> int:
        """In the whole window."""
        return sum(self.counts)

    @property
    def tiles_per_s(self) -> float:
        """Of the window; 0 where it stands still."""
        return 0.0 if self.still else self.tiles / self.seconds


def recent_pace(at: Moments, *, began: float, now: float) -> Pace | None:
    """The pace of the last minutes.

    Args:
        at: when tiles were entered, seconds since 1970, in any order; NaN where they were not.
        began: when this sitting began to map: what came before says nothing of it.
        now: of the same clock.

    Returns:
        None where nothing came yet.
    """
    longest = min(LONGEST_WINDOW_S, max(now - began, 1.0))
    seconds = min(longest, WINDOW_S)
    known = np.sort(at[(at > now - seconds) & (at <= now)])
    if len(known) < FEW_TILES and seconds < longest:
        known = np.sort(at[(at > now - longest) & (at <= now)])
        if len(known):
            seconds = min(longest, max(seconds, now - float(known[-min(FEW_TILES, len(known))]) + 1e-3))
    inside = known[known > now - seconds]
    if not len(inside):
        return None
    counts, _ = np.histogram(inside, bins=INTERVALS, range=(now - seconds, now))
    gap_s = seconds / max(1, len(inside))
    still = now - float(inside[-1]) > max(STILL_S, STILL_GAPS * gap_s)
    return Pace(seconds=seconds, counts=tuple(counts.tolist()), still=still)


def seconds_left(tiles: int, pace: Pace | None) -> Span | None:
    """How long so many tiles still take, at the recent pace: the range that holds the truth four times in five.

    The spread comes from how uneven the recent intervals were, and how much of it lasts from one to the next. It is
    that of the pace itself, known from so many intervals, and that of what is still to come.

    Returns:
        None where it stands still, or nothing is left to do.
    """
    if pace is None or pace.still or tiles <= 0 or not pace.tiles:
        return None
    counts = np.array(pace.counts, np.float64)
    mean = counts.mean()
    likely = tiles / pace.tiles_per_s
    uneven = max(counts.var(ddof=1), 0.0 if pace.tiles >= INTERVALS else mean) / mean**2 * _lasting(counts)
    ahead = tiles / mean
    # A sixth: where in its turn the first and the last tile fell, of those counted and of those to come.
    variance = uneven * (1 / len(counts) + 1 / ahead) + (1 / pace.tiles**2 + 1 / tiles**2) / 6
    factor = math.exp(SPREAD * math.sqrt(math.log1p(variance)))
    return Span(low=likely / factor, high=likely * factor)


def _lasting(counts: Moments) -> float:
    """How much wider the spread of a sum is than if intervals were independent, from how alike neighbours are."""
    off = counts - counts.mean()
    total = float(off @ off)
    alike = float(off[1:] @ off[:-1]) / total if total else 0.0
    alike = min(0.6, max(0.0, alike))
    return (1 + alike) / (1 - alike)


def history(at: Moments, *, now: float) -> tuple[tuple[datetime, float], ...]:
    """Moment and tiles a second then, oldest first, at most ``POINTS``; each is the end of an interval that is over.

    Intervals are the same whenever it is asked for, until there are too many and they become longer.

    Args:
        at: as of ``recent_pace``.
        now: where the last interval ends at the latest.
    """
    known = at[at <= now]
    if not len(known):
        return ()
    begin = math.floor(float(known.min()))
    width = next((wide for wide in _WIDTHS_S if (now - begin) / wide <= POINTS), (now - begin) / POINTS)
    whole = min(POINTS, int((now - begin) / width))
    if not whole:
        return ()
    counts = np.bincount(((known - begin) / width).astype(np.int64), minlength=whole)[:whole]
    moments = [datetime.fromtimestamp(begin + (n + 1) * width, UTC) for n in range(whole)]
    return tuple(zip(moments, (counts / width).tolist(), strict=True))


def cost(
    *,
    spent_usd: float | None,
    usd_per_gpu_hour: float | None,
    budget_usd: float | None,
    workers: int,
    left: Span | None,
    over: bool,
    mapped_km2: float,
    idle_s: float | None,
) -> Cost:
    """What it costs.

    Args:
        spent_usd: so far; None where nobody said.
        usd_per_gpu_hour: of one worker; None or 0 where the job names no price.
        budget_usd: that of the job.
        workers: paid for now.
        left: seconds.
        over: whether nothing more will be spent.
        mapped_km2: for what is spent.
        idle_s: seconds in which models stood idle, of all sittings; None where nobody said.
    """
    if not usd_per_gpu_hour:
        return Cost(
            spent_usd=None,
            at_completion_usd=None,
            per_1000_km2_usd=None,
            idle_usd=None,
            budget_usd=budget_usd,
            usd_per_gpu_hour=None,
        )
    usd_per_s = usd_per_gpu_hour / 3600
    whole: Span | None = None
    if spent_usd is not None and over:
        whole = Span(low=spent_usd, high=spent_usd)
    elif spent_usd is not None and left is not None and workers:
        whole = Span(low=spent_usd + left.low * workers * usd_per_s, high=spent_usd + left.high * workers * usd_per_s)
    idle_usd = None if idle_s is None else idle_s * usd_per_s
    return Cost(
        spent_usd=spent_usd,
        at_completion_usd=whole,
        per_1000_km2_usd=spent_usd / mapped_km2 * 1000 if spent_usd is not None and mapped_km2 > 0 else None,
        idle_usd=min(idle_usd, spent_usd) if idle_usd is not None and spent_usd is not None else idle_usd,
        budget_usd=budget_usd,
        usd_per_gpu_hour=usd_per_gpu_hour,
    )
