"""A mosaic that grows with its catalog is, after any history, the one made in one go; and nothing is mapped in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.growth import job_area, renewed, taken_up
from jobs.job import Job
from jobs.ledger import RunFolder
from jobs.monitors.mapped import Key, MappedItems
from jobs.monitors.news import News
from jobs.plan import Plan, lay_plan
from jobs.prepare import Prepared, items_of, prepare
from jobs.run import start
from jobs.verify import verify
from mapper.errors import EmptySearchError
from mapper.imagery import NO_SOURCE
from mapper.masks import UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from tests.jobs.monitors.growing import AGAIN, BESIDE, DAY, DUE, EARLIER, EAST, FRESH, LATER, WEST, Growing, by_key, put
from tests.jobs.monitors.growing import ground as ground
from tests.jobs.monitors.scenes import Ground, Scene, same, shown
from tests.stories.world import World, merged

WINDOW_PX = 96


# Which tiles --------------------------------------------------------------------------------------------------------


Shows = dict[tuple[str, str, int, int], tuple[tuple[str, str], ...]]
"""Moment, zone, row and column of a tile → the pictures it shows, in order."""


def in_full(ground: Ground, job: Job, scenes: Mapping[Key, Scene]) -> Shows:
    """What every tile shows where all these scenes are planned at once."""
    items = items_of(job.spec, [ground.document(scene) for scene in scenes.values()])
    try:
        return shows(lay_plan(job.spec, items, job_area(job), window_px=WINDOW_PX))
    except EmptySearchError:
        return {}


def shows(plan: Plan) -> Shows:
    return {
        (plan.steps[tile.step].isoformat(), plan.grids[tile.grid].name, tile.row, tile.column): tuple(
            (plan.items[item].id, plan.items[item].bands[0].asset.href) for item in tile.items
        )
        for tile in plan.tiles
    }


places = st.tuples(st.integers(-60, 190), st.integers(-60, 390), st.integers(20, 160), st.integers(20, 260))
"""Where a scene lies: also beyond the area, and so far beyond it that no window sees it."""

moments = st.sampled_from(
    [f"2024-0{month}-{day}T{hour}:00:00Z" for month in (5, 6) for day in (10, 24) for hour in (10, 11)]
)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[Key, Scene]]:
    """What the catalog holds, look by look: scenes come, are replaced, moved in place and time, and go."""
    catalog: dict[Key, Scene] = {}
    looks = []
    version = 0
    for _ in range(draw(st.integers(2, 4))):
        for name in draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)):
            key = ("scenes", name)
            if key in catalog and draw(st.booleans()):
                del catalog[key]
                continue
            version += 1
            top, left, rows, columns = draw(places)
            if key in catalog and draw(st.booleans()):
                top, left, rows, columns = (getattr(catalog[key], of) for of in ("top", "left", "rows", "columns"))
            catalog[key] = Scene(
                id=name, top=top, left=left, rows=rows, columns=columns, moment=draw(moments), version=version
            )
        looks.append(dict(catalog))
    return looks


steps = st.sampled_from(["scene", "day", "month"])
composites = st.sampled_from(["first", "latest", "median"])


@settings(max_examples=5)
@given(histories(), steps, composites, st.booleans())
def test_a_tick_plans_the_tiles_whose_pictures_changed_and_no_other(
    ground: Ground, looks: list[dict[Key, Scene]], step: str, composite: str, zones: bool
) -> None:
    check_history(ground, looks, step, composite, zones)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=40)
@given(histories(), steps, composites, st.booleans())
def test_so_it_is_in_many_histories(
    ground: Ground, looks: list[dict[Key, Scene]], step: str, composite: str, zones: bool
) -> None:
    check_history(ground, looks, step, composite, zones)


def check_history(ground: Ground, looks: list[dict[Key, Scene]], step: str, composite: str, zones: bool) -> None:
    """Each look's run holds the tiles that differ between two whole plans, with what the later one shows there."""
    start_with = {WEST.key: WEST}  # so that there is something to begin with
    mosaic = f"memory://growth-{next(FRESH)}"
    changes: dict[str, Any] = {"imagery": {"time_step": step, "composite": composite}}
    if zones:  # the meridian between them runs down column 300
        changes |= {"area": World.rectangle(-5, -5, 400, 190), "grid": {"crs": "utm"}}
    growing = Growing(ground, mosaic, start_with.values(), **changes)
    put(prepare(growing.job))
    before, sources = in_full(ground, growing.job, start_with), {0}
    for look in looks:
        now = start_with | look
        after = in_full(ground, growing.job, now)
        prepared = growing.plan(now.values())
        changed = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
        if prepared is None:
            assert not changed
            continue
        found = shows(prepared.plan)
        assert len(found) == len(prepared.plan.tiles)
        assert found == {place: after.get(place, ()) for place in changed}
        assert [item.index for item in prepared.plan.items] == list(range(len(prepared.plan.items)))
        own = set(range(prepared.plan.sources_from, prepared.plan.sources_from + len(prepared.plan.items)))
        assert not own & sources
        sources |= own
        times = Mosaic.open(str(growing.mosaic)).times
        assert prepared.plan.steps[: len(times)] == times
        assert len(set(prepared.plan.steps)) == len(prepared.plan.steps)
        put(prepared)
        again = taken_up(growing.job, DUE + growing.ticks * DAY)
        assert again is not None
        assert shows(again.plan) == found
        assert (again.renewal, again.plan.steps, again.plan.sources_from) == (
            prepared.renewal, prepared.plan.steps, prepared.plan.sources_from
        )  # fmt: skip
        before = after


