"""Two runs side by side: their figures, and in which settings their job files differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cluster.readings import WAITS
from jobs.dashboard.run_job import NONE, RunJob
from jobs.dashboard.samples import IDLE_OR_BUSY, Samples
from jobs.dashboard.states import TileStates
from jobs.dashboard.views import ComparedRow, Comparison, RunPage
from mapper.errors import told

LONGEST_GAP_S = 600.0
"""A longer time without any tile lies between two sittings, and is not counted as work."""

LONGEST = 200
"""Characters of a setting that are shown."""

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One whole run in numbers; None is what nobody knows."""

    values: Mapping[str, float | None]
    page: RunPage
    settings: Mapping[str, str]


_ROWS: tuple[tuple[str, str, Better], ...] = (
    ("tiles finished", "", "neither"),
    ("tiles given up", "", "lower"),
    ("area mapped", "km²", "neither"),
    ("time worked", "h", "lower"),
    ("GPUs", "", "neither"),
    ("tiles a second", "/s", "higher"),
    ("area an hour", "km²/h", "higher"),
    ("area an hour and GPU", "km²/h", "higher"),
    ("seconds a tile, median", "s", "lower"),
    ("seconds a tile, slowest hundredth", "s", "lower"),
    ("time that models compute", "%", "higher"),
    *((f"time that models wait: {wait}", "%", "lower") for wait in WAITS),
    ("cost", "USD", "lower"),
    ("cost of 1,000 km²", "USD", "lower"),
    ("cost of idle GPUs", "USD", "lower"),
)


def figures(page: RunPage, job: RunJob, states: TileStates | None, samples: Samples) -> Figures:
    """A run in numbers.

    Args:
        page: its panels.
        job: its job file.
        states: of its tiles; None where it is not planned yet.
        samples: of its workers.
    """
    worked_s = worked_seconds(states.at) if states is not None else None
    finished, km2 = float(page.line.finished), page.progress.mapped_km2
    gpus = float(len({name for name, _ in samples.last})) or float(len(page.gpus)) or None
    hours = worked_s / 3600 if worked_s else None
    known = states.seconds[~np.isnan(states.seconds)] if states is not None else np.zeros(0, np.float32)
    middle, slow = np.percentile(known, [50, 99]).tolist() if len(known) else (None, None)
    whole = np.sum([one.figures[IDLE_OR_BUSY] for one in samples.last.values()], axis=0) if samples.last else None
    shares = (
        (100 * whole / whole.sum()).tolist() if whole is not None and whole.sum() > 0 else [None] * (1 + len(WAITS))
    )
    values = [
        finished, float(page.line.given_up), km2, hours, gpus,
        finished / worked_s if worked_s else None,
        km2 / hours if hours else None,
        km2 / hours / gpus if hours and gpus else None,
        middle, slow, *shares, page.cost.spent_usd, page.cost.per_1000_km2_usd, page.cost.idle_usd,
    ]  # fmt: skip
    return Figures(
        values=dict(zip((label for label, _, _ in _ROWS), values, strict=True)), page=page, settings=job.flat()
    )


def compared(a: Figures, b: Figures) -> Comparison:
    """Two runs side by side; figures that neither has are left out."""
    rows = [
        ComparedRow(label=label, unit=unit, a=a.values[label], b=b.values[label], better=better,
                    ratio=ratio(a.values[label], b.values[label]))
        for label, unit, better in _ROWS
        if a.values[label] is not None or b.values[label] is not None
    ]  # fmt: skip
    return Comparison(a=a.page.line, b=b.page.line, rows=tuple(rows), differences=differences(a.settings, b.settings))


def ratio(a: float | None, b: float | None) -> float | None:
    """The second over the first; None where one is not known, or the first is 0."""
    return None if a is None or b is None or a == 0 else b / a


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Settings that differ: key, of the first, of the second, no longer than people read; a dash for none."""
    keys = [*a, *(key for key in b if key not in a)]
    pairs = ((key, a.get(key, NONE), b.get(key, NONE)) for key in keys)
    return tuple((key, told(one, LONGEST), told(other, LONGEST)) for key, one, other in pairs if one != other)


def worked_seconds(at: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    """From the first tile to the last, without the times between sittings.

    Args:
        at: when tiles were entered, seconds; NaN where they were not.

    Returns:
        None where fewer than two were.
    """
    known = np.sort(at[~np.isnan(at)])
    gaps = np.diff(known)
    worked = float(gaps[gaps <= LONGEST_GAP_S].sum())
    return worked if worked > 0 else None
