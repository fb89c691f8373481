"""A STAC API, read by pystac-client through a guarded door.

pystac-client opens the landing page, words the requests and follows the pages. Paging is where APIs break: a
``next`` that names itself, tokens that are ignored, pages that repeat under an unstable order. Each of these is an
error here, never a shorter answer: a map of half the items looks whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import requests
from pystac.link import HREF, Link
from pystac_client import Client, ItemSearch
from pystac_client.errors import ClientTypeError
from pystac_client.stac_api_io import StacApiIO

from catalogs.aside import Aside, refuse
from catalogs.conditions import stamp_of
from catalogs.fetch import DEEPEST, Fetch, is_deeper, links_of, parse_json
from catalogs.hrefs import check_href, resolve_href, unsigned
from mapper.errors import AssetError, CatalogError, MissingError

PAGE_ITEMS = 200
MOST_PAGES = 20_000
_DEEPEST_PAGE = 300
"""Brackets in brackets that a page is read with where items may be set aside, so that the one that has them can be."""

MOST_IDLE_PAGES = 5
"""Pages in a row that bring nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A STAC API, as its landing page announces it."""

    client: Client
    fetch: Fetch
    url: str
    search_url: str
    method: str
    """By which it is searched."""

    aside: Aside | None = None
    """Takes what is no item; None: that is an error."""

    @classmethod
    def announced(cls, landing: Mapping[str, Any], url: str, fetch: Fetch, aside: Aside | None = None) -> Api | None:
        """The API whose landing page this is, None where the document is of none.

        Raises:
            CatalogError: it has a search, and is no STAC catalog.
        """
        if not any(link["rel"] == "search" for link in links_of(landing)):
            return None
        with _in_our_words(url):
            held = {**landing, "conformsTo": [str(name) for name in landing.get("conformsTo") or ()]}
            client = Client.open(url.rstrip("/") + "/", stac_io=_Door(fetch, url, held=held))
            # Client.search would take the first link, whatever its method, and none without a media type.
            links = sorted(client.get_links("search"), key=lambda link: link.extra_fields["method"] != "POST")
            method = "POST" if links[0].extra_fields["method"] == "POST" else "GET"
            address = links[0].absolute_href
            return cls(client=client, fetch=fetch, url=url, search_url=address, method=method, aside=aside)

    @property
    def filter_language(self) -> str | None:
        """The CQL2 it filters by, ``cql2-json`` or ``cql2-text``; None where it does not say that it does.

        A server that does not know ``filter`` ignores it, or answers with no items at all.
        """
        if not self.client.conforms_to("FILTER"):
            return None
        said = self.client.get_conforms_to()  # pystac-client has no classes for the languages
        return next((name for name in ("cql2-json", "cql2-text") if any(uri.endswith(name) for uri in said)), None)

    def items(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The items that answer a request, each once, and once more where a later version of it comes.

        Args:
            request: arguments of pystac-client's ``ItemSearch``.

        Raises:
            CatalogError: the pages do not end, repeat, lead elsewhere, or are not STAC.
        """
        order = ["properties.datetime", "id"] if self.client.conforms_to("SORT") else None
        return self._found({**request, "limit": PAGE_ITEMS, "sortby": order})

    def first(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Any item that answers a request, None where none does."""
        return next(self._found({**request, "limit": 1}), None)

    def knows(self, collection: str) -> bool:
        """Whether it has a collection of this name, well made or not: Client.get_collection wants it well made."""
        with _in_our_words(self.url), suppress(MissingError):
            _Door(self.fetch, self.url).read_text(f"{self._collections_url}/{quote(collection, safe='')}")
            return True
        return False

    def collections(self) -> list[str]:
        """The names of its collections."""
        with _in_our_words(self.url):
            listed = _Door(self.fetch, self.url).get_pages(self._collections_url)
            return sorted({str(found.get("id")) for page in listed for found in page["collections"]})

    @property
    def _collections_url(self) -> str:
        link = self.client.get_single_link("data")
        return (link.absolute_href if link else f"{self.client.self_href}collections").rstrip("/")

    def _found(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        door = _Door(self.fetch, self.url, aside=self.aside)
        found = ItemSearch(self.search_url, method=self.method, client=self.client, stac_io=door, **request)
        return _items(found, door, self.aside)


def pages(
    fetch: Fetch, place: str, first_page: dict[str, Any], *, aside: Aside | None = None
) -> Iterator[dict[str, Any]]:
    """The items of a page and of all that follow it, each once, and once more where a later version of it comes.

    Args:
        fetch: how patiently.
        place: where the first page was read.
        first_page: as it was read.
        aside: takes what is no item; None: that is an error.

    Raises:
        CatalogError: the pages do not end, repeat, lead elsewhere, or are not STAC.
    """
    door = _Door(fetch, place, held=first_page, aside=aside)
    return _items(ItemSearch(place, method="GET", stac_io=door), door, aside)


class _Door(StacApiIO):
    """pystac-client's way to one server: by ``Fetch``, to no other host, for each page once. Good for one walk."""

    def __init__(
        self, fetch: Fetch, start: str, *, held: Mapping[str, Any] | None = None, aside: Aside | None = None
    ) -> None:
        """``held``: the document at ``start``, where it has been read before. ``aside``: takes items that lie too deep
        in brackets."""
        super().__init__()
        self._aside = aside
        self.start = self.place = start
        self.page: Mapping[str, Any] = {}
        self._fetch = fetch
        self._held = held
        self._asked = {(start, "null")} if held else set()
        self._empty = 0

    def request(
        self, href: str, method: str | None = None, headers: Any = None, parameters: dict[str, Any] | None = None
    ) -> str:
        """The answer, as text that encodes to the bytes that came."""
        target = _of_this_host(resolve_href(href, base=self.place), self.start)
        body = parameters or {} if method == "POST" else None
        if body is None and parameters:
            target = str(requests.Request("GET", target, params=parameters).prepare().url)
        asked = (target, json.dumps(body, sort_keys=True))
        if asked in self._asked:
            if self._empty:
                return '{"features": []}'  # the last page is empty and names itself: some servers end so
            raise _endless("a page's next page was there before", self.start)
        if len(self._asked) >= MOST_PAGES:
            raise _endless(f"there are more than {MOST_PAGES} pages", self.start)
        self._asked.add(asked)
        self.place = target
        sent = {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}
        return self._fetch.read(target, body=body, headers=sent).decode(errors="surrogateescape")

    def read_text(self, source: HREF, *args: Any, **kwargs: Any) -> str:
        """As pystac-client, which would open files too."""
        if isinstance(source, Link):
            return super().read_text(source, *args, **kwargs)
        return self.request(str(source), *args, **kwargs)

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON object in a text."""
        content = txt.encode(errors="surrogateescape")
        if self._aside is None or not is_deeper(content, DEEPEST):
            return parse_json(content, self.place)
        page = parse_json(content, self.place, deepest=_DEEPEST_PAGE)
        features = page.get("features")
        if not isinstance(features, list):
            return parse_json(content, self.place)
        deep = [is_deeper(json.dumps(doc).encode(), DEEPEST - 2) for doc in features]
        for doc in compress(features, deep):
            said = {name: doc[name] for name in ("id", "collection") if isinstance(doc.get(name), str)}
            self._aside(said, CatalogError(f"brackets lie more than {DEEPEST} deep in an item"))
        return {**page, "features": [doc for doc, is_deep in zip(features, deep, strict=True) if not is_deep]}

    def read_json(self, source: HREF, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A document; in place of an empty page that leads on, the next: pystac-client would take it for the last."""
        found, self._held = self._held or super().read_json(source, *args, **kwargs), None
        links = [{**link, "method": str(link.get("method", "GET")).upper()} for link in links_of(found)]
        self.page = page = {**found, "links": links}
        self._empty = self._empty + 1 if page.get("features", page.get("collections")) == [] else 0
        following = next((link for link in links if link["rel"] == "next"), None)
        if not self._empty or following is None:
            return page
        if self._empty > MOST_IDLE_PAGES:
            raise _endless(f"{self._empty} pages in a row are empty", self.start)
        return self.read_json(Link.from_dict(following), *args, **kwargs)


def _items(search: ItemSearch, door: _Door, aside: Aside | None) -> Iterator[dict[str, Any]]:
    """The items of a search, with a look at what its pages hold."""
    known: dict[tuple[str, str], datetime | None] = {}
    given = idle = 0
    with _in_our_words(door.start):
        for page in search.pages_as_dicts():
            if idle >= MOST_IDLE_PAGES:
                raise _endless(f"{idle} pages in a row bring nothing new", door.start)
            idle += 1
            for doc in features_of(page, door.place, aside):
                given += 1
                key, stamp = (str(doc.get("collection")), doc["id"]), stamp_of(doc)
                if key not in known:
                    idle = 0
                elif known[key] == stamp:
                    continue
                known[key] = stamp
                yield doc
        _features(door.page, door.place)  # pystac-client ends at an answer without features, whatever it is
    matched = door.page.get("numberMatched")
    if isinstance(matched, int) and len(known) < min(given, matched):
        raise CatalogError(
            f"the catalog's pages repeat {given - len(known)} items and leave out {matched - len(known)} of {matched}",
            fix="narrow the area or the dates until the answer is one page",
            catalog=unsigned(door.start),
        )


def features_of(page: Mapping[str, Any], place: str, aside: Aside | None = None) -> list[dict[str, Any]]:
    """The items of an ItemCollection; CatalogError where it is none, or where nobody takes what is no item in it."""
    items = []
    for doc in _features(page, place):
        if isinstance(doc, dict) and isinstance(doc.get("id"), str) and doc["id"]:
            items.append(doc)
        else:
            nonsense = "an answer has a feature with no id: it is no STAC item"
            refuse({}, CatalogError(nonsense, catalog=unsigned(place)), aside)
    return items


def _features(page: Mapping[str, Any], place: str) -> list[Any]:
    features = page.get("features")
    if not isinstance(features, list):
        raise CatalogError("an answer has no features: it is no STAC ItemCollection", catalog=unsigned(place))
    return features


@contextmanager
def _in_our_words(url: str) -> Iterator[None]:
    """pystac-client checks no document before it reads it, and raises what it stumbles over."""
    try:
        yield
    except AssetError as error:
        raise CatalogError(f"the catalog leads where it may not: {error.what}", catalog=unsigned(url)) from error
    except (ClientTypeError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CatalogError(
            f"what the catalog gives is not STAC: {type(error).__name__} {str(error)[:200]}",
            fix="give the address of a STAC API, a STAC JSON document or a stac-geoparquet file",
            catalog=unsigned(url),
        ) from error


def _of_this_host(target: str, start: str) -> str:
    """The target, over the start's own scheme: behind proxies many an API believes that it speaks http."""
    ours, theirs = urlsplit(start), urlsplit(target)
    if theirs.scheme not in ("http", "https") or _host(theirs.netloc) != _host(ours.netloc):
        raise CatalogError(
            "the catalog leads to another host",
            fix="give that host's own address as imagery.catalog, if it is to be trusted",
            catalog=unsigned(start),
            leads_to=unsigned(target)[:200],
        )
    check_href(target, catalog=start, resolve=False)
    return urlunsplit(theirs._replace(scheme=ours.scheme, netloc=ours.netloc))


def _host(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _endless(why: str, start: str) -> CatalogError:
    return CatalogError(
        f"the catalog's pages do not end: {why}",
        fix=f"narrow the area or the dates until one page of {PAGE_ITEMS} items holds the answer",
        catalog=unsigned(start),
    )
