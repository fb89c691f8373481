from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.ledger import FINISHED, GIVEN_UP, Entry, Problem, RunFolder, State, run_names
from jobs.parts import FLUSH_EVERY_S, MERGE
from jobs.tile_file import SLICE_TILES
from jobs.tile_table import PlannedTile, TileTable
from mapper.errors import MapperError

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
DONE = Entry(
    tile=3, state="done", attempts=2, worker="gpu-0", at=AT, prompts=("a", "b"), checksums=(1, 2**32 - 1),
    source_checksum=7, present_px=(10, 0), asked_px=100, seen_px=90, windows=4, seam=0.25, read_s=1.0, infer_s=2.0,
    write_s=3.0,
)  # fmt: skip
LOST = Entry(tile=4, state="failed", attempts=4, worker="gpu-1", at=AT, cause="ReadError", error="it did not arrive")


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "map.zarr"), "run-1")


def parts(folder: RunFolder) -> list[Path]:
    return sorted(Path(folder.mosaic, ".resmap", "runs", folder.run, "ledger").glob("part-*"))


def write(folder: RunFolder, *entries: Entry) -> None:
    ledger = folder.ledger()
    for entry in entries:
        ledger.record(entry)
    ledger.flush()


def test_what_was_recorded_is_read_again_as_it_was(folder: RunFolder) -> None:
    write(folder, DONE, LOST)
    assert list(folder.entries()) == [DONE, LOST]


def test_the_last_word_on_a_tile_is_its_state(folder: RunFolder) -> None:
    write(folder, LOST, DONE)
    retried = replace(LOST, state="done", attempts=1)
    write(folder, retried)
    assert folder.states() == {3: DONE, 4: retried}
    assert len(list(folder.entries())) == 3


def test_a_ledger_is_only_ever_added_to(folder: RunFolder) -> None:
    write(folder, DONE)
    before = {path: path.read_bytes() for path in parts(folder)}
    write(folder, LOST)
    assert {path: path.read_bytes() for path in before} == before
    assert len(parts(folder)) == 2


def test_two_writers_do_not_replace_one_anothers_parts(folder: RunFolder) -> None:
    one, other = folder.ledger(), folder.ledger()
    one.record(DONE)
    other.record(LOST)
    one.flush()
    other.flush()
    assert set(folder.states()) == {3, 4}


def test_outcomes_are_on_disk_within_a_second_and_those_of_the_last_second_are_forgotten_at_most(
    folder: RunFolder,
) -> None:
    clock = Clock()
    ledger = folder.ledger(clock=clock)
    ledger.record(DONE)
    assert folder.states() == {}
    clock.now = FLUSH_EVERY_S
    ledger.record(LOST)
    assert set(folder.states()) == {3, 4}
    ledger.record(replace(DONE, tile=5))
    del ledger  # killed
    assert set(folder.states()) == {3, 4}


def test_a_flush_of_nothing_writes_nothing(folder: RunFolder) -> None:
    folder.ledger().flush()
    assert parts(folder) == []


def test_a_draft_that_a_kill_left_behind_is_no_part(folder: RunFolder) -> None:
    write(folder, DONE)
    (part,) = parts(folder)
    part.with_name(f".{part.name}.0123").write_bytes(part.read_bytes()[:20])
    assert folder.states() == {3: DONE}


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda raw: raw[:-10],
    "emptied": lambda raw: b"",
    "overwritten": lambda raw: raw[:40] + b"\xff" * 40 + raw[80:],
    "one letter of a value another": lambda raw: raw.replace(b"gpu-0", b"gpu-1", 1),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_part_that_is_damaged_is_named_and_not_passed_over(folder: RunFolder, spoil: str) -> None:
    write(folder, DONE)
    (part,) = parts(folder)
    raw = part.read_bytes()
    part.write_bytes(SPOILS[spoil](raw))
    assert part.read_bytes() != raw
    with pytest.raises(MapperError) as refused:
        folder.states()
    assert part.name in str(refused.value)
    assert refused.value.fix


def test_a_ledger_opens_in_other_peoples_tools(folder: RunFolder) -> None:
    write(folder, DONE, LOST)
    table = pq.read_table(parts(folder)[0])
    assert table.column("state").to_pylist() == ["done", "failed"]
    assert str(table.schema.field("at").type) == "timestamp[us, tz=UTC]"


def plan_in(folder: RunFolder, **facts: Any) -> list[PlannedTile]:
    shown_by = ((0, 2), (), (1,))
    tiles = [PlannedTile(grid=0, step=0, row=row, column=1, clipped=row == 0, items=shown_by[row]) for row in range(3)]
    folder.save_plan(job="name: x", area=b"wkb", items=b"items", tiles=TileTable.of(tiles), facts=facts)
    return tiles


def test_a_plan_is_read_again_as_it_was(folder: RunFolder) -> None:
    assert not folder.exists()
    tiles = plan_in(folder, steps=["2024-06-01T00:00:00+00:00"])
    assert folder.exists()
    assert list(folder.tiles()) == tiles
    assert folder.places().row.tolist() == [0, 1, 2]
    assert (folder.job(), folder.area(), folder.items()) == ("name: x", b"wkb", b"items")
    assert folder.facts()["steps"] == ["2024-06-01T00:00:00+00:00"]


