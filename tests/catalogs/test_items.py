from __future__ import annotations

import contextlib
import gc
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from catalogs.footprints import footprint_of
from catalogs.items import item_from_stac, items_from_stac, lean
from catalogs.sensors import display_range, facts_for
from mapper.errors import CatalogError, MapperError, SpecError
from tests.catalogs.examples import real, real_items, stac_item

RGB = ("red", "green", "blue")


def test_an_item_says_what_a_reader_must_know() -> None:
    item = item_from_stac(stac_item("a"), bands=RGB, index=7)
    assert (item.id, item.collection, item.index, item.cloud_cover) == ("a", "fields", 7, 10.0)
    assert item.datetime == datetime(2024, 6, 1, 10, tzinfo=UTC)
    assert item.footprint.equals(box(10, 50, 11, 51))
    assert [band.index for band in item.bands] == [1, 2, 3]
    placement = item.bands[0].asset.placement
    assert placement is not None
    assert placement.crs == "EPSG:32632"
    assert placement.transform == Affine(10, 0, 600000, 0, -10, 5600000)
    assert placement.shape == (1000, 2000)


@pytest.mark.parametrize("reference", ["image:3", "image:blue", "image:B3", "blue", "B3", "Blue"])
def test_a_band_is_found_by_number_name_or_common_name(reference: str) -> None:
    (band,) = item_from_stac(stac_item(), bands=[reference]).bands
    assert (band.asset.key, band.index, band.name) == ("image", 3, reference)


def test_an_asset_key_goes_before_a_band_name() -> None:
    doc = stac_item()
    doc["assets"]["blue"] = {"href": "https://example.com/blue.tif"}
    (band,) = item_from_stac(doc, bands=["blue"]).bands
    assert band.asset.href == "https://example.com/blue.tif"


def test_an_asset_key_may_hold_colons() -> None:
    doc = stac_item(assets={"sr:red": {"href": "https://example.com/a.tif"}})
    assert [band.index for band in item_from_stac(doc, bands=["sr:red", "sr:red:2"]).bands] == [1, 2]


def test_a_band_s_name_means_the_measurement_not_the_picture_of_it() -> None:
    doc = stac_item(collection="sentinel-2-l2a")
    doc["assets"] = {
        "visual": {
            "href": "https://example.com/tci.tif",
            "eo:bands": [{"name": "B04", "common_name": "red"}] * 3,
        },
        "B04": {"href": "https://example.com/b04.tif", "eo:bands": [{"name": "B04", "common_name": "red"}]},
        "B04_60m": {
            "href": "https://example.com/b.tif",
            "gsd": 60,
            "eo:bands": [{"name": "B04", "common_name": "red"}],
        },
    }
    doc["assets"]["B04"]["gsd"] = 10
    assert item_from_stac(doc, bands=["red"]).bands[0].asset.key == "B04"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("rde", "did you mean 'red'"),
        ("image:4", "has image, red, B1"),
        ("image:0", "has image"),
        ("image", "3 bands"),
    ],
)
def test_a_band_that_is_not_there_is_an_error_that_names_those_that_are(reference: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        item_from_stac(stac_item("a"), bands=[reference])
    assert said in str(caught.value)


def test_a_band_name_of_two_different_bands_must_be_told_apart() -> None:
    doc = stac_item()
    doc["assets"] = {
        key: {"href": f"https://example.com/{key}.tif", "eo:bands": [{"name": key, "common_name": "rededge"}]}
        for key in ("B05", "B06")
    }
    with pytest.raises(SpecError, match=r"may be any of B05 \(B05\), B06 \(B06\)"):
        item_from_stac(doc, bands=["rededge"])


@pytest.mark.parametrize(
    "asset",
    [
        {"bands": [{"data_type": "uint16", "nodata": 0, "raster:scale": 0.1, "raster:offset": -1}]},
        {
            "data_type": "uint16",
            "nodata": 0,
            "raster:scale": 0.1,
            "raster:offset": -1,
            "bands": [{"name": "x"}],
        },
        {"data_type": "uint16", "nodata": 0, "raster:scale": 0.1, "raster:offset": -1},
        {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.1, "offset": -1}]},
        {
            "raster:bands": [{"data_type": "uint16", "nodata": "0", "scale": 0.1, "offset": -1}],
            "eo:bands": [{"name": "x"}],
        },
    ],
)
def test_scale_offset_nodata_and_kind_are_read_from_either_version_of_stac(asset: dict[str, Any]) -> None:
    doc = stac_item(assets={"x": {"href": "https://example.com/x.tif", **asset}})
    (band,) = item_from_stac(doc, bands=["x"]).bands
    assert (band.dtype, band.nodata, band.scale, band.offset) == ("uint16", 0.0, 0.1, -1.0)


