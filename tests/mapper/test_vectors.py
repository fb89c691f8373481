"""Objects in files: everybody's tools read what the mosaic holds, and a file is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from mapper.errors import MosaicError, QuestionError, VerifyError
from mapper.exports.simplified import simplified
from mapper.exports.vectors import DRIVERS, write_vectors
from mapper.outlines import map_objects
from tests.mapper.mosaics import Known, known_mosaic, small_grid
from tests.mapper.test_outlines import LATTICE, drawn, found, laid, masks, raster

UTM = small_grid("EPSG:32633", 10.0, (500_000, 5_000_000))
ZONES = (
    small_grid("EPSG:32632", 10.0, (500_000, 5_000_000), name="utm32n"),
    small_grid("EPSG:32633", 10.0, (400_000, 5_000_000), name="utm33n"),
)
FILES = pytest.mark.parametrize("ending", list(DRIVERS))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_mosaic([UTM], url=str(tmp_path_factory.mktemp("known") / "map.zarr"), seed=3)


def count(known: Known, *, prompt: int = 0, time: int = 1) -> int:
    return sum(len(batch) for batch in map_objects(known.mosaic, known.grid, prompt=prompt, time=time))


def read(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)


@FILES
def test_every_format_holds_every_object_with_what_is_known_of_it(known: Known, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"lakes{ending}"
    told = write_vectors(known.url, out, prompt="lake")
    table = read(out)
    whole = list(map_objects(known.mosaic, known.grid, prompt=1, time=1))
    assert told.objects == len(table) == table["id"].nunique() == sum(len(batch) for batch in whole) > 0
    assert set(table["prompt"]) == {"lake"}
    assert set(table["expression"]) == {"all the lakes"}
    assert {str(moment)[:16] for moment in table["time"]} == {"2024-06-01 10:30"}
    assert sorted(table["area_m2"]) == sorted(np.concatenate([batch.area_m2 for batch in whole]))
    assert sorted(table["score"]) == sorted(np.concatenate([batch.score for batch in whole]))
    assert table.geometry.is_valid.all()


@pytest.mark.parametrize("ending", [".parquet", ".gpkg", ".fgb"])
def test_a_mosaic_of_one_grid_keeps_its_crs_and_its_outlines(known: Known, tmp_path: Path, ending: str) -> None:
    write_vectors(known.url, tmp_path / f"a{ending}", prompt="building")
    table = read(tmp_path / f"a{ending}")
    assert table.crs == CRS.from_epsg(32633)
    assert table.area.sum() == 100 * int((known.masks[""][0, 1] == 1).sum())


@FILES
def test_several_zones_are_one_file_in_longitude_and_latitude(tmp_path: Path, ending: str) -> None:
    known = known_mosaic(ZONES, url=str(tmp_path / "map.zarr"))
    write_vectors(known.url, tmp_path / f"a{ending}", prompt="building")
    table = read(tmp_path / f"a{ending}")
    assert table.crs.to_epsg() == 4326 or table.crs == CRS.from_user_input("OGC:CRS84")
    west, south, east, north = table.total_bounds
    assert (8 < west < 10, 13 < east < 14.5) == (True, True)
    assert 44 < south < north < 46
    assert {name.split("_")[2] for name in table["id"]} == {"utm32n", "utm33n"}
    assert table.geometry.is_valid.all()


@FILES
@pytest.mark.parametrize("kind", ["polygons", "boxes"])
def test_what_lies_across_the_antimeridian_is_parted_there(tmp_path: Path, ending: str, kind: str) -> None:
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(180, -17)
    grid = small_grid("EPSG:32660", 10.0, (x - 500, y + 300))
    known = known_mosaic([grid, ZONES[0]], url=str(tmp_path / "map.zarr"), seed=5)
    write_vectors(known.url, tmp_path / f"a{ending}", prompt="building", kind=kind)
    table = read(tmp_path / f"a{ending}")
    parts = table.geometry.explode(index_parts=False)
    assert (parts.total_bounds[[0, 2]] == [-180, 180]).all()
    assert (parts.bounds.maxx - parts.bounds.minx < 0.02).all()
    assert table.geometry.is_valid.all()
    projected = table[table["id"].str.contains("_r1")].to_crs(32660).area  # rows of the grid south of the equator
    if kind == "polygons":
        assert projected.sum() == pytest.approx(100 * int((known.masks[grid.name][0, 1] == 1).sum()), rel=1e-5)


def test_geojson_is_in_longitude_and_latitude_with_ids(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.geojson", prompt="building")
    document = json.loads((tmp_path / "a.geojson").read_text())
    first = document["features"][0]
    assert first["id"].startswith("building-")
    assert 44 < shapely.geometry.shape(first["geometry"]).centroid.y < 46


def test_geoparquet_tells_what_the_standard_asks_and_where_nobody_looked(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.parquet", prompt="building")
    metadata = pq.read_metadata(tmp_path / "a.parquet").metadata
    geo, ours = json.loads(metadata[b"geo"]), json.loads(metadata[b"resmap"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert CRS.from_json_dict(column["crs"]) == CRS.from_epsg(32633)
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    table = gpd.read_parquet(tmp_path / "a.parquet")
    assert column["bbox"] == table.total_bounds.tolist()
    assert set(column["geometry_types"]) == set(table.geom_type)
    mask = known.masks[""][0, 1]
    assert ours["pixels"] == {
        "observed": int((mask < 2).sum()),
        "unobserved": int((mask == 254).sum()),
        "unmapped": int((mask == 255).sum()),
    }
    assert ours["mosaic"] == "map.zarr"


def test_a_reader_of_geoparquet_takes_a_box_alone(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.parquet", prompt="building")
    table = gpd.read_parquet(tmp_path / "a.parquet")
    west, south, east, north = table.total_bounds
    box = (west, south, (west + east) / 2, (south + north) / 2)
    some = gpd.read_parquet(tmp_path / "a.parquet", bbox=box)
    assert set(some["id"]) == set(table[table.intersects(shapely.box(*box))]["id"])
    assert 0 < len(some) < len(table)


def test_duckdb_reads_it_without_being_told_anything(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.parquet", prompt="building")
    asked: Any = duckdb.sql(
        f"select count(*), sum(area_m2), min(bbox.xmin) from read_parquet('{tmp_path / 'a.parquet'}')"
    )
    (answer,) = asked.fetchall()
    table = gpd.read_parquet(tmp_path / "a.parquet")
    assert answer[0] == len(table)
    assert answer[1] == pytest.approx(table["area_m2"].sum(), rel=1e-12)
    assert answer[2] == table.total_bounds[0]


def test_all_prompts_go_into_one_file_where_none_is_named(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.parquet")
    table = gpd.read_parquet(tmp_path / "a.parquet")
    assert table["prompt"].value_counts().to_dict() == {"building": count(known), "lake": count(known, prompt=1)}


def test_an_object_has_the_same_id_in_every_export(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.parquet", prompt="building")
    write_vectors(known.url, tmp_path / "b.gpkg", kind="boxes")
    assert set(read(tmp_path / "a.parquet")["id"]) < set(read(tmp_path / "b.gpkg")["id"])


def test_boxes_lie_around_the_outlines_and_points_in_them(known: Known, tmp_path: Path) -> None:
    for kind in ("polygons", "boxes", "points"):
        write_vectors(known.url, tmp_path / f"{kind}.parquet", prompt="building", kind=kind)
    tables = {path.stem: gpd.read_parquet(path).set_index("id") for path in tmp_path.glob("*.parquet")}
    outlines = tables["polygons"].geometry
    assert (tables["boxes"].geometry.loc[outlines.index].bounds == outlines.bounds).all(axis=None)
    assert outlines.contains(tables["points"].geometry.loc[outlines.index]).all()


@FILES
def test_where_there_is_no_object_there_is_a_valid_file_of_none(tmp_path: Path, ending: str) -> None:
    mosaic, _ = laid(np.zeros((20, 20), np.uint8), 16, str(tmp_path / "map.zarr"))
    told = write_vectors(mosaic.url, tmp_path / f"a{ending}")
    table = read(tmp_path / f"a{ending}")
    assert told.objects == len(table) == 0
    assert {"id", "score", "area_m2"} <= set(table.columns) or ending == ".geojson"  # which has no columns of its own


def test_a_file_may_lie_in_a_bucket(known: Known) -> None:
    write_vectors(known.url, "memory://vectors/a.parquet", prompt="building")
    with fsspec.open("memory://vectors/a.parquet") as file:
        assert len(gpd.read_parquet(file)) == count(known)


# Simplified ----------------------------------------------------------------------------------------------------------


@given(masks(), st.sampled_from([0.5, 1.0, 3.0]))
def test_simplified_outlines_are_valid_and_apart_and_as_many(mask: Any, tolerance_px: float) -> None:
    objects = found(*laid(mask, 16))
    outlines = objects.geometry
    simple = simplified(outlines, LATTICE, tolerance_px)
    assert shapely.is_valid(simple).all()
    assert (shapely.area(simple) > 0).all()
    assert (shapely.get_num_coordinates(simple) <= shapely.get_num_coordinates(outlines)).all()
    one, other = shapely.STRtree(simple).query(simple, predicate="intersects")
    pairs = one < other
    shared = shapely.area(shapely.intersection(simple[one[pairs]], simple[other[pairs]]))
    assert (shared < 1e-5 * LATTICE.res_x**2).all()  # the hair of a millionth of a pixel, along a few pixels


def test_the_border_of_a_turned_house_becomes_straight() -> None:
    y, x = np.mgrid[:60, :60] - 30.0
    mask = ((np.abs(3 * x + y) < 60) & (np.abs(x - 3 * y) < 40)).astype(np.uint8)
    (outline,) = found(*laid(mask, 64)).geometry
    (simple,) = simplified(np.array([outline]), LATTICE, 1.0)
    assert shapely.get_num_coordinates(simple) < shapely.get_num_coordinates(outline) / 4
    assert simple.area == pytest.approx(outline.area, rel=0.03)  # a house of 38 × 25 pixels has a border of 13 %


def test_simplified_outlines_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    mask = drawn("##..#", "#.##.", "..##.", "#...#").repeat(7, axis=0).repeat(5, axis=1)
    tables = []
    for shard in (8, 16, 64):
        mosaic, _ = laid(mask, shard, str(tmp_path / f"{shard}.zarr"))
        write_vectors(mosaic.url, tmp_path / f"{shard}.parquet", simplify_px=1.5)
        tables.append(gpd.read_parquet(tmp_path / f"{shard}.parquet").sort_values("id").geometry.to_wkb().tolist())
    assert tables[0] == tables[1] == tables[2]


# What is wrong is said, and leaves nothing behind --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"prompt": "bulding"}, "building"),
        ({"time": "2019"}, "2024"),
        ({"kind": "polygon"}, "polygons"),
        ({"out": "a.shp"}, ".gpkg"),
        ({"simplify_px": -1.0}, "1 or 2"),
    ],
)
def test_a_question_that_cannot_be_asked_says_what_can(
    known: Known, tmp_path: Path, asked: dict[str, Any], remedy: str
) -> None:
    out = tmp_path / asked.pop("out", "a.parquet")
    with pytest.raises(QuestionError) as caught:
        write_vectors(known.url, out, **asked)
    assert remedy in caught.value.fix
    assert list(tmp_path.iterdir()) == []


@FILES
def test_a_folder_that_is_not_there_is_named_before_any_work(known: Known, tmp_path: Path, ending: str) -> None:
    with pytest.raises(MosaicError, match="nothing can be written there") as caught:
        write_vectors(known.url, tmp_path / "none" / f"a{ending}")
    assert "make the folder" in caught.value.fix


@FILES
def test_a_damaged_shard_leaves_the_file_that_was_there(tmp_path: Path, ending: str) -> None:
    known = known_mosaic([UTM], url=str(tmp_path / "map.zarr"), missing=False)
    out = tmp_path / f"a{ending}"
    write_vectors(known.url, out, kind="boxes")
    before = out.read_bytes()
    shard = max((tmp_path / "map.zarr/0/score/c").rglob("*/1/2"))
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(VerifyError):
        write_vectors(known.url, out, kind="boxes")
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, "map.zarr"])


def test_the_raster_of_a_file_is_the_mask(known: Known, tmp_path: Path) -> None:
    write_vectors(known.url, tmp_path / "a.fgb", prompt="building")
    table = read(tmp_path / "a.fgb")
    assert ((raster(table.geometry.to_numpy(), known.grid) > 0) == (known.masks[""][0, 1] == 1)).all()
