"""How fast a run follows its cluster: one GPU, two more nodes join, and they leave again, while tiles are mapped.

::

    python -m benchmarks.bench_elastic                       four minutes
    python -m benchmarks.bench_elastic --steady-s 10 --out /tmp/elastic.json

The nodes are real ones of Ray on this machine, as ``ray start`` makes them, with a GPU each that is a logical one: a
tile takes a fixed time (``--tile-s``), one at a time on a GPU, in which it holds no core. All else is real: the plan,
the loop, dispatch and Ray pool of a run, its books and its ledger on the local disk.

Reported: tiles in each second; from Ray's having the new nodes, and from the word that they go, until as many tiles are
mapped in a second as the GPUs that are left can do, within a tenth, over the next five seconds; and how many tiles were
begun more than once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.many_tiles import StandIn, prepared_for, setup
from benchmarks.record import circumstances, record
from mapper.errors import HandedBackError
from mapper.map_tile import Result, Task
from mapper.pyramid import LevelTask
from tests.cluster.nodes import Nodes, nodes

TILES = 20_000
"""More than there is time for."""

JOIN = ("left", "right")
OVER_S = 5.0
"""Throughput is looked at over so long."""

NEAR = 0.1
NOTICE_S = 60.0
"""How long before they go it is said of the nodes that leave."""


class Noted(StandIn):
    """A stand-in that notes each tile it begins in a file."""

    def __init__(self, name: str, *rest: Any, tile_s: float, log: str) -> None:
        super().__init__(name, *rest, tile_s=tile_s)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run(self, task: Task) -> Result:
        """As a stand-in does."""
        if not isinstance(task, LevelTask):
            os.write(self._log, f"{task.id}\n".encode())
        return super().run(task)


def main() -> None:
    """Measure, or be the driver for ``--one``."""
    asked = _arguments()
    if asked.one:
        print(json.dumps(_one(json.loads(asked.one))))
        return
    with nodes(gpus=1) as ray:
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        work = {"folder": str(ray.folder), "address": ray.address, "tile_s": asked.tile_s, "steady_s": asked.steady_s}
        words = [sys.executable, "-m", "benchmarks.bench_elastic", "--one", json.dumps(work)]
        done = subprocess.run(
            words, env=ray.environment | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print({name: value for name, value in figures.items() if name != "tiles_each_second"})
    if asked.out:
        asked.out.write_text(json.dumps({"made_with": circumstances(), **figures}, indent=2) + "\n", encoding="utf-8")
    else:
        print(record("elastic", figures))


def _arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    words.add_argument("--tile-s", type=float, default=0.25, help="seconds a tile takes on a GPU")
    words.add_argument("--steady-s", type=float, default=30.0, help="between two changes")
    words.add_argument("--out", type=Path, help="write here, not to results/")
    words.add_argument("--one", help=argparse.SUPPRESS)
    return words.parse_args()


class Script:
    """Has nodes join and leave while a run goes on, and knows when."""

    def __init__(self, ray: Nodes, steady_s: float) -> None:
        self._ray, self._steady_s = ray, steady_s
        self.began = time.monotonic()
        self.at: dict[str, float] = {}
        """What happened → seconds after the beginning."""

        self.over = False
        threading.Thread(target=self._go, name="script", daemon=True).start()

    def _go(self) -> None:
        import ray

        from cluster.drain import drain

        time.sleep(self._steady_s)
        self._note("asked_for")
        threads = ThreadPoolExecutor(len(JOIN))
        joining = [threads.submit(self._ray.join, name) for name in JOIN]
        found: Mapping[str, str] = {}
        while len(found) < len(JOIN):
            time.sleep(0.1)
            found = {
                name: node["NodeID"]
                for node in ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
                for name in JOIN
                if node["Alive"] and name in node["Resources"]
            }
        self._note("joined")  # as Ray has it: the command that joins them returns later
        for command in joining:
            command.result()
        time.sleep(self._steady_s)
        self._note("told_to_leave")
        for node in found.values():
            drain(within_s=NOTICE_S, node=node, address=self._ray.address)
        time.sleep(self._steady_s)
        self._note("ended")
        self.over = True

    def _note(self, what: str) -> None:
        self.at[what] = time.monotonic() - self.began


def _one(work: dict[str, Any]) -> dict[str, Any]:
    from cluster import Finished, outcomes
    from cluster.ray_pool import RayPool
    from jobs.books import Books, Tally
    from jobs.standing import standing
    from jobs.watch import Silent

    handed_back: list[str] = []

    class Watched(RayPool):
        def finished(self, timeout_s: float) -> list[Finished]:
            over = super().finished(timeout_s)
            handed_back.extend(one.worker for one in over if isinstance(one.result, HandedBackError))
            return over

    with tempfile.TemporaryDirectory() as folder:
        prepared, mosaic = prepared_for(Path(folder), TILES)
        log = f"{folder}/begun"
        ray = Nodes(Path(work["folder"]), work["address"], dict(os.environ))
        worker = partial(Noted, tile_s=work["tile_s"], log=log)
        pool = Watched(setup(prepared), workers=None, address=ray.address, worker=worker)
        script = Script(ray, work["steady_s"])
        ended: list[tuple[float, str]] = []
        try:
            todo = standing(prepared, mosaic, retry=False)
            books = Books(prepared, mosaic, todo, Tally(), Silent())
            tasks = prepared.plan.tasks(todo.wanted, written_sources=frozenset())
            for outcome in outcomes(pool, tasks, more=books.more, stopped=lambda: script.over):
                books.enter(outcome)
                if not isinstance(outcome.task, LevelTask):
                    ended.append((time.monotonic() - script.began, outcome.worker))
            books.close()
        finally:
            pool.close()
            ray.stop()
        begun = Counter(Path(log).read_text(encoding="utf-8").split())
    return _figures(ended, script.at, work["tile_s"]) | {
        "handed_back": len(handed_back),
        "begun_more_than_once": sum(count - 1 for count in begun.values()),
        "begun_and_never_over": len(begun) - len(ended),
    }


def _figures(ended: Sequence[tuple[float, str]], at: Mapping[str, float], tile_s: float) -> dict[str, Any]:
    times = [moment for moment, _ in ended]
    workers = {worker for _, worker in ended}
    first = next(iter(sorted(workers, key=lambda name: int(name.rpartition("-")[2]))))
    last_of_others = max((moment for moment, worker in ended if worker != first), default=0.0)
    seconds = Counter(int(moment) for moment in times)
    three, one = (1 + len(JOIN)) / tile_s, 1 / tile_s
    return {
        "tile_s": tile_s,
        "tiles": len(times),
        "workers": sorted(workers),
        "at_s": {what: round(moment, 2) for what, moment in at.items()},
        "tiles_a_second": {
            "one_gpu": _rate(times, 2.0, at["asked_for"]),
            "three_gpus": _rate(times, at["joined"] + 10.0, at["told_to_leave"]),
            "one_gpu_again": _rate(times, at["told_to_leave"] + 10.0, at["ended"]),
        },
        "follows_joining_s": _followed(
            times, at["joined"], at["told_to_leave"], lambda rate: rate >= three * (1 - NEAR)
        ),
        "follows_leaving_s": _followed(times, at["told_to_leave"], at["ended"], lambda rate: rate <= one * (1 + NEAR)),
        "last_tile_of_those_that_left_s": round(last_of_others - at["told_to_leave"], 2),
        "tiles_each_second": [seconds[second] for second in range(int(at["ended"]))],
    }


def _rate(times: Sequence[float], begin: float, end: float) -> float:
    return round(sum(begin <= moment < end for moment in times) / (end - begin), 2)


def _followed(times: Sequence[float], begin: float, end: float, enough: Callable[[float], bool]) -> float | None:
    """Seconds from the beginning until the next ``OVER_S`` have as many tiles as they should; None if never."""
    moment = begin
    while moment + OVER_S <= end:
        if enough(_rate(times, moment, moment + OVER_S)):
            return round(moment - begin, 2)
        moment += 0.1
    return None


if __name__ == "__main__":
    main()
