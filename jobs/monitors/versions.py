"""Which items have been replaced by others, as the links of their versions say."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from catalogs.conditions import properties_of
from catalogs.fetch import links_of

StacItem: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]

_AT_AN_API = re.compile(r"/collections/([^/]+)/items/([^/]+)/?$")
_SPEAKS_OF = frozenset(("predecessor-version", "successor-version", "latest-version"))


def superseded(docs: Mapping[Key, StacItem], standing: Collection[Key], known: Collection[Key]) -> frozenset[Key]:
    """The items that others replace, directly or through others that are replaced too.

    Items that replace each other in a circle are none of these.

    Args:
        docs: items that may name what they replace (``predecessor-version``), by key.
        standing: those of them that are to be mapped unless another replaces them.
        known: all items that may be meant.
    """
    replaces = {key: [named for named in _predecessors(doc, key) if named in known] for key, doc in docs.items()}
    named = {key for names in replaces.values() for key in names}
    found: set[Key] = set()
    ahead = [key for key in standing if key not in named]
    while ahead:
        fresh = [key for key in replaces.get(ahead.pop(), ()) if key not in found]
        found.update(fresh)
        ahead += fresh
    return frozenset(found)


def speaks_of_versions(doc: StacItem) -> bool:
    """Whether an item says that there are others of it, or that it shall not be used."""
    return "deprecated" in properties_of(doc) or any(link["rel"] in _SPEAKS_OF for link in links_of(doc))


def _predecessors(doc: StacItem, key: Key) -> Iterator[Key]:
    for link in links_of(doc):
        if link["rel"] == "predecessor-version" and (named := _named(link["href"], key[0])) not in (None, key):
            assert named is not None
            yield named


def _named(href: str, collection: str) -> Key | None:
    """The item behind a link: at an API its address names it, and a document at rest is called as it is."""
    try:
        path = urlsplit(href).path
    except ValueError:
        return None
    if match := _AT_AN_API.search(path):
        return unquote(match[1]), unquote(match[2])
    name = unquote(path.rstrip("/").rpartition("/")[2])
    return (collection, name.removesuffix(".json").removesuffix(".geojson")) if name else None
