"""What stands in a mosaic, from files of its runs alone."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping

from catalogs.conditions import date_of
from catalogs.snapshot import StacItem, freeze
from jobs.ledger import RunFolder
from jobs.monitors.mapped import Key, MappedItems
from jobs.renewal import Renewal
from jobs.tile_table import TileTable
from mapper.errors import MosaicError

AREA = box(12, 55, 12.1, 55.1)
FRESH = itertools.count()


def item(name: str, collection: str = "scenes", version: int = 1, **properties: Any) -> StacItem:
    document: StacItem = {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": [], "id": name, "collection": collection,
        "geometry": mapping(AREA), "bbox": list(AREA.bounds), "links": [],
        "properties": {"datetime": "2024-06-01T10:30:00.25Z", "processing:version": str(version), **properties},
        "assets": {"image": {"href": f"https://example.com/{name}-{version}.tif"}},
    }  # fmt: skip
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]  # lists, as a catalog would give them


def run_beside(
    mosaic: Path, name: str, items: list[StacItem], *, number: int = 0, begin: int = 0, gone: tuple[Key, ...] = ()
) -> RunFolder:
    """A run with this item table, planned."""
    due = datetime(2024, 7, 1 + number, tzinfo=UTC)
    renewal = Renewal(number=number, monitor="m", due=due, sources_from=begin, gone=gone)
    folder = RunFolder(str(mosaic), name)
    facts: dict[str, Any] = {"run": name, "state": "done", "steps": [], **(renewal.facts() if number else {})}
    folder.save_plan(job="", area=shapely.to_wkb(AREA), items=freeze(items), tiles=TileTable.of([]), facts=facts)
    return folder


def test_where_nothing_was_mapped_nothing_stands(tmp_path: Path) -> None:
    mapped = MappedItems(str(tmp_path / "map"))
    assert (dict(mapped.standing), mapped.sources_end, mapped.renewals, mapped.area) == ({}, 0, 0, None)
    assert mapped.documents([("scenes", "a")]) == {}


def test_an_item_stands_as_the_last_run_mapped_it_and_says_its_number_in_the_source_layer(tmp_path: Path) -> None:
    run_beside(tmp_path / "map", "first", [item("a"), item("b"), item("a", "other")])
    run_beside(tmp_path / "map", "second", [item("c"), item("b", version=2)], number=1, begin=3)
    mapped = MappedItems(str(tmp_path / "map"))
    assert {key: (one.run, one.row, one.source) for key, one in mapped.standing.items()} == {
        ("scenes", "a"): ("first", 0, 0),
        ("other", "a"): ("first", 2, 2),
        ("scenes", "c"): ("second", 0, 3),
        ("scenes", "b"): ("second", 1, 4),
    }
    assert (mapped.sources_end, mapped.renewals) == (5, 1)
    assert mapped.area is not None
    assert mapped.area.equals(AREA)
    asked = mapped.documents([("scenes", "b"), ("scenes", "gone"), ("other", "a")])
    assert asked == {("scenes", "b"): item("b", version=2), ("other", "a"): item("a", "other")}


def test_an_item_that_is_gone_stands_again_when_it_has_come_back(tmp_path: Path) -> None:
    run_beside(tmp_path / "map", "first", [item("a"), item("b")])
    run_beside(tmp_path / "map", "second", [], number=1, begin=2, gone=(("scenes", "a"), ("scenes", "b")))
    assert not MappedItems(str(tmp_path / "map")).standing
    run_beside(tmp_path / "map", "third", [item("a")], number=2, begin=2)
    assert [(one.run, one.source) for one in MappedItems(str(tmp_path / "map")).standing.values()] == [("third", 2)]


def test_a_run_that_renewed_later_is_right_whenever_its_files_were_made(tmp_path: Path) -> None:
    run_beside(tmp_path / "map", "late", [item("a", version=3)], number=2, begin=2)
    run_beside(tmp_path / "map", "early", [item("a", version=2)], number=1, begin=1)
    run_beside(tmp_path / "map", "first", [item("a")])
    assert [one.run for one in MappedItems(str(tmp_path / "map")).standing.values()] == ["late"]


def test_ordinary_runs_share_their_items_and_count_once(tmp_path: Path) -> None:
    for name in ("warm", "cold"):
        run_beside(tmp_path / "map", name, [item("a"), item("b")])
    mapped = MappedItems(str(tmp_path / "map"))
    assert {one.source for one in mapped.standing.values()} == {0, 1}
    assert mapped.sources_end == 2


moments = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)).map(lambda moment: f"{moment.isoformat()}Z")


@given(st.lists(st.tuples(moments, moments, st.sampled_from(["plain", "range", "both", "begins"])), max_size=4),
       st.booleans())  # fmt: skip
def test_the_moment_of_an_item_is_the_one_its_document_says(dates: list[tuple[str, str, str]], mixed: bool) -> None:
    items = []
    for number, (one, other, kind) in enumerate(dates):
        begin, end = sorted((one, other))
        kinds: dict[str, dict[str, Any]] = {
            "plain": {"datetime": one},
            "range": {"datetime": None, "start_datetime": begin, "end_datetime": end},
            "both": {"datetime": other, "start_datetime": begin, "end_datetime": end},
            "begins": {"datetime": begin, "start_datetime": begin, "end_datetime": end},
        }
        odd: dict[str, Any] = {"odd": [{"a": 1}, "b"][number % 2]} if mixed else {}  # such items make no table together
        items.append(item(f"i{number}", **kinds[kind], **odd))
    mosaic = f"memory://mapped-{next(FRESH)}"
    RunFolder(mosaic, "first").save_plan(
        job="", area=shapely.to_wkb(AREA), items=freeze(items), tiles=TileTable.of([]), facts={"run": "first"}
    )
    said = {one.id: one.datetime for one in MappedItems(mosaic).standing.values()}
    assert said == {document["id"]: date_of(document) for document in items}


def test_a_damaged_item_table_is_named(tmp_path: Path) -> None:
    run_beside(tmp_path / "map", "first", [item("a")])
    path = tmp_path / "map" / ".resmap" / "runs" / "first" / "items.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MosaicError, match="item table of a run is damaged") as caught:
        MappedItems(str(tmp_path / "map")).standing  # noqa: B018  # it is read when it is asked for
    assert caught.value.where["run"] == "first"
    path.unlink()
    with pytest.raises(MosaicError, match="missing or damaged"):
        MappedItems(str(tmp_path / "map")).standing  # noqa: B018


def test_only_the_documents_asked_for_are_made(tmp_path: Path) -> None:
    count = 50
    run_beside(tmp_path / "map", "first", [item(f"i{n}") for n in range(count)])
    mapped = MappedItems(str(tmp_path / "map"))
    keys = [("scenes", f"i{n}") for n in np.random.default_rng(1).permutation(count)[:7].tolist()]
    assert list(mapped.documents(keys)) == keys