def test_a_plan_that_was_cut_short_is_no_plan(folder: RunFolder) -> None:
    plan_in(folder)
    Path(folder.mosaic, ".resmap", "runs", folder.run, "run.json").unlink()
    assert not folder.exists()
    assert run_names(folder.mosaic) == []


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    mosaic = str(tmp_path / "map.zarr")
    for name in ("b-second", "a-third"):
        plan_in(RunFolder(mosaic, name))
    assert run_names(mosaic) == ["b-second", "a-third"]
    assert run_names(str(tmp_path / "none.zarr")) == []


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(str(tmp_path / "file"), "run-1")
    ledger = folder.ledger()
    ledger.record(DONE)
    with pytest.raises(MapperError) as refused:
        ledger.flush()
    assert "output.mosaic" in refused.value.fix


@dataclass(frozen=True)
class History:
    """Outcomes in the order in which they were recorded, and after how many of them a part ended."""

    entries: list[Entry]
    cuts: set[int]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Some tiles, most of them more than once."""
    states: st.SearchStrategy[State] = st.sampled_from(("done", "nodata", "failed", "quarantined"))
    told = draw(st.lists(st.tuples(st.integers(0, 12), states, st.integers(1, 5)), max_size=40))
    entries = [
        replace(DONE, tile=tile, state=state, attempts=attempts, prompts=("a", "b")[: attempts % 3], worker=f"gpu-{at}")
        if state in FINISHED
        else replace(LOST, tile=tile, state=state, attempts=attempts, error=f"error {at}")
        for at, (tile, state, attempts) in enumerate(told)
    ]
    return History(entries, draw(st.sets(st.integers(0, 40))))


@given(history=histories())
def test_what_is_read_in_columns_is_what_the_last_row_of_each_tile_says(history: History) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(f"{place}/map.zarr", "run-1")
        ledger = folder.ledger()
        for number, entry in enumerate(history.entries):
            ledger.record(entry)
            if number in history.cuts:
                ledger.flush()
        ledger.flush()
        last = {entry.tile: entry for entry in history.entries}
        assert list(folder.entries()) == history.entries
        assert folder.states() == last
        assert list(folder.states()) == sorted(last)
        assert folder.counts() == Counter(entry.state for entry in last.values())
        assert folder.finished().tolist() == sorted(row for row, entry in last.items() if entry.state in FINISHED)
        assert folder.problems() == [
            Problem(tile=row, state=entry.state, cause=entry.cause, error=entry.error)
            for row, entry in sorted(last.items())
            if entry.state in GIVEN_UP
        ]
        some = set(list(last)[::3])
        assert {entry.tile: entry for entry in folder.last_entries(some)} == {row: last[row] for row in some}
        assert folder.begun() == bool(history.entries)


def test_a_ledger_that_was_merged_tells_what_it_told_before(folder: RunFolder) -> None:
    told = [replace(DONE, tile=n % 40, attempts=n) for n in range(MERGE)]
    ledger = folder.ledger()
    for entry in told:
        ledger.record(entry)
        ledger.flush()
    assert len(parts(folder)) == 1
    assert list(folder.entries()) == told
    assert folder.states() == {entry.tile: entry for entry in told}


def test_columns_of_many_tiles_are_read_again_as_they_were(folder: RunFolder) -> None:
    rng = np.random.default_rng(7)
    count, shown_by = SLICE_TILES + 1000, 3
    ends = np.concatenate([[0], np.cumsum(rng.integers(0, shown_by + 1, count))])
    tiles = TileTable(
        grid=rng.integers(0, 9, count).astype(np.int16),
        step=rng.integers(0, 99, count).astype(np.int32),
        row=np.arange(count, dtype=np.int32),
        column=rng.integers(0, 2**31 - 1, count).astype(np.int32),
        clipped=rng.random(count) < 0.1,
        first_item=ends.astype(np.int64),
        item=rng.integers(0, 2**31 - 1, ends[-1]).astype(np.int32),
    )
    folder.save_plan(job="", area=b"", items=b"", tiles=tiles, facts={})
    found = folder.tiles()
    places = folder.places()
    for name in ("grid", "step", "row", "column", "clipped", "first_item", "item"):
        column = getattr(tiles, name)
        assert getattr(found, name).dtype == column.dtype
        np.testing.assert_array_equal(getattr(found, name), column)
        if hasattr(places, name):
            np.testing.assert_array_equal(getattr(places, name), column)


def test_a_plan_of_no_tiles_is_a_plan(folder: RunFolder) -> None:
    folder.save_plan(job="", area=b"", items=b"", tiles=TileTable.of([]), facts={})
    assert list(folder.tiles()) == []


def test_a_plan_of_the_first_version_is_read(folder: RunFolder) -> None:
    tiles = plan_in(folder)
    path = Path(folder.mosaic, ".resmap", "runs", folder.run, "tiles.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("key", pa.array([f"/2024/{row}/1" for row in range(3)])), path)
    assert list(folder.tiles()) == tiles


def test_a_plan_that_is_damaged_is_named(folder: RunFolder) -> None:
    plan_in(folder)
    path = Path(folder.mosaic, ".resmap", "runs", folder.run, "tiles.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    for read in (folder.tiles, folder.places):
        with pytest.raises(MapperError) as refused:
            read()
        assert "tiles.parquet" in str(refused.value)