def test_what_the_asset_states_goes_before_what_the_item_states() -> None:
    asset = {"href": "https://example.com/x.tif", "nodata": 5, "proj:epsg": 4326, "proj:shape": [2, 3]}
    asset["proj:transform"] = [0.5, 0, 10, 0, -0.5, 51, 0, 0, 1]
    (band,) = item_from_stac(stac_item(assets={"x": asset}, properties={"nodata": 9}), bands=["x"]).bands
    assert band.nodata == 5
    assert band.asset.placement is not None
    assert (band.asset.placement.crs, band.asset.placement.shape) == ("EPSG:4326", (2, 3))


@pytest.mark.parametrize(
    "asset",
    [
        {"proj:shape": [500, 1000]},  # an overview of its own shape does not lie as the item's transform says
        {"proj:transform": [20, 0, 0, 0, -20, 0]},
        {"proj:shape": [0, 5], "proj:transform": [1, 0, 0, 0, -1, 0]},
        {"proj:shape": [5, 5], "proj:transform": [0, 0, 0, 0, 0, 0]},
        {"proj:shape": [5, 5], "proj:transform": ["nan", 0, 0, 0, -1, 0]},
        {"proj:shape": "5x5", "proj:transform": [1]},
    ],
)
def test_a_placement_that_is_not_whole_is_none(asset: dict[str, Any]) -> None:
    doc = stac_item(assets={"x": {"href": "https://example.com/x.tif", **asset}})
    assert item_from_stac(doc, bands=["x"]).bands[0].asset.placement is None


def test_a_crs_may_be_stated_as_projjson() -> None:
    from pyproj import CRS

    properties = {"proj:code": None, "proj:projjson": json.loads(CRS("EPSG:2193").to_json())}
    placement = item_from_stac(stac_item(properties=properties), bands=["red"]).bands[0].asset.placement
    assert placement is not None
    assert placement.crs == "EPSG:2193"


def test_hrefs_are_kept_unsigned() -> None:
    doc = stac_item(assets={"x": {"href": "https://example.com/x.tif?se=1&sig=canary"}})
    assert item_from_stac(doc, bands=["x"]).bands[0].asset.href == "https://example.com/x.tif"


def test_a_range_of_dates_counts_by_its_middle() -> None:
    dates = {
        "datetime": None,
        "start_datetime": "2020-01-01T00:00:00Z",
        "end_datetime": "2020-01-03T00:00:00+00:00",
    }
    assert item_from_stac(stac_item(properties=dates), bands=[]).datetime == datetime(2020, 1, 2, tzinfo=UTC)


def test_zones_of_time_are_turned_into_utc() -> None:
    dates = {"datetime": "2020-01-01T00:30:00.123456789+05:45"}
    found = item_from_stac(stac_item(properties=dates), bands=[]).datetime
    assert found == datetime(2019, 12, 31, 18, 45, 0, 123456, tzinfo=UTC)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None}, {"id": ""}, {"geometry": None, "bbox": None},
        {"geometry": {"type": "Polygon"}, "bbox": None},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]}},
        {"geometry": {"type": "Circle", "coordinates": []}}, {"geometry": None, "bbox": ["a", 0, 0, 0]},
        {"properties": {"datetime": None}}, {"properties": {"datetime": "yesterday"}},
        {"properties": {"datetime": "2020-13-01T00:00:00Z"}},
    ],
)  # fmt: skip
def test_a_document_that_is_no_item_is_the_catalog_s_fault(changes: dict[str, Any]) -> None:
    with pytest.raises(CatalogError) as caught:
        item_from_stac(stac_item("bad", **changes), bands=["red"])
    assert caught.value.where
    pickle.loads(pickle.dumps(caught.value))


