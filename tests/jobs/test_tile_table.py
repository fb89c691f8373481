from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.tile_table import PlannedTile, Stretch, TileTable

tiles = st.builds(
    PlannedTile,
    grid=st.integers(0, 119),
    step=st.integers(0, 400),
    row=st.integers(0, 2**31 - 1),
    column=st.integers(0, 2**31 - 1),
    clipped=st.booleans(),
    items=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
)


@given(st.lists(tiles, max_size=12))
def test_a_table_gives_back_the_tiles_it_was_made_of(made: list[PlannedTile]) -> None:
    table = TileTable.of(made)
    assert list(table) == made
    assert [table[row] for row in range(len(table))] == made
    assert table[1:-1] == made[1:-1]
    assert table.holes.tolist() == [not tile.items for tile in made]


@given(st.lists(st.lists(tiles, max_size=4), max_size=4))
def test_stretches_are_joined_one_after_the_other(parts: list[list[PlannedTile]]) -> None:
    alike = [[replace(tile, grid=n, step=7 - n) for tile in part] for n, part in enumerate(parts)]
    table = TileTable.joined(stretch(part, n, 7 - n) for n, part in enumerate(alike))
    assert list(table) == [tile for part in alike for tile in part]
    expected = TileTable.of(tile for part in alike for tile in part)
    for column in ("grid", "step", "row", "column", "clipped", "first_item", "item"):
        assert getattr(table, column).dtype == getattr(expected, column).dtype


def stretch(part: list[PlannedTile], grid: int, step: int) -> Stretch:
    table = TileTable.of(part)
    return Stretch(
        grid=grid, step=step, row=table.row, column=table.column, clipped=table.clipped,
        shown_by=np.diff(table.first_item).astype(np.int32), item=table.item,
    )  # fmt: skip


def test_a_row_beyond_the_last_is_no_tile() -> None:
    table = TileTable.of([PlannedTile(grid=0, step=0, row=1, column=2, clipped=False, items=())])
    assert table[-1] == table[0]
    with pytest.raises(IndexError, match="no tile 1 in a plan of 1"):
        table[1]
