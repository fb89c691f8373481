"""Looking at a real STAC API while items are posted, replaced and deleted: stac-fastapi-pgstac, where it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from catalogs import api
from jobs.monitors import look as looking
from tests.catalogs.examples import stac_collection
from tests.jobs.monitors.ground import DAY, NOW, Ground, names, scene, told
from tests.pgstac import PgStac, pgstac

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def server() -> Iterator[PgStac]:
    with pgstac() as served:
        yield served


@pytest.fixture
def ground(server: PgStac, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A monitor of a collection of its own, in which more stands than is listed at every look."""
    name = request.node.name
    server.post_collection(stac_collection(name))
    monkeypatch.setattr(looking, "SHORT", 0)
    return Ground(catalog=f"{server.url}/collections/{name}", imagery={"collections": [name]})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server is asked for, and how many items it answers with."""
    seen: list[dict[str, Any]] = []
    whole = api.Api.items

    def items(self: api.Api, wanted: Any) -> Iterator[dict[str, Any]]:
        answer = list(whole(self, wanted))
        seen.append({**wanted, "answered": len(answer)})
        return iter(answer)

    monkeypatch.setattr(api.Api, "items", items)
    return seen


def of(ground: Ground, name: str, **words: Any) -> Any:
    return scene(name, collection=ground.imagery["collections"][0], **words)


def test_what_is_posted_replaced_and_deleted_while_one_looks_is_news_once(server: PgStac, ground: Ground) -> None:
    for n in range(3):
        server.post(of(ground, f"s{n}", updated=NOW - HOUR))
    assert told(ground.tick()) == (["s0", "s1", "s2"], [], [])
    server.post(of(ground, "late", date=NOW - 20 * DAY, updated=NOW + MINUTE))
    server.put(of(ground, "s0", updated=NOW + MINUTE, properties={"processing:version": "2"}))
    server.put(of(ground, "s1", updated=NOW + MINUTE))
    server.delete("s2", collection=ground.imagery["collections"][0])
    looked = ground.tick(NOW + HOUR)
    assert (told(looked), looked.whole) == ((["late"], ["s0"], []), False)
    looked = ground.tick(NOW + DAY)
    assert (told(looked), looked.whole) == (([], [], ["s2"]), True)
    assert ground.tick(NOW + DAY + HOUR).news.empty


def test_a_look_by_watermark_asks_for_what_changed_and_for_no_more(
    server: PgStac, ground: Ground, asked: list[dict[str, Any]]
) -> None:
    for n in range(30):
        server.post(of(ground, f"s{n:02}", date=NOW - n * HOUR - DAY, updated=NOW - 2 * HOUR))
    server.post(of(ground, "last", updated=NOW))
    ground.tick()
    asked.clear()
    server.post(of(ground, "reprocessed archive", date=NOW - 29 * DAY, updated=NOW + MINUTE))
    looked = ground.tick(NOW + HOUR)
    assert names(looked.news.new) == ["reprocessed archive"]
    (request,) = asked
    assert {"op": ">=", "args": [{"property": "updated"}, "2024-06-10T11:00:00Z"]} in request["filter"]["args"]
    assert request["answered"] == 2  # the new item, and the one that set the watermark
    by_acquisition = ground.swept
    assert by_acquisition is not None
    assert by_acquisition > NOW - 29 * DAY  # who asked for what was acquired since would have missed it


def test_pages_are_followed_while_items_come_and_go(
    server: PgStac, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE_ITEMS", 4)
    for n in range(10):
        server.post(of(ground, f"s{n}", date=NOW - (20 - n) * DAY, updated=NOW - (9 - n) * HOUR))
    ground.tick()
    whole = api.features_of

    def features_of(page: Any, place: str, aside: Any = None) -> Any:
        if names(page["features"]) == ["s9", "s8", "s7", "s6"]:  # the latest come first
            server.delete("s9", collection=ground.imagery["collections"][0])
            server.post(of(ground, "later still", date=NOW + HOUR, updated=NOW + MINUTE))
        return whole(page, place, aside)

    monkeypatch.setattr(api, "features_of", features_of)
    assert told(ground.tick(NOW + DAY)) == ([], [], [])
    assert told(ground.tick(NOW + 2 * DAY)) == (["later still"], [], ["s9"])


def test_items_that_only_a_server_takes_for_good_are_told_and_hinder_none(server: PgStac, ground: Ground) -> None:
    server.post(of(ground, "good", updated=NOW))
    server.post(of(ground, "no files", updated=NOW, assets={}))
    server.post(of(ground, "line\nbreak", updated=NOW))
    looked = ground.tick()
    assert names(looked.news.new) == ["good"]
    assert sorted((aside.id, aside.kind) for aside in looked.news.set_aside) == [
        ("line break", "broken"),
        ("no files", "broken"),
    ]


def test_a_new_version_takes_the_place_of_the_old_one(server: PgStac, ground: Ground) -> None:
    server.post(of(ground, "v1", updated=NOW))
    ground.tick()
    second = of(ground, "v2", updated=NOW + MINUTE)
    second["links"] = [{"rel": "predecessor-version", "href": f"{ground.catalog}/items/v1"}]
    server.post(second)
    assert told(ground.tick(NOW + HOUR)) == (["v2"], [], ["v1"])
    server.put(of(ground, "v1", updated=NOW + 2 * HOUR))
    assert ground.tick(NOW + 3 * HOUR).news.empty
