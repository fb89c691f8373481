"""Look at a catalog for what has come, changed or gone since a monitor's mosaic was made.

There are two ways, and most looks go one of them or both:

- by *watermark*: what was made or changed in the catalog since the last change seen there. The answer is short and has
  what was acquired long ago too; but it is for servers that filter, and only as good as their clock.
- by *sweep*: everything acquired lately is listed and held against what stands. Only this finds what was deleted, and
  it trusts no clock. It is made once a day, at every look where the list is short, and where there is no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from catalogs.conditions import Interval, interval_of, stamp_of
from catalogs.fetch import Fetch
from catalogs.search import Opened, Query, StacItem, opened, search
from jobs.areas import METRES_PER_DEGREE
from jobs.grids import native_lattice
from jobs.monitors.news import Found, Key, News, Standing, digest, key_of, news
from jobs.monitors.versions import speaks_of_versions
from jobs.prepare import items_of, metres, seen_from
from mapper.errors import CredentialsError, EmptySearchError, GridError, MapperError, ReadError
from mapper.mosaic import Mosaic

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.monitors.mapped import MappedItems
    from jobs.spec import JobSpec
    from mapper.grid import Lattice

OVERLAP = timedelta(hours=1)
"""What is asked for again, before the last change seen. Items are stamped before they can be found: by machines whose
clocks differ by minutes, in transactions that end in another order than they began. What is slower, a sweep finds."""

SWEEP_EVERY = timedelta(days=1)
SHORT = 1000
"""Items that are listed at every look: five pages of an API."""

_CLOCK_AHEAD = timedelta(days=1)
"""A change that is said to be further in the future than this moves no watermark."""

_LISTED_BEFORE = timedelta(days=1)
"""What is listed before the time of a sweep begins: some servers look at the day alone."""

_IDS_AT_ONCE = 50
_COMPARED_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look found, and what the next one should know once all of it has been mapped."""

    news: News
    watermark: datetime | None
    """The last change seen in the catalog; None where its items do not say when they were changed."""

    swept: datetime | None
    """When everything was listed last."""

    whole: bool
    """Whether this look listed everything, so that what was deleted is known."""


def look(
    job: Job,
    area: BaseGeometry,
    mapped: MappedItems,
    *,
    watermark: datetime | None,
    swept: datetime | None,
    now: datetime,
    window_px: int,
    fetch: Fetch | None = None,
) -> Looked:
    """Hold a catalog against what stands in a mosaic.

    Args:
        job: of the monitor.
        area: of the job, longitude and latitude.
        mapped: what stands.
        watermark: of the last look whose news were mapped, None at first.
        swept: of the same; of the first run, when its search began.
        now: aware.
        window_px: side of the model's windows: how far around the area items matter.
        fetch: how patiently the catalog is read.

    Raises:
        SpecError: the query cannot be any more, as where the collection is gone.
        CredentialsError: the catalog refuses us, or a store the files of what is new.
        CatalogError: the catalog is down, or what it answers is not STAC.
        MosaicError: the mosaic, or a file of its runs, is damaged.
    """
    spec = job.spec
    dates = {key: item.datetime for key, item in mapped.standing.items()}
    since = min(now, swept or now) - _late(spec)  # nothing is late because nobody looked
    asking = _Asking.of(spec, area, window_px, fetch)
    recent = asking.changed_since(watermark - OVERLAP, swept or now) if watermark is not None else None
    standing = [key for key, date in dates.items() if date >= since]
    listed: list[StacItem] | None = None
    if _sweeps(recent, mapped, len(standing), swept, now):
        listed = asking.listed(since - _LISTED_BEFORE)
        listed += asking.by_name(_absent(standing, listed, asking))
    items = [*(recent or ()), *(listed or ())]
    told = Standing(dates=dates, digests=_digests(mapped, spec, _compared(items, recent or (), dates, since)))
    whole = listed is not None and asking.sure
    refused = {key_of(doc) if doc.get("id") else n: (doc, error) for n, (doc, error) in enumerate(asking.refused)}
    found = Found(items=items, refused=tuple(refused.values()), listed=whole)
    passing: list[StacItem] = []
    fresh = news(found, told, spec=spec, now=now, since=since, made=_maker(spec, asking.lattice, passing))
    return Looked(
        news=fresh,
        watermark=_held_back(_newest(items, now) or watermark, passing, now),
        swept=swept if listed is None else now,
        whole=whole,
    )


