"""What is done to a run at length. Each gives its figures, or says what was not as promised."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from mapper.failpoints import ONCE, VARIABLE
from tests.chaos.drivers import KILLED, PATIENCE_S, drive, driver, wait_until
from tests.chaos.grounds import EngineName, Ground, lay, undisturbed
from tests.chaos.kills import killed_again_and_again, killed_at, points_of
from tests.chaos.on_ray import on_ray
from tests.stories.world import World
from tests.undisturbed import recorded

Figures: TypeAlias = dict[str, Any]
Scenario: TypeAlias = Callable[[World, Path], Figures]

TURNS = (1, 2, 5, 13)
"""At which times of coming by a driver dies."""

KILLS = 100
SLOW_ENOUGH = {"COLOUR_SLEEP_S": "0.1"}
"""So that of a hundred drivers, each of which dies soon, none comes to the end."""

ASLEEP_S = 6.0
"""Of an actor that wakes: longer than any of its tiles takes."""

IN_WORKERS = ("before-read", "after-read", "before-infer", "after-infer", "before-encode", "after-encode",
              "mid-put", "after-put", "level-put")  # fmt: skip
"""Points that a worker's process comes by, and not the driver's."""


def kills_at_every_point(world: World, folder: Path) -> Figures:
    """A driver dies at each point, the first time it comes by and later; another finishes. Both engines."""
    engines: tuple[EngineName, ...] = ("zarr", "icechunk")
    kills: dict[str, Counter[str]] = {}
    for engine in engines:
        ground = undisturbed(world, folder / f"{engine}-undisturbed", engine=engine)
        kills[engine] = Counter()
        for name, turn in itertools.product(points_of(engine), TURNS):
            here = folder / f"{engine}-{name}-{turn}"
            if killed_at(lay(world, here, engine=engine), name, turn, here):
                kills[engine][name] += 1
            _as_promised(ground, here / "map")
        assert kills[engine].keys() == set(points_of(engine)), "a point was never reached"
    return {"kills": sum(at.total() for at in kills.values()), "differing_maps": 0,
            "points": {engine: dict(at) for engine, at in kills.items()}}  # fmt: skip


def a_hundred_kills(world: World, folder: Path) -> Figures:
    """A hundred drivers in a row die at points drawn by chance; the map is that of an undisturbed run."""
    changes: dict[str, Any] = {"grid": {"shard_px": 64}, "area": {"bbox": list(world.area)}}
    ground = undisturbed(world, folder, **changes)
    here = folder / "killed"
    story = killed_again_and_again(lay(world, here, **changes), here, kills=KILLS, seed=1, env=SLOW_ENOUGH)
    assert story.kills.total() == KILLS, f"the map was whole after {story.kills.total()} kills"
    _as_promised(ground, here / "map")
    return {
        "kills": story.kills.total(),
        "drivers": story.drivers,
        "tiles": ground.left.tiles,
        "differing_maps": 0,
        "points": dict(story.kills),
        "put_again_per_kill": {"mean": round(mean(story.redone), 2), "most": max(story.redone)},
    }


def a_driver_asleep(world: World, folder: Path) -> Figures:
    """A driver is stopped past its lease, with real time; another finishes; the first wakes and ends with an error."""
    ground = undisturbed(world, folder)
    job = lay(world, folder / "asleep")
    began = time.monotonic()
    with driver(job.parent, "run", str(job), "--local", env={VARIABLE: "put-before-ledger=stop@3"}) as first:
        wait_until(lambda: first.stopped, first)
        while (second := drive(job.parent, "run", str(job), "--local")).status != 0:
            assert "is writing this mosaic now" in second.err, second.err
            assert time.monotonic() - began < 2 * PATIENCE_S, "the lease of a driver asleep is never over"
            time.sleep(5)
        taken_s = time.monotonic() - began
        os.kill(first.pid, signal.SIGCONT)
        over = first.ended()
    assert over.status == 1, f"the one that slept ended with {over.status}: {over.err}"
    _as_promised(ground, job.parent / "map")
    return {"taken_over_after_s": round(taken_s, 1), "differing_maps": 0, "said": over.err.splitlines()[-2:]}


def workers_killed(world: World, folder: Path) -> Figures:
    """On Ray: actors die at each of their points, each once, and are replaced; a run that loses too many ends and is
    taken up again."""
    ground = undisturbed(world, folder)
    job, once = lay(world, folder / "killed"), folder / "once"
    once.mkdir()
    rules = {VARIABLE: ",".join(f"{name}=kill" for name in IN_WORKERS), ONCE: str(once)}
    said = []
    for _ in IN_WORKERS:
        with on_ray(job, "--retry", env=rules) as run:
            over = run.driver.ended(4 * PATIENCE_S)
        said.append(over.status)
        assert over.status in (0, 1, 4), over.err
        assert "Traceback" not in over.err, over.err
        if over.status == 0:
            break
    died = sorted(path.name for path in once.iterdir())
    assert died == sorted(IN_WORKERS), f"nobody died at {sorted(set(IN_WORKERS) - set(died))}: {said}"
    _as_promised(ground, job.parent / "map", retried=4 in said or 1 in said)
    return {"kills": len(died), "points": died, "sittings": len(said), "statuses": said, "differing_maps": 0}


def processes_killed(world: World, folder: Path) -> Figures:
    """On Ray: one actor, one reader, the driver, each killed with SIGKILL in the middle of a run."""
    ground = undisturbed(world, folder)
    done: Figures = {}
    changes: dict[str, dict[str, Any]] = {"ray::GpuActor": {}, "ray::ReaderActor": {"compute": {"readers": 2}}}
    for title, changed in changes.items():
        job = lay(world, folder / title.rpartition(":")[2], **changed)
        with on_ray(job) as run:
            wait_until(lambda: recorded(str(job.parent / "map")) >= 1, run.driver)  # noqa: B023  # used up in this turn
            run.one(title).kill()
            over = run.driver.ended()
        assert over.status == 0, over.err
        _as_promised(ground, job.parent / "map")
        done[title] = "the run went on"
    job = lay(world, folder / "driver")
    with on_ray(job) as run:
        wait_until(lambda: recorded(str(job.parent / "map")) >= 1, run.driver)
        run.one("ray::GpuActor")
        os.kill(run.driver.pid, signal.SIGKILL)
        assert run.driver.ended().status == KILLED
        deadline = time.monotonic() + PATIENCE_S
        while run.left() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not run.left(), f"a dead driver leaves {run.left()}"
    over = drive(folder, "run", str(job), "--local")
    assert over.status == 0, over.err
    _as_promised(ground, job.parent / "map")
    done["driver"] = "the next driver went on; nothing of the first was left"
    return {"kills": len(done), "differing_maps": 0, "became": done}


def a_worker_asleep(world: World, folder: Path) -> Figures:
    """On Ray: an actor is stopped in the middle of a run and never wakes; another wakes late. The run goes on."""
    ground = undisturbed(world, folder)
    ended_s = {}
    for name, wakes in (("never", False), ("late", True)):
        job = lay(world, folder / name)
        with on_ray(job) as run:
            wait_until(lambda: recorded(str(job.parent / "map")) >= 1, run.driver)  # noqa: B023  # used up in this turn
            sleeper, began = run.one("ray::GpuActor"), time.monotonic()
            sleeper.suspend()
            if wakes:
                time.sleep(ASLEEP_S)
                sleeper.resume()
            over = run.driver.ended(4 * PATIENCE_S)
            ended_s[name] = round(time.monotonic() - began, 1)
        assert over.status == 0, over.err
        _as_promised(ground, job.parent / "map")
    return {"kills": 2, "ended_s_after": ended_s, "differing_maps": 0}


def a_node_lost(world: World, folder: Path) -> Figures:
    """On Ray: of a cluster of three nodes one raylet is killed with SIGKILL; the run goes on with what is left."""
    from ray.cluster_utils import Cluster

    ground = undisturbed(world, folder)
    job = lay(world, folder / "killed")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        with on_ray(job, "--address", cluster.address, "--insecure-ray") as run:
            wait_until(lambda: recorded(str(job.parent / "map")) >= 1, run.driver)
            began = time.monotonic()
            for raylet in nodes[0].all_processes["raylet"]:
                os.kill(raylet.process.pid, signal.SIGKILL)
            over = run.driver.ended(4 * PATIENCE_S)
            ended_s = time.monotonic() - began
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray's
    assert over.status == 0, over.err
    _as_promised(ground, job.parent / "map")
    return {"nodes": 3, "kills": 1, "ended_s_after": round(ended_s, 1), "differing_maps": 0}


SCENARIOS: Mapping[str, Scenario] = {
    "kills_at_every_point": kills_at_every_point,
    "a_hundred_kills": a_hundred_kills,
    "a_driver_asleep": a_driver_asleep,
    "workers_killed": workers_killed,
    "processes_killed": processes_killed,
    "a_worker_asleep": a_worker_asleep,
    "a_node_lost": a_node_lost,
}


def _as_promised(ground: Ground, mosaic: Path, *, retried: bool = False) -> None:
    found = ground.left.complaints(str(mosaic))
    if retried:  # a tile that was given up and taken again has two rows, as it should
        found = [one for one in found if "in the books" not in one]
    assert found == [], f"{mosaic.parent.name}: {found[:5]}"
