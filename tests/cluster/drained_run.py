"""``python -m tests.cluster.drained_run ADDRESS FOLDER``: a run in a process of its own, whose machines may leave.

What is tried is written to a file, a line a try: began or over, tile, worker's pid. No worker ends a tile before it may
(``let_go``). Ends with one JSON document.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from cluster import outcomes
from cluster.ray_pool import RayPool
from mapper.map_tile import Setup, TileMapper, TileResult, TileTask, TileView
from tests.cluster.nodes import until
from tests.cluster.tiles import world


class Noted(TileMapper):
    """Notes what it begins and ends, and waits in between until it may go on."""

    def read(self, task: TileTask) -> TileView:
        _note(self._setup, "began", task)
        until(Path(f"{self._setup.mosaic}.go-{os.getpid()}").exists)
        return super().read(task)

    def write(self, task: TileTask, *seen: Any) -> TileResult:
        result = super().write(task, *seen)
        _note(self._setup, "over", task)
        return result


def load_noted(setup: Setup) -> TileMapper:
    """A tile mapper that notes what it does."""
    return Noted.load(setup)


def tries(folder: Path) -> list[tuple[str, int, int]]:
    """What was noted: began or over, tile, pid."""
    file = next(folder.glob("*.tries"), None)
    lines = file.read_text().splitlines() if file is not None else []
    return [(what, int(tile), int(pid)) for what, tile, pid in (line.split() for line in lines)]


def let_go(folder: Path, pid: int) -> None:
    """Let a worker of the run in this folder end its tiles."""
    (mosaic,) = folder.glob("*.zarr")
    Path(f"{mosaic}.go-{pid}").touch()


def main(address: str, folder: Path) -> None:
    """Map a small world with two workers to its end; says who they are before it begins."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    mapped = world(folder)
    pool = RayPool(mapped.setup, workers=2, address=address, load=load_noted)
    try:
        until(lambda: pool.finished(0.1) or len(pool.workers()) == 2)
        print(json.dumps([facts.pid for facts in pool.facts()]), flush=True)
        found = list(outcomes(pool, mapped.tasks))
    finally:
        pool.close()
    print(
        json.dumps(
            {
                "tiles": sorted(one.task.id for one in found),
                "attempts": sorted(one.attempts for one in found),
                "errors": [str(one.error) for one in found if one.error is not None],
                "scores": hashlib.sha256(mapped.scores().tobytes()).hexdigest(),
            }
        ),
        flush=True,
    )


def _note(setup: Setup, what: str, task: TileTask) -> None:
    with Path(f"{setup.mosaic}.tries").open("a") as file:
        file.write(f"{what} {task.id} {os.getpid()}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
