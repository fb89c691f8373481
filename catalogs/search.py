"""Find the STAC items a job asks for, whatever kind of catalog holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from shapely.geometry.base import BaseGeometry

StacItem: TypeAlias = dict[str, Any]
"""The JSON of one STAC item, hrefs absolute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What imagery a job asks for."""

    catalog: str
    collections: tuple[str, ...]
    area: BaseGeometry
    datetime: str | None = None
    filter: str | None = None


def search(query: Query) -> list[StacItem]:
    """The items that answer, each once, ordered by (datetime, id)."""
    raise NotImplementedError
