"""A cluster of one GPU grows to three and shrinks to one while it maps: each tile once, and the map of one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.stand_in import write_weights
from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from tests.cluster.nodes import nodes, until
from tests.stories.world import World, layers

ROOT = Path(__file__).parents[2]
PLUGINS = str(ROOT / "benchmarks" / "plugins")
ENDS_S = 300.0


def wait_for(run: subprocess.Popen[bytes], true: Callable[[], object]) -> None:
    """Until something is true of a run that goes on."""

    def come() -> object:
        assert run.poll() is None, "the run was over before"
        return true()

    until(come, ENDS_S)


def names_in(mosaic: Path) -> list[str]:
    """The workers that its run knows of."""
    names = run_names(str(mosaic)) if mosaic.is_dir() else []
    facts: dict[str, Any] = RunFolder(str(mosaic), names[0]).facts() if names else {}
    return [worker["name"] for worker in facts.get("workers", ())]


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_gpus_that_join_and_leave_change_how_fast_a_map_is_made_and_nothing_else(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([PLUGINS, str(ROOT), os.environ.get("PYTHONPATH", "")]))
    weights = write_weights(tmp_path / "model.json", windows_per_s=0.5, log=tmp_path / "device.log")

    def job(mosaic: Path) -> dict[str, Any]:
        return world.job(
            mosaic,
            grid={"shard_px": 64, "chunk_px": 64},
            model={"name": "stand-in", "weights": str(weights)},
            compute={"readers": 0},
        )

    grown, alone, file = tmp_path / "grown.zarr", tmp_path / "alone.zarr", tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job(grown)))
    log = tmp_path / "run.log"
    with nodes(gpus=1) as ray, log.open("wb") as said:
        words = [str(Path(sys.executable).with_name("resmap")), "run", str(file), "--address", ray.address]
        with subprocess.Popen(words, env=ray.environment, stdout=said, stderr=said) as run:
            try:
                wait_for(run, lambda: len(names_in(grown)) == 1)
                joined = [ray.join(name) for name in ("left", "right")]
                wait_for(run, lambda: len(names_in(grown)) == 3)
                time.sleep(3.0)  # so that they have tiles in hand; whether they have is nothing the test rests on
                for node in joined:
                    node.terminate()  # Ray drains it, and ends it after
                for node in joined:
                    node.wait(ENDS_S)
                assert run.wait(ENDS_S) == 0, log.read_text()
            finally:
                run.kill()
    write_weights(weights, windows_per_s=1000.0, log=tmp_path / "device.log")
    assert Job.from_dict(job(alone)).run(local=True).wait(timeout_s=150).state == "done"
    folder = RunFolder(str(grown), *run_names(str(grown)))
    entries = Counter(entry.tile for entry in folder.entries())
    assert set(entries.values()) == {1}
    assert len(entries) == folder.facts()["planned"]
    assert names_in(grown) == ["gpu-0", "gpu-1", "gpu-2"]
    for level in (0, 1):
        one, other = layers(grown, level=level), layers(alone, level=level)
        for name in ("mask", "score", "source"):
            np.testing.assert_array_equal(one[name], other[name])
