"""What ``status`` tells of a run, how one that loses its workers is left, and what ``retry`` takes again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from cluster.local import LocalPool
from cluster.pool import Finished
from cluster.readings import Reading
from jobs.job import Job
from jobs.ledger import Entry, RunFolder, run_names
from jobs.prepare import prepare
from jobs.run import Run
from jobs.status import RunStatus, status_of
from jobs.tables import status_table
from jobs.telemetry import Live, Row, WorkerNow
from jobs.tile_table import PlannedTile, TileTable
from jobs.watch import Silent
from mapper.errors import ResourceError
from mapper.map_tile import Setup
from tests.stories.command_line import Resmap
from tests.stories.world import World, layers, mapped

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def said(worker: str, *, up_s: float, tiles: int, busy_s: float, read_s: float, began: float = 100.0) -> WorkerNow:
    reading = Reading(worker=worker, host="a-host", device="a card", began=began, up_s=up_s, busy_s=busy_s,
                      waited_s={"read": read_s, "tasks": up_s - busy_s - read_s}, tiles=tiles)  # fmt: skip
    return WorkerNow(reading=reading, heard_s=0.5, area_km2=0.0)


def put_live(folder: RunFolder, *workers: WorkerNow, over: bool = False) -> None:
    folder.save_live(Live(at=AT, began=AT - timedelta(hours=1), over=over, workers=workers, in_hand=0, spent_usd=0.0,
                          usd_per_gpu_hour=0.0, budget_usd=None))  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of four tiles, of which two were given up."""
    folder = RunFolder(str(tmp_path / "map.zarr"), "run-1")
    tiles = [PlannedTile(grid=0, step=0, row=n, column=2 * n, items=(0,), clipped=False) for n in range(4)]
    facts = {"state": "running", "planned": 4, "grids": ["utm14n"], "steps": ["2026-01-01T00:00:00+00:00"]}
    folder.save_plan(job="", area=b"", items=b"", tiles=TileTable.of(tiles), facts=facts)
    ledger = folder.ledger()
    ledger.record(Entry(tile=0, state="done", attempts=1, worker="gpu-0", at=AT))
    ledger.record(Entry(tile=3, state="failed", attempts=4, worker="gpu-1", at=AT, cause="ReadError",
                        error="[red]it did not arrive\x1b[2J"))  # fmt: skip
    ledger.record(
        Entry(tile=1, state="quarantined", attempts=1, worker="gpu-0", at=AT, cause="AssetError", error="bad")
    )
    ledger.flush()
    return folder


def shown(status: RunStatus) -> str:
    said = io.StringIO()
    Console(width=200, file=said).print(status_table(status))
    return said.getvalue()


def test_a_run_of_before_telemetry_has_a_status(folder: RunFolder) -> None:
    status = status_of(folder)
    assert (status.live, status.heard_at, status.tiles_per_s, status.workers) == (False, None, None, ())


def test_the_rate_is_that_of_the_last_minute_and_not_since_the_beginning(folder: RunFolder) -> None:
    ledger = folder.telemetry_ledger()
    for seconds, tiles, busy_s in ((600, 10, 100.0), (60, 1000, 1000.0), (30, 1030, 1015.0)):
        before = said("gpu-0", up_s=3600 - seconds, tiles=tiles, busy_s=busy_s, read_s=200.0)
        ledger.record(Row(at=AT - timedelta(seconds=seconds), worker=before))
    ledger.flush()
    put_live(folder, said("gpu-0", up_s=3600.0, tiles=1120, busy_s=1030.0, read_s=218.0))
    status = status_of(folder, now=AT + timedelta(seconds=2))
    (worker,) = status.workers
    assert status.live
    assert status.tiles_per_s == worker.tiles_per_s == 2.0
    assert (worker.busy, worker.waits_for, worker.waits) == (0.5, "read", 0.3)
    assert "2.00 tiles/s in the last minute, by 1 worker" in shown(status)
    assert "a-host · 1120 tiles · 2.00/s · 50 % busy · waits most for read, 30 %" in shown(status)


