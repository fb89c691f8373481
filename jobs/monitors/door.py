"""A job that asks to be a monitor, looked at before it is one: what would fail at its first tick is refused now.

The catalog is not asked: it may be down today. What the job names in files is taken along where that can be, so that
a monitor needs the registry alone and not the machine it was added on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import shapely

from catalogs.conditions import Filter, interval_of
from jobs.areas import geometry_of, places_of
from jobs.job import Job, absolute
from jobs.monitors.schedule import Schedule
from jobs.monitors.sinks import sinks_of
from jobs.output import check_job, check_room
from jobs.settings import named_secret, smtp_login
from jobs.spec import Area, JobSpec, Monitor, canonical
from mapper import models
from mapper.errors import SpecError
from mapper.mosaic import Mosaic
from mapper.names import plain

LARGEST_OUTLINE = 1_000_000
"""Characters of an area that are kept in the registry; a larger one stays in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A job that may be a monitor."""

    name: str
    job: str
    """As the registry keeps it: JSON, all paths absolute."""

    mosaic: str
    schedule: Schedule
    notes: tuple[str, ...]
    """What should be looked at before the first tick, a sentence each."""


def admitted(job: Job, *, name: str | None = None, now: datetime | None = None) -> Admitted:
    """A job as a monitor.

    Args:
        job: with its monitor section.
        name: of the monitor; the job's own where left out.
        now: the time of day.

    Raises:
        SpecError: it cannot be one; the sentence says what to change.
        CatalogError, CredentialsError: a file of places lies elsewhere, and cannot be had now.
        StoreError: the mosaic's store does not answer now.
    """
    spec, section = job.spec, job.spec.monitor
    if section is None:
        raise SpecError(
            "this job has no monitor section", fix='add one, such as monitor: {schedule: "0 6 * * *", timezone: UTC}'
        )
    if spec.imagery.time_step == "all":
        raise SpecError(
            "a monitor grows the time axis, and time_step: all has none",
            fix="set imagery.time_step to scene, day, week, month, season or year",
        )
    schedule = Schedule.parse(section.schedule, section.timezone)
    until = interval_of(spec.imagery.datetime).last if spec.imagery.datetime is not None else None
    if spec.imagery.filter is not None:
        Filter.parse(spec.imagery.filter)
    models.window_px(spec.model.name)
    area = geometry_of(spec.area, folder=job.folder)
    for rule in section.alerts:
        if rule.within is not None:
            places_of(rule.within, folder=job.folder, name=rule.name)
    kept = rooted(job, area)
    assert kept.monitor is not None
    sinks_of(kept.monitor)
    _check_mosaic(kept, area)
    return Admitted(
        name=_named(name or spec.name),
        job=json.dumps(canonical(kept)),
        mosaic=spec.output.mosaic,
        schedule=schedule,
        notes=(*_ends(until, now or datetime.now(UTC)), *_notes(section)),
    )


def rooted(job: Job, area: shapely.Geometry) -> JobSpec:
    """The job with nothing in it that is meant from its own folder; its outline within it where that is short."""
    spec, section = job.spec, job.spec.monitor
    assert section is not None
    outline = shapely.to_wkt(area, rounding_precision=-1)
    whole = len(outline) <= LARGEST_OUTLINE and shapely.to_wkb(shapely.from_wkt(outline)) == shapely.to_wkb(area)
    place = Area(wkt=outline) if whole and spec.area.geojson is not None else _absolute(spec.area, job)
    alerts = tuple(
        rule if rule.within is None else rule.model_copy(update={"within": _absolute(rule.within, job)})
        for rule in section.alerts
    )
    sinks = tuple(
        sink.model_copy(
            update={
                kind: absolute(path, job.folder)
                for kind in ("file", "stac")
                if isinstance(path := getattr(sink, kind), str)
            }
        )
        for sink in section.sinks
    )
    monitor = section.model_copy(update={"alerts": alerts, "sinks": sinks})
    return spec.model_copy(update={"area": place, "monitor": monitor})


def _absolute(area: Area, job: Job) -> Area:
    if area.geojson is None:
        return area
    return area.model_copy(update={"geojson": absolute(area.geojson, job.folder)})


def _named(name: str) -> str:
    made = plain(name)
    if not made:
        raise SpecError(
            f"no name for a monitor can be made of {name[:60]!r}", fix="give one of a-z, 0-9 and hyphens with --name"
        )
    return made


def _check_mosaic(spec: JobSpec, area: shapely.Geometry) -> None:
    """Whether the job may write there: where nothing is yet, or where it has mapped before.

    Raises:
        MosaicError: the mosaic is another job's, or the folder holds other files.
    """
    url = spec.output.mosaic
    if Mosaic.exists(url):
        check_job(spec, area, Mosaic.open(url, writable=False), renews=True)
    else:
        check_room(url)


def _ends(until: datetime | None, now: datetime) -> tuple[str, ...]:
    if until is None or until > now:
        return ()
    return (f"imagery.datetime ends on {until:%Y-%m-%d}: items of later dates are never taken; .. leaves it open",)


def _notes(section: Monitor) -> tuple[str, ...]:
    told = []
    for sink in section.sinks:
        if sink.secret is not None and named_secret(sink.secret) is None:
            told.append(
                f"sink {sink.name}: {sink.secret} is not set here; set it wherever ticks are run, or alerts wait"
            )
        elif sink.webhook is not None and sink.secret is None:
            told.append(f"sink {sink.name}: without a secret nobody can tell our alerts from another's")
        if sink.email is not None and smtp_login() is None:
            told.append(f"sink {sink.name}: RESMAP_SMTP_USER is not set here; its server has to take mail unasked")
    used = {name for rule in section.alerts for name in rule.sinks or [sink.name for sink in section.sinks]}
    told += [f"sink {sink.name}: no alert goes to it" for sink in section.sinks if sink.name not in used]
    if section.alerts and not section.sinks:
        told.append("there are alerts and no sinks: they are shown by `resmap monitor show` and the dashboard alone")
    return tuple(told)
