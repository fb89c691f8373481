"""A mosaic that several renewing runs have written, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.verify import verify, verify_run
from mapper.mosaic import Mosaic
from tests.jobs.renewed import JULY, JUNE, MAY, ByHand, by_hand, every, item

AGAIN = [(JUNE, 0, 0), (JUNE, 1, 2), (MAY, 0, 1)]
"""What a tick maps: two tiles of June anew, and an earlier month that the axis gets behind it."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    made = by_hand(tmp_path_factory.mktemp("once"))
    made.plan(every(JUNE), items=[item("a", JUNE), item("b", JUNE)]).finish()
    return made


@pytest.fixture(scope="module")
def two(one: ByHand, tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    made = one.copied(tmp_path_factory.mktemp("twice"))
    made.plan(AGAIN, items=[item("c", JUNE), item("d", MAY)], renews=True).finish()
    return made


@pytest.fixture
def once(one: ByHand, tmp_path: Path) -> ByHand:
    """A mosaic that its first run has finished."""
    return one.copied(tmp_path)


@pytest.fixture
def twice(two: ByHand, tmp_path: Path) -> ByHand:
    """One that a second run has renewed."""
    return two.copied(tmp_path)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)


def test_of_two_runs_that_mapped_a_tile_the_later_one_is_believed(two: ByHand) -> None:
    report = verify(two.url, full=True)
    assert report.bad == ()
    assert (report.checked, report.finished, report.unfinished, report.unrecorded) == (12 + 1, 12 + 1, 0, 0)


def test_a_sample_is_of_what_each_run_still_stands_for(two: ByHand) -> None:
    report = verify(two.url, full=False, sample=4)
    assert (report.bad, report.finished) == ((), 13)
    assert 5 <= report.checked <= 8


@pytest.mark.parametrize(
    ("path", "run", "named"),
    [
        ("0/mask/c/0/0/2/1", "old", "0/r2c1/t0/lake"),
        ("0/source/c/0/2/1", "old", "0/r2c1/t0/source"),
        ("0/score/c/1/0/1/2", "new", "0/r1c2/t0/road"),
        ("0/mask/c/0/1/0/1", "new", "0/r0c1/t1/lake"),
        ("1/score/c/0/0/0/0", "new", "1/r0c0/t0/lake"),
        ("1/mask/c/0/0/0/1", "new", "1/r0c1/t0/lake"),
        ("1/mask/c/0/0/1/1", "old", "1/r1c1/t0/lake"),
        ("2/mask/c/1/1/0/0", "new", "2/r0c0/t1/road"),
    ],
)
def test_a_flipped_byte_is_found_whoever_wrote_it(twice: ByHand, path: str, run: str, named: str) -> None:
    assert (twice.path / path).is_file()
    flip(twice.path / path)
    (bad,) = verify(twice.url, full=True).bad
    assert (bad.tile, "Z-" in bad.run) == (named, run == "new")


def test_old_pixels_over_a_renewed_tile_are_found(once: ByHand) -> None:
    shard = once.path / "0/mask/c/0/0/0/0"
    old = shard.read_bytes()
    once.plan(AGAIN, items=[item("c", JUNE)], renews=True).finish()
    shard.write_bytes(old)
    (bad,) = verify(once.url, full=True).bad
    assert bad.tile == "0/r0c0/t0/lake"
    assert "20240801T000000Z" in bad.run


def test_a_tile_that_lost_its_imagery_is_unobserved_and_nothing_is_wrong_with_it(once: ByHand) -> None:
    source = once.path / "0/source/c/0/0/0"
    assert source.is_file()
    run = once.plan([(JUNE, 0, 0)], items=[], renews=True, gone=[("scenes", "a"), ("scenes", "b")])
    run.finish(seen=False)
    assert not source.exists()
    report = verify(once.url, full=True)
    assert (report.bad, report.unrecorded, report.finished) == ((), 0, 12)


@pytest.mark.parametrize("how", ["written", "recorded", "levels put"])
def test_what_a_stopped_renewing_run_has_put_is_no_damage_old_or_new(once: ByHand, how: str) -> None:
    run = once.plan(AGAIN, items=[item("c", JUNE)], renews=True, state="running")
    entries = run.put(AGAIN[:1])
    if how != "written":
        run.record(entries)
    if how == "levels put":
        run.levels(AGAIN[:1])
    report = verify(once.url, full=True)
    assert report.bad == ()
    assert report.unfinished == len(AGAIN) - (how != "written")
    # Mask and score of two prompts, and the source: of the tile, or of the shard over it on each of two levels.
    assert report.unrecorded == {"written": 5, "recorded": 0, "levels put": 10}[how]
    flip(once.path / "0/mask/c/0/0/1/2")  # planned by the run, and not begun
    assert [bad.tile for bad in verify(once.url, full=True).bad] == ["0/r1c2/t0/lake"]


def test_what_a_replaced_run_left_is_in_doubt_until_a_later_one_has_mapped_it(once: ByHand) -> None:
    left = once.plan(AGAIN, items=[item("c", JUNE)], renews=True, state="interrupted")
    left.record(left.put(AGAIN[:1]))
    left.put(AGAIN[1:2])
    left.give_up(AGAIN[2])
    assert verify(once.url, full=True).unfinished == 2
    later = once.plan([*AGAIN, (JULY, 2, 3)], items=[item("c", JUNE), item("e", JULY)], renews=True)
    later.finish()
    report = verify(once.url, full=True)
    assert (report.bad, report.unrecorded, report.unfinished) == ((), 0, 0)
    assert report.finished == 12 + 2