# The whole of it -----------------------------------------------------------------------------------------------------

MOVED = replace(EAST, version=2, moment="2024-06-20T11:00:00Z", left=70)

HISTORY: tuple[tuple[Scene, ...], ...] = (
    (WEST, BESIDE),  # an item that no tile shows yet
    (WEST, BESIDE, EAST, EARLIER),  # in the step there is, and in an earlier one
    (AGAIN, BESIDE, LATER, MOVED),  # one replaced, one gone from its place and time, one deleted, one step more
)


@pytest.mark.parametrize(
    ("engine", "step", "composite"),
    [
        ("icechunk", "day", "first"),
        pytest.param("zarr", "month", "median", marks=pytest.mark.slow),
        pytest.param("zarr", "scene", "latest", marks=pytest.mark.slow),
        pytest.param("icechunk", "scene", "latest", marks=pytest.mark.slow),
    ],
)
def test_after_any_history_the_mosaic_is_the_one_made_in_one_go(
    ground: Ground, tmp_path: Path, engine: str, step: str, composite: str
) -> None:
    growing = Growing(
        ground, tmp_path / "map", [WEST], imagery={"time_step": step, "composite": composite},
        output={"engine": engine, "commit_shards": 5},
    )  # fmt: skip
    assert growing.first().state == "done"
    for number, catalog in enumerate(HISTORY, start=1):
        summary = growing.tick(catalog)
        assert summary is not None
        assert summary.state == "done"
        assert (summary.tiles["planned"] == 0) == (number == 1 and step != "month")
        assert each_once(growing.last())
    assert growing.tick(HISTORY[-1]) is None
    assert same(shown(growing.mosaic), shown(growing.in_one_go(tmp_path)))
    assert verify(str(growing.mosaic), full=True).bad == ()
    times = Mosaic.open(str(growing.mosaic), writable=False).times
    assert len(set(times)) == len(times)
    assert times != tuple(sorted(times))
    assert growing.first().worked_tiles == 0  # its job is finished, and says so


def each_once(folder: RunFolder) -> bool:
    """Whether a run has entered each of its tiles, and none twice."""
    return Counter(entry.tile for entry in folder.entries()) == Counter(range(len(folder.tiles())))


