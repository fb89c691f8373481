"""Answers: the same as counting pixels one by one, whatever the CRS, the places, the zones and the gaps."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import scipy.ndimage
import shapely
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from shapely.affinity import rotate, translate
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from mapper.engines import ZarrEngine
from mapper.errors import GapError, MosaicError, QuestionError
from mapper.grid import Grid
from mapper.layout import MosaicSpec
from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.pixel_area import pixel_area_m2
from mapper.questions import area, change, count, where
from mapper.questions.changes import APPEARED, STAYED_ABSENT, STAYED_PRESENT, VANISHED, changes
from mapper.questions.places import from_file, from_table, in_box
from tests.mapper.mosaics import PROMPTS, TIMES, Known, known_mosaic, small_grid

GRIDS = {
    "utm": small_grid("EPSG:32633", 10.0, (480_000, 6_100_000)),
    "submetre": small_grid("EPSG:32645", 0.3, (334_000, 3_060_000)),
    "degrees": small_grid("EPSG:4326", 1e-4, (12.0, 60.0)),
    "equal area": small_grid("EPSG:3035", 30.0, (4_300_000, 3_600_000)),
    "web mercator": small_grid("EPSG:3857", 19.1, (1_300_000, 8_400_000)),
    "feet": small_grid("EPSG:2263", 20.0, (980_000, 200_000)),
    "south": small_grid("EPSG:32723", 30.0, (700_000, 7_400_000)),
}

ZONES = (
    small_grid("EPSG:32632", 10.0, (691_600, 6_100_300), shards=(2, 2), name="utm32n"),
    small_grid("EPSG:32633", 10.0, (307_900, 6_100_300), shards=(2, 2), name="utm33n"),
)
"""Two grids that overlap by several hundred metres around 12° east."""


@pytest.fixture(scope="module")
def mosaics() -> dict[str, Known]:
    return {name: known_mosaic([grid], seed=number) for number, (name, grid) in enumerate(GRIDS.items())}


@pytest.fixture(scope="module")
def utm() -> Known:
    """One without gaps."""
    return known_mosaic([GRIDS["utm"]], gaps=False, missing=False)


@pytest.fixture(scope="module")
def zones() -> Known:
    return known_mosaic(ZONES, seed=7)


def centres(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of every pixel's centre, each ``(y, x)``."""
    lattice, part = grid.lattice, grid.box
    x = lattice.phase_x + (np.arange(part.left, part.right) + 0.5) * lattice.res_x
    y = lattice.phase_y - (np.arange(part.top, part.bottom) + 0.5) * lattice.res_y
    across, down = np.meshgrid(x, y)
    return across, down


def moved(shape: BaseGeometry, here: str, there: str) -> BaseGeometry:
    """A geometry's vertices in another CRS."""
    transformer = Transformer.from_crs(here, there, always_xy=True)
    return shapely.transform(shape, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


def held(grid: Grid, shape: BaseGeometry, crs: str) -> NDArray[np.bool_]:
    """``(y, x)``: whether a pixel's centre lies in a shape of another CRS, found out there."""
    x, y = Transformer.from_crs(grid.lattice.crs, crs, always_xy=True).transform(*centres(grid))
    return np.asarray(shapely.contains_xy(shape, x, y), np.bool_)


def km2(grid: Grid, chosen: NDArray[np.bool_]) -> float:
    return float(pixel_area_m2(grid.lattice, grid.box)[chosen].sum()) / 1e6


def table(shapes: list[BaseGeometry], crs: str, names: list[str] | None = None) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame({"name": names or [f"p{n}" for n in range(len(shapes))]}, geometry=shapes, crs=crs)


@st.composite
def shapes(draw: st.DrawFn, grid: Grid) -> BaseGeometry:
    """Stars, with holes or in two parts, inside the grid, in its CRS."""
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    width, height = right - left, top - bottom

    def star() -> Polygon:
        middle = np.array([draw(st.floats(0.3, 0.7)), draw(st.floats(0.3, 0.7))])
        spikes = draw(st.integers(3, 8))
        reach = np.array([draw(st.floats(0.04, 0.29)) for _ in range(spikes)])
        angle = 2 * np.pi * (np.arange(spikes) + draw(st.floats(0, 1))) / spikes
        points = middle + np.column_stack([reach * np.cos(angle), reach * np.sin(angle)])
        return Polygon(np.array([left, bottom]) + points * [width, height])

    kind = draw(st.sampled_from(["star", "hole", "two"]))
    whole: BaseGeometry = star()
    if kind != "star":
        other = star()
        whole = whole.difference(other) if kind == "hole" else whole.union(other)
    assume(whole.area > 30 * grid.lattice.res_x**2)
    assume(whole.geom_type in ("Polygon", "MultiPolygon"))
    # Of a border through a pixel's centre the last bit decides: see the test of neighbours. Here it keeps away.
    whole = translate(whole, 0.137 * grid.lattice.res_x, 0.211 * grid.lattice.res_y)
    points = shapely.points(*(axis.ravel() for axis in centres(grid)))
    assume(not shapely.dwithin(whole.boundary, points, 2e-3 * grid.lattice.res_x).any())
    return whole


# How much -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crs", ["own", "OGC:CRS84", "EPSG:3857", "EPSG:3395"])
@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=3)
@given(data=st.data())
def test_area_is_what_counting_pixel_by_pixel_finds(
    mosaics: dict[str, Known], name: str, crs: str, data: st.DataObject
) -> None:
    known, grid = mosaics[name], GRIDS[name]
    theirs = grid.lattice.crs if crs == "own" else crs
    drawn = [moved(data.draw(shapes(grid)), grid.lattice.crs, theirs) for _ in range(data.draw(st.integers(1, 3)))]
    answer = area(known.mosaic, table(drawn, theirs), allow_gaps=1)
    expected = [
        (number, prompt, time, value)
        for number in range(len(drawn)) for prompt in range(2) for time in range(2)
        for value in (PRESENT, 0, UNOBSERVED, UNMAPPED)
    ]  # fmt: skip
    inside = [held(grid, shape, theirs) for shape in drawn]
    found = [
        amount for row in answer for amount in (row.present_km2, row.absent_km2, row.unobserved_km2, row.unmapped_km2)
    ]
    wanted = [
        km2(grid, inside[number] & (known.masks[""][prompt, time] == value)) for number, prompt, time, value in expected
    ]
    # 3e-8 is between the area of a whole shard and the sum over its pixels; one pixel more or less would be 1e-4.
    assert found == pytest.approx(wanted, rel=1e-7, abs=1e-12)


