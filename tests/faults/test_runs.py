"""Whole runs against a store that fails them: the same map, bit for bit, and each tile once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import pytest

from cluster.retries import BUDGETS, Budget
from jobs.job import Job
from jobs.ledger import RunFolder, run_names
from jobs.run import start
from jobs.verify import verify
from mapper.errors import Cause
from mapper.mosaic import Mosaic
from mapper.storage import EngineName
from tests.faults.buckets import Broken
from tests.faults.proxy import KINDS, Fault, Kind, broken, some_of_all
from tests.faults.radosgw import installed, radosgw
from tests.stories.command_line import Resmap
from tests.stories.test_resume import write_job
from tests.stories.world import World, mapped

PASSING: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "expired")
ENGINES: tuple[EngineName, ...] = ("zarr", "icechunk")


def job_of(world: World, mosaic: Path | str, engine: EngineName, **changes: Any) -> dict[str, Any]:
    """A dozen tiles of the small world, over three of its items."""
    part = World.rectangle(90, 90, 460, 380)
    return world.job(mosaic, area=part, output={"engine": engine, "commit_shards": 4}, **changes)


def content(url: str | Path) -> dict[str, Any]:
    """Every layer of every level, by its path."""
    opened = Mosaic.open(str(url), writable=False)
    return {
        f"{level.path}/{name}": opened.layer(level, name, level.box, time=time)
        for grid in opened.grids
        for level in grid.pyramid()
        for name in ("mask", "score", "source")
        for time in range(len(opened.times))
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def each_once(mosaic: str) -> bool:
    """Whether the ledger has every planned tile, and each as done once."""
    (run,) = run_names(mosaic)
    folder = RunFolder(mosaic, run)
    entered = Counter(entry.tile for entry in folder.entries() if entry.state in ("done", "nodata"))
    return entered == Counter(range(len(folder.tiles())))


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    mosaic = tmp_path_factory.mktemp("undisturbed") / "map"
    mapped(job_of(world, mosaic, "zarr"))
    return content(mosaic)


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_a_run_with_a_fifth_of_all_requests_failing_and_an_outage_leaves_the_same_map(
    world: World, undisturbed: dict[str, Any], faulty: Broken, tmp_path: Path, engine: EngineName
) -> None:
    mosaic = f"{faulty.bucket}{tmp_path}/map"
    faulty.proxy.breaks(*some_of_all(0.2, PASSING))
    outage = faulty.proxy.outage_of(2.0, after=80)  # the lease is taken by then: a run that cannot begin says so
    summary = mapped(job_of(world, mosaic, engine))
    outage.join(60)
    broken = Counter(kind for kind, _, _ in faulty.proxy.done)
    assert set(PASSING) | {"away"} <= set(broken)
    assert sum(broken.values()) > 0.15 * len(faulty.proxy.asked)
    faulty.proxy.breaks()
    assert summary.state == "done"
    assert each_once(mosaic)
    assert verify(mosaic, full=True).bad == ()
    assert same(content(mosaic), undisturbed)


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_puts_whose_answers_are_lost_are_neither_lost_nor_doubled(
    world: World, undisturbed: dict[str, Any], faulty: Broken, tmp_path: Path, engine: EngineName
) -> None:
    mosaic = f"{faulty.bucket}{tmp_path}/map"
    faulty.proxy.breaks(Fault("lost", "PUT", chance=0.4))
    assert mapped(job_of(world, mosaic, engine)).state == "done"
    assert faulty.proxy.count("lost", method="PUT") > 10
    faulty.proxy.breaks()
    assert each_once(mosaic)
    assert same(content(mosaic), undisturbed)


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_credentials_that_expire_midway_end_the_run_with_status_5_and_it_goes_on_with_new_ones(
    world: World,
    undisturbed: dict[str, Any],
    faulty: Broken,
    tmp_path: Path,
    resmap: Resmap,
    monkeypatch: pytest.MonkeyPatch,
    engine: EngineName,
) -> None:
    quick = replace(BUDGETS["credentials"], waits=0.1)  # as many tries, a quarter of a second of them instead of ten
    monkeypatch.setitem(cast("dict[Cause, Budget]", BUDGETS), "credentials", quick)
    mosaic = f"{faulty.bucket}{tmp_path}/map"
    job = write_job(tmp_path, job_of(world, mosaic, engine))
    shards = "/[0-9]/.*/c/" if engine == "zarr" else "/chunks/"
    faulty.proxy.breaks(Fault("expired", "PUT", shards, first=24))
    said = resmap("run", "--local", job)
    assert said.status == 5
    assert said.complaint
    assert "credentials" in said.remedy
    faulty.proxy.breaks()
    summary = start(Job.from_file(job), local=True).wait(timeout_s=150)
    assert summary.state == "done"
    assert 0 < summary.worked_tiles < summary.tiles["planned"]
    assert same(content(mosaic), undisturbed)


# Long: a server that checks signatures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ceph() -> Iterator[str]:
    if not installed():
        pytest.skip("needs root and Ceph: apt-get install radosgw ceph-mon ceph-mgr ceph-osd ceph-common")
    with radosgw() as url:
        yield url


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chance", [0.05, 0.2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_against_ceph_outlasts_errors_and_an_outage_of_two_minutes(
    world: World,
    undisturbed: dict[str, Any],
    ceph: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: EngineName,
    chance: float,
) -> None:
    mosaic = f"s3://maps{tmp_path}/map"
    with broken(ceph, *some_of_all(chance, PASSING)) as proxy:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": proxy.url})
        outage = proxy.outage_of(120.0, after=60)
        summary = Job.from_dict(job_of(world, mosaic, engine)).run(local=True).wait(timeout_s=800)
        outage.join(200)
        assert proxy.count("away") > 0
        proxy.breaks()
        assert summary.state == "done"
        assert each_once(mosaic)
        assert verify(mosaic, full=True).bad == ()
        assert same(content(mosaic), undisturbed)
