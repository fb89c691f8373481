"""No byte of a mosaic can change unseen: in its shards, its documents, its coordinates, the files of its runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.faults import Fault
from jobs.ledger import RunFolder, run_names
from jobs.run_check import look_at_runs
from jobs.stored_shards import DamagedError, StoredShards
from jobs.tree_metadata import metadata_faults
from jobs.verify import open_or_fault, verify
from mapper.mosaic import Mosaic
from tests.faults.parts import spoil
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped


@pytest.fixture(scope="module")
def good(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mosaic of four shards and a level above them."""
    mosaic = tmp_path_factory.mktemp("good") / "map.zarr"
    mapped(world.job(mosaic, area=World.rectangle(140, 60, 250, 300), grid={"shard_px": 256}))
    return mosaic


@pytest.fixture
def mosaic(good: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "map.zarr"))


def busiest(mosaic: Path, layer: str, level: int = 0) -> Path:
    """The largest shard of a layer."""
    files = [path for path in (mosaic / str(level) / layer / "c").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def bad(mosaic: Path) -> tuple[Fault, ...]:
    return verify(str(mosaic), full=True).bad


@pytest.mark.parametrize(
    ("layer", "one_in"), [("mask", 1), ("source", 1), ("score", 7), pytest.param("score", 1, marks=pytest.mark.chaos)]
)
def test_every_single_byte_of_a_shard_counts(mosaic: Path, layer: str, one_in: int) -> None:
    # What verify does with one shard, at each of its bytes: the whole of verify at each would take an hour.
    path = busiest(mosaic, layer)
    opened = Mosaic.open(str(mosaic), writable=False)
    stored, grid = StoredShards(opened), opened.grids[0]
    tile = grid.tile(int(path.parent.name), int(path.name))
    lead = (0,) if layer == "source" else (0, 0)
    whole = path.read_bytes()
    before = stored.read(grid, layer, tile, lead)
    assert not before.odd
    unseen = []
    ends = {*range(64), *range(len(whole) - 512, len(whole))}  # the first frame's head, and the index of the shard
    for at in sorted(ends & set(range(len(whole))) | set(range(0, len(whole), one_in))):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8 if at != 4 else 0x10  # at 4 the bit of a frame that zstd does not look at
        path.write_bytes(flipped)
        try:
            after = stored.read(grid, layer, tile, lead)
        except DamagedError:
            continue
        if not after.odd and (after.array == before.array).all():
            unseen.append(at)
    assert unseen == []


@pytest.mark.parametrize("layer", ["mask", "score", "source"])
@pytest.mark.parametrize(
    ("level", "spoil"),
    [
        *((0, spoil) for spoil in ("harmless bit", "last byte", "none left", "one left", "half", "all but one")),
        *((1, spoil) for spoil in ("harmless bit", "half")),
        # A coarser shard is read by the same code.
        *(pytest.param(1, spoil, marks=pytest.mark.chaos)
          for spoil in ("last byte", "none left", "one left", "all but one")),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_named_with_what_to_do(mosaic: Path, layer: str, level: int, spoil: str) -> None:
    path = busiest(mosaic, layer, level)
    raw = bytearray(path.read_bytes())
    if spoil == "harmless bit":
        raw[4] ^= 0x10
    elif spoil == "last byte":
        raw[-1] ^= 1
    else:
        raw = raw[: {"none left": 0, "one left": 1, "half": len(raw) // 2, "all but one": len(raw) - 1}[spoil]]
    path.write_bytes(raw)
    found = bad(mosaic)
    assert [f"r{path.parent.name}c{path.name}" in fault.tile for fault in found] == [True]
    assert found[0].tile.startswith(f"{level}/")
    assert "--repair" in found[0].fix
    assert layer in found[0].reason or found[0].tile.endswith("source")


@pytest.mark.parametrize("layer", ["mask", "score", "source"])
@pytest.mark.parametrize("level", [0, 1])
def test_a_missing_shard_is_named(mosaic: Path, layer: str, level: int) -> None:
    path = busiest(mosaic, layer, level)
    path.unlink()
    (fault,) = bad(mosaic)
    assert f"r{path.parent.name}c{path.name}" in fault.tile
    assert f"no {layer}" in fault.reason or "no source layer" in fault.reason


def documents(mosaic: Path) -> list[Path]:
    """Documents and chunks of coordinates of the root and of two levels: the others are made alike."""
    files = [path for name in ("zarr.json", "0/**/*", "1/**/*") for path in sorted(mosaic.glob(name))]
    shards = {mosaic / level / name / "c" for level in "01" for name in ("mask", "score", "source")}
    return [path for path in files if path.is_file() and not shards & set(path.parents)]


def test_a_flipped_byte_of_a_document_or_a_coordinate_is_found(mosaic: Path) -> None:
    runs = look_at_runs(str(mosaic))
    unseen = []
    for number, path in enumerate(documents(mosaic)):
        whole = path.read_bytes()
        at = (len(whole) * (1 + number % 5) // 6 + 7 * number) % len(whole)
        flipped = bytearray(whole)
        flipped[at] ^= 1 << number % 7
        path.write_bytes(flipped)
        opened = open_or_fault(str(mosaic))
        if not isinstance(opened, Fault) and not metadata_faults(opened, runs):
            unseen.append((str(path.relative_to(mosaic)), at))
        path.write_bytes(whole)
    assert unseen == []
    assert bad(mosaic) == ()


def test_a_document_that_is_gone_is_named(mosaic: Path) -> None:
    for name in ("zarr.json", "0/zarr.json", "0/mask/zarr.json", "1/x/zarr.json", "0/time/c/0"):
        whole = (mosaic / name).read_bytes()
        (mosaic / name).unlink()
        assert any(name in fault.tile for fault in bad(mosaic)), name
        (mosaic / name).write_bytes(whole)
    assert bad(mosaic) == ()


@pytest.mark.parametrize("name", ["job.yaml", "area.wkb", "items.parquet", "tiles.parquet", "run.json"])
@pytest.mark.parametrize("spoil", [None, lambda raw: raw[: len(raw) // 2]], ids=["gone", "cut"])
def test_a_file_of_a_run_that_is_gone_or_cut_is_named(
    mosaic: Path, resmap: Resmap, name: str, spoil: Callable[[bytes], bytes] | None
) -> None:
    (run,) = run_names(str(mosaic))
    path = mosaic / ".resmap" / "runs" / run / name
    whole = path.read_bytes()
    path.unlink()
    if spoil is not None:
        path.write_bytes(spoil(whole))
    said = resmap("verify", "--json", mosaic)
    assert said.status == 7, said.err
    named = "job.yaml" if name == "area.wkb" and spoil is not None else name
    assert any(fault["tile"].endswith(named) and fault["run"] == run for fault in said.document["bad"])


@pytest.mark.parametrize("book", ["ledger", "levels"])
def test_a_damaged_part_of_a_ledger_is_named(mosaic: Path, book: str) -> None:
    part = sorted(mosaic.glob(f".resmap/runs/*/{book}/*"))[0]
    spoil(part)
    found = bad(mosaic)
    assert any(part.name in fault.tile and fault.kind == "part" for fault in found)


def test_a_shard_that_no_ledger_speaks_of_is_named(mosaic: Path) -> None:
    path = busiest(mosaic, "mask")
    strays = {
        "0/mask/c/0/0/0/99": "none of them", "0/score/c/0/0/0/0.old": "none of them",
        "0/x/c/7": "none of them", "notes.txt": "no mosaic has", "0/mask/old/0": "no mosaic has",
    }  # fmt: skip
    for name in strays:
        (mosaic / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, mosaic / name)
    found = {fault.tile: fault for fault in bad(mosaic)}
    assert len(found) == len(strays)
    for name, reason in strays.items():
        (fault,) = [fault for tile, fault in found.items() if name.startswith(tile.rstrip("/"))]
        assert reason in fault.reason
        assert fault.fix


def test_tiles_whose_rows_are_lost_are_shards_that_no_ledger_speaks_of(mosaic: Path) -> None:
    for part in mosaic.glob(".resmap/runs/*/ledger/*"):
        part.unlink()
    report = verify(str(mosaic), full=True)
    assert report.unfinished > 0
    assert {fault.kind for fault in report.bad} == {"extra", "run"}
    assert any("no word on" in fault.reason for fault in report.bad)


def test_a_row_of_something_that_is_not_there_is_a_fault(mosaic: Path) -> None:
    (run,) = run_names(str(mosaic))
    entry = next(entry for entry in RunFolder(str(mosaic), run).entries() if entry.prompts)
    shutil.rmtree(mosaic / "0" / "score" / "c")
    found = bad(mosaic)
    assert {fault.row for fault in found if fault.kind == "shard"} >= {entry.tile}
    assert verify(str(mosaic), full=True).redo[run]


def test_where_most_shards_have_other_bytes_another_edition_of_zstd_wrote_them(mosaic: Path) -> None:
    shards = [path for name in ("mask", "score", "source") for path in mosaic.glob(f"[0-9]/{name}/c/**/*")]
    for path in (path for path in shards if path.is_file()):
        raw = bytearray(path.read_bytes())
        raw[4] ^= 0x10  # zstd reads the same pixels, and would not have written it so
        path.write_bytes(raw)
    report = verify(str(mosaic), full=True)
    assert (report.bad, report.bytes_compared) == ((), False)
