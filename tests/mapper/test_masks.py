"""Logits of overlapping windows become one score and one mask."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mapper.errors import GridError, MapperError
from mapper.grid import PixelBox, Windows
from mapper.masks import (
    ABSENT,
    PRESENT,
    SCORE_ONE,
    UNMAPPED,
    UNOBSERVED,
    Blend,
    needed_windows,
    to_mask,
    to_score,
)
from mapper.segmenter import Logits
from tests.strategies import boxes, parts_of, window_lattices

WINDOWS = Windows(size_px=16, overlap_px=5)
AREA = PixelBox(-20, 7, 37, 61)
EVERY = np.ones(AREA.shape, np.bool_)


def window_logits(window: PixelBox, *, prompts: int = 2) -> Logits:
    """What a model might say of a window: it differs from what the neighbouring window says of the same pixel."""
    draw = np.random.default_rng((window.top + 2**31, window.left + 2**31))
    return np.asarray(draw.normal(0, 4, (prompts, *window.shape)), np.float32)


def blended(core: PixelBox, windows: Windows, *, feather: bool = True) -> Logits:
    """The logits of a core from all windows that touch it."""
    blend = Blend(core, windows, 2, feather=feather)
    for window in windows.touching(core):
        blend.add(window, window_logits(window))
    return blend.logits(np.ones(core.shape, np.bool_))


@given(window_lattices(largest_px=24), boxes(largest_px=40), st.booleans(), st.sampled_from([-8.0, 0.25, 3.7]))
def test_windows_that_agree_are_blended_to_what_they_say(
    windows: Windows, core: PixelBox, feather: bool, said: float
) -> None:
    blend = Blend(core, windows, 1, feather=feather)
    for window in windows.touching(core):
        blend.add(window, np.full((1, *window.shape), said, np.float32))
    np.testing.assert_allclose(blend.logits(np.ones(core.shape, np.bool_)), said, rtol=1e-6)


@given(parts_of(AREA), st.booleans())
def test_a_pixel_has_the_same_bits_whatever_core_asked_for_it(part: PixelBox, feather: bool) -> None:
    whole = blended(AREA, WINDOWS, feather=feather)
    assert blended(part, WINDOWS, feather=feather).tobytes() == whole[:, *part.within(AREA)].tobytes()


@given(window_lattices(largest_px=20), parts_of(AREA))
def test_the_lattice_of_windows_decides_and_not_the_core(windows: Windows, part: PixelBox) -> None:
    assert blended(part, windows).tobytes() == blended(AREA, windows)[:, *part.within(AREA)].tobytes()


@given(window_lattices(largest_px=24), boxes(largest_px=40), st.booleans())
def test_every_pixel_has_weight(windows: Windows, core: PixelBox, feather: bool) -> None:
    assert np.isfinite(blended(core, windows, feather=feather)).all()


def test_without_feathering_a_pixel_is_what_one_window_says() -> None:
    core = PixelBox(0, 0, 40, 40)
    said = [window_logits(window)[:, *core.intersection(window).within(window)] for window in WINDOWS.touching(core)]
    values = {value for logits in said for value in logits[0].ravel().tolist()}
    assert set(blended(core, WINDOWS, feather=False)[0].ravel().tolist()) <= values


def test_in_the_middle_of_a_feathered_overlap_both_windows_count_the_same() -> None:
    windows = Windows(size_px=8, overlap_px=3)  # windows 0..8 and 5..13 share 5, 6 and 7
    core = PixelBox(2, 2, 3, 10)
    blend = Blend(core, windows, 1)
    for window in windows.touching(core):
        blend.add(window, np.full((1, 8, 8), float(window.left), np.float32))
    np.testing.assert_allclose(blend.logits(np.ones((1, 8), np.bool_))[0, 0, 3:6], [5 / 6, 2.5, 25 / 6], rtol=1e-6)


def test_a_needed_pixel_under_no_window_is_an_error() -> None:
    blend = Blend(AREA, WINDOWS, 1)
    with pytest.raises(GridError, match="lies under no window"):
        blend.logits(EVERY)


def test_a_pixel_that_is_not_needed_may_lie_under_no_window() -> None:
    assert (Blend(AREA, WINDOWS, 1).logits(~EVERY) == 0).all()


def test_windows_that_show_nothing_needed_are_skipped() -> None:
    needed = np.zeros(AREA.shape, np.bool_)
    needed[30, 20] = True
    pixel = PixelBox(AREA.top + 30, AREA.left + 20, AREA.top + 31, AREA.left + 21)
    assert needed_windows(WINDOWS.touching(AREA), AREA, needed) == list(WINDOWS.touching(pixel))


@given(parts_of(AREA))
def test_skipping_windows_does_not_change_a_needed_pixel(part: PixelBox) -> None:
    needed = np.zeros(AREA.shape, np.bool_)
    needed[part.within(AREA)] = True
    blend = Blend(AREA, WINDOWS, 2)
    for window in needed_windows(WINDOWS.touching(AREA), AREA, needed):
        blend.add(window, window_logits(window))
    assert blend.logits(needed)[:, needed].tobytes() == blended(AREA, WINDOWS)[:, needed].tobytes()


def test_the_seam_is_the_share_of_shared_pixels_on_which_windows_disagree() -> None:
    core = PixelBox(0, 0, 4, 12)
    windows = Windows(size_px=8, overlap_px=4)
    blend = Blend(core, windows, 1)
    blend.add(PixelBox(0, 0, 8, 8), np.full((1, 8, 8), 1, np.float32))
    blend.add(
        PixelBox(0, 4, 8, 12), np.concatenate([np.full((1, 8, 1), -1), np.full((1, 8, 7), 1)], 2, dtype=np.float32)
    )
    assert blend.seam == 1 / 4


def test_where_no_windows_meet_there_is_no_seam() -> None:
    blend = Blend(PixelBox(0, 0, 4, 4), Windows(size_px=8, overlap_px=0), 1)
    blend.add(PixelBox(0, 0, 8, 8), np.zeros((1, 8, 8), np.float32))
    assert blend.seam is None


@pytest.mark.parametrize(
    ("valid", "asked", "value"),
    [(True, True, 125), (False, True, UNOBSERVED), (True, False, UNMAPPED), (False, False, UNMAPPED)],
)
def test_a_gap_is_never_an_answer(valid: bool, asked: bool, value: int) -> None:
    score = to_score(np.zeros((1, 1, 1), np.float32), valid=np.array([[valid]]), asked=np.array([[asked]]))
    assert score.item() == value


@given(st.floats(-200, 200, width=32))
def test_a_score_is_the_sigmoid_of_the_logit_in_steps_of_a_250th(logit: float) -> None:
    seen = np.ones((1, 1), np.bool_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = to_score(np.full((1, 1, 1), logit, np.float32), valid=seen, asked=seen).item()
    assert abs(score / SCORE_ONE - 1 / (1 + math.exp(-logit))) <= 0.5 / SCORE_ONE + 1e-6


def test_an_answer_that_is_no_number_is_an_error_and_never_absent() -> None:
    logits = np.array([[[1.0, np.nan]]], np.float32)
    seen = np.ones((1, 2), np.bool_)
    with pytest.raises(MapperError, match="not a number") as caught:
        to_score(logits, valid=seen, asked=seen)
    assert "fp32" in caught.value.fix


def test_what_a_model_says_of_a_gap_does_not_matter() -> None:
    gap = np.array([[True, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = to_score(np.array([[[1.0, np.nan]]], np.float32), valid=gap, asked=np.ones((1, 2), np.bool_))
    assert score[0, 0, 1] == UNOBSERVED


def all_scores() -> NDArray[np.uint8]:
    """Every stored score there is, gaps included."""
    return np.array([*range(SCORE_ONE + 1), UNOBSERVED, UNMAPPED], np.uint8)[None, None]


@given(st.floats(0.001, 1.0))
def test_whoever_thresholds_the_score_again_gets_the_mask(threshold: float) -> None:
    score = all_scores()
    mask = to_mask(score, [threshold])
    again = (score[score <= SCORE_ONE] / SCORE_ONE >= threshold).astype(np.uint8)
    assert (mask[score <= SCORE_ONE] == again).all()


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_a_threshold_in_hundredths_means_what_it_says_in_float32_too(hundredths: int) -> None:
    score = all_scores()[..., : SCORE_ONE + 1]
    again = score.astype(np.float32) / SCORE_ONE >= hundredths / 100
    assert (to_mask(score, [hundredths / 100]).astype(np.bool_) == again).all()


def test_gaps_pass_through_the_threshold() -> None:
    assert to_mask(all_scores(), [0.5]).ravel()[-2:].tolist() == [UNOBSERVED, UNMAPPED]


def test_a_mask_holds_four_values_and_no_other() -> None:
    assert set(to_mask(all_scores(), [0.5]).ravel().tolist()) == {ABSENT, PRESENT, UNOBSERVED, UNMAPPED}


def test_each_prompt_has_its_own_threshold() -> None:
    score = np.full((2, 1, 1), 100, np.uint8)
    assert to_mask(score, [0.3, 0.5]).ravel().tolist() == [PRESENT, ABSENT]
