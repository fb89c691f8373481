"""What a monitor's tests stand on: a job, and a mosaic that maps whatever it is told."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from shapely.geometry import box

from catalogs.conditions import date_of
from catalogs.fetch import Fetch
from jobs.job import Job
from jobs.monitors.look import Looked, look
from jobs.monitors.mapped import MappedItem, MappedItems
from jobs.monitors.news import News
from tests.catalogs.examples import stac_item

NOW = datetime(2024, 6, 10, 12, tzinfo=UTC)
HERE = box(10.2, 50.2, 10.8, 50.8)
QUICK = Fetch(attempts=1)
DAY = timedelta(days=1)
Key = tuple[str, str]


def job(catalog: str, *, late: str = "30d", composite: str = "first", **imagery: Any) -> Job:
    """A monitor's job over fields at 10 east and 50 north."""
    wanted = {"catalog": catalog, "collections": ["fields"], "bands": ["image:1", "image:2", "image:3"]}
    document = {
        "name": "fields",
        "area": {"bbox": list(HERE.bounds)},
        "imagery": {**wanted, "time_step": "day", "composite": composite, **imagery},
        "grid": {"crs": "EPSG:32632", "resolution_m": 10},
        "prompts": [{"name": "water", "expression": "the water"}],
        "output": {"mosaic": "/nowhere/fields.zarr"},
        "monitor": {"schedule": "every 15m", "late": late},
    }
    return Job.from_dict(document)


def scene(name: str = "scene", *, date: datetime = NOW - DAY, updated: datetime | None = None, **changes: Any) -> Any:
    """A small item of a date, stamped or not."""
    said = {"datetime": zulu(date)} | ({"updated": zulu(updated)} if updated else {})
    doc = stac_item(name, **{**changes, "properties": {**said, **changes.get("properties", {})}})
    if "assets" not in changes:
        doc["assets"]["image"]["href"] = "http://127.0.0.1:9/scene.tif"
    return doc


def zulu(moment: datetime) -> str:
    """As STAC writes it."""
    return moment.isoformat().replace("+00:00", "Z")


@dataclass(slots=True, kw_only=True)
class Ground:
    """A mosaic in which all news are mapped at once, and its monitor."""

    catalog: str
    late: str = "30d"
    imagery: dict[str, Any] = field(default_factory=dict)
    held: dict[Key, Any] = field(default_factory=dict)
    """What stands, as it was frozen."""

    ever_gone: set[Key] = field(default_factory=set)
    watermark: datetime | None = None
    swept: datetime | None = None

    def look(self, now: datetime = NOW) -> Looked:
        """Look, and map nothing."""
        mapped = cast("MappedItems", self)
        asked = job(self.catalog, late=self.late, **self.imagery)
        known = {"watermark": self.watermark, "swept": self.swept}
        return look(asked, HERE, mapped, **known, now=now, window_px=256, fetch=QUICK)

    def tick(self, now: datetime = NOW) -> Looked:
        """Look, and map what is new."""
        looked = self.look(now)
        self.take(looked.news)
        self.watermark, self.swept = looked.watermark, looked.swept
        return looked

    def take(self, news: News) -> None:
        """Map news: nothing twice, and nothing goes that is not there."""
        for key in news.gone:
            del self.held[key]
            self.ever_gone.add(key)
        for doc in (*news.new, *news.changed):
            key = (doc["collection"], doc["id"])
            assert (key in self.held) == any(doc is other for other in news.changed)
            self.held[key] = json.loads(json.dumps(doc))

    @property
    def standing(self) -> dict[Key, MappedItem]:
        """As ``MappedItems``."""
        return {
            key: MappedItem(run="first", row=0, source=0, collection=key[0], id=key[1], datetime=date_of(doc))
            for key, doc in self.held.items()
        }

    @property
    def runs(self) -> tuple[Any, ...]:
        """As ``MappedItems``."""
        return (SimpleNamespace(renewal=SimpleNamespace(gone=tuple(self.ever_gone))),)

    def documents(self, keys: Collection[Key]) -> dict[Key, Any]:
        """As ``MappedItems``."""
        return {key: self.held[key] for key in keys if key in self.held}


def names(docs: Iterable[Any]) -> list[str]:
    """Of items or keys."""
    return [doc["id"] if isinstance(doc, dict) else doc[1] for doc in docs]


def told(looked: Looked) -> tuple[list[str], list[str], list[str]]:
    """What is new, changed and gone, by name."""
    return names(looked.news.new), names(looked.news.changed), names(looked.news.gone)
