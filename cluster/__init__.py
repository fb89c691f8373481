"""Run tile tasks on GPUs. Knows no job and keeps no state on disk.

Names are loaded when they are first used: who asks a cluster something over HTTP need not load what maps a tile.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.pool import Finished, Outcome, Pool, WorkerFacts, outcomes
    from cluster.telemetry import Telemetry, WorkerSample

__all__ = ["Finished", "Outcome", "Pool", "Telemetry", "WorkerFacts", "WorkerSample", "outcomes"]


def __getattr__(name: str) -> object:
    if name in __all__:
        home = "cluster.telemetry" if name in ("Telemetry", "WorkerSample") else "cluster.pool"
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'cluster' has no attribute {name!r}")
