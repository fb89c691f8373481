"""Any CRS a job may name: degrees, poles, feet, skewed grids, one without a code."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import odc.geo.xr  # noqa: F401  # gives a Dataset its .odc
import pytest
import rioxarray  # noqa: F401  # gives a Dataset its .rio
import xarray as xr
from pyproj import CRS
from rio_tiler.io import XarrayReader

from mapper.grid import Grid, Lattice
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt

WITHOUT_A_CODE = CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80").to_wkt()

PLACES = {
    "degrees": ("EPSG:4326", 1e-4, (11.99, 54.99, 12.03, 55.01)),
    "degrees, longitude first": ("OGC:CRS84", 1e-4, (11.99, 54.99, 12.03, 55.01)),
    "web mercator": ("EPSG:3857", 2.0, (1335000.0, 7360000.0, 1335800.0, 7360500.0)),
    "south pole": ("EPSG:3031", 10.0, (100000.0, 200000.0, 103000.0, 203000.0)),
    "north pole": ("EPSG:3413", 10.0, (100000.0, -200000.0, 103000.0, -197000.0)),
    "north and east the other way round": ("EPSG:3035", 10.0, (4321000.0, 3210000.0, 4323000.0, 3212000.0)),
    "skewed, and more than CF can say": ("EPSG:2056", 5.0, (2600000.0, 1200000.0, 2602000.0, 1202000.0)),
    "feet": ("EPSG:2263", 10.0, (900000.0, 200000.0, 902000.0, 202000.0)),
    "no code": (WITHOUT_A_CODE, 10.0, (4321000.0, 3210000.0, 4323000.0, 3212000.0)),
}


@pytest.mark.parametrize("place", PLACES)
def test_each_reader_finds_the_crs_and_the_transform_of_each_level(place: str, tmp_path: Path) -> None:
    crs, resolution, bounds = PLACES[place]
    lattice = Lattice(crs=crs, res_x=resolution, res_y=resolution)
    grid = Grid.over(lattice, bounds, shard_px=96, chunk_px=48)
    prompts = (Prompt(name="lake", expression="the lakes", threshold=0.5),)
    times = (datetime(2024, 6, 1, tzinfo=UTC),)
    Mosaic.create(str(tmp_path / "map"), MosaicSpec(grids=(grid,), prompts=prompts, times=times, made_by={}))
    for level in grid.pyramid():
        transform = level.lattice.transform(level.box)
        with xr.open_zarr(tmp_path / "map", group=level.path, chunks=None) as dataset:
            mask = dataset["mask"][0, 0]
            assert CRS.from_user_input(mask.rio.crs) == CRS.from_user_input(crs)
            assert CRS.from_user_input(mask.odc.geobox.crs.proj) == CRS.from_user_input(crs)
            # Of the coordinates, which are sums in float64, a millionth of a pixel is left.
            assert mask.rio.transform().almost_equals(transform, 1e-6 * resolution)
            assert mask.odc.geobox.transform.almost_equals(transform, 1e-6 * resolution)
            with XarrayReader(mask) as reader:
                west, south, east, north = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
                assert -180 <= west < east <= 180
                assert -90 <= south < north <= 90
