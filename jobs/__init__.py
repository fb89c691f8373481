"""What to map, when, and what happened: the only layer that decides and the only one that remembers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.job import Job

__all__ = ["Job"]


def __getattr__(name: str) -> object:
    if name == "Job":
        return import_module("jobs.job").Job
    raise AttributeError(f"module 'jobs' has no attribute {name!r}")