def test_an_actor_that_has_just_begun_is_reckoned_from_its_beginning(folder: RunFolder) -> None:
    ledger = folder.telemetry_ledger()
    before = said("gpu-0", up_s=1000.0, tiles=500, busy_s=900.0, read_s=0.0)
    ledger.record(Row(at=AT - timedelta(seconds=50), worker=before))
    ledger.flush()
    put_live(folder, said("gpu-0", up_s=20.0, tiles=10, busy_s=5.0, read_s=10.0, began=200.0))
    (worker,) = status_of(folder, now=AT).workers
    assert (worker.tiles_per_s, worker.busy, worker.waits_for) == (0.5, 0.25, "read")


def test_where_no_row_tells_of_the_last_minute_nobody_knows_the_rate(folder: RunFolder) -> None:
    put_live(folder, said("gpu-0", up_s=1000.0, tiles=500, busy_s=900.0, read_s=0.0))
    status = status_of(folder, now=AT)
    assert (status.live, status.tiles_per_s, status.workers[0].busy) == (True, None, None)
    assert "nobody knows how fast in the last minute" in shown(status)


def test_a_history_that_is_damaged_leaves_a_status_without_a_rate(folder: RunFolder) -> None:
    put_live(folder, said("gpu-0", up_s=1000.0, tiles=500, busy_s=900.0, read_s=0.0))
    damaged = Path(folder.mosaic, ".resmap/runs/run-1/telemetry/part-000001-0123abcd.parquet")
    damaged.parent.mkdir()
    damaged.write_bytes(b"no parquet")
    status = status_of(folder, now=AT)
    assert (status.live, status.tiles_per_s, status.counts["done"]) == (True, None, 1)


@pytest.mark.parametrize(("over", "later_s"), [(True, 1), (False, 120)])
def test_a_run_without_a_driver_has_no_rate(folder: RunFolder, over: bool, later_s: int) -> None:
    put_live(folder, said("gpu-0", up_s=10.0, tiles=5, busy_s=9.0, read_s=0.0), over=over)
    status = status_of(folder, now=AT + timedelta(seconds=later_s))
    assert (status.live, status.tiles_per_s) == (False, None)
    assert status.workers[0].busy == 0.9, "of all its time"
    assert "said nothing since 2026-03-04 05:06:07 UTC" in shown(status)


def test_tiles_that_were_given_up_are_told_with_their_evidence(folder: RunFolder) -> None:
    status = status_of(folder)
    assert [(lost.tile, lost.name, lost.state, lost.attempts, lost.worker, lost.cause) for lost in status.given_up] == [
        (1, "utm14n/r1c2/t0", "quarantined", 1, "gpu-0", "AssetError"),
        (3, "utm14n/r3c6/t0", "failed", 4, "gpu-1", "ReadError"),
    ]
    text = shown(status)
    assert "utm14n/r1c2/t0 after 1 try, by gpu-0, 2026-03-04 05:06:07 UTC: AssetError: bad" in text
    assert "[red]it did not arrive" in text
    assert "\x1b" not in text
    assert "`resmap retry run-1` takes them again" in text


# Runs that end before their end ---------------------------------------------------------------------------------------


class Dying(LocalPool):
    """Its only worker is gone after three tiles."""

    over = 0

    def finished(self, timeout_s: float) -> list[Finished]:
        if self.over >= 3:
            raise ResourceError("no GPU worker is left: each died 3 times in a row", fix="see what it died of")
        ended = super().finished(timeout_s)
        self.over += len(ended)
        return ended


