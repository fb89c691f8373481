"""Changed places: what hangs together, when it was seen, and how much of the Earth it covers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio.features
import rioxarray  # noqa: F401  # gives a Dataset its .rio
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mapper.changes import ChangeRule, changed_places, changes_folder, find_changes, open_changes
from mapper.errors import MosaicError, QuestionError
from mapper.outlines.span_area import area_unit_m2, span_areas
from mapper.questions.placed import to_lonlat
from tests.mapper.changes.stacks import LATTICE, PIXEL_M2, RULES, SIDE, Told, laid, random_scores, step, told
from tests.mapper.mosaics import known_mosaic, small_grid

KINDS = {"stayed": 1, "appeared": 2, "vanished": 3}


def expected(found: Told, scores: np.ndarray, at: int, kind: str) -> list[tuple[object, ...]]:
    """Of each place of a step: pixels, score, before, first_seen, last_seen; from the arrays, pixel by pixel."""
    label, count = ndimage.label(found.change[at] == KINDS[kind], np.ones((3, 3)))
    rows = []
    for number in range(1, count + 1):
        here = label == number
        seen, since = found.seen[at - 1][here], found.since[at - 1][here]
        now = found.seen[at][here].max()
        first = now if kind == "appeared" else since.min()
        last = seen.max() if kind == "vanished" else now
        rows.append((int(here.sum()), round(float(scores[at][here].mean()) / 250, 9), seen.min(), first, last))
    return sorted(rows, key=str)


@settings(max_examples=3)
@given(st.integers(0, 2**32), RULES, st.sampled_from([4, 12]))
def test_places_are_what_hangs_together_in_the_raster_and_their_times_those_of_its_pixels(
    seed: int, rule: ChangeRule, shard_px: int
) -> None:
    scores = random_scores(np.random.default_rng(seed), 3)
    mosaic = laid(shard_px, scores)
    totals = find_changes(mosaic.url, rule)
    found, places = told(mosaic), changed_places(mosaic.url)
    box = mosaic.grids[0].box
    ones = np.arange(SIDE * SIDE)
    pixel_m2 = span_areas(LATTICE, box)(ones // SIDE, ones % SIDE, ones % SIDE + 1) * area_unit_m2(LATTICE)
    for at in (1, 2):
        for kind, value in KINDS.items():
            mine = places[(places["kind"] == kind) & (places["time"] == step(at))]
            moments = [mine[name].dt.tz_localize(None) for name in ("before", "first_seen", "last_seen")]
            rows = zip(mine["pixels"], mine["score"].round(9), *(one.to_numpy("M8[s]") for one in moments), strict=True)
            assert sorted(rows, key=str) == expected(found, scores, at, kind)
            area_m2 = float(pixel_m2.reshape(SIDE, SIDE)[found.change[at] == value].sum())
            assert float(mine["area_m2"].sum()) == area_m2
            told_of = next(one for one in totals if one.time == step(at))
            assert (getattr(told_of, kind), getattr(told_of, f"{kind}_m2")) == (len(mine), area_m2)


def test_a_place_is_drawn_around_its_pixels_in_degrees_and_keeps_its_id_whatever_the_shards() -> None:
    scores = np.zeros((2, SIDE, SIDE), np.uint8)
    scores[1, 2:9, 3:8] = 250
    scores[1, 4, 5] = 0
    ids = set()
    for shard_px in (4, 12):
        mosaic = laid(shard_px, scores)
        find_changes(mosaic.url, ChangeRule())
        (place,) = changed_places(mosaic.url, kinds="appeared").itertuples()
        ids.add(place.id)
        transform = LATTICE.transform(mosaic.grids[0].box)
        ((outline, _),) = [
            (shapely.geometry.shape(shape), value)
            for shape, value in rasterio.features.shapes(scores[1], transform=transform)
            if value
        ]
        assert shapely.hausdorff_distance(place.geometry, to_lonlat(outline, LATTICE.crs)) < 1e-9  # a tenth of a mm
        assert place.area_m2 == pytest.approx(34 * PIXEL_M2, rel=1e-3)
    assert len(ids) == 1


def test_files_of_places_are_geoparquet_that_readers_can_skip_in(tmp_path: Path) -> None:
    mosaic = laid(6, random_scores(np.random.default_rng(4), 2), url=str(tmp_path / "map.zarr"))
    find_changes(mosaic.url, ChangeRule())
    files = sorted(Path(changes_folder(mosaic.url), "polygons").iterdir())
    assert [file.name for file in files] == ["0-20210301T000000Z.parquet", "0-20210306T010000Z.parquet"]
    assert pq.read_schema(files[1]).names == [
        *("id", "prompt", "kind", "time", "before", "first_seen", "last_seen", "area_m2", "pixels", "score"),
        *("geometry", "bbox"),
    ]
    places = changed_places(mosaic.url)
    assert (str(places.crs), places["id"].is_unique) == ("OGC:CRS84", True)
    assert b'"covering"' in (pq.read_metadata(files[1]).metadata or {})[b"geo"]


def test_places_are_chosen_by_time_prompt_and_kind() -> None:
    scores = np.stack([random_scores(np.random.default_rng(seed), 3) for seed in (1, 2)])
    mosaic = laid(12, scores, thresholds=[0.5, 0.5])
    find_changes(mosaic.url, ChangeRule())
    all_places = changed_places(mosaic.url)
    chosen = changed_places(mosaic.url, times=[step(2)], prompts="thing 1", kinds=["vanished"])
    mine = (all_places["time"] == step(2)) & (all_places["prompt"] == "thing 1") & (all_places["kind"] == "vanished")
    pd.testing.assert_frame_equal(chosen, all_places[mine].reset_index(drop=True))
    with pytest.raises(QuestionError, match="no kind of change 'apeared'"):
        changed_places(mosaic.url, kinds=["apeared"])


def test_where_there_are_no_changes_yet_there_are_no_places_and_a_sentence() -> None:
    mosaic = laid(12, random_scores(np.random.default_rng(0), 1))
    assert changed_places(mosaic.url).empty
    with pytest.raises(MosaicError, match="no changes beside this mosaic"):
        open_changes(mosaic.url)


def test_changes_open_lazily_with_time_in_order_and_others_open_the_store_itself(tmp_path: Path) -> None:
    scores = random_scores(np.random.default_rng(6), 3)
    mosaic = laid(6, scores, order=[1, 2, 0], url=str(tmp_path / "map.zarr"))
    find_changes(mosaic.url, ChangeRule())
    opened = open_changes(mosaic.url)
    assert opened["time"].to_index().is_monotonic_increasing
    assert opened["change"].chunksizes["y"] == (6, 6)
    itself = xr.open_zarr(f"{changes_folder(mosaic.url)}/change.zarr", group="0")
    stored = itself.sortby("time")
    assert (stored["change"].values == opened["change"].values).all()
    mapped = stored["change"].values < 255
    assert (stored["seen"].values[mapped] == opened["seen"].values[mapped]).sum() > 100
    assert itself.rio.crs.to_epsg() == opened.rio.crs.to_epsg() == 32645


def test_zones_are_maps_of_their_own_and_a_steps_totals_are_those_of_all() -> None:
    grids = [
        small_grid("EPSG:32632", 10, (700_000, 5_300_000), shards=(1, 2), name="utm32n"),
        small_grid("EPSG:32633", 10, (300_000, 5_300_000), shards=(1, 1), name="utm33n"),
    ]
    known = known_mosaic(grids, missing=False)
    totals = find_changes(known.url, ChangeRule())
    places = changed_places(known.url, kinds=["appeared"])
    for one in totals:
        mine = places[(places["time"] == one.time) & (places["prompt"] == one.prompt)]
        assert (one.appeared or 0) == len(mine)
        assert (one.appeared_m2 or 0.0) == pytest.approx(mine["area_m2"].sum(), rel=1e-12)
    assert [one.appeared is None for one in totals] == [True, True, False, False]
    assert all((one.appeared or 0) > 10 for one in totals[2:])
    opened = open_changes(known.url)
    for zone, mask in known.masks.items():
        became = (mask[:, 0] == 0) & (mask[:, 1] == 1)
        np.testing.assert_array_equal(opened[zone]["change"].values[:, 1] == 2, became)
    with pytest.raises(MosaicError, match="no zone utm34n"):
        open_changes(known.url, tree="utm34n")
