"""How far runs are, from the files beside their mosaics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from jobs.job import absolute
from jobs.ledger import RunFolder, run_names, states_in
from jobs.registry import Registry, RunRow
from mapper.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run."""

    run: str
    name: str
    mosaic: str
    state: str
    planned: int
    counts: dict[str, int]
    """State → tiles."""

    attempts: int
    """Tries in all; more than the tiles where some had to be repeated."""

    problems: tuple[str, ...]


def known_runs() -> list[RunRow]:
    """All runs the registry knows, the latest first."""
    return Registry().runs()


def run_status(run_or_mosaic: str) -> list[RunStatus]:
    """The run of this name, or all runs of this mosaic.

    Raises:
        SpecError: neither is known.
    """
    places = [(row.mosaic, row.run) for row in Registry().find(run_or_mosaic)]
    if not places:
        mosaic = absolute(run_or_mosaic)
        places = [(mosaic, name) for name in run_names(mosaic)]
    if not places:
        raise SpecError(f"no run and no mosaic is called {run_or_mosaic!r}", fix="`resmap status` lists the runs")
    return [_status(RunFolder(mosaic, run)) for mosaic, run in places if RunFolder(mosaic, run).exists()]


def _status(folder: RunFolder) -> RunStatus:
    facts = folder.facts()
    counts: Counter[str] = Counter()
    attempts = 0
    problems: list[tuple[int, str]] = []
    for batch in folder.last_words("state", "attempts", "error"):
        counts += states_in(batch)
        attempts += int(batch.column("attempts").to_numpy().sum())
        told = batch.filter(pc.not_equal(batch.column("error"), ""))
        problems += zip(told.column("tile").to_pylist(), told.column("error").to_pylist(), strict=True)
    return RunStatus(
        run=folder.run,
        name=facts.get("name", folder.run),
        mosaic=folder.mosaic,
        state=facts.get("state", "planned"),
        planned=int(facts.get("planned", 0)),
        counts=dict(counts),
        attempts=attempts,
        problems=tuple(error for _, error in sorted(problems)),
    )
