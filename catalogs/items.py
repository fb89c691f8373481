"""STAC JSON → Item: the one place where a stranger's document becomes our value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mapper.imagery import Item


def item_from_stac(doc: Mapping[str, Any], *, bands: Sequence[str], index: int = 0) -> Item:
    """The item, with the bands asked for, in their order."""
    raise NotImplementedError
