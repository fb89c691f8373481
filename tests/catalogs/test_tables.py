from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stac_geoparquet.arrow
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from catalogs import bands, columns, items, tables
from catalogs.columns import DOCUMENT, table_documents
from catalogs.documents import without_nulls
from catalogs.hrefs import check_href
from catalogs.items import FIELDS, item_from_stac, items_from_stac
from catalogs.search import Query, search
from catalogs.snapshot import freeze, thaw, thawed
from catalogs.tables import Rows, Table
from mapper.errors import AssetError, CatalogError
from tests.catalogs.examples import real, real_items, stac_item

HERE = box(10, 50, 11, 51)
S2_BANDS = ("B04", "B03", "B02")


def table_of(docs: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pq.write_table(stac_geoparquet.arrow.parse_stac_items_to_arrow(docs).read_all(), content)
    return content.getvalue()


def scene(name: str, href: str = "", **changes: Any) -> dict[str, Any]:
    return stac_item(name, assets={"red": {"href": href or f"https://example.com/{name}.tif"}}, **changes)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columns, tables):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)


def test_items_of_a_real_table_are_those_of_its_documents() -> None:
    path = real("sentinel-2/1000-sentinel-2-items.parquet")
    rows = Table(path.read_bytes(), str(path)).items(bands=S2_BANDS)
    expected = [item_from_stac(doc, bands=S2_BANDS, index=n) for n, doc in enumerate(rows)]
    assert items_from_stac(rows, bands=S2_BANDS) == expected
    frozen = freeze(rows)
    assert items_from_stac(thawed(frozen, fields=FIELDS), bands=S2_BANDS) == expected
    assert items_from_stac(thaw(freeze(list(rows))), bands=S2_BANDS) == expected


def test_many_real_items_are_what_each_is_alone() -> None:
    for source, docs in real_items().items():
        together = items_from_stac(docs, bands=["red"])
        for n, doc in list(enumerate(docs))[::7]:
            bands._known_reading.cache_clear()
            items._known_placement.cache_clear()
            assert item_from_stac(doc, bands=["red"], index=n) == together[n], source


@pytest.mark.parametrize(
    "changes",
    [
        {"data_type": "uint8"}, {"nodata": 7}, {"raster:scale": 2}, {"raster:offset": True},
        {"proj:code": "EPSG:32633"}, {"proj:shape": [1000, 2001]}, {"s2:processing_baseline": "05.10"},
        {"proj:transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5600010.0]}, {"raster:scale": "nan"},
    ],
    ids=str,
)  # fmt: skip
def test_what_one_item_says_otherwise_is_not_taken_from_its_neighbour(changes: dict[str, Any]) -> None:
    docs = [scene(name, collection="sentinel-2-l2a", properties=more) for name, more in (("a", {}), ("b", changes))]
    for doc in docs:
        doc["assets"]["red"]["eo:bands"] = [{"name": "B04"}]
    _, odd = items_from_stac(docs, bands=["red"])
    bands._known_reading.cache_clear()
    items._known_placement.cache_clear()
    assert repr(item_from_stac(docs[1], bands=["red"], index=1)) == repr(odd)


@pytest.mark.usefixtures("few_at_once")
def test_rows_come_in_the_order_they_are_asked_for() -> None:
    table = Table(table_of([scene(name) for name in "abcdefgh"]), "/items.parquet")
    order = [7, 0, 4, 1, 6, 2]
    rows = table.items(order, bands=["red"])
    assert [doc["id"] for doc in rows] == list("haebgc")
    assert (len(rows), rows[2]["id"], [doc["id"] for doc in rows[1:3]]) == (6, "e", ["a", "e"])
    assert [doc["id"] for doc in thaw(freeze(rows))] == list("haebgc")


def test_a_frozen_table_holds_its_rows_and_no_secret() -> None:
    docs = [scene(name, f"https://example.com/{name}.tif?sig=canary&se=1") for name in "ab"]
    for doc in docs:
        doc["links"] = [{"rel": "self", "href": "https://example.com/?token=canary"}]
    rows = Table(table_of(docs), "/items.parquet").items()
    frozen = freeze(rows)
    assert b"canary" not in frozen
    assert "canary" not in json.dumps(thaw(frozen))
    assert DOCUMENT not in pq.read_schema(io.BytesIO(frozen)).names
    expected = json.loads(json.dumps(list(rows)).replace("?sig=canary&se=1", "").replace("?token=canary", ""))
    assert thaw(frozen) == expected


def test_a_table_without_boxes_is_frozen_as_documents() -> None:
    table = pq.read_table(io.BytesIO(table_of([scene("a")]))).drop_columns(["bbox"])
    content = io.BytesIO()
    pq.write_table(table, content)
    rows = Table(content.getvalue(), "/items.parquet").items()
    frozen = freeze(rows)
    assert thaw(frozen) == list(rows)
    assert {"bbox", DOCUMENT} <= set(pq.read_schema(io.BytesIO(frozen)).names)


def test_a_frozen_search_that_is_searched_again_forgets_the_documents_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(freeze([scene("a"), scene("b")]))
    found = search(Query(catalog=str(tmp_path / "items.parquet"), collections=(), area=HERE, bands=("red",)))
    assert isinstance(found, Rows)
    assert DOCUMENT not in found[0]["properties"]
    assert thaw(freeze(found[1:])) == [found[1]]


def test_hrefs_are_seen_from_the_item_s_own_place() -> None:
    docs = [scene("a", "./a.tif"), scene("b", "../b.tif"), scene("c")]
    docs[1]["links"] = [{"rel": "self", "href": "https://example.com/x/y/b.json"}]
    rows = Table(table_of(docs), "https://example.com/all/items.parquet").items(bands=["red"])
    hrefs = [doc["assets"]["red"]["href"] for doc in rows]
    assert hrefs == ["https://example.com/all/a.tif", "https://example.com/x/b.tif", "https://example.com/c.tif"]


def test_hrefs_of_a_table_are_judged() -> None:
    inside = Table(table_of([scene("a", "http://169.254.169.254/a.tif")]), "https://example.com/items.parquet").items()
    with pytest.raises(AssetError, match="href refused"):
        items_from_stac(inside, bands=["red"], judge=lambda href: check_href(href, catalog="https://example.com"))
    with pytest.raises(CatalogError, match="a file of this machine"):
        Table(table_of([scene("a", "file:///etc/passwd")]), "https://example.com/items.parquet").items()


def test_an_asset_without_a_href_is_left_out() -> None:
    docs = [scene("a"), scene("b")]
    docs[1]["assets"]["blue"] = {"href": "https://example.com/blue.tif", "title": "blue"}
    table = pq.read_table(io.BytesIO(table_of(docs))).to_pylist()
    table[0]["assets"]["blue"] = {"href": None, "title": "lost"}
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), content)
    rows = Table(content.getvalue(), "/items.parquet").items()
    assert [set(doc["assets"]) for doc in rows] == [{"red"}, {"red", "blue"}]
    assert [set(doc["assets"]) for doc in thaw(freeze(rows))] == [{"red"}, {"red", "blue"}]


