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
from typing import TYPE_CHECKING, Any, TypeAlias

from shapely import get_num_coordinates, prepare
from shapely.geometry.base import BaseGeometry

from catalogs.aside import Aside, refuse
from catalogs.conditions import Interval, date_of
from catalogs.documents import Holding, parse_lines, walk
from catalogs.fetch import Fetch, check_size, links_of, parse_json
from catalogs.hrefs import check_link, is_remote, local_path, unsigned
from catalogs.items import lean, many_values
from catalogs.query import Conditions, Query, StacItem, check_known, conditions_of, nothing, ordered, sieve
from catalogs.tables import PARQUET, ROW, Table
from mapper.errors import CatalogError, EmptySearchError, MissingError, SpecError

if TYPE_CHECKING:
    from catalogs.api import Api

__all__ = ["Opened", "Query", "StacItem", "opened", "search"]

_MOST_ITEMS = 2_000_000
_MOST_VERTICES = 500
"""Of an area sent to an API as it is; a larger one is sent as its box. Servers refuse long requests."""


_Around: TypeAlias = Callable[[StacItem], BaseGeometry]

_Ask: TypeAlias = Callable[[Conditions, bool], Sequence[StacItem]]
"""What answers these conditions; one item of it, or all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A catalog that has been looked at, and can be asked again and again."""

    at_rest: bool
    """It has been read whole, and will not change any more; else it is a server, and answers as of now."""

    filters: bool
    """It is a server that takes CQL2."""

    ask: _Ask

    def search(self, query: Query, *, around: _Around | None = None, ids: Sequence[str] = ()) -> Sequence[StacItem]:
        """As ``search``.

        Args:
            query: of the catalog, the collections and the bands it was opened for.
            around: as for ``search``.
            ids: of the items that are asked for by name; none: all. Only servers look at them, and not all of these.
        """
        return _answer(self.ask, conditions_of(query, ids=tuple(ids)), around)


def search(
    query: Query,
    *,
    fetch: Fetch | None = None,
    around: _Around | None = None,
    aside: Aside | None = None,
) -> Sequence[StacItem]:
    """The items that answer, each once, ordered by (datetime, id); to be read only, those of a table share their parts.

    Of an item that comes in several versions, the one that says that it was changed last.

    Args:
        query: what is wanted.
        fetch: how patiently.
        around: gives, for one item that answers, the area to search in place of that of the query: for who must see
            an item to know how far around it others matter. The catalog is read once all the same.
        aside: takes what the catalog gives and is no item that could be found: that says when and where it is, and
            of which the filter can be decided. None: it is an error.

    Raises:
        SpecError: the query cannot be: bad dates or CQL2, an unknown collection, a property that no item has.
        EmptySearchError: nothing answers; it says which condition left nothing.
        CredentialsError: the catalog refuses us.
        CatalogError: the catalog is down, or what it answers is not STAC.
    """
    wanted = conditions_of(query)
    return _answer(opened(query, fetch=fetch, aside=aside).ask, wanted, around)


def opened(query: Query, *, fetch: Fetch | None = None, aside: Aside | None = None) -> Opened:
    """The catalog of a query, looked at; arguments and errors as for ``search``."""
    place = _document_in(query.catalog)
    fetch = replace(fetch or Fetch(), catalog=place)
    content = fetch.read(place, limit=fetch.table_limit_bytes)
    if is_remote(place) and content[:4] != PARQUET:
        check_size(content, place, fetch.page_limit_bytes)
    if content[:4] == PARQUET:
        return Opened(at_rest=True, filters=False, ask=_table_asked(Table(content, place), query, aside))
    if (docs := parse_lines(content, place, aside=aside)) is not None:
        holding = _holding(docs, place, aside)
        return Opened(at_rest=True, filters=False, ask=_holding_asked(holding, query))
    doc = parse_json(content, place)
    api, collections = _api_of(doc, place, fetch, aside)
    if api is not None:
        return Opened(at_rest=False, filters=bool(api.filter_language), ask=_api_asked(api, collections, query))
    holding = walk(doc, place, wanted=query.collections, fetch=fetch, aside=aside)
    if not holding.items and any(link["rel"] == "items" for link in links_of(doc)):
        raise EmptySearchError(
            "this document names its items by an API and holds none",
            fix="give the address of its STAC API as imagery.catalog",
            catalog=unsigned(place),
        )
    return Opened(at_rest=True, filters=False, ask=_holding_asked(holding, query))


def _answer(ask: _Ask, wanted: Conditions, around: _Around | None) -> Sequence[StacItem]:
    if around is not None:
        wanted = replace(wanted, area=around(ask(wanted, True)[0]))
        prepare(wanted.area)
    return ask(wanted, False)


