"""Tiles that earlier runs of a mosaic planned and did not finish: the next tick takes them, with what stands then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import numpy as np

from jobs.ledger import FINISHED, GIVEN_UP, reading_runs, with_state
from jobs.places import Keys, Places, rows_of_keys
from jobs.renewal import TurnedRun
from jobs.standing import tile_rows
from mapper.mosaic import Mosaic


def left_over(runs: Sequence[TurnedRun], places: Places, mosaic: Mosaic, due: datetime) -> Keys:
    """The tiles that a tick takes beside those whose items changed, in order.

    What was not begun is taken at once. What was tried and given up is tried once a day: as long as its items are the
    same it mostly fails again.

    Args:
        runs: of the mosaic, in their turn.
        places: which numbers their tiles.
        mosaic: whose prompts a tile must have to be finished.
        due: of the tick, aware.

    Raises:
        MosaicError: a file of a run is missing or damaged.
    """
    prompts = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}
    today = due.astimezone(UTC).date()
    with reading_runs(mosaic.url):
        left = _left_by([run for run in runs if run.renewal is None], places, prompts, today)
        for run in runs:
            if run.renewal is not None:
                left = np.setdiff1d(left, places.of_run(run)) if len(left) else left
                left = np.union1d(left, _left_by([run], places, prompts, today))
    return left


def _left_by(runs: Sequence[TurnedRun], places: Places, prompts: Mapping[str, int], today: date) -> Keys:
    """What runs of one turn left together."""
    if all(run.facts.get("state") == "done" for run in runs):  # no ledger need be read
        return np.empty(0, np.int64)
    keys = [places.of_run(run) for run in runs]
    planned = np.unique(np.concatenate(keys))
    finished = np.zeros((len(prompts), len(planned)), np.bool_)
    waits = np.zeros(len(planned), np.bool_)
    for run, own in zip(runs, keys, strict=True):
        at = rows_of_keys(own, planned)
        tried_today = _tried_on(run) >= today
        for batch in run.folder.last_words("state", "prompts"):
            for prompt, rows in tile_rows(batch.filter(with_state(batch, FINISHED)), prompts):
                finished[prompt, at[rows]] = True
            if tried_today:
                waits[at[batch.filter(with_state(batch, GIVEN_UP)).column("tile").to_numpy()]] = True
    return planned[~finished.all(axis=0) & ~waits]


def _tried_on(run: TurnedRun) -> date:
    """The day of a run: of its tick, where it has one."""
    return (run.renewal.due if run.renewal is not None else run.created).astimezone(UTC).date()
