"""Two drivers on one mosaic: of one job, the second follows the first; of another, it is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.ledger import Entry, RunFolder
from jobs.verify import verify
from tests.stories.world import World, layers, mapped

PATIENCE_S = 90.0
SLOW = {"COLOUR_SLEEP_S": "0.15"}
"""A run then puts several parts of its ledger."""

HALFWAY = SLOW | {"RESMAP_FAILPOINTS": "before-ledger-part=stop@2"}
"""It stops after the first of them until it is told to go on: whoever else comes meets it in the middle."""


@contextmanager
def driver(job: Path, env: Mapping[str, str] = SLOW) -> Iterator[subprocess.Popen[str]]:
    """``resmap run --local`` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", "--local", "--json", str(job)],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def entries(mosaic: Path) -> list[Entry]:
    runs = [path.parent.name for path in mosaic.glob(".resmap/runs/*/run.json")]
    return [entry for run in runs for entry in RunFolder(str(mosaic), run).entries()]


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert process.poll() is None, f"the driver ended too soon: {process.communicate()[1][-2000:]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def heard(process: subprocess.Popen[str], words: str) -> str:
    """Read what a process says until it has said this."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, f"it ended without saying so: {said}"
        said += line
    return said


@pytest.fixture
def job(world: World, tmp_path: Path) -> dict[str, Any]:
    return world.job(tmp_path / "map.zarr", area=World.rectangle(100, 60, 350, 350))


@pytest.fixture
def file(job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_a_second_driver_follows_the_first_and_ends_as_it_does(file: Path, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    with driver(file, HALFWAY) as first:
        wait_until(lambda: len(entries(mosaic)) >= 1, first)
        with driver(file) as second:
            said = heard(second, "following it")
            assert f"process {first.pid} on" in said
            first.send_signal(signal.SIGCONT)
            told = second.communicate(timeout=PATIENCE_S)[0]
        out = first.communicate(timeout=PATIENCE_S)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(told) == json.loads(out)
    assert set(Counter(entry.tile for entry in entries(mosaic)).values()) == {1}


def test_a_second_driver_takes_over_when_the_first_dies(
    file: Path, job: dict[str, Any], world: World, tmp_path: Path
) -> None:
    mosaic = tmp_path / "map.zarr"
    with driver(file, HALFWAY) as first:
        wait_until(lambda: len(entries(mosaic)) >= 1, first)
        with driver(file) as second:
            heard(second, "following it")
            first.send_signal(signal.SIGKILL)
            out, err = second.communicate(timeout=PATIENCE_S)
    assert "taking over" in err
    summary = json.loads(out)
    assert (second.returncode, summary["state"]) == (0, "done")
    assert 0 < summary["worked_tiles"] < summary["tiles"]["planned"]
    assert verify(str(mosaic), full=True).bad == ()
    mapped({**job, "output": {"mosaic": str(tmp_path / "alone.zarr")}})
    assert layers(mosaic).equals(layers(tmp_path / "alone.zarr"))


def test_a_follower_that_is_interrupted_leaves_and_the_run_goes_on(file: Path, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    with driver(file, HALFWAY) as first:
        wait_until(lambda: len(entries(mosaic)) >= 1, first)
        with driver(file) as second:
            heard(second, "following it")
            second.send_signal(signal.SIGINT)
            out, err = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 130
        assert "goes on" in json.loads(out)["stopped"]
        assert first.poll() is None, err
        first.send_signal(signal.SIGCONT)
        assert json.loads(first.communicate(timeout=PATIENCE_S)[0])["state"] == "done"


@pytest.mark.parametrize(
    ("changes", "status", "names"),
    [
        ({"prompts": [{"name": "cold", "expression": "what is blue"}]}, 1, "is writing this mosaic now"),
        ({"windows": {"overlap_px": 16}}, 3, "made by another job"),
    ],
    ids=["another sentence", "another map"],
)
def test_a_driver_of_another_job_is_refused(
    world: World, file: Path, job: dict[str, Any], tmp_path: Path, changes: dict[str, Any], status: int, names: str
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**job, **changes}))
    with driver(file, HALFWAY) as first:
        wait_until(lambda: len(entries(tmp_path / "map.zarr")) >= 1, first)
        with driver(other) as second:
            _, err = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == status, err
        assert names in err
        assert "do:" in err
        first.send_signal(signal.SIGCONT)
        assert json.loads(first.communicate(timeout=PATIENCE_S)[0])["state"] == "done"
