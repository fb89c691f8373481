"""A monitor through time: four flights over prairie lakes are published one by one, one of them late.

published    nothing · 2009 · 2012 · 2020 · 2016 (late) · all of them once more · 2012 withdrawn
on the map   nothing · 2009 · 2012 · 2020 · 2016        · nothing               · 2012 unobserved
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

import mapper
from jobs.dashboard.monitor_book import read_changes
from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from jobs.monitors.alert import Alert
from jobs.monitors.rows import TickEnd
from jobs.monitors.schedule import Due
from jobs.monitors.store import Monitors
from jobs.monitors.tick import Where, run_tick
from jobs.registry import Registry
from jobs.run import start
from jobs.spec import canonical
from mapper.changes import changed_places, open_changes
from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED
from tests.servers import files_over_http
from tests.stories.lakes import RESOLUTION_M, around, lake_items, lake_job, water_in

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FLIGHTS = ("2009-08-18", "2012-07-31", "2016-08-16", "2020-08-31")
SMALLEST_M2 = 2_000.0
"""Eighty pixels."""

ALERT_M2 = 50_000.0


@dataclass
class Watched:
    """What came of it all."""

    folder: Path
    flights: Path
    items: list[dict[str, Any]]
    catalog: Path
    mosaic: str
    job: Job
    ends: list[TickEnd] = field(default_factory=list)
    tiles: list[dict[tuple[str, int, int, int], int]] = field(default_factory=list)
    """After each tick: how often each tile was mapped, by zone, step, row and column."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all alerts."""

    def publish(self, items: list[dict[str, Any]]) -> None:
        self.catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))

    def dates(self) -> list[str]:
        """Of the time axis, as it lies in the store."""
        times = xr.open_zarr(self.mosaic, group="0")["time"].values
        return [str(np.datetime_as_string(time, "D")) for time in times]


