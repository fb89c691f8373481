"""Registries for tests, in a file and in a real PostgreSQL; a monitor to put into them."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from jobs.monitors.schedule import Due
from jobs.monitors.store import MonitorRow, Monitors, TickEnd
from jobs.registry import Registry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOTHING = TickEnd(state="nothing", tiles=0)


@lru_cache(maxsize=1)
def new_registry() -> bytes:
    """The file of a registry with nothing in it: made once, for it takes half a second."""
    with tempfile.TemporaryDirectory(prefix="resmap-registry-") as folder:
        path = Path(folder, "registry.db")
        Registry(f"sqlite:///{path}").close()
        return path.read_bytes()


def job(schedule: str = "every 1h", overlapping: str = "queue") -> str:
    """A job, as far as a registry reads it."""
    return json.dumps({"monitor": {"schedule": schedule, "timezone": "Europe/Paris", "overlapping": overlapping}})


def added(store: Monitors, name: str = "lakes", schedule: str = "every 1h", overlapping: str = "queue") -> MonitorRow:
    """A monitor that was added at noon."""
    return store.add(name, job=job(schedule, overlapping), mosaic=f"/maps/{name}.zarr", now=NOON)


def due(hours: float) -> Due:
    """A tick so many hours after noon."""
    return Due(at=NOON + hours * HOUR, first=NOON + hours * HOUR)


def run_through(store: Monitors, hours: float, end: TickEnd = NOTHING, name: str = "lakes") -> None:
    """A tick from its claim to its end."""
    at = NOON + hours * HOUR
    claimed = store.claim(name, due(hours), f"h{hours}", now=at)
    assert claimed is not None
    store.finish(claimed.tick, end, now=at)
