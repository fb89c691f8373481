"""What earlier runs of a growing mosaic left, and whose turn it is to map it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from jobs.budget import check_budget
from jobs.growth import renewed, run_of_tick, taken_up
from jobs.job import Job
from jobs.ledger import Entry, RunFolder
from jobs.monitors.mapped import MappedItems
from jobs.monitors.news import News
from jobs.output import open_output
from jobs.prepare import Prepared, prepare, save
from jobs.renewal import runs_in_turn
from jobs.run import Run, start
from jobs.summary import Summary
from jobs.verify import verify
from jobs.watch import Silent
from mapper.errors import MosaicError, SpecError
from mapper.imagery import NO_SOURCE
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic, TileLayers
from tests.jobs.monitors.growing import AGAIN, CORNER, DAY, DUE, EARLIER, EAST, FRESH, LATER, WEST, Growing, by_key, put
from tests.jobs.monitors.growing import ground as ground
from tests.jobs.monitors.scenes import Ground, same, shown
from tests.stories.world import World, merged

# What was left -------------------------------------------------------------------------------------------------------


def give_up(folder: RunFolder, rows: Iterable[int]) -> None:
    """Have a run's last word on some tiles be that they are given up."""
    ledger = folder.ledger()
    for row in rows:
        ledger.record(
            Entry(tile=row, state="quarantined", attempts=3, worker="w", at=DUE, cause="AssetError", error="bad")
        )
    ledger.flush()
    folder.save_facts({**folder.facts(), "state": "quarantined"})


