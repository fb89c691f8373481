"""rio-tiler: by coordinates through xarray, and by the Zarr conventions alone."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
import zarr
from rasterio.crs import CRS
from rio_tiler.errors import RioTilerExperimentalWarning
from rio_tiler.io import XarrayReader

from tests.readers.golden import Golden, Place, at, by_transform, scattered, tile_around

UTM = CRS.from_epsg(32632)


@pytest.fixture(scope="module")
def geozarr() -> ModuleType:
    """The readers that know the conventions; importing them warns that they may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RioTilerExperimentalWarning)
        from rio_tiler.experimental import zarr as module
    return module


@pytest.fixture(scope="module")
def geoarray(geozarr: ModuleType) -> ModuleType:
    from rio_tiler.experimental import xarray as module

    return module


def layer(golden: Golden, place: Place, level: int = 0) -> xr.DataArray:
    dataset = xr.open_zarr(golden.url, group=str(level), chunks=None)
    mask: xr.DataArray = dataset["mask"].isel(prompt=place.prompt, time=place.time)
    return mask


@pytest.mark.parametrize("level", [0, 2])
def test_a_point_has_its_value(golden: Golden, level: int) -> None:
    for place in golden.places:
        with XarrayReader(layer(golden, place, level)) as reader:
            assert reader.crs == UTM
            assert reader.point(place.x, place.y, coord_crs=UTM).data.tolist() == [place.mask]


@pytest.mark.parametrize("level", [0, 2])
def test_a_web_tile_has_the_value_of_a_place_at_its_pixel(golden: Golden, level: int) -> None:
    for place in golden.places[:3]:
        x, y, z, row, column = tile_around(place)
        with XarrayReader(layer(golden, place, level)) as reader:
            image = reader.tile(x, y, z, tilesize=256, nodata=255)
        assert image.array[0, row, column] == place.mask
        assert not image.array.mask[0, row, column]  # unobserved is no nodata: it is looked at and kept


def test_with_255_as_nodata_what_nobody_mapped_is_transparent(golden: Golden) -> None:
    (unmapped,) = [place for place in golden.places if place.mask == 255]
    x, y, z, row, column = tile_around(unmapped)
    with XarrayReader(layer(golden, unmapped), options={"nodata": 255}) as reader:
        assert reader.tile(x, y, z, tilesize=256).array.mask[0, row, column]


@pytest.mark.parametrize("level", [0, 2])
def test_the_conventions_of_an_array_say_where_it_lies(golden: Golden, geoarray: ModuleType, level: int) -> None:
    grid = golden.grid(level)
    for place in golden.places:
        with geoarray.GeoArrayReader(layer(golden, place, level)) as reader:
            assert reader.crs == UTM
            assert reader.transform == grid.lattice.transform(grid.box)
            assert reader.bounds == grid.lattice.bounds(grid.box)
            assert reader.point(place.x, place.y, coord_crs=UTM).data.tolist() == [place.mask]


def test_the_group_reader_knows_every_level_of_every_layer(golden: Golden, geozarr: ModuleType) -> None:
    with geozarr.GroupReader(zarr.open_group(golden.url, mode="r")) as reader:
        assert reader.crs == UTM
        assert reader.bounds == golden.grid().lattice.bounds(golden.grid().box)
        assert (reader.height, reader.width) == golden.grid().shape
        assert [variable["name"] for variable in reader.list_variables()] == ["mask", "score", "source"]
        assert reader.minzoom < reader.maxzoom
        for levels in reader.get_group_metadata()["arrays"].values():
            for level, grid in zip(levels, golden.levels(), strict=True):
                assert level["transform"] == grid.lattice.transform(grid.box)
                assert (level["height"], level["width"]) == grid.shape


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_group_reader_takes_the_level_that_suits_and_places_it_right(
    golden: Golden, geozarr: ModuleType, level: int
) -> None:
    grid = golden.grid(level)
    with geozarr.GroupReader(zarr.open_group(golden.url, mode="r")) as reader:
        height, width = grid.shape
        bounds = grid.lattice.bounds(grid.box)
        image = reader.part(bounds, bounds_crs=UTM, variables="source", height=height, width=width)
        x, y = scattered(grid)
        for time in (0, 1):
            stored = at(grid, golden.stored("source", grid, time=time), x, y)
            seen = stored != np.iinfo(np.uint32).max
            assert (by_transform(~image.array.mask[time], image.transform, x, y) == seen).all()
            assert (by_transform(image.array.data[time], image.transform, x, y) == stored)[seen].all()


def test_the_group_reader_finds_the_trees_of_zones(zones: Golden, geozarr: ModuleType) -> None:
    with geozarr.GroupReader(zarr.open_group(zones.url, mode="r")) as reader:
        names = {variable["long_name"] for variable in reader.list_variables()}
        assert names == {f"{zone}:{name}" for zone in ("utm32n", "utm33n") for name in ("mask", "score", "source")}
        grid = zones.grid(0, "utm33n")
        assert reader.get_bounds(variables="utm33n:source", crs=CRS.from_epsg(32633)) == grid.lattice.bounds(grid.box)


def test_the_group_reader_does_not_yet_choose_from_a_fourth_axis(golden: Golden, geozarr: ModuleType) -> None:
    """Once it does, docs/opening.md may say so."""
    with (
        geozarr.GroupReader(zarr.open_group(golden.url, mode="r")) as reader,
        pytest.raises(ValueError, match="Expected 2D or 3D array, got 4D"),
    ):
        reader.preview(variables="mask")
