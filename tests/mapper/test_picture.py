"""One picture of any size, and the overlays people look at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import mapper
from mapper.errors import ModelError, SpecError
from mapper.grid import PixelBox
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.picture import segment
from mapper.prompts import Prompt
from mapper.quicklook import COLOURS, overlay, sheet
from tests.mapper.rasters import smooth_pixels


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 ``(y, x, rgb)``."""
    return np.ascontiguousarray(smooth_pixels(PixelBox(0, 0, height, width)).transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (96, 96), (97, 95), (250, 190)])
def test_a_picture_of_any_size_gets_a_score_at_each_pixel(shape: tuple[int, int]) -> None:
    score = segment(picture(*shape), ["the red", "the blue"], model="colour")
    assert score.shape == (2, *shape)
    assert score.dtype == np.float32
    assert ((score >= 0) & (score <= 1)).all()


def test_a_picture_of_one_window_is_what_the_model_says_of_it() -> None:
    pixels = picture(96, 96)
    net = mapper.models.load("colour")
    logits = net.logits(pixels.transpose(2, 0, 1)[None], net.encode_text(["the green"]))[0]
    np.testing.assert_allclose(segment(pixels, ["the green"], model=net), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_each_sentence_gets_its_own_answer() -> None:
    pixels = picture(120, 120)
    both = segment(pixels, ["the red", "the blue"], model="colour")
    assert (both[1] == segment(pixels, ["the blue"], model="colour")[0]).all()


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((10, 10), np.uint8), id="grey"),
        pytest.param(np.zeros((10, 10, 4), np.uint8), id="four bands"),
        pytest.param(np.zeros((10, 10, 3), np.float32), id="floats"),
        pytest.param(np.zeros((0, 10, 3), np.uint8), id="no pixel"),
    ],
)
def test_what_is_no_picture_is_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(SpecError, match="a picture is uint8"):
        segment(pixels, ["the red"], model="colour")


@pytest.mark.parametrize("sentence", ["", "  ", "two\nlines", "word " * 200])
def test_what_is_no_sentence_is_refused(sentence: str) -> None:
    with pytest.raises(SpecError):
        segment(picture(10, 10), [sentence], model="colour")


def test_a_model_nobody_has_is_named_with_its_neighbour() -> None:
    with pytest.raises(ModelError, match="no model named 'color'") as caught:
        segment(picture(10, 10), ["the red"], model="color")
    assert caught.value.fix == "did you mean colour?"


def test_a_model_of_another_package_is_listed() -> None:
    assert "colour" in mapper.models.names()
    assert mapper.models.window_px("colour") == 96


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1])
def test_a_threshold_is_above_0_and_at_most_1(threshold: float) -> None:
    with pytest.raises(SpecError, match="is not in"):
        Prompt(name="a", expression="b", threshold=threshold)


def test_an_overlay_is_coloured_where_the_prompt_is_present_and_nowhere_else() -> None:
    grey = np.full((3, 40, 40), 128, np.uint8)
    mask = np.full((40, 40), ABSENT, np.uint8)
    mask[10:20, 10:20] = PRESENT
    drawn = overlay(grey, {"a": mask})
    coloured = (drawn.max(axis=2).astype(int) - drawn.min(axis=2)) > 0
    assert (coloured == (mask == PRESENT)).all()


def test_what_is_present_is_outlined_in_the_prompts_own_colour() -> None:
    mask = np.full((40, 40), ABSENT, np.uint8)
    mask[10:20, 10:20] = PRESENT
    drawn = overlay(np.full((3, 40, 40), 128, np.uint8), {"a": np.zeros_like(mask), "b": mask})
    assert tuple(drawn[10, 12]) == COLOURS[1]
    assert tuple(drawn[15, 15]) != COLOURS[1]


def test_gaps_look_like_neither_answer_nor_each_other() -> None:
    looks = {
        value: overlay(np.full((3, 40, 40), 128, np.uint8), {"a": np.full((40, 40), value, np.uint8)}).tobytes()
        for value in (ABSENT, PRESENT, UNOBSERVED, UNMAPPED)
    }
    assert len(set(looks.values())) == 4


@pytest.mark.parametrize("shape", [(200, 200), (120, 400)])
def test_a_sheet_holds_imagery_and_map_without_scaling_them(shape: tuple[int, int]) -> None:
    pixels = smooth_pixels(PixelBox(0, 0, *shape))
    masks = {"a": np.zeros(shape, np.uint8)}
    page = np.asarray(
        sheet(pixels, np.ones(shape, np.bool_), masks, title="t", captions={}, metres_per_px=None, footnote="f")
    )
    windows = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (8, 8))
    patch = pixels[0, :8, :8]
    assert (windows == patch).all(axis=(2, 3)).any()


def test_a_sheet_draws_a_scale_bar_where_the_scale_is_known() -> None:
    pixels, masks = np.zeros((3, 200, 300), np.uint8), {"a": np.zeros((200, 300), np.uint8)}
    seen = np.ones((200, 300), np.bool_)
    with_bar, without = (
        np.asarray(sheet(pixels, seen, masks, title="t", captions={}, metres_per_px=scale)) for scale in (0.5, None)
    )
    assert (with_bar != without).any()
