"""A monitor's job that grows tick by tick, for tests: over the ground of ``scenes.py``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.growth import renewed
from jobs.ledger import RunFolder
from jobs.monitors.mapped import Key, MappedItems
from jobs.output import open_output
from jobs.prepare import Prepared, save
from jobs.renewal import runs_in_turn
from jobs.run import start
from jobs.summary import Summary
from tests.jobs.monitors.scenes import Ground, Scene
from tests.stories.world import merged

DUE = datetime(2024, 9, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
FRESH = itertools.count()

WEST = Scene(id="west", top=0, left=0, rows=130, columns=110, moment="2024-06-03T10:00:00Z")
EAST = Scene(id="east", top=40, left=90, rows=150, columns=100, moment="2024-06-03T10:00:20Z")
LATER = Scene(id="later", top=60, left=30, rows=60, columns=120, moment="2024-06-20T10:00:00Z")
EARLIER = Scene(id="earlier", top=10, left=60, rows=100, columns=60, moment="2024-05-02T10:00:00Z")
CORNER = Scene(id="corner", top=0, left=0, rows=20, columns=20, moment="2024-06-03T09:00:00Z")
AGAIN = replace(WEST, version=2)
BESIDE = Scene(id="beside", top=40, left=192, rows=60, columns=40, moment="2024-06-20T09:00:00Z")
"""It lies beyond the area and touches no tile, and windows of the eastern tiles see it."""


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


def by_key(scenes: Iterable[Scene]) -> dict[Key, Scene]:
    return {scene.key: scene for scene in scenes}


class Growing:
    """A monitor's job over the ground, tick by tick; a day lies between two."""

    def __init__(self, ground: Ground, mosaic: Path | str, first: Iterable[Scene], **changes: Any) -> None:
        self.ground, self.mosaic, self.changes = ground, mosaic, changes
        self.stood = by_key(first)
        self.job = ground.job(mosaic, self.stood.values(), **changes)
        self.ticks = 0

    def first(self) -> Summary:
        return start(self.job, local=True).wait(timeout_s=100)

    def plan(self, scenes: Iterable[Scene], *, due: datetime | None = None) -> Prepared | None:
        """The run of a tick that finds these scenes in the catalog."""
        now = by_key(scenes)
        mapped = MappedItems(str(self.mosaic))
        news = self.ground.news(mapped, now, self.stood)
        self.stood, self.ticks = now, self.ticks + 1
        return renewed(self.job, news, mapped, monitor="lakes", due=due or DUE + self.ticks * DAY)

    def tick(self, scenes: Iterable[Scene], *, due: datetime | None = None) -> Summary | None:
        prepared = self.plan(scenes, due=due)
        return None if prepared is None else start(prepared, local=True).wait(timeout_s=100)

    def in_one_go(self, folder: Path) -> Path:
        """A mosaic made of what stands now."""
        other = folder / "in-one-go"
        job = self.ground.job(other, self.stood.values(), **merged(self.changes, {}))
        start(job, local=True).wait(timeout_s=100)
        return other

    def last(self) -> RunFolder:
        return runs_in_turn(str(self.mosaic))[-1].folder


def put(prepared: Prepared) -> None:
    """Beside its mosaic, as if all of it had been mapped."""
    save(prepared)
    open_output(prepared)
    prepared.folder.save_facts({**prepared.folder.facts(), "state": "done"})
