"""The workers of a run: what is asked of the cluster for them, and how the run's facts know them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cluster.placement import Fleet
from cluster.pool import Pool, WorkerFacts
from jobs.renewal import runs_in_turn
from jobs.session import Session
from jobs.spec import Compute
from mapper.errors import ModelError, StoreError


def fleet_of(compute: Compute, gpus: int | None) -> Fleet:
    """What is asked of the cluster; a number on the command line goes before the job file's."""
    least, most = compute.gpu_bounds if gpus is None else (gpus, gpus)
    return Fleet(
        least=least,
        most=most,
        workers_per_gpu=compute.workers_per_gpu,
        gpu_type=compute.gpu_type,
        labels=compute.labels,
        resources=compute.resources,
        cpus=compute.cpus_per_worker,
    )


def enter(session: Session, workers: Sequence[WorkerFacts]) -> None:
    """Make those that a run begins with its own.

    Raises:
        ModelError: they, or an earlier run of this mosaic, loaded something else than the others.
    """
    session.facts = _agreed(session.facts, workers, _fingerprints(session.mosaic.url))
    session.device = _devices(session.facts["workers"])


def welcome(session: Session, pool: Pool) -> None:
    """Enter workers that have joined among the run's; one that took another's place is the same worker."""
    known = session.facts["workers"]
    names = {worker["name"] for worker in known}
    joined = [worker for worker in pool.facts() if worker.name not in names]
    if not joined:
        return
    for worker in joined:
        session.recorder.happened("worker", f"{worker.name} has joined on {worker.host}: {worker.device}")
    session.device = _devices([*known, *map(asdict, joined)])
    with contextlib.suppress(StoreError):  # it is away: they are entered with what is saved next
        session.save(workers=[*known, *(asdict(worker) for worker in joined)])


def _devices(workers: Iterable[dict[str, Any]]) -> str:
    return ", ".join(sorted({worker["device"] for worker in workers}))


def _fingerprints(mosaic: str) -> set[str]:
    """Of the models that have written to a mosaic: one, or none yet."""
    return {str(run.facts["fingerprint"]) for run in runs_in_turn(mosaic) if run.facts.get("fingerprint")}


def _agreed(facts: dict[str, Any], workers: Sequence[WorkerFacts], earlier: set[str]) -> dict[str, Any]:
    """The run's facts with its workers in them.

    Raises:
        ModelError: the workers, or an earlier run of this mosaic, loaded something else.
    """
    prints = {worker.fingerprint for worker in workers} | earlier
    if len(prints) > 1:
        raise ModelError(
            "the model is not the same in all workers, or not the one this mosaic began with",
            fix="give every node the same weights, or write to a new mosaic",
            found=", ".join(sorted(prints)),
        )
    return facts | {"fingerprint": next(iter(prints)), "workers": [asdict(worker) for worker in workers]}
