from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stac_geoparquet.arrow
from hypothesis import given
from hypothesis import strategies as st

from catalogs.columns import DOCUMENT, table_documents
from catalogs.documents import without_nulls
from catalogs.items import item_from_stac, lean
from catalogs.snapshot import freeze, thaw, thawed, thawed_rows
from catalogs.tables import Table
from mapper.errors import CatalogError
from tests.catalogs.examples import real, real_items, stac_item


def test_every_real_item_is_thawed_as_it_was_frozen() -> None:
    for source, docs in real_items().items():
        back = thaw(freeze(docs))
        assert back == [{**doc, "links": doc.get("links") or []} for doc in docs], source
        pairs = zip(docs, back, strict=True)
        assert all(item_from_stac(a, bands=["red"]) == item_from_stac(b, bands=["red"]) for a, b in pairs)


def test_items_of_all_kinds_freeze_together() -> None:
    docs = [doc for found in real_items().values() for doc in found[:5]]
    assert [doc["id"] for doc in thaw(freeze(docs))] == [doc["id"] for doc in docs]


@pytest.mark.parametrize(
    "odd",
    [
        {"properties": {"eo:cloud_cover": "unknown"}},
        {"properties": {"proj:shape": None, "deep": {"a": [1, "b", {"c": None}]}}},
        {
            "properties": {
                "datetime": None,
                "start_datetime": "2020-01-01T00:00:00Z",
                "end_datetime": "2020-02-01T00:00:00Z",
            }
        },
        {"geometry": None},
        {"bbox": [10, 50, 0, 11, 51, 9]},
        {"bbox": None},
        {"assets": {}},
        {"assets": {"x": {"href": "https://example.com/x.tif", "bands": []}}},
        {"collection": None},
    ],
)
def test_odd_items_freeze_beside_plain_ones(odd: dict[str, Any]) -> None:
    docs = [stac_item("plain"), stac_item("odd", **odd)]
    frozen = freeze(docs)
    assert thaw(frozen) == docs
    assert pq.read_table(io.BytesIO(frozen))["id"].to_pylist() == ["plain", "odd"]


@pytest.mark.parametrize("odd", [{}, {"gsd": "fine"}, {"gsd": 0.5}, {"eo:cloud_cover": None, "added": [1, 2]}])
def test_items_that_become_columns_in_several_goes_freeze_as_one_table(odd: dict[str, Any]) -> None:
    docs = [*(stac_item(name, properties={"gsd": 10}) for name in "abcdef"), stac_item("odd", properties=odd)]
    frozen = freeze(docs, at_once=3)
    assert thaw(frozen) == docs
    table = pq.read_table(io.BytesIO(frozen))
    assert table["id"].to_pylist() == [*"abcdef", "odd"]
    assert "eo:cloud_cover" in table.column_names or "fine" in odd.values()


def test_row_n_is_item_n() -> None:
    docs = [stac_item(name) for name in "zebra"]
    assert [doc["id"] for doc in thaw(freeze(docs))] == list("zebra")


def test_the_same_items_give_the_same_bytes() -> None:
    docs = [stac_item("a"), stac_item("b")]
    assert freeze(docs) == freeze(docs)


def test_no_secret_is_frozen() -> None:
    doc = stac_item(assets={"x": {"href": "https://example.com/x.tif?sig=canary&se=1"}})
    doc["links"] = [{"rel": "self", "href": "https://example.com/?token=canary"}]
    frozen = freeze([doc])
    assert b"canary" not in frozen
    assert "canary" not in json.dumps(thaw(frozen))


def test_nothing_freezes_too() -> None:
    assert thaw(freeze([])) == []


def test_others_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(freeze([stac_item("a"), stac_item("b", properties={"gsd": 0.3})]))
    rustac = Path(sys.executable).with_name("rustac")
    subprocess.run([rustac, "translate", path, tmp_path / "items.json"], check=True, timeout=60)
    features = json.loads((tmp_path / "items.json").read_text())["features"]
    assert [doc["id"] for doc in features] == ["a", "b"]
    assert features[0]["assets"]["image"]["href"] == "https://example.com/a.tif"