@pytest.fixture(scope="module")
def watched(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitored")
    flights = shared_data / "naip-nd-series"
    with ExitStack() as stack:
        files = stack.enter_context(files_over_http(flights))
        items = lake_items(flights, files.url)
        catalog = folder / "items.json"
        mosaic = str(folder / "lakes.zarr")
        section = {
            "schedule": "every 1h",
            "late": "9000d",
            "changes": {"hysteresis": 0.0, "min_area_m2": SMALLEST_M2},
            "sinks": [{"name": "file", "file": str(folder / "alerts.parquet")}],
            "alerts": [
                {"name": "drying", "prompt": "lake", "change": "vanished", "area_m2": ALERT_M2},
            ],
        }
        job = Job.from_dict(lake_job(str(catalog), mosaic, around(items), monitor=section), folder=folder)
        seen = Watched(folder, flights, items, catalog, mosaic, job)
        registry = Registry(f"sqlite:///{folder / 'registry.db'}")
        store = Monitors(registry)
        store.add("lakes", job=json.dumps(canonical(job.spec)), mosaic=mosaic, now=BEGIN)
        first, second, third, fourth = items
        for number, published in enumerate(
            [[], [first], [first, second], [first, second, fourth], items, items, [first, third, fourth]]
        ):
            seen.publish(published)
            at = BEGIN + timedelta(hours=number + 1)
            end = run_tick(
                store.get("lakes"), Due(at=at, first=at), lambda: False, store=store, where=Where(local=True)
            )
            if end.watermark or end.swept:
                store.saw("lakes", end.watermark, end.swept)
            seen.ends.append(end)
            seen.tiles.append(_mapped_tiles(mosaic))
        seen.bodies = [json.loads(row.body) for row in store.alerts("lakes")]
        yield seen
        registry.close()


def _mapped_tiles(mosaic: str) -> dict[tuple[str, int, int, int], int]:
    found: dict[tuple[str, int, int, int], int] = {}
    if not Path(mosaic).is_dir():
        return found
    for name in run_names(mosaic):
        folder = RunFolder(mosaic, name)
        facts, places = folder.facts(), folder.places()
        for row in folder.finished().tolist():
            key = (
                facts["steps"][places.step[row]][:10],
                int(places.grid[row]),
                int(places.row[row]),
                int(places.column[row]),
            )
            found[key] = found.get(key, 0) + 1
    return found


def test_each_flight_is_one_tick_and_what_is_published_again_is_none(watched: Watched) -> None:
    assert [end.state for end in watched.ends] == ["nothing", "done", "done", "done", "done", "nothing", "done"], [
        end.said for end in watched.ends
    ]


def test_what_nobody_can_know_is_called_unknown(watched: Watched) -> None:
    assert f"lake: unknown on {FLIGHTS[1]}, nothing can be compared" in watched.ends[-1].said
    assert all("unknown" not in end.said for end in watched.ends[:-1])
    lines, unread = read_changes(watched.mosaic)
    assert unread == ""
    assert [line.appeared_m2 is None for line in lines] == [f"{line.time:%Y-%m-%d}" == FLIGHTS[1] for line in lines]


def test_the_time_axis_grows_at_its_end_and_people_see_it_in_order(watched: Watched) -> None:
    late_last = [FLIGHTS[0], FLIGHTS[1], FLIGHTS[3], FLIGHTS[2]]
    assert watched.dates() == late_last
    opened = mapper.open_mosaic(watched.mosaic)
    assert [str(np.datetime_as_string(time, "D")) for time in opened["time"].values] == list(FLIGHTS)


def test_a_tick_maps_the_tiles_of_what_is_new_and_no_other_again(watched: Watched) -> None:
    before: dict[tuple[str, int, int, int], int] = {}
    for date, after in zip([None, *FLIGHTS[:2], FLIGHTS[3], FLIGHTS[2], None, FLIGHTS[1]], watched.tiles, strict=True):
        worked = {key: times - before.get(key, 0) for key, times in after.items() if times != before.get(key, 0)}
        assert {key[0] for key in worked} == ({date} if date else set())
        assert set(worked.values()) <= {1}
        before = after


def test_water_on_every_date_is_what_the_infrared_says(watched: Watched) -> None:
    for date in (FLIGHTS[0], FLIGHTS[2], FLIGHTS[3]):
        ds, truth, seen = _with_truth(watched, date)
        mask = ds["mask"].sel(prompt="lake", time=date).values.squeeze()
        both = (mask < UNOBSERVED) & seen
        assert both.sum() > 0.98 * seen.sum()
        ours, theirs = (mask == PRESENT)[both], truth[both]
        # Both warp by half a pixel at most, bilinear, and round each in their own way: a shore may differ by a pixel.
        assert abs(int(ours.sum()) - int(theirs.sum())) <= 0.01 * theirs.sum()
        assert (ours != theirs).sum() <= 0.02 * theirs.sum()


def test_what_was_withdrawn_is_unobserved_and_not_dry(watched: Watched) -> None:
    mask = mapper.open_mosaic(watched.mosaic)["mask"].sel(prompt="lake", time=FLIGHTS[1]).values
    assert set(np.unique(mask)) <= {UNOBSERVED, UNMAPPED}


def test_the_map_is_the_one_made_in_one_go(watched: Watched, tmp_path: Path) -> None:
    first, _, third, fourth = watched.items
    watched.publish([first, third, fourth])
    whole = lake_job(str(watched.catalog), tmp_path / "whole.zarr", around(watched.items))
    start(Job.from_dict(whole, folder=tmp_path), local=True).wait()
    ours, theirs = mapper.open_mosaic(watched.mosaic), mapper.open_mosaic(str(tmp_path / "whole.zarr"))
    for date in (FLIGHTS[0], FLIGHTS[2], FLIGHTS[3]):
        for layer in ("mask", "score"):
            one, other = (ds[layer].sel(time=date).values for ds in (ours, theirs))
            assert np.array_equal(one, other, equal_nan=layer == "score"), f"{layer} of {date}"


def test_changes_are_those_between_the_masks_where_both_saw_the_ground(watched: Watched) -> None:
    """Computed here over the whole picture at once, with scipy's own objects."""
    changes, masks = open_changes(watched.mosaic), mapper.open_mosaic(watched.mosaic)["mask"].sel(prompt="lake")
    state = np.full(masks.shape[-2:], UNOBSERVED, np.uint8)
    for date in (FLIGHTS[0], FLIGHTS[2], FLIGHTS[3]):
        mask = masks.sel(time=date).values.squeeze()
        seen, known = mask < UNOBSERVED, state < UNOBSERVED
        for kind, was, becomes in ((2, 0, PRESENT), (3, PRESENT, 0)):
            raw = seen & known & (state == was) & (mask == becomes)
            large = _large(raw)
            found = changes["change"].sel(prompt="lake", time=date).values.squeeze()
            assert np.array_equal(found == kind, large)
            state[large] = becomes
        state[seen & ~known] = mask[seen & ~known]


def test_changed_places_cover_the_pixels_that_changed(watched: Watched) -> None:
    changes = open_changes(watched.mosaic)["change"].sel(prompt="lake")
    for kind, value in (("appeared", 2), ("vanished", 3)):
        places = changed_places(watched.mosaic, kinds=[kind])
        pixels = int((changes.values == value).sum())
        assert pixels > 0
        assert int(places["pixels"].sum()) == pixels
        assert (places["area_m2"] >= SMALLEST_M2).all()
        # In UTM the scale is within 4e-4 of one here.
        assert places["area_m2"].sum() == pytest.approx(pixels * RESOLUTION_M**2, rel=2e-3)


def test_each_alert_is_of_a_change_over_its_threshold_or_takes_one_back(watched: Watched) -> None:
    """The flight that was withdrawn had shown less water than the one before it: nobody can say so any more."""
    told = {body["key"]: body for body in watched.bodies}
    assert sum(end.alerts or 0 for end in watched.ends) == len(told)
    over = {key for key, body in told.items() if body["area_m2"] > ALERT_M2}
    (taken_back,) = told.keys() - over
    assert told[taken_back]["revises"] in over
    assert told[taken_back]["time"].startswith(FLIGHTS[1])
    assert "unknown now" in Alert.model_validate(told[taken_back]).headline
    rows = gpd.read_parquet(watched.folder / "alerts.parquet")
    assert set(rows["alert"]) == over
    assert watched.ends[5].alerts == 0


def _with_truth(watched: Watched, date: str) -> tuple[xr.Dataset, NDArray[np.bool_], NDArray[np.bool_]]:
    ds = mapper.open_mosaic(watched.mosaic)
    path = next(watched.flights.glob(f"*{date.replace('-', '')}.tif"))
    x, y = ds["x"].values, ds["y"].values
    transform = Affine(RESOLUTION_M, 0, x[0] - RESOLUTION_M / 2, 0, -RESOLUTION_M, y[0] + RESOLUTION_M / 2)
    truth, seen = water_in(path, transform, (len(y), len(x)))
    return ds, truth, seen


def _large(raw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(raw, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.asarray(raw & (sizes[labels] * RESOLUTION_M**2 >= SMALLEST_M2))
