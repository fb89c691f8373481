"""Several pictures of one place, laid over each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mapper.composite import FirstSeen, Layer, box_around, median
from mapper.grid import PixelBox
from mapper.imagery import NO_SOURCE
from tests.strategies import parts_of

FRAME = PixelBox(-3, 100, 4, 109)
BANDS = 2


def layers_over(box: PixelBox, index: st.SearchStrategy[int]) -> st.SearchStrategy[Layer]:
    """Layers over a box, few values so that they collide."""
    return st.builds(
        lambda pixels, valid, index: Layer(pixels=pixels * valid, valid=valid, index=index),
        arrays.arrays(np.uint8, (BANDS, *box.shape), elements=st.sampled_from([0, 1, 2, 7, 200, 255])),
        arrays.arrays(np.bool_, box.shape),
        index,
    )


whole = st.lists(layers_over(FRAME, st.integers(0, 9)), min_size=1, max_size=5)
partial = st.lists(
    parts_of(FRAME).flatmap(lambda box: st.tuples(st.just(box), layers_over(box, st.integers(0, 9)))), max_size=5
)


@given(partial)
def test_a_pixel_shows_the_first_layer_that_saw_it(laid: Sequence[tuple[PixelBox, Layer]]) -> None:
    canvas = FirstSeen(FRAME, bands=BANDS)
    for box, layer in laid:
        canvas.add(box, layer)
    view = canvas.view()
    for row in range(FRAME.height):
        for column in range(FRAME.width):
            pixel = PixelBox(FRAME.top + row, FRAME.left + column, FRAME.top + row + 1, FRAME.left + column + 1)
            seen = [
                (layer.pixels[:, *pixel.within(box)].ravel().tolist(), layer.index)
                for box, layer in laid
                if box.contains(pixel) and layer.valid[pixel.within(box)].all()
            ]
            expected = seen[0] if seen else ([0] * BANDS, int(NO_SOURCE))
            assert (view.pixels[:, row, column].tolist(), view.source[row, column]) == expected
            assert view.valid[row, column] == bool(seen)


@given(whole)
def test_no_layer_is_written_to_by_what_is_laid_under_it(laid: Sequence[Layer]) -> None:
    before = [(layer.pixels.tobytes(), layer.valid.tobytes()) for layer in laid]
    canvas = FirstSeen(FRAME, bands=BANDS)
    for layer in laid:
        canvas.add(FRAME, layer)
    assert [(layer.pixels.tobytes(), layer.valid.tobytes()) for layer in laid] == before


@given(partial, parts_of(FRAME))
def test_what_is_unseen_of_a_box_is_the_smallest_box_around_it(
    laid: Sequence[tuple[PixelBox, Layer]], box: PixelBox
) -> None:
    canvas = FirstSeen(FRAME, bands=BANDS)
    for place, layer in laid:
        canvas.add(place, layer)
    missing = ~canvas.view().valid
    unseen = canvas.unseen(box)
    assert box.contains(unseen)
    assert missing[unseen.within(FRAME)].sum() == missing[box.within(FRAME)].sum()
    assert unseen.empty or all(
        edge.any()
        for edge in (
            missing[unseen.within(FRAME)][0],
            missing[unseen.within(FRAME)][-1],
            missing[unseen.within(FRAME)][:, 0],
            missing[unseen.within(FRAME)][:, -1],
        )
    )


def test_the_box_around_nothing_is_empty() -> None:
    assert box_around(np.zeros((3, 4), np.bool_), PixelBox(5, 6, 8, 10)).empty


@given(whole)
def test_the_median_is_the_lower_middle_of_what_was_seen(layers: Sequence[Layer]) -> None:
    view = median(layers, FRAME, bands=BANDS)
    for band in range(BANDS):
        stack = np.ma.masked_array(
            np.stack([layer.pixels[band] for layer in layers]).astype(np.int64),
            mask=~np.stack([layer.valid for layer in layers]),
        )
        ordered, count = np.ma.sort(stack, axis=0), stack.count(axis=0)
        lower = np.take_along_axis(ordered.filled(0), np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
        assert (view.pixels[band] == np.where(count, lower, 0)).all()


@given(whole)
def test_an_odd_median_is_the_one_everybody_knows(layers: Sequence[Layer]) -> None:
    view = median(layers, FRAME, bands=BANDS)
    seen = np.stack([layer.valid for layer in layers])
    odd = seen.sum(axis=0) % 2 == 1
    for band in range(BANDS):
        stack = np.where(seen, np.stack([layer.pixels[band] for layer in layers]).astype(float), np.nan)
        assert (view.pixels[band][odd] == np.nanmedian(stack[:, odd], axis=0)).all()


@given(whole)
def test_the_source_of_a_median_is_the_layer_nearest_to_it_and_the_earliest_of_equals(layers: Sequence[Layer]) -> None:
    view = median(layers, FRAME, bands=BANDS)
    for row, column in np.ndindex(FRAME.shape):
        distances = [
            (int(np.abs(layer.pixels[:, row, column].astype(int) - view.pixels[:, row, column]).sum()), place)
            for place, layer in enumerate(layers)
            if layer.valid[row, column]
        ]
        expected = layers[min(distances)[1]].index if distances else int(NO_SOURCE)
        assert view.source[row, column] == expected


def test_the_median_of_no_layer_is_a_gap() -> None:
    view = median([], FRAME, bands=BANDS)
    assert not view.valid.any()
    assert (view.source == NO_SOURCE).all()
