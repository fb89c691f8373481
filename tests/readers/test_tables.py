"""GeoPandas, DuckDB and GDAL's vector side, on exported objects."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import geopandas
import pyarrow.parquet as pq
import pytest
import shapely

from jobs.exports import export_vectors
from tests.readers.golden import Golden, Place


@pytest.fixture(scope="module")
def objects(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("objects") / "building.parquet"
    (written,) = export_vectors(golden.url, out, prompt="building", time="2024-06")
    return Path(written.path)


def point(place: Place, table: geopandas.GeoDataFrame) -> shapely.Point:
    """A place, in the CRS of a table."""
    (there,) = geopandas.GeoSeries([shapely.Point(place.lonlat)], crs="OGC:CRS84").to_crs(table.crs)
    assert isinstance(there, shapely.Point)
    return there


def test_geopandas_finds_an_object_where_one_was_seen_and_nowhere_else(golden: Golden, objects: Path) -> None:
    table = geopandas.read_parquet(objects)
    assert table.crs is not None
    assert table.geometry.is_valid.all()
    for place in golden.places:
        assert table.contains(point(place, table)).sum() == (1 if place.mask == 1 else 0)


def test_geopandas_reads_a_window_of_it_by_its_bounding_boxes(golden: Golden, objects: Path) -> None:
    table = geopandas.read_parquet(objects)
    there = point(golden.places[0], table)
    few = geopandas.read_parquet(objects, bbox=there.bounds)
    assert 0 < len(few) < len(table)
    assert few.contains(there).sum() == 1


def test_duckdb_asks_it_without_any_extension(golden: Golden, objects: Path) -> None:
    table = geopandas.read_parquet(objects)
    there = point(golden.places[0], table)
    with duckdb.connect() as database:
        database.execute("SET autoinstall_known_extensions = false")
        counted = database.execute("SELECT count(*) FROM read_parquet(?)", [str(objects)]).fetchone()
        assert counted == (len(table),)
        near = database.execute(
            "SELECT count(*) FROM read_parquet(?) WHERE bbox.xmin <= ? AND bbox.xmax >= ? "
            "AND bbox.ymin <= ? AND bbox.ymax >= ?",
            [str(objects), there.x, there.x, there.y, there.y],
        ).fetchone()
    assert near is not None
    assert near[0] == sum(shapely.box(*bounds).intersects(there) for bounds in table.bounds.to_numpy())


def test_it_is_geoparquet_that_names_its_bounding_boxes(objects: Path) -> None:
    written = json.loads(pq.read_metadata(objects).metadata[b"geo"])
    assert written["version"] == "1.1.0"
    column = written["columns"][written["primary_column"]]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


@pytest.mark.parametrize("suffix", ["fgb", "gpkg", "geojson"])
def test_other_vector_formats_hold_the_same_objects(golden: Golden, objects: Path, suffix: str, tmp_path: Path) -> None:
    export_vectors(golden.url, tmp_path / f"building.{suffix}", prompt="building", time="2024-06")
    assert len(geopandas.read_file(tmp_path / f"building.{suffix}")) == pq.read_metadata(objects).num_rows
