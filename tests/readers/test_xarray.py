"""xarray: one level as a Dataset, all of them as a DataTree."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.readers.golden import Golden, at, scattered, steps


@pytest.mark.parametrize("level", [0, 2])
def test_every_place_has_its_value_by_coordinate(golden: Golden, level: int) -> None:
    grid = golden.grid(level)
    x, y = scattered(grid)
    points = {"x": xr.DataArray(x, dims="place"), "y": xr.DataArray(y, dims="place")}
    with xr.open_zarr(golden.url, group=str(level), chunks=None) as dataset:
        for prompt, time in steps(golden):
            step = dataset.isel(time=time, prompt=prompt).sel(points, method="nearest")
            for layer in ("mask", "score", "source"):
                stored = golden.stored(layer, grid, time=time, prompt=prompt)
                assert (step[layer].to_numpy() == at(grid, stored, x, y)).all()


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_the_four_values_lie_where_the_imagery_says(golden: Golden, level: str) -> None:
    with xr.open_zarr(golden.url, group=level, chunks=None) as dataset:
        for place in golden.places:
            there = (
                dataset["mask"].isel(prompt=place.prompt, time=place.time).sel(x=place.x, y=place.y, method="nearest")
            )
            assert int(there) == place.mask


def test_what_is_read_is_what_is_stored_and_no_gap_becomes_a_number_to_count_with(golden: Golden) -> None:
    with xr.open_zarr(golden.url, group="0", chunks=None) as dataset:
        assert dataset["mask"].dtype == dataset["score"].dtype == np.uint8
        assert dataset["source"].dtype == np.uint32
        assert dataset["mask"].attrs["flag_values"] == [0, 1, 254, 255]
        assert dataset["mask"].attrs["flag_meanings"].split() == ["absent", "present", "unobserved", "unmapped"]
        assert set(np.unique(dataset["mask"])) == {0, 1, 254, 255}


def test_sentences_and_dates_are_labels(golden: Golden) -> None:
    with xr.open_zarr(golden.url, group="2") as dataset:
        assert dataset["prompt"].to_numpy().tolist() == ["building", "water"]
        june = dataset["mask"].sel(prompt="water", time="2024-06-01")
        assert june.dims == ("y", "x")
        assert dataset["time"].dtype.kind == "M"
        assert dataset.attrs["Conventions"].startswith("CF-")


def test_a_tree_has_every_level_and_each_its_own_coordinates(golden: Golden) -> None:
    with xr.open_datatree(golden.url, engine="zarr") as tree:
        assert tree.groups == ("/", *(f"/{grid.level}" for grid in golden.levels()))
        assert not tree.dataset.coords  # x and y there would have to fit every level, and fit one
        for grid in golden.levels():
            level = tree[str(grid.level)].to_dataset()
            assert (level.sizes["y"], level.sizes["x"]) == grid.shape
            assert float(level["x"][0]) == grid.lattice.bounds(grid.box)[0] + grid.lattice.res_x / 2
            assert (level["mask"][0, 0].to_numpy() == golden.stored("mask", grid)).all()


def test_levels_of_zones_are_found_by_their_path(zones: Golden) -> None:
    with xr.open_datatree(zones.url, engine="zarr") as tree:
        assert set(tree.children) == {"utm32n", "utm33n"}
        for zone in tree.children:
            for grid in zones.levels(zone):
                level = tree[grid.path].to_dataset()
                assert (level["mask"][0, 0].to_numpy() == zones.stored("mask", grid)).all()


def test_a_level_begins_where_its_pixels_do_and_not_where_the_finest_begins(golden: Golden) -> None:
    finest, coarser = golden.grid(0), golden.grid(2)
    assert coarser.lattice.bounds(coarser.box)[0] == finest.lattice.bounds(finest.box)[0] - 2  # half a pixel of level 2
    with xr.open_zarr(golden.url, group="2") as dataset:
        assert float(dataset["x"][0]) == coarser.lattice.bounds(coarser.box)[0] + 2
