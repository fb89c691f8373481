"""A search frozen to a file, so that workers never ask the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def freeze(items: Sequence[dict[str, Any]]) -> bytes:
    """The items as one stac-geoparquet file; row n is item n."""
    raise NotImplementedError


def thaw(frozen: bytes) -> list[dict[str, Any]]:
    """The items of a frozen search, in its order."""
    raise NotImplementedError
