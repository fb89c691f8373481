"""Kill anything at any moment: the finished mosaic is the same, and nothing finished is done again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.job import Job
from jobs.ledger import Entry, RunFolder
from jobs.summary import Summary
from mapper.errors import BusyError, MapperError, ModelError, MosaicError
from tests.chaos.drivers import Ended, driver, wait_until
from tests.chaos.grounds import SMALL_AREA
from tests.chaos.on_ray import SLOW, on_ray
from tests.stories.world import World, layers, mapped

PATIENCE_S = 90.0


def job_of(world: World, mosaic: Path, **changes: Any) -> dict[str, Any]:
    """A job over a part of the ground; the whole of it is for those that are to be met in the middle."""
    return world.job(mosaic, **{"area": SMALL_AREA, **changes})


def entries(mosaic: Path) -> list[Entry]:
    """All rows of the ledgers of a mosaic's runs."""
    runs = [path.parent.name for path in mosaic.glob(".resmap/runs/*/run.json")]
    return [entry for run in runs for entry in RunFolder(str(mosaic), run).entries()]


def shards(mosaic: Path) -> dict[str, str]:
    """Name of a shard file, of any level → digest of its bytes."""
    files = [path for path in mosaic.glob("[0-9]*/*/c/**/*") if path.is_file()]
    return {str(path.relative_to(mosaic)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shards_of(mosaic: Path, tiles: set[int]) -> dict[Path, int]:
    """Shard file of these tiles → when it was written, in nanoseconds."""
    (run,) = {path.parent.name for path in mosaic.glob(".resmap/runs/*/run.json")}
    planned = RunFolder(str(mosaic), run).tiles()
    places = [f"{planned[tile].row}/{planned[tile].column}" for tile in tiles]
    files = [mosaic / f"0/{layer}/c/{lead}/{place}" for place in places
             for layer, lead in (("mask", "0/0"), ("score", "0/0"), ("source", "0"))]  # fmt: skip
    return {path: path.stat().st_mtime_ns for path in files if path.exists()}


def write_job(folder: Path, job: Mapping[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(dict(job)))
    return path


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mosaic of a run that nothing happened to."""
    mosaic = tmp_path_factory.mktemp("undisturbed") / "map.zarr"
    mapped(world.job(mosaic))
    return mosaic


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The story of a run whose driver was killed with SIGKILL, and which was then run again."""

    job: Path
    mosaic: Path
    recorded: set[int]
    """Tiles in the ledger when the driver was dead."""

    written: dict[Path, int]
    """Their shard files, and when they were written."""

    intruder: MapperError | None
    """What the driver of another job was told while the first one lived."""

    again: Summary
    """Of the second run."""


@pytest.fixture(scope="module")
def killed(world: World, three_gpus: int, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    mosaic = folder / "map.zarr"
    job = write_job(folder, world.job(mosaic))
    intruder: MapperError | None = None
    with on_ray(job, env=SLOW) as run:
        first = run.driver
        wait_until(lambda: len(entries(mosaic)) >= 2, first)
        try:
            other = world.job(mosaic, prompts=[{"name": "cold", "expression": "what is blue"}])
            Job.from_dict(other).run(local=True).wait(timeout_s=PATIENCE_S)
        except MapperError as error:
            intruder = error
        assert first.alive, "the run was over before it could be killed: slow it down"
        os.kill(first.pid, signal.SIGKILL)
        first.ended()
    recorded = {entry.tile for entry in entries(mosaic)}
    written = shards_of(mosaic, recorded)
    again = Job.from_file(job).run(gpus=1).wait(timeout_s=PATIENCE_S)
    return Killed(job=job, mosaic=mosaic, recorded=recorded, written=written, intruder=intruder, again=again)


def test_a_run_whose_driver_was_killed_is_finished_by_the_next_one(killed: Killed) -> None:
    tiles = killed.again.tiles
    assert killed.again.state == "done"
    assert tiles["done"] + tiles["nodata"] == tiles["planned"]
    assert killed.again.worked_tiles == tiles["planned"] - len(killed.recorded) > 0


def test_a_killed_and_resumed_run_leaves_the_pixels_of_an_undisturbed_one(killed: Killed, undisturbed: Path) -> None:
    one, other = layers(killed.mosaic), layers(undisturbed)
    assert one.equals(other)
    assert one.sizes == other.sizes


def test_a_killed_and_resumed_run_leaves_the_bytes_of_an_undisturbed_one(killed: Killed, undisturbed: Path) -> None:
    assert shards(killed.mosaic) == shards(undisturbed)


def test_tiles_recorded_before_a_kill_are_not_done_again(killed: Killed) -> None:
    times = Counter(entry.tile for entry in entries(killed.mosaic))
    assert {tile: times[tile] for tile in killed.recorded} == dict.fromkeys(killed.recorded, 1)
    assert {path: path.stat().st_mtime_ns for path in killed.written} == killed.written


def test_every_tile_of_a_killed_and_resumed_run_has_one_last_word(killed: Killed) -> None:
    (run,) = {path.parent.name for path in killed.mosaic.glob(".resmap/runs/*/run.json")}
    folder = RunFolder(str(killed.mosaic), run)
    assert set(folder.states()) == set(range(len(folder.tiles())))


def test_the_driver_of_another_job_is_refused_while_the_first_lives(killed: Killed) -> None:
    assert isinstance(killed.intruder, BusyError), killed.intruder
    assert killed.intruder.fix
    assert str(killed.mosaic) in str(killed.intruder)


def test_a_finished_run_says_so_and_starts_no_ray(killed: Killed) -> None:
    before = shards(killed.mosaic)
    script = (
        "import sys, jobs.cli\n"
        "sys.argv = ['resmap', 'run', sys.argv[1]]\n"
        "try: jobs.cli.main()\n"
        "except SystemExit as over: print('status', over.code or 0)\n"
        "print('ray' in sys.modules)\n"
    )
    over = subprocess.run(
        [sys.executable, "-c", script, str(killed.job)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert over.stdout.splitlines()[-2:] == ["status 0", "False"]
    assert "is finished" in over.stderr
    assert shards(killed.mosaic) == before


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The story of a run that met a Ctrl-C."""

    job: Path
    mosaic: Path
    first: Ended
    entries: list[Entry]
    """The ledger afterwards."""

    leased: bool
    """Whether the mosaic was still held afterwards."""


@pytest.fixture(scope="module")
def interrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    mosaic = folder / "map.zarr"
    job = write_job(folder, world.job(mosaic))
    with on_ray(job, env=SLOW) as run:
        wait_until(lambda: len(entries(mosaic)) >= 2, run.driver)
        os.killpg(run.driver.pid, signal.SIGINT)  # a terminal sends it to all it started
        first = run.driver.ended()
    leased = (mosaic / ".resmap" / "lease.json").exists()
    return Interrupted(job=job, mosaic=mosaic, first=first, entries=entries(mosaic), leased=leased)


def test_ctrl_c_drains_saves_and_exits_130(interrupted: Interrupted) -> None:
    assert interrupted.first.status == 130, interrupted.first.err
    summary = json.loads(interrupted.first.out)
    assert summary["state"] == "interrupted"
    # What was in hand was finished and recorded, and nothing failed for having been interrupted.
    assert {entry.state for entry in interrupted.entries} <= {"done", "nodata"}
    assert summary["worked_tiles"] == len(interrupted.entries) < summary["tiles"]["planned"]
    assert not interrupted.leased


def test_an_interrupted_run_is_finished_by_a_later_one(interrupted: Interrupted, undisturbed: Path) -> None:
    before = {entry.tile for entry in interrupted.entries}
    summary = Job.from_file(interrupted.job).run(local=True).wait(timeout_s=PATIENCE_S)
    assert summary.state == "done"
    assert summary.worked_tiles == summary.tiles["planned"] - len(before)
    assert shards(interrupted.mosaic) == shards(undisturbed)


def test_ctrl_c_while_the_catalog_is_searched_exits_130_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    from tests.servers import Fault, files_over_http

    with files_over_http(world.folder) as served:
        served.fail("/catalog.json", Fault(delay_s=20))
        imagery = {"catalog": f"{served.url}/catalog.json"}
        job = write_job(tmp_path, job_of(world, tmp_path / "map.zarr", imagery=imagery))
        with driver(tmp_path, "run", str(job), "--local") as process:
            wait_until(lambda: bool(served.asked("/catalog.json")), process)
            os.killpg(process.pid, signal.SIGINT)
            over = process.ended()
    assert over.status == 130
    assert "Traceback" not in over.err
    assert not (tmp_path / "map.zarr").exists()


def test_a_second_sentence_fills_only_its_own_slice(world: World, tmp_path: Path) -> None:
    job = job_of(world, tmp_path / "map.zarr")
    mapped(job)
    before, warm = shards(tmp_path / "map.zarr"), layers(tmp_path / "map.zarr")
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    summary = mapped(job)
    after, both = shards(tmp_path / "map.zarr"), layers(tmp_path / "map.zarr")
    assert {name: after[name] for name in before} == before
    levels = {name.partition("/")[0] for name in before}
    grown = {f"{level}/{layer}" for level in levels for layer in ("mask", "score", "prompt")}
    assert {name.split("/c/")[0] for name in set(after) - set(before)} == grown
    assert summary.worked_tiles == summary.tiles["planned"]
    assert list(both["prompt"].to_numpy()) == ["warm", "cold"]
    assert both.sel(prompt=["warm"]).equals(warm)
    mapped(job_of(world, tmp_path / "alone.zarr", prompts=[{"name": "cold", "expression": "what is blue"}]))
    assert both.sel(prompt=["cold"]).equals(layers(tmp_path / "alone.zarr"))


def test_a_second_sentence_is_asked_of_the_pictures_of_the_first(world: World, tmp_path: Path) -> None:
    # A catalog that grows between the two: the mosaic's sentences must still speak of the same ground.
    for file in world.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    catalog = tmp_path / "catalog.json"
    whole = catalog.read_text()
    document = json.loads(whole)
    document["links"] = [link for link in document["links"] if "next-zone" not in link["href"]]
    catalog.write_text(json.dumps(document))
    both_zones = World.rectangle(300, 0, 560, 200)
    job = job_of(
        world, tmp_path / "map.zarr", imagery={"catalog": str(catalog), "composite": "latest"}, area=both_zones
    )
    mapped(job)
    catalog.write_text(whole)
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    mapped(job)
    gaps = layers(tmp_path / "map.zarr")["mask"].to_numpy() >= 254
    assert (gaps[0] == gaps[1]).all()
    tables = [path.read_bytes() for path in (tmp_path / "map.zarr").glob(".resmap/runs/*/items.parquet")]
    assert len(tables) == 2
    assert tables[0] == tables[1]


def test_another_job_may_not_write_to_a_mosaic(world: World, tmp_path: Path) -> None:
    mapped(job_of(world, tmp_path / "map.zarr"))
    before = shards(tmp_path / "map.zarr")
    for changes in ({"windows": {"overlap_px": 16}}, {"imagery": {"composite": "latest"}}, {"grid": {"shard_px": 192}}):
        with pytest.raises(MosaicError) as refused:
            mapped(job_of(world, tmp_path / "map.zarr", **changes))
        assert refused.value.exit_status == 3
        assert "output.mosaic" in refused.value.fix
    assert shards(tmp_path / "map.zarr") == before
    assert len(list((tmp_path / "map.zarr").glob(".resmap/runs/*"))) == 1


def test_another_sentence_under_a_known_name_is_refused(world: World, tmp_path: Path) -> None:
    mapped(job_of(world, tmp_path / "map.zarr"))
    with pytest.raises(MosaicError, match="'warm' stands in this mosaic for 'what is red'"):
        mapped(job_of(world, tmp_path / "map.zarr", prompts=[{"name": "warm", "expression": "what is blue"}]))
    assert len(list((tmp_path / "map.zarr").glob(".resmap/runs/*"))) == 1


def test_a_mosaic_is_answered_by_one_edition_of_a_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(world, tmp_path / "map.zarr", model={"name": "context"}, grid={"shard_px": 256})
    mapped(job)
    before = shards(tmp_path / "map.zarr")
    monkeypatch.setenv("CONTEXT_EDITION", "2")
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    with pytest.raises(ModelError, match="not the one this mosaic began with") as refused:
        mapped(job)
    assert "new mosaic" in refused.value.fix
    after = shards(tmp_path / "map.zarr")
    assert {name: after[name] for name in before} == before
    monkeypatch.setenv("CONTEXT_EDITION", "1")
    assert mapped(job).state == "done"


def test_two_runs_of_one_process_map_each_tile_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR_SLEEP_S", "0.05")
    job = job_of(world, tmp_path / "map.zarr")
    first = Job.from_dict(job).run(local=True)
    lease = tmp_path / "map.zarr" / ".resmap" / "lease.json"
    deadline = time.monotonic() + PATIENCE_S
    while not lease.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    followed = Job.from_dict(job).run(local=True).wait(timeout_s=PATIENCE_S)
    assert first.wait(timeout_s=PATIENCE_S).as_json() == followed.as_json()
    assert followed.state == "done"
    assert set(Counter(entry.tile for entry in entries(tmp_path / "map.zarr")).values()) == {1}
