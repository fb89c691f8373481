"""A tick that is killed anywhere and taken up again leaves the mosaic that it would have left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.monitors.mapped import MappedItems
from jobs.renewal import runs_in_turn
from jobs.run import start
from mapper.failpoints import VARIABLE
from mapper.mosaic import Mosaic
from tests.jobs.monitors.scenes import Ground, Scene, same, shown

WEST = Scene(id="west", top=0, left=0, rows=130, columns=110, moment="2024-06-03T10:00:00Z")
EAST = Scene(id="east", top=40, left=90, rows=150, columns=100, moment="2024-06-03T10:00:20Z")
EARLIER = Scene(id="earlier", top=10, left=60, rows=60, columns=60, moment="2024-05-02T10:00:00Z")
GONE = Scene(id="gone", top=70, left=0, rows=60, columns=60, moment="2024-06-03T10:00:40Z")

BEFORE = (WEST, GONE)
AFTER = (replace(WEST, version=2, columns=60), EAST, EARLIER)
"""One is replaced, one gone, one new, and one brings a step from before all others."""

EVERYWHERE = (
    "lease-taken", "plan-half-saved", "before-run-json", "after-run-json", "before-read", "after-read",
    "after-infer", "before-encode", "after-encode", "mid-put", "level-put", "put-before-ledger",
    "before-ledger-part", "file-drafted", "after-ledger",
)  # fmt: skip
IN_COMMITS = ("before-commit", "mid-commit", "commit-before-answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A mosaic whose catalog has changed, and what it should become."""

    mosaic: Path
    copy: Path
    """Of the mosaic as it was before the tick, with all that lies beside it."""

    told: Path
    finished: dict[tuple[str, str, str], Any]

    def tick(self, **environment: str) -> int:
        """The tick, in a process of its own; its exit status."""
        command = [sys.executable, "-m", "tests.jobs.monitors.one_tick", str(self.told)]
        over = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=100, check=False)
        assert over.returncode in (0, -signal.SIGKILL), over.stderr.decode()[-2000:]
        return over.returncode

    def restore(self) -> None:
        """As it was before the tick."""
        shutil.rmtree(self.mosaic.parent)
        shutil.copytree(self.copy, self.mosaic.parent)


@pytest.fixture(scope="module", params=["zarr", "icechunk"])
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder = tmp_path_factory.mktemp("kills")
    ground = Ground(folder)
    output = {"engine": request.param, "commit_shards": 3}
    job = ground.job(folder / "here" / "map", BEFORE, output=output)
    start(job, local=True).wait(timeout_s=100)
    shutil.copytree(folder / "here", folder / "before")
    whole = ground.job(folder / "whole" / "map", AFTER, output=output)
    start(whole, local=True).wait(timeout_s=100)
    news = ground.news(
        MappedItems(job.spec.output.mosaic), {one.key: one for one in AFTER}, {one.key: one for one in BEFORE}
    )
    told = folder / "news.json"
    said = {"job": job.spec.model_dump(mode="json", by_alias=True), "due": "2024-09-01T06:00:00+00:00",
            "new": news.new, "changed": news.changed, "gone": news.gone}  # fmt: skip
    told.write_text(json.dumps(said))
    return Begun(
        mosaic=folder / "here" / "map", copy=folder / "before", told=told, finished=shown(folder / "whole" / "map")
    )


@pytest.mark.chaos
@pytest.mark.parametrize("point", [*EVERYWHERE, *IN_COMMITS])
def test_wherever_a_tick_is_killed_taken_up_again_it_leaves_the_same_mosaic(begun: Begun, point: str) -> None:
    if point in IN_COMMITS and not (begun.mosaic.parent / "map" / "repo").exists():
        pytest.skip("a Zarr tree has no commits")
    begun.restore()
    assert begun.tick(**{VARIABLE: f"{point}=kill@1"}) == -signal.SIGKILL
    assert begun.tick() == 0
    assert same(shown(begun.mosaic), begun.finished)
    times = Mosaic.open(str(begun.mosaic), writable=False).times
    assert len(times) == len(set(times)) == 2
    last = runs_in_turn(str(begun.mosaic))[-1]
    assert last.turn == 1
    assert Counter(entry.tile for entry in last.folder.entries()) == Counter(range(len(last.folder.tiles())))
