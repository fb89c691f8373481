"""Alerts as files: one table that grows, a STAC collection; on this machine and in a bucket."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import stac_pydantic
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from shapely.geometry import shape

from jobs.monitors.alert import Alert
from jobs.monitors.changed_file import read_back, written
from jobs.monitors.sinks.files import GrowingFile
from jobs.monitors.sinks.stac import AlertCatalog
from jobs.monitors.sinks.turn import alone_with
from mapper.errors import DeliveryError, MapperError
from mapper.storage import Folder
from tests.jobs.monitors.receiver import KEY, an_alert, squares
from tests.jobs.stac_examples import documents
from tests.jobs.stac_rules import EXTENSIONS, described

OTHER = "1111111111111111-2222222222222222"


# One table ------------------------------------------------------------------------------------------------------------


def test_a_file_grows_by_a_row_a_changed_polygon(tmp_path: Path) -> None:
    path = tmp_path / "new" / "alerts.parquet"
    sink = GrowingFile(str(path))
    sink.send(an_alert())
    sink.send(an_alert(key=OTHER, revises=KEY, change="vanished", polygons={"features": squares(1)}, count=1))
    table = gpd.read_parquet(path)
    assert sorted(zip(table["alert"], table["id"], strict=True)) == [
        (KEY, "lake-0"), (KEY, "lake-1"), (OTHER, "lake-0"),
    ]  # fmt: skip
    assert table.crs.to_epsg() == 4326 or table.crs.to_authority() == ("OGC", "CRS84")
    first = table[(table["alert"] == KEY) & (table["id"] == "lake-0")].iloc[0]
    assert first["area_m2"] == 900
    assert first["time"].isoformat() == "2020-08-31T00:00:00+00:00"
    assert first.geometry.equals(shape(squares(1)[0].geometry))
    assert table[table["alert"] == OTHER].iloc[0]["revises"] == KEY


def test_duckdb_opens_it_as_it_is(tmp_path: Path) -> None:
    GrowingFile(str(tmp_path / "alerts.parquet")).send(an_alert())
    rows = duckdb.execute(
        f"select change, count(*), sum(area_m2) from '{tmp_path}/alerts.parquet' where bbox.xmin < 12.005 group by 1"
    ).fetchall()
    assert rows == [("appeared", 1, 900.0)]


def test_what_comes_twice_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "alerts.parquet"
    for _ in range(3):
        GrowingFile(str(path)).send(an_alert())
    assert len(gpd.read_parquet(path)) == 2
    before = path.stat().st_mtime_ns
    GrowingFile(str(path)).send(an_alert())
    assert path.stat().st_mtime_ns == before


def test_what_is_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    gpd.GeoDataFrame({"name": ["x"]}, geometry=[shape(squares(1)[0].geometry)], crs=4326).to_parquet(path)
    other = tmp_path / "letter.txt"
    other.write_text("dear all")
    for taken in (path, other):
        content = taken.read_bytes()
        with pytest.raises(DeliveryError, match="left as it is"):
            GrowingFile(str(taken)).send(an_alert())
        assert taken.read_bytes() == content


def test_a_file_that_costs_too_much_to_write_again_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alerts.parquet"
    GrowingFile(str(path)).send(an_alert())
    monkeypatch.setattr("jobs.monitors.sinks.files.MOST_BYTES", 1000)
    with pytest.raises(DeliveryError, match="full"):
        GrowingFile(str(path)).send(an_alert(key=OTHER))
    assert len(gpd.read_parquet(path)) == 2


def test_a_place_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeliveryError, match="cannot be written"):
        GrowingFile(str(tmp_path / "file" / "alerts.parquet")).send(an_alert())


def test_several_that_grow_one_file_lose_no_row(tmp_path: Path) -> None:
    # Each opens the lock for itself, so it keeps threads apart as it does processes.
    path = str(tmp_path / "alerts.parquet")

    def grow(number: int) -> None:
        GrowingFile(path).send(an_alert(key=f"{number:016x}-{number:016x}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(grow, range(24)))
    assert gpd.read_parquet(path)["alert"].nunique() == 24


def test_a_file_in_a_bucket_grows_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.sinks.turn.SETTLE_S", 0.01)
    url = f"{bucket}/alerts/{KEY}.parquet"
    GrowingFile(url).send(an_alert())
    GrowingFile(url).send(an_alert(key=OTHER))
    folder = Folder(url.rpartition("/")[0])
    assert pq.read_table(pa.BufferReader(folder.read(f"{KEY}.parquet"))).num_rows == 4
    assert "lease.json" not in folder.names(f".{KEY}.parquet.turn/*")  # whoever is next need not wait


def test_whoever_comes_while_another_is_at_it_comes_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.sinks.turn.SETTLE_S", 0.01)
    folder = Folder(f"{bucket}/alerts-of-two")
    with alone_with(folder, "a.parquet"), pytest.raises(DeliveryError, match="somebody else"):
        GrowingFile(f"{folder.url}/a.parquet").send(an_alert())
    GrowingFile(f"{folder.url}/a.parquet").send(an_alert())
    assert folder.exists("a.parquet")


def test_polygons_beyond_those_in_the_alert_come_from_its_file(tmp_path: Path) -> None:
    places = tmp_path / "places.parquet"
    places.write_bytes(written(squares(5)))
    alert = an_alert(count=5, places=str(places))
    GrowingFile(str(tmp_path / "alerts.parquet")).send(alert)
    assert sorted(gpd.read_parquet(tmp_path / "alerts.parquet")["id"]) == [f"lake-{n}" for n in range(5)]
    assert read_back(places.read_bytes()) == squares(5)
    places.unlink()
    with pytest.raises(DeliveryError, match="is gone"):
        GrowingFile(str(tmp_path / "later.parquet")).send(alert)
    places.write_bytes(b"PAR1 and more")
    with pytest.raises(MapperError, match="damaged"):
        GrowingFile(str(tmp_path / "later.parquet")).send(alert)
    assert not (tmp_path / "later.parquet").exists()


def taken_back() -> Alert:
    return an_alert(
        key=OTHER, revises=KEY, over_threshold=False, area_m2=0.0, count=0, before=None, polygons={"features": ()}
    )


def test_what_takes_back_an_alert_has_no_row(tmp_path: Path) -> None:
    GrowingFile(str(tmp_path / "alerts.parquet")).send(taken_back())
    assert list(tmp_path.iterdir()) == []


# A STAC collection ----------------------------------------------------------------------------------------------------


def with_pictures(folder: Path, **changes: Any) -> Alert:
    for name in ("before", "after"):
        (folder / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())
    pictures = {name: str(folder / f"{name}.png") for name in ("before", "after")}
    return an_alert(pictures=pictures, **changes)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Two alerts, the second of which revises the first."""
    folder = tmp_path / "stac"
    first = with_pictures(tmp_path)
    AlertCatalog(str(folder)).send(first)
    AlertCatalog(str(folder)).send(
        first.model_copy(update={"key": OTHER, "revises": KEY, "time": first.time.replace(year=2021)})
    )
    return folder


