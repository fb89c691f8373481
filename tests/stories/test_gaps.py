"""A gap is never an answer: unmapped, unobserved, absent and present are four values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box

import mapper
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from tests.stories.world import CLOUD, World, item_of, layers, mapped, write_catalog

GAPS = (UNOBSERVED, UNMAPPED)
ANSWERS = (ABSENT, PRESENT)


def seen_by(file: Path, dataset: xr.Dataset, crs: str, *, reach_px: int = 0) -> NDArray[np.bool_]:
    """``(y, x)`` of a mosaic: where a file has a valid pixel, or one within so many pixels. By rasterio alone."""
    with rasterio.open(file) as raster:
        valid = raster.dataset_mask() != 0
        x, y = np.meshgrid(dataset["x"].to_numpy(), dataset["y"].to_numpy())
        x, y = Transformer.from_crs(crs, raster.crs, always_xy=True).transform(x, y)
        columns, rows = ~raster.transform * (x, y)
    rows, columns = np.floor(rows).astype(int), np.floor(columns).astype(int)
    seen = np.zeros(rows.shape, np.bool_)
    for down in range(-reach_px, reach_px + 1):
        for right in range(-reach_px, reach_px + 1):
            row, column = rows + down, columns + right
            inside = (row >= 0) & (row < valid.shape[0]) & (column >= 0) & (column < valid.shape[1])
            seen[inside] |= valid[row[inside], column[inside]]
    return seen


def asked_of(area: tuple[float, float, float, float], dataset: xr.Dataset, crs: str) -> NDArray[np.bool_]:
    """``(y, x)`` of a mosaic: where a pixel's centre lies in an area of longitudes and latitudes."""
    lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    x, y = np.meshgrid(dataset["x"].to_numpy(), dataset["y"].to_numpy())
    x, y = lonlat.transform(x, y)
    return np.asarray(shapely.contains_xy(box(*area), x, y))


