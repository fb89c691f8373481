"""A mosaic that renewing runs have written, as it is published, previewed and watched."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path

import pystac
import pytest
from shapely.geometry import shape

from catalogs.snapshot import thaw
from jobs.dashboard.beside import beside
from jobs.dashboard.map_tiles import map_info, planned_map
from jobs.dashboard.run_book import RunBook
from jobs.dashboard.tile_detail import tile_detail
from jobs.mapped import known_of
from jobs.preview.shown import Shown
from jobs.stac.published import publish
from mapper.errors import MosaicError
from mapper.web.degrees import GridInDegrees
from tests.jobs.renewed import GRID, JULY, JUNE, MAY, ByHand, Run, by_hand, every, item

NOON = MAY.replace(day=3, hour=12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """June and July; then a corner of June with a later scene, May of two tiles, and July gone but for two tiles."""
    made = by_hand(tmp_path_factory.mktemp("renewed"))
    made.plan(every(JUNE, JULY), items=[item("a", JUNE), item("b", JULY)],
              shows={place: (int(place[0] == JULY),) for place in every(JUNE, JULY)}).finish()  # fmt: skip
    lost = [place for place in every(JULY) if place[1] < 2]
    made.plan(lost, items=[], renews=True, gone=[("scenes", "b")]).finish(seen=False)
    new = [(JUNE, 0, 0), (MAY, 0, 1), (MAY, 1, 1)]
    made.plan(new, items=[item("c", JUNE), item("d", NOON)], renews=True,
              shows={new[0]: (0,), new[1]: (1,), new[2]: (1,)}).finish()  # fmt: skip
    return made


def book(run: Run) -> RunBook:
    return RunBook("key", run.made.url, run.folder.run, None, clock=time.time)


def test_a_published_step_is_what_stands_there_oldest_first(made: ByHand) -> None:
    parts = known_of(made.mosaic).parts
    assert [made.mosaic.times[part.time] for part in parts] == [MAY, JUNE, JULY]
    may, june, july = parts
    assert may.shards == frozenset({(0, 1), (1, 1)})
    assert june.shards == frozenset((row, column) for _, row, column in every(JUNE))
    assert july.shards == frozenset((2, column) for column in range(GRID.tile_shape[1]))  # where it lost nothing
    assert (may.first, may.last) == (MAY, JUNE - timedelta(seconds=1))


def test_a_step_that_lost_all_its_imagery_is_published_no_more(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan(every(JUNE, JULY), items=[item("a", JUNE), item("b", JULY)]).finish()
    made.plan(every(JULY), items=[], renews=True, gone=[("scenes", "b")]).finish(seen=False)
    assert [made.mosaic.times[part.time] for part in known_of(made.mosaic).parts] == [JUNE]
    made.plan(every(JUNE), items=[], renews=True, gone=[("scenes", "a")]).finish(seen=False)
    with pytest.raises(MosaicError, match="no imagery stands"):
        publish(made.url, tmp_path / "stac")


def test_what_a_run_planned_and_did_not_finish_is_published_as_it_was(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan([(JUNE, 0, 0)], items=[item("a", JUNE)]).finish()
    made.plan([(JUNE, 0, 0), (JULY, 0, 0)], items=[], renews=True, state="interrupted")
    assert [made.mosaic.times[part.time] for part in known_of(made.mosaic).parts] == [JUNE]


def test_a_catalog_tells_of_every_run_and_item(made: ByHand, tmp_path: Path) -> None:
    said = publish(made.url, tmp_path / "stac")
    folder = tmp_path / "stac" / said.collection
    assert [document["id"] for document in thaw((folder / "items.parquet").read_bytes())] == ["a", "b", "c", "d"]
    turns = [json.loads((folder / f"{run.folder.run}.json").read_text()).get("renews", 0) for run in made.runs]
    assert turns == [0, 1, 2]
    catalog = pystac.Catalog.from_file(str(said.catalog))
    items = {item.id.rpartition("_")[2]: item for item in catalog.get_items(recursive=True)}
    assert sorted(items) == ["20240501T000000Z", "20240601T000000Z", "20240701T000000Z"]
    axis = items["20240501T000000Z"].properties["cube:dimensions"]["time"]
    assert axis["values"] == ["2024-06-01T00:00:00Z", "2024-07-01T00:00:00Z", "2024-05-01T00:00:00Z"]
    assert axis["extent"] == ["2024-05-01T00:00:00Z", "2024-07-01T00:00:00Z"]
    whole, part = (shape(items[name].geometry) for name in ("20240601T000000Z", "20240701T000000Z"))
    assert part.area == pytest.approx(whole.area / 3, rel=1e-3)  # one row of tiles of three; degrees are not square


def test_a_preview_lists_times_by_date_and_names_the_scene_of_each_run(made: ByHand) -> None:
    shown = Shown(made.url)
    assert [(step["number"], step["begins"][:7]) for step in shown.document()["times"]] == [
        (2, "2024-05"), (0, "2024-06"), (1, "2024-07"),
    ]  # fmt: skip
    assert shown.latest == 1
    assert shown.tilejson("x", prompt=0, step=2)["description"].endswith("2024-05-01")
    zone = GridInDegrees(GRID)
    for row, column, step, named in ((0, 0, 0, {"c", "d"}), (2, 2, 0, {"a", "b"}), (0, 1, 2, {"c", "d"})):
        west, south, east, north = zone.bounds_of(GRID.tile(row, column).core)
        found = shown.value((west + east) / 2, (south + north) / 2, step=step)
        assert found["source"]["item"] in named


def test_a_preview_forgets_what_a_new_run_has_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = by_hand(tmp_path)
    made.plan([(JUNE, 0, 0)], items=[item("a", JUNE)]).finish()
    shown = Shown(made.url)
    before = shown.tiles
    monkeypatch.setattr("jobs.preview.shown.NEW_AFTER_S", -1.0)
    assert shown.tiles is before
    made.plan([(JUNE, 0, 0)], items=[item("c", JUNE)], renews=True).finish()
    assert shown.tiles is not before
    west, south, east, north = GridInDegrees(GRID).bounds_of(GRID.tile(0, 0).core)
    assert shown.value((west + east) / 2, (south + north) / 2, step=0)["source"]["item"] == "c"


def test_the_page_of_a_renewing_run_counts_its_own_tiles(made: ByHand) -> None:
    for run, planned in zip(made.runs, (24, 8, 3), strict=True):
        page = book(run).page()
        assert (page.progress.planned, page.line.finished, page.progress.waiting) == (planned, planned, 0)
        assert page.line.given_up == 0


def test_a_run_that_only_took_note_has_a_page(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan([(JUNE, 0, 0)], items=[item("a", JUNE)]).finish()
    note = made.plan([], items=[item("beside", JUNE)], renews=True)
    note.end()
    page, view = book(note).page(), book(note).view()
    assert (page.progress.planned, page.progress.waiting, page.line.finished) == (0, 0, 0)
    assert map_info(view).steps == ("2024-06-01T00:00:00Z",)


def test_the_map_of_a_renewing_run_shows_the_steps_it_maps(made: ByHand) -> None:
    old, view = book(made.runs[0]).view(), book(made.runs[2]).view()
    assert map_info(old).steps == ("2024-06-01T00:00:00Z", "2024-07-01T00:00:00Z")
    assert map_info(view).steps == ("2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z")
    may, june = planned_map(view, 0), planned_map(view, 1)
    assert may is not None
    assert june is not None
    assert (len(may.tile), len(june.tile)) == (2, 1)
    assert planned_map(view, 2) is None


def test_the_report_of_a_renewing_run_names_the_dates_it_mapped(made: ByHand) -> None:
    told = [beside(made.url, run.folder.run).steps for run in made.runs]
    assert told == [("2024-06-01", "2024-07-01"), ("2024-07-01",), ("2024-05-01", "2024-06-01")]


def test_a_tile_is_told_of_with_the_items_of_its_own_run(made: ByHand) -> None:
    tile = tile_detail(book(made.runs[2]).view(), 1)
    assert (tile.step, tile.row, tile.column) == ("2024-05-01T00:00:00Z", 0, 1)
    assert [one["id"] for one in tile.items] == ["d"]
