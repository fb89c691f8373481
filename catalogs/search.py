"""Find the STAC items a job asks for, whatever kind of catalog holds them.

What lies at ``imagery.catalog`` is learned by looking at it:

    begins with PAR1                      a stac-geoparquet table         tables.py
    JSON with a ``search`` link           a STAC API                      api.py
    a collection of such an API           that API, for this collection   api.py
    any other STAC JSON, or lines of it   a catalog at rest               documents.py

Whatever the source has done already, every condition is tried again here: a server that ignores one would
otherwise hand over imagery nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, TypeAlias

from shapely import get_num_coordinates, intersects, prepare
from shapely.geometry.base import BaseGeometry

from catalogs.conditions import Filter, Interval, date_of, dates_of, did_you_mean, interval_of
from catalogs.documents import Holding, absolute, parse_lines, walk
from catalogs.fetch import Fetch, check_size, links_of, parse_json
from catalogs.footprints import footprints_of
from catalogs.hrefs import check_link, is_remote, local_path, unsigned
from catalogs.items import lean, many_values
from catalogs.tables import PARQUET, ROW, Table
from mapper.errors import CatalogError, EmptySearchError, MissingError, SpecError

if TYPE_CHECKING:
    from catalogs.api import Api

StacItem: TypeAlias = dict[str, Any]
"""The JSON of one STAC item, its asset hrefs absolute."""

_MOST_ITEMS = 2_000_000
_MOST_VERTICES = 500
"""Of an area sent to an API as it is; a larger one is sent as its box. Servers refuse long requests."""


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

    bands: tuple[str, ...] = ()
    """References of the bands that will be read: items come with the assets that these may mean, and no others.
    Empty for items as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditions:
    collections: frozenset[str]
    area: BaseGeometry
    interval: Interval
    filter: Filter | None


_Ask: TypeAlias = Callable[[_Conditions, bool], Sequence[StacItem]]
"""What answers these conditions; one item of it, or all."""


def search(
    query: Query, *, fetch: Fetch | None = None, around: Callable[[StacItem], BaseGeometry] | None = None
) -> Sequence[StacItem]:
    """The items that answer, each once, ordered by (datetime, id); to be read only, those of a table share their parts.

    Args:
        query: what is wanted.
        fetch: how patiently.
        around: gives, for one item that answers, the area to search in place of that of the query: for who must see
            an item to know how far around it others matter. The catalog is read once all the same.

    Raises:
        SpecError: the query cannot be: bad dates or CQL2, an unknown collection, a property that no item has.
        EmptySearchError: nothing answers; it says which condition left nothing.
        CredentialsError: the catalog refuses us.
        CatalogError: the catalog is down, or what it answers is not STAC.
    """
    wanted = _Conditions(
        collections=frozenset(query.collections),
        area=query.area,
        interval=interval_of(query.datetime) if query.datetime else Interval(),
        filter=Filter.parse(query.filter) if query.filter else None,
    )
    if query.area.is_empty:
        raise SpecError("the area is empty", fix="give an area with imagery under it")
    prepare(query.area)
    place = _document_in(query.catalog)
    ask = _opened(place, query, replace(fetch or Fetch(), catalog=place))
    if around is not None:
        wanted = replace(wanted, area=around(ask(wanted, True)[0]))
        prepare(wanted.area)
    return ask(wanted, False)


def _opened(place: str, query: Query, fetch: Fetch) -> _Ask:
    """A catalog that has been looked at, and can be asked."""
    content = fetch.read(place, limit=fetch.table_limit_bytes)
    if is_remote(place) and content[:4] != PARQUET:
        check_size(content, place, fetch.page_limit_bytes)
    if content[:4] == PARQUET:
        return _table_opened(Table(content, place), query)
    if (docs := parse_lines(content, place)) is not None:
        return _holding_opened(_holding(docs, place), query)
    doc = parse_json(content, place)
    api, collections = _api_of(doc, place, fetch)
    if api is not None:
        return _api_opened(api, collections, query)
    holding = walk(doc, place, wanted=query.collections, fetch=fetch)
    if not holding.items and any(link["rel"] == "items" for link in links_of(doc)):
        raise EmptySearchError(
            "this document names its items by an API and holds none",
            fix="give the address of its STAC API as imagery.catalog",
            catalog=unsigned(place),
        )
    return _holding_opened(holding, query)


