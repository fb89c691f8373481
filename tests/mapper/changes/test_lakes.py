"""Real water that rises and falls: four flights over the prairie lakes of North Dakota, 2009 to 2020."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mapper.changes import ChangeRule, changed_places, find_changes, open_changes
from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import UNOBSERVED, to_mask
from mapper.mosaic import Mosaic, TileLayers
from mapper.prompts import Prompt

SERIES = Path(__file__).parents[4] / "shared" / "data" / "naip-nd-series"

pytestmark = pytest.mark.skipif(not SERIES.is_dir(), reason="needs ../shared/data/naip-nd-series")

LATTICE = Lattice(crs="EPSG:26914", res_x=5.0, res_y=5.0)
RULE = ChangeRule(hysteresis=0.1, min_area_m2=5_000)


def lake_mosaic(url: str, *, shard_px: int = 256) -> Mosaic:
    """Water by its index: green over near infrared, of each flight, to the nearest pixel."""
    flights = sorted(SERIES.glob("*.tif"))
    bounds = []
    for flight in flights:
        with rasterio.open(flight) as raster:
            bounds.append(raster.bounds)
    outer = (min(b[0] for b in bounds), min(b[1] for b in bounds), max(b[2] for b in bounds), max(b[3] for b in bounds))
    grid = Grid.over(LATTICE, outer, shard_px=shard_px, chunk_px=shard_px // 2)
    times = [datetime.strptime(flight.stem[-8:], "%Y%m%d").replace(tzinfo=UTC) for flight in flights]
    prompt = Prompt(name="lake", expression="all the lakes")
    mosaic = Mosaic.create(url, MosaicSpec(grids=(grid,), prompts=(prompt,), times=tuple(times), made_by={}))
    for at, flight in enumerate(flights):
        score = scores_of(flight, grid)
        for tile in grid.tiles():
            part = score[tile.core.within(grid.box)][None]
            source = np.where(part[0] < UNOBSERVED, np.uint32(at), NO_SOURCE)
            layers = TileLayers(mask=to_mask(part, [0.5]), score=part, source=source, prompts=(0,))
            mosaic.write(grid, tile, at, layers)
    return mosaic


def scores_of(flight: Path, grid: Grid) -> np.ndarray:
    out = np.full(grid.shape, UNOBSERVED, np.uint8)
    with rasterio.open(flight) as raster:
        green, infrared = raster.read([2, 4]).astype(np.float64)
        left, top = round(raster.transform.c / 5), round(-raster.transform.f / 5)
    index = (green - infrared) / np.maximum(green + infrared, 1)
    score = np.rint(250 / (1 + np.exp(-12 * index))).astype(np.uint8)
    score[(green == 0) & (infrared == 0)] = UNOBSERVED
    box = PixelBox(top, left, top + score.shape[0], left + score.shape[1])
    out[box.within(grid.box)] = score
    return out


def test_what_appears_and_vanishes_is_the_difference_of_the_lakes(tmp_path: Path) -> None:
    mosaic = lake_mosaic(str(tmp_path / "lakes.zarr"))
    told = find_changes(mosaic.url, RULE)
    opened = open_changes(mosaic.url).isel(prompt=0).compute()
    present = (opened["state"] == 1).sum(["y", "x"]).to_numpy()
    first = ((opened["change"] == 254) & (opened["since"] == opened["time"]) & (opened["state"] == 1)).sum(["y", "x"])
    appeared, vanished = ((opened["change"] == kind).sum(["y", "x"]).to_numpy() for kind in (2, 3))
    assert (np.diff(present, prepend=0) == appeared - vanished + first.to_numpy()).all()
    assert present.min() > 100_000 // 25  # there is water in each flight
    places = changed_places(mosaic.url, kinds=["appeared", "vanished"])
    assert places["area_m2"].min() >= RULE.min_area_m2
    assert [one.appeared_m2 is not None and one.appeared_m2 > 0 for one in told] == [False, True, True, True]
