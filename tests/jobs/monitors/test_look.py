"""Looking at catalogs that change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from catalogs.snapshot import freeze
from jobs.monitors import look as looking
from jobs.monitors.mapped import MappedItems
from jobs.spec import GridSpec
from mapper.errors import CatalogError, EmptySearchError, SpecError
from mapper.grid import Grid, Lattice
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from tests.catalogs.examples import stac_collection
from tests.jobs.monitors.ground import DAY, HERE, NOW, QUICK, Ground, job, names, scene, told, zulu
from tests.live_api import LiveApi, live_stac_api

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def live() -> Any:
    with live_stac_api() as served:
        yield served


@pytest.fixture
def long_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what stands were too long to be listed at every look."""
    monkeypatch.setattr(looking, "SHORT", 0)


def asked_by_filter(served: LiveApi) -> list[str]:
    return [json.dumps(body["filter"]) for body in served.searches if "filter" in body]


def test_an_item_is_new_once_and_then_stands(live: LiveApi) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW - HOUR))
    assert told(ground.tick()) == (["a"], [], [])
    later = ground.tick(NOW + HOUR)
    assert (told(later), later.news.unchanged) == (([], [], []), 1)


def test_posting_the_same_again_is_no_news(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW - HOUR))
    ground.tick()
    again = scene("a", updated=NOW + HOUR)
    again["assets"]["thumbnail"] = {"href": "https://example.com/a.png", "roles": ["thumbnail"]}
    live.put(again)
    assert ground.tick(NOW + 2 * HOUR).news.empty


def test_a_scene_of_last_month_posted_today_is_found_by_when_it_was_posted(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("today", updated=NOW))
    ground.tick()
    live.post(scene("last month", date=NOW - 25 * DAY, updated=NOW + MINUTE))
    looked = ground.tick(NOW + HOUR)
    assert (told(looked)[0], looked.whole) == (["last month"], False)
    (filtered,) = asked_by_filter(live)
    assert '{"property": "updated"}' in filtered
    assert zulu(NOW - HOUR) in filtered


def test_what_was_stamped_within_the_overlap_is_asked_for_again(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("slow", date=NOW - 5 * DAY, updated=NOW - 50 * MINUTE))
    live.post(scene("slower", date=NOW - 5 * DAY, updated=NOW - 70 * MINUTE))
    assert told(ground.tick(NOW + MINUTE))[0] == ["slow"]
    assert told(ground.tick(NOW + DAY))[0] == ["slower"]


def test_what_carries_no_stamp_is_found_when_it_was_acquired_lately(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("bare", date=NOW + HOUR))
    looked = ground.tick(NOW + 2 * HOUR)
    assert (told(looked)[0], looked.whole) == (["bare"], False)