def test_rows_are_by_place_then_prompt_then_time(utm: Known) -> None:
    shape = box(*GRIDS["utm"].lattice.bounds(GRIDS["utm"].box))
    answer = area(utm.mosaic, table([shape, shape.buffer(-50)], "EPSG:32633", ["a", "b"]))
    order = [(row.feature, row.prompt, row.time) for row in answer]
    assert order == [(f, p.name, t) for f in "ab" for p in PROMPTS for t in TIMES]


def test_shares_are_of_what_was_seen_and_of_the_place(mosaics: dict[str, Known]) -> None:
    for row in area(mosaics["utm"].mosaic, allow_gaps=1):
        seen, gaps = row.present_km2 + row.absent_km2, row.unobserved_km2 + row.unmapped_km2
        assert row.present_share == pytest.approx(row.present_km2 / seen)
        assert row.gap_share == pytest.approx(gaps / (seen + gaps))


def test_a_place_that_nobody_looked_at_has_no_share(tmp_path: Path) -> None:
    known = known_mosaic([GRIDS["utm"]])
    known.mosaic.add_times([datetime(2025, 1, 1, tzinfo=UTC)])
    (row,) = area(known.url, prompts="lake", times="2025", allow_gaps=1)
    assert math.isnan(row.present_share)
    assert (row.gap_share, row.present_km2, row.absent_km2) == (1.0, 0.0, 0.0)


def test_neighbours_share_no_pixel_and_lose_none_even_where_borders_run_through_centres(utm: Known) -> None:
    grid = GRIDS["utm"]
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    xs = [left, left + 105.0, left + 333.3, right]  # 105 m: through the centres of a column
    ys = [bottom, bottom + 205.0, top]
    parts = [box(a, c, b, d) for a, b in pairwise(xs) for c, d in pairwise(ys)]
    halves = [half for part in parts for half in _along_diagonal(part)]
    answer = area(utm.mosaic, table(halves, "EPSG:32633"), prompts="lake", times="2023")
    whole = utm.masks[""][1, 0] == PRESENT
    assert sum(row.present_km2 for row in answer) == pytest.approx(km2(grid, whole), rel=1e-12)


def _along_diagonal(part: BaseGeometry) -> list[Polygon]:
    west, south, east, north = part.bounds
    return [
        Polygon([(west, south), (east, south), (east, north)]),
        Polygon([(west, south), (east, north), (west, north)]),
    ]


def test_places_that_overlap_are_answered_each_as_if_alone(utm: Known) -> None:
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    both = [box(left, bottom, right - 200, top), box(left + 100, bottom, right, top)]
    together = [row.present_km2 for row in area(utm.mosaic, table(both, "EPSG:32633"))]
    alone = [row.present_km2 for one in both for row in area(utm.mosaic, table([one], "EPSG:32633"))]
    assert together == pytest.approx(alone, rel=1e-9)


def test_an_outline_of_many_vertices_is_answered_as_the_simple_one(utm: Known) -> None:
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    simple = rotate(box(left + 150, bottom + 150, right - 200, top - 100), 13)
    fine = shapely.segmentize(simple, 1.0)
    assert shapely.get_num_coordinates(fine) > 1000
    one, other = (area(utm.mosaic, table([shape], "EPSG:32633"), prompts="lake") for shape in (simple, fine))
    assert [row.present_km2 for row in one] == pytest.approx([row.present_km2 for row in other], rel=1e-12)