def beside_an_edge(asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that have a neighbour on the other side: there two ways to project an outline may differ."""
    edge = np.zeros_like(asked)
    for axis in (0, 1):
        for step in (-1, 1):
            edge |= asked != np.roll(asked, step, axis)
    return edge


def values(dataset: xr.Dataset, name: str = "mask") -> NDArray[Any]:
    return dataset[name].to_numpy()[0, 0]  # type: ignore[no-any-return]  # the only prompt and step


@pytest.fixture(scope="module")
def landsat(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A catalog of two Landsat scenes with slanted nodata edges, and their files."""
    folder = tmp_path_factory.mktemp("landsat")
    files = [shared_data / "landsat-mosaic" / f"mosaic_cog{n}.tif" for n in (1, 2)]
    items = [
        item_of(file, name=file.stem, moment=f"2020-07-0{n}T15:40:00Z", collection=f"scene-{n}", href=str(file),
                bands=("red", "green", "blue"))
        for n, file in enumerate(files, 1)
    ]  # fmt: skip
    return write_catalog(folder, items), files


LANDSAT_AREA = (-76.3, 44.6, -71.2, 47.4)
"""Reaches beyond both scenes on all sides."""


def landsat_job(catalog: Path, mosaic: Path, *collections: str, **grid: Any) -> dict[str, Any]:
    return {
        "name": "landsat",
        "area": {"bbox": list(LANDSAT_AREA)},
        "imagery": {"catalog": str(catalog), "collections": list(collections), "scale": {"from": [0, 20000]},
                    "bands": ["image:1", "image:2", "image:3"], "time_step": "all"},
        "grid": {"shard_px": 512, "chunk_px": 256, **grid},
        "prompts": [{"name": "warm", "expression": "what is red", "threshold": 0.2}],
        "model": {"name": "colour"}, "windows": {"overlap_px": 32}, "output": {"mosaic": str(mosaic)},
    }  # fmt: skip


def test_a_real_scene_with_a_slanted_edge_is_answered_exactly_where_it_was_seen(
    landsat: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    catalog, files = landsat
    mapped(landsat_job(catalog, tmp_path / "map.zarr", "scene-1", crs="native"))
    dataset = layers(tmp_path / "map.zarr")
    mask = values(dataset)
    seen, asked = seen_by(files[0], dataset, "EPSG:32618"), asked_of(LANDSAT_AREA, dataset, "EPSG:32618")
    sure = ~beside_an_edge(asked)
    assert set(np.unique(mask)) == {*ANSWERS, *GAPS}
    assert np.isin(mask[seen & asked & sure], ANSWERS).all()
    assert (mask[~seen & asked & sure] == UNOBSERVED).all()
    assert (mask[~asked & sure] == UNMAPPED).all()


def test_two_real_scenes_that_are_warped_answer_for_no_pixel_that_neither_saw(
    landsat: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    catalog, files = landsat
    mapped(landsat_job(catalog, tmp_path / "map.zarr", crs="EPSG:32618", resolution_m=300.0))
    dataset = layers(tmp_path / "map.zarr")
    mask, asked = values(dataset), asked_of(LANDSAT_AREA, dataset, "EPSG:32618")
    near = np.logical_or.reduce([seen_by(file, dataset, "EPSG:32618", reach_px=1) for file in files])
    assert np.isin(mask[~near], GAPS).all()
    assert (mask[~near & asked & ~beside_an_edge(asked)] == UNOBSERVED).all()
    # Nor does a gap eat into what was seen: one pixel inside the edges there is an answer.
    missing = np.logical_and.reduce([~seen_by(file, dataset, "EPSG:32618") for file in files])
    inside = asked & ~beside_an_edge(asked) & ~missing & ~beside_an_edge(missing)
    assert np.isin(mask[inside], ANSWERS).mean() > 0.99


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    mosaic = tmp_path_factory.mktemp("gaps") / "map.zarr"
    mapped(world.job(mosaic, grid={"crs": "native", "resolution_m": None}, imagery={"collections": ["resmap-demo"]}))
    return layers(mosaic)


def clear(world: World, dataset: xr.Dataset) -> NDArray[np.bool_]:
    """Where an item of the first zone saw the ground itself."""
    west = seen_by(world.files("west")["image"], dataset, "EPSG:32632")
    with rasterio.open(world.files("west")["scl"]) as scl:
        cloudy = scl.read(1) == CLOUD
        path = world.folder / "cloudy.tif"
        with rasterio.open(path, "w", **(scl.profile | {"nodata": 0})) as file:
            file.write(cloudy.astype(np.uint8), 1)
    west &= ~seen_by(path, dataset, "EPSG:32632")
    others = [seen_by(world.files(name)["image"], dataset, "EPSG:32632") for name in ("middle", "north")]
    return np.asarray(west | others[0] | others[1])


def test_what_no_item_saw_is_unobserved_and_what_was_not_asked_for_is_unmapped(world: World, small: xr.Dataset) -> None:
    mask, seen, asked = values(small), clear(world, small), asked_of(world.area, small, "EPSG:32632")
    sure = ~beside_an_edge(asked)
    assert np.isin(mask[seen & asked & sure], ANSWERS).all()
    assert (mask[~seen & asked & sure] == UNOBSERVED).all()
    assert (mask[~asked & sure] == UNMAPPED).all()


def test_mask_score_and_source_have_their_gaps_in_the_same_places(small: xr.Dataset) -> None:
    mask, score = values(small), values(small, "score")
    source = small["source"].to_numpy()[0]
    for gap in GAPS:
        assert ((mask == gap) == (score == gap)).all()
    assert (score[mask < UNOBSERVED] <= 250).all()
    assert ((source == np.iinfo(np.uint32).max) == np.isin(mask, GAPS)).all()


def test_a_cloud_that_no_other_item_looks_under_is_a_gap(world: World, small: xr.Dataset) -> None:
    mask = values(small)
    x, y = (float(world.items[0]["properties"]["proj:transform"][n]) for n in (2, 5))
    at = small.sel(x=x + 150, y=y - 200, method="nearest")  # in the cloud, west of the middle item
    assert int(at["mask"][0, 0]) == UNOBSERVED
    under = small.sel(x=x + 210, y=y - 200, method="nearest")  # in the cloud, under the middle item
    assert int(under["mask"][0, 0]) in ANSWERS
    assert (mask == UNOBSERVED).any()


def test_opened_for_people_a_gap_is_not_a_number(world: World, tmp_path: Path) -> None:
    mapped(world.job(tmp_path / "map.zarr", area=World.rectangle(-10, 0, 300, 300)))
    stored, opened = layers(tmp_path / "map.zarr"), mapper.open_mosaic(str(tmp_path / "map.zarr"))
    gaps = np.isin(stored["mask"].to_numpy(), GAPS)
    assert (np.isnan(opened["score"].to_numpy()) == gaps).all()
    assert (opened["observed"].to_numpy() == ~gaps).all()


def test_a_dated_step_says_nothing_of_tiles_its_imagery_does_not_reach(world: World, tmp_path: Path) -> None:
    mapped(world.job(tmp_path / "map.zarr", imagery={"time_step": "scene"}))
    dataset = layers(tmp_path / "map.zarr")
    for step, names in enumerate((("west",), ("middle", "east"), ("north",))):
        near = np.logical_or.reduce(
            [seen_by(world.files(name)["image"], dataset, "EPSG:32632", reach_px=1) for name in names]
        )
        mask = dataset["mask"].to_numpy()[0, step]
        assert np.isin(mask[~near], GAPS).all()
        assert np.isin(mask, ANSWERS).any()


def test_a_scene_without_one_valid_pixel_gives_no_answer(tmp_path: Path) -> None:
    from tests.stories.world import write_tiff

    transform = Affine(10, 0, 600000, 0, -10, 6100000)
    empty = np.zeros((3, 128, 128), np.uint8)
    file = write_tiff(tmp_path / "scene.tif", empty, crs="EPSG:32632", transform=transform)
    bands = ("red", "green", "blue")
    item = item_of(file, name="scene", moment="2024-06-01T00:00:00Z", collection="c", href="scene.tif", bands=bands)
    job = {
        "name": "empty", "area": {"bbox": item["bbox"]}, "imagery": {"catalog": str(write_catalog(tmp_path, [item]))},
        "grid": {"crs": "native", "shard_px": 128, "chunk_px": 64},
        "prompts": [{"name": "warm", "expression": "what is red"}],
        "model": {"name": "colour"}, "windows": {"overlap_px": 32}, "output": {"mosaic": str(tmp_path / "map.zarr")},
    }  # fmt: skip
    summary = mapped(job)
    assert summary.tiles["nodata"] == summary.tiles["planned"] > 0
    assert set(np.unique(layers(tmp_path / "map.zarr")["mask"])) <= set(GAPS)
