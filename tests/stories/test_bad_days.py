"""A monitor's bad days: catalogs that are away, dates to come, broken items. Nothing is lost, nothing is twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import mapper
from jobs.monitors.rows import TickEnd
from jobs.monitors.schedule import Due
from jobs.monitors.store import Monitors
from jobs.monitors.tick import Where, run_tick
from jobs.registry import Registry
from jobs.spec import canonical
from mapper.errors import SpecError
from mapper.mosaic import Mosaic
from tests.jobs.monitors.scenes import Ground, Scene
from tests.live_api import LiveApi, live_stac_api
from tests.servers import files_over_http
from tests.stories.world import merged

BEGIN = datetime(2024, 6, 10, 6, tzinfo=UTC)
FIRST = Scene(id="first", top=0, left=0, rows=130, columns=110, moment="2024-06-03T10:00:00Z")
SECOND = replace(FIRST, id="second", moment="2024-06-08T10:00:00Z")
TO_COME = replace(FIRST, id="to come", moment="2024-06-12T10:00:00Z")


class Watching:
    """A monitor over a STAC API, an hour from tick to tick."""

    def __init__(self, ground: Ground, files: str, api: LiveApi, store: Monitors, folder: Path) -> None:
        self.ground, self.files, self.api, self.store, self.now = ground, files, api, store, BEGIN
        self.mosaic = str(folder / "map.zarr")
        section = {"schedule": "every 1h", "late": "30d"}
        self.job = ground.job(self.mosaic, [], imagery={"catalog": api.url, "collections": ["scenes"]}, monitor=section)
        store.add("ground", job=json.dumps(canonical(self.job.spec)), mosaic=self.mosaic, now=BEGIN)

    def tick(self, *, after: timedelta = timedelta(hours=1)) -> TickEnd:
        self.now += after
        due, row = Due(at=self.now, first=self.now), self.store.get("ground")
        end = run_tick(row, due, lambda: False, store=self.store, where=Where(local=True), clock=lambda: self.now)
        self.store.saw("ground", end.watermark, end.swept)
        return end

    def post(self, scene: Scene) -> None:
        document = self.ground.document(scene)
        image = document["assets"]["image"]
        image["href"] = f"{self.files}/{Path(image['href']).name}"
        self.api.post(document)

    @property
    def days(self) -> list[str]:
        return [str(np.datetime_as_string(time, "D")) for time in mapper.open_mosaic(self.mosaic)["time"].values]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def watching(ground: Ground, tmp_path: Path) -> Iterator[Watching]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    with files_over_http(ground.folder) as files, live_stac_api(collections=["scenes"]) as api:
        watching = Watching(ground, files.url, api, Monitors(registry), tmp_path)
        watching.post(FIRST)
        began = watching.tick()
        assert began.state == "done", began.said
        yield watching
    registry.close()


def test_what_came_while_the_catalog_was_away_for_hours_is_mapped_when_it_is_back(watching: Watching) -> None:
    watching.api.down = True
    away = [watching.tick() for _ in range(2)]
    watching.post(SECOND)
    assert {end.state for end in away} == {"failed"}
    assert all(end.retryable and watching.api.url in end.said for end in away), away[0].said
    watching.api.down = False
    assert watching.tick().new_items == 1
    assert watching.tick().state == "nothing"
    assert watching.days == ["2024-06-03", "2024-06-08"]


def test_a_date_yet_to_come_waits_for_its_day(watching: Watching) -> None:
    watching.post(TO_COME)
    early = watching.tick()
    assert (early.state, early.set_aside) == ("nothing", 1)
    assert watching.tick(after=timedelta(days=3)).new_items == 1
    assert watching.days == ["2024-06-03", "2024-06-12"]


def test_a_broken_item_is_named_and_the_others_are_mapped(watching: Watching) -> None:
    watching.post(replace(SECOND, id="broken"))
    watching.api.items["scenes", "broken"]["assets"] = {}
    watching.post(SECOND)
    end = watching.tick()
    assert (end.state, end.new_items, end.set_aside) == ("done", 1, 1)
    assert json.loads(end.aside or "[]")[0][1] == "broken"
    watching.post(replace(SECOND, id="broken"))
    assert watching.tick().new_items == 1, "mended, it is taken into the step that is there"
    assert watching.days == ["2024-06-03", "2024-06-08"]


def test_a_filter_that_the_catalog_cannot_answer_fails_the_tick_and_moves_nothing(watching: Watching) -> None:
    before = watching.store.get("ground")
    row = replace(before, job=json.dumps(merged(json.loads(before.job), {"imagery": {"filter": "no_such = 1"}})))
    due = Due(at=watching.now, first=watching.now)
    end = run_tick(row, due, lambda: False, store=watching.store, where=Where(local=True), clock=lambda: watching.now)
    assert end.state == "failed"
    assert len(end.said) > 20
    assert (end.watermark, end.swept) == (None, None)


def test_one_step_is_made_once_however_often_and_by_whomever_it_is_found(watching: Watching) -> None:
    watching.post(SECOND)
    watching.tick()
    watching.post(SECOND)
    watching.post(replace(SECOND, id="beside", left=60))
    assert watching.tick().new_items == 1
    axis = [f"{time:%Y-%m-%d}" for time in Mosaic.open(watching.mosaic, writable=False).times]
    assert axis == ["2024-06-03", "2024-06-08"]


def test_a_second_monitor_of_one_mosaic_is_refused(watching: Watching) -> None:
    with pytest.raises(SpecError, match="already keeps this mosaic current"):
        watching.store.add("other", job=json.dumps(canonical(watching.job.spec)), mosaic=watching.mosaic + "/")