@pytest.mark.parametrize("broken", ["assets", "id", "geometry"])
def test_a_table_with_a_hole_in_it_is_the_catalog_s_fault(broken: str, tmp_path: Path) -> None:
    rows = pq.read_table(io.BytesIO(table_of([scene("a"), scene("b")]))).to_pylist()
    rows[1][broken] = None
    if broken == "geometry":
        rows[1]["bbox"] = None
    path = tmp_path / "items.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(CatalogError) as caught:
        search(Query(catalog=str(path), collections=(), area=HERE, bands=("red",)))
    assert caught.value.where


values = st.none() | st.sampled_from([0.0, -0.0, 1.0, float("nan")])
texts = st.none() | st.sampled_from(["", "a", "b"])
cells = st.fixed_dictionaries(
    {
        "numbers": st.none() | st.lists(values, max_size=3),
        "text": texts,
        "deep": st.none() | st.fixed_dictionaries({"n": values, "t": st.lists(st.fixed_dictionaries({"x": texts}))}),
    }
)
KIND = pa.struct(
    {
        "numbers": pa.list_(pa.float64()),
        "text": pa.string(),
        "deep": pa.struct({"n": pa.float64(), "t": pa.list_(pa.struct({"x": pa.string()}))}),
    }
)


@given(st.lists(st.none() | cells, min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_cells_that_are_equal_share_their_json_and_no_others(pool: list[Any], picks: list[int]) -> None:
    told = [pool[n % len(pool)] for n in picks]
    column = pa.array(told, KIND)
    found = [
        doc["properties"].get("cell") for doc in table_documents(pa.table({"id": map(str, picks), "cell": column}))
    ]
    assert _written(found) == _written(map(without_nulls, told))
    tail = table_documents(pa.table({"cell": column}).slice(len(told) // 2))
    assert _written(doc["properties"].get("cell") for doc in tail) == _written(found[len(told) // 2 :])


def _written(values: Iterable[Any]) -> str:
    """With it, -0.0 is another number than 0.0, and NaN the same as NaN."""
    return json.dumps(list(values), sort_keys=True)


def test_lists_of_all_lengths_come_back() -> None:
    told = [list(range(n % 40)) for n in range(200)]
    docs = table_documents(pa.table({"id": list(map(str, range(200))), "n": pa.array(told)}))
    assert [doc["properties"]["n"] for doc in docs] == told


def test_documents_with_fewer_fields_are_read_as_the_same_items() -> None:
    path = real("sentinel-2/1000-sentinel-2-items.parquet")
    table = pq.read_table(path).slice(0, 100)
    few = list(table_documents(table, fields=FIELDS))
    assert set().union(*(asset for doc in few for asset in doc["assets"].values())) <= FIELDS
    whole = list(table_documents(table))
    pairs = zip(few, whole, strict=True)
    assert all(item_from_stac(a, bands=S2_BANDS) == item_from_stac(b, bands=S2_BANDS) for a, b in pairs)


def test_a_search_that_widens_reads_the_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = scene("near"), scene("far", bounds=(12.0, 50.0, 13.0, 51.0))
    path = tmp_path / "items.parquet"
    path.write_bytes(table_of([far, near]))
    opened, seen = [], []
    whole = Table.heads

    def heads(self: Table, **words: Any) -> Any:
        opened.append(self.place)
        return whole(self, **words)

    monkeypatch.setattr(Table, "heads", heads)

    def around(doc: dict[str, Any]) -> Any:
        seen.append(doc["id"])
        return box(9, 49, 14, 52)

    found = search(Query(catalog=str(path), collections=(), area=HERE, bands=("red",)), around=around)
    assert (seen, [doc["id"] for doc in found], len(opened)) == (["near"], ["far", "near"], 1)


def test_equal_numbers_of_rows_have_equal_cells_to_the_bit() -> None:
    column = pa.array([0.0, -0.0, None, float("nan"), 0.0])
    assert len(np.unique(columns._kinds(column))) == 4
