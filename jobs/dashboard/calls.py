"""How hosts answer: requests, errors and how long they took, from what workers counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster.readings import LATENCY_MS
from jobs.dashboard.views import CallsRow
from jobs.telemetry import Live

WINDOW_S = 60.0
"""Over how long rates are taken."""

KEPT_S = 5.0
"""Between two counts that are kept to compare with."""

SHORTEST_S = 2.0
"""In less nothing can be said of a rate."""

Counts: TypeAlias = NDArray[np.int64]
"""Done, failed, throttled, bytes, then requests by class of ``LATENCY_MS`` and one more."""

Caller: TypeAlias = tuple[str, float]
Place: TypeAlias = tuple[str, str]
"""Kind and host."""

_CLASSES = 4


@dataclass(slots=True)
class CallsBook:
    """Requests by host over the last minute. It is told each time the driver's word is read."""

    _earlier: deque[tuple[float, dict[tuple[Caller, Place], Counts]]] = field(default_factory=deque)

    def rows(self, live: Live | None) -> tuple[CallsRow, ...]:
        """A row a host. Shares and times are of the last minute, where anything was asked in it; else of all time."""
        if live is None:
            return ()
        at, now = live.at.timestamp(), _counts(live)
        before_at, before = self._before(at, now)
        seconds = at - before_at
        whole: dict[Place, Counts] = {}
        recent: dict[Place, Counts] = {}
        nothing = np.zeros(_CLASSES + len(LATENCY_MS) + 1, np.int64)
        for (caller, place), counts in now.items():
            whole[place] = whole.get(place, nothing) + counts
            recent[place] = recent.get(place, nothing) + counts - before.get((caller, place), nothing)
        known = seconds >= SHORTEST_S
        return tuple(
            calls_row(place, whole[place], recent[place] if known else None, seconds) for place in sorted(whole)
        )

    def _before(
        self, at: float, now: dict[tuple[Caller, Place], Counts]
    ) -> tuple[float, dict[tuple[Caller, Place], Counts]]:
        """What to compare with: the latest that is a minute old, else the oldest there is."""
        earlier = self._earlier
        if earlier and at < earlier[-1][0]:
            earlier.clear()  # the clock was set back
        if not earlier or at - earlier[-1][0] >= KEPT_S:
            earlier.append((at, now))
        while len(earlier) > 1 and at - earlier[1][0] >= WINDOW_S:
            earlier.popleft()
        return earlier[0]


def calls_row(place: Place, whole: Counts, recent: Counts | None, seconds: float) -> CallsRow:
    """One host.

    Args:
        place: kind and host.
        whole: since its workers began.
        recent: of the last seconds; None where that is not known.
        seconds: how many.
    """
    kind, host = place
    told = recent if recent is not None and recent[0] > 0 else whole
    done = max(1, int(told[0]))
    return CallsRow(
        kind=kind,
        host=host,
        done=int(whole[0]),
        per_s=None if recent is None else float(recent[0]) / seconds,
        failed_share=float(told[1]) / done,
        throttled_share=float(told[2]) / done,
        p50_ms=percentile_ms(told[_CLASSES:], 0.5),
        p99_ms=percentile_ms(told[_CLASSES:], 0.99),
        bytes_per_s=None if recent is None else float(recent[3]) / seconds,
    )


def percentile_ms(classes: Sequence[int] | Counts, share: float) -> float | None:
    """How long such a share of requests took at most, within the class in which that lies.

    Inside a class, bounds of which are one twice the other, requests are taken as spread evenly over the logarithm. Of
    those that took longer than the last bound only that is known.

    Args:
        classes: requests by class of ``LATENCY_MS``, and one more.
        share: 0 to 1.

    Returns:
        Milliseconds; None where there were no requests.
    """
    counts = np.asarray(classes, np.int64)
    total = int(counts.sum())
    if total <= 0:
        return None
    upto = np.cumsum(counts)
    at = int(np.searchsorted(upto, share * total, side="left"))
    if at >= len(LATENCY_MS):
        return float(LATENCY_MS[-1])
    into = (share * total - (float(upto[at - 1]) if at else 0.0)) / float(counts[at])
    return float(LATENCY_MS[at] * 2 ** (into - 1))


def _counts(live: Live) -> dict[tuple[Caller, Place], Counts]:
    found: dict[tuple[Caller, Place], Counts] = {}
    for said in live.callers:
        for call in said.calls:
            counts = np.array([call.done, call.failed, call.throttled, call.moved_bytes, *call.took], np.int64)
            found[(said.worker, said.began), (call.kind, call.host)] = counts
    return found
