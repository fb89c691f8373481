"""A mosaic in xarray: lazy, short, true to the last value, and with its questions at hand."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
import zarr
from shapely.geometry import box

from mapper.errors import MosaicError, QuestionError
from mapper.layout import MosaicSpec
from mapper.masks import UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.opened import open_mosaic
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard
from tests.mapper.mosaics import PROMPTS, TIMES, Known, known_mosaic, small_grid

GRID = small_grid("EPSG:32633", 10.0, (480_000, 6_100_000), shards=(3, 4))
ZONES = (
    small_grid("EPSG:32632", 10.0, (691_600, 6_100_300), shards=(2, 2), name="utm32n"),
    small_grid("EPSG:32633", 10.0, (307_900, 6_100_300), shards=(2, 2), name="utm33n"),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """On disk, with its levels."""
    made = known_mosaic([GRID], url=str(tmp_path_factory.mktemp("opened") / "map.zarr"))
    for level in GRID.pyramid()[1:]:
        for time in range(len(TIMES)):
            for tile in level.tiles():
                build_shard(made.mosaic, LevelTask(id=0, grid=level, tile=tile, time=time, prompts=(0, 1)))
    return made


@pytest.fixture(scope="module")
def zones() -> Known:
    return known_mosaic(ZONES)


@pytest.fixture
def opened(known: Known) -> xr.Dataset:
    dataset: xr.Dataset = open_mosaic(known.url)
    return dataset


# What is there --------------------------------------------------------------------------------------------------------


def test_it_has_the_layers_and_two_views_of_them(opened: xr.Dataset) -> None:
    dtypes = {name: str(layer.dtype) for name, layer in opened.data_vars.items()}
    assert dtypes == {"mask": "uint8", "score": "float32", "observed": "bool", "source": "uint32"}


def test_every_score_is_a_probability_or_nan_in_a_gap(opened: xr.Dataset) -> None:
    stored = zarr.open_group(opened.attrs["mosaic"], mode="r")["0/score"]
    assert isinstance(stored, zarr.Array)
    values = np.asarray(stored[:])
    expected = np.where(values < UNOBSERVED, values.astype(np.float32) / np.float32(250), np.float32(np.nan))
    np.testing.assert_array_equal(opened["score"].to_numpy(), expected)


def test_observed_is_false_in_both_kinds_of_gap(opened: xr.Dataset, known: Known) -> None:
    np.testing.assert_array_equal(opened["observed"].to_numpy(), known.masks[""] < UNOBSERVED)


def test_a_prompt_and_a_month_are_selected_by_name(opened: xr.Dataset, known: Known) -> None:
    mask = opened["mask"].sel(prompt="lake", time="2024-06")
    np.testing.assert_array_equal(mask.squeeze("time").to_numpy(), known.masks[""][1, 1])


def test_chunks_are_shards(opened: xr.Dataset) -> None:
    for layer in ("mask", "score", "observed", "source"):
        assert opened[layer].chunks is not None
        assert opened[layer].chunksizes["y"] == (32,) * 3
        assert opened[layer].chunksizes["x"] == (32,) * 4


@pytest.mark.parametrize("layer", ["mask", "score", "observed", "source"])
def test_every_layer_knows_where_it_lies(opened: xr.Dataset, layer: str) -> None:
    assert opened[layer].rio.crs.to_epsg() == 32633
    assert opened[layer].rio.transform() == GRID.lattice.transform(GRID.box)


def test_its_attributes_are_the_mosaic_and_the_sentences(opened: xr.Dataset, known: Known) -> None:
    assert opened.attrs == {"mosaic": known.url, "prompts": {"building": "the buildings", "lake": "all the lakes"}}
    assert opened.prompts == opened.attrs["prompts"]
    for layer in opened.data_vars.values():
        assert max(len(str(value)) for value in layer.attrs.values()) < 200


def test_opening_and_showing_it_reads_no_pixel(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    for layer in ("mask", "score", "source"):
        for shard in Path(known.url).glob(f"0/{layer}/c/**/*"):
            if shard.is_file():
                shard.write_bytes(b"no shard at all")
    opened = open_mosaic(known.url)
    for shown in (repr(opened), opened._repr_html_(), repr(opened.resmap), opened.resmap._repr_html_()):
        assert "lake" in shown
    with pytest.raises(ValueError, match=r"checksum|shard|crc|buffer"):
        opened["mask"].load()


# Levels ---------------------------------------------------------------------------------------------------------------


def test_a_level_has_pixels_twice_as_wide_at_the_same_place(known: Known) -> None:
    fine, coarse = open_mosaic(known.url), open_mosaic(known.url, level=2)
    assert coarse.sizes["x"] == fine.sizes["x"] // 4
    assert coarse.rio.bounds() == fine.rio.bounds()
    assert coarse.attrs["level"] == 2
    by_accessor = fine.resmap.level(2)
    assert by_accessor.identical(coarse)


def test_a_level_holds_what_its_pyramid_says(known: Known) -> None:
    level = GRID.pyramid()[1]
    mask = open_mosaic(known.url, level=1)["mask"].isel(prompt=1, time=0).to_numpy()
    np.testing.assert_array_equal(mask, known.mosaic.layer(level, "mask", level.box, time=0, prompt=1))


def test_the_levels_are_listed_with_their_resolution(opened: xr.Dataset) -> None:
    assert [level.lattice.res_x for level in opened.resmap.levels] == [10.0, 20.0, 40.0, 80.0]


@pytest.mark.parametrize("level", [-1, 4, 99])
def test_a_level_that_is_not_there_is_refused(known: Known, level: int) -> None:
    with pytest.raises(MosaicError, match=f"no level {level}") as caught:
        open_mosaic(known.url, level=level)
    assert caught.value.fix == "choose 0 to 3"


# Zones ----------------------------------------------------------------------------------------------------------------


def test_several_zones_are_a_tree_with_a_child_each(zones: Known) -> None:
    tree = open_mosaic(zones.url)
    assert isinstance(tree, xr.DataTree)
    assert list(tree.children) == ["utm32n", "utm33n"]
    assert [child.to_dataset().rio.crs.to_epsg() for child in tree.children.values()] == [32632, 32633]
    for name, mask in zones.masks.items():
        np.testing.assert_array_equal(tree[name]["mask"].to_numpy(), mask)
    assert tree.attrs["prompts"] == {prompt.name: prompt.expression for prompt in PROMPTS}


def test_one_of_several_zones_is_a_dataset(zones: Known) -> None:
    zone = open_mosaic(zones.url, tree="utm33n")
    assert isinstance(zone, xr.Dataset)
    assert zone.attrs["zone"] == "utm33n"
    assert zone.resmap.level(1).rio.crs.to_epsg() == 32633


def test_a_zone_that_is_not_there_is_refused_with_the_nearest(zones: Known) -> None:
    with pytest.raises(MosaicError, match="has no zone utm34n") as caught:
        open_mosaic(zones.url, tree="utm34n")
    assert caught.value.fix.startswith("did you mean utm3")


def test_a_tree_answers_for_all_its_zones_and_a_child_for_itself(zones: Known) -> None:
    tree = open_mosaic(zones.url)
    whole = tree.resmap.area(prompts="lake", times="2023", allow_gaps=1)[0].present_km2
    parts = [
        open_mosaic(zones.url, tree=name).resmap.area(prompts="lake", times="2023", allow_gaps=1)[0].present_km2
        for name in tree.children
    ]
    assert whole == pytest.approx(sum(parts), rel=1e-9)


# Growing --------------------------------------------------------------------------------------------------------------


def test_opened_again_it_shows_what_was_added() -> None:
    known = known_mosaic([GRID])
    before = open_mosaic(known.url)
    known.mosaic.add_prompts([Prompt(name="road", expression="the roads")])
    known.mosaic.add_times([datetime(2025, 1, 1, tzinfo=UTC)])
    after = before.resmap.reopen()
    assert (before.sizes["prompt"], before.sizes["time"]) == (2, 2)
    assert (after.sizes["prompt"], after.sizes["time"]) == (3, 3)
    assert not after["observed"].sel(prompt="road").any()


def test_a_mosaic_of_which_nothing_is_mapped_yet_opens_as_unmapped(tmp_path: Path) -> None:
    url = str(tmp_path / "map.zarr")
    Mosaic.create(url, MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={}))
    opened = open_mosaic(url)
    assert not opened["observed"].any()
    assert opened["score"].isnull().all()


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
def test_either_engine_opens_the_same(tmp_path: Path, engine: str) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map"), engine=engine)
    opened = open_mosaic(known.url)
    np.testing.assert_array_equal(opened["mask"].to_numpy(), known.masks[""])


# Questions ------------------------------------------------------------------------------------------------------------


def test_a_selection_is_asked_about_as_it_was_cut(opened: xr.Dataset, known: Known) -> None:
    part = opened.sel(prompt="lake", time="2023").isel(y=slice(5, 70), x=slice(40, 101))
    answer = part.resmap.area(allow_gaps=1)
    mask = known.masks[""][1, 0, 5:70, 40:101]
    pixels = {name: int((mask == value).sum()) for name, value in (("present", 1), ("absent", 0), ("unobserved", 254))}
    assert len(answer) == 1
    # UTM's scale on its meridian is 0.9996 a side, and hardly another a kilometre on.
    assert answer[0].present_km2 == pytest.approx(pixels["present"] * 1e-4 / 0.9996**2, rel=1e-5)
    assert answer[0].absent_km2 == pytest.approx(pixels["absent"] * 1e-4 / 0.9996**2, rel=1e-5)
    assert answer[0].unobserved_km2 == pytest.approx(pixels["unobserved"] * 1e-4 / 0.9996**2, rel=1e-5)


def test_one_pixel_is_a_selection(opened: xr.Dataset, known: Known) -> None:
    answer = opened.isel(prompt=0, time=0, y=7, x=9).resmap.area(allow_gaps=1)
    assert (answer[0].present_km2 > 0) == (known.masks[""][0, 0, 7, 9] == 1)


def test_every_second_pixel_is_no_place(opened: xr.Dataset) -> None:
    with pytest.raises(QuestionError, match="no run of neighbouring pixels along x"):
        opened.isel(x=slice(None, None, 2)).resmap.area()


def test_change_count_and_where_are_at_hand(opened: xr.Dataset) -> None:
    part = opened.sel(prompt="lake")
    (row,) = part.resmap.change("2023", "2024", allow_gaps=1)
    assert row.prompt == "lake"
    (first, second) = part.resmap.count(allow_gaps=1)
    assert (first.time, second.time) == TIMES
    assert len(part.resmap.where(times="2023", allow_gaps=1)) == first.objects


def test_a_dataset_from_elsewhere_has_no_questions() -> None:
    with pytest.raises(MosaicError, match="did not come from a mosaic"):
        _ = xr.Dataset().resmap


# Items ----------------------------------------------------------------------------------------------------------------


def with_run(known: Known, ids: list[str], **facts: object) -> None:
    """Beside the mosaic, what a run leaves there."""
    run = Path(known.url) / ".resmap/runs" / str(facts.get("name", "run"))
    run.mkdir(parents=True)
    places = gpd.GeoDataFrame(
        {"id": ids, "datetime": pd.to_datetime(["2023-06-01T00:00:00Z"] * len(ids)), "resmap:item": ["{}"] * len(ids)},
        geometry=[box(14, 55, 15, 56)] * len(ids),
        crs="EPSG:4326",
    )
    places.to_parquet(run / "items.parquet")
    (run / "run.json").write_text(json.dumps(facts))


def test_the_items_are_those_that_source_names(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    with_run(known, ["first", "second"], name="a", created="2024-01-01")
    with_run(known, ["first", "second", "third"], name="b", created="2024-02-01")
    opened = open_mosaic(known.url)
    items = opened.resmap.items
    assert items["id"].tolist() == ["first", "second", "third"]
    assert items.crs.to_epsg() == 4326
    assert shapely.box(14, 55, 15, 56).equals(items.geometry[0])
    assert "resmap:item" not in items.columns
    seen = opened["source"].sel(time="2024").to_numpy()
    assert items.loc[int(seen[seen < 100].max()), "id"] == "second"


def test_where_names_the_item_of_each_object(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    with_run(known, ["first", "second"], name="a", created="2024-01-01")
    found = open_mosaic(known.url).resmap.where(prompts="building", allow_gaps=1)
    assert set(found["item"][found["time"] == np.datetime64("2023-06-01")]) == {"first"}


def test_a_mosaic_without_a_run_has_no_items_and_says_so(opened: xr.Dataset) -> None:
    with pytest.raises(MosaicError, match="no item table"):
        _ = opened.resmap.items


# The card -------------------------------------------------------------------------------------------------------------

HOSTILE = Prompt(name="</td><script>alert(1)</script>", expression='"><img src=x onerror=alert(1)> houses & sheds')


def plain(card: str) -> str:
    """The text of HTML."""
    return html.unescape(re.sub(r"<[^>]+>", " ", card))


def test_the_card_says_what_where_how_large_and_when(opened: xr.Dataset) -> None:
    for card in (repr(opened.resmap), plain(opened.resmap._repr_html_())):
        assert "building: “the buildings” (threshold 0.5)" in card
        assert "lake: “all the lakes” (threshold 0.4)" in card
        assert "2023-06-01, 2024-06-01T10:30:00" in card
        assert "1.28 × 0.96 km, 128 × 96 px of 10 m" in card
        assert "EPSG:32633 (WGS 84 / UTM zone 33N), 4 levels" in card
        assert "14.68" in card
        assert "55.0" in card
        assert opened.attrs["mosaic"] in card


def test_the_card_says_how_to_go_on(opened: xr.Dataset) -> None:
    assert "ds.resmap.area(" in plain(opened.resmap._repr_html_())


def test_strangers_text_is_shown_as_text() -> None:
    known = known_mosaic([GRID], prompts=(HOSTILE,))
    card = open_mosaic(known.url).resmap._repr_html_()
    assert "<script" not in card
    assert "<img" not in card
    assert HOSTILE.expression in plain(card)


def test_text_that_would_turn_a_line_around_is_taken_out(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    with_run(known, ["a"], name="evil", created="1")
    run = Path(known.url) / ".resmap/runs/evil/run.json"
    run.write_text(json.dumps({"name": "a\x1b[31m\u202eb", "state": "finished"}))
    for card in (repr(open_mosaic(known.url).resmap), open_mosaic(known.url).resmap._repr_html_()):
        assert "\x1b" not in card
        assert "\u202e" not in card


def test_the_card_says_how_far_the_newest_run_is(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    with_run(known, ["a"], name="old", created="2024-01-01", state="finished")
    tiles = {"planned": 200, "done": 120, "nodata": 30}
    with_run(known, ["a"], name="new", created="2024-02-01", state="cancelled", summary={"tiles": tiles})
    assert "new: cancelled, 75 % of 200 tiles" in repr(open_mosaic(known.url).resmap)


def test_a_damaged_run_does_not_keep_the_card_from_being_shown(tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    with_run(known, ["a"], name="old", created="2024-01-01")
    (Path(known.url) / ".resmap/runs/old/run.json").write_text("{")
    assert "128 × 96 px" in repr(open_mosaic(known.url).resmap)


def test_many_prompts_and_times_are_summed_up() -> None:
    prompts = tuple(Prompt(name=f"p{number}", expression="x") for number in range(30))
    times = tuple(datetime(2000 + number, 1, 1, tzinfo=UTC) for number in range(20))
    url = "memory://many/map.zarr"
    Mosaic.create(url, MosaicSpec(grids=(GRID,), prompts=prompts, times=times, made_by={}))
    card = repr(open_mosaic(url).resmap)
    assert "and 18 more" in card
    assert "20 steps, 2000-01-01 to 2019-01-01" in card


@pytest.mark.parametrize(
    ("crs", "resolution", "corner", "says"),
    [
        ("EPSG:4326", 1e-4, (12.0, 60.0), "96 × 64 px of 0.0001°"),
        ("EPSG:2263", 20.0, (980_000, 200_000), "px of 20 US survey foot"),
        ("EPSG:3857", 0.597, (1_300_000, 8_400_000), "px of 0.597 m"),
    ],
)
def test_the_card_tells_a_resolution_in_the_units_of_the_crs(
    crs: str, resolution: float, corner: tuple[float, float], says: str
) -> None:
    known = known_mosaic([small_grid(crs, resolution, corner)])
    assert says in repr(open_mosaic(known.url).resmap)
