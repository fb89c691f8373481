from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from shapely.geometry import MultiPolygon, Point, box, mapping
from shapely.geometry.base import BaseGeometry

from jobs.areas import area_km2, geometry_of, grown, projected
from jobs.spec import Area
from mapper.errors import SpecError
from tests.servers import files_over_http

HERE = Path()
GEOD = Geod(ellps="WGS84")
SQUARE = box(12, 55, 12.1, 55.1)


def test_a_box_is_the_area() -> None:
    assert geometry_of(Area(bbox=(12, 55, 12.1, 55.1)), folder=HERE).equals(SQUARE)


def test_wkt_is_the_area() -> None:
    assert geometry_of(Area(wkt=SQUARE.wkt), folder=HERE).equals(SQUARE)


def test_a_multipolygon_keeps_its_parts_and_its_holes() -> None:
    ring = SQUARE.difference(box(12.04, 55.04, 12.06, 55.06))
    both = MultiPolygon([ring, box(13, 55, 13.1, 55.1)])
    assert geometry_of(Area(wkt=both.wkt), folder=HERE).equals(both)


@pytest.mark.parametrize(
    "document",
    [
        mapping(SQUARE),
        {"type": "Feature", "properties": {}, "geometry": mapping(SQUARE)},
        {"type": "FeatureCollection", "features": [
            {"type": "Feature", "properties": {}, "geometry": mapping(box(12, 55, 12.05, 55.1))},
            {"type": "Feature", "properties": {}, "geometry": mapping(box(12.05, 55, 12.1, 55.1))}]},
    ],
)  # fmt: skip
def test_geojson_of_any_kind_is_the_area(tmp_path: Path, document: dict[str, object]) -> None:
    (tmp_path / "area.geojson").write_text(json.dumps(document))
    assert geometry_of(Area(geojson="area.geojson"), folder=tmp_path).equals(SQUARE)


def test_geojson_may_be_a_url(tmp_path: Path) -> None:
    (tmp_path / "area.geojson").write_text(json.dumps(mapping(SQUARE)))
    with files_over_http(tmp_path) as served:
        assert geometry_of(Area(geojson=f"{served.url}/area.geojson"), folder=HERE).equals(SQUARE)
        with pytest.raises(SpecError, match=r"area\.geojson has nothing at this address"):
            geometry_of(Area(geojson=f"{served.url}/gone.geojson"), folder=HERE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"), ("[]", "no GeoJSON geometry"), ('{"type": "Feature"}', "no GeoJSON geometry"),
        ('{"type": "Polygon"}', "no GeoJSON geometry"), ('{"type": "Point", "coordinates": [1, 2]}', "no surface"),
        ('{"type": "FeatureCollection", "features": []}', "no surface"),
        ('{"type": "Feature", "geometry": null}', "no GeoJSON geometry"),
    ],
)  # fmt: skip
def test_what_is_no_geojson_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "area.geojson").write_text(content)
    with pytest.raises(SpecError, match=says) as refused:
        geometry_of(Area(geojson="area.geojson"), folder=tmp_path)
    assert refused.value.fix


@pytest.mark.parametrize(
    ("wkt", "says"),
    [
        ("POLYGON((", "not WKT"), ("POINT(12 55)", "no surface"), ("POLYGON EMPTY", "no surface"),
        ("POLYGON((600000 6100000, 601000 6100000, 601000 6101000, 600000 6100000))", "not longitude and latitude"),
        ("POLYGON((55 91, 56 91, 56 92, 55 91))", "not longitude and latitude"),
    ],
)  # fmt: skip
def test_wkt_that_is_no_area_on_earth_is_named(wkt: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        geometry_of(Area(wkt=wkt), folder=HERE)
    assert refused.value.fix


def test_a_polygon_that_crosses_itself_is_mended() -> None:
    area = geometry_of(Area(wkt="POLYGON((12 55, 12.1 55.1, 12.1 55, 12 55.1, 12 55))"), folder=HERE)
    assert area.is_valid
    assert area.area == pytest.approx(0.005)


@given(st.floats(-179, 178), st.floats(-79, 78), st.floats(0.001, 0.5), st.floats(1, 20_000))
def test_a_grown_area_reaches_the_margin_in_every_direction(
    west: float, south: float, side: float, margin_m: float
) -> None:
    area = box(west, south, west + side, south + side)
    around = grown(area, margin_m)
    for corner in ((west, south), (west + side, south), (west, south + side), (west + side, south + side)):
        for azimuth in range(0, 360, 15):
            lon, lat, _ = GEOD.fwd(*corner, azimuth, margin_m)
            if abs(lon - corner[0]) < 90:  # not across the antimeridian
                assert around.buffer(1e-9).contains(Point(lon, lat))


@pytest.mark.parametrize("area", [SQUARE, box(0, 0, 1, 1), SQUARE.difference(box(12.04, 55.04, 12.06, 55.06))])
def test_the_surface_of_an_area_is_true(area: BaseGeometry) -> None:
    assert area_km2(area) == pytest.approx(projected(area, "EPSG:6933").area / 1e6, rel=1e-3)  # an equal-area CRS


def test_edges_that_are_straight_in_degrees_bend_when_they_are_projected() -> None:
    wide = box(9, 55, 15, 55.1)
    there = projected(wide, "EPSG:32633")
    assert len(shapely.get_coordinates(there)) > 100
    assert math.isclose(there.area / 1e6, area_km2(wide), rel_tol=5e-3)
