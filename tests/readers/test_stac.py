"""pystac, on the catalog of a mosaic: what it points at is there, and lies where it says."""

from __future__ import annotations

from pathlib import Path

import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pystac.extensions.projection import ProjectionExtension

from jobs.stac.published import publish
from tests.readers.golden import Golden


@pytest.fixture(scope="module")
def catalog(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> pystac.Catalog:
    folder: Path = tmp_path_factory.mktemp("stac")
    done = publish(golden.url, folder, formats=("cog",))
    return pystac.Catalog.from_file(str(done.catalog))


def test_the_tree_is_whole_and_its_collection_covers_its_items(golden: Golden, catalog: pystac.Catalog) -> None:
    (collection,) = catalog.get_collections()
    items = list(collection.get_items())
    assert len(items) == len(golden.mosaic.times)
    west, south, east, north = collection.extent.spatial.bboxes[0]
    longitude, latitude = golden.places[0].lonlat
    for item in items:
        assert item.get_collection() is collection
        assert item.bbox is not None
        assert west <= item.bbox[0] < longitude < item.bbox[2] <= east
        assert south <= item.bbox[1] < latitude < item.bbox[3] <= north


def test_the_zarr_asset_opens_at_the_time_of_its_item(golden: Golden, catalog: pystac.Catalog) -> None:
    for item, time in zip(sorted(catalog.get_items(recursive=True), key=lambda item: item.id), (0, 1), strict=True):
        asset = item.assets["zarr"]
        assert asset.media_type == "application/vnd.zarr; version=3"
        with xr.open_zarr(asset.get_absolute_href(), chunks=None) as dataset:
            assert (dataset["mask"][0, time].to_numpy() == golden.stored("mask", golden.grid(), time=time)).all()


def test_a_file_lies_where_its_asset_says_and_has_the_values_it_names(golden: Golden, catalog: pystac.Catalog) -> None:
    item = min(catalog.get_items(recursive=True), key=lambda item: item.id)
    place = golden.places[0]
    asset = item.assets["mask-building"]
    projection = ProjectionExtension.ext(asset)
    href = asset.get_absolute_href()
    assert href is not None
    with rasterio.open(href) as file:
        assert projection.transform is not None
        assert Affine(*projection.transform[:6]) == file.transform
        assert projection.shape == list(file.shape)
        assert projection.code == f"EPSG:{file.crs.to_epsg()}"
        assert next(file.sample([(place.x, place.y)])).tolist() == [place.mask]
    names = {entry["value"]: entry["name"] for entry in asset.extra_fields["classification:classes"]}
    assert names == {0: "absent", 1: "present", 254: "unobserved", 255: "unmapped"}
