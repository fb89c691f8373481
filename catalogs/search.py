"""Find the STAC items a job asks for, whatever kind of catalog holds them.

What lies at ``imagery.catalog`` is learned by looking at it:

    begins with PAR1                      a stac-geoparquet table         documents.py
    JSON with a ``search`` link           a STAC API                      api.py
    a collection of such an API           that API, for this collection   api.py
    any other STAC JSON, or lines of it   a catalog at rest               documents.py

Whatever the source has done already, every condition is tried again here: a server that ignores one would
otherwise hand over imagery nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from shapely import get_num_coordinates, prepare
from shapely.geometry.base import BaseGeometry

from catalogs.conditions import Filter, Interval, date_of, dates_of, did_you_mean, interval_of
from catalogs.documents import PARQUET, Holding, absolute, parse_lines, table_items, walk
from catalogs.fetch import Fetch, check_size, links_of, parse_json
from catalogs.footprints import footprint_of
from catalogs.hrefs import is_remote, local_path, resolve_href, unsigned
from catalogs.items import lean, many_values
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


def search(query: Query, *, fetch: Fetch | None = None) -> list[StacItem]:
    """The items that answer, each once, ordered by (datetime, id).

    Raises:
        SpecError: the query cannot be: bad dates or CQL2, an unknown collection, a property that no item has.
        EmptySearchError: nothing answers; it says which condition left nothing.
        CredentialsError: the catalog refuses us.
        CatalogError: the catalog is down, or what it answers is not STAC.
    """
    fetch = fetch or Fetch()
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
    content = fetch.read(place, limit=fetch.table_limit_bytes)
    if is_remote(place) and content[:4] != PARQUET:
        check_size(content, place, fetch.page_limit_bytes)
    if content[:4] == PARQUET:
        with many_values():
            found = _kept(table_items(content, place, wanted=query.collections, bands=query.bands), wanted, query)
            return [lean(doc, query.bands) for doc in _ordered(found)]
    if (docs := parse_lines(content, place)) is not None:
        found = _kept(_holding(docs, place), wanted, query)
    else:
        found = _searched(parse_json(content, place), place, wanted, query, fetch)
    return [lean(doc, query.bands) for doc in _ordered(found)]


def _searched(doc: dict[str, Any], place: str, wanted: _Conditions, query: Query, fetch: Fetch) -> list[StacItem]:
    api, collections = _api_of(doc, place, fetch)
    if api is None:
        holding = walk(doc, place, wanted=wanted.collections, fetch=fetch)
        if not holding.items and any(link["rel"] == "items" for link in links_of(doc)):
            raise EmptySearchError(
                "this document names its items by an API and holds none",
                fix="give the address of its STAC API as imagery.catalog",
                catalog=unsigned(place),
            )
        return _kept(holding, wanted, query)
    if collections and not wanted.collections:
        wanted = _Conditions(collections=collections, area=wanted.area, interval=wanted.interval, filter=wanted.filter)
    return _answered(api, wanted, query)


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
        root = resolve_href(links["root"], base=place)
        if root.rstrip("/") != place.rstrip("/"):
            return Api.announced(fetch.json(root), root, fetch), frozenset((str(doc.get("id")),))
    return None, frozenset()


def _answered(api: Api, wanted: _Conditions, query: Query) -> list[StacItem]:
    for collection in sorted(wanted.collections):
        if not api.knows(collection):
            _check_known(collection, _names(api), query)
    request = _request(wanted)
    language = api.filter_language if wanted.filter else None
    if wanted.filter and language:
        text_or_json = wanted.filter.text if language == "cql2-text" else wanted.filter.expression.to_json()
        request |= {"filter": text_or_json, "filter_lang": language}
    docs: list[StacItem] = []
    for doc in api.items(request):
        docs.append(lean(absolute(doc, api.search_url, from_self=True), query.bands))
        if len(docs) > _MOST_ITEMS:
            raise CatalogError(f"more than {_MOST_ITEMS} items answer", fix="narrow the area or the dates")
    if not docs:
        raise _nothing(query, *_why_nothing(api, wanted))
    if wanted.filter and language:
        # The server has filtered, by names it may know better: what is plainly false it has let slip.
        docs = [doc for doc in docs if not wanted.filter.denies(doc)]
    return _sieve(docs, wanted, query, filtered=language is not None)


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

    def in_area(doc: StacItem) -> bool:
        return bool(wanted.area.intersects(footprint_of(doc)))

    def in_dates(doc: StacItem) -> bool:
        dates = dates_of(doc)
        return wanted.interval == Interval() if dates is None else wanted.interval.meets(*dates)

    tests: tuple[tuple[str, Callable[[StacItem], bool], str], ...] = (
        (
            "collections",
            lambda doc: str(doc.get("collection")) in wanted.collections,
            "the collections have no items",
        ),
        ("area", in_area, "none lies in the area"),
        ("datetime", in_dates, "none of those in the area lies in the dates"),
    )
    for name, test, why in tests:
        if name == "collections" and not wanted.collections:
            continue
        before, docs = docs, [doc for doc in docs if test(doc)]
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
