"""What becomes of what a look found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.items import item_from_stac
from catalogs.snapshot import freeze, thaw
from jobs.monitors.news import Found, News, Standing, digest, news, one_line
from jobs.monitors.versions import superseded
from mapper.errors import CatalogError, CredentialsError
from tests.catalogs.examples import real_items
from tests.jobs.monitors.ground import DAY, NOW, Key, job, names, scene

SPEC = job("/nowhere/catalog.json").spec
SINCE = NOW - 30 * DAY


def found(*docs: Any, standing: Mapping[Key, Any] | None = None, listed: bool = True, **words: Any) -> News:
    """News of some items, held against documents that stand."""
    held = standing or {}
    told = Standing(
        dates={key: item_from_stac(doc, bands=SPEC.imagery.bands).datetime for key, doc in held.items()},
        digests={key: digest(doc, SPEC) for key, doc in held.items()},
    )
    asked = {"spec": SPEC, "now": NOW, "since": SINCE, "made": lambda doc: doc, **words}
    return news(Found(items=docs, listed=listed), told, **asked)


def stands(*docs: Any) -> dict[Key, Any]:
    return {("fields", doc["id"]): doc for doc in docs}


def replacing(doc: Any, *names: str, href: str = "https://example.com/collections/fields/items/{}") -> Any:
    links = [{"rel": "predecessor-version", "href": href.format(name)} for name in names]
    return {**doc, "links": [*doc["links"], *links]}


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("a file with another checksum", {"assets": {"file:checksum": "1220aa"}}),
    ("a file of another size", {"assets": {"file:size": 12}}),
    ("a file elsewhere", {"assets": {"href": "http://127.0.0.1:9/other.tif"}}),
    ("another way to read it", {"assets": {"raster:scale": 0.5}}),
    ("another processing", {"properties": {"processing:version": "05.11"}}),
    ("another version", {"properties": {"version": "2"}}),
    ("another baseline", {"properties": {"s2:processing_baseline": "05.11"}}),
    ("another time", {"properties": {"datetime": "2024-06-09T13:00:00Z"}}),
    ("another place of its pixels", {"properties": {"proj:transform": [10, 0, 600010, 0, -10, 5600000]}}),
]
SAME: list[tuple[str, dict[str, Any]]] = [
    ("posted again", {"properties": {"updated": "2024-06-10T11:00:00Z", "created": "2024-06-10T11:00:00Z"}}),
    ("a word more", {"properties": {"title": "a field"}}),
    ("another file beside", {"assets": None}),
    ("another signature", {"assets": {"href": "http://127.0.0.1:9/scene.tif?sig=abc&sv=1"}}),
    ("other clouds, which nobody asks for", {"properties": {"eo:cloud_cover": 80}}),
]


def altered(change: Mapping[str, Any]) -> Any:
    doc: Any = json.loads(json.dumps(scene("a")))
    doc["properties"].update(change.get("properties", {}))
    if change.get("assets", {}) is None:
        doc["assets"]["thumbnail"] = {"href": "http://127.0.0.1:9/small.png"}
    else:
        doc["assets"]["image"].update(change.get("assets", {}))
    return doc


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[what for what, _ in CHANGES])
def test_what_pixels_depend_on_makes_another_item(change: Mapping[str, Any]) -> None:
    told = found(altered(change), standing=stands(scene("a")))
    assert (names(told.changed), told.unchanged) == (["a"], 0)


@pytest.mark.parametrize("change", [change for _, change in SAME], ids=[what for what, _ in SAME])
def test_what_no_pixel_depends_on_makes_none(change: Mapping[str, Any]) -> None:
    told = found(altered(change), standing=stands(scene("a")))
    assert (told.empty, told.unchanged) == (True, 1)


def test_clouds_count_where_the_least_cloudy_is_asked_for() -> None:
    spec = job("/nowhere", composite="least-cloudy").spec
    assert digest(scene("a"), spec) != digest(scene("a", properties={"eo:cloud_cover": 80}), spec)


@pytest.mark.parametrize("source", ["naip", "sentinel-2 table", "sentinel-2 json"])
def test_real_items_are_the_same_after_they_were_frozen(source: str) -> None:
    bands = ["image:1"] if source == "naip" else ["visual:1"] if source == "sentinel-2 table" else ["B04"]
    docs = real_items()[source][:20]
    spec = job("/nowhere", bands=bands).spec
    assert [digest(doc, spec) for doc in thaw(freeze(docs))] == [digest(doc, spec) for doc in docs]


def test_what_is_missing_is_gone_only_where_all_was_listed_and_not_before() -> None:
    standing = stands(scene("lately"), scene("long ago", date=NOW - 31 * DAY))
    assert found(standing=standing).gone == (("fields", "lately"),)
    assert found(standing=standing, listed=False).gone == ()


def test_what_is_too_old_stays_as_it_is() -> None:
    old = scene("old", date=NOW - 31 * DAY)
    changed = {**old, "properties": {**old["properties"], "version": "2"}}
    withdrawn = {**old, "properties": {**old["properties"], "deprecated": True}}
    for doc, kinds in ((old, []), (changed, ["late"]), (withdrawn, [])):
        told = found(doc, standing=stands(old))
        assert (told.empty, [aside.kind for aside in told.set_aside]) == (True, kinds)
    assert [aside.kind for aside in found(old).set_aside] == ["late"]


def test_a_date_put_right_is_a_change_while_either_date_is_not_too_old() -> None:
    right = scene("a", date=NOW - 40 * DAY)
    assert names(found(right, standing=stands(scene("a"))).changed) == ["a"]


def test_the_future_begins_an_hour_from_now() -> None:
    told = found(scene("soon", date=NOW + timedelta(minutes=59)), scene("later", date=NOW + timedelta(minutes=61)))
    assert names(told.new) == ["soon"]
    assert [(aside.id, aside.kind) for aside in told.set_aside] == [("later", "future")]


def test_what_its_catalog_withdraws_is_gone_or_never_comes() -> None:
    withdrawn = scene("a", properties={"deprecated": True})
    assert found(withdrawn, standing=stands(scene("a"))).gone == (("fields", "a"),)
    assert [aside.kind for aside in found(withdrawn).set_aside] == ["deprecated"]
    assert names(found(scene("a", properties={"deprecated": False})).new) == ["a"]


@pytest.mark.parametrize(
    "href",
    [
        "https://example.com/collections/fields/items/{}",
        "./{}.json",
        "../{0}/{0}.json",
        "https://example.com/{}.geojson",
    ],
)
def test_what_a_new_item_replaces_is_gone_and_does_not_come_back(href: str) -> None:
    first, second = scene("v1"), replacing(scene("v2"), "v1", href=href)
    told = found(first, second, standing=stands(first))
    assert (names(told.new), told.gone) == (["v2"], (("fields", "v1"),))
    told = found(first, second, standing=stands(second))
    assert (told.empty, [(aside.id, aside.kind) for aside in told.set_aside]) == (True, [("v1", "deprecated")])


def test_what_is_replaced_through_what_is_replaced_is_gone_too() -> None:
    first, second, third = scene("v1"), replacing(scene("v2"), "v1"), replacing(scene("v3"), "v2")
    assert names(found(first, second, third).new) == ["v3"]
    assert names(found(second, first, third, standing=stands(first)).new) == ["v3"]


def test_a_broken_item_replaces_nothing() -> None:
    def made(doc: Any) -> None:
        if doc["id"] == "v2":
            raise CatalogError("it is broken")

    told = found(scene("v1"), replacing(scene("v2"), "v1"), made=made)
    assert (names(told.new), [aside.kind for aside in told.set_aside]) == (["v1"], ["broken"])


def test_items_that_replace_each_other_in_a_circle_all_stand() -> None:
    told = found(replacing(scene("a"), "b"), replacing(scene("b"), "a"), replacing(scene("c"), "c"))
    assert sorted(names(told.new)) == ["a", "b", "c"]


def test_a_link_to_nothing_replaces_nothing() -> None:
    hrefs = ("http://[", "", "/", "https://example.com/collections/woods/items/{}")
    assert all(found(scene("v1"), replacing(scene("v2"), "v1", href=href)).gone == () for href in hrefs)


def test_long_chains_of_versions_are_followed_without_end_to_the_stack() -> None:
    docs = {("f", str(n)): replacing({"links": []}, str(n - 1), href="./{}.json") for n in range(5000)}
    assert len(superseded(docs, list(docs), docs)) == 4999


def test_who_may_not_read_the_files_is_told_so_and_no_item_is_blamed() -> None:
    def made(doc: Any) -> None:
        raise CredentialsError("the store refuses us")

    with pytest.raises(CredentialsError):
        found(scene("a"), made=made)


@given(st.text(max_size=2000))
def test_why_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 200
    assert line.isprintable()