def test_a_tile_that_was_given_up_is_tried_once_a_day_and_at_once_where_its_items_changed(
    ground: Ground, tmp_path: Path
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    growing.tick([WEST, EAST], due=DUE)
    last = growing.last()
    mapped = {(tile.row, tile.column): row for row, tile in enumerate(last.tiles())}
    soon = DUE + timedelta(hours=1)
    changed = placed(growing.plan([WEST, EAST, CORNER], due=soon))
    changes, stays = min(changed & mapped.keys()), max(mapped.keys() - changed)
    give_up(last, [mapped[changes], mapped[stays]])
    growing.stood = by_key([WEST, EAST])
    assert growing.plan([WEST, EAST], due=DUE + timedelta(hours=17)) is None
    assert placed(growing.plan([WEST, EAST], due=DUE + timedelta(hours=18))) == {changes, stays}
    assert placed(growing.plan([WEST, EAST, CORNER], due=soon)) == changed
    growing.stood = by_key([WEST, EAST])
    summary = growing.tick([WEST, EAST], due=DUE + DAY)
    assert summary is not None
    assert summary.tiles["planned"] == summary.tiles["done"] == 2
    assert growing.tick([WEST, EAST], due=DUE + 2 * DAY) is None


def placed(prepared: Prepared | None) -> set[tuple[int, int]]:
    """Row and column of the tiles of a plan."""
    assert prepared is not None
    return {(tile.row, tile.column) for tile in prepared.plan.tiles}


class Stopping(Silent):
    """Asks the run to stop as soon as a tile is over."""

    def __init__(self) -> None:
        self.run: Run | None = None

    def tile(self, outcome: Any, samples: Any) -> None:
        if self.run is not None:
            self.run.stop()


def stopped(prepared: Prepared) -> Summary:
    """The run, stopped in the middle."""
    watcher = Stopping()
    watcher.run = run = start(prepared, local=True, watcher=watcher)
    return run.wait(timeout_s=100)


def test_what_a_stopped_tick_left_the_next_one_maps_with_what_stands_then_and_builds_the_levels_above(
    ground: Ground, tmp_path: Path
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    prepared = growing.plan([WEST, EAST, LATER], due=DUE)
    assert prepared is not None
    summary = stopped(prepared)
    assert summary.state == "interrupted"
    done = summary.tiles["done"] + summary.tiles["nodata"]
    assert 0 < done < summary.tiles["planned"]
    after = growing.tick([WEST, EAST, replace(LATER, version=2)], due=DUE + timedelta(hours=1))
    assert after is not None
    assert after.state == "done"
    assert same(shown(growing.mosaic), shown(growing.in_one_go(tmp_path)))
    assert verify(str(growing.mosaic), full=True).bad == ()
    with pytest.raises(MosaicError, match="has renewed this mosaic since") as caught:
        start(prepared, local=True).wait(timeout_s=100)
    assert "next tick" in caught.value.fix
    assert growing.tick([WEST, EAST, replace(LATER, version=2)]) is None


def test_levels_that_a_stopped_tick_left_are_built_by_the_next_though_nothing_is_new(
    ground: Ground, tmp_path: Path
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    before = shown(growing.mosaic)
    growing.tick([AGAIN], due=DUE)
    after, last = shown(growing.mosaic), growing.last()
    unbuild(growing, last, before)
    assert not same(shown(growing.mosaic), after)
    summary = growing.tick([AGAIN], due=DUE + timedelta(hours=1))
    assert summary is not None
    assert (summary.state, summary.tiles["planned"]) == ("done", 0)
    assert same(shown(growing.mosaic), after)
    assert verify(str(growing.mosaic), full=True).bad == ()
    assert growing.tick([AGAIN]) is None


def unbuild(growing: Growing, folder: RunFolder, before: Mapping[tuple[str, str, str], Any]) -> None:
    """Leave the mosaic as a run does that is stopped when its tiles are mapped: coarser levels are as they were."""
    mosaic = Mosaic.open(str(growing.mosaic))
    for grid in mosaic.grids[0].pyramid()[1:]:
        for tile in grid.tiles():
            gap = np.full((1, *tile.core.shape), UNMAPPED, np.uint8)
            source = np.full(tile.core.shape, NO_SOURCE, np.uint32)
            mosaic.write(grid, tile, 0, TileLayers(mask=gap, score=gap, source=source, prompts=(0,)))
    for part in (Path(growing.mosaic) / ".resmap" / "runs" / folder.run / "levels").iterdir():
        part.unlink()
    folder.save_facts({**folder.facts(), "state": "interrupted", "levels_behind": True})


def test_what_costs_no_model_any_time_is_within_every_budget(ground: Ground) -> None:
    growing = Growing(ground, f"memory://budget-{next(FRESH)}", [WEST], compute={"budget_usd": 1e-9})
    put(prepare(growing.job))
    gone = growing.plan([])
    assert gone is not None
    assert gone.plan.tiles.holes.all()
    check_budget(gone, elsewhere=False, tell=pytest.fail)
    growing.stood = by_key([WEST])
    new = growing.plan([WEST, EAST])
    assert new is not None
    with pytest.raises(SpecError, match="budget"):
        check_budget(new, elsewhere=False, tell=pytest.fail)


# Whose turn it is ----------------------------------------------------------------------------------------------------


def test_a_job_adds_no_sentence_and_tries_nothing_again_in_a_mosaic_that_a_monitor_keeps(
    ground: Ground, tmp_path: Path
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    growing.tick([WEST, EAST])
    more = {"prompts": [{"name": "green", "expression": "what is green"}]}
    other = Job.from_dict(merged(growing.job.spec.model_dump(mode="json", by_alias=True), more))
    for act in (other.plan, lambda: start(growing.job, local=True, retry=True).wait(timeout_s=100)):
        with pytest.raises(MosaicError, match="'lakes' keeps this mosaic") as caught:
            act()
        assert "resmap monitor run lakes" in caught.value.fix
        assert "another output.mosaic" in caught.value.fix
    mapped = MappedItems(str(growing.mosaic))
    with pytest.raises(MosaicError, match="prompt 'green' is not in this mosaic"):
        renewed(other, News(), mapped, monitor="lakes", due=DUE)
    wider = Job.from_dict(
        merged(growing.job.spec.model_dump(mode="json", by_alias=True), {"windows": {"overlap_px": 8}})
    )
    with pytest.raises(MosaicError, match="another job"):
        renewed(wider, News(), mapped, monitor="lakes", due=DUE)


def test_of_two_ticks_planned_at_once_the_second_is_refused_and_no_step_comes_twice(
    ground: Ground, tmp_path: Path
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    one = growing.plan([WEST, LATER])
    growing.stood = by_key([WEST])
    other = growing.plan([WEST, LATER])
    assert one is not None
    assert other is not None
    assert start(one, local=True).wait(timeout_s=100).state == "done"
    with pytest.raises(MosaicError, match="has renewed this mosaic since"):
        start(other, local=True).wait(timeout_s=100)
    assert not other.folder.exists()
    assert len(Mosaic.open(str(growing.mosaic), writable=False).times) == 2
    assert start(one, local=True).wait(timeout_s=100).worked_tiles == 0


@pytest.mark.parametrize("grown", [False, True])
def test_a_tick_that_died_when_its_plan_was_saved_goes_on_with_it_and_grows_the_axis_once(
    ground: Ground, tmp_path: Path, grown: bool
) -> None:
    growing = Growing(ground, tmp_path / "map", [WEST])
    growing.first()
    prepared = growing.plan([WEST, EARLIER], due=DUE)
    assert prepared is not None
    save(prepared)
    if grown:
        open_output(prepared)
    again = taken_up(growing.job, DUE)
    assert again is not None
    assert start(again, local=True).wait(timeout_s=100).state == "done"
    assert Mosaic.open(str(growing.mosaic), writable=False).times == prepared.plan.steps
    assert same(shown(growing.mosaic), shown(growing.in_one_go(tmp_path)))


def test_a_monitor_needs_steps_of_time(ground: Ground, tmp_path: Path) -> None:
    job = ground.job(tmp_path / "map", [WEST], imagery={"time_step": "all"})
    with pytest.raises(SpecError, match="time_step: all"):
        renewed(job, News(), MappedItems(str(tmp_path / "map")), monitor="lakes", due=DUE)


def test_the_run_of_a_tick_is_named_after_the_job_the_tick_and_what_the_map_depends_on(
    ground: Ground, tmp_path: Path
) -> None:
    outline = tmp_path / "area.geojson"
    area = shapely.from_wkt(World.rectangle(-5, -5, 190, 190)["wkt"])
    outline.write_text(shapely.to_geojson(area))
    growing = Growing(ground, tmp_path / "map", [WEST], area={"geojson": str(outline)})
    growing.first()
    due = datetime(2026, 11, 22, 7, tzinfo=timezone(timedelta(hours=1)))
    digest = runs_in_turn(str(growing.mosaic))[0].folder.run.rpartition("-")[2]
    assert run_of_tick(growing.job, due) == f"ground-20261122T060000Z-{digest}"
    outline.unlink()  # the mosaic knows its area
    assert run_of_tick(growing.job, due) == f"ground-20261122T060000Z-{digest}"
    assert taken_up(growing.job, due) is None
