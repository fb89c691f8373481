"""A line for each change that somebody asked for, whatever became of it; on the logger ``resmap.audit``."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal

from mapper.errors import told

LOGGER = logging.getLogger("resmap.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks."""

    how: Literal["token", "user", "nobody"]
    """With the token · a process of the same user on this machine · neither: may look where looking is open."""

    origin: str
    """Address of the peer."""

    @property
    def by(self) -> str:
        """In words."""
        return {"token": "token", "user": f"user {os.getuid()}", "nobody": "nobody"}[self.how]


def tell(visitor: Visitor, act: str, key: str, outcome: str) -> None:
    """Say who did what to which run from where, and what became of it, on one line."""
    said = (told(text, 300).replace("\n", " ") or "-" for text in (visitor.by, visitor.origin, act, key, outcome))
    LOGGER.info("by=%s from=%s act=%s run=%s outcome=%s", *said)
