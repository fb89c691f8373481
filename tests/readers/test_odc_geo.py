"""odc-geo: a geobox, from CF."""

from __future__ import annotations

import itertools

import odc.geo.xr  # noqa: F401  # gives a Dataset its .odc
import pytest
import xarray as xr
from odc.geo.geobox import GeoBox

from tests.readers.golden import Golden, at, by_transform, scattered


@pytest.mark.parametrize("level", [0, 2, 5])
def test_the_geobox_of_a_level_is_its_grid(golden: Golden, level: int) -> None:
    grid = golden.grid(level)
    x, y = scattered(grid)
    with xr.open_zarr(golden.url, group=str(level), chunks=None) as dataset:
        geobox = dataset["mask"].odc.geobox
        assert geobox == dataset.odc.geobox
        assert geobox.crs.epsg == 32632
        assert geobox.shape == grid.shape
        assert geobox.transform == grid.lattice.transform(grid.box)
        read = by_transform(dataset["mask"][1, 0].to_numpy(), geobox.transform, x, y)
        assert (read == at(grid, golden.stored("mask", grid, prompt=1), x, y)).all()


def test_one_pixel_of_a_level_covers_two_by_two_of_the_finer(golden: Golden) -> None:
    with xr.open_datatree(golden.url, engine="zarr") as tree:
        boxes = [tree[str(grid.level)].to_dataset().odc.geobox for grid in golden.levels()]
    for finer, coarser in itertools.pairwise(boxes):
        assert coarser.resolution.x == 2 * finer.resolution.x
        assert coarser.boundingbox.left <= finer.boundingbox.left
        assert coarser.boundingbox.top >= finer.boundingbox.top


def test_two_zones_come_together_on_one_geobox(zones: Golden) -> None:
    over = GeoBox.from_bbox((11.99, 54.99, 12.01, 55.0), crs="EPSG:4326", shape=(60, 80))
    with xr.open_zarr(zones.url, group="utm33n/0") as dataset:
        warped = dataset["mask"][0, 0].load().odc.reproject(over, resampling="nearest", dst_nodata=255)
        assert warped.odc.geobox == over
        assert set(warped.to_numpy().ravel().tolist()) >= {0, 1, 255}
