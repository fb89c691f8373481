"""Items that cannot be used: no reason to give up the search for the others, where whoever searches says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from catalogs.conditions import date_of
from catalogs.footprints import footprint_of, plain_footprints
from mapper.errors import MapperError

Aside: TypeAlias = Callable[[dict[str, Any], MapperError], None]
"""Takes a document that cannot be used, and why; one without ``id`` where nobody can tell whose it is."""

_AT_ONCE = 4096
"""Documents of which the footprints are made together."""


def refuse(doc: dict[str, Any], error: MapperError, aside: Aside | None) -> None:
    """Hands a document over; raises the error where nobody takes it."""
    if aside is None:
        raise error
    aside(doc, error)


def usable(docs: Sequence[dict[str, Any]], aside: Aside) -> list[dict[str, Any]]:
    """The items that say when and where they are; the others are handed over."""
    kept = []
    for begin in range(0, len(docs), _AT_ONCE):
        some = docs[begin : begin + _AT_ONCE]
        for doc, plain in zip(some, plain_footprints(some), strict=True):
            try:
                date_of(doc)
                if plain is None:
                    footprint_of(doc)
            except MapperError as error:
                aside(doc, error)
            else:
                kept.append(doc)
    return kept
