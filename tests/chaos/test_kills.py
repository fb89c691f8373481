"""Kill a driver anywhere: the next one goes on, and the map is that of a run to which nothing happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mapper.failpoints import VARIABLE
from tests.chaos.drivers import drive, driver, wait_until
from tests.chaos.grounds import EngineName, Ground, lay
from tests.chaos.kills import killed_again_and_again, killed_at_each, points_of
from tests.stories.world import World
from tests.undisturbed import recorded

SLOW = {"COLOUR_SLEEP_S": "0.15"}
"""A run then takes some seconds: long enough to be met in the middle."""

LEASE_S = 1.5
"""For which a driver is believed to live that says nothing; it is a minute in earnest."""


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_drivers_that_died_at_every_point_leave_the_map_of_one_that_lived(
    world: World, plain: Ground, committed: Ground, tmp_path: Path, engine: EngineName
) -> None:
    job = lay(world, tmp_path, engine=engine)
    story = killed_at_each(job, points_of(engine), tmp_path)
    assert story.kills.keys() == set(points_of(engine))
    assert (plain if engine == "zarr" else committed).left.complaints(str(tmp_path / "map")) == []


def test_drivers_that_died_one_after_the_other_leave_the_map_of_one_that_lived(
    world: World, plain: Ground, tmp_path: Path
) -> None:
    story = killed_again_and_again(lay(world, tmp_path), tmp_path, kills=5, seed=6)
    assert story.kills.total() >= 3
    assert plain.left.complaints(str(tmp_path / "map")) == []


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_a_store_that_fails_once_at_every_point_costs_nothing_but_another_try(
    world: World, plain: Ground, committed: Ground, tmp_path: Path, engine: EngineName
) -> None:
    job, once = lay(world, tmp_path, engine=engine), tmp_path / "once"
    once.mkdir()
    rules = ",".join(f"{name}=raise" for name in points_of(engine))
    for _ in range(len(points_of(engine))):  # some failures end a run, and the next one goes on
        over = drive(tmp_path, "run", str(job), "--local", env={VARIABLE: rules, "RESMAP_FAILPOINTS_ONCE": str(once)})
        assert over.status in (0, 1), over.err
        assert "Traceback" not in over.err
        if over.status == 0:
            break
    assert {path.name for path in once.iterdir()} == set(points_of(engine))
    assert (plain if engine == "zarr" else committed).left.complaints(str(tmp_path / "map")) == []


def test_a_driver_with_a_failpoint_that_there_is_not_makes_nothing(world: World, tmp_path: Path) -> None:
    job = lay(world, tmp_path)
    over = drive(tmp_path, "run", str(job), "--local", env={VARIABLE: "no-such=kill"})
    assert over.status == 3
    assert "no-such" in over.err
    assert not (tmp_path / "map").exists()


def test_drivers_are_forked_from_a_process_that_has_one_thread(world: World, tmp_path: Path) -> None:
    # What another thread had locked at that moment would stay locked in a driver, and hold it up at its end.
    job = lay(world, tmp_path)
    with driver(tmp_path, "run", str(job), "--local", env={VARIABLE: "run-begins=stop"}) as first:
        wait_until(lambda: first.stopped, first)
        (forked_from,) = psutil.Process(first.pid).parents()[:1]
        assert forked_from.num_threads() == 1


def test_ctrl_c_twice_leaves_at_once_and_the_next_run_goes_on(world: World, plain: Ground, tmp_path: Path) -> None:
    job, mosaic = lay(world, tmp_path), tmp_path / "map"
    # A tile in hand is then not over before the second Ctrl-C comes.
    with driver(tmp_path, "run", str(job), "--local", env={**SLOW, VARIABLE: "after-put=sleep:60@6"}) as first:
        wait_until(lambda: recorded(str(mosaic)) >= 1, first)
        os.kill(first.pid, signal.SIGINT)
        wait_until(lambda: "once more to leave at once" in first.said("err"), first)
        os.kill(first.pid, signal.SIGINT)
        over = first.ended()
    assert over.status == 130
    assert "Traceback" not in over.err
    assert drive(tmp_path, "run", str(job), "--local").status == 0
    assert plain.left.complaints(str(mosaic)) == []


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_a_driver_that_slept_through_its_lease_ends_with_an_error_and_doubles_nothing(
    world: World, plain: Ground, committed: Ground, tmp_path: Path, engine: EngineName
) -> None:
    job = lay(world, tmp_path, engine=engine)
    asleep = {VARIABLE: "put-before-ledger=stop@3" if engine == "zarr" else "before-commit=stop@1"}
    with driver(tmp_path, "run", str(job), "--local", env=asleep, lease_s=LEASE_S) as first:
        wait_until(lambda: first.stopped, first)
        time.sleep(2 * LEASE_S)
        second = drive(tmp_path, "run", str(job), "--local", lease_s=LEASE_S)
        os.kill(first.pid, signal.SIGCONT)
        over = first.ended()
    assert second.status == 0, second.err
    assert over.status == 1, over.err
    assert "another" in over.err
    assert (plain if engine == "zarr" else committed).left.complaints(str(tmp_path / "map")) == []
