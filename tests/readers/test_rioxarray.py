"""rioxarray: where it lies, from CF or from the conventions alone."""

from __future__ import annotations

import numpy as np
import pytest
import rioxarray  # noqa: F401  # gives a Dataset its .rio
import xarray as xr

from tests.readers.golden import Golden, at, by_transform, scattered, steps


@pytest.mark.parametrize("level", [0, 2, 5])
def test_crs_transform_and_values_agree(golden: Golden, level: int) -> None:
    grid = golden.grid(level)
    x, y = scattered(grid)
    with xr.open_zarr(golden.url, group=str(level), chunks=None) as dataset:
        assert dataset.rio.crs.to_epsg() == dataset["mask"].rio.crs.to_epsg() == 32632
        assert dataset["mask"].rio.shape == grid.shape
        assert dataset["mask"].rio.bounds() == grid.lattice.bounds(grid.box)
        for prompt, time in steps(golden):
            mask = dataset["mask"][prompt, time]
            stored = golden.stored("mask", grid, time=time, prompt=prompt)
            assert (by_transform(mask.to_numpy(), mask.rio.transform(), x, y) == at(grid, stored, x, y)).all()


def test_a_zone_has_its_own_crs(zones: Golden) -> None:
    for tree, epsg in (("utm32n", 32632), ("utm33n", 32633)):
        grid = zones.grid(2, tree)
        with xr.open_zarr(zones.url, group=grid.path) as dataset:
            assert dataset.rio.crs.to_epsg() == epsg
            assert dataset["source"].rio.bounds() == grid.lattice.bounds(grid.box)


def test_warped_to_degrees_a_place_keeps_its_value_and_what_lies_outside_is_unmapped(golden: Golden) -> None:
    with xr.open_zarr(golden.url, group="0", chunks=None) as dataset:
        for place in golden.places[:3]:
            longitude, latitude = place.lonlat
            mask = dataset["mask"][place.prompt, place.time].load().rio.reproject("EPSG:4326")
            assert int(mask.sel(x=longitude, y=latitude, method="nearest")) == place.mask
        assert set(np.unique(mask)) == {0, 1, 254, 255}  # nearest, and its own fill value is that of uint8: 255
        assert int(mask[0, 0]) == 255


def test_a_box_of_the_map_is_cut_by_coordinates(golden: Golden) -> None:
    place = golden.places[0]
    box = (place.x - 2, place.y - 2, place.x + 2, place.y + 2)
    with xr.open_zarr(golden.url, group="0", chunks=None) as dataset:
        cut = dataset["mask"][place.prompt, place.time].rio.clip_box(*box)
        assert (cut.to_numpy() == place.mask).all()
