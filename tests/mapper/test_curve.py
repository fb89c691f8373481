from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper.curve import hilbert


@given(st.integers(0, 6))
def test_the_curve_meets_every_cell_of_a_square_once_and_its_neighbours_next(bits: int) -> None:
    side = 1 << bits
    rows, columns = np.divmod(np.arange(side * side), side)
    order = np.argsort(hilbert(rows, columns))
    assert np.sort(hilbert(rows, columns)).tolist() == list(range(side * side))
    steps = np.abs(np.diff(rows[order])) + np.abs(np.diff(columns[order]))
    assert (steps == 1).all()


@given(st.integers(1, 6), st.data())
def test_it_leaves_a_quarter_of_a_quarter_only_when_it_has_met_all_of_it(bits: int, data: st.DataObject) -> None:
    side, part = 1 << bits, 1 << data.draw(st.integers(0, bits))
    rows, columns = np.divmod(np.arange(side * side), side)
    order = np.argsort(hilbert(rows, columns))
    squares = (rows[order] // part) * side + columns[order] // part
    assert np.count_nonzero(np.diff(squares)) == (side // part) ** 2 - 1


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_grid_of_any_shape_lies_on_the_curve_of_the_smallest_square_around_it(shape: tuple[int, int]) -> None:
    rows, columns = (axis.ravel() for axis in np.indices(shape))
    position = hilbert(rows, columns, shape=shape)
    side = 1 << (max(shape) - 1).bit_length()
    assert len(set(position.tolist())) == len(rows)
    assert position.max() < side * side
    assert hilbert([rows[-1]], [columns[-1]], shape=shape)[0] == position[-1]


def test_positions_of_the_largest_square_are_64_bits_wide() -> None:
    last = (1 << 31) - 1
    positions = hilbert([0, 0, last, last], [0, last, 0, last])
    assert positions.dtype == np.uint64
    assert sorted(positions.tolist())[0] == 0
    assert sorted(positions.tolist())[-1] == (1 << 62) - 1


def test_a_larger_square_is_refused() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        hilbert([0], [0], shape=(1 << 31, (1 << 31) + 1))
