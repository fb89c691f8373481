"""Changes → alerts: a rule, a place, a step, and more changed there than the rule's threshold.

The key of an alert is made of what it is about (monitor, rule, place, prompt, change, step) and of what changed (the
polygons and how much of each lies inside): a tick that is done again finds the same keys, and nobody is told twice.
Where the same step of the same place changes otherwise later, by a late item or a reprocessed one, that is a new alert
which revises the earlier one; also where no more than the threshold is left of what was told.

    before.png  after.png  places.parquet     in <changes>/alerts/<key>/
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from catalogs.hrefs import unsigned
from jobs.areas import geometry_of, places_of
from jobs.job import Job
from jobs.monitors.alert import MOST_POLYGONS, Alert, Feature, Pictures, Polygons, Threshold
from jobs.monitors.changed_file import NAME, feature, written
from jobs.monitors.delivery import deliver, rows_of, sinks_of_jobs
from jobs.monitors.observed import shares
from jobs.monitors.pictures import Painter
from jobs.renewal import runs_in_turn
from jobs.spec import AlertSpec
from jobs.stac.places import bbox_of
from mapper.changes import StepChanges, changed_places, changes_folder
from mapper.exports.chosen import iso
from mapper.mosaic import Mosaic
from mapper.questions.placed import ground_m2
from mapper.questions.places import LONLAT, polygons_of
from mapper.runs import asked_area
from mapper.storage import Folder

if TYPE_CHECKING:
    from jobs.monitors.store import Monitors

BODY_BYTES = 200_000
"""Of the polygons in an alert, as JSON: what receivers of webhooks take. The rest is in its file."""

MOST_PICTURES = 24
"""Alerts of one tick that are given pictures: a second or two each."""

LEAST_PIXELS = 1e-3
"""What of a polygon lies inside a place and is less than this of a pixel is the rounding of an edge they share."""

EVERYWHERE = "the whole area"

SUBJECT_CHARS, KEY_CHARS = 16, 33
"""Of a key: what it is about, and that with what changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a tick told."""

    count: int = 0
    """New alerts."""

    says: tuple[str, ...] = field(default=())
    """In words, for the tick's history."""


def tell_alerts(
    job: Job, monitor: str, due: datetime, changes: Sequence[StepChanges], store: Monitors, *, now: datetime
) -> Told:
    """Find the alerts of a tick, put them into the outbox, and deliver what can be delivered now.

    Done twice it tells once: what is in the outbox is not entered again.

    Raises:
        SpecError, CatalogError, CredentialsError: the places of a rule cannot be read.
        MosaicError, StoreError: the changes or their pictures cannot be read or written.
    """
    section = job.spec.monitor
    if section is None or not section.alerts:
        return Told()
    alerts = alerts_of(job, monitor, due, changes, told=store.alert_keys())
    store.enqueue(rows_of(alerts, section, now=now))
    deliver(store, sinks_of_jobs({monitor: job.spec}), now, monitor=monitor)
    says = [f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}"] if alerts else []
    return Told(count=len(alerts), says=tuple(says))


def alerts_of(
    job: Job, monitor: str, due: datetime, changes: Sequence[StepChanges], *, told: Sequence[str] = ()
) -> tuple[Alert, ...]:
    """The alerts of steps that were compared anew, without those that were told already.

    Args:
        job: with its monitor section.
        monitor: its name.
        due: of the tick.
        changes: of the steps and prompts that were compared anew; what changed is read beside the mosaic.
        told: keys of what was told before, or texts that begin with them, the oldest first.

    Returns:
        By rule, place and step. Their pictures and polygons are put beside the changes.

    Raises:
        as ``tell_alerts``.
    """
    section = job.spec.monitor
    assert section is not None  # as who calls has seen
    tick = _Tick(job=job, monitor=monitor, due=due, told=told)
    found = []
    for rule in section.alerts:
        steps = [one for one in changes if one.prompt == rule.prompt]
        some = told or any(getattr(one, rule.change) for one in steps)
        for place, outline in tick.places(rule) if steps and some else ():
            for step in steps:
                alert = tick.alert(rule, place, outline, step.time)
                if alert is not None:
                    found.append(alert)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """What changed in a place."""

    features: tuple[Feature, ...]
    """The largest first."""

    before: datetime | None
    """When the ground of the largest was seen last before this step; None where nothing changed."""

    @property
    def area_m2(self) -> float:
        return sum(one.properties.area_m2 for one in self.features)


