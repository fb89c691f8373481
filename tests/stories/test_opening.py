"""A mosaic opens in other people's tools, at once, and says what and where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  # gives a Dataset its .odc
import pytest
import rioxarray  # noqa: F401  # gives a Dataset its .rio
import xarray as xr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

import mapper
from tests.stories.world import World, mapped

PROMPTS = [{"name": "warm", "expression": "what is red"}, {"name": "cold", "expression": "what is blue"}]


@pytest.fixture(scope="module")
def mosaic(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("opening") / "map.zarr"
    mapped(world.job(path, prompts=PROMPTS, imagery={"time_step": "month"}))
    return path


@pytest.fixture(scope="module")
def zones(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zones") / "map.zarr"
    mapped(world.job(path, grid={"crs": "utm"}))
    return path


@pytest.fixture
def opened(mosaic: Path) -> Iterator[xr.Dataset]:
    with xr.open_zarr(str(mosaic), group="0") as dataset:
        yield dataset


def test_xarray_finds_layers_and_coordinates(opened: xr.Dataset) -> None:
    assert opened["mask"].dims == ("prompt", "time", "y", "x")
    assert opened["source"].dims == ("time", "y", "x")
    assert list(opened["prompt"].to_numpy()) == ["warm", "cold"]
    months = ["2024-06-01", "2025-01-01"]
    assert list(opened["time"].to_numpy()) == list(np.array(months, "datetime64[ns]"))
    assert opened["mask"].dtype == opened["score"].dtype == np.uint8
    assert (np.diff(opened["x"]) == 1.0).all()
    assert (np.diff(opened["y"]) == -1.0).all()


def test_rioxarray_and_odc_geo_agree_on_where_it_lies(opened: xr.Dataset) -> None:
    assert opened.rio.crs.to_epsg() == 32632
    assert opened["mask"].odc.crs.epsg == 32632
    assert opened["mask"].rio.transform() == opened["mask"].odc.geobox.transform
    assert opened["mask"].rio.bounds() == tuple(opened["mask"].odc.geobox.boundingbox)


def test_coordinates_are_the_centres_of_pixels(opened: xr.Dataset) -> None:
    left, _, _, top = opened.rio.bounds()
    assert float(opened["x"][0]) == left + 0.5
    assert float(opened["y"][0]) == top - 0.5


class Counted(WrapperStore[LocalStore]):
    """A store that remembers what was read from it."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.read: list[str] = []

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        self.read.append(key)
        return await super().get(key, prototype, byte_range)


def test_opening_reads_metadata_and_coordinates_and_no_pixel(mosaic: Path) -> None:
    store = Counted(LocalStore(mosaic, read_only=True))
    dataset = xr.open_zarr(store, group="0")
    assert not [key for key in store.read if key.startswith(("0/mask/c", "0/score/c", "0/source/c"))]
    assert len(store.read) < 30
    dataset["mask"][0, 0, 200, 200].compute()
    assert len([key for key in store.read if "/c/" in key and key.startswith("0/mask")]) <= 3  # one shard, in ranges


def test_every_tree_opens_as_a_datatree(mosaic: Path, zones: Path) -> None:
    with xr.open_datatree(str(mosaic), engine="zarr") as tree:
        assert "mask" in tree["0"].dataset
    with xr.open_datatree(str(zones), engine="zarr") as tree:
        assert {"utm32n", "utm33n"} <= set(tree.children)
        for zone, epsg in (("utm32n", 32632), ("utm33n", 32633)):
            assert tree[f"{zone}/0"].to_dataset().rio.crs.to_epsg() == epsg


def test_open_mosaic_gives_scores_and_what_was_observed(mosaic: Path, opened: xr.Dataset) -> None:
    dataset = mapper.open_mosaic(str(mosaic))
    assert dataset.chunks["y"] == (128,) * (dataset.sizes["y"] // 128)  # lazy, in shards
    assert dataset["score"].dtype == np.float32
    assert dataset["observed"].dtype == bool
    assert dataset.attrs["prompts"] == {"warm": "what is red", "cold": "what is blue"}
    assert dataset["score"].rio.crs.to_epsg() == 32632
    score = dataset["score"].sel(prompt="warm").isel(time=0).to_numpy()
    mask = opened["mask"].sel(prompt="warm").isel(time=0).to_numpy()
    assert ((score >= 0.5) == (mask == 1)).all()
    assert dataset["time"].to_numpy()[0] == np.datetime64("2024-06-01")


def test_the_conventions_stand_on_group_and_array(mosaic: Path) -> None:
    for node in ("", "0", "0/mask", "0/score", "0/source"):
        attributes = json.loads((mosaic / node / "zarr.json").read_text())["attributes"]
        assert attributes["proj:code"] == "EPSG:32632"
        named = {entry["name"]: entry["uuid"] for entry in attributes["zarr_conventions"]}
        assert named["proj"] == "f17cb550-5864-4468-aeb7-f3180cfb622f"
        assert named["spatial"] == "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"
        assert attributes["spatial:dimensions"] == ["y", "x"]
