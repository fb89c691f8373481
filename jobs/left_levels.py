"""What earlier runs of a mosaic left unbuilt on coarser levels, built by the run that takes over from them.

A tick that was stopped has tiles that are mapped, and nothing above them. Its run is never gone on with, and the next
one builds above its own tiles only: so it first builds what stands behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cluster.pool import Outcome
from jobs.books import Books, Tally
from jobs.lease import Held
from jobs.plan import Plan
from jobs.prepare import Prepared
from jobs.renewal import TurnedRun, runs_in_turn
from jobs.standing import Wanted, standing
from jobs.watch import Silent
from mapper.mosaic import Mosaic
from mapper.pyramid import build_shard
from mapper.runs import levels_behind


def behind(runs: Sequence[TurnedRun]) -> Iterator[TurnedRun]:
    """The runs that left something unbuilt, or may have, and from which no other has taken over yet."""
    return (run for run in runs if levels_behind(run.facts))


def build_left(prepared: Prepared, mosaic: Mosaic, held: Held) -> None:
    """Build what the runs before a renewing one left, and say in their files that they are over.

    May be killed at any moment: what is built is recorded, and the rest is found again.

    Args:
        prepared: the renewing run.
        mosaic: open for writing.
        held: the lease of the mosaic.

    Raises:
        BusyError: another driver has taken the mosaic over.
        StoreError: the store is away.
    """
    assert prepared.renewal is not None  # an ordinary run goes on with what ordinary runs left
    for run in behind(runs_in_turn(mosaic.url)):
        if run.turn >= prepared.renewal.number:
            continue
        left = replace(
            prepared,
            run=run.folder.run,
            folder=run.folder,
            plan=_plan_of(run, mosaic),
            renewal=run.renewal,
        )
        _build(left, mosaic, held)
        held.check()
        run.folder.save_facts({**run.facts, "levels_behind": False, "taken_over_by": prepared.run})


def _plan_of(run: TurnedRun, mosaic: Mosaic) -> Plan:
    """As much of its plan as levels depend on."""
    names = {grid.name: grid for grid in mosaic.grids}
    return Plan(
        items=(),
        grids=tuple(names[name] for name in run.facts.get("grids", names)),
        areas={},
        steps=run.steps,
        tiles=run.folder.tiles(),
    )


def _build(left: Prepared, mosaic: Mosaic, held: Held) -> None:
    todo = standing(left, mosaic, retry=False)
    nothing = Wanted(np.zeros((0, len(left.plan.tiles)), np.bool_), ())
    books = Books(left, mosaic, replace(todo, wanted=nothing), Tally(), Silent(), held=held)
    while due := books.more(True):
        for task in due:
            books.enter(Outcome(worker="", task=task, attempts=1, result=build_shard(mosaic, task)))
    books.close()
