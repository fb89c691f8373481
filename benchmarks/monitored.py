"""A monitored mosaic of a benchmark: its job, its ticks, and how much they mapped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from jobs.monitors.rows import TickEnd
from jobs.monitors.schedule import Due
from jobs.monitors.store import Monitors
from jobs.monitors.tick import Where, run_tick
from jobs.registry import Registry
from jobs.spec import canonical
from tests.pgstac import PgStac

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Kept:
    """A monitored mosaic, and its ticks."""

    job: Job
    store: Monitors
    ends: list[TickEnd] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def tick(self) -> TickEnd:
        """The next one, now."""
        at = BEGIN + timedelta(hours=len(self.ends) + 1)
        begun = time.monotonic()
        row = self.store.get("bench")
        end = run_tick(row, Due(at=at, first=at), lambda: False, store=self.store, where=Where(local=True))
        if end.watermark is not None or end.swept is not None:
            self.store.saw("bench", end.watermark, end.swept)
        self.seconds.append(time.monotonic() - begun)
        self.ends.append(end)
        print(f"tick {len(self.ends)}: {end.state}: {end.said}", file=sys.stderr, flush=True)
        return end


@contextmanager
def kept(job: dict[str, Any], scratch: Path) -> Iterator[Kept]:
    """A monitor of this job in a registry of its own."""
    registry = Registry(f"sqlite:///{scratch}/registry.db")
    asked = Job.from_dict(job, folder=scratch)
    store = Monitors(registry)
    store.add("bench", job=json.dumps(canonical(asked.spec)), mosaic=asked.spec.output.mosaic, now=BEGIN)
    try:
        yield Kept(job=asked, store=store)
    finally:
        registry.close()


def monitored(job: dict[str, Any], api: PgStac, name: str, scratch: Path) -> dict[str, Any]:
    """A job with a monitor section, on this catalog."""
    return {
        **job,
        "imagery": {"catalog": api.url, "collections": [name], **job["imagery"]},
        "output": {"mosaic": str(scratch / "map.zarr")},
        "monitor": {
            "schedule": "every 1h",
            "late": "20000d",
            "changes": {"hysteresis": 0.0, "min_area_m2": 1000.0},
            "alerts": [{"name": "any", "prompt": job["prompts"][0]["name"], "change": "vanished", "area_m2": 0.0}],
            "sinks": [{"name": "file", "file": str(scratch / "alerts.parquet")}],
        },
    }


def collection(name: str, bbox: list[float]) -> dict[str, Any]:
    """A STAC collection of this name, around this box."""
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": name,
        "license": "other",
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [["1984-01-01T00:00:00Z", None]]}},
        "links": [],
    }


def work_of(mosaic: str) -> dict[str, Any]:
    """Tiles mapped by all runs, against tiles of the finished map: each touched once is a ratio of 1."""
    mapped, places = 0, set()
    for name in run_names(mosaic):
        folder = RunFolder(mosaic, name)
        facts, where = folder.facts(), folder.places()
        for row in folder.finished().tolist():
            mapped += 1
            step = facts["steps"][where.step[row]]
            places.add((step, int(where.grid[row]), int(where.row[row]), int(where.column[row])))
    return {"tiles_mapped": mapped, "tiles_touched": len(places), "ratio": round(mapped / max(1, len(places)), 4)}