def test_what_lies_beyond_the_mosaics_pixels_is_unmapped(utm: Known) -> None:
    grid = GRIDS["utm"]
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    width = right - left
    place = box(left + width / 2, bottom, right + 3 * width / 2, top)  # a quarter of it on the mosaic
    (row,) = area(utm.mosaic, table([place], "EPSG:32633"), prompts="lake", times="2023", allow_gaps=1)
    lonlat = moved(shapely.segmentize(place, 10), "EPSG:32633", "OGC:CRS84")
    whole = abs(Geod(ellps="WGS84").geometry_area_perimeter(lonlat)[0]) / 1e6
    # Half a pixel of 10 m along 2 km of edges may fall to either side: here the edges are pixel edges, and none does.
    assert row.present_km2 + row.absent_km2 + row.unmapped_km2 == pytest.approx(whole, rel=1e-7)
    assert row.gap_share == pytest.approx(0.75, rel=1e-4)  # the scale of the map is not the same all over


def test_a_place_with_no_pixels_centre_in_it_is_no_answer_and_is_told_of(utm: Known) -> None:
    left, _, _, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    sliver = box(left + 101, top - 103, left + 104, top - 101)
    answer = area(utm.mosaic, table([sliver], "EPSG:32633", ["hut"]), prompts="lake", times="2023")
    assert math.isnan(answer[0].present_share)
    assert math.isnan(answer[0].gap_share)
    assert answer.notes == ("no pixel's centre lies in hut: nothing is known of it",)


def test_all_of_the_mosaic_is_the_area_that_its_runs_were_asked_for(tmp_path: Path) -> None:
    known = known_mosaic([GRIDS["utm"]], gaps=False, missing=False, url=str(tmp_path / "map.zarr"))
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    asked = moved(box(left + 93.3, bottom + 92.1, right - 97.7, top - 91.9), "EPSG:32633", "OGC:CRS84")
    run = tmp_path / "map.zarr/.resmap/runs/run-1"
    run.mkdir(parents=True)
    (run / "area.wkb").write_bytes(shapely.to_wkb(asked))
    (row,) = area(known.url, prompts="lake", times="2023")
    assert row.present_km2 == pytest.approx(
        km2(GRIDS["utm"], held(GRIDS["utm"], asked, "OGC:CRS84") & (known.masks[""][1, 0] == PRESENT)), rel=1e-9
    )


def test_how_much_a_thread_takes_at_once_does_not_change_the_answer(
    utm: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mapper.questions import tally

    shape = rotate(box(*GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)).buffer(-60), 8)
    one = area(utm.mosaic, table([shape], "EPSG:32633"), allow_gaps=1)
    monkeypatch.setattr(tally, "WORK_PX", 16)  # a shard of 4 096 px takes a while to make
    other = area(utm.mosaic, table([shape], "EPSG:32633"), allow_gaps=1)
    assert [row.present_km2 for row in one] == pytest.approx([row.present_km2 for row in other], rel=1e-9)


# Zones ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(data=st.data())
def test_a_pixel_of_two_zones_that_overlap_is_counted_in_its_own_alone(zones: Known, data: st.DataObject) -> None:
    lonlat = [moved(box(*grid.lattice.bounds(grid.box)), grid.lattice.crs, "OGC:CRS84") for grid in ZONES]
    both = shapely.intersection_all(lonlat).buffer(0.003).intersection(lonlat[0].union(lonlat[1]).buffer(-0.0002))
    west, south, east, north = both.bounds
    middle = [data.draw(st.floats(0.35, 0.65)) for _ in range(2)]
    angles = np.linspace(0, 2 * np.pi, data.draw(st.integers(4, 9)))[:-1] + 0.1
    place = Polygon(
        np.column_stack(
            [west + (east - west) * (middle[0] + 0.3 * np.cos(angles)),
             south + (north - south) * (middle[1] + 0.2 * np.sin(angles))]
        )
    )  # fmt: skip
    answer = area(zones.mosaic, table([place], "OGC:CRS84"), prompts="building", times="2023", allow_gaps=1)
    found = dict.fromkeys((PRESENT, 0, UNOBSERVED, UNMAPPED), 0.0)
    for grid in ZONES:
        strip = box(6, 0, 12, 84) if grid.name == "utm32n" else box(12, 0, 18, 84)
        inside = held(grid, place.intersection(strip), "OGC:CRS84")
        for value in found:
            found[value] += km2(grid, inside & (zones.masks[grid.name][0, 0] == value))
    (row,) = answer
    amounts = [row.present_km2, row.absent_km2, row.unobserved_km2]
    assert amounts == pytest.approx([found[PRESENT], found[0], found[UNOBSERVED]], rel=1e-7, abs=1e-12)