def test_where_no_item_carries_a_stamp_all_is_listed_at_every_look(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a"))
    assert ground.tick().watermark is None
    assert ground.tick(NOW + MINUTE).whole


def test_what_is_missing_from_a_short_answer_is_not_gone(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    for name in ("a", "b"):
        live.post(scene(name, updated=NOW))
    ground.tick()
    live.delete("a", collection="fields")
    looked = ground.tick(NOW + HOUR)
    assert (told(looked), looked.whole) == (([], [], []), False)
    looked = ground.tick(NOW + DAY)
    assert (told(looked), looked.whole) == (([], [], ["a"]), True)


def test_all_is_listed_once_a_day_and_where_the_list_is_short(live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    assert ground.tick(NOW + MINUTE).whole
    monkeypatch.setattr(looking, "SHORT", 0)
    assert [ground.tick(NOW + n * 8 * HOUR).whole for n in range(1, 8)] == [
        False,
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_a_watermark_does_not_follow_stamps_of_the_future(live: LiveApi) -> None:
    live.post(scene("a", updated=NOW - 3 * HOUR))
    assert Ground(catalog=live.url).look().watermark == NOW - 3 * HOUR
    live.post(scene("b", updated=NOW + 2 * HOUR))
    assert Ground(catalog=live.url).look().watermark == NOW
    live.delete("b", collection="fields")
    live.post(scene("c", updated=datetime(2999, 1, 1, tzinfo=UTC)))
    assert Ground(catalog=live.url).look().watermark == NOW - 3 * HOUR


@pytest.mark.parametrize("filtering", ["text", "timestamps"])
def test_servers_that_compare_stamps_in_either_way_are_asked_in_theirs(long_lists: None, filtering: Any) -> None:
    with live_stac_api([scene("a", updated=NOW)], filtering=filtering) as served:
        ground = Ground(catalog=served.url)
        ground.tick()
        served.post(scene("b", date=NOW - 9 * DAY, updated=NOW + MINUTE))
        looked = ground.tick(NOW + HOUR)
        assert (told(looked)[0], looked.whole) == (["b"], False)


def test_a_server_that_does_not_filter_is_listed_and_never_sent_a_filter() -> None:
    with live_stac_api([scene("a", updated=NOW)], filtering="none") as served:
        ground = Ground(catalog=served.url)
        ground.tick()
        served.post(scene("b", date=NOW - 9 * DAY, updated=NOW + MINUTE))
        assert told(ground.tick(NOW + HOUR))[0] == ["b"]
        assert asked_by_filter(served) == []


def test_an_answer_without_the_item_that_set_the_watermark_is_not_believed(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("a"))
    live.post(scene("b", date=NOW - 9 * DAY))
    looked = ground.tick(NOW + MINUTE)
    assert (told(looked)[0], looked.whole) == (["b"], True)


def test_the_filter_of_the_job_holds_for_what_is_new(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url, imagery={"filter": '"eo:cloud_cover" < 20'})
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("clear", date=NOW - 9 * DAY, updated=NOW + MINUTE))
    live.post(scene("cloudy", date=NOW - 9 * DAY, updated=NOW + MINUTE, properties={"eo:cloud_cover": 90}))
    looked = ground.tick(NOW + HOUR)
    assert (told(looked)[0], looked.whole) == (["clear"], False)


def test_a_catalog_that_is_down_moves_nothing(live: LiveApi) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("b", updated=NOW + MINUTE))
    live.down = True
    with pytest.raises(CatalogError, match="503") as caught:
        ground.tick(NOW + HOUR)
    assert caught.value.retryable
    assert (ground.watermark, ground.swept) == (NOW, NOW)
    live.down = False
    assert told(ground.tick(NOW + 40 * DAY))[0] == ["b"]


def test_an_answer_that_breaks_off_says_of_nothing_that_it_is_gone(live: LiveApi) -> None:
    live.page_items = 2
    ground = Ground(catalog=live.url)
    for n in range(5):
        live.post(scene(f"s{n}", date=NOW - n * DAY))
    ground.tick()

    def breaks(page: int) -> None:
        if page == 1:
            live.down = True
            raise TypeError("the server is gone")

    live.before_page = breaks
    with pytest.raises((CatalogError, SpecError)):
        ground.tick(NOW + HOUR)
    assert len(ground.held) == 5


def test_pages_that_shift_under_a_deletion_lose_nothing(live: LiveApi) -> None:
    live.page_items = 2
    ground = Ground(catalog=live.url)
    for n in range(6):
        live.post(scene(f"s{n}", date=NOW - (9 - n) * DAY))
    ground.tick()

    def shifts(page: int) -> None:
        if page == 1 and ("fields", "s0") in live.items:
            live.delete("s0", collection="fields")

    live.before_page = shifts
    looked = ground.tick(NOW + HOUR)
    assert told(looked) == ([], [], [])
    assert told(ground.tick(NOW + 2 * HOUR)) == ([], [], ["s0"])


def test_two_versions_in_one_answer_count_as_the_later(live: LiveApi) -> None:
    live.page_items = 1
    for n, name in enumerate(("a", "b", "c")):
        live.post(scene(name, date=NOW - (5 - n) * DAY, updated=NOW))

    def changes(page: int) -> None:
        if page == 1:  # the first page has brought "a", and the last one will bring it again
            live.post(scene("before all others", date=NOW - 9 * DAY, updated=NOW))
            live.post(scene("a", date=NOW - HOUR, updated=NOW + MINUTE))

    live.before_page = changes
    new = Ground(catalog=live.url).look(NOW + HOUR).news.new
    assert [(doc["id"], doc["properties"]["updated"]) for doc in new][-1] == ("a", zulu(NOW + MINUTE))
    assert names(new) == ["b", "c", "a"]


def test_no_item_is_late_because_nobody_looked(live: LiveApi) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.post(scene("posted while away", date=NOW - DAY, updated=NOW + MINUTE))
    live.post(scene("too old before", date=NOW - 31 * DAY, updated=NOW + MINUTE))
    looked = ground.tick(NOW + 50 * DAY)
    assert told(looked)[0] == ["posted while away"]
    assert [(aside.id, aside.kind) for aside in looked.news.set_aside] == [("too old before", "late")]


def test_the_future_is_mapped_when_its_time_has_come(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    live.post(scene("ahead", date=NOW + 5 * HOUR, updated=NOW))
    assert [(aside.id, aside.kind) for aside in ground.tick().news.set_aside] == [("ahead", "future")]
    live.post(scene("b", updated=NOW + 3 * HOUR))
    assert told(ground.tick(NOW + 3 * HOUR))[0] == ["b"]
    assert told(ground.tick(NOW + 6 * HOUR))[0] == ["ahead"]


BROKEN = [
    scene("no date", properties={"datetime": None}),
    scene("no place", geometry=None, bbox=None),
    scene("odd place", geometry={"type": "Polygon", "coordinates": "round"}),
    {key: value for key, value in scene("no assets").items() if key != "assets"},
    scene("no bands", assets={"other": {"href": "https://example.com/x.tif"}}),
    scene("refused", assets={"image": {"href": "file:///etc/passwd", "bands": [{}, {}, {}]}}),
    scene("line\nbreak"),
    scene("x" * 5000),
    scene("deep", properties={"note": json.loads("[" * 200 + "]" * 200)}),
    scene("fat", properties={"note": "x" * 10_000_000}),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda doc: str(doc["id"])[:12])
def test_one_broken_item_is_told_and_hinders_no_other(live: LiveApi, broken: dict[str, Any]) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    live.post(broken)
    looked = ground.tick()
    assert told(looked)[0] == ["a"]
    (aside,) = looked.news.set_aside
    assert (aside.kind, aside.collection) == ("broken", "fields")
    assert 10 < len(aside.why) <= 200
    assert aside.why.isprintable()
    assert aside.id.isprintable()
    assert len(aside.id) <= 200
    live.delete(broken["id"], collection="fields")
    live.post(scene("mended", updated=NOW + MINUTE))
    later = ground.tick(NOW + HOUR)
    assert (told(later)[0], later.news.set_aside) == (["mended"], ())


def test_what_no_reader_could_follow_fails_the_look_in_words(live: LiveApi) -> None:
    live.post(scene("abyss", properties={"note": json.loads("[" * 400 + "]" * 400)}))
    with pytest.raises(CatalogError, match="not STAC"):
        Ground(catalog=live.url).look()


def test_what_is_found_broken_twice_in_one_look_is_told_once(live: LiveApi) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    live.post(scene("no files", updated=NOW, assets={}))
    ground.tick()
    assert [aside.id for aside in ground.tick(NOW + MINUTE).news.set_aside] == ["no files"]
    assert len(asked_by_filter(live)) < len(live.searches)


def test_stamps_of_other_zones_are_the_server_s_to_compare(live: LiveApi, long_lists: None) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    # 13:00 UTC, which a comparison of texts takes for the morning.
    said = {"updated": "2024-06-10T05:00:00-08:00", "created": "2024-06-01T00:00:00Z"}
    doc = scene("pacific", date=NOW - 9 * DAY, properties=said)
    live.post(doc)
    live.filtering = "timestamps"
    assert told(ground.tick(NOW + HOUR))[0] == ["pacific"]


def test_an_item_that_breaks_stands_as_it_was(live: LiveApi) -> None:
    ground = Ground(catalog=live.url)
    live.post(scene("a", updated=NOW))
    ground.tick()
    live.put(scene("a", updated=NOW + MINUTE, assets={}))
    looked = ground.tick(NOW + HOUR)
    assert looked.news.empty
    assert [aside.id for aside in looked.news.set_aside] == ["a"]


def test_what_has_no_name_is_told_too() -> None:
    with live_stac_api([scene("a")]) as served:
        served.post({key: value for key, value in scene().items() if key != "id"})
        looked = Ground(catalog=served.url).tick()
        assert told(looked)[0] == ["a"]
        assert [(aside.id, aside.kind) for aside in looked.news.set_aside] == [("", "broken")]


def written(folder: Path, *docs: Any) -> str:
    links = []
    for doc in docs:
        name = f"{doc['id'] if isinstance(doc, dict) else 'torn'}.json"
        (folder / name).write_text(json.dumps(doc) if isinstance(doc, dict) else doc)
        links.append({"rel": "item", "href": f"./{name}"})
    (folder / "collection.json").write_text(json.dumps({**stac_collection(), "links": links}))
    return str(folder / "collection.json")


def test_a_catalog_at_rest_is_read_whole_at_every_look(tmp_path: Path) -> None:
    ground = Ground(catalog=written(tmp_path, scene("a"), scene("b")))
    assert told(ground.tick())[0] == ["a", "b"]
    written(tmp_path, scene("b", properties={"processing:version": "2"}), scene("c"))
    assert told(ground.tick(NOW + MINUTE)) == (["c"], ["b"], ["a"])


def test_nothing_is_gone_while_a_document_cannot_be_read(tmp_path: Path) -> None:
    ground = Ground(catalog=written(tmp_path, scene("a"), scene("b")))
    ground.tick()
    written(tmp_path, scene("a"), "{" * 5000)
    looked = ground.tick(NOW + MINUTE)
    assert (told(looked), looked.whole) == (([], [], []), False)
    assert [aside.kind for aside in looked.news.set_aside] == ["broken"]
    written(tmp_path, scene("a"))
    assert told(ground.tick(NOW + HOUR)) == ([], [], ["b"])


def test_a_table_is_looked_at_as_any_catalog(tmp_path: Path) -> None:
    place = tmp_path / "items.parquet"
    place.write_bytes(freeze([scene("a"), scene("b")]))
    ground = Ground(catalog=str(place))
    assert told(ground.tick())[0] == ["a", "b"]
    assert ground.tick(NOW + MINUTE).news.unchanged == 2
    place.write_bytes(freeze([scene("b", properties={"version": "2"}), scene("c")]))
    assert told(ground.tick(NOW + HOUR)) == (["c"], ["b"], ["a"])


def test_items_in_the_margin_of_the_area_are_news_too(live: LiveApi) -> None:
    live.post(scene("beside", bounds=(10.81, 50.0, 10.9, 51.0)))
    live.post(scene("far", bounds=(10.9, 50.0, 11.0, 51.0)))
    assert told(Ground(catalog=live.url).tick())[0] == ["beside"]


def test_a_first_run_maps_what_can_be_mapped_and_nothing_that_is_withdrawn_or_replaced(live: LiveApi) -> None:
    broken = [doc for doc in BROKEN if doc["id"] not in ("deep", "fat")]  # a page with both is slow to take apart
    for doc in (scene("a"), scene("long ago", date=NOW - 3000 * DAY), scene("ahead", date=NOW + DAY), *broken):
        live.post(doc)
    live.post(scene("withdrawn", properties={"deprecated": True}))
    live.post({**scene("a2"), "links": [{"rel": "predecessor-version", "href": "./a.json"}]})
    spec = job(live.url).spec
    looked = looking.first_look(spec, HERE, now=NOW, window_px=256)
    fresh = looked.news
    assert (looked.swept, looked.whole) == (NOW, True)
    assert names(fresh.new) == ["long ago", "a2"]
    kinds = [aside.kind for aside in fresh.set_aside]
    assert (kinds.count("broken"), kinds.count("deprecated"), kinds.count("future")) == (len(broken), 2, 1)
    ground = Ground(catalog=live.url, late="9999d")
    ground.take(fresh)
    assert ground.look().news.empty


def test_a_first_run_with_nothing_to_map_says_why(live: LiveApi) -> None:
    live.post(scene("no bands", assets={"other": {"href": "http://127.0.0.1:9/x.tif"}}))
    with pytest.raises(EmptySearchError, match="other"):
        looking.first_look(job(live.url).spec, HERE, now=NOW, window_px=256)


def test_an_item_on_another_pixel_grid_than_the_mosaic_is_set_aside(live: LiveApi, tmp_path: Path) -> None:
    lattice = Lattice(crs="EPSG:32632", res_x=10, res_y=10)
    grid = Grid.over(lattice, (600_000, 5_590_000, 601_000, 5_591_000), shard_px=64, chunk_px=64)
    place = str(tmp_path / "map.zarr")
    prompts = (Prompt(name="water", expression="the water"),)
    Mosaic.create(place, MosaicSpec(grids=(grid,), prompts=prompts, times=(NOW,), made_by={}))
    native = job(live.url)
    spec = native.spec.model_copy(
        update={"grid": GridSpec(), "output": native.spec.output.model_copy(update={"mosaic": place})}
    )
    live.post(scene("on it"))
    live.post(scene("half a pixel off", properties={"proj:transform": [10, 0, 600005, 0, -10, 5600000]}))
    live.post(scene("another zone", properties={"proj:code": "EPSG:32633"}))
    live.post(scene("nowhere", properties={"proj:transform": None, "proj:shape": None}))
    looked = looking.look(
        replace(native, spec=spec),
        HERE,
        MappedItems(place),
        watermark=None,
        swept=None,
        now=NOW,
        window_px=256,
        fetch=QUICK,
    )
    assert names(looked.news.new) == ["on it"]
    assert sorted(aside.id for aside in looked.news.set_aside) == ["another zone", "half a pixel off", "nowhere"]