def _table_asked(table: Table, query: Query, aside: Aside | None) -> _Ask:
    with many_values():
        heads = list(table.heads(properties=query.filter is not None, aside=aside))
    holding = Holding(items=heads, collections=set(table.collections), aside=aside)

    def ask(wanted: Conditions, one: bool) -> Sequence[StacItem]:
        with many_values():
            rows = [head[ROW] for head in ordered(_kept(holding, wanted, query))]
        return table.items(rows[:1] if one else rows, bands=query.bands)

    return ask


def _holding_asked(holding: Holding, query: Query) -> _Ask:
    def ask(wanted: Conditions, one: bool) -> Sequence[StacItem]:
        found = ordered(_kept(holding, wanted, query))
        return [lean(doc, query.bands) for doc in (found[:1] if one else found)]

    return ask


def _api_asked(api: Api, collections: frozenset[str], query: Query) -> _Ask:
    def ask(wanted: Conditions, one: bool) -> Sequence[StacItem]:
        if collections and not wanted.collections:
            wanted = replace(wanted, collections=collections)
        found = _answered(api, wanted, query, one=one)
        return [lean(doc, query.bands) for doc in ordered(found)]

    return ask


def _kept(holding: Holding, wanted: Conditions, query: Query) -> list[StacItem]:
    for collection in sorted(wanted.collections - holding.collections):
        check_known(collection, sorted(holding.collections), query)
    if not holding.items:
        raise nothing(query, "collections", "the catalog has no items")
    return sieve(holding.items, wanted, query, aside=holding.aside)


def _api_of(doc: dict[str, Any], place: str, fetch: Fetch, aside: Aside | None) -> tuple[Api | None, frozenset[str]]:
    """The API a document belongs to, None where it is at rest; the collection it narrows a search to."""
    if not is_remote(place):
        return None, frozenset()
    from catalogs.api import Api  # not above: pystac-client takes 90 ms to import, and files need none of it

    api = Api.announced(doc, place, fetch, aside)
    if api is not None:
        return api, frozenset()
    links = {link["rel"]: link["href"] for link in links_of(doc)}
    if doc.get("type") == "Collection" and "items" in links and "root" in links:
        root = check_link(links["root"], base=place, catalog=place)
        if root.rstrip("/") != place.rstrip("/"):
            return Api.announced(fetch.json(root), root, fetch, aside), frozenset((str(doc.get("id")),))
    return None, frozenset()


def _answered(api: Api, wanted: Conditions, query: Query, *, one: bool) -> list[StacItem]:
    for collection in sorted(wanted.collections):
        if not api.knows(collection):
            check_known(collection, _names(api), query)
    request = _request(wanted)
    language = api.filter_language if wanted.sent else None
    if wanted.sent and language:
        text_or_json = wanted.sent.text if language == "cql2-text" else wanted.sent.expression.to_json()
        request |= {"filter": text_or_json, "filter_lang": language}

    def passed(docs: list[StacItem]) -> list[StacItem]:
        if wanted.filter and language:
            # The server has filtered, by names it may know better: what is plainly false it has let slip.
            docs = [doc for doc in docs if not wanted.filter.denies(doc)]
        return sieve(docs, wanted, query, filtered=language is not None, aside=api.aside)

    if one and (first := api.first(request)):
        with suppress(SpecError):  # a server may hand over what nobody asked for: then all are looked at
            return passed(_taken([first], api, query))
    docs = _taken(api.items(request), api, query)
    if not docs:
        raise nothing(query, *_why_nothing(api, wanted))
    return passed(docs)


def _taken(docs: Iterable[StacItem], api: Api, query: Query) -> list[StacItem]:
    """Items of an API, hrefs absolute, with the assets that are asked for."""
    held = Holding(aside=api.aside)
    for doc in docs:
        held.take(doc, api.search_url, from_self=True)
        if held.items:
            held.items[-1] = lean(held.items[-1], query.bands)
        if len(held.items) > _MOST_ITEMS:
            raise CatalogError(f"more than {_MOST_ITEMS} items answer", fix="narrow the area or the dates")
    return held.items


def _request(wanted: Conditions) -> dict[str, Any]:
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
    if wanted.ids:
        request["ids"] = list(wanted.ids)
    return request


def _names(api: Api) -> list[str]:
    try:
        return api.collections()
    except MissingError:
        return []


def _why_nothing(api: Api, wanted: Conditions) -> tuple[str, str]:
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


def _holding(docs: list[StacItem], place: str, aside: Aside | None) -> Holding:
    holding = Holding(aside=aside)
    for doc in docs:
        if doc.get("type") == "Feature":
            holding.take(doc, place, from_self=True)
        else:
            refuse({}, CatalogError("not every line is a STAC item", catalog=unsigned(place)), aside)
    return holding


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


def _day(doc: StacItem) -> str:
    try:
        return date_of(doc).date().isoformat()
    except CatalogError:
        return "no date"
