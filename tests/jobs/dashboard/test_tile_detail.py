"""What is known of one tile: its outcome, its place, its items; and nothing of theirs that is secret or not text."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.dashboard.tile_detail import MOST_ITEMS, shown_href, tile_at, tile_detail
from mapper.errors import QuestionError
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.planned_runs import GRID, ITEM, STEP, outcome, planned_run
from tests.jobs.test_planned_map import middle_of


def item_of(**changes: Any) -> Mapping[str, Any]:
    return {**copy.deepcopy(dict(ITEM)), **changes}


def test_all_that_the_ledger_says_of_a_tile_is_told(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(0, 0), (2, 3)], outcome(1, seconds=6.0), outcome(0, "failed"))
    told = tile_detail(view, 1)
    assert (told.tile, told.name, told.state, told.zone) == (1, "0/r2c3/t0", "done", "")
    assert (told.row, told.column, told.step) == (2, 3, "2024-05-01T00:00:00Z")
    assert (told.attempts, told.worker, told.at, told.windows) == (1, "gpu-0", STEP, 4)
    assert (told.asked_px, told.seen_px, told.present_px) == (4096, 4000, {"building": 40})
    assert told.seconds == {"read": 2.0, "infer": 2.0, "write": 2.0}
    assert (told.cause, told.error) == ("", "")
    lost = tile_detail(view, 0)
    assert (lost.state, lost.cause, lost.error) == ("failed", "ReadError", "it did not arrive")


def test_the_last_word_on_a_tile_is_told(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(0, 0)], outcome(0, "failed"), outcome(0, attempts=3))
    assert (tile_detail(view, 0).state, tile_detail(view, 0).attempts) == ("done", 3)


def test_of_a_tile_that_waits_nothing_is_made_up(tmp_path: Path) -> None:
    told = tile_detail(planned_run(tmp_path, [(0, 0)]), 0)
    assert (told.state, told.attempts, told.at, told.worker) == ("waiting", 0, None, "")
    assert (told.seconds, told.present_px) == ({}, {})


def test_seconds_that_nobody_knows_are_left_out(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(0, 0)], outcome(0, read_s=math.nan, infer_s=1.0, write_s=math.inf))
    assert tile_detail(view, 0).seconds == {"infer": 1.0}


def test_its_bounds_are_around_its_middle_and_a_click_there_finds_it(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(1, 1), (4, 2)])
    lon, lat = middle_of(GRID, 4, 2)
    west, south, east, north = tile_detail(view, 1).bounds
    assert west < lon < east
    assert south < lat < north
    assert tile_at(view, lon, lat, 0) == 1
    assert tile_at(view, lon, lat, 1) is None
    assert tile_at(view, lon, lat, 2) is None
    assert tile_at(view, *middle_of(GRID, 3, 2), 0) is None


def test_before_the_mosaic_is_made_a_tile_lies_in_the_area_and_no_place_has_one(tmp_path: Path) -> None:
    view = planned_run(tmp_path, [(0, 0)], with_mosaic=False)
    assert tile_detail(view, 0).bounds == pytest.approx((12.0, 55.3, 12.1, 55.4))
    assert tile_at(view, *middle_of(GRID, 0, 0), 0) is None


@pytest.mark.parametrize("n", [-1, 1, 10**12])
def test_a_tile_that_is_not_planned_is_refused(tmp_path: Path, n: int) -> None:
    with pytest.raises(QuestionError, match="no such tile"):
        tile_detail(planned_run(tmp_path, [(0, 0)]), n)


# Items ----------------------------------------------------------------------------------------------------------------


def test_its_items_are_told_without_user_signature_and_fragment(tmp_path: Path) -> None:
    (item,) = tile_detail(planned_run(tmp_path, [(0, 0)]), 0).items
    assert item == {
        "id": "scene-1",
        "collection": "tests",
        "datetime": "2024-05-03T10:00:00Z",
        "href": "https://example.com/a/red.tif",
    }


def test_items_are_told_in_the_order_in_which_they_are_laid_and_not_without_end(tmp_path: Path) -> None:
    items = [item_of(id=f"scene-{n}") for n in range(MOST_ITEMS + 20)]
    told = tile_detail(planned_run(tmp_path, [(0, 0)], items=items), 0).items
    assert [item["id"] for item in told] == [f"scene-{n}" for n in range(MOST_ITEMS)]


def test_hostile_ids_stay_text_and_are_no_longer_than_people_read(tmp_path: Path) -> None:
    ids = [*HOSTILE[:20], "x" * 5000, "two\x00lines\x1b[31m"]
    told = tile_detail(planned_run(tmp_path, [(0, 0)], items=[item_of(id=each) for each in ids]), 0).items
    assert [item["id"] for item in told[:20]] == list(HOSTILE[:20])
    assert all(len(item["id"]) < 400 and "\x00" not in item["id"] and "\x1b" not in item["id"] for item in told)


def test_an_item_without_the_band_has_no_address_and_is_told_all_the_same(tmp_path: Path) -> None:
    (item,) = tile_detail(planned_run(tmp_path, [(0, 0)], items=[item_of(assets={})]), 0).items
    assert (item["id"], item["href"]) == ("scene-1", None)


@pytest.mark.parametrize(
    ("href", "shown"),
    [
        ("https://example.com/a.tif", "https://example.com/a.tif"),
        ("HTTP://Example.com:8080/a.tif?X-Amz-Signature=secret", "http://example.com:8080/a.tif"),
        ("https://user:word@example.com/a.tif#part", "https://example.com/a.tif"),
        ("s3://bucket/some/key.tif?versionId=3", "s3://bucket/some/key.tif"),
        ("https://[2001:db8::1]/a.tif", "https://[2001:db8::1]/a.tif"),
        ("javascript:alert(1)", None),
        ("data:text/html,<script>", None),
        ("file:///etc/passwd", None),
        ("/etc/passwd", None),
        ("//example.com/a.tif", None),
        ("https:///a.tif", None),
        ('https://example.com/"onmouseover="x', None),
        ("https://example.com/<b>", None),
        ("https://example.com/a b", None),
        ("https://example.com/\u202ea", None),
        ("https://example.com/" + "a" * 5000, None),
        ("https://example.com:port/a", None),
        ("https://[not-an-address/a", None),
        (None, None),
    ],
)
def test_an_address_is_shown_only_where_it_leads_to_the_web_or_a_bucket_and_holds_no_secret(
    href: object, shown: str | None
) -> None:
    assert shown_href(href) == shown


@pytest.mark.parametrize("href", HOSTILE)
def test_no_hostile_string_is_shown_as_an_address_that_runs(href: str) -> None:
    shown = shown_href(href)
    assert shown is None or (
        shown.startswith(("http://", "https://", "s3://")) and "@" not in shown and "?" not in shown
    )
