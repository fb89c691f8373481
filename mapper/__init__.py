"""One tile: pixels in, mask out. Works in a notebook with no Ray, no STAC and no database.

Names are loaded when they are first used, so ``import mapper`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mapper import models, questions, tasks
    from mapper.opened import open_mosaic
    from mapper.picture import segment

__all__ = ["models", "open_mosaic", "questions", "segment", "tasks"]

_HOME = {"open_mosaic": "mapper.opened", "segment": "mapper.picture"}


def __getattr__(name: str) -> object:
    if name in ("models", "questions", "tasks"):
        return import_module(f"mapper.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mapper' has no attribute {name!r}")
