"""A disk that is full, and a folder in which nothing may be written: a sentence, nothing half made, and it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.job import Job
from mapper.errors import MosaicError, StoreError
from mapper.mosaic import Mosaic
from mapper.storage import EngineName, Folder
from tests.faults.test_runs import ENGINES, content, job_of, same
from tests.mapper.sinks import SPEC, holds, keep, put
from tests.stories.command_line import Resmap
from tests.stories.test_resume import write_job
from tests.stories.world import World, mapped


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=2m"):
        pytest.skip("only root may mount a small disk, and not in every container")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, *, but: int = 0) -> Path:
    """A file that takes all room but so many bytes."""
    ballast = disk / "ballast"
    left = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - but)))
    return ballast


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_small_file_on_a_full_disk_leaves_the_old_one_and_no_draft(small_disk: Path) -> None:
    folder = Folder(str(small_disk))
    folder.write("run.json", b"old")
    fill(small_disk)
    with pytest.raises(StoreError, match="there is no room left") as caught:
        folder.write("run.json", bytes(100_000))
    assert caught.value.fix.startswith("make room")
    assert files(small_disk) == {"ballast", "run.json"}
    assert folder.read("run.json") == b"old"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shard_on_a_full_disk_is_an_error_that_may_pass_and_leaves_no_half(
    small_disk: Path, engine: EngineName
) -> None:
    mosaic = Mosaic.create(str(small_disk / "map"), SPEC, engine=engine)
    keep(mosaic, [put(mosaic, 0)])
    ballast = fill(small_disk)
    before = files(small_disk)
    with pytest.raises(StoreError, match="there is no room left") as caught:
        keep(mosaic, [put(mosaic, 1)])
    assert caught.value.retryable
    assert holds(Mosaic.open(mosaic.url, writable=False), 0)
    if engine == "zarr":
        assert files(small_disk) == before
    ballast.unlink()
    keep(mosaic, [put(mosaic, 1)])
    assert all(holds(Mosaic.open(mosaic.url, writable=False), number) for number in (0, 1))


def test_a_run_on_a_disk_that_fills_up_says_so_and_goes_on_once_there_is_room(
    world: World, small_disk: Path, tmp_path: Path, resmap: Resmap
) -> None:
    job = write_job(tmp_path, job_of(world, small_disk / "map", "zarr"))
    ballast = fill(small_disk, but=450_000)
    said = resmap("run", "--local", job)
    assert said.status != 0
    assert "no room left" in said.err
    ballast.unlink()
    assert Job.from_file(job).run(local=True).wait(timeout_s=150).state == "done"
    mapped(job_of(world, tmp_path / "undisturbed", "zarr"))
    assert same(content(small_disk / "map"), content(tmp_path / "undisturbed"))
    drafts = {name for name in files(small_disk) if name.endswith(".partial") or "/." in name.replace("/.resmap", "")}
    assert drafts == {"map/.resmap/.lease.lock"}


def test_a_folder_in_which_nothing_may_be_written_is_said_before_anything_is_made(
    world: World, small_disk: Path, tmp_path: Path, resmap: Resmap
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for engine in ENGINES:
        said = resmap("run", "--local", write_job(tmp_path, job_of(world, small_disk / "map", engine)))
        assert said.status == 3
        assert "cannot be" in said.complaint
        assert "choose another output.mosaic" in said.remedy
        with pytest.raises(MosaicError):
            Mosaic.create(str(small_disk / "map"), SPEC, engine=engine)
    assert files(small_disk) == set()