class TestFootprints:
    def test_a_missing_geometry_is_made_from_the_box(self) -> None:
        doc = stac_item(geometry=None, bbox=[10, 50, -5, 11, 51, 900])
        assert footprint_of(doc).equals(box(10, 50, 11, 51))

    def test_a_bow_tie_is_mended(self) -> None:
        doc = stac_item(geometry={"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]})
        assert footprint_of(doc).is_valid
        assert footprint_of(doc).area == pytest.approx(2)

    @pytest.mark.parametrize(
        ("ring", "bbox"),
        [
            ([[179, 0], [181, 0], [181, 1], [179, 1], [179, 0]], [179, 0, 181, 1]),
            ([[-181, 0], [-179, 0], [-179, 1], [-181, 1], [-181, 0]], None),
            ([[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]], [179, 0, -179, 1]),
            ([[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]], None),
            (None, [179, 0, -179, 1]),
        ],
    )
    def test_one_across_the_antimeridian_lies_on_either_side(self, ring: Any, bbox: Any) -> None:
        geometry = {"type": "Polygon", "coordinates": [ring]} if ring else None
        found = footprint_of(stac_item(geometry=geometry, bbox=bbox))
        both = box(179, 0, 180, 1).union(box(-180, 0, -179, 1))
        assert found.symmetric_difference(both).area == pytest.approx(0, abs=1e-9)

    def test_one_around_the_earth_stays_so(self) -> None:
        ring = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
        for bbox in ([-180, -90, 180, 90], None):
            doc = stac_item(geometry={"type": "Polygon", "coordinates": [ring]}, bbox=bbox)
            assert footprint_of(doc).area == 360 * 180

    def test_the_real_one_across_the_antimeridian_has_its_two_parts(self) -> None:
        name = "S2A_T01LAC_20200717T221944_L1C"
        path = real(f"stactools-sentinel2/sentinel2-l1c-example/{name}/{name}.json")
        found = footprint_of(json.loads(path.read_text()))
        assert [round(part.bounds[0]) for part in shapely.get_parts(found)] in ([-180, 179], [179, -180])


class TestSensors:
    def test_sentinel_2_hides_cloud_and_its_shadow_but_neither_snow_nor_bright_roofs(self) -> None:
        doc = stac_item(collection="sentinel-2-l2a")
        doc["assets"]["SCL"] = {"href": "https://example.com/scl.tif"}
        cloud = item_from_stac(doc, bands=[]).cloud
        assert cloud is not None
        assert cloud.values == {3, 8, 9, 10}
        assert cloud.band.asset.href == "https://example.com/scl.tif"

    def test_landsat_hides_four_bits(self) -> None:
        facts = facts_for("landsat-c2-l2")
        assert facts is not None
        assert facts.cloud_bits == 0b11110

    def test_an_item_without_its_cloud_band_has_no_cloud_mask(self) -> None:
        assert item_from_stac(stac_item(collection="sentinel-2-l2a"), bands=[]).cloud is None

    def test_nothing_is_known_of_an_unknown_collection(self) -> None:
        assert facts_for("fields") is None

    @pytest.mark.parametrize(
        ("baseline", "stated", "properties", "offset"),
        [
            ("05.10", {}, {}, -1000.0),
            ("04.00", {}, {}, -1000.0),
            ("03.01", {}, {}, 0.0),
            ("05.10", {"scale": 1e-4, "offset": -0.1}, {}, -0.1),
            ("05.10", {"scale": 1e-4, "offset": -0.1}, {"earthsearch:boa_offset_applied": True}, 0.0),
            ("05.10", {"scale": 1e-4, "offset": -0.1}, {"earthsearch:boa_offset_applied": False}, -0.1),
        ],
    )
    def test_sentinel_2_keeps_one_brightness_across_january_2022(
        self, baseline: str, stated: dict[str, Any], properties: dict[str, Any], offset: float
    ) -> None:
        doc = stac_item(collection="sentinel-2-l2a", properties={"s2:processing_baseline": baseline, **properties})
        asset = {"href": "https://example.com/b.tif", "eo:bands": [{"name": "B04"}], "raster:bands": [stated]}
        doc["assets"] = {"B04": asset, "SCL": asset, "visual": asset}
        assert item_from_stac(doc, bands=["B04"]).bands[0].offset == offset
        if not stated:
            assert item_from_stac(doc, bands=["visual"]).bands[0].offset == 0.0

    def test_the_display_range_is_in_the_units_that_the_items_state(self) -> None:
        doc = stac_item(collection="sentinel-2-l2a", assets={"B04": {"href": "https://example.com/b.tif"}})
        assert display_range(item_from_stac(doc, bands=["B04"])) == (0, 3000)
        doc["assets"]["B04"]["raster:bands"] = [{"scale": 1e-4}]
        assert display_range(item_from_stac(doc, bands=["B04"])) == (0, 0.3)
        doc["assets"]["B04"]["raster:bands"] = [{"data_type": "uint8"}]
        assert display_range(item_from_stac(doc, bands=["B04"])) is None


def test_every_real_item_becomes_an_item() -> None:
    for source, docs in real_items().items():
        for index, doc in enumerate(docs):
            bands = ("red",) if source.startswith("landsat-c2-l1") else RGB
            item = item_from_stac(doc, bands=bands, index=index)
            assert item.footprint.is_valid
            assert item.footprint.bounds[0] >= -180
            assert item.footprint.bounds[2] <= 180
            assert item.datetime.tzinfo is UTC
            assert len(item.bands) == len(bands)
            for band in item.bands:
                assert band.asset.placement is not None, (source, item.id)
                assert band.asset.placement.crs.startswith("EPSG:")


def test_the_real_placements_lie_under_their_footprints() -> None:
    from pyproj import Transformer

    for source, docs in real_items().items():
        for doc in docs[:10]:
            item = item_from_stac(doc, bands=["red"])
            placement = item.bands[0].asset.placement
            assert placement is not None
            x, y = placement.transform @ (placement.shape[1] / 2, placement.shape[0] / 2)
            centre = Transformer.from_crs(placement.crs, "EPSG:4326", always_xy=True).transform(x, y)
            around = item.footprint.buffer(1.0)  # a scene's footprint may be a corner of its raster
            assert around.contains(shapely.Point(centre)), (source, item.id)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-400, 400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)  # the first look at a CRS opens PROJ's database
@given(
    st.sampled_from(["id", "bbox", "geometry", "properties", "assets", "collection", "links"]),
    json_values,
)
def test_nonsense_in_a_document_is_one_of_our_errors_or_none(field: str, value: Any) -> None:
    doc = stac_item() | {field: value}
    with contextlib.suppress(MapperError):
        item_from_stac(doc, bands=["red"])


@settings(deadline=None)  # as above
@given(
    st.sampled_from(["href", "bands", "eo:bands", "raster:bands", "proj:shape", "proj:transform", "proj:code",
                     "proj:epsg", "proj:projjson", "proj:wkt2", "roles", "gsd", "nodata", "raster:scale"]),
    json_values,
)  # fmt: skip
def test_nonsense_in_an_asset_is_one_of_our_errors_or_none(field: str, value: Any) -> None:
    doc = stac_item()
    doc["assets"]["image"][field] = value
    with contextlib.suppress(MapperError):
        item_from_stac(doc, bands=["red", "image:2"])


def test_a_lean_item_is_read_as_the_whole_one() -> None:
    bands = {"naip": ["image:1"], "sentinel-2 table": ["B04", "B03"], "sentinel-2 json": ["red", "nir"]}
    shorter = 0
    for source, docs in real_items().items():
        for doc in docs[:20]:
            for asked in (bands.get(source, ["red"]), list(doc["assets"])[:2]):
                less = lean(doc, asked)
                assert _answer(less, asked) == _answer(doc, asked)
                shorter += len(less["assets"]) < len(doc["assets"])
    assert shorter > 100


def _answer(doc: dict[str, Any], bands: list[str]) -> object:
    try:
        return item_from_stac(doc, bands=bands)
    except SpecError as error:
        return str(error)


def test_a_lean_item_keeps_what_tells_cloud_and_the_link_to_itself() -> None:
    files = {key: {"href": f"https://example.com/{key}.tif"} for key in ("B04", "B03", "SCL", "visual")}
    links = [{"rel": rel, "href": "https://example.com"} for rel in ("root", "self")]
    doc = stac_item(collection="sentinel-2-l2a", assets=files, links=links)
    assert set(lean(doc, ["B04"])["assets"]) == {"B04", "SCL"}
    assert lean(doc, ["B04"])["links"] == links[1:]
    assert lean(doc, ["red"]) == doc  # a name, not an asset: it may be of any
    assert lean(doc, []) == doc


def test_many_items_are_numbered_and_their_hrefs_judged() -> None:
    docs = [stac_item(name) for name in "abc"]
    items = items_from_stac(iter(docs), bands=RGB, judge=str.upper)
    assert [(item.id, item.index) for item in items] == [("a", 0), ("b", 1), ("c", 2)]
    assert items[2].bands[0].asset.href == "HTTPS://EXAMPLE.COM/C.TIF"
    assert gc.isenabled()


def test_scenes_of_one_place_share_one_placement() -> None:
    one, other = (item_from_stac(stac_item(name), bands=RGB) for name in "ab")
    assert one.bands[0].asset.placement is other.bands[2].asset.placement


corners = st.tuples(st.floats(-190, 190), st.floats(-95, 95))


@settings(max_examples=100)
@given(st.lists(corners, min_size=2, max_size=6), st.booleans())
def test_a_plain_footprint_is_found_as_any_other_is(points: list[tuple[float, float]], closed: bool) -> None:
    ring = [list(point) for point in (*points, *points[: int(closed)])]
    west, south, east, north = shapely.MultiPoint(points).bounds
    plain = {"id": "a", "bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]}}
    # A third dimension is looked at with all others, and then left out.
    flat = {"type": "Polygon", "coordinates": [[[*point, 0.0] for point in ring]]}
    assert _place(plain) == _place({**plain, "geometry": flat})


def _place(doc: dict[str, Any]) -> object:
    try:
        return shapely.to_wkb(footprint_of(doc))
    except CatalogError as error:
        return error.what.partition(":")[0]
