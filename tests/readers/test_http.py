"""A mosaic behind a plain web server: no listing of folders, only files and ranges of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import xarray as xr
import zarr

from tests.readers.golden import Golden
from tests.servers import FileServer, files_over_http


@pytest.fixture
def server(golden: Golden) -> Iterator[FileServer]:
    with files_over_http(golden.path) as running:
        yield running


def test_a_level_opens_by_its_address_and_its_places_have_their_values(golden: Golden, server: FileServer) -> None:
    with xr.open_zarr(server.url, group="0", chunks=None) as dataset:
        for place in golden.places:
            mask = dataset["mask"].isel(prompt=place.prompt, time=place.time)
            assert int(mask.sel(x=place.x, y=place.y, method="nearest")) == place.mask


def test_all_levels_are_found_without_a_listing(golden: Golden, server: FileServer) -> None:
    with xr.open_datatree(server.url, engine="zarr", chunks=None) as tree:
        assert set(tree.children) == {str(grid.level) for grid in golden.levels()}


def test_a_zone_opens_by_its_own_address_with_all_its_levels(zones: Golden) -> None:
    with files_over_http(zones.path) as server:
        with xr.open_datatree(f"{server.url}/utm33n", engine="zarr", chunks=None) as tree:
            assert set(tree.children) == {str(grid.level) for grid in zones.levels("utm33n")}
        level = zarr.open_group(f"{server.url}/utm33n", mode="r")["2"]
        assert isinstance(level, zarr.Group)
        assert set(level.array_keys()) >= {"mask", "score", "source"}


def test_one_pixel_costs_a_few_ranges_of_one_shard(golden: Golden, server: FileServer) -> None:
    place = golden.places[0]
    with xr.open_zarr(server.url, group="0", chunks=None) as dataset:
        before = len(server.requests)
        int(dataset["mask"][place.prompt, place.time].sel(x=place.x, y=place.y, method="nearest"))
    asked = [request.path for request in server.requests[before:]]
    (shard,) = set(asked)
    assert shard.startswith("/0/mask/c/")
    assert len(asked) <= 3
