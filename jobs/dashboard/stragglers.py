"""The slowest tiles of a run, and what took them so long."""

from __future__ import annotations

import numpy as np

from jobs.dashboard.states import RunView
from jobs.dashboard.views import Straggler

SLOWEST = 10


def stragglers(view: RunView) -> tuple[Straggler, ...]:
    """The slowest finished tiles, the slowest first."""
    states = view.states
    known = np.flatnonzero(~np.isnan(states.seconds))
    if not len(known):
        return ()
    took = states.seconds[known]
    median = float(np.median(took))
    few = known[np.argpartition(took, -SLOWEST)[-SLOWEST:]] if len(known) > SLOWEST else known
    return tuple(
        Straggler(
            tile=tile,
            name=view.tile_name(tile),
            seconds=float(states.seconds[tile]),
            worker=states.workers[int(states.worker[tile])],
            parts={stage: float(column[tile]) for stage, column in states.parts.items()},
            times_median=float(states.seconds[tile]) / median if median > 0 else 1.0,
        )
        for tile in sorted(few.tolist(), key=lambda tile: (-float(states.seconds[tile]), tile))
    )