def test_two_zones_together_have_the_surface_of_the_place_once(zones: Known) -> None:
    west, south, east, north = moved(box(691_700, 6_099_600, 692_050, 6_100_050), "EPSG:32632", "OGC:CRS84").bounds
    place = Polygon([(west, south), (east, south + 1e-4), (east - 1e-4, north), (west + 1e-4, north - 1e-4)])
    (row,) = area(zones.mosaic, table([place], "OGC:CRS84"), prompts="lake", times="2023", allow_gaps=1)
    surface = abs(Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(place, 1e-4))[0]) / 1e6
    total = row.present_km2 + row.absent_km2 + row.unobserved_km2 + row.unmapped_km2
    # Each of the 200 pixels along border and meridian counts by its centre: what is cut off and what juts out differ
    # by a dozen at most, of 1 500 in all. Counted twice, the 200 m that both zones hold would be a third more.
    assert total == pytest.approx(surface, rel=0.01)


def test_all_of_a_mosaic_of_two_zones_has_its_overlap_once(zones: Known) -> None:
    rows = area(zones.mosaic, prompts="lake", times="2023", allow_gaps=1)
    lonlat = [moved(shapely.segmentize(box(*g.lattice.bounds(g.box)), 10), g.lattice.crs, "OGC:CRS84") for g in ZONES]
    strips = [box(6, 0, 12, 84), box(12, 0, 18, 84)]
    parts = [shape.intersection(strip) for shape, strip in zip(lonlat, strips, strict=True)]
    surface = sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(part)[0]) for part in parts) / 1e6
    total = rows[0].present_km2 + rows[0].absent_km2 + rows[0].unobserved_km2 + rows[0].unmapped_km2
    assert total == pytest.approx(surface, rel=0.005)  # half a pixel along the meridian, of 32 pixels beside it
    assert total < sum(km2(grid, np.ones(grid.shape, np.bool_)) for grid in ZONES)


# What changed ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.sampled_from([0, 1, UNOBSERVED, UNMAPPED])] * 2), min_size=1, max_size=30))
def test_a_gap_at_either_time_is_no_change_and_no_staying(pairs: list[tuple[int, int]]) -> None:
    before, after = np.array(pairs, np.uint8).T
    table_of = {(0, 0): STAYED_ABSENT, (1, 1): STAYED_PRESENT, (0, 1): APPEARED, (1, 0): VANISHED}
    expected = [table_of.get(pair, UNMAPPED if UNMAPPED in pair else UNOBSERVED) for pair in pairs]
    assert changes(before, after).tolist() == expected


def test_change_is_what_comparing_pixel_by_pixel_finds(mosaics: dict[str, Known]) -> None:
    known, grid = mosaics["equal area"], GRIDS["equal area"]
    shape = rotate(box(*grid.lattice.bounds(grid.box)).buffer(-200), 5)
    rows = change(known.mosaic, "2023", "2024", table([shape], grid.lattice.crs), allow_gaps=1)
    inside = held(grid, shape, grid.lattice.crs)
    for number, row in enumerate(rows):
        before, after = known.masks[""][number]
        gap = (before > 1) | (after > 1)
        expected = [inside & ~gap & (before == was) & (after == now) for was, now in ((0, 1), (1, 0), (1, 1), (0, 0))]
        amounts = [row.appeared_km2, row.vanished_km2, row.stayed_present_km2, row.stayed_absent_km2]
        assert amounts == pytest.approx([km2(grid, one) for one in expected], rel=1e-7)
        assert row.not_comparable_km2 == pytest.approx(km2(grid, inside & gap), rel=1e-7)
        assert (row.before, row.after) == TIMES


def test_change_asks_for_the_earlier_time_first(utm: Known) -> None:
    with pytest.raises(QuestionError, match="is not before the time after"):
        change(utm.mosaic, "2024", "2023")


def test_change_wants_one_time_step_at_each_end(utm: Known) -> None:
    known = known_mosaic([GRIDS["utm"]], times=(*TIMES, datetime(2024, 8, 1, tzinfo=UTC)))
    with pytest.raises(QuestionError, match="means 2 time steps") as caught:
        change(known.mosaic, "2023", "2024")
    assert caught.value.fix == "choose one of 2024-06-01T10:30:00, 2024-08-01"


# Objects --------------------------------------------------------------------------------------------------------------


def labelled(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[tuple[int, int]]]:
    """Objects of a mask, and the northernmost then westernmost pixel of each."""
    labels, number = scipy.ndimage.label(mask == PRESENT, np.ones((3, 3)))
    first = [np.argwhere(labels == label)[0] for label in range(1, number + 1)]
    return labels, [(int(row), int(column)) for row, column in first]


