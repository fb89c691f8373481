"""Changes from step to step: what the rule says of the whole array, whatever the shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mapper.changes import ChangeRule, Renewed, changes_folder, find_changes
from mapper.errors import QuestionError
from tests.mapper.changes.stacks import PIXEL_M2, RULES, SIDE, laid, random_scores, reckoned, step, told

STEPS = 3


@settings(max_examples=3)
@given(st.integers(0, 2**32), RULES, st.sampled_from([4, 6, 12]), st.sampled_from([1, 2, 3]))
def test_changes_are_those_of_the_whole_array_whatever_the_shards(
    seed: int, rule: ChangeRule, shard_px: int, patch: int
) -> None:
    scores = random_scores(np.random.default_rng(seed), STEPS, patch=patch)
    mosaic = laid(shard_px, scores)
    find_changes(mosaic.url, rule)
    told(mosaic).same(reckoned(scores, [step(n) for n in range(STEPS)], 0.5, rule))


@settings(max_examples=3)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.28, 0.501, 0.99, 0.02]))
def test_without_hysteresis_and_least_area_the_state_is_the_mask(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random((3, SIDE, SIDE)) < 0.1, 254, rng.integers(0, 251, (3, SIDE, SIDE))).astype(np.uint8)
    mosaic = laid(SIDE, scores, thresholds=[threshold])
    find_changes(mosaic.url, ChangeRule(hysteresis=0))
    grid = mosaic.grids[0]
    mask = np.stack([mosaic.layer(grid, "mask", grid.box, time=time) for time in range(3)])
    observed = mask < 254
    assert (told(mosaic).state[observed] == mask[observed]).all()


def one_row(*series: list[int]) -> NDArray[np.uint8]:
    """A series of scores in which each pixel of the first row has one of these, and nothing else was looked at."""
    scores = np.full((len(series[0]), SIDE, SIDE), 255, np.uint8)
    scores[:, 0, 0 : 2 * len(series) : 2] = np.array(series).T
    return scores


def test_a_score_between_the_limits_leaves_a_pixel_as_it_was() -> None:
    mosaic = laid(6, one_row([20, 115, 150, 101, 100], [149, 101, 100, 149, 150]))
    find_changes(mosaic.url, ChangeRule(hysteresis=0.1))
    assert told(mosaic).change[:, 0, [0, 2]].T.tolist() == [[254, 0, 2, 1, 3], [254, 1, 3, 0, 2]]


def test_a_gap_is_no_change_and_what_was_known_outlasts_it() -> None:
    mosaic = laid(6, one_row([250, 254, 255, 0], [254, 255, 250, 250], [250, 254, 255, 250]))
    find_changes(mosaic.url, ChangeRule())
    found = told(mosaic)
    assert found.change[:, 0, [0, 2, 4]].T.tolist() == [[254, 254, 255, 3], [254, 255, 254, 1], [254, 254, 255, 1]]
    assert found.state[:, 0, [0, 2, 4]].T.tolist() == [[1, 1, 1, 0], [254, 254, 1, 1], [1, 1, 1, 1]]
    assert [str(seen) for seen in found.seen[:, 0, 0].astype("M8[D]")] == ["2021-03-01"] * 3 + ["2021-03-16"]


def test_a_border_that_creeps_is_told_of_once_it_adds_up() -> None:
    scores = np.zeros((5, SIDE, SIDE), np.uint8)
    for number in range(5):
        scores[number, :, : 2 + number] = 250  # 12 pixels more each time
    mosaic = laid(4, scores)
    found = find_changes(mosaic.url, ChangeRule(min_area_m2=30 * PIXEL_M2))
    assert found[0].appeared_m2 is None
    assert [round((one.appeared_m2 or 0) / PIXEL_M2) for one in found[1:]] == [0, 0, 36, 0]


@pytest.mark.parametrize("left", [(4, 6), (6, 4)], ids=["falling", "rising"])
def test_what_touches_across_the_corner_of_shards_counts_as_one(left: tuple[int, int]) -> None:
    scores = np.zeros((2, SIDE, SIDE), np.uint8)
    for top, column in zip((4, 6), left, strict=True):  # shards of 6 pixels meet at row 6, column 6
        scores[1, top : top + 2, column : column + 2] = 250
    mosaic = laid(6, scores)
    found = find_changes(mosaic.url, ChangeRule(min_area_m2=7.5 * PIXEL_M2))
    assert [(one.appeared, round((one.appeared_m2 or 0) / PIXEL_M2)) for one in found] == [(None, 0), (1, 8)]


def test_where_no_ground_was_seen_twice_nobody_knows_what_changed() -> None:
    scores = np.zeros((4, SIDE, SIDE), np.uint8)
    scores[0], scores[1] = 250, 254  # seen; a cloud over all of it; gone; as it was
    found = find_changes(laid(6, scores).url, ChangeRule())
    for kind in ("appeared", "vanished", "stayed"):
        assert [getattr(one, kind) is None for one in found] == [True, True, False, False]
        assert [getattr(one, f"{kind}_m2") is None for one in found] == [True, True, False, False]
    assert [one.vanished for one in found[2:]] == [1, 0]


@pytest.mark.parametrize(
    ("threshold", "series"), [(0.95, [0, 249, 250, 188, 187]), (0.05, [250, 1, 0, 62, 63])], ids=["high", "low"]
)
def test_the_surest_score_is_always_a_change_however_near_the_end_the_threshold_lies(
    threshold: float, series: list[int]
) -> None:
    mosaic = laid(6, one_row(series), thresholds=[threshold])
    find_changes(mosaic.url, ChangeRule(hysteresis=0.2))
    appears = [254, 0, 2, 1, 3] if threshold > 0.5 else [254, 1, 3, 0, 2]
    assert told(mosaic).change[:, 0, 0].tolist() == appears


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
def test_a_mosaic_in_a_bucket_has_its_changes_beside_it(bucket: str, engine: str) -> None:
    scores = random_scores(np.random.default_rng(3), 2)
    rule = ChangeRule(min_area_m2=4.5 * PIXEL_M2)
    mosaic = laid(12, scores, url=f"{bucket}/{engine}/map.{engine}", engine=engine)
    assert changes_folder(mosaic.url) == f"{bucket}/{engine}/map.changes"
    find_changes(mosaic.url, rule)
    told(mosaic).same(reckoned(scores, [step(0), step(1)], 0.5, rule))


def test_a_tile_of_no_step_is_refused_in_a_sentence() -> None:
    mosaic = laid(12, random_scores(np.random.default_rng(0), 1))
    with pytest.raises(QuestionError, match="no step at"):
        find_changes(mosaic.url, ChangeRule(), [Renewed(grid="", time=step(7), row=0, column=0)])
    with pytest.raises(QuestionError, match="no zone 'utm33n'"):
        find_changes(mosaic.url, ChangeRule(), [Renewed(grid="utm33n", time=step(0), row=0, column=0)])