def test_an_item_that_no_tile_shows_yet_is_known_to_the_tick_that_brings_one_though_it_is_found_no_more(
    ground: Ground,
) -> None:
    growing = Growing(ground, f"memory://beside-{next(FRESH)}", [WEST])
    put(prepare(growing.job))

    def tick(number: int, news: News) -> Prepared | None:
        return renewed(growing.job, news, MappedItems(str(growing.mosaic)), monitor="m", due=DUE + number * DAY)

    beside = tick(1, News(new=(ground.document(BESIDE),)))
    assert beside is not None
    assert len(beside.plan.tiles) == 0
    put(beside)
    later = tick(2, News(new=(ground.document(LATER),)))
    assert later is not None
    whole = in_full(ground, growing.job, by_key([WEST, BESIDE, LATER]))
    assert shows(later.plan) == {place: seen for place, seen in whole.items() if place[0].startswith("2024-06-20")}
    assert any("beside" in dict(seen) for seen in shows(later.plan).values())
    assert [item.id for item in later.plan.items] == ["beside", "later"]
    put(later)
    gone = tick(3, News(gone=(BESIDE.key,)))
    assert gone is not None
    assert shows(gone.plan) == {
        place: tuple(one for one in seen if one[0] != "beside")
        for place, seen in shows(later.plan).items()
        if "beside" in dict(seen)
    }


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
def test_a_tile_that_has_lost_its_imagery_is_unobserved_and_no_level_shows_it_any_more(
    ground: Ground, tmp_path: Path, engine: str
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST, LATER], output={"engine": engine})
    growing.first()
    assert growing.tick([LATER]) is not None
    opened = Mosaic.open(str(growing.mosaic), writable=False)
    (grid,) = opened.grids
    first = opened.times.index(datetime(2024, 6, 3, tzinfo=UTC))
    for level in grid.pyramid():
        mask = opened.layer(level, "mask", level.box, time=first)
        assert set(np.unique(mask)) <= {UNOBSERVED, UNMAPPED}
        assert (mask == UNOBSERVED).any()
        assert (opened.layer(level, "source", level.box, time=first) == NO_SOURCE).all()
        assert (opened.layer(level, "mask", level.box, time=1 - first) < UNOBSERVED).any()
    assert {entry.state for entry in growing.last().last_entries()} == {"nodata"}


def test_all_sentences_of_a_mosaic_are_asked_of_what_is_new(ground: Ground, tmp_path: Path) -> None:
    green = {"name": "green", "expression": "what is green"}
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    both = Job.from_dict(merged(growing.job.spec.model_dump(mode="json", by_alias=True), {
        "prompts": [{"name": "warm", "expression": "what is red"}, green],
    }))  # fmt: skip
    start(both, local=True).wait(timeout_s=100)
    growing.tick([WEST, EAST])
    growing.changes = {"prompts": [{"name": "warm", "expression": "what is red"}, green]}
    assert same(shown(growing.mosaic), shown(growing.in_one_go(tmp_path)))


def test_later_items_on_another_lattice_are_mapped_on_the_mosaics_own(ground: Ground, tmp_path: Path) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST], grid={"crs": "native", "resolution_m": None})
    growing.first()
    grids = Mosaic.open(str(growing.mosaic), writable=False).grids
    assert growing.tick([WEST, replace(LATER, shift=0.4)]) is not None
    opened = Mosaic.open(str(growing.mosaic), writable=False)
    assert opened.grids == grids
    seen = opened.layer(grids[0], "mask", grids[0].box, time=1) < UNOBSERVED
    assert LATER.rows * (LATER.columns - 2) <= seen.sum() <= LATER.rows * (LATER.columns + 2)
    again = taken_up(growing.job, DUE + DAY)
    assert again is not None
    assert again.plan.grids == grids