def first_look(spec: JobSpec, area: BaseGeometry, *, now: datetime, window_px: int) -> Looked:
    """All that a monitor's first run maps, as ``new``; what cannot be used is set aside and hinders nothing.

    Args:
        spec: the job.
        area: longitude and latitude.
        now: aware.
        window_px: side of the model's windows.

    Raises:
        EmptySearchError: nothing answers, or nothing of it can be mapped.
        SpecError, CredentialsError, CatalogError: as ``search``.
    """
    refused: list[tuple[StacItem, MapperError]] = []
    passing: list[StacItem] = []
    query, around = _query(spec, area), None
    if spec.grid.resolution_m is not None:
        query = replace(query, area=seen_from(area, window_px, spec.grid.resolution_m))
    else:
        around = partial(_seen_from_item, spec, area, window_px)
    items = search(query, around=around, aside=lambda doc, error: refused.append((doc, error)))
    fresh = news(
        Found(items=items, refused=tuple(refused)),
        Standing(dates={}, digests={}),
        spec=spec,
        now=now,
        since=datetime.min.replace(tzinfo=UTC),
        made=_maker(spec, None, passing),
    )
    if not fresh.new:
        why = fresh.set_aside[0].why if fresh.set_aside else "nothing was found"
        raise EmptySearchError(f"no imagery that can be mapped: {why}", fix="correct imagery, or wait for other items")
    return Looked(news=fresh, watermark=_held_back(_newest(items, now), passing, now), swept=now, whole=True)


def _seen_from_item(spec: JobSpec, area: BaseGeometry, window_px: int, doc: StacItem) -> BaseGeometry:
    return seen_from(area, window_px, metres(items_of(spec, [doc])))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """A catalog that is asked for a job's imagery."""

    catalog: Opened
    query: Query
    """Over all of the job's dates, and as far around its area as items matter."""

    lattice: Lattice | None
    """That items must lie on, where the mosaic has the imagery's own."""

    refused: list[tuple[StacItem, MapperError]] = field(default_factory=list)

    @classmethod
    def of(cls, spec: JobSpec, area: BaseGeometry, window_px: int, fetch: Fetch | None) -> _Asking:
        lattice, resolution_m = None, spec.grid.resolution_m
        if resolution_m is None:
            lattice = Mosaic.open(spec.output.mosaic, writable=False).grids[0].lattice
            side = max(lattice.res_x, lattice.res_y)
            resolution_m = side * METRES_PER_DEGREE if CRS.from_user_input(lattice.crs).is_geographic else side
        query = _query(spec, seen_from(area, window_px, resolution_m))
        refused: list[tuple[StacItem, MapperError]] = []
        catalog = opened(query, fetch=fetch, aside=lambda doc, error: refused.append((doc, error)))
        return cls(catalog=catalog, query=query, lattice=lattice, refused=refused)

    @property
    def sure(self) -> bool:
        """Whether what was not listed is not there: not where a document at rest could not be read, which may be any
        item. A server is asked for each by its name."""
        return not self.catalog.at_rest or all(doc.get("id") for doc, _ in self.refused)

    def changed_since(self, stamp: datetime, acquired: datetime) -> list[StacItem] | None:
        """What was made or changed since then, or acquired since another time: items in the future when last looked
        at, or without stamps. None where the catalog cannot be asked, or what it answers cannot be believed."""
        if not self.catalog.filters:
            return None
        for spelt in ("'{}'", "TIMESTAMP('{}')"):  # pgstac compares texts, and fails with timestamps; others differ
            at, since = (spelt.format(_rfc3339(moment)) for moment in (stamp, acquired))
            fresh = f"updated >= {at} OR created >= {at} OR datetime >= {since}"
            try:
                docs = self._asked(replace(self.query, narrowed=fresh))
            except CredentialsError:
                raise
            except MapperError:
                continue
            # The item that set the watermark is asked for again: who does not have it does not know of stamps.
            if any(said is not None and said >= stamp for said in map(stamp_of, docs)):
                return docs
        return None

    def listed(self, since: datetime) -> list[StacItem]:
        """All that was acquired since then; of a catalog at rest all there is: it has been read already."""
        if self.catalog.at_rest:
            return self._asked(self.query)
        whole = interval_of(self.query.datetime) if self.query.datetime else Interval()
        if whole.last < since:
            return []
        window = Interval(first=max(whole.first, since), last=whole.last)
        return self._asked(replace(self.query, datetime=window.text))

    def by_name(self, keys: Sequence[Key]) -> list[StacItem]:
        """Those of some items that answer after all: pages shift while others are posted and deleted."""
        ids = sorted({name for _, name in keys}) if not self.catalog.at_rest else []
        found: list[StacItem] = []
        for begin in range(0, len(ids), _IDS_AT_ONCE):
            found += self._asked(self.query, ids=ids[begin : begin + _IDS_AT_ONCE])
        return [doc for doc in found if key_of(doc) in set(keys)]

    def _asked(self, query: Query, ids: Sequence[str] = ()) -> list[StacItem]:
        try:
            return list(self.catalog.search(query, ids=ids))
        except EmptySearchError:
            return []