def _table_opened(table: Table, query: Query) -> _Ask:
    with many_values():
        heads = list(table.heads(properties=query.filter is not None))
    holding = Holding(items=heads, collections=set(table.collections))

    def ask(wanted: _Conditions, one: bool) -> Sequence[StacItem]:
        with many_values():
            rows = [head[ROW] for head in _ordered(_kept(holding, wanted, query))]
        return table.items(rows[:1] if one else rows, bands=query.bands)

    return ask


def _holding_opened(holding: Holding, query: Query) -> _Ask:
    def ask(wanted: _Conditions, one: bool) -> Sequence[StacItem]:
        found = _ordered(_kept(holding, wanted, query))
        return [lean(doc, query.bands) for doc in (found[:1] if one else found)]

    return ask


def _api_opened(api: Api, collections: frozenset[str], query: Query) -> _Ask:
    def ask(wanted: _Conditions, one: bool) -> Sequence[StacItem]:
        if collections and not wanted.collections:
            wanted = replace(wanted, collections=collections)
        found = _answered(api, wanted, query, one=one)
        return [lean(doc, query.bands) for doc in _ordered(found)]

    return ask


def _api_of(doc: dict[str, Any], place: str, fetch: Fetch) -> tuple[Api | None, frozenset[str]]:
    """The API a document belongs to, None where it is at rest; the collection it narrows a search to."""
    if not is_remote(place):
        return None, frozenset()
    from catalogs.api import Api  # not above: pystac-client takes 90 ms to import, and files need none of it

    api = Api.announced(doc, place, fetch)
    if api is not None:
        return api, frozenset()
    links = {link["rel"]: link["href"] for link in links_of(doc)}
    if doc.get("type") == "Collection" and "items" in links and "root" in links:
        root = check_link(links["root"], base=place, catalog=place)
        if root.rstrip("/") != place.rstrip("/"):
            return Api.announced(fetch.json(root), root, fetch), frozenset((str(doc.get("id")),))
    return None, frozenset()


def _answered(api: Api, wanted: _Conditions, query: Query, *, one: bool) -> list[StacItem]:
    for collection in sorted(wanted.collections):
        if not api.knows(collection):
            _check_known(collection, _names(api), query)
    request = _request(wanted)
    language = api.filter_language if wanted.filter else None
    if wanted.filter and language:
        text_or_json = wanted.filter.text if language == "cql2-text" else wanted.filter.expression.to_json()
        request |= {"filter": text_or_json, "filter_lang": language}

    def passed(docs: list[StacItem]) -> list[StacItem]:
        if wanted.filter and language:
            # The server has filtered, by names it may know better: what is plainly false it has let slip.
            docs = [doc for doc in docs if not wanted.filter.denies(doc)]
        return _sieve(docs, wanted, query, filtered=language is not None)

    if one and (first := api.first(request)):
        with suppress(SpecError):  # a server may hand over what nobody asked for: then all are looked at
            return passed([absolute(first, api.search_url, from_self=True)])
    docs: list[StacItem] = []
    for doc in api.items(request):
        docs.append(lean(absolute(doc, api.search_url, from_self=True), query.bands))
        if len(docs) > _MOST_ITEMS:
            raise CatalogError(f"more than {_MOST_ITEMS} items answer", fix="narrow the area or the dates")
    if not docs:
        raise _nothing(query, *_why_nothing(api, wanted))
    return passed(docs)


