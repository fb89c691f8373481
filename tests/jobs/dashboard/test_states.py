"""The state of every tile in columns: what the ledger says, however its parts were put, merged and read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dashboard.states import TileStates, pixel_surface_km2
from jobs.dashboard.views import TILE_STATES
from jobs.grids import mean_pixel_km2
from jobs.ledger import Entry, RunFolder, State
from jobs.parts import Part, new_part
from jobs.tile_file import TilePlaces
from mapper.grid import Grid, Lattice
from mapper.storage import Folder

TILES = 12
STATES: tuple[State, ...] = ("done", "nodata", "failed", "quarantined")
BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(tile: int, state: State = "done", *, read_s: float = 1.0, at: datetime = BEGAN) -> Entry:
    lost = state in ("failed", "quarantined")
    return Entry(
        tile=tile, state=state, attempts=1, worker=f"gpu-{tile % 3}", at=at, asked_px=4_000_000, read_s=read_s,
        infer_s=2.0, write_s=0.5, cause="ReadError" if lost else "", error=f"error of {tile}" if lost else "",
    )  # fmt: skip


def put(folder: RunFolder, part: Part, rows: Sequence[Entry]) -> Part:
    schema = folder.outcomes.schema
    columns = [pa.array([getattr(row, of.name) for row in rows], of.type) for of in schema]
    return folder.outcomes.write(part, pa.Table.from_arrays(columns, schema=schema))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "map.zarr"), "run")


def agrees(states: TileStates, folder: RunFolder) -> None:
    """The columns say what the ledger does, of every tile."""
    known = folder.counts()
    assert states.counts() == {"waiting": states.planned - sum(known.values())} | {
        state: known[state] for state in STATES
    }
    said = folder.states()
    assert [TILE_STATES[code] for code in states.state] == [
        said[tile].state if tile in said else "waiting" for tile in range(states.planned)
    ]
    for tile, last in said.items():
        assert states.last_entry(tile) == last
        whole = last.read_s + last.infer_s + last.write_s if last.state in ("done", "nodata") else np.nan
        np.testing.assert_allclose(states.seconds[tile], whole, rtol=1e-6)
        assert states.workers[states.worker[tile]] == last.worker
        assert states.causes[states.cause[tile]] == last.cause
    assert np.isnan(states.seconds[[tile for tile in range(states.planned) if tile not in said]]).all()


acts = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            st.lists(st.tuples(st.integers(0, TILES - 1), st.sampled_from(STATES)), min_size=1, max_size=5),
            st.booleans(),
        ),
        st.tuples(st.just("merge"), st.integers(0, 9), st.integers(2, 5)),
        st.just(("look",)),
        st.just(("next epoch",)),
    ),
    max_size=25,
)


@given(acts)
def test_columns_say_what_the_ledger_says_after_parts_were_merged_and_two_epochs_wrote(acts: list[tuple]) -> None:  # type: ignore[type-arg]
    with TemporaryDirectory() as place:
        folder = RunFolder(f"{place}/map.zarr", "run")
        states = TileStates(folder=folder, planned=TILES)
        epoch, seconds = 1, 0.0
        numbers = {0: 0, 1: 0}
        for act in acts:
            there = folder.outcomes.listed()
            if act[0] == "put":
                # A driver that lost its lease and does not know it yet numbers its parts by what it saw.
                late = epoch - 1 if act[2] and epoch > 1 else epoch
                numbers[late] = numbers.get(late, max(numbers.values())) + 1
                rows = []
                for tile, state in act[1]:
                    seconds += 1.0
                    rows.append(entry(tile, state, read_s=seconds, at=BEGAN + timedelta(seconds=seconds)))
                put(folder, new_part(late, numbers[late]), rows)
            elif act[0] == "merge" and len(chosen := there[act[1] : act[1] + act[2]]) > 1:
                folder.outcomes.merge(chosen)
            elif act[0] == "next epoch":
                epoch += 1
                numbers[epoch] = max([0, *(part.number for part in there)])
            elif act[0] == "look":
                states.refresh()
                agrees(states, folder)
        states.refresh()
        agrees(states, folder)


def test_only_parts_that_were_not_read_before_are_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    states = TileStates(folder=folder, planned=TILES)
    read: list[str] = []
    whole = Folder.read

    def noted(self: Folder, name: str) -> bytes:
        read.append(name)
        return whole(self, name)

    monkeypatch.setattr(Folder, "read", noted)
    for number in (1, 2, 3):
        part = put(folder, new_part(1, number), [entry(number)])
        states.refresh()
        states.refresh()
        assert read == [part.name]
        read.clear()


def test_a_merged_part_of_known_parts_changes_nothing(folder: RunFolder) -> None:
    states = TileStates(folder=folder, planned=TILES)
    parts = [put(folder, new_part(1, number), [entry(number)]) for number in (1, 2, 3)]
    states.refresh()
    before = states.version
    folder.outcomes.merge(parts)
    assert not states.refresh()
    assert states.version == before
    assert states.last_entry(2) == entry(2)


def test_the_word_of_a_driver_that_was_replaced_comes_before_that_of_its_successor(folder: RunFolder) -> None:
    states = TileStates(folder=folder, planned=TILES)
    put(folder, new_part(2, 5), [entry(4, "done")])
    states.refresh()
    put(folder, new_part(1, 9), [entry(4, "failed")])
    states.refresh()
    assert TILE_STATES[states.state[4]] == "done"


def test_a_late_part_is_not_taken_for_one_of_those_that_were_merged(folder: RunFolder) -> None:
    states = TileStates(folder=folder, planned=TILES)
    put(folder, new_part(1, 2), [entry(5)])  # of the driver before, with a number that its successor gives, too
    first = put(folder, new_part(2, 1), [entry(1)])
    states.refresh()
    folder.outcomes.merge([first, put(folder, new_part(2, 2), [entry(3)])])
    states.refresh()
    assert states.counts()["done"] == 3


def test_what_a_part_said_that_was_taken_away_is_forgotten(folder: RunFolder) -> None:
    states = TileStates(folder=folder, planned=TILES)
    parts = [put(folder, new_part(1, number), [entry(number)]) for number in (1, 2)]
    states.refresh()
    next(Path(folder.mosaic).rglob(parts[1].name)).unlink()
    assert states.refresh()
    assert states.counts()["done"] == 1
    assert states.last_entry(2) is None


def test_rows_of_tiles_that_are_not_planned_are_passed_over(folder: RunFolder) -> None:
    states = TileStates(folder=folder, planned=TILES)
    put(folder, new_part(1, 1), [entry(TILES), entry(0), entry(TILES + 7)])
    states.refresh()
    assert states.counts()["done"] == 1
    assert states.last_entry(TILES) is None


def test_the_share_that_is_present_is_that_of_the_most_present_prompt_and_unknown_where_nothing_was_seen(
    folder: RunFolder,
) -> None:
    def seen(tile: int, present: tuple[int, ...], seen_px: int) -> Entry:
        return Entry(tile=tile, state="done", attempts=1, worker="a", at=BEGAN, present_px=present, seen_px=seen_px)

    states = TileStates(folder=folder, planned=4)
    put(folder, new_part(1, 1), [seen(0, (10, 50, 0), 100), seen(1, (), 100), seen(2, (7,), 0)])
    states.refresh()
    np.testing.assert_array_equal(states.present, np.array([0.5, np.nan, np.nan, np.nan], np.float32))


def test_a_pixel_has_the_surface_that_the_plan_reckons_with() -> None:
    grid = Grid.over(
        Lattice(crs="EPSG:3857", res_x=10.0, res_y=10.0),
        (0, 5_000_000, 400_000, 5_600_000),
        shard_px=1024,
        chunk_px=512,
    )
    rows, columns = grid.tile_shape
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
    places = TilePlaces(
        grid=np.zeros(len(row), np.int16), step=np.zeros(len(row), np.int32), row=row, column=column.astype(np.int32)
    )
    surface = pixel_surface_km2(places, [grid])
    exact = [mean_pixel_km2(grid, int(r), int(c)) * 1e6 for r, c in zip(row, column, strict=True)]
    # Two rows of 10 km tiles at 50 degrees north: the map's scale changes by 2 tan(50°) · 20 / 6371 = 0.7 %.
    np.testing.assert_allclose(surface, exact, rtol=0.008)


def test_the_surface_is_not_known_where_the_grid_is_not() -> None:
    one = np.zeros(1, np.int32)
    assert np.isnan(pixel_surface_km2(TilePlaces(grid=one.astype(np.int16), step=one, row=one, column=one), [])).all()
