"""Catalogs at rest: STAC JSON that links to more of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from catalogs.aside import Aside, refuse
from catalogs.fetch import Fetch, links_of, parse_json
from catalogs.hrefs import check_link, is_remote, resolve_href, unsigned
from mapper.errors import CatalogError, MapperError, MissingError, SpecError

MOST_DOCUMENTS = 500_000
MOST_LEVELS = 30
_READERS = 8
_SCALARS = frozenset((str, int, float, bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a catalog at rest holds."""

    items: list[dict[str, Any]] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """The names of its collections, also of those that were not looked into."""

    aside: Aside | None = None
    """Takes what is no item; None: that is an error."""

    def take(self, doc: dict[str, Any], place: str, *, from_self: bool) -> None:
        """Add an item, hrefs absolute; arguments as of ``absolute``."""
        if not isinstance(doc.get("id"), str):
            refuse({}, CatalogError("a STAC item has no id", catalog=unsigned(place)), self.aside)
            return
        if doc.get("collection"):
            self.collections.add(str(doc["collection"]))
        try:
            self.items.append(absolute(doc, place, from_self=from_self))
        except CatalogError as error:
            refuse(doc, error, self.aside)


def walk(
    doc: dict[str, Any], place: str, *, wanted: Iterable[str], fetch: Fetch, aside: Aside | None = None
) -> Holding:
    """The items under a catalog, collection, item collection or item, hrefs absolute.

    Collections that are not wanted are not looked into (none wanted: all are).

    Args:
        doc: the document to begin with.
        place: where it was read.
        wanted: collections.
        fetch: how patiently.
        aside: takes items that are none, and links that lead nowhere or to what is not STAC; None: they are errors.

    Raises:
        CatalogError: a link leads nowhere, or to what is not STAC; the catalog is down.
    """
    only = frozenset(wanted)
    holding = Holding(aside=aside)
    seen = {place}
    level = [(doc, place, "")]
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in range(MOST_LEVELS):
            links: list[tuple[str, str]] = []
            for found, at, parent in level:
                for target, collection in _looked_at(found, at, parent, only, holding, fetch):
                    if target not in seen:
                        seen.add(target)
                        links.append((target, collection))
            if len(seen) > MOST_DOCUMENTS:
                raise CatalogError(
                    f"the catalog has more than {MOST_DOCUMENTS} documents",
                    fix="name one of its collections by its own address, or use its API",
                    catalog=unsigned(place),
                )
            if not links:
                return holding
            level = []
            docs = pool.map(lambda link: _read(link[0], place, fetch), links)
            for read, (target, parent) in zip(docs, links, strict=True):
                if isinstance(read, MapperError):
                    refuse({}, read, aside)
                else:
                    level.append((read, target, parent))
    raise CatalogError(f"the catalog is more than {MOST_LEVELS} levels deep", catalog=unsigned(place))


def parse_lines(content: bytes, place: str, *, aside: Aside | None = None) -> list[dict[str, Any]] | None:
    """The documents of a file with one to a line, None where it is no such file.

    Args:
        content: the file.
        place: where it was read.
        aside: takes lines that are no document; None: such a line is an error.
    """
    lines = content.splitlines()
    if len(lines) < 2 or not lines[0].rstrip().endswith(b"}"):
        return None
    try:
        json.loads(lines[0])
    except ValueError:
        return None
    docs = []
    for line in filter(bytes.strip, lines):
        try:
            docs.append(parse_json(line, place))
        except CatalogError as error:
            refuse({}, error, aside)
    return docs


def absolute(doc: dict[str, Any], place: str, *, from_self: bool = False) -> dict[str, Any]:
    """The item with absolute asset hrefs, and without assets that have none and links that are none.

    Args:
        doc: an item.
        place: where it was read.
        from_self: its assets are written as seen from its self link, where it has one: it was read from
            among others.
    """
    base, links = place, links_of(doc)
    if from_self:
        own = next((link["href"] for link in links if link["rel"] == "self"), "")
        if own and (is_remote(own) or not is_remote(place)):
            base = resolve_href(own, base=place)
    assets = doc.get("assets")
    if not isinstance(assets, dict):
        raise CatalogError("an item has no assets", item=str(doc.get("id"))[:200], catalog=unsigned(place))
    kept = {
        key: {**asset, "href": resolve_href(asset["href"], base=base)}
        for key, asset in assets.items()
        if isinstance(asset, dict) and isinstance(asset.get("href"), str)
    }
    return {**doc, "assets": kept, "links": links}


def without_nulls(node: Any) -> Any:
    """JSON without the nulls that a table puts where a row has no such field.

    An item's own null ``datetime`` goes with them: it says no more than its absence.
    """
    if isinstance(node, dict):
        held = ((key, value) for key, value in node.items() if value is not None)
        return {key: value if type(value) in _SCALARS else without_nulls(value) for key, value in held}
    if isinstance(node, list | tuple):
        return [value if type(value) in _SCALARS else without_nulls(value) for value in node]
    return node


def _looked_at(
    doc: dict[str, Any], place: str, parent: str, only: frozenset[str], holding: Holding, fetch: Fetch
) -> Iterable[tuple[str, str]]:
    """Takes the items a document holds; gives the links to follow, each with the collection it is under."""
    kind = doc.get("type")
    if kind == "Feature":
        _take(doc, place, parent, holding, from_self=False)
        return
    if kind == "FeatureCollection":
        from catalogs.api import pages  # not above: pystac-client takes 90 ms to import, and few catalogs need it

        for found in pages(fetch, place, doc, aside=holding.aside):
            _take(found, place, parent, holding, from_self=True)
        return
    if kind not in ("Catalog", "Collection"):
        nonsense = CatalogError(
            f"a document of type {str(kind)[:40]!r} is not STAC",
            fix="STAC has Catalog, Collection, Feature and FeatureCollection",
            catalog=unsigned(place),
        )
        refuse({}, nonsense, holding.aside)
        return
    name = str(doc.get("id")) if kind == "Collection" else parent
    if kind == "Collection":
        holding.collections.add(name)
    followed = ("child", "item") if not only or name in only or kind == "Catalog" else ("child",)
    for link in links_of(doc):
        if link["rel"] in followed:
            try:
                yield resolve_href(link["href"], base=place), name
            except CatalogError as error:
                refuse({}, error, holding.aside)


def _take(doc: dict[str, Any], place: str, parent: str, holding: Holding, *, from_self: bool) -> None:
    if not doc.get("collection") and parent:
        doc = {**doc, "collection": parent}
    holding.take(doc, place, from_self=from_self)


def _read(target: str, root: str, fetch: Fetch) -> dict[str, Any] | MapperError:
    """The document a link leads to, or what is wrong with it; raises where it cannot be told today."""
    try:
        address = check_link(target, base=root, catalog=root)
    except CatalogError as error:
        return error
    try:
        content = fetch.read(address)
    except MissingError as error:
        return error
    except SpecError as error:
        return CatalogError(
            f"a link of the catalog leads nowhere: {error.what}",
            fix="mend the catalog, or name a part of it that is whole",
            catalog=unsigned(root),
            link=unsigned(target)[:300],
        )
    try:
        return parse_json(content, address)
    except CatalogError as error:
        return error