def test_a_foreign_table_thaws_too(tmp_path: Path) -> None:
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow([stac_item("a"), stac_item("b")]).read_all()
    stac_geoparquet.arrow.to_parquet(table, tmp_path / "items.parquet")
    thawed = thaw((tmp_path / "items.parquet").read_bytes())
    assert DOCUMENT not in thawed[0]
    expected = [item_from_stac(stac_item(name), bands=["red"]) for name in "ab"]
    assert [item_from_stac(doc, bands=["red"]) for doc in thawed] == expected


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing more", b"{}"])
def test_what_is_no_snapshot_is_an_error_that_says_what_to_do(content: bytes) -> None:
    with pytest.raises(CatalogError, match="plan the job again"):
        thaw(content)


values = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
json_values = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text("abc:", min_size=1, max_size=4), json_values, max_size=4), max_size=4))
def test_whatever_properties_items_have_they_come_back(all_properties: list[dict[str, Any]]) -> None:
    docs = [stac_item(f"i{n}", properties=properties) for n, properties in enumerate(all_properties)]
    assert thaw(freeze(docs)) == docs


def test_a_frozen_search_is_thawed_item_by_item() -> None:
    frozen = freeze([stac_item(name) for name in "abc"])
    one_by_one = thawed(frozen)
    assert next(one_by_one)["id"] == "a"
    assert [doc["id"] for doc in one_by_one] == ["b", "c"]


def test_the_rows_of_a_table_are_what_its_own_library_reads() -> None:
    path = real("sentinel-2/1000-sentinel-2-items.parquet")
    theirs = stac_geoparquet.arrow.stac_table_to_items(pq.read_table(path))
    assert list(table_documents(pq.read_table(path))) == [without_nulls(doc) for doc in theirs]


def test_of_a_table_only_the_assets_are_read_that_the_bands_name() -> None:
    path = real("sentinel-2/1000-sentinel-2-items.parquet")
    whole = Table(path.read_bytes(), str(path)).items()
    few = list(Table(path.read_bytes(), str(path)).items(bands=("B04", "B03")))
    assert [lean(doc, ("B04", "B03")) for doc in whole] == few
    assert set(few[0]["assets"]) == {"B04", "B03", "SCL"}


def test_a_table_with_items_that_lack_the_asset_is_read_whole() -> None:
    named = {"other": {"href": "https://example.com/b.tif", "bands": [{"name": "red"}]}}
    docs = [stac_item("a", assets={"red": {"href": "https://example.com/a.tif"}}), stac_item("b", assets=named)]
    table = io.BytesIO()
    pq.write_table(stac_geoparquet.arrow.parse_stac_items_to_arrow(docs).read_all(), table)
    items = Table(table.getvalue(), "/items.parquet").items(bands=("red",))
    assert [item_from_stac(doc, bands=["red"]).bands[0].asset.key for doc in items] == ["red", "other"]


def test_times_of_a_table_are_instants_whatever_its_zone() -> None:
    moment = pa.array([datetime(2024, 6, 1, 10, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin"))
    (doc,) = table_documents(pa.table({"id": ["a"], "datetime": moment, "updated": moment, "gone": pa.nulls(1)}))
    assert doc == {"id": "a", "properties": dict.fromkeys(("datetime", "updated"), "2024-06-01T10:00:00.000Z")}


@pytest.mark.parametrize("columns_only", [False, True])
def test_some_rows_are_thawed_as_all_are(columns_only: bool) -> None:
    frozen = freeze([stac_item(name) for name in "abcdefg"], at_once=3)
    if columns_only:
        sink = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(frozen)).drop_columns([DOCUMENT]), sink, row_group_size=2)
        frozen = sink.getvalue()
    whole = thaw(frozen)
    assert thawed_rows(frozen, [5, 0, 3]) == {row: whole[row] for row in (5, 0, 3)}
    assert thawed_rows(frozen, [7, -1]) == thawed_rows(frozen, []) == {}


def test_rows_of_what_is_no_frozen_search_are_refused() -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        thawed_rows(b"nonsense", [0])
