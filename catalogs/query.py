"""What is searched for, and which items answer: tried here, whatever a server has tried already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

from shapely import intersects, prepare
from shapely.geometry.base import BaseGeometry

from catalogs.aside import Aside, usable
from catalogs.conditions import Filter, Interval, date_of, dates_of, did_you_mean, interval_of, stamp_of
from catalogs.footprints import footprints_of
from catalogs.hrefs import unsigned
from mapper.errors import EmptySearchError, SpecError

StacItem: TypeAlias = dict[str, Any]
"""The JSON of one STAC item, its asset hrefs absolute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What imagery a job asks for."""

    catalog: str
    """Path or URL of a STAC API, of static STAC JSON, or of a stac-geoparquet table."""

    collections: tuple[str, ...]
    """Any of these; empty for whatever the catalog has."""

    area: BaseGeometry
    """Longitude and latitude; items that only touch it from outside are found too."""

    datetime: str | None = None
    """``2020``, ``2020-06-01/2020-08-15``, ``2020-06-01/..``; None for any time."""

    filter: str | None = None
    """CQL2 text."""

    narrowed: str | None = None
    """CQL2 text that a server which filters is sent beside it, so that it answers with less; nothing that is answered
    is held against it."""

    bands: tuple[str, ...] = ()
    """References of the bands that will be read: items come with the assets that these may mean, and no others.
    Empty for items as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """A query, its parts read."""

    collections: frozenset[str]
    area: BaseGeometry
    interval: Interval
    filter: Filter | None
    sent: Filter | None = None
    """To servers that filter, in its place."""

    ids: tuple[str, ...] = ()


def conditions_of(query: Query, *, ids: tuple[str, ...] = ()) -> Conditions:
    """A query, its parts read.

    Args:
        query: what is wanted.
        ids: of the items that are asked for by name; none: all.

    Raises:
        SpecError: bad dates or CQL2, or an empty area.
    """
    interval = interval_of(query.datetime) if query.datetime else Interval()
    parsed = Filter.parse(query.filter) if query.filter else None
    both = f"({query.filter}) AND ({query.narrowed})" if query.filter else query.narrowed
    sent = Filter.parse(both) if both and query.narrowed else parsed
    if query.area.is_empty:
        raise SpecError("the area is empty", fix="give an area with imagery under it")
    prepare(query.area)
    return Conditions(
        collections=frozenset(query.collections), area=query.area, interval=interval, filter=parsed, sent=sent, ids=ids
    )


def sieve(
    docs: list[StacItem], wanted: Conditions, query: Query, *, filtered: bool = False, aside: Aside | None = None
) -> list[StacItem]:
    """What passes every condition, tried one after the other so that an empty answer can say why."""

    def of_collections(docs: list[StacItem]) -> Iterable[bool]:
        return (str(doc.get("collection")) in wanted.collections for doc in docs)

    def in_area(docs: list[StacItem]) -> Iterable[bool]:
        return intersects(wanted.area, footprints_of(docs)).tolist()  # type: ignore[no-any-return]

    def in_dates(docs: list[StacItem]) -> Iterable[bool]:
        for dates in map(dates_of, docs):
            yield wanted.interval == Interval() if dates is None else wanted.interval.meets(*dates)

    tests: tuple[tuple[str, Callable[[list[StacItem]], Iterable[bool]], str], ...] = (
        ("collections", of_collections, "the collections have no items"),
        ("area", in_area, "none lies in the area"),
        ("datetime", in_dates, "none of those in the area lies in the dates"),
    )
    for name, test, why in tests if wanted.collections else tests[1:]:
        if aside is not None and test is in_area:
            docs = usable(docs, aside)
        before, docs = docs, list(compress(docs, test(docs)))
        if not docs:
            raise nothing(query, name, f"of {len(before)} items {why}")
    if wanted.filter and not filtered:
        before, docs = docs, wanted.filter.keep(docs, aside=aside)
        if not docs:
            raise nothing(query, "filter", f"filter is true of none of {len(before)} items in the area and dates")
    return docs


def ordered(docs: Iterable[StacItem]) -> list[StacItem]:
    """Each once, by (datetime, id); of several versions of an item the one that was changed last, as they say."""
    once: dict[tuple[str, str], StacItem] = {}
    for doc in docs:
        key = (str(doc.get("collection")), str(doc["id"]))
        if key not in once or _later(doc, once[key]):
            once[key] = doc
    return sorted(once.values(), key=lambda doc: (date_of(doc), doc["id"], str(doc.get("collection"))))


def check_known(collection: str, known: list[str], query: Query) -> None:
    """SpecError where a catalog has collections, and not this one."""
    if known and collection not in known:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        raise SpecError(
            f"the catalog has no collection {collection!r}; it has {', '.join(known[:20])}{more}",
            fix=did_you_mean(collection, known) or "set imagery.collections to some of these",
            catalog=unsigned(query.catalog),
        )


def nothing(query: Query, condition: str, why: str) -> EmptySearchError:
    """That nothing answers, and which condition left nothing."""
    return EmptySearchError(
        f"no imagery: {why}",
        fix=f"widen imagery.{condition}" if condition != "area" else "move or widen area",
        condition=condition,
        catalog=unsigned(query.catalog),
        collections=", ".join(query.collections),
        datetime=query.datetime,
        filter=query.filter,
    )


def _later(one: StacItem, other: StacItem) -> bool:
    """Whether it was changed after the other, as both say."""
    first, second = stamp_of(one), stamp_of(other)
    return first is not None and second is not None and first > second
