"""A pilot maps some tiles, throws them away, and tells what all of them will cost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.pool import Outcome
from cluster.telemetry import WorkerSample
from jobs.amounts import Range
from jobs.job import Job
from jobs.pilot import Pilot, _on_cores
from jobs.prepare import prepare
from jobs.pricing import Priced, price
from jobs.sampling import Stratum, draw, share_of, total_of
from jobs.tile_table import PlannedTile, TileTable
from jobs.watch import Silent
from tests.stories.command_line import Resmap
from tests.stories.world import World


def table(whole: int, clipped: int, holes: int, *, steps: int = 1) -> TileTable:
    """So many tiles of each kind, the kinds mixed, in steps of the same size."""
    kinds = np.random.default_rng(3).permutation(["whole"] * whole + ["clipped"] * clipped + ["hole"] * holes)
    return TileTable.of(
        PlannedTile(grid=0, step=number * steps // len(kinds), row=number, column=0, clipped=kind == "clipped",
                    items=() if kind == "hole" else (0,))
        for number, kind in enumerate(kinds)
    )  # fmt: skip


def drawn(strata: tuple[Stratum, ...]) -> list[int]:
    return [row for stratum in strata for row in stratum.rows]


@given(
    whole=st.integers(0, 60), clipped=st.integers(0, 60), holes=st.integers(0, 60),
    count=st.integers(1, 200), seed=st.text(max_size=4),
)  # fmt: skip
def test_a_sample_is_as_large_as_asked_and_each_kind_has_its_share(
    whole: int, clipped: int, holes: int, count: int, seed: str
) -> None:
    tiles = table(whole, clipped, holes)
    strata = draw(tiles, count, seed=seed)
    rows = drawn(strata)
    assert len(set(rows)) == len(rows) == min(count, len(tiles))
    assert sum(stratum.tiles for stratum in strata) == len(tiles)
    kinds = [kind for kind in (whole, clipped, holes) if kind]
    for stratum, size in zip(strata, kinds, strict=True):
        assert stratum.tiles == size
        fair = min(count, len(tiles)) * size / len(tiles)
        assert abs(len(stratum.rows) - fair) <= 4  # two of each kind at least, which others have to give up
        if count >= 2 * len(kinds):
            assert len(stratum.rows) >= min(2, size)


def test_the_same_run_draws_the_same_tiles_and_another_one_others() -> None:
    tiles = table(5000, 300, 50)
    assert draw(tiles, 50, seed="a") == draw(tiles, 50, seed="a")
    assert draw(tiles, 50, seed="a") != draw(tiles, 50, seed="b")


def test_every_step_comes_in_its_share() -> None:
    tiles = table(900, 60, 40, steps=10)
    rows = drawn(draw(tiles, 100, seed="a"))
    assert np.bincount(tiles.step[rows], minlength=10) == pytest.approx(10, abs=3)


def test_a_sample_of_all_tiles_says_exactly_what_they_cost() -> None:
    tiles = table(20, 5, 3)
    costs = {row: float(row % 7) for row in range(28)}
    total = total_of(draw(tiles, 28, seed="a"), costs)
    assert total.low == total.likely == total.high == pytest.approx(sum(costs.values()))


@pytest.mark.parametrize("count", [4, 10, 50])
def test_the_truth_lies_within_the_range_as_often_as_it_says(count: int) -> None:
    dice = np.random.default_rng(11)
    tiles = table(700, 250, 50)
    cost = np.where(tiles.holes, 0.1, np.where(tiles.clipped, 3.0, 10.0)) * dice.lognormal(0, 0.4, 1000)
    within = []
    for seed in range(400):
        strata = draw(tiles, count, seed=str(seed))
        total = total_of(strata, {row: float(cost[row]) for row in drawn(strata)})
        within.append(total.low <= cost.sum() <= total.high)
    # 95 % is asked for; 400 draws tell it to ±2 %, and skewed costs take a little from a small sample.
    assert np.mean(within) >= 0.90


def test_a_small_sample_is_less_certain_than_the_spread_of_its_tiles_says() -> None:
    tiles = table(1000, 0, 0)

    def halves(count: int) -> tuple[float, float]:
        """Of the range, and of what two standard errors would be, in shares of the total."""
        strata = draw(tiles, count, seed="a")
        cost = {row: 10.0 + row % 5 for row in drawn(strata)}
        total = total_of(strata, cost)
        spread = np.std(list(cost.values()), ddof=1) / np.sqrt(count) / np.mean(list(cost.values()))
        return (total.high - total.likely) / total.likely, 2 * float(spread)

    small, naive = halves(3)
    large, also_naive = halves(100)
    assert small > 1.8 * naive
    assert large == pytest.approx(also_naive, rel=0.1)
    assert small > large


def test_one_tile_says_little() -> None:
    total = total_of(draw(table(100, 0, 0), 1, seed="a"), {drawn(draw(table(100, 0, 0), 1, seed="a"))[0]: 2.0})
    assert total.likely == 200
    assert total.low == 2  # what has been measured is sure
    assert total.high > 1000


def test_a_tile_that_could_not_be_measured_is_taken_to_be_like_the_others() -> None:
    strata = (Stratum(tiles=10, rows=(0, 1)), Stratum(tiles=4, rows=(2,)))
    total = total_of(strata, {0: 3.0, 1: 3.0})
    assert total.likely == 14 * 3
    assert share_of(strata, {0: True, 1: False}) == 0.5
    assert share_of(strata, {}) is None


def priced(world: World, mosaic: Path, pilot: int, **changes: Any) -> Priced:
    return price(prepare(Job.from_dict(world.job(mosaic, **changes))), pilot=pilot, watcher=Silent())


def told(one: Priced) -> Pilot:
    assert one.pilot is not None
    return one.pilot


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_pilot_of_all_tiles_measures_what_the_run_then_does(world: World, here: Path, tmp_path: Path) -> None:
    one = priced(world, tmp_path / "map.zarr", 33)
    pilot = told(one)
    assert not (tmp_path / "map.zarr").exists()
    assert list(here.iterdir()) == []
    assert pilot.whole_s is not None
    assert pilot.whole_bytes is not None
    assert pilot.seconds / 2 <= pilot.whole_s.likely <= pilot.seconds
    assert one.cost.seconds == pilot.whole_s

    summary = Job.from_dict(world.job(tmp_path / "map.zarr")).run(local=True).wait(timeout_s=100)
    assert pilot.tiles == summary.tiles["planned"] == 33
    assert pilot.problems == ()
    arrays = (tmp_path / "map.zarr/0" / name for name in ("mask", "score", "source"))
    shards = [path for array in arrays for path in array.glob("c/**/*") if path.is_file()]
    assert pilot.stored_bytes == sum(path.stat().st_size for path in shards)
    assert pilot.whole_bytes == Range(low=pilot.stored_bytes, likely=pilot.stored_bytes, high=pilot.stored_bytes)
    assert one.cost.windows_once / 2 <= pilot.windows <= one.cost.windows


def test_a_part_of_the_tiles_prices_the_whole_with_a_range(world: World, here: Path, tmp_path: Path) -> None:
    one = priced(world, tmp_path / "map.zarr", 9, compute={"gpus": 3, "usd_per_gpu_hour": 36.0})
    cost, pilot = one.cost, told(one)
    assert pilot.tiles == 9
    assert cost.seconds is not None
    assert cost.usd is not None
    assert cost.stored_bytes is not None
    assert pilot.whole_s is not None
    assert cost.seconds.likely == pytest.approx(pilot.whole_s.likely / 3)
    assert cost.usd.likely == pytest.approx(pilot.whole_s.likely / 100)
    assert 0 < cost.seconds.low < cost.seconds.likely < cost.seconds.high
    assert cost.stored_bytes.low < cost.stored_bytes.likely < cost.stored_bytes.high
    assert set(pilot.stages) == {"read", "infer", "blend", "write"}
    for measured in (pilot.whole_windows, pilot.whole_read_bytes, pilot.decode_s, pilot.worker_s):
        assert measured is not None
        assert 0 < measured.low <= measured.likely <= measured.high
    assert pilot.window_s is not None
    assert pilot.card == ""  # a CPU
    assert pilot.bound in pilot.stages


def test_time_in_line_for_a_core_is_not_taken_for_work() -> None:
    spent = {"read": 50.0, "decode": 8.0, "copy": 0.0, "infer": 30.0, "blend": 1.0, "encode": 1.0, "write": 9.0}
    assert _on_cores(spent, 10.0, "cpu") == spent | {"decode": 2.0, "blend": 0.25, "encode": 0.25}
    assert _on_cores(spent, 10.0, "cuda") == spent  # the model is on no core
    assert _on_cores(spent, 99.0, "cpu") == spent


def test_tiles_without_a_valid_pixel_are_told(world: World, here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "blank"
    shutil.copytree(world.folder, folder)
    from affine import Affine

    from tests.stories.world import CORNER, write_tiff

    for item in ("west", "middle", "north", "east"):
        black = np.zeros((3, 460, 420), np.uint8)
        write_tiff(folder / f"{item}.tif", black, crs="EPSG:32632", transform=Affine(1, 0, CORNER[0], 0, -1, CORNER[1]))
    one = priced(world, tmp_path / "map.zarr", 33, imagery={"catalog": str(folder / "catalog.json")})
    assert told(one).blank_share == 1.0
    assert told(one).windows == 0
    assert one.exit_status == 0


def test_plan_with_a_pilot_says_so_to_people_and_machines(
    world: World, here: Path, resmap: Resmap, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr")))
    said = resmap("plan", job, "--pilot", 5)
    assert said.status == 0
    assert "Pilot of 5 tiles on cpu" in said.out
    assert "bound by" in said.out
    assert "mapping 5 of 33 tiles, to be thrown away" in said.err
    told = resmap("plan", job, "--pilot", 500, "--json")
    assert "mapping all 33 tiles (500 were asked for)" in told.err
    assert told.document["pilot"]["tiles"] == 33
    assert told.document["timed_on"] == "cpu"
    assert told.document["seconds"] == told.document["pilot"]["whole_s"]
    assert resmap("plan", job, "--json").document["pilot"] is None
    assert resmap("plan", job, "--pilot", 0).status == 2
    assert list(here.iterdir()) == []
    assert not (tmp_path / "map.zarr").exists()


def test_imagery_that_cannot_be_read_is_told_and_ends_in_4(
    world: World, here: Path, resmap: Resmap, tmp_path: Path
) -> None:
    folder = tmp_path / "part"
    shutil.copytree(world.folder, folder)
    (folder / "middle.tif").unlink()
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", imagery={"catalog": str(folder / "catalog.json")})))
    said = resmap("plan", job, "--pilot", 33, "--json")
    assert said.status == 4
    pilot = said.document["pilot"]
    assert 0 < pilot["failed_share"] == len(pilot["problems"]) / 33 < 1
    assert {problem["cause"] for problem in pilot["problems"]} == {"AssetError"}
    assert said.document["usd"]["likely"] > 0

    for file in folder.glob("*.tif"):
        file.unlink()
    said = resmap("plan", job, "--pilot", 12, "--json")
    assert said.status == 4
    assert said.document["usd"] is said.document["seconds"] is said.document["pilot"]["bound"] is None
    people = resmap("plan", job, "--pilot", 12)
    assert people.status == 4
    assert "none: no tile under imagery could be mapped" in people.out
    assert list(here.iterdir()) == []


def test_a_pilot_that_is_interrupted_leaves_nothing_behind(world: World, here: Path, tmp_path: Path) -> None:
    class Impatient(Silent):
        """Somebody who presses Ctrl-C at the first tile."""

        def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
            assert list(here.glob("resmap-pilot-*/map.zarr/0"))
            raise KeyboardInterrupt

    prepared = prepare(Job.from_dict(world.job(tmp_path / "map.zarr")))
    with pytest.raises(KeyboardInterrupt):
        price(prepared, pilot=20, watcher=Impatient())
    assert list(here.iterdir()) == []
    assert not (tmp_path / "map.zarr").exists()