class _Tick:
    """One tick's alerts, one after the other."""

    def __init__(self, *, job: Job, monitor: str, due: datetime, told: Sequence[str]) -> None:
        self._job, self._monitor, self._due = job, monitor, due
        self._told: dict[str, list[str]] = defaultdict(list)
        for key in dict.fromkeys(text[:KEY_CHARS] for text in told):
            self._told[key[:SUBJECT_CHARS]].append(key)
        self._url = job.spec.output.mosaic
        self._mosaic = Mosaic.open(self._url, writable=False)
        runs = runs_in_turn(self._url, engine=job.spec.output.engine)
        self._run = runs[-1].folder.run if runs else None
        self._changed = lru_cache(maxsize=4)(self._read_changed)
        self._painter = Painter(job, self._mosaic)
        self._drawn = 0

    def places(self, rule: AlertSpec) -> Sequence[tuple[str, BaseGeometry]]:
        """The places of a rule, by name."""
        if rule.within is not None:
            return places_of(rule.within, folder=self._job.folder, name=rule.name)
        area = asked_area(self._url)
        return ((EVERYWHERE, area if area is not None else geometry_of(self._job.spec.area, folder=self._job.folder)),)

    def alert(self, rule: AlertSpec, place: str, outline: BaseGeometry, step: datetime) -> Alert | None:
        """The alert of one place and step; None where no more than the threshold changed, or it was told.

        What was told and is no longer more than the threshold is told again, as it is now.
        """
        about = _digest([self._monitor, rule.name, place, rule.prompt, rule.change, iso(step)])
        known = self._told.get(about, [])
        inside = _inside(self._changed(step, rule.prompt, rule.change), outline)
        over = _exceeds(rule, inside)
        if not over and not known:
            return None
        what = [[one.id, round(one.properties.area_m2, 2)] for one in inside.features]
        key, revises = _key(about, what, known)
        if key is None:
            return None
        seen = shares(self._mosaic, outline, prompt=rule.prompt, step=step)
        alert = Alert(
            key=key,
            revises=revises,
            monitor=self._monitor,
            rule=rule.name,
            place=place,
            prompt=rule.prompt,
            expression=next(one.expression for one in self._mosaic.prompts if one.name == rule.prompt),
            change=rule.change,
            time=step,
            before=inside.before,
            due=self._due,
            area_m2=inside.area_m2,
            count=len(inside.features),
            threshold=Threshold(area_m2=rule.area_m2, count=rule.count),
            over_threshold=over,
            observed_share=seen.observed,
            comparable_share=seen.comparable,
            bbox=bbox_of(shapely.union_all([shapely.box(*_shape(one).bounds) for one in inside.features]))
            if inside.features
            else bbox_of(outline),
            polygons=Polygons(features=_largest(inside.features)),
            mosaic=unsigned(self._url),
            run=self._run,
        )
        return self._with_files(alert, inside)

    def _with_files(self, alert: Alert, inside: _Inside) -> Alert:
        """The alert with its polygons and pictures beside the changes; where nothing changed there are none."""
        if not inside.features:
            return alert
        folder = Folder(changes_folder(self._url)).child("alerts").child(alert.key)
        folder.write(NAME, written(inside.features))
        pictures = Pictures()
        if self._drawn < MOST_PICTURES:
            self._drawn += 1
            pictures = self._painter.draw(alert, [_shape(one) for one in inside.features], folder)
        return alert.model_copy(update={"pictures": pictures, "places": f"{unsigned(folder.url)}/{NAME}"})

    def _read_changed(self, step: datetime, prompt: str, kind: str) -> Any:
        return changed_places(self._url, times=[step.astimezone(UTC)], prompts=prompt, kinds=kind)


def _inside(changed: Any, outline: BaseGeometry) -> _Inside:
    """The parts of changed polygons in a place, measured.

    A polygon that lies inside as a whole has the surface of its pixels; of one that is cut, its share of that.
    """
    shapely.prepare(outline)
    found = []
    for row in _rows_near(changed, outline):
        part, area_m2 = row.geometry, float(row.area_m2)
        if not outline.covers(part):
            part = polygons_of(part.intersection(outline))
            area_m2 *= min(1.0, ground_m2(part, LONLAT) / ground_m2(row.geometry, LONLAT)) if not part.is_empty else 0.0
        if area_m2 > LEAST_PIXELS * row.area_m2 / row.pixels:
            found.append((feature(part, id=row.id, area_m2=area_m2, score=_score(row.score),
                                  first_seen=_moment(row.first_seen), last_seen=_moment(row.last_seen)),
                          _moment(row.before)))  # fmt: skip
    found.sort(key=lambda one: (-one[0].properties.area_m2, one[0].id))
    return _Inside(features=tuple(one for one, _ in found), before=found[0][1] if found else None)


def _rows_near(changed: Any, outline: BaseGeometry) -> Iterator[Any]:
    near = changed.iloc[sorted(changed.sindex.query(outline, predicate="intersects"))]
    return iter(near.itertuples(index=False))


def _exceeds(rule: AlertSpec, inside: _Inside) -> bool:
    if rule.count is not None:
        return len(inside.features) > rule.count
    return inside.area_m2 > (rule.area_m2 or 0.0)


def _key(about: str, what: Sequence[Any], known: Sequence[str]) -> tuple[str | None, str | None]:
    """The key of what changed, and that of the alert which it revises; no key where the last that was told is it."""
    first = f"{about}-{_digest(what)}"
    if not known:
        return first, None
    last = known[-1]
    if last in (first, _again(about, what, known[-2:-1])):
        return None, None
    # What was told, revised, and is as it was before is told again: by a key of its own.
    return (first if first not in known else _again(about, what, [last])), last


def _again(about: str, what: Sequence[Any], after: Sequence[str]) -> str:
    return f"{about}-{_digest([*what, *after])}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _largest(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """As many of them as an alert holds itself."""
    kept, nbytes = [], 0
    for one in features[:MOST_POLYGONS]:
        nbytes += len(one.model_dump_json())
        if nbytes > BODY_BYTES:
            break
        kept.append(one)
    return tuple(kept)


def _shape(one: Feature) -> BaseGeometry:
    return shapely.geometry.shape(one.geometry)


def _moment(stamp: Any) -> datetime:
    moment: datetime = stamp.to_pydatetime().astimezone(UTC)
    return moment


def _score(value: float) -> float | None:
    return min(1.0, max(0.0, float(value))) if value == value else None
