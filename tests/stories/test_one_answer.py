"""A pixel's value depends on the imagery, the model, the sentence and the grid, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mapper.masks import UNMAPPED
from tests.stories.world import COLLECTION, World, layers, mapped, merged, same_pixels, seen_items

BASE: dict[str, Any] = {
    "model": {"name": "context"},
    "imagery": {"composite": "latest"},
    "area": World.rectangle(-20, 30, 525, 345),
}
"""A model of which every pixel depends on all pixels of its window; and the part of the ground where all items and both
zones meet, none of which hides the others everywhere."""

GRIDS = {
    "explicit": BASE,
    "native": merged(BASE, {"grid": {"crs": "native", "resolution_m": None}, "imagery": {"collections": [COLLECTION]}}),
    "utm": merged(BASE, {"grid": {"crs": "utm"}}),
    "coarser": merged(BASE, {"grid": {"crs": "EPSG:25833", "resolution_m": 1.5}}),
}

TREES = {"utm": ("utm32n", "utm33n")}
"""Name of a grid above → its trees, where it has several."""


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of a grid → the whole ground, mapped in this process, in shards of 128."""
    folder = tmp_path_factory.mktemp("plain")
    mosaics = {name: folder / f"{name}.zarr" for name in GRIDS}
    for name, mosaic in mosaics.items():
        mapped(world.job(mosaic, **GRIDS[name]))
    return mosaics


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    one, other = same_pixels(one, other)
    assert {0, 1} <= set(np.unique(one["mask"]))  # there is something to disagree about
    for name in ("mask", "score", "source"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("grid", "shard_px"),
    [
        ("explicit", 256),
        ("native", 192),
        ("utm", 256),
        ("coarser", 192),
        # Other sizes of the same two grids.
        pytest.param("explicit", 192, marks=pytest.mark.chaos),
        pytest.param("utm", 512, marks=pytest.mark.chaos),
    ],
)
def test_the_size_of_shards_changes_no_pixel(
    world: World, plain: dict[str, Path], tmp_path: Path, grid: str, shard_px: int
) -> None:
    mapped(world.job(tmp_path / "map.zarr", **merged(GRIDS[grid], {"grid": {"shard_px": shard_px}})))
    for tree in TREES.get(grid, ("",)):
        for level in (0, 1, 3):
            assert_same(layers(plain[grid], tree, level), layers(tmp_path / "map.zarr", tree, level))


@pytest.mark.parametrize(
    ("gpus", "grid", "shard_px"),
    [
        (3, "utm", 64),
        # One worker on Ray is one worker here.
        pytest.param(1, "explicit", 128, marks=pytest.mark.chaos),
        # Three GPUs and other shards than here, again: with one grid instead of two.
        pytest.param(3, "explicit", 192, marks=pytest.mark.chaos),
    ],
)
def test_ray_with_any_number_of_gpus_gives_what_this_process_gives(
    world: World, plain: dict[str, Path], three_gpus: int, tmp_path: Path, gpus: int, grid: str, shard_px: int
) -> None:
    assert gpus <= three_gpus
    job = world.job(tmp_path / "map.zarr", **merged(GRIDS[grid], {"grid": {"shard_px": shard_px}}))
    summary = mapped(job, gpus=gpus)
    assert {worker["worker"] for worker in summary.workers} == {f"gpu-{n}" for n in range(gpus)}
    for tree in TREES.get(grid, ("",)):
        assert_same(layers(plain[grid], tree), layers(tmp_path / "map.zarr", tree))


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.chaos), 7])
def test_the_mix_of_batches_changes_no_pixel(world: World, plain: dict[str, Path], tmp_path: Path, batch: int) -> None:
    mapped(world.job(tmp_path / "map.zarr", **BASE, compute={"batch": batch}))
    assert_same(layers(plain["explicit"]), layers(tmp_path / "map.zarr"))


def test_sentences_asked_together_answer_as_each_alone(world: World, plain: dict[str, Path], tmp_path: Path) -> None:
    prompts = [{"name": "cold", "expression": "what is blue"}, {"name": "warm", "expression": "what is red"}]
    mapped(world.job(tmp_path / "map.zarr", **BASE, prompts=prompts))
    assert_same(layers(plain["explicit"]), layers(tmp_path / "map.zarr").sel(prompt=["warm"]))


PARTS = {
    # In pixels of the ground: left, top, right, bottom.
    "in the middle of one item": (60, 250, 150, 330),
    "over both zones and all items": (220, 40, 520, 300),
    "beside an item of the same instant": (330, 200, 410, 300),
    "where only the corner of a window sees another item": (20, 60, 110.2, 97.3),
}


@pytest.mark.parametrize(
    ("part", "grid", "changes"),
    [
        ("in the middle of one item", "native", {}),
        ("over both zones and all items", "utm", {}),
        ("over both zones and all items", "coarser", {}),
        ("beside an item of the same instant", "explicit", {"imagery": {"time_step": "scene"}}),
        ("where only the corner of a window sees another item", "explicit", {"windows": {"overlap_px": 8}}),
    ],
)
def test_a_part_of_the_area_gets_the_pixels_of_the_whole(
    world: World, plain: dict[str, Path], tmp_path: Path, part: str, grid: str, changes: dict[str, Any]
) -> None:
    settings = merged(GRIDS[grid], changes)
    whole = plain[grid]
    if changes:
        whole = tmp_path / "whole.zarr"
        mapped(world.job(whole, **settings))
    mapped(world.job(tmp_path / "part.zarr", **merged(settings, {"area": world.rectangle(*PARTS[part])})))
    compared = 0
    for tree in TREES.get(grid, ("",)):
        one, other = layers(whole, tree), layers(tmp_path / "part.zarr", tree)
        if "time_step" not in changes.get(
            "imagery", {}
        ):  # the one step is dated by its first item, and the part may lack that
            other = other.assign_coords(time=one["time"])
        one, other = xr.align(one, other, join="inner")
        here = other["mask"].to_numpy() != UNMAPPED
        compared += int(here.sum())
        for name in ("mask", "score"):
            np.testing.assert_array_equal(other[name].to_numpy()[here], one[name].to_numpy()[here], err_msg=name)
        sources = seen_items(tmp_path / "part.zarr", other), seen_items(whole, one)
        np.testing.assert_array_equal(sources[0][here[0]], sources[1][here[0]])
    assert compared > 1000


def test_pixels_of_one_place_have_the_same_coordinates_in_mosaics_of_different_areas(
    world: World, tmp_path: Path
) -> None:
    # 0.3 m: no binary fraction, so a coordinate counted from the array's corner would depend on the corner.
    job = world.job(tmp_path / "one.zarr", grid={"resolution_m": 0.3})
    job["area"] = world.rectangle(100, 200, 130, 220)
    mapped(job)
    job["area"], job["output"] = world.rectangle(40, 170, 115, 230), {"mosaic": str(tmp_path / "other.zarr")}
    mapped(job)
    one, other = layers(tmp_path / "one.zarr"), layers(tmp_path / "other.zarr")
    for axis in ("x", "y"):
        near = one[axis].to_numpy()
        near = near[(near >= other[axis].to_numpy().min() - 0.1) & (near <= other[axis].to_numpy().max() + 0.1)]
        assert len(near) > 100
        assert np.isin(near, other[axis].to_numpy()).all()