def _request(wanted: _Conditions) -> dict[str, Any]:
    """As ``ItemSearch`` of pystac-client takes it."""
    request: dict[str, Any] = {}
    if wanted.collections:
        request["collections"] = sorted(wanted.collections)
    if get_num_coordinates(wanted.area) > _MOST_VERTICES:
        request["bbox"] = list(wanted.area.bounds)
    else:
        request["intersects"] = wanted.area
    if wanted.interval != Interval():
        request["datetime"] = wanted.interval.text
    return request


def _names(api: Api) -> list[str]:
    try:
        return api.collections()
    except MissingError:
        return []


def _why_nothing(api: Api, wanted: _Conditions) -> tuple[str, str]:
    """What left nothing, and what to do: asked of the API with one condition less at a time."""
    request = _request(wanted)
    if wanted.filter and api.first(request):
        return "filter", "items lie in the area and the dates, and filter is true of none"
    request.pop("datetime", None)
    if wanted.interval != Interval() and (near := api.first(request)):
        return "datetime", f"items lie in the area, such as one of {_day(near)}, and none in the dates"
    for name in ("intersects", "bbox"):
        request.pop(name, None)
    if api.first(request):
        return "area", "the collections have items, and none in the area"
    return "collections", "the collections have no items"


def _kept(holding: Holding, wanted: _Conditions, query: Query) -> list[StacItem]:
    for collection in sorted(wanted.collections - holding.collections):
        _check_known(collection, sorted(holding.collections), query)
    if not holding.items:
        raise _nothing(query, "collections", "the catalog has no items")
    return _sieve(holding.items, wanted, query)


def _sieve(docs: list[StacItem], wanted: _Conditions, query: Query, *, filtered: bool = False) -> list[StacItem]:
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
        before, docs = docs, list(compress(docs, test(docs)))
        if not docs:
            raise _nothing(query, name, f"of {len(before)} items {why}")
    if wanted.filter and not filtered:
        before, docs = docs, wanted.filter.keep(docs)
        if not docs:
            raise _nothing(query, "filter", f"filter is true of none of {len(before)} items in the area and dates")
    return docs


def _ordered(docs: Iterable[StacItem]) -> list[StacItem]:
    once: dict[tuple[str, str], StacItem] = {}
    for doc in docs:
        once.setdefault((str(doc.get("collection")), str(doc["id"])), doc)
    return sorted(once.values(), key=lambda doc: (date_of(doc), doc["id"], str(doc.get("collection"))))


def _holding(docs: list[StacItem], place: str) -> Holding:
    items = [absolute(doc, place, from_self=True) for doc in docs if doc.get("type") == "Feature"]
    if len(items) != len(docs) or not all(isinstance(doc.get("id"), str) for doc in items):
        raise CatalogError("not every line is a STAC item", catalog=unsigned(place))
    return Holding(items=items, collections={str(doc["collection"]) for doc in items if doc.get("collection")})


def _document_in(catalog: str) -> str:
    """The document meant by a place: in a folder, its catalog or collection."""
    if is_remote(catalog):
        return catalog
    path = local_path(catalog).absolute()
    if path.is_dir():
        for name in ("catalog.json", "collection.json"):
            if (path / name).is_file():
                return str(path / name)
        raise SpecError(
            "the folder has no catalog.json and no collection.json",
            fix="give the document itself",
            catalog=catalog,
        )
    return str(path)


def _check_known(collection: str, known: list[str], query: Query) -> None:
    if known and collection not in known:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        raise SpecError(
            f"the catalog has no collection {collection!r}; it has {', '.join(known[:20])}{more}",
            fix=did_you_mean(collection, known) or "set imagery.collections to some of these",
            catalog=unsigned(query.catalog),
        )


def _day(doc: StacItem) -> str:
    return date_of(doc).date().isoformat()


def _nothing(query: Query, condition: str, why: str) -> EmptySearchError:
    return EmptySearchError(
        f"no imagery: {why}",
        fix=f"widen imagery.{condition}" if condition != "area" else "move or widen area",
        condition=condition,
        catalog=unsigned(query.catalog),
        collections=", ".join(query.collections),
        datetime=query.datetime,
        filter=query.filter,
    )
