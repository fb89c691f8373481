"""`resmap run --repair` maps again what verify found, and leaves the mosaic that an undisturbed run leaves."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from jobs.ledger import RunFolder, run_names
from jobs.verify import verify
from tests.faults.parts import spoil
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped


@pytest.fixture(scope="module")
def good(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job of two sentences, the second added later, and its mosaic."""
    folder = tmp_path_factory.mktemp("good")
    job = world.job(folder / "work" / "map.zarr", area=World.rectangle(140, 60, 250, 300), grid={"shard_px": 256})
    mapped(job)
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    mapped(job)
    (folder / "work" / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "work"


@pytest.fixture
def work(good: Path) -> Path:
    """The same folder, to be damaged; put back afterwards: a job's run is named after where its mosaic lies."""
    kept = good.parent / "kept"
    if not kept.exists():
        shutil.copytree(good, kept)
    shutil.rmtree(good)
    shutil.copytree(kept, good)
    return good


def contents(mosaic: Path) -> dict[str, str]:
    """Every file of the tree, books apart → digest of its bytes."""
    return {name: digest for name, digest in everything(mosaic).items() if not name.startswith(".resmap/")}


def everything(mosaic: Path) -> dict[str, str]:
    """Every file of the tree, the books too → digest of its bytes."""
    files = [path for path in mosaic.rglob("*") if path.is_file()]
    return {str(path.relative_to(mosaic)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shard(mosaic: Path, layer: str, *, level: int = 0, prompt: int = 0) -> Path:
    """The largest shard of a layer."""
    lead = "0" if layer == "source" else f"{prompt}/0"
    files = [path for path in (mosaic / f"{level}/{layer}/c/{lead}").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)


def rows(mosaic: Path) -> int:
    return sum(len(list(RunFolder(str(mosaic), run).entries())) for run in run_names(str(mosaic)))


def a_level_of_another_prompt(mosaic: Path) -> None:
    flip(shard(mosaic, "score", level=1, prompt=1))


def a_row_that_says_otherwise(mosaic: Path) -> None:
    folder = RunFolder(str(mosaic), run_names(str(mosaic))[0])
    entry = next(entry for entry in folder.entries() if entry.prompts)
    ledger = folder.ledger()
    ledger.record(replace(entry, checksums=tuple(crc ^ 1 for crc in entry.checksums)))
    ledger.flush()


def a_part_of_a_ledger(mosaic: Path) -> None:
    spoil(sorted((mosaic / ".resmap" / "runs" / run_names(str(mosaic))[-1] / "ledger").iterdir())[0])


def the_document_of_an_array(mosaic: Path) -> None:
    path = mosaic / "0/score/zarr.json"
    path.write_text(path.read_text().replace('"uint8"', '"uint9"'))


def the_root(mosaic: Path) -> None:
    (mosaic / "zarr.json").write_bytes((mosaic / "zarr.json").read_bytes()[:-400])


def a_sentence_in_the_root(mosaic: Path) -> None:
    path = mosaic / "zarr.json"
    path.write_text(path.read_text().replace("what is red", "what is rod", 1))


def coordinates(mosaic: Path) -> None:
    flip(mosaic / "0/x/c/0")
    (mosaic / "1/prompt/c/0").unlink()


def files_among_the_shards(mosaic: Path) -> None:
    for name in ("0/mask/c/0/0/0/99", "0/score/c/0/0/0/0.old", "0/x/c/7"):
        shutil.copyfile(shard(mosaic, "mask"), mosaic / name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda mosaic: flip(shard(mosaic, "mask")),
        lambda mosaic: flip(shard(mosaic, "source")),
        lambda mosaic: shard(mosaic, "score", prompt=1).unlink(),
        lambda mosaic: shard(mosaic, "score").write_bytes(b""),
        lambda mosaic: shutil.rmtree(mosaic / "0/mask/c"),
        lambda mosaic: flip(shard(mosaic, "source", level=1)),
        a_level_of_another_prompt,
        a_row_that_says_otherwise,
        a_part_of_a_ledger,
        the_document_of_an_array,
        the_root,
        a_sentence_in_the_root,
        coordinates,
        files_among_the_shards,
    ],
    ids=[
        "mask", "source", "second sentence", "emptied", "all masks", "source of a level", "level of a prompt", "row",
        "part", "document", "root", "sentence", "coordinates", "stray files",
    ],
)  # fmt: skip
def test_what_was_damaged_is_as_an_undisturbed_run_leaves_it(
    work: Path, resmap: Resmap, damage: Callable[[Path], None]
) -> None:
    mosaic = work / "map.zarr"
    undisturbed, whole = contents(mosaic), everything(mosaic)
    damage(mosaic)
    assert everything(mosaic) != whole
    said = resmap("run", "--local", "--repair", work / "job.yaml")
    assert said.status == 0, said.err
    assert contents(mosaic) == undisturbed
    assert resmap("verify", "--full", mosaic).status == 0


def test_what_was_repaired_is_left_alone_by_the_next_repair(work: Path, resmap: Resmap) -> None:
    mosaic = work / "map.zarr"
    for damage in (lambda mosaic: flip(shard(mosaic, "mask")), a_row_that_says_otherwise, coordinates):
        damage(mosaic)
    assert resmap("verify", "--full", mosaic).status == 7
    assert resmap("run", "--local", "--repair", work / "job.yaml").status == 0
    before = rows(mosaic)
    assert resmap("run", "--local", "--repair", work / "job.yaml").status == 0
    assert rows(mosaic) == before


def test_no_more_is_done_again_than_was_damaged(work: Path, resmap: Resmap) -> None:
    mosaic = work / "map.zarr"
    before = rows(mosaic)
    flip(shard(mosaic, "mask", prompt=1))
    said = resmap("run", "--local", "--repair", "--json", work / "job.yaml")
    assert said.document["worked_tiles"] == 1
    assert rows(mosaic) == before + 1


def test_a_file_that_is_nobodys_is_named_and_left_alone(work: Path, resmap: Resmap) -> None:
    mosaic = work / "map.zarr"
    (mosaic / "0" / "notes.txt").write_text("do not lose me")
    said = resmap("run", "--local", "--repair", work / "job.yaml")
    assert said.status == 0
    assert "0/notes.txt" in said.err
    assert (mosaic / "0" / "notes.txt").read_text() == "do not lose me"
    assert [fault.tile for fault in verify(str(mosaic), full=True).bad] == ["0/notes.txt"]


def test_a_job_whose_plan_is_lost_says_so(work: Path, resmap: Resmap) -> None:
    mosaic = work / "map.zarr"
    for run in run_names(str(mosaic)):
        (mosaic / ".resmap" / "runs" / run / "tiles.parquet").write_bytes(b"")
    said = resmap("run", "--local", "--repair", work / "job.yaml")
    assert said.status == 7
    assert "nothing that is left says what was in it" in said.complaint
    assert "copy" in said.remedy


@pytest.mark.parametrize("name", ["job.yaml", "area.wkb", "items.parquet", "tiles.parquet", "run.json"])
def test_a_file_of_a_run_that_follows_from_the_rest_is_put_back(work: Path, resmap: Resmap, name: str) -> None:
    mosaic = work / "map.zarr"
    path = mosaic / ".resmap" / "runs" / run_names(str(mosaic))[-1] / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert resmap("verify", mosaic).status == 7
    said = resmap("run", "--local", "--repair", work / "job.yaml")
    assert said.status == 0, said.err
    assert resmap("verify", "--full", mosaic).status == 0
    if name.endswith((".wkb", ".parquet")):
        assert path.read_bytes() == whole