def test_a_run_vouches_at_its_end_for_what_it_still_speaks_for(once: ByHand) -> None:
    old = once.run()
    new = once.plan(AGAIN, items=[item("c", JUNE)], renews=True)
    new.finish()
    of_old, of_new = verify_run(old.folder, sample=None), verify_run(new.folder, sample=None)
    assert (of_old.checked, of_old.bad, of_old.unfinished) == (10, (), 0)
    assert (of_new.checked, of_new.bad, of_new.unfinished) == (3, (), 0)
    assert verify_run(old.folder, sample=None, rows=np.array([0, 1])).checked == 1
    flip(once.path / "0/mask/c/0/0/0/0")
    assert verify_run(old.folder, sample=None).bad == ()
    assert [bad.row for bad in verify_run(new.folder, sample=None).bad] == [0]


def test_each_prompt_is_held_against_the_last_run_that_finished_it(once: ByHand) -> None:
    run = once.plan([(JUNE, 0, 0)], items=[item("c", JUNE)], renews=True, state="running")
    (entry,) = run.put([(JUNE, 0, 0)])
    lake = replace(entry, prompts=("lake",), checksums=entry.checksums[:1])
    run.record([lake])
    report = verify(once.url, full=True)
    # The road of the old run is overwritten and not recorded yet: it may be either, the lake and the source may not.
    assert (report.bad, report.unrecorded) == ((), 2)
    flip(once.path / "0/mask/c/0/0/0/0")
    assert [bad.tile for bad in verify(once.url, full=True).bad] == ["0/r0c0/t0/lake"]


@pytest.mark.parametrize("gone", ["run.json", "tiles.parquet", "ledger"])
def test_what_a_run_renewed_whose_files_are_gone_is_not_called_damaged(twice: ByHand, gone: str) -> None:
    (run,) = twice.path.glob(".resmap/runs/*Z-*")
    if gone == "ledger":
        for part in (run / gone).iterdir():
            part.write_bytes(b"none")
    else:
        (run / gone).unlink()
    bad = verify(twice.url, full=True).bad
    assert {fault.kind for fault in bad} <= {"run", "part"}
    assert all(run.name in fault.tile for fault in bad)


def test_a_done_run_whose_ledger_has_lost_a_tile_is_told_which(twice: ByHand) -> None:
    (run,) = twice.path.glob(".resmap/runs/*Z-*")
    for part in (run / "ledger").iterdir():
        part.unlink()
    bad = [fault for fault in verify(twice.url, full=True).bad if fault.run]
    assert [(fault.tile, fault.row) for fault in bad] == [("0/r0c0/t0/", 0), ("0/r0c1/t1/", 2), ("0/r1c2/t0/", 1)]


def test_a_coarser_shard_over_what_was_renewed_is_recorded_since(twice: ByHand) -> None:
    (run,) = twice.path.glob(".resmap/runs/*Z-*")
    for part in (run / "levels").iterdir():
        part.unlink()
    bad = [fault for fault in verify(twice.url, full=True).bad if fault.kind == "level"]
    assert [fault.tile for fault in bad] == ["1/r0c0/t0", "1/r0c1/t0", "1/r0c0/t1", "2/r0c0/t0", "2/r0c0/t1"]
    assert {fault.run for fault in bad} == {run.name}
    assert bad[2].key == "/2024-05-01T00:00:00+00:00/1/0/0"


def test_the_axis_of_a_run_is_where_the_mosaics_begins(once: ByHand) -> None:
    once.plan([(JULY, 0, 0)], items=[item("c", JULY)], renews=True).finish()
    assert verify(once.url, full=False).bad == ()
    waits = once.plan([(MAY, 0, 0)], items=[item("d", MAY)], renews=True, grow=False)
    assert verify(once.url, full=False).bad == ()  # saved, and stopped before the axis grew
    waits.end("running")
    bad = verify(once.url, full=False).bad
    assert [fault.tile for fault in bad] == ["zarr.json"]
    assert "the time axis disagrees" in bad[0].reason


def test_a_step_that_no_run_speaks_of_is_found(once: ByHand) -> None:
    Mosaic.open(once.url).add_times([JULY])
    assert ["which no run speaks of" in fault.reason for fault in verify(once.url, full=False).bad] == [True]


@pytest.mark.parametrize("facts", [{"renews": "two"}, {"renews": 0}, {"sources_from": -4}, {"due": None}])
def test_a_run_that_does_not_say_its_turn_is_told_of(twice: ByHand, facts: dict[str, object]) -> None:
    (run,) = twice.path.glob(".resmap/runs/*Z-*")
    said = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(said | facts))
    bad = verify(twice.url, full=False).bad
    assert [fault.key for fault in bad] == ["run.json"]


def test_a_repository_is_read_back_as_a_folder_is(tmp_path: Path) -> None:
    made = by_hand(tmp_path, engine="icechunk")
    made.plan([(JUNE, 0, 0), (JUNE, 1, 1)], items=[item("a", JUNE)]).finish()
    made.plan([(JUNE, 0, 0)], items=[], renews=True).finish(seen=False)
    made.plan([(MAY, 0, 1)], items=[item("d", MAY)], renews=True).finish()
    left = made.plan([(JUNE, 1, 1)], items=[item("e", JUNE)], renews=True, state="running")
    left.put(left.tiles)
    report = verify(made.url, full=True)
    assert (report.bad, report.unrecorded, report.finished, report.unfinished) == ((), 5, 3, 1)
