"""A mosaic whose time axis is in no order and whose runs number their items one behind the other, as people read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import mapper
from jobs.exports import slices
from mapper.errors import MosaicError, QuestionError
from mapper.exports.chosen import chosen_time
from mapper.exports.vectors import write_vectors
from mapper.pixel_area import pixel_area_m2
from mapper.questions import area, change, where
from mapper.runs import item_table, source_items
from tests.jobs.renewed import GRID, JULY, JUNE, MAY, ByHand, Place, by_hand, every, item

OLD, NEW, EARLIER = (JUNE, 1, 1), (JUNE, 0, 0), (MAY, 0, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """June and July; then a tile of June anew, and May, which stands behind July on the axis."""
    made = by_hand(tmp_path_factory.mktemp("renewed"))
    made.plan(every(JUNE, JULY), items=[item("a", JUNE), item("b", JULY)]).finish()
    made.plan([(JUNE, 2, 2)], items=[], renews=True, gone=[("scenes", "x")]).finish(seen=False)
    made.plan([NEW, *every(MAY)], items=[item("c", JUNE), item("d", MAY)], renews=True).finish()
    return made


def stored(made: ByHand, place: Place, layer: str = "mask") -> NDArray[Any]:
    """What stands in a tile of the first prompt, by the position of its step on the axis."""
    step, row, column = place
    grid = xr.open_zarr(made.url, group="0", mask_and_scale=False)
    at = made.mosaic.times.index(step)
    here = {"time": at, "y": slice(32 * row, 32 * row + 32), "x": slice(32 * column, 32 * column + 32)}
    return np.asarray(grid[layer].isel(here | ({} if layer == "source" else {"prompt": 0})))


def test_the_axis_is_stored_as_it_grew(made: ByHand) -> None:
    assert made.mosaic.times == (JUNE, JULY, MAY)


def test_a_mosaic_opens_with_its_times_in_order(made: ByHand) -> None:
    opened = mapper.open_mosaic(made.url)
    assert opened["time"].to_numpy().tolist() == sorted(opened["time"].to_numpy().tolist())
    for place in (OLD, NEW, EARLIER, (JULY, 2, 3)):
        step, row, column = place
        tile = opened["mask"].isel(prompt=0).sel(time=step.replace(tzinfo=None))
        tile = tile[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert (tile.to_numpy() == made.pixels[place][0]).all()
        assert (stored(made, place) == made.pixels[place][0]).all()


@pytest.mark.parametrize("level", [0, 1])
def test_sorting_reads_no_pixel_and_leaves_the_chunks(made: ByHand, level: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        opened = mapper.open_mosaic(made.url, level=level)
        assert opened["score"].chunksizes["time"] == (1, 1, 1)
        assert set(opened["score"].chunksizes["x"]) == {32}
    whole = opened["mask"].to_numpy()
    plain = xr.open_zarr(made.url, group=str(level), mask_and_scale=False)
    assert (whole == plain["mask"].sortby("time").to_numpy()).all()


def test_a_plain_reader_finds_each_time_by_its_date(made: ByHand) -> None:
    plain = xr.open_zarr(made.url, group="0", mask_and_scale=False)
    may = plain["mask"].sel(prompt="lake", time=MAY.replace(tzinfo=None))
    assert (may[:32, 32:64].to_numpy() == made.pixels[EARLIER][0]).all()


def test_the_item_table_numbers_items_as_the_source_layer_does(made: ByHand) -> None:
    table = item_table(made.url)
    assert table.index.name == "source"
    assert dict(zip(table.index.tolist(), table["id"].tolist(), strict=True)) == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert isinstance(table, gpd.GeoDataFrame)
    assert table.crs == "EPSG:4326"
    assert table.geometry.notna().all()
    opened = mapper.open_mosaic(made.url)
    assert opened.resmap.items["id"].tolist() == ["a", "b", "c", "d"]
    names = source_items(made.url)
    seen = {
        place: set(names.of("id", stored(made, place, "source")).flat) for place in (OLD, NEW, EARLIER, (JUNE, 2, 2))
    }
    assert seen == {OLD: {"a", "b"}, NEW: {"c", "d"}, EARLIER: {"c", "d"}, (JUNE, 2, 2): {None}}


def test_items_of_different_columns_make_one_table(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan([(JUNE, 0, 0)], items=[item("a", JUNE)]).finish()
    new = item("c", JUNE)
    new["properties"] |= {"eo:cloud_cover": 4, "gsd": 0.5}
    made.plan([(JUNE, 0, 0)], items=[new], renews=True).finish()
    newer = item("e", JUNE)
    newer["properties"] |= {"gsd": 1}
    made.plan([(JUNE, 0, 0)], items=[newer], renews=True).finish()
    table = item_table(made.url)
    assert table["id"].tolist() == ["a", "c", "e"]
    assert [None if value is None else float(value) for value in table["gsd"]] == [None, 0.5, 1.0]


def test_a_number_that_two_runs_gave_is_believed_of_neither(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan([(JUNE, 0, 0)], items=[item("a", JUNE), item("b", JUNE)]).finish()
    made.sources = 1
    made.plan([(JUNE, 0, 0)], items=[item("c", JUNE)], renews=True).finish()
    with pytest.raises(MosaicError, match="one number to two"):
        item_table(made.url)
    assert set(where(made.url, allow_gaps=1.0)["item"]) == {None}


def test_objects_name_the_scene_of_the_run_that_mapped_them(made: ByHand, tmp_path: Path) -> None:
    named = {"a": 0, "b": 1, "c": 2, "d": 3}
    write_vectors(made.url, tmp_path / "june.parquet", time="2024-06")
    rows = gpd.read_parquet(tmp_path / "june.parquet")
    assert set(rows["item"]) == set(named)
    assert (rows["item"].map(named) == rows["source"]).all()
    found = where(made.url, times="2024-05", allow_gaps=1.0)
    assert set(found["item"]) == {"c", "d"}
    assert set(found["time"].astype(str)) == {"2024-05-01"}


def test_answers_are_of_the_date_wherever_it_stands_on_the_axis(made: ByHand) -> None:
    m2 = np.nan_to_num(pixel_area_m2(GRID.lattice, GRID.box))[:32, :64]
    place = by_lonlat(made)
    rows = area(made.url, place, prompts="lake", times=["2024-05", "2024-07"], allow_gaps=1.0)
    assert [row.time for row in rows] == [MAY, JULY]
    for row, step in zip(rows, (MAY, JULY), strict=True):
        mask = np.hstack([made.pixels[step, 0, 0][0], made.pixels[step, 0, 1][0]])
        assert row.present_km2 == pytest.approx(m2[mask == 1].sum() / 1e6)


def by_lonlat(made: ByHand) -> gpd.GeoDataFrame:
    """The two tiles in the north-west corner, as a place."""
    from shapely.geometry import box

    left, bottom, right, top = GRID.lattice.bounds(GRID.tile(0, 0).core.union(GRID.tile(0, 1).core))
    return gpd.GeoDataFrame(geometry=[box(left, bottom, right, top)], crs=GRID.lattice.crs)


def test_change_goes_from_the_earlier_date_to_the_later(made: ByHand) -> None:
    place = by_lonlat(made)
    (row,) = change(made.url, "2024-05", "latest", place, prompts="lake")
    assert (row.before, row.after) == (MAY, JULY)
    m2 = np.nan_to_num(pixel_area_m2(GRID.lattice, GRID.box))[:32, :64]
    may, july = (np.hstack([made.pixels[step, 0, 0][0], made.pixels[step, 0, 1][0]]) for step in (MAY, JULY))
    assert row.appeared_km2 == pytest.approx(m2[(may == 0) & (july == 1)].sum() / 1e6)
    assert row.vanished_km2 == pytest.approx(m2[(may == 1) & (july == 0)].sum() / 1e6)
    with pytest.raises(QuestionError, match="is not before"):
        change(made.url, "latest", "2024-05", place)
    opened = mapper.open_mosaic(made.url)
    assert opened.resmap.change("2024-05", "2024-07", place, prompts="lake").rows == (row,)
    june = opened.sel(time="2024-06").resmap.area(place, prompts="lake")
    assert [answer.time for answer in june] == [JUNE]


def test_latest_is_the_latest_date_and_exports_go_by_date(made: ByHand, tmp_path: Path) -> None:
    assert made.mosaic.times[chosen_time(made.mosaic, None)] == JULY
    wanted = slices(made.mosaic, tmp_path, "cog", prompt="lake")
    assert [slice_.time for slice_ in wanted] == [MAY, JUNE, JULY]
    assert ["20240501T000000Z" in slice_.path.name for slice_ in wanted] == [True, False, False]
    (one,) = slices(made.mosaic, tmp_path / "map.tif", "cog", prompt="lake")
    assert one.time == JULY
