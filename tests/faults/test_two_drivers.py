"""Two drivers on one mosaic: of one job, the second follows the first; of another, it is refused."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.ledger import RunFolder, run_names
from jobs.verify import verify
from tests.chaos.drivers import Driver, driver, wait_until
from tests.stories.world import World, layers, mapped
from tests.undisturbed import recorded

SLOW = {"COLOUR_SLEEP_S": "0.15"}
"""A run then puts several parts of its ledger."""

HALFWAY = SLOW | {"RESMAP_FAILPOINTS": "before-ledger-part=stop@2"}
"""It stops after the first of them until it is told to go on: whoever else comes meets it in the middle."""


@contextmanager
def driver_of(job: Path, env: Mapping[str, str] = SLOW) -> Iterator[Driver]:
    """``resmap run --local`` in a process of its own."""
    with driver(job.parent, "run", "--local", "--json", str(job), env=env) as under_way:
        yield under_way


@contextmanager
def stopped_halfway(job: Path) -> Iterator[Driver]:
    """A driver that has recorded some of its tiles, and goes on with the rest when it is told to."""
    with driver_of(job, HALFWAY) as first:
        wait_until(lambda: first.stopped, first)
        assert recorded(str(job.with_name("map.zarr"))) >= 1
        yield first


def ends_well(first: Driver) -> str:
    """What a driver that goes on says when it is over."""
    os.kill(first.pid, signal.SIGCONT)
    over = first.ended()
    assert over.status == 0, over.err
    assert json.loads(over.out)["state"] == "done"
    return over.out


def hear(process: Driver, words: str) -> str:
    """What a driver has said, as soon as it has said this."""
    wait_until(lambda: words in process.said("err"), process)
    return process.said("err")


@pytest.fixture
def job(world: World, tmp_path: Path) -> dict[str, Any]:
    return world.job(tmp_path / "map.zarr", area=World.rectangle(100, 60, 350, 350))


@pytest.fixture
def file(job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_a_second_driver_follows_the_first_and_ends_as_it_does(file: Path, tmp_path: Path) -> None:
    with stopped_halfway(file) as first, driver_of(file) as second:
        assert f"process {first.pid} on" in hear(second, "following it")
        said = ends_well(first)
        over = second.ended()
    assert over.status == 0, over.err
    assert json.loads(over.out) == json.loads(said)
    mosaic = str(tmp_path / "map.zarr")
    times = Counter(entry.tile for run in run_names(mosaic) for entry in RunFolder(mosaic, run).entries())
    assert set(times.values()) == {1}


def test_a_second_driver_takes_over_when_the_first_dies(
    file: Path, job: dict[str, Any], world: World, tmp_path: Path
) -> None:
    mosaic = tmp_path / "map.zarr"
    with stopped_halfway(file) as first, driver_of(file) as second:
        hear(second, "following it")
        os.kill(first.pid, signal.SIGKILL)
        over = second.ended()
    assert "taking over" in over.err
    summary = json.loads(over.out)
    assert (over.status, summary["state"]) == (0, "done")
    assert 0 < summary["worked_tiles"] < summary["tiles"]["planned"]
    assert verify(str(mosaic), full=True).bad == ()
    mapped({**job, "output": {"mosaic": str(tmp_path / "alone.zarr")}})
    assert layers(mosaic).equals(layers(tmp_path / "alone.zarr"))


def test_a_follower_that_is_interrupted_leaves_and_the_run_goes_on(file: Path) -> None:
    with stopped_halfway(file) as first:
        with driver_of(file) as second:
            hear(second, "following it")
            os.kill(second.pid, signal.SIGINT)
            over = second.ended()
        assert over.status == 130, over.err
        assert "goes on" in json.loads(over.out)["stopped"]
        assert first.alive
        ends_well(first)


def test_a_driver_of_another_job_is_refused(file: Path, job: dict[str, Any], tmp_path: Path) -> None:
    others: list[tuple[dict[str, Any], int, str]] = [
        ({"prompts": [{"name": "cold", "expression": "what is blue"}]}, 1, "is writing this mosaic now"),
        ({"windows": {"overlap_px": 16}}, 3, "made by another job"),
    ]
    with stopped_halfway(file) as first:
        for changes, status, said in others:
            other = tmp_path / "other.yaml"
            other.write_text(yaml.safe_dump({**job, **changes}))
            with driver_of(other) as second:
                over = second.ended()
            assert over.status == status, over.err
            assert said in over.err
            assert "do:" in over.err
        ends_well(first)