@settings(max_examples=6)
@given(data=st.data())
def test_count_is_the_objects_that_begin_in_a_place_and_all_they_cover(
    mosaics: dict[str, Known], data: st.DataObject
) -> None:
    known, grid = mosaics["utm"], GRIDS["utm"]
    shape = data.draw(shapes(grid))
    (row,) = count(known.mosaic, table([shape], grid.lattice.crs), prompts="lake", times="2023", allow_gaps=1)
    labels, first = labelled(known.masks[""][1, 0])
    inside = held(grid, shape, grid.lattice.crs)
    mine = [number for number, pixel in enumerate(first, 1) if inside[pixel]]
    assert row.objects == len(mine)
    assert row.objects_km2 == pytest.approx(km2(grid, np.isin(labels, mine)), rel=1e-6, abs=1e-12)


def test_neighbours_count_every_object_once(utm: Known) -> None:
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    cut = left + 245.0  # through the centres of a column
    parts = [*_along_diagonal(box(left, bottom, cut, top)), box(cut, bottom, right, top)]
    rows = count(utm.mosaic, table(parts, "EPSG:32633"), prompts="lake", times="2024")
    assert sum(row.objects for row in rows) == len(labelled(utm.masks[""][1, 1])[1])


def test_places_whose_boxes_overlap_count_what_each_alone_counts(utm: Known) -> None:
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    north, south = top - 5, top - 205
    halves = [
        [(left, north), (left + 200, north), (left, south)],
        [(left + 200, north), (left + 200, south), (left, south)],
    ]
    places = [
        *map(Polygon, halves),
        box(right - 90, bottom, right, bottom + 90),
    ]  # the third keeps all from being one box
    together = count(utm.mosaic, table(places, "EPSG:32633"), prompts="lake", times="2023", allow_gaps=1)
    alone = [
        count(utm.mosaic, table([one], "EPSG:32633"), prompts="lake", times="2023", allow_gaps=1)[0] for one in places
    ]
    assert [row.objects for row in together] == [row.objects for row in alone]
    assert min(row.objects for row in alone) > 0


def test_places_far_apart_are_counted_as_each_alone(utm: Known) -> None:
    left, bottom, right, top = GRIDS["utm"].lattice.bounds(GRIDS["utm"].box)
    apart = [box(left, top - 150, left + 150, top), box(right - 150, bottom, right, bottom + 150)]
    together = count(utm.mosaic, table(apart, "EPSG:32633"), prompts="lake", times="2023")
    alone = [count(utm.mosaic, table([one], "EPSG:32633"), prompts="lake", times="2023")[0] for one in apart]
    assert [row.objects for row in together] == [row.objects for row in alone]


def test_where_gives_the_largest_first_with_their_place_on_earth(utm: Known) -> None:
    found = where(utm.mosaic, prompts="lake", times="2023", limit=5)
    labels, first = labelled(utm.masks[""][1, 0])
    sizes = np.bincount(labels.ravel())[1:]
    assert found["area_m2"].is_monotonic_decreasing
    largest = int(np.argmax(sizes))
    x, y = (axis[first[largest]] for axis in centres(GRIDS["utm"]))
    lonlat = Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True).transform(x, y)
    assert (found["longitude"][0], found["latitude"][0]) == pytest.approx(lonlat, abs=1e-9)
    assert found.crs.to_epsg() == 4326
    assert len(found) == 5
    assert found["time"].tolist() == [np.datetime64("2023-06-01")] * 5


def test_an_outline_of_where_is_the_object(utm: Known) -> None:
    found = where(utm.mosaic, prompts="lake", times="2023", limit=3)
    geod = Geod(ellps="WGS84")
    surfaces = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in found.geometry]
    # Edges of up to 1 km are chords in degrees; they bow by 2 cm, of objects a hundred metres wide and more.
    assert surfaces == pytest.approx(found["area_m2"].tolist(), rel=1e-3)
    frames = shapely.box(*found[["west", "south", "east", "north"]].to_numpy().T)
    assert shapely.contains(shapely.buffer(frames, 1e-9), found.geometry.to_numpy()).all()


def test_where_of_the_surest_comes_by_score(tmp_path: Path) -> None:
    known = known_mosaic([GRIDS["utm"]], gaps=False, missing=False)
    found = where(known.mosaic, prompts="lake", times="2023", order="score", outlines=False)
    assert found["score"].is_monotonic_decreasing
    assert set(found.geometry.geom_type) == {"Point"}


def test_where_there_is_nothing_the_table_is_empty_and_has_its_columns() -> None:
    known = known_mosaic([GRIDS["utm"]], seed=3)
    known.mosaic.add_times([datetime(2025, 1, 1, tzinfo=UTC)])
    found = where(known.url, times="2025", allow_gaps=1)
    assert len(found) == 0
    assert {"score", "area_m2", "item", "geometry"} <= set(found.columns)


