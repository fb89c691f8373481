"""What runs have mapped and nobody has compared yet is compared: changes from step to step, beside the mosaic.

A run's file says how many of its tiles were finished when they were compared last: who maps more of them, after a
retry, has them compared again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs.job import Job
from jobs.lease import Lease
from jobs.ledger import FINISHED, reading_runs
from jobs.monitors.alert import day, surface
from jobs.renewal import TurnedRun, runs_in_turn
from jobs.summary import ENDED
from mapper.changes import ChangeRule, Renewed, StepChanges, changes_told, find_changes

DAYS_NAMED = 3
"""Steps of which nobody knows what changed, in a tick's history; of the others, how many there are."""

FACT = "compared"
"""In a run's file: how many of its tiles were finished when they were compared last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was compared now."""

    steps: tuple[StepChanges, ...] = ()
    """Of each prompt and time step that was compared anew."""

    alerted: tuple[StepChanges, ...] = ()
    """Those of which people are told. What the first run of a mosaic finds is where its monitor begins: nobody is; only
    of steps that a tick renewed since, where that run is compared together with one."""

    first: datetime | None = None
    """The first step of the mosaic, which has nothing before it."""

    done: Callable[[], None] = lambda: None
    """To be called when people were told: from then on nobody compares these again."""

    @property
    def says(self) -> list[str]:
        """How much has changed, prompt by prompt; what changed in several steps is added up."""
        said = []
        for prompt in dict.fromkeys(step.prompt for step in self.steps):
            mine = [step for step in self.steps if step.prompt == prompt]
            appeared, vanished = (
                sum(getattr(one, f"{kind}_m2") or 0.0 for one in mine) for kind in ("appeared", "vanished")
            )
            if appeared or vanished:
                said.append(f"{prompt}: {surface(appeared)} appeared, {surface(vanished)} vanished")
            blind = [day(one.time) for one in mine if one.appeared_m2 is None and one.time != self.first]
            if blind:
                more = f" and {len(blind) - DAYS_NAMED} steps more" if len(blind) > DAYS_NAMED else ""
                said.append(f"{prompt}: unknown on {', '.join(blind[:DAYS_NAMED])}{more}, nothing can be compared")
        return said


def compare(job: Job, say: Callable[[str], None]) -> Compared:
    """Find what changed in the tiles that no tick has compared yet, and in all later steps that it bears on.

    Raises:
        BusyError: somebody writes to the mosaic.
        MosaicError, StoreError, CredentialsError: it cannot be read, or nothing can be put beside it.
    """
    output, section = job.spec.output, job.spec.monitor
    runs = runs_in_turn(output.mosaic, engine=output.engine)
    with reading_runs(output.mosaic):
        left = [(run, finished) for run in runs if (finished := _finished(run)) != run.facts.get(FACT, 0)]
    if not left or section is None:
        return Compared()
    rule = ChangeRule(hysteresis=section.changes.hysteresis, min_area_m2=section.changes.min_area_m2)
    afresh = any(run.renewal is None for run, _ in left)
    with Lease(output.mosaic, left[-1][0].folder.run, engine=output.engine):
        with reading_runs(output.mosaic):
            renewed = [tile for run, _ in left if run.renewal is not None for tile in _tiles(run)]
        steps = tuple(find_changes(output.mosaic, rule, None if afresh else renewed, until_told=True, tell=say))

    def done() -> None:
        with Lease(output.mosaic, left[-1][0].folder.run, engine=output.engine):
            for run, finished in left:
                run.folder.save_facts(run.folder.facts() | {FACT: finished})
            changes_told(output.mosaic)

    first = min((step for run in runs for step in run.steps), default=None)
    told_of = {tile.time for tile in renewed}
    alerted = tuple(one for one in steps if one.time in told_of) if afresh else steps
    return Compared(steps=steps, alerted=alerted, first=first, done=done)


def _finished(run: TurnedRun) -> int:
    """How many of its tiles are finished."""
    summary = run.facts.get("summary")
    if run.facts.get("state") in ENDED and isinstance(summary, dict):
        return sum(int(summary["tiles"][state]) for state in FINISHED)
    counts = run.folder.counts()
    return sum(counts[state] for state in FINISHED)


def _tiles(run: TurnedRun) -> Iterator[Renewed]:
    places = run.folder.places()
    names = run.facts["grids"]
    times = [datetime.fromisoformat(step) for step in run.facts["steps"]]
    for row in run.folder.finished().tolist():
        yield Renewed(
            grid=names[places.grid[row]],
            time=times[places.step[row]],
            row=int(places.row[row]),
            column=int(places.column[row]),
        )