def test_a_run_that_has_lost_its_workers_is_stopped_and_goes_on_later(
    world: World, resmap: Resmap, tmp_path: Path
) -> None:
    job = world.job(tmp_path / "map.zarr")

    def dying(setup: Setup, paid: Callable[[float], None], stopped: Callable[[], bool]) -> LocalPool:
        return Dying(setup)

    summary = Run(prepare(Job.from_dict(job)), dying, Silent(), retry=False).wait(timeout_s=100)
    assert (summary.state, summary.exit_status) == ("stopped", 1)
    done = sum(summary.tiles[state] for state in ("done", "nodata"))
    assert 3 <= done < 33
    (status,) = resmap("status", "--json", tmp_path / "map.zarr").document
    assert status["state"] == "stopped"
    assert status["stopped"] == summary.stopped
    assert "no GPU worker is left" in status["stopped"]
    assert f"{33 - done} tiles are left" in status["stopped"]
    assert "no GPU worker is left" in resmap("status", tmp_path / "map.zarr").out
    assert RunFolder(str(tmp_path / "map.zarr"), summary.run).events()[-1].text.startswith("stopped: ")
    again = mapped(job)
    assert (again.state, again.worked_tiles) == ("done", 33 - done)
    (status,) = resmap("status", "--json", tmp_path / "map.zarr").document
    assert (status["state"], status["stopped"], status["live"]) == ("done", "", False)


@pytest.fixture
def spoilt(world: World, tmp_path: Path) -> tuple[Path, bytes]:
    """A job file, of whose imagery one file is cut short; and that file's whole content."""
    for file in world.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    good = (tmp_path / "middle.tif").read_bytes()
    (tmp_path / "middle.tif").write_bytes(good[:500])
    job = tmp_path / "job.yaml"
    document: dict[str, Any] = world.job(tmp_path / "map.zarr", imagery={"catalog": str(tmp_path / "catalog.json")})
    job.write_text(yaml.safe_dump(document))
    return job, good


def test_retry_takes_again_what_was_given_up_and_nothing_else(
    world: World, resmap: Resmap, spoilt: tuple[Path, bytes]
) -> None:
    job, good = spoilt
    mosaic = job.parent / "map.zarr"
    assert resmap("run", "--local", job).status == 4
    (run,) = run_names(str(mosaic))
    (before,) = resmap("status", "--json", mosaic).document
    assert before["state"] == "quarantined"
    lost = before["given_up"]
    assert len(lost) == before["counts"]["quarantined"] > 0
    assert {(tile["worker"], tile["state"]) for tile in lost} == {("local-0", "quarantined")}
    told = {event.tile: event.text for event in RunFolder(str(mosaic), run).events() if event.kind == "given-up"}
    assert {tile["tile"] for tile in lost} == {*told}
    assert all(tile["cause"] in told[tile["tile"]] for tile in lost)
    assert "middle.tif" in "".join(resmap("status", run).out.split()), "in lines as wide as the terminal"

    again = resmap("retry", "--local", "--json", run)
    assert again.status == 4, "the file is as it was"
    assert json.loads(again.out)["worked_tiles"] == 0

    (job.parent / "middle.tif").write_bytes(good)
    again = resmap("retry", "--local", "--json", run)
    assert (again.status, again.document["state"], again.document["worked_tiles"]) == (0, "done", len(lost))
    (after,) = resmap("status", "--json", mosaic).document
    assert (after["state"], after["given_up"], after["problems"]) == ("done", [], [])
    mapped(world.job(job.parent / "good.zarr"))
    assert layers(mosaic).equals(layers(job.parent / "good.zarr"))

    nothing = resmap("retry", "--local", mosaic)
    assert (nothing.status, nothing.out.strip()) == (0, "no tile was given up; there is nothing to take again")


def test_a_retry_of_a_run_that_is_not_there_names_those_that_are(world: World, resmap: Resmap, tmp_path: Path) -> None:
    mapped(world.job(tmp_path / "map.zarr"))
    (run,) = run_names(str(tmp_path / "map.zarr"))
    refused = resmap("retry", "--local", "--run", "another", tmp_path / "map.zarr")
    assert refused.status == 3
    assert run in refused.err
    assert resmap("retry", "--local", tmp_path / "nothing.zarr").status == 3