# Gaps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [area, count, where])
def test_too_many_gaps_are_refused_with_the_worst_of_them(mosaics: dict[str, Known], ask: Any) -> None:
    known = mosaics["utm"]
    with pytest.raises(GapError) as caught:
        ask(known.mosaic, prompts="lake")
    worst = max(area(known.mosaic, prompts="lake", allow_gaps=1), key=lambda row: row.gap_share)
    assert caught.value.exit_status == 8
    assert caught.value.where["prompt"] == "lake"
    assert str(caught.value.where["time"]) == worst.time.strftime("%Y-%m-%d") + (
        "" if worst.time == TIMES[0] else "T10:30:00"
    )
    assert f"{100 * worst.gap_share:.1f} % of whole mosaic was not seen" in caught.value.what


def test_the_share_a_refusal_names_is_enough(mosaics: dict[str, Known]) -> None:
    with pytest.raises(GapError) as caught:
        area(mosaics["utm"].mosaic)
    share = float(caught.value.fix.split("--allow-gaps ")[1].split()[0])
    assert len(area(mosaics["utm"].mosaic, allow_gaps=share)) == 4


def test_change_counts_a_gap_at_either_time(mosaics: dict[str, Known]) -> None:
    known = mosaics["utm"]
    each = [area(known.mosaic, times=year, prompts="lake", allow_gaps=1)[0].gap_share for year in ("2023", "2024")]
    (row,) = change(known.mosaic, "2023", prompts="lake", allow_gaps=1)
    assert row.gap_share > max(each)
    with pytest.raises(GapError):
        change(known.mosaic, "2023", prompts="lake", allow_gaps=max(each))


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_what_is_allowed_is_a_share(utm: Known, share: float) -> None:
    with pytest.raises(QuestionError, match="is a share of a place"):
        area(utm.mosaic, allow_gaps=share)


# What is read ---------------------------------------------------------------------------------------------------------


