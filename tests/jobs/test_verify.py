from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from jobs.lease import Lease
from jobs.ledger import Built, RunFolder, run_names
from jobs.verify import verify
from tests.chaos.drivers import KILLED, drive
from tests.stories.command_line import Resmap
from tests.stories.world import World, layers, mapped

PART = World.rectangle(60, 60, 300, 300)
TILES = 9
"""Of that part of the ground."""


@pytest.fixture(scope="module")
def good(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mosaic = tmp_path_factory.mktemp("good") / "map.zarr"
    mapped(world.job(mosaic, area=PART))
    return mosaic


@pytest.fixture
def mosaic(good: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "map.zarr"))


def shard(mosaic: Path, layer: str, row: int, column: int) -> Path:
    lead = "0" if layer == "source" else "0/0"
    return mosaic / f"0/{layer}/c/{lead}/{row}/{column}"


def busiest(mosaic: Path) -> tuple[int, int]:
    """Row and column of a shard that holds both answers."""
    mask = layers(mosaic)["mask"].to_numpy()[0, 0]
    blocks = mask.reshape(mask.shape[0] // 128, 128, -1, 128).swapaxes(1, 2)
    answers = np.minimum((blocks == 0).sum((2, 3)), (blocks == 1).sum((2, 3)))
    row, column = np.unravel_index(int(answers.argmax()), answers.shape)
    return int(row), int(column)


def flip(path: Path, at: float) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 0x10
    path.write_bytes(raw)


def test_a_good_mosaic_has_every_tile_read_back(good: Path, resmap: Resmap) -> None:
    said = resmap("verify", "--full", "--json", good)
    assert said.status == 0
    assert said.document == {
        "checked": TILES, "finished": TILES, "bad": [], "unfinished": 0, "full": True, "bytes_compared": True,
        "unrecorded": 0, "redo": {},
    }  # fmt: skip
    assert "0 bad" in resmap("verify", good).out


@pytest.mark.parametrize("layer", ["mask", "score", "source"])
def test_a_flipped_byte_is_found_and_its_tile_named(mosaic: Path, resmap: Resmap, layer: str) -> None:
    row, column = busiest(mosaic)
    path = shard(mosaic, layer, row, column)
    whole = path.read_bytes()
    for at in (0.0, 0.3, 0.6, 0.95):
        flip(path, at)
        said = resmap("verify", "--full", "--json", mosaic)
        assert said.status == 7
        (bad,) = said.document["bad"]
        assert f"r{row}c{column}" in bad["tile"]
        assert bad["reason"]
        path.write_bytes(whole)


def test_people_are_told_which_tile_is_damaged(mosaic: Path, resmap: Resmap) -> None:
    row, column = busiest(mosaic)
    flip(shard(mosaic, "mask", row, column), 0.3)
    assert f"r{row}c{column}" in resmap("verify", "--full", mosaic).out


@pytest.mark.parametrize("layer", ["mask", "score", "source"])
def test_a_shard_that_is_gone_is_found(mosaic: Path, resmap: Resmap, layer: str) -> None:
    row, column = busiest(mosaic)
    shard(mosaic, layer, row, column).unlink()
    said = resmap("verify", "--full", "--json", mosaic)
    assert said.status == 7
    assert [f"r{row}c{column}" in bad["tile"] for bad in said.document["bad"]] == [True]


def test_two_shards_that_changed_places_are_both_found(mosaic: Path) -> None:
    row, column = busiest(mosaic)
    beside = next(near for near in (column - 1, column + 1) if shard(mosaic, "mask", row, near).exists())
    one, other = shard(mosaic, "mask", row, column), shard(mosaic, "mask", row, beside)
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    assert one_bytes != other_bytes
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)
    found = {bad.tile.split("/")[1] for bad in verify(str(mosaic), full=True).bad}
    assert found == {f"r{row}c{column}", f"r{row}c{beside}"}