def _query(spec: JobSpec, area: BaseGeometry) -> Query:
    return Query(
        catalog=spec.imagery.catalog,
        collections=spec.imagery.collections,
        area=area,
        datetime=spec.imagery.datetime,
        filter=spec.imagery.filter,
        bands=spec.imagery.bands,
    )


def _late(spec: JobSpec) -> timedelta:
    assert spec.monitor is not None  # a job without it is no monitor's
    count, unit = int(spec.monitor.late[:-1]), spec.monitor.late[-1]
    return timedelta(hours=count) if unit == "h" else timedelta(days=count)


def _sweeps(
    recent: Sequence[StacItem] | None, mapped: MappedItems, count: int, swept: datetime | None, now: datetime
) -> bool:
    """Whether everything is to be listed: it is time, it is short, or the rest does not tell what is to be done."""
    if recent is None or swept is None or count <= SHORT or not timedelta(0) <= now - swept < SWEEP_EVERY:
        return True
    # What replaces another, or was gone before, may itself be replaced by what has not changed lately.
    gone = {key for run in mapped.runs if run.renewal is not None for key in run.renewal.gone}
    strange = (doc for doc in recent if key_of(doc) not in mapped.standing)
    return any(speaks_of_versions(doc) or key_of(doc) in gone for doc in strange)


def _absent(standing: Sequence[Key], listed: Iterable[StacItem], asking: _Asking) -> list[Key]:
    seen = {key_of(doc) for doc in listed} | {key_of(doc) for doc, _ in asking.refused}
    return [key for key in standing if key not in seen]


def _compared(
    items: Iterable[StacItem], recent: Iterable[StacItem], dates: dict[Key, datetime], since: datetime
) -> list[Key]:
    """The items that stand and are looked at for what has changed: what is late only where it changed lately."""
    lately = {key_of(doc) for doc in recent}
    found = dict.fromkeys(map(key_of, items))
    return [key for key in found if key in dates and (dates[key] >= since or key in lately)]


def _digests(mapped: MappedItems, spec: JobSpec, keys: Sequence[Key]) -> dict[Key, str]:
    digests: dict[Key, str] = {}
    for begin in range(0, len(keys), _COMPARED_AT_ONCE):
        for key, document in mapped.documents(keys[begin : begin + _COMPARED_AT_ONCE]).items():
            with suppress(MapperError):  # of another version of this program: then it is read anew
                digests[key] = digest(document, spec)
    return digests


def _maker(spec: JobSpec, lattice: Lattice | None, passing: list[StacItem]) -> Callable[[StacItem], Any]:
    """What turns an item into what is read; ``passing`` is given those that fail for what may be over soon."""

    def made(doc: StacItem) -> None:
        try:
            (item,) = items_of(spec, [doc])
        except ReadError:
            passing.append(doc)
            raise
        if lattice is None:
            return
        own, placement = native_lattice([item]), item.bands[0].asset.placement
        if own.crs != lattice.crs or placement is None or lattice.offset_of(placement.transform) is None:
            raise GridError("an item lies on another pixel grid than the mosaic", fix="set grid.crs and resolution_m")

    return made


def _newest(items: Iterable[StacItem], now: datetime) -> datetime | None:
    """The last change that items tell of, and no later than now."""
    stamps = [stamp for doc in items if (stamp := stamp_of(doc)) is not None and stamp <= now + _CLOCK_AHEAD]
    return min(max(stamps), now) if stamps else None


def _held_back(watermark: datetime | None, passing: Iterable[StacItem], now: datetime) -> datetime | None:
    """A watermark that does not pass what failed today and may be read tomorrow; a day later, sweeps look after it."""
    stamps = [stamp for doc in passing if (stamp := stamp_of(doc)) is not None and stamp > now - SWEEP_EVERY]
    return min([watermark, *stamps]) if watermark is not None else None


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