class Counted(WrapperStore[LocalStore]):
    """A store that remembers what was read from it."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.read: list[str] = []

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        self.read.append(key)
        return await super().get(key, prototype, byte_range)

    @property
    def shards(self) -> set[str]:
        """Shards of the layers."""
        return {key for key in self.read if "/c/" in key and key.split("/")[1] in ("mask", "score", "source")}


def counted(url: str) -> tuple[Counted, Mosaic]:
    store = Counted(LocalStore(url, read_only=True))
    return store, Mosaic(url, ZarrEngine(url, zarr.open_group(store, mode="r")))


def test_only_the_shards_that_a_place_touches_are_read(tmp_path: Path) -> None:
    grid = small_grid("EPSG:32633", 10.0, (480_000, 6_100_000), shards=(6, 6))
    known = known_mosaic([grid], missing=False, url=str(tmp_path / "map.zarr"))
    store, mosaic = counted(known.url)
    left, _, _, top = grid.lattice.bounds(grid.box)
    place = box(left + 350, top - 300, left + 600, top - 30)  # in shards r0c1
    area(mosaic, table([place], "EPSG:32633"), prompts="lake", times="2024", allow_gaps=1)
    assert store.shards == {"0/mask/c/1/1/0/1"}


def test_shards_that_were_never_written_are_not_asked_for(tmp_path: Path) -> None:
    grid = small_grid("EPSG:32633", 10.0, (480_000, 6_100_000), shards=(40, 40))
    url = str(tmp_path / "map.zarr")
    Mosaic.create(url, MosaicSpec(grids=(grid,), prompts=PROMPTS, times=TIMES[:1], made_by={}))
    store, mosaic = counted(url)
    (row,) = area(mosaic, prompts="lake", allow_gaps=1)
    assert store.shards == set()
    assert row.unmapped_km2 == pytest.approx(km2(grid, np.ones(grid.shape, np.bool_)), rel=1e-7)
    assert row.gap_share == 1.0


def test_a_mosaic_that_grows_is_answered_as_it_is_now() -> None:
    known = known_mosaic([GRIDS["utm"]], gaps=False, missing=False)
    before = len(area(known.url, allow_gaps=1))
    known.mosaic.add_times([datetime(2025, 1, 1, tzinfo=UTC)])
    assert len(area(known.url, allow_gaps=1)) == before + len(PROMPTS)


@pytest.mark.parametrize("where_it_is", ["s3", "icechunk"])
def test_answers_are_the_same_in_a_bucket_and_in_a_repository(
    where_it_is: str, tmp_path: Path, request: pytest.FixtureRequest, mosaics: dict[str, Known]
) -> None:
    if where_it_is == "s3":
        url = f"{request.getfixturevalue('bucket')}/questions.zarr"
        known = known_mosaic([GRIDS["utm"]], seed=0, url=url)
    else:
        known = known_mosaic([GRIDS["utm"]], seed=0, url=str(tmp_path / "repo"), engine="icechunk")
    assert area(known.url, allow_gaps=1).rows == area(mosaics["utm"].url, allow_gaps=1).rows


# How it is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        (None, [0, 1]), ("2023", [0]), ("2024-06", [1]), ("2024-06-01", [1]), ("2024-06-01T10:30:00Z", [1]),
        ("latest", [1]), (["2023", "2024"], [0, 1]), (["latest", "2024"], [1]), (date(2023, 6, 1), [0]),
        (TIMES[1], [1]), (np.datetime64("2024-06-01T10:30:00.000000000"), [1]),
    ],
)  # fmt: skip
def test_a_time_is_named_by_as_much_of_it_as_tells(utm: Known, said: Any, steps: list[int]) -> None:
    assert [row.time for row in area(utm.mosaic, prompts="lake", times=said)] == [TIMES[step] for step in steps]


@pytest.mark.parametrize("said", ["june", "2024-6", "24", "", "2024-06-01T10:30:00+02:00"])
def test_what_is_no_time_is_refused_with_an_example(utm: Known, said: str) -> None:
    with pytest.raises(QuestionError, match="is no time") as caught:
        area(utm.mosaic, times=said)
    assert "2024-06" in caught.value.fix


def test_a_time_that_is_not_there_is_answered_with_those_that_are(utm: Known) -> None:
    with pytest.raises(QuestionError, match="no time step in 2022") as caught:
        area(utm.mosaic, times="2022")
    assert caught.value.fix == "choose one of 2023-06-01, 2024-06-01T10:30:00"


def test_a_prompt_is_named_by_name_or_sentence(utm: Known) -> None:
    assert {row.prompt for row in area(utm.mosaic, prompts=["all the lakes", "lake"])} == {"lake"}


@pytest.mark.parametrize(("said", "fix"), [("biulding", "did you mean building?"), ("x", "there is building, lake")])
def test_a_prompt_that_is_not_there_is_answered_with_one_that_is(utm: Known, said: str, fix: str) -> None:
    with pytest.raises(QuestionError, match="no prompt") as caught:
        area(utm.mosaic, prompts=said)
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ((12, 55, 11, 56), "west beyond its east"), ((11, 56, 12, 55), "south above its north"),
        ((170, 1, -170, 2), "west beyond its east"), ((11, 55, 11, 56), "west beyond its east"),
        ((-200, 1, 2, 3), "leaves the globe"), ((690_000, 6_000_000, 700_000, 6_100_000), "leaves the globe"),
        ((math.nan, 1, 2, 3), "has no bounds"),
    ],
)  # fmt: skip
def test_what_is_no_box_is_refused(bounds: tuple[float, float, float, float], says: str) -> None:
    with pytest.raises(QuestionError, match=says):
        in_box(*bounds)


def test_a_place_off_the_mosaic_is_refused(utm: Known) -> None:
    with pytest.raises(QuestionError, match="no part of the place lies on the mosaic"):
        area(utm.mosaic, (100, 10, 101, 11))


def test_a_place_across_the_antimeridian_is_one_feature_of_two_polygons() -> None:
    grid = small_grid("EPSG:32601", 100.0, (281_600, 5_500_000))
    known = known_mosaic([grid], gaps=False, missing=False)
    west, _, east, _ = moved(box(282_000, 5_495_000, 288_000, 5_498_000), "EPSG:32601", "OGC:CRS84").bounds
    assert west < 0 < east  # not 6 km but all around the Earth: the meridian of 180° runs through
    corners = [Transformer.from_crs("EPSG:32601", "OGC:CRS84", always_xy=True).transform(x, 5_496_500)[0]
               for x in (282_200, 287_800)]  # fmt: skip
    parts = MultiPolygon([box(corners[0], 49.59, 180, 49.6), box(-180, 49.59, corners[1], 49.6)])
    (row,) = area(known.mosaic, table([parts], "OGC:CRS84"), prompts="lake", times="2023")
    whole = box(corners[0], 49.59, corners[1] + 360, 49.6)
    surface = abs(Geod(ellps="WGS84").geometry_area_perimeter(whole)[0]) / 1e6
    assert row.present_km2 + row.absent_km2 == pytest.approx(surface, rel=0.02)  # half a pixel of 55 × 11 along a side


def test_what_is_no_mosaic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MosaicError):
        area(str(tmp_path / "nothing.zarr"))
    zarr.create_group(str(tmp_path / "other.zarr"), zarr_format=3, attributes={"title": "somebody's"})
    with pytest.raises(MosaicError, match="not a resmap mosaic"):
        area(str(tmp_path / "other.zarr"))


def test_an_answer_is_a_data_frame(utm: Known) -> None:
    frame = area(utm.mosaic).to_pandas()
    assert frame["time"].dtype.kind == "M"
    assert frame["present_km2"].dtype == np.float64
    assert set(frame["prompt"]) == {"building", "lake"}


# Files of places ------------------------------------------------------------------------------------------------------

SQUARE = box(11.99, 55.01, 12.0, 55.02)


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".shp", ".parquet", ".fgb", ".kml"])
def test_polygons_of_any_format_are_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"places{ending}"
    places = table([SQUARE], "EPSG:4326", ["here"])
    places.to_parquet(path) if ending == ".parquet" else places.to_file(path)
    read = from_file(path)
    assert read.names == ("here",)
    assert read.geometries[0].equals_exact(SQUARE, 1e-6) or read.geometries[0].equals(SQUARE)


def test_geojson_is_longitude_and_latitude(tmp_path: Path) -> None:
    table([SQUARE], "EPSG:4326").to_file(tmp_path / "a.geojson")
    assert from_file(tmp_path / "a.geojson").geometries[0].equals(SQUARE)


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")  # by geopandas, of what the test is about
def test_a_file_that_does_not_say_its_crs_is_refused_unless_it_is_said(tmp_path: Path) -> None:
    table([SQUARE], "EPSG:4326").set_crs(None, allow_override=True).to_file(tmp_path / "a.shp")
    with pytest.raises(QuestionError, match="does not say in which CRS") as caught:
        from_file(tmp_path / "a.shp")
    assert "--crs" in caught.value.fix
    assert from_file(tmp_path / "a.shp", crs="EPSG:4326").crs == "EPSG:4326"


def test_a_crs_that_is_said_goes_before_the_files_own(tmp_path: Path) -> None:
    table([box(480_000, 6_000_000, 480_100, 6_000_100)], "EPSG:32633").to_file(tmp_path / "a.gpkg")
    read = from_file(tmp_path / "a.gpkg", crs="EPSG:32632")
    assert read.crs == "EPSG:32632"
    assert read.notes == ("a.gpkg: coordinates taken as EPSG:32632, not as EPSG:32633, which the file says",)


def test_a_crs_nobody_knows_is_refused(tmp_path: Path) -> None:
    table([SQUARE], "EPSG:4326").to_file(tmp_path / "a.geojson")
    with pytest.raises(QuestionError, match="'EPSG:99999999' is no CRS"):
        from_file(tmp_path / "a.geojson", crs="EPSG:99999999")


def test_metres_in_a_file_of_degrees_are_noticed(tmp_path: Path) -> None:
    table([box(480_000, 6_000_000, 480_100, 6_000_100)], "EPSG:4326").to_file(tmp_path / "a.geojson")
    with pytest.raises(QuestionError, match="which is not longitude and latitude"):
        from_file(tmp_path / "a.geojson")


@pytest.mark.parametrize("content", ["", "not json", '{"type": "FeatureCollection", "features": []}'])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(QuestionError) as caught:
        from_file(tmp_path / "a.geojson")
    assert caught.value.fix


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="no such file"):
        from_file(tmp_path / "a.geojson")


def test_points_have_no_surface(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="p0 is a Point and has no surface"):
        from_table(table([Point(1, 2)], "EPSG:4326"))


def test_an_outline_that_crosses_itself_is_mended_and_told_of() -> None:
    bow = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    read = from_table(table([bow], "EPSG:4326", ["bow"]))
    assert read.geometries[0].area == pytest.approx(0.5)
    assert "the outline of bow was mended (Self-intersection" in read.notes[0]


def test_a_row_without_geometry_is_left_out_and_told_of() -> None:
    read = from_table(table([SQUARE, None], "EPSG:4326", ["a", "b"]))
    assert read.names == ("a",)
    assert read.notes == ("the table: b has no geometry and is left out",)


def test_heights_are_nothing_to_us() -> None:
    assert from_table(table([shapely.force_3d(SQUARE, 9)], "EPSG:4326")).geometries[0].equals_exact(SQUARE, 0)


@pytest.mark.parametrize(
    ("columns", "column", "names"),
    [
        ({"id": [7, 8], "NAME_2": ["a", "b"]}, None, ("a", "b")),
        ({"rename": ["x", "y"], "Name": ["a", "b"]}, None, ("a", "b")),
        ({"id": [7, 8]}, None, ("1", "2")),
        ({"id": [7, 8], "name": ["a", "b"]}, "id", ("7", "8")),
        ({"name": ["a", "a"]}, None, ("a (1)", "a (2)")),
        ({"name": ["a", None]}, None, ("a", "row 2")),
    ],
)
def test_places_are_named_by_a_column_or_their_row(
    columns: dict[str, list[Any]], column: str | None, names: tuple[str, ...]
) -> None:
    places = gpd.GeoDataFrame(columns, geometry=[SQUARE, SQUARE], crs="EPSG:4326")
    assert from_table(places, column=column).names == names


def test_a_column_that_is_not_there_is_answered_with_one_that_is() -> None:
    with pytest.raises(QuestionError, match="no column 'nmae'") as caught:
        from_table(table([SQUARE], "EPSG:4326"), column="nmae")
    assert caught.value.fix == "did you mean name?"
