"""GDAL, through rasterio: an exported GeoTIFF today, the Zarr itself once GDAL reads shards."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError

from jobs.exports import export_cog
from tests.readers.golden import Golden, at, by_transform, scattered


@pytest.fixture(scope="module")
def cog(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cog") / "building.tif"
    (written,) = export_cog(golden.url, out, prompt="building", time="2024-06")
    return Path(written.path)


@pytest.mark.parametrize("level", [0, 1])
def test_every_place_in_it_has_its_value_and_what_it_leaves_out_is_unmapped(
    golden: Golden, cog: Path, level: int
) -> None:
    grid = golden.grid(level)
    x, y = scattered(grid)
    options = {"overview_level": level - 1} if level else {}
    with rasterio.open(cog, **options) as file:
        assert file.transform.a == -file.transform.e == grid.lattice.res_x
        left, bottom, right, top = file.bounds
        within = (x > left) & (x < right) & (y > bottom) & (y < top)
        stored = at(grid, golden.stored("mask", grid), x, y)
        assert (by_transform(file.read(1), file.transform, x[within], y[within]) == stored[within]).all()
    assert (stored[~within] == 255).all()


def test_the_file_says_what_it_is(golden: Golden, cog: Path) -> None:
    with rasterio.open(cog) as file:
        assert file.crs.to_epsg() == 32632
        assert (file.count, file.dtypes[0], file.nodata) == (1, "uint8", 255)
        assert file.overviews(1)[0] == 2
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        for place in golden.places[:3]:
            assert next(file.sample([(place.x, place.y)])).tolist() == [place.mask]


def test_values_have_colours_and_names(cog: Path) -> None:
    with rasterio.open(cog) as file:
        assert file.colorinterp[0] == ColorInterp.palette
        colours = file.colormap(1)
    shown = {value: colours[value] for value in (0, 1, 254)}
    assert len(set(shown.values())) == 3
    assert all(colour[3] == 255 for colour in shown.values())


def test_a_gdal_before_3_13_says_that_it_cannot_read_shards(golden: Golden) -> None:
    """Once this fails, the GDAL of rasterio's wheels reads mosaics, and docs/opening.md should say so."""
    with pytest.raises(RasterioIOError, match="Unsupported codec: sharding_indexed"):
        rasterio.open(f'ZARR:"{golden.path}":/0/mask')
