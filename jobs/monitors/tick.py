"""One tick of a monitor: look, map what is new, say what changed, tell people. Done twice, it is done once.

    its plan lies beside the mosaic ──► go on with it
    nothing was ever mapped         ──► the ordinary run of the job
    else: look ──► news ──► the tiles that changed ──► a run of its own, named after the tick
                                                         │
    runs that were not compared yet ◄────────────────────┘
      └──► changes ──► alerts ──► the outbox ──► delivered, now or later

Every step leaves what it did beside the mosaic or in the registry before the next begins, and finds it there when it
is done again: a tick that was killed is simply run once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs.budget import check_budget
from jobs.growth import job_area, renewed, taken_up
from jobs.job import Job
from jobs.monitors.alerts import Told, tell_alerts
from jobs.monitors.compare import Compared, compare
from jobs.monitors.look import Looked, first_look, look
from jobs.monitors.mapped import MappedItems
from jobs.monitors.news import SetAside, StacItem
from jobs.monitors.rows import MonitorRow, TickEnd
from jobs.monitors.schedule import Due
from jobs.prepare import Prepared, prepare
from jobs.run import start
from jobs.spec import JobSpec
from jobs.summary import ENDED, Summary
from jobs.watch import Silent, Watcher
from mapper import models
from mapper.errors import EmptySearchError, MapperError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from jobs.monitors.store import Monitors

ASIDE_KEPT = 50
"""Items that were set aside and are told of by name; of the others, how many there were."""

STOP_HEARD_S = 0.5
"""How late a run hears that its tick was asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """On which workers ticks are run; as in ``Job.run``."""

    gpus: int | None = None
    address: str | None = None
    local: bool = False
    insecure_ray: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a tick has to map."""

    prepared: Prepared | None
    looked: Looked | None
    """None where a plan was taken up."""


def run_tick(
    row: MonitorRow,
    due: Due,
    stopped: Callable[[], bool],
    *,
    store: Monitors,
    where: Where,
    watcher: Watcher | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> TickEnd:
    """Do one tick, or what is left of it.

    Args:
        row: the monitor.
        due: when the tick was due.
        stopped: whether somebody asked it to stop: the tiles in hand are finished, the rest is for the next tick.
        store: keeps alerts until they are delivered.
        where: on which workers.
        watcher: is told how it gets on.
        clock: the time of day.

    Returns:
        How it ended. What cannot be done now is ``failed``, with the reason, and loses nothing: the next tick begins
        where this one did.
    """
    watcher = watcher or Silent()
    job = job_of(row)
    try:
        return _run_tick(job, row, due, stopped, store, where, watcher, clock)
    except EmptySearchError as error:
        return TickEnd(state="nothing", said=f"there is no imagery yet: {error.what}")
    except MapperError as error:
        return TickEnd(state="failed", said=str(error), retryable=error.retryable)


def job_of(row: MonitorRow) -> Job:
    """The job of a monitor, as it was added."""
    return Job.from_dict(json.loads(row.job), folder=Path("/"))


def _run_tick(
    job: Job,
    row: MonitorRow,
    due: Due,
    stopped: Callable[[], bool],
    store: Monitors,
    where: Where,
    watcher: Watcher,
    clock: Callable[[], datetime],
) -> TickEnd:
    work = _to_map(job, row, due, watcher, clock())
    summary = None
    if work.prepared is not None:
        check_budget(work.prepared, elsewhere=where.address is not None, tell=watcher.say)
        summary = _mapped(work.prepared, stopped, where, watcher)
    compared = compare(job, watcher.say)
    told = tell_alerts(job, row.name, due.at, compared.alerted, store, now=clock()) if compared.alerted else Told()
    compared.done()
    return _ending(work, summary, compared, told)


def _to_map(job: Job, row: MonitorRow, due: Due, watcher: Watcher, now: datetime) -> _Work:
    """The plan of this tick, found or made."""
    output = job.spec.output
    if (prepared := taken_up(job, due.at)) is not None:
        watcher.say(f"run {prepared.run} was planned before; going on with it")
        return _Work(prepared=prepared, looked=None)
    mapped = MappedItems(output.mosaic, engine=output.engine)
    if not mapped.runs or (mapped.runs[-1].renewal is None and mapped.runs[-1].facts.get("state") not in ENDED):
        return _first(job, watcher, now)
    looked = look(
        job,
        job_area(job),
        mapped,
        watermark=row.watermark,
        swept=row.swept,
        now=now,
        window_px=models.window_px(job.spec.model.name),
    )
    prepared = renewed(job, looked.news, mapped, monitor=row.name, due=due.at)
    return _Work(prepared=prepared, looked=looked)


def _first(job: Job, watcher: Watcher, now: datetime) -> _Work:
    """The whole job, as ``resmap run`` would map it; but what is broken in the catalog is set aside."""
    seen: list[Looked] = []

    def find(spec: JobSpec, area: BaseGeometry, window_px: int) -> Sequence[StacItem]:
        seen.append(first_look(spec, area, now=now, window_px=window_px))
        return seen[-1].news.new

    prepared = prepare(job, tell=watcher.say, find=find)
    return _Work(prepared=prepared, looked=seen[-1] if seen else None)


def _mapped(prepared: Prepared, stopped: Callable[[], bool], where: Where, watcher: Watcher) -> Summary:
    """Run it to its end, or until somebody asks it to stop."""
    run = start(
        prepared,
        gpus=where.gpus,
        address=where.address,
        local=where.local,
        insecure_ray=where.insecure_ray,
        watcher=watcher,
    )
    while True:
        try:
            return run.wait(STOP_HEARD_S)
        except TimeoutError:
            if stopped():
                run.stop()


def _ending(work: _Work, summary: Summary | None, compared: Compared, told: Told) -> TickEnd:
    news = work.looked.news if work.looked is not None else None
    whole = summary is None or summary.state in ENDED
    said = [_mapped_says(summary)] if summary is not None else ["nothing new"]
    said += [*compared.says, *told.says]
    if news is not None and news.set_aside:
        said.append(f"{_many(len(news.set_aside), 'item')} set aside")
    state: Literal["done", "nothing", "failed", "stopped"]
    if summary is not None and summary.state == "interrupted":
        state = "stopped"
    elif not whole:
        state = "failed"
    else:
        state = "done" if summary is not None or told.count else "nothing"
    return TickEnd(
        state=state,
        said="; ".join(said),
        run=summary.run if summary is not None else None,
        new_items=len(news.new) if news else None,
        changed_items=len(news.changed) if news else None,
        gone_items=len(news.gone) if news else None,
        set_aside=len(news.set_aside) if news else None,
        aside=_named(news.set_aside) if news and news.set_aside else None,
        tiles=summary.worked_tiles if summary is not None else 0,
        alerts=told.count,
        # What was seen is only seen for good once it is mapped, or planned: else the next tick has to see it again.
        watermark=work.looked.watermark if work.looked is not None and whole else None,
        swept=work.looked.swept if work.looked is not None and whole else None,
        retryable=not whole,
    )


def _mapped_says(summary: Summary) -> str:
    given_up = summary.tiles["failed"] + summary.tiles["quarantined"]
    rest = f", {_many(given_up, 'tile')} given up" if given_up else ""
    stop = f"; {summary.stopped}" if summary.stopped else ""
    return f"{_many(summary.worked_tiles, 'tile')} mapped{rest}{stop}"


def _named(items: Sequence[SetAside]) -> str:
    """The first items that were set aside, as the registry keeps them."""
    return json.dumps([[one.collection, one.id, one.kind, one.why] for one in items[:ASIDE_KEPT]])


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
