"""A run over strangers' files: each bad one costs its own tiles, which are named, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from affine import Affine

from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from tests.hostile.canaries import plant
from tests.hostile.rasters import geotiff
from tests.hostile.rasters_announced import tiff
from tests.hostile.rasters_disguised import virtual
from tests.hostile.tiff_bytes import HEIGHT, SCALE, TILE_HEIGHT, TILE_WIDTH, WIDTH
from tests.stories.world import item_of, layers, mapped, write_catalog, write_tiff

CORNER = (691_584, 6_099_072)
"""Easting and northing: whole shards from the CRS's zero."""

SIDE, STEP = 128, 640
"""Pixels of 1 m: an item's, which is one shard; and from one to the next, farther than any window reaches."""

BAD: Mapping[str, Callable[[bytes, Path], bytes | None]] = {
    "cut": lambda good, folder: good[: len(good) // 2],
    "page": lambda good, folder: b"<html>Please log in.</html>",
    "empty": lambda good, folder: b"",
    "virtual": lambda good, folder: virtual(f"{folder}/canary.tif"),
    "huge-tile": lambda good, folder: tiff({WIDTH: 1, HEIGHT: 1, TILE_WIDTH: 2**15, TILE_HEIGHT: 2**15}),
    "nowhere": lambda good, folder: tiff({SCALE: (float("nan"),) * 3}),
    "spoiled": lambda good, folder: good[: len(good) * 3 // 4] + bytes(len(good) // 4),
    "two-files": lambda good, folder: geotiff(tags={"OVERVIEWS": {"OVERVIEW_FILE": f"{folder}/canary_half.tif"}}),
    "one-band": lambda good, folder: tiff(),
    "missing": lambda good, folder: None,
}


def test_a_run_names_the_tiles_of_every_bad_file_and_maps_the_others(tmp_path: Path) -> None:
    plant(tmp_path)
    names = ["first", *BAD, "holed", "last"]
    summary = mapped(ground(tmp_path, names))
    assert summary.exit_status == 4
    said = {name: [problem for problem in summary.problems if f"item {name}," in problem["error"]] for name in names}
    assert all(len(said[name]) == 1 for name in BAD), summary.problems
    assert len(summary.problems) == len(BAD)
    mask = layers(tmp_path / "map.zarr")["mask"].isel(prompt=0)
    for number, name in enumerate(names):
        left, top = CORNER[0] + number * STEP, CORNER[1]
        values = mask.sel(x=slice(left, left + SIDE), y=slice(top, top - SIDE)).to_numpy().squeeze()
        assert values.shape == (SIDE, SIDE)
        if name in BAD:
            assert (values == UNMAPPED).all(), name
        elif name == "holed":
            assert (values[:, :64] == UNOBSERVED).all()
            assert np.isin(values[:, 64:], (ABSENT, PRESENT)).all()
        else:
            assert np.isin(values, (ABSENT, PRESENT)).all(), name


def ground(folder: Path, names: list[str]) -> dict[str, object]:
    """A job over a row of items of one shard each, those of ``BAD`` spoiled after the catalog was made."""
    dice, items = np.random.default_rng(3), []
    for number, name in enumerate(names):
        pixels = dice.integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
        transform = Affine(1, 0, CORNER[0] + number * STEP, 0, -1, CORNER[1])
        path = write_tiff(folder / f"{name}.tif", pixels, crs="EPSG:32632", transform=transform)
        items.append(
            item_of(path, name=name, moment="2024-06-01T10:00:00Z", collection="row", href=f"{name}.tif",
                    bands=("red", "green", "blue"))
        )  # fmt: skip
        if name == "holed":
            pixels[:, :, :64] = 0
            path.write_bytes(geotiff(pixels, crs="EPSG:32632", transform=transform, sparse_ok=True))
        if name in BAD:
            content = BAD[name](path.read_bytes(), folder)
            path.unlink() if content is None else path.write_bytes(content)
    catalog = write_catalog(folder, items)
    boxes = np.array([item["bbox"] for item in items])
    return {
        "name": "strangers",
        "area": {"bbox": [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]},
        "imagery": {"catalog": str(catalog), "bands": ["red", "green", "blue"]},
        "grid": {"crs": "EPSG:32632", "resolution_m": 1.0, "shard_px": SIDE, "chunk_px": 64},
        "prompts": [{"name": "warm", "expression": "what is red"}],
        "model": {"name": "colour"},
        "windows": {"overlap_px": 32},
        "output": {"mosaic": str(folder / "map.zarr")},
    }