def test_every_document_of_alerts_is_stac_1_1(catalog: Path) -> None:
    kinds = {"Collection": pystac.STACObjectType.COLLECTION, "Feature": pystac.STACObjectType.ITEM}
    models: dict[str, Any] = {"Collection": stac_pydantic.Collection, "Feature": stac_pydantic.Item}
    found = list(documents(catalog))
    for path, document in found:
        assert document["stac_version"] == "1.1.0"
        JsonSchemaSTACValidator().validate_core(document, kinds[document["type"]], "1.1.0", str(path))
        assert models[document["type"]].model_validate(document).id == document["id"]
        prefixes = {name.partition(":")[0] for part in described(document) for name in part if ":" in name}
        for prefix in prefixes - {"resmap"}:
            schema, fields = EXTENSIONS[prefix]
            assert schema in document["stac_extensions"]
            for part in described(document):
                assert all(fields[name](value) for name, value in part.items() if name in fields)
    assert len(found) == 3


def test_a_reader_walks_from_the_collection_to_every_picture(catalog: Path) -> None:
    moved = catalog.rename(catalog.with_name("elsewhere"))
    collection = pystac.Collection.from_file(str(moved / "collection.json"))
    items = {item.id: item for item in collection.get_items()}
    assert set(items) == {KEY, OTHER}
    for item in items.values():
        assert item.get_collection() is collection
        assert item.properties["resmap:area_m2"] == 1700
        assert item.properties["resmap:place"] == "Long Lake"
        for asset in item.assets.values():
            content = Path(str(asset.get_absolute_href())).read_bytes()
            assert len(content) == asset.extra_fields["file:size"]
    polygons = json.loads((moved / KEY / "polygons.geojson").read_text())
    assert [feature["id"] for feature in polygons["features"]] == ["lake-0", "lake-1"]
    (link,) = items[OTHER].get_links("predecessor-version")
    assert Path(str(link.get_absolute_href())) == moved / KEY / f"{KEY}.json"
    interval = collection.extent.temporal.intervals[0]
    assert [str(moment)[:10] for moment in interval] == ["2016-08-16", "2021-08-31"]


def test_an_alert_that_comes_twice_is_one_item_and_the_same_bytes(catalog: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in catalog.rglob("*.*") if path.is_file()}
    AlertCatalog(str(catalog)).send(with_pictures(tmp_path))
    assert {path: path.read_bytes() for path in catalog.rglob("*.*") if path.is_file()} == before


def test_a_picture_that_is_gone_is_no_asset(tmp_path: Path) -> None:
    alert = with_pictures(tmp_path)
    (tmp_path / "before.png").unlink()
    AlertCatalog(str(tmp_path / "stac")).send(alert)
    item = pystac.Item.from_file(str(tmp_path / "stac" / KEY / f"{KEY}.json"))
    assert set(item.assets) == {"after", "polygons"}


def test_what_takes_back_an_alert_is_an_item_over_its_place(catalog: Path) -> None:
    AlertCatalog(str(catalog)).send(taken_back())
    document = json.loads((catalog / OTHER / f"{OTHER}.json").read_text())
    JsonSchemaSTACValidator().validate_core(document, pystac.STACObjectType.ITEM, "1.1.0", "item")
    assert document["properties"]["resmap:over_threshold"] is False
    assert document["bbox"] == pytest.approx(an_alert().bbox, abs=1e-6)


@pytest.mark.parametrize("there", ['{"type": "Collection", "id": "mine"}', "[]", "no json", "{}"])
def test_a_collection_of_something_else_is_left_as_it_is(tmp_path: Path, there: str) -> None:
    (tmp_path / "collection.json").write_text(there)
    with pytest.raises(DeliveryError, match="left as it is"):
        AlertCatalog(str(tmp_path)).send(an_alert())
    assert (tmp_path / "collection.json").read_text() == there


def test_a_collection_in_a_bucket_is_one_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.sinks.turn.SETTLE_S", 0.01)
    url = f"{bucket}/stac-of-alerts"
    for key in (KEY, OTHER):
        AlertCatalog(url).send(an_alert(key=key))
    collection = json.loads(Folder(url).read("collection.json"))
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == [
        f"./{KEY}/{KEY}.json",
        f"./{OTHER}/{OTHER}.json",
    ]
