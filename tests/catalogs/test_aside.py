"""Searches in which what cannot be used is set aside, and catalogs that are asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

from catalogs.fetch import Fetch
from catalogs.items import lean
from catalogs.search import Query, opened, search
from catalogs.snapshot import freeze
from mapper.errors import CatalogError, MapperError
from tests.catalogs.examples import stac_collection, stac_item
from tests.catalogs.test_tables import table_of
from tests.live_api import live_stac_api

HERE = box(10, 50, 11, 51)
QUICK = Fetch(attempts=1)
GOOD = [stac_item("a"), stac_item("b")]
BAD = [
    stac_item("no date", properties={"datetime": None}),
    stac_item("odd date", properties={"datetime": "yesterday"}),
    stac_item("no place", geometry=None, bbox=None),
    stac_item("odd place", geometry={"type": "Polygon", "coordinates": [[[0, 0]]]}, bbox=None),
    {key: value for key, value in stac_item("no assets").items() if key != "assets"},
    stac_item("odd cloud", properties={"eo:cloud_cover": "many"}),
]


def asked(catalog: str, **words: Any) -> Query:
    return Query(**{"catalog": catalog, "collections": ("fields",), "area": HERE, **words})


def found(catalog: str, **words: Any) -> tuple[list[str], list[str]]:
    """What is found, and what is set aside, by name."""
    aside: list[str] = []
    query = asked(catalog, filter='"eo:cloud_cover" < 50', **words)
    docs = search(query, fetch=QUICK, aside=lambda doc, error: aside.append(str(doc.get("id"))))
    return [doc["id"] for doc in docs], sorted(aside)


def linked(folder: Path, docs: dict[str, str]) -> str:
    links = []
    for name, text in docs.items():
        (folder / name).write_text(text)
        links.append({"rel": "item", "href": f"./{name}"})
    (folder / "collection.json").write_text(json.dumps({**stac_collection(), "links": links}))
    return str(folder / "collection.json")


@pytest.fixture(params=["static", "collection", "lines", "api", "filtering api"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Items good and bad, in every kind of catalog that can hold them."""
    docs = [*GOOD, *BAD]
    if request.param == "static":
        yield linked(tmp_path, {f"{n}.json": json.dumps(doc) for n, doc in enumerate(docs)})
    elif request.param == "collection":
        (tmp_path / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": docs, "links": []}))
        yield str(tmp_path / "all.json")
    elif request.param == "lines":
        (tmp_path / "lines").write_text("\n".join(map(json.dumps, docs)))
        yield str(tmp_path / "lines")
    else:
        filtering: Any = "none" if request.param == "api" else "text"
        with live_stac_api(filtering=filtering) as served:
            for doc in docs:
                if filtering == "none" or doc["id"] != "odd cloud":  # which a server that filters cannot compare
                    served.post(doc)
            yield served.url


def test_what_cannot_be_used_is_set_aside_by_name_and_the_rest_is_found(catalog: str) -> None:
    good, bad = found(catalog)
    assert good == ["a", "b"]
    assert set(bad) in ({doc["id"] for doc in BAD}, {doc["id"] for doc in BAD} - {"odd cloud"})


def test_what_cannot_be_used_is_an_error_where_nobody_takes_it(catalog: str) -> None:
    with pytest.raises(MapperError):
        search(asked(catalog), fetch=QUICK)


def test_links_that_lead_nowhere_are_set_aside_without_a_name(tmp_path: Path) -> None:
    place = linked(tmp_path, {"a.json": json.dumps(GOOD[0]), "torn.json": "{", "list.json": "[]", "gone.json": ""})
    (tmp_path / "gone.json").unlink()
    said: list[tuple[Any, str]] = []
    docs = search(asked(place), aside=lambda doc, error: said.append((doc, error.what)))
    assert [doc["id"] for doc in docs] == ["a"]
    assert [doc for doc, _ in said] == [{}, {}, {}]
    assert sum("leads nowhere" in what for _, what in said) == 1


def test_a_row_of_a_table_that_has_no_place_is_set_aside(tmp_path: Path) -> None:
    place = tmp_path / "items.parquet"
    place.write_bytes(freeze([stac_item("a"), stac_item("b"), stac_item("c")]))
    table = pq.read_table(place).drop_columns(["resmap:item"])
    places = [table["geometry"][0].as_py(), None, table["geometry"][2].as_py()]
    table = table.set_column(table.schema.get_field_index("geometry"), "geometry", pa.array(places, pa.binary()))
    table = table.set_column(table.schema.get_field_index("id"), "id", pa.array(["a", "b", None]))
    table = table.drop_columns(["bbox"])
    pq.write_table(table, place)
    assert found(str(place)) == (["a"], ["None", "b"])


def test_the_links_to_what_an_item_replaces_are_kept_however_it_is_read(tmp_path: Path) -> None:
    links = [{"rel": rel, "href": "https://example.com/x"} for rel in ("self", "predecessor-version", "license")]
    doc = stac_item("a", links=links)
    doc["assets"] = {"red": {**doc["assets"]["image"], "bands": []}, "other": {"href": "https://example.com/y"}}
    assert [link["rel"] for link in lean(doc, ["red"])["links"]] == ["self", "predecessor-version"]
    place = tmp_path / "items.parquet"
    place.write_bytes(table_of([doc]))
    (read,) = search(asked(str(place), bands=("red",)))
    assert [link["rel"] for link in read["links"]] == ["self", "predecessor-version"]


def test_of_several_versions_the_one_that_was_changed_last_is_found(tmp_path: Path) -> None:
    stamps = ["2024-06-02T00:00:00Z", "2024-06-04T00:00:00Z", "2024-06-03T00:00:00Z"]
    docs = [stac_item("a", properties={"updated": stamp}) for stamp in stamps]
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, docs)))
    (read,) = search(asked(str(tmp_path / "lines")))
    assert read["properties"]["updated"] == stamps[1]


def test_a_server_is_asked_again_and_a_file_is_read_once(tmp_path: Path) -> None:
    with live_stac_api(GOOD[:1]) as served:
        server = opened(asked(served.url), fetch=QUICK)
        served.post(GOOD[1])
        assert [doc["id"] for doc in server.search(asked(served.url))] == ["a", "b"]
        assert [doc["id"] for doc in server.search(asked(served.url), ids=["b", "c"])] == ["b"]
        assert (server.at_rest, server.filters) == (False, True)
    place = linked(tmp_path, {"a.json": json.dumps(GOOD[0])})
    file = opened(asked(place))
    linked(tmp_path, {})
    assert [doc["id"] for doc in file.search(asked(place))] == ["a"]
    assert (file.at_rest, file.filters) == (True, False)


def test_a_server_that_takes_no_filter_is_known_by_what_it_says() -> None:
    with live_stac_api(GOOD, filtering="none") as served:
        assert not opened(asked(served.url), fetch=QUICK).filters


def test_a_server_that_is_down_is_no_item_set_aside() -> None:
    with live_stac_api(GOOD) as served:
        served.down = True
        with pytest.raises(CatalogError, match="503"):
            found(served.url)
