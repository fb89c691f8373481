"""Coarser levels grow with the map: whatever happens on the way, they equal levels built at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.pool import Outcome
from cluster.telemetry import WorkerSample
from jobs.job import Job
from jobs.run import start
from jobs.verify import verify
from jobs.watch import Silent
from mapper.grid import Grid
from mapper.mosaic import Mosaic
from mapper.pyramid import LevelTask, build_shard
from tests.chaos.grounds import SMALL_AREA
from tests.stories.test_resume import PATIENCE_S, job_of, shards
from tests.stories.world import World, mapped


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mosaic that nothing happened to."""
    mosaic = tmp_path_factory.mktemp("plain") / "map.zarr"
    mapped(job_of(world, mosaic))
    return mosaic


def built_at_the_end(mosaic: Path, copy: Path) -> Path:
    """The mosaic with level 0 only, and then its levels made one after another by hand."""
    shutil.copytree(mosaic, copy)
    made = Mosaic.open(str(copy))
    for grid in made.grids:
        for level in grid.pyramid()[1:]:
            shutil.rmtree(copy / level.path / "mask" / "c", ignore_errors=True)
            shutil.rmtree(copy / level.path / "score" / "c", ignore_errors=True)
            shutil.rmtree(copy / level.path / "source" / "c", ignore_errors=True)
            for time in range(len(made.times)):
                for tile in level.tiles():
                    everything = tuple(range(len(made.prompts)))
                    build_shard(made, LevelTask(id=0, grid=level, tile=tile, time=time, prompts=everything))
    return copy


def coarsest(mosaic: Path) -> tuple[Mosaic, Grid]:
    opened = Mosaic.open(str(mosaic), writable=False)
    return opened, opened.grids[0].pyramid()[-1]


@pytest.mark.parametrize("reduction", ["mode", "any"])
def test_levels_grown_with_the_map_are_those_built_at_its_end(world: World, tmp_path: Path, reduction: str) -> None:
    mosaic = tmp_path / "map.zarr"
    output = {"mosaic": str(mosaic), "pyramid": reduction}
    job = world.job(mosaic, output=output, imagery={"time_step": "month"}, area=SMALL_AREA)
    mapped(job)
    opened, top = coarsest(mosaic)
    assert opened.pyramid == reduction
    assert max(top.shape) <= 64
    assert (opened.layer(top, "mask", top.box, time=0) == 1).any()
    assert shards(mosaic) == shards(built_at_the_end(mosaic, tmp_path / "copy.zarr"))


def test_every_zone_has_its_own_levels(world: World, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    mapped(world.job(mosaic, grid={"crs": "utm"}, area=World.rectangle(200, 30, 525, 345)))
    copy = built_at_the_end(mosaic, tmp_path / "copy.zarr")
    for path in mosaic.glob("utm*/[1-9]/*/c/**/*"):
        assert path.is_dir() or path.read_bytes() == (copy / path.relative_to(mosaic)).read_bytes()
    assert len(list(mosaic.glob("utm33n/[1-9]/mask/c/**/*"))) > 0


@pytest.mark.chaos
def test_levels_grow_on_ray_as_they_do_here(world: World, plain: Path, three_gpus: int, tmp_path: Path) -> None:
    mapped(job_of(world, tmp_path / "ray.zarr"), gpus=2)
    assert shards(tmp_path / "ray.zarr") == shards(plain)


class StopAfter(Silent):
    """Presses Ctrl-C when so many tiles are over."""

    def __init__(self, tiles: int) -> None:
        self._left = tiles
        self.stop: Callable[[], None] | None = None

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        self._left -= 1
        if self._left <= 0 and self.stop is not None:
            self.stop()


def test_a_run_that_was_stopped_again_and_again_ends_with_the_levels_of_one_that_was_not(
    world: World, plain: Path, tmp_path: Path
) -> None:
    job = Job.from_dict(job_of(world, tmp_path / "map.zarr"))
    states = []
    while "done" not in states:
        watcher = StopAfter(2)
        under_way = start(job, local=True, watcher=watcher)
        watcher.stop = under_way.stop
        states.append(under_way.wait(timeout_s=PATIENCE_S).state)
    assert states.count("interrupted") > 1
    assert shards(tmp_path / "map.zarr") == shards(plain)


def test_levels_a_killed_run_left_behind_are_made_up_for_without_the_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosaic = tmp_path / "map.zarr"
    job = job_of(world, mosaic)
    mapped(job)
    before = shards(mosaic)
    (folder,) = mosaic.glob(".resmap/runs/*")
    for part in folder.glob("levels/part-*"):
        part.unlink()
    for layer in ("mask", "score", "source"):
        for level in mosaic.glob(f"[1-9]/{layer}/c"):
            shutil.rmtree(level)
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "state": "running", "summary": None}))
    monkeypatch.setattr("mapper.models.load", None)  # whoever loads a model now, fails
    summary = mapped(job)
    assert (summary.state, summary.worked_tiles) == ("done", 0)
    assert shards(mosaic) == before


def test_verify_names_the_shard_of_a_level_that_was_spoilt_or_lost(plain: Path, tmp_path: Path) -> None:
    mosaic = Path(shutil.copytree(plain, tmp_path / "map.zarr"))
    assert verify(str(mosaic), full=True).bad == ()
    spoilt, lost = mosaic / "1/score/c/0/0/0/1", mosaic / "2/mask/c/0/0/0/0"
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 3] ^= 0xFF
    spoilt.write_bytes(content)
    lost.unlink()
    bad = verify(str(mosaic), full=True).bad
    assert {found.tile for found in bad} == {"1/r0c1/t0/warm", "2/r0c0/t0/warm"}


def test_a_gap_stays_a_gap_on_every_level(plain: Path) -> None:
    opened = Mosaic.open(str(plain), writable=False)
    base, *levels = opened.grids[0].pyramid()
    assert set(np.unique(opened.layer(base, "mask", base.box, time=0))) == {0, 1, 254, 255}
    seen = opened.layer(base, "mask", base.box, time=0) < 254
    for level in levels:
        answered = opened.layer(level, "mask", level.box, time=0) < 254
        side = 2**level.level
        padded = np.zeros((level.shape[0] * side, level.shape[1] * side), bool)
        top, left = base.box.top - level.box.top * side, base.box.left - level.box.left * side
        padded[top : top + base.shape[0], left : left + base.shape[1]] = seen
        ever_seen = padded.reshape(level.shape[0], side, level.shape[1], side).any(axis=(1, 3))
        assert not (answered & ~ever_seen).any()
