"""CF, as cf_xarray understands it: axes, grid mapping, flags."""

from __future__ import annotations

import cf_xarray  # noqa: F401  # gives a Dataset its .cf
import pytest
import xarray as xr

from tests.readers.golden import Golden


@pytest.fixture
def opened(golden: Golden) -> xr.Dataset:
    dataset: xr.Dataset = xr.open_zarr(golden.url, group="0", chunks=None)
    return dataset


def test_axes_are_known_by_their_standard_names(opened: xr.Dataset) -> None:
    assert opened.cf.axes == {"X": ["x"], "Y": ["y"], "T": ["time"]}
    names = {"projection_x_coordinate": ["x"], "projection_y_coordinate": ["y"], "time": ["time"]}
    assert opened.cf.standard_names == names


def test_the_grid_mapping_is_found_and_is_a_transverse_mercator(opened: xr.Dataset) -> None:
    assert opened.cf.grid_mapping_names == {"transverse_mercator": ["spatial_ref"]}
    for layer in ("mask", "score", "source"):
        assert opened[layer].cf.grid_mapping_name == "transverse_mercator"


def test_flags_are_asked_for_by_their_meaning(golden: Golden, opened: xr.Dataset) -> None:
    stored = golden.stored("mask", golden.grid())
    mask = opened["mask"][0, 0]
    assert mask.cf.is_flag_variable
    for value, meaning in ((0, "absent"), (1, "present"), (254, "unobserved"), (255, "unmapped")):
        assert int((mask.cf == meaning).sum()) == int((stored == value).sum()) > 0
