"""A STAC API: what it announces, its collections, and its pages, walked with suspicion.

Paging is where APIs break: a ``next`` that names itself, tokens that are ignored, pages that repeat under an
unstable order. Each of these is an error here, never a shorter answer: a map of half the items looks whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from catalogs.fetch import Fetch, MissingError
from catalogs.hrefs import check_href, resolve_href, unsigned
from mapper.errors import AssetError, CatalogError

PAGE_ITEMS = 200
MOST_PAGES = 20_000
MOST_IDLE_PAGES = 5
"""Pages in a row that bring nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A STAC API, as its landing page announces it."""

    url: str
    search_url: str
    collections_url: str
    posts: bool
    """Whether it announces search by POST."""

    conforms: frozenset[str]

    @classmethod
    def announced(cls, landing: Mapping[str, Any], url: str) -> Api | None:
        """The API whose landing page this is, None where the document is of none."""
        links = [link for link in links_of(landing) if link["rel"] == "search"]
        if not links:
            return None
        posting = [link for link in links if str(link.get("method", "")).upper() == "POST"]
        data = next((link["href"] for link in links_of(landing) if link["rel"] == "data"), None)
        page = url if url.endswith("/") else url + "/"
        return cls(
            url=url,
            search_url=_of_this_host(resolve_href((posting or links)[0]["href"], base=page), url),
            collections_url=resolve_href(data or "collections", base=page),
            posts=bool(posting),
            conforms=frozenset(str(name) for name in landing.get("conformsTo") or ()),
        )

    @property
    def filter_language(self) -> str | None:
        """The CQL2 it filters by, ``cql2-json`` or ``cql2-text``; None where it does not say that it does.

        A server that does not know ``filter`` ignores it, or answers with no items at all.
        """
        if not any(name.endswith("item-search#filter") for name in self.conforms):
            return None
        for language in ("cql2-json", "cql2-text"):
            if any(name.endswith(language) for name in self.conforms):
                return language
        return None

    @property
    def sorts(self) -> bool:
        """Whether it announces sorting."""
        return any(name.endswith("item-search#sort") for name in self.conforms)

    def items(self, fetch: Fetch, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The items that answer a request, each once.

        Raises:
            CatalogError: the pages do not end, repeat, lead elsewhere, or are not STAC.
        """
        if self.sorts:
            order = [{"field": name, "direction": "asc"} for name in ("properties.datetime", "id")]
            request = {**request, "sortby": order}
        yield from self._pages(fetch, {"limit": PAGE_ITEMS, **request})

    def first(self, fetch: Fetch, request: dict[str, Any]) -> dict[str, Any] | None:
        """Any item that answers a request, None where none does."""
        place, body = self._asked({**request, "limit": 1})
        return next(iter(features_of(fetch.json(place, body=body), place)), None)

    def knows(self, fetch: Fetch, collection: str) -> bool:
        """Whether it has a collection of this name."""
        try:
            fetch.read(f"{self.collections_url.rstrip('/')}/{_path_part(collection)}")
        except MissingError:
            return False
        return True

    def collections(self, fetch: Fetch) -> list[str]:
        """The names of its collections; of its first thousand pages of them."""
        names: list[str] = []
        seen: set[str] = set()
        place: str | None = self.collections_url
        while place and place not in seen and len(seen) < 1000:
            seen.add(place)
            page = fetch.json(place)
            names += [str(found.get("id")) for found in page.get("collections") or () if isinstance(found, dict)]
            following = _next_link(page)
            place = _of_this_host(resolve_href(following["href"], base=place), self.url) if following else None
        return sorted(set(names))

    def _asked(self, request: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        if self.posts:
            return self.search_url, request
        return f"{self.search_url}{'&' if '?' in self.search_url else '?'}{_query(request)}", None

    def _pages(self, fetch: Fetch, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        place, body = self._asked(request)
        yield from pages(fetch, place, body)


def pages(
    fetch: Fetch, place: str, body: dict[str, Any] | None = None, *, first_page: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The items of a page and of all that follow it, each once.

    Raises:
        CatalogError: the pages do not end, repeat, lead elsewhere, or are not STAC.
    """
    asked: set[str] = set()
    known: set[tuple[str, str]] = set()
    headers: dict[str, str] = {}
    repeated = idle = 0
    start = place
    for _ in range(MOST_PAGES):
        asked.add(_fingerprint(place, body))
        page = first_page or fetch.json(place, body=body, headers=headers)
        first_page = None
        new = 0
        for doc in features_of(page, place):
            key = (str(doc.get("collection")), doc["id"])
            if key in known:
                repeated += 1
                continue
            known.add(key)
            new += 1
            yield doc
        idle = 0 if new else idle + 1
        link = _next_link(page)
        if link is None:
            _check_count(page, len(known), repeated, start)
            return
        place, body, headers = _following(link, place, body, start)
        if _fingerprint(place, body) in asked:
            if not page.get("features"):
                return  # the last page is empty and names itself: some servers end so
            raise _endless("a page's next page was there before", start)
        if idle >= MOST_IDLE_PAGES:
            raise _endless(f"{idle} pages in a row bring nothing new", start)
    raise _endless(f"there are more than {MOST_PAGES} pages", start)


def features_of(page: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """The items of an ItemCollection; CatalogError where it is none."""
    features = page.get("features")
    if not isinstance(features, list):
        raise CatalogError("an answer has no features: it is no STAC ItemCollection", catalog=unsigned(place))
    for doc in features:
        if not isinstance(doc, dict) or not isinstance(doc.get("id"), str) or not doc["id"]:
            raise CatalogError("an answer has a feature with no id: it is no STAC item", catalog=unsigned(place))
    return features


def links_of(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The links of a document that are links."""
    links = doc.get("links")
    return [
        link
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and isinstance(link.get("href"), str) and isinstance(link.get("rel"), str)
    ]


def _next_link(page: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((link for link in links_of(page) if link["rel"] == "next"), None)


def _following(
    link: Mapping[str, Any], place: str, body: dict[str, Any] | None, start: str
) -> tuple[str, dict[str, Any] | None, dict[str, str]]:
    target = _of_this_host(resolve_href(link["href"], base=place), start)
    headers = link.get("headers")
    kept = {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}
    if str(link.get("method", "GET")).upper() != "POST":
        return target, None, kept
    addition = link.get("body")
    addition = addition if isinstance(addition, dict) else {}
    return target, {**(body or {}), **addition} if link.get("merge") else addition, kept


def _of_this_host(target: str, start: str) -> str:
    """The target, over the start's own scheme: behind proxies many an API believes that it speaks http."""
    ours, theirs = urlsplit(start), urlsplit(target)
    if theirs.scheme not in ("http", "https") or _host(theirs.netloc) != _host(ours.netloc):
        raise CatalogError(
            "the catalog's next page is on another host",
            fix="give that host's own address as imagery.catalog, if it is to be trusted",
            catalog=unsigned(start),
            next=unsigned(target)[:200],
        )
    try:
        check_href(target, catalog=start, resolve=False)
    except AssetError as error:
        raise CatalogError(f"the catalog's next page: {error.what}", catalog=unsigned(start)) from error
    return urlunsplit(theirs._replace(scheme=ours.scheme, netloc=ours.netloc))


def _host(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _check_count(page: Mapping[str, Any], found: int, repeated: int, start: str) -> None:
    matched = page.get("numberMatched")
    if repeated and isinstance(matched, int) and found < matched:
        raise CatalogError(
            f"the catalog's pages repeat {repeated} items and leave out {matched - found} of {matched}",
            fix="narrow the area or the dates until the answer is one page",
            catalog=unsigned(start),
        )


def _endless(why: str, start: str) -> CatalogError:
    return CatalogError(
        f"the catalog's pages do not end: {why}",
        fix=f"narrow the area or the dates until one page of {PAGE_ITEMS} items holds the answer",
        catalog=unsigned(start),
    )


def _fingerprint(place: str, body: dict[str, Any] | None) -> str:
    return f"{place} {json.dumps(body, sort_keys=True)}"


def _path_part(name: str) -> str:
    return urlencode({"": name})[1:].replace("+", "%20")


def _query(request: Mapping[str, Any]) -> str:
    """A search request as the query of a GET."""
    fields: dict[str, str] = {}
    for name, value in request.items():
        if name == "sortby":
            fields[name] = ",".join(f"+{order['field']}" for order in value)
        elif name in ("collections", "bbox"):
            fields[name] = ",".join(str(part) for part in value)
        else:
            fields[name] = value if isinstance(value, str) else json.dumps(value)
    return urlencode(fields)
