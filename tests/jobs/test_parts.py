"""Rows that are only ever added: in order and whole, however many parts, merges and kills there were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.parts import AWAY_S, BATCH_ROWS, LARGEST, MERGE, Ledger, Part, Parts, new_part, to_merge
from mapper.errors import BusyError, MosaicError, StoreError
from mapper.storage import Folder

SCHEMA = pa.schema([("tile", pa.int64()), ("word", pa.string()), ("prompts", pa.list_(pa.string()))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    tile: int
    word: str
    prompts: tuple[str, ...] = ("a",)


class Killed(BaseException):
    """The process is no more."""


class Fragile(Folder):
    """A folder whose owner is killed when it has removed so many files, or whose store fails then."""

    removes = 10**9
    error: BaseException = Killed()

    def remove(self, name: str) -> None:
        if self.removes <= 0:
            raise self.error
        self.removes -= 1
        super().remove(name)


@pytest.fixture
def folder(tmp_path: Path) -> Fragile:
    return Fragile(str(tmp_path / "ledger"))


@pytest.fixture
def parts(folder: Fragile) -> Parts:
    return Parts(folder, SCHEMA, few=("prompts",))


def add(parts: Parts, rows: list[Row], *, each: int = 1) -> None:
    """Rows by one writer, so many a part."""
    ledger: Ledger[Row] = Ledger(parts)
    for begin in range(0, len(rows), each):
        for row in rows[begin : begin + each]:
            ledger.record(row)
        ledger.flush()


def put(parts: Parts, rows: list[Row]) -> None:
    """A part a row, as a writer leaves them that does not merge."""
    there = len(parts.listed())
    for number, row in enumerate(rows, start=there + 1):
        fields = {"tile": row.tile, "word": row.word, "prompts": row.prompts}
        parts.write(new_part(0, number), pa.Table.from_pylist([fields], schema=SCHEMA))


def in_order(parts: Parts) -> list[tuple[int, str]]:
    batches = list(parts.newest_first(["tile", "word"]))
    return [(row["tile"], row["word"]) for batch in reversed(batches) for row in batch.to_pylist()]


def last_words(parts: Parts) -> dict[int, str]:
    return dict(in_order(parts))


def test_so_many_parts_become_one_that_holds_the_same_rows_in_the_same_order(parts: Parts) -> None:
    rows = [Row(tile=n % 7, word=str(n), prompts=("a", "b")[: n % 3]) for n in range(MERGE + 2)]
    add(parts, rows)
    assert [part.count for part in parts.listed()] == [MERGE, 1, 1]
    assert in_order(parts) == [(row.tile, row.word) for row in rows]
    batches = list(parts.newest_first(["prompts"]))[::-1]
    said = [tuple(prompts) for batch in batches for prompts in batch.column("prompts").to_pylist()]
    assert said == [row.prompts for row in rows]


def test_a_part_of_many_row_groups_is_read_in_order(parts: Parts) -> None:
    count = 2 * BATCH_ROWS + 5
    names = pa.array([["a", "b"][: n % 3] for n in range(count)], SCHEMA.field("prompts").type)
    parts.write(
        new_part(0, 1), pa.table({"tile": range(count), "word": ["x"] * count, "prompts": names}, schema=SCHEMA)
    )
    batches = list(parts.newest_first(["tile", "prompts"]))[::-1]
    assert max(len(batch) for batch in batches) <= BATCH_ROWS
    assert [tile for batch in batches for tile in batch.column("tile").to_pylist()] == list(range(count))
    assert [said for batch in batches for said in batch.column("prompts").to_pylist()] == names.to_pylist()


@given(flushes=st.integers(0, 3 * LARGEST))
def test_parts_stay_few_however_many_were_put(flushes: int) -> None:
    there: list[Part] = []
    for number in range(1, flushes + 1):
        there.append(Part(0, number, 1, f"part-{number:06d}"))
        chosen = to_merge(there)
        if chosen is not None:
            group = there[chosen]
            there[chosen] = [Part(0, group[-1].number, sum(part.count for part in group), "part-merged")]
    assert there == sorted(there)
    assert sum(part.count for part in there) == flushes
    assert len(there) < 2 * MERGE + 1 + flushes // LARGEST
    assert all(part.count <= LARGEST for part in there)


@pytest.mark.parametrize("removed", [0, 1, 40, MERGE - 1])
def test_a_writer_may_be_killed_between_putting_a_merged_part_and_removing_what_it_is_made_of(
    folder: Fragile, parts: Parts, removed: int
) -> None:
    rows = [Row(tile=n % 5, word=str(n)) for n in range(MERGE)]
    folder.removes = removed
    with pytest.raises(Killed):
        add(parts, rows)
    folder.removes = 10**9
    assert MERGE - removed >= len(parts.listed()) - 1 >= 1  # removals under way in other threads may have gone through
    assert parts.listed()[-1].count == MERGE  # read last: what is left of its parts changes nothing
    assert last_words(parts) == {row.tile: row.word for row in rows}
    add(parts, [Row(tile=2, word="again")])
    assert last_words(parts) == {row.tile: row.word for row in rows} | {2: "again"}
    assert parts.listed()[-1].number == MERGE + 1


def test_what_a_kill_left_behind_goes_with_the_next_merge_around_it() -> None:
    left = [Part(0, number, 1, "") for number in (3, 9, 64)]
    larger = [Part(0, MERGE * n, MERGE, "") for n in range(1, MERGE + 1)]
    there = sorted([*left, *larger, Part(0, LARGEST + 1, 1, "")])
    assert to_merge(there) == slice(0, len(there) - 1)


def test_a_ledger_of_many_small_parts_is_put_in_order_while_it_grows(parts: Parts) -> None:
    put(parts, [Row(tile=n, word="old") for n in range(2 * MERGE + 3)])
    add(parts, [Row(tile=2, word="new")])
    assert [part.count for part in parts.listed()] == [MERGE] + [1] * (MERGE + 4)
    add(parts, [Row(tile=3, word="new")])
    assert [part.count for part in parts.listed()] == [MERGE, MERGE] + [1] * 5
    assert last_words(parts) == dict.fromkeys(range(2 * MERGE + 3), "old") | {2: "new", 3: "new"}


def test_a_merge_that_fails_stops_no_writer(folder: Fragile, parts: Parts) -> None:
    folder.removes, folder.error = 0, StoreError("the store is slow today")
    rows = [Row(tile=n % 5, word=str(n)) for n in range(MERGE + 5)]
    add(parts, rows)
    assert len(parts.listed()) == MERGE + 1 + 5
    assert last_words(parts) == {row.tile: row.word for row in rows}


class Merging(Parts):
    """Parts that another process merges as soon as they have been listed."""

    def listed(self) -> list[Part]:
        there = super().listed()
        if (chosen := to_merge(there)) is not None:
            super().merge(there[chosen])
        return there


def test_a_reader_whose_parts_are_merged_away_lists_again_and_misses_nothing(folder: Fragile, parts: Parts) -> None:
    rows = [Row(tile=n % 9, word=str(n)) for n in range(MERGE)]
    put(parts, rows)
    first: dict[int, str] = {}
    for batch in Merging(folder, SCHEMA, few=("prompts",)).newest_first(["tile", "word"]):
        for row in reversed(batch.to_pylist()):
            first.setdefault(row["tile"], row["word"])
    assert first == {row.tile: row.word for row in rows}
    assert [part.count for part in parts.listed()] == [MERGE]


def test_a_damaged_part_is_left_where_it_is_and_named_by_whoever_reads_it(
    folder: Fragile, parts: Parts, tmp_path: Path
) -> None:
    add(parts, [Row(tile=1, word="x")])
    (part,) = parts.listed()
    path = tmp_path / "ledger" / part.name
    path.write_bytes(path.read_bytes()[:-9])
    add(parts, [Row(tile=n, word="y") for n in range(2 * MERGE)])
    assert parts.listed()[0] == part
    with pytest.raises(MosaicError) as refused:
        in_order(parts)
    assert part.name in str(refused.value)
    assert refused.value.fix


def test_a_stray_file_among_the_parts_is_named(folder: Fragile, parts: Parts) -> None:
    add(parts, [Row(tile=1, word="x")])
    folder.write("part-000001-1f0c9a2b (copy).parquet", b"")
    with pytest.raises(MosaicError, match="copy") as refused:
        parts.listed()
    assert refused.value.fix


def test_names_list_in_the_order_in_which_they_are_read(parts: Parts) -> None:
    add(parts, [Row(tile=n, word="x") for n in range(2 * MERGE + 3)])
    names = [part.name for part in parts.listed()]
    assert names == sorted(names)
    both = ["part-000064-ffffffff.parquet", "part-000064-last-000064-00000000.parquet", "part-000065-00000000.parquet"]
    assert both == sorted(both)


@pytest.fixture
def emptied(parts: Parts) -> Iterator[Parts]:
    yield parts
    assert parts.listed() == []


def test_nothing_was_recorded_where_there_is_no_folder(emptied: Parts) -> None:
    assert in_order(emptied) == []
    Ledger(emptied).flush()


# Epochs --------------------------------------------------------------------------------------------------------------


def ledger_of(parts: Parts, epoch: int) -> Ledger[Row]:
    return Ledger(parts, epoch=epoch)


def test_a_writer_of_an_earlier_epoch_that_wakes_up_overrides_nothing(parts: Parts) -> None:
    sleeper = ledger_of(parts, 1)
    sleeper.record(Row(tile=1, word="begun"))
    sleeper.flush()
    successor = ledger_of(parts, 2)
    for word in ("done", "done again"):
        successor.record(Row(tile=1, word=word))
        successor.flush()
    for number in range(2 * MERGE):
        sleeper.record(Row(tile=1, word=f"failed {number}"))
        sleeper.record(Row(tile=number + 2, word="mine"))
        sleeper.flush()
    assert last_words(parts)[1] == "done again"
    assert {last_words(parts)[tile] for tile in range(2, 2 * MERGE + 2)} == {"mine"}  # and nothing is lost


def test_parts_of_before_epochs_are_read_and_come_first(parts: Parts) -> None:
    put(parts, [Row(tile=1, word="old"), Row(tile=2, word="old")])
    assert all(part.epoch == 0 and not part.name.startswith("part-e") for part in parts.listed())
    writer = ledger_of(parts, 1)
    writer.record(Row(tile=1, word="new"))
    writer.flush()
    assert last_words(parts) == {1: "new", 2: "old"}
    names = [part.name for part in parts.listed()]
    assert names == sorted(names)


def test_who_writes_without_a_lease_writes_after_all_that_is_there(parts: Parts) -> None:
    for epoch, word in ((3, "of a driver"), (0, "of a repair")):
        writer = ledger_of(parts, epoch)
        writer.record(Row(tile=1, word=word))
        writer.flush()
    assert last_words(parts) == {1: "of a repair"}


class Flaky(Folder):
    """A folder whose next writes fail: before they are applied, or after."""

    failing: list[bool]

    def write(self, name: str, content: bytes) -> None:
        fails = bool(self.failing)
        applied = self.failing.pop(0) if fails else True
        if applied:
            super().write(name, content)
        if fails:
            raise StoreError("no answer")


def test_a_part_whose_answer_was_lost_is_there_once_and_has_all_rows(tmp_path: Path) -> None:
    folder = Flaky(str(tmp_path / "ledger"))
    folder.failing = [True, False, True]
    parts = Parts(folder, SCHEMA)
    now = [0.0]
    ledger: Ledger[Row] = Ledger(parts, clock=lambda: now[0], epoch=1)
    for tile in range(6):
        now[0] += 2.0
        ledger.record(Row(tile=tile, word="done"))
    assert last_words(parts) == dict.fromkeys(range(6), "done")
    assert [part.number for part in parts.listed()] == [1, 2, 3]
    assert len(in_order(parts)) == 6


def test_a_store_that_stays_away_ends_the_writer_in_the_end(tmp_path: Path) -> None:
    folder = Flaky(str(tmp_path / "ledger"))
    folder.failing = [False] * 10_000
    now = [0.0]
    ledger: Ledger[Row] = Ledger(Parts(folder, SCHEMA), clock=lambda: now[0])

    def go_on() -> None:
        for tile in range(1000):
            now[0] += 2.0
            ledger.record(Row(tile=tile, word="done"))

    with pytest.raises(StoreError):
        go_on()
    assert AWAY_S <= now[0] < AWAY_S + 10


def test_a_writer_that_lost_its_lease_puts_nothing_more(parts: Parts) -> None:
    def lost() -> None:
        raise BusyError("another driver has taken over")

    ledger: Ledger[Row] = Ledger(parts, check=lost)
    ledger.record(Row(tile=1, word="done"))
    with pytest.raises(BusyError):
        ledger.flush()
    assert parts.listed() == []
