"""The same jobs on icechunk: the same answers, each run a version, and nothing half done is ever seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import mapper
from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from jobs.verify import verify
from mapper.errors import MosaicError, SpecError
from mapper.mosaic import Mosaic
from tests.chaos.drivers import driver, wait_until
from tests.chaos.grounds import SMALL_AREA
from tests.stories.command_line import Resmap
from tests.stories.test_resume import PATIENCE_S, write_job
from tests.stories.world import World, layers, mapped, merged

ICE = {"engine": "icechunk"}


def on_zarr(world: World, mosaic: Path | str, **changes: Any) -> dict[str, Any]:
    """A job over a part of the ground."""
    return world.job(mosaic, area=SMALL_AREA, **changes)


def on_icechunk(world: World, mosaic: Path | str, **changes: Any) -> dict[str, Any]:
    """The same on icechunk."""
    return merged(on_zarr(world, mosaic, **changes), {"output": ICE})


def levels_of(url: Path | str, at: str | None = None) -> list[xr.Dataset]:
    """All levels as stored, in memory."""
    opened = Mosaic.open(str(url), writable=False, at=at)
    found = []
    for level in (level for grid in opened.grids for level in grid.pyramid()):
        layers: dict[str, Any] = {}
        for name in ("mask", "score"):
            stored = [opened.layer(level, name, level.box, time=0, prompt=p) for p in range(len(opened.prompts))]
            layers[name] = (("prompt", "y", "x"), np.stack(stored))
        found.append(xr.Dataset(layers))
    return found


def same(one: list[xr.Dataset], other: list[xr.Dataset]) -> bool:
    return len(one) == len(other) and all(a.equals(b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mosaic = tmp_path_factory.mktemp("plain") / "map.zarr"
    mapped(on_zarr(world, mosaic))
    return mosaic


@pytest.mark.parametrize("gpus", [None, 2])
def test_both_engines_hold_the_same_pixels_on_every_level(
    world: World, plain: Path, three_gpus: int, tmp_path: Path, gpus: int | None
) -> None:
    summary = mapped(on_icechunk(world, tmp_path / "map"), gpus=gpus)
    assert summary.state == "done"
    assert same(levels_of(tmp_path / "map"), levels_of(plain))
    assert not (tmp_path / "map" / "zarr.json").exists()
    report = verify(str(tmp_path / "map"), full=True)
    assert (report.bad, report.unfinished) == ((), 0)


def test_what_is_known_of_a_run_lies_beside_the_repository(world: World, tmp_path: Path, resmap: Resmap) -> None:
    job = write_job(tmp_path, on_icechunk(world, tmp_path / "map"))
    said = resmap("run", "--local", "--json", job)
    assert said.status == 0
    (run,) = run_names(str(tmp_path / "map"))
    assert (tmp_path / "map.resmap" / "runs" / run / "run.json").exists()
    assert not (tmp_path / "map" / ".resmap").exists()
    assert "nothing to do" in resmap("run", "--local", job).err
    assert resmap("status", tmp_path / "map").status == 0
    assert resmap("verify", "--full", tmp_path / "map").status == 0


def test_each_run_is_a_version_that_can_be_opened_again(world: World, tmp_path: Path) -> None:
    job = on_icechunk(world, tmp_path / "map")
    first = mapped(job).run
    before = levels_of(tmp_path / "map")
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    second = mapped(job).run
    assert list(mapper.open_mosaic(str(tmp_path / "map"))["prompt"].to_numpy()) == ["warm", "cold"]
    assert same(levels_of(tmp_path / "map", at=first), before)
    assert len(Mosaic.open(str(tmp_path / "map"), writable=False, at=first).prompts) == 1
    assert {tag for snapshot in Mosaic.open(str(tmp_path / "map")).snapshots() for tag in snapshot.tags} == {
        f"run-{first}",
        f"run-{second}",
    }


def test_a_killed_driver_leaves_whole_commits_and_the_next_one_the_same_mosaic(
    world: World, plain: Path, tmp_path: Path
) -> None:
    mosaic = tmp_path / "map"
    job = write_job(tmp_path, merged(on_icechunk(world, mosaic), {"output": {"commit_shards": 3}}))
    with driver(tmp_path, "run", str(job), "--local", env={"COLOUR_SLEEP_S": "0.15"}) as first:
        wait_until(lambda: bool(list(mosaic.parent.glob("map.resmap/runs/*/ledger/part-*"))), first)
        os.kill(first.pid, signal.SIGKILL)
        first.ended()
    (run,) = run_names(str(mosaic))
    folder = RunFolder(str(mosaic), run)
    assert 0 < len(folder.states()) < len(folder.tiles())
    # What the ledger says is there, is there; of what was committed last it may not know yet.
    assert {fault.kind for fault in verify(str(mosaic), full=True).bad} <= {"extra"}
    assert Job.from_file(job).run(local=True).wait(timeout_s=PATIENCE_S).state == "done"
    assert same(levels_of(mosaic), levels_of(plain))


def test_it_runs_in_a_bucket(world: World, plain: Path, bucket: str) -> None:
    assert mapped(on_icechunk(world, f"{bucket}/ice/map")).state == "done"
    assert same(levels_of(f"{bucket}/ice/map"), levels_of(plain))
    assert mapper.open_mosaic(f"{bucket}/ice/map")["mask"].shape == layers(plain)["mask"].shape


def test_a_mosaic_keeps_its_engine(world: World, tmp_path: Path) -> None:
    mapped(on_icechunk(world, tmp_path / "map"))
    with pytest.raises(MosaicError, match="engine icechunk"):
        mapped(on_zarr(world, tmp_path / "map"))
    mapped(on_zarr(world, tmp_path / "plain"))
    with pytest.raises(MosaicError, match="engine zarr"):
        mapped(on_icechunk(world, tmp_path / "plain"))
    assert not (tmp_path / "plain.resmap").exists()


def test_a_run_that_cannot_begin_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = on_icechunk(world, tmp_path / "map", model={"name": "pocket", "weights": str(tmp_path / "none")})
    with pytest.raises(SpecError):
        mapped(job)
    assert list(tmp_path.iterdir()) == []