@pytest.mark.parametrize("spoil", [lambda raw: raw[: len(raw) // 2], lambda raw: b""], ids=["cut", "emptied"])
def test_a_shard_that_was_cut_short_is_found(mosaic: Path, spoil: Callable[[bytes], bytes]) -> None:
    row, column = busiest(mosaic)
    path = shard(mosaic, "score", row, column)
    path.write_bytes(spoil(path.read_bytes()))
    (bad,) = verify(str(mosaic), full=True).bad
    assert f"r{row}c{column}" in bad.tile


def test_a_sample_is_spread_over_the_run(mosaic: Path) -> None:
    report = verify(str(mosaic), full=False, sample=5)
    assert 4 <= report.checked <= 7
    assert report.bad == ()


def test_a_mosaic_whose_ledger_is_gone_cannot_be_verified(mosaic: Path, resmap: Resmap) -> None:
    shutil.rmtree(mosaic / ".resmap")
    said = resmap("verify", mosaic)
    assert said.status == 3
    assert "no run of this mosaic left a ledger" in said.complaint


def test_a_run_that_finds_its_own_tiles_spoilt_at_its_end_exits_7(world: World, resmap: Resmap, tmp_path: Path) -> None:
    # One tile is taken out of the ledger, all others are spoilt on disk: the run that does it again reads some back.
    mosaic, job = tmp_path / "map.zarr", tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(mosaic, area=PART)))
    assert resmap("run", "--local", job).status == 0
    (run,) = [path.name for path in mosaic.glob(".resmap/runs/*")]
    folder = RunFolder(str(mosaic), run)
    entries = list(folder.entries())
    for part in mosaic.glob(".resmap/runs/*/ledger/*"):
        part.unlink()
    ledger = folder.ledger()
    for entry in entries[1:]:
        ledger.record(entry)
    ledger.flush()
    folder.save_facts({key: value for key, value in folder.facts().items() if key != "summary"} | {"state": "running"})
    shards = sorted(path for path in (mosaic / "0" / "mask" / "c").rglob("*") if path.is_file())
    for path in shards[1:]:  # each can be read, and is another place's
        shutil.copyfile(shards[0], path)
    said = resmap("run", "--local", job)
    assert said.status == 7
    assert "resmap verify" in said.remedy


def test_what_stands_is_held_against_the_last_word_of_the_ledgers(mosaic: Path) -> None:
    (run,) = run_names(str(mosaic))
    folder = RunFolder(str(mosaic), run)
    entry = next(entry for entry in folder.entries() if entry.prompts)
    batch = next(iter(folder.built("prompts", "tiles", "checksums", "source_checksum")))
    row = batch.to_pylist()[0]
    shard = Built(
        key=row["key"], prompts=tuple(row["prompts"]), tiles=tuple(row["tiles"]), checksums=tuple(row["checksums"]),
        source_checksum=row["source_checksum"],
    )  # fmt: skip
    wrong = tuple(crc ^ 1 for crc in entry.checksums), tuple(crc ^ 1 for crc in shard.checksums)
    # Of a coarser shard two rows differ then, made of the same tiles: what lies under it tells which of them is right.
    for tile_crcs, shard_crcs, bad in ((*wrong, 1), (entry.checksums, shard.checksums, 0)):
        with Lease(str(mosaic), run) as held:
            tiles, shards = folder.ledger(held=held), folder.level_ledger(held=held)
            tiles.record(replace(entry, checksums=tile_crcs))
            shards.record(replace(shard, checksums=shard_crcs))
            tiles.flush()
            shards.flush()
        report = verify(str(mosaic), full=True)
        assert (len(report.bad), report.checked) == (bad, TILES)


def killed(world: World, folder: Path, at: str) -> tuple[Path, Path]:
    """The job file and the mosaic of a run whose process was killed at a failpoint."""
    mosaic, job = folder / "map.zarr", folder / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(mosaic)))
    # A dozen tiles lie under the third coarser shard: they take longer than the books wait for a part to be put.
    point = f"{at}=kill@3" if at == "level-put" else f"{at}=kill"
    env = {"RESMAP_FAILPOINTS": point, "COLOUR_SLEEP_S": "0.15"}
    over = drive(folder, "run", "--local", str(job), env=env)
    assert over.status == KILLED, over.err
    return job, mosaic


def a_file_at_no_planned_place(mosaic: Path) -> str:
    """Where a shard of the mosaic now lies a second time, at a place that its run has not planned."""
    (run,) = run_names(str(mosaic))
    planned = {(tile.row, tile.column) for tile in RunFolder(str(mosaic), run).tiles()}
    rows, columns = (max(side) + 1 for side in zip(*planned, strict=True))
    row, column = next((r, c) for r in range(rows) for c in range(columns) if (r, c) not in planned)
    there = next(path for path in (mosaic / "0/mask/c").rglob("*") if path.is_file())
    (mosaic / f"0/mask/c/0/0/{row}").mkdir(exist_ok=True)
    shutil.copyfile(there, mosaic / f"0/mask/c/0/0/{row}/{column}")
    return f"0/mask/c/0/0/{row}/{column}"


@pytest.mark.parametrize("at", ["before-ledger-part", pytest.param("level-put", marks=pytest.mark.chaos)])
def test_what_a_killed_run_wrote_and_did_not_record_is_no_damage_and_what_nobody_planned_is(
    world: World, resmap: Resmap, tmp_path: Path, at: str
) -> None:
    job, mosaic = killed(world, tmp_path, at)
    report = verify(str(mosaic), full=True)
    assert report.bad == ()
    assert report.unrecorded > 0
    assert (report.finished > 0) == (at == "level-put")
    said = resmap("verify", "--full", mosaic)
    assert said.status == 0
    assert f"{report.unrecorded:,} shard" in said.out
    assert "`resmap run` goes on" in said.out

    stray = a_file_at_no_planned_place(mosaic)
    (bad,) = verify(str(mosaic), full=True).bad
    assert (bad.kind, bad.key) == ("extra", stray)
    assert resmap("verify", "--full", mosaic).status == 7
    (mosaic / stray).unlink()

    assert resmap("run", "--local", job).status == 0
    whole = verify(str(mosaic), full=True)
    assert (whole.unrecorded, whole.bad, whole.unfinished) == (0, (), 0)


def test_in_a_run_that_has_ended_a_shard_that_no_ledger_speaks_of_is_one_too_many(mosaic: Path) -> None:
    for part in mosaic.glob(".resmap/runs/*/ledger/*"):
        part.unlink()
    report = verify(str(mosaic), full=True)
    assert "extra" in {fault.kind for fault in report.bad}
    assert report.unrecorded == 0
