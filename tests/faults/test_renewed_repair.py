"""What is damaged in a mosaic that a monitor keeps is mapped again by the run that speaks for it, from its items."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from jobs.growth import renewed
from jobs.job import Job
from jobs.ledger import RunFolder
from jobs.monitors.mapped import MappedItems
from jobs.renewal import runs_in_turn
from jobs.run import start
from jobs.speaking import Axes, columns_of, voices
from jobs.verify import verify
from mapper.mosaic import Mosaic
from tests.faults.parts import spoil
from tests.jobs.monitors.scenes import Ground, Scene

DUE = datetime(2024, 9, 1, 6, tzinfo=UTC)
WEST = Scene(id="west", top=0, left=0, rows=190, columns=150, moment="2024-06-03T10:00:00Z")
EAST = Scene(id="east", top=20, left=90, rows=60, columns=100, moment="2024-06-03T10:00:20Z")
EARLIER = Scene(id="earlier", top=10, left=60, rows=100, columns=60, moment="2024-05-02T10:00:00Z")
LATER = replace(EARLIER, id="later", moment="2024-07-02T10:00:00Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A mosaic, its job, and what renewed it."""

    mosaic: Path
    job: Job

    @property
    def runs(self) -> list[RunFolder]:
        return [run.folder for run in runs_in_turn(str(self.mosaic))]

    def tile(self, number: int) -> str:
        """Step, row and column of the first tile for which a run speaks, as in the keys of shards."""
        axes = Axes(Mosaic.open(str(self.mosaic), writable=False))
        columns = [columns_of(run, run.facts(), axes) for run in self.runs]
        speaks = columns[number].finished[0] & ~voices(columns)[number].overtaken[0]
        places, row = self.runs[number].places(), int(np.flatnonzero(speaks)[0])
        return f"{places.step[row]}/{places.row[row]}/{places.column[row]}"

    def contents(self) -> dict[str, str]:
        """Every file of the tree, books apart → digest of its bytes."""
        files = [path for path in self.mosaic.rglob("*") if path.is_file() and ".resmap" not in path.parts]
        return {str(path.relative_to(self.mosaic)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """West alone; then east beside it and an earlier step; then west a little later, and a step behind all."""
    folder = tmp_path_factory.mktemp("good")
    ground, mosaic = Ground(folder / "ground"), folder / "work" / "map.zarr"
    ground.folder.mkdir()
    before = {WEST.key: WEST}
    job = ground.job(mosaic, before.values())
    start(job, local=True).wait(timeout_s=60)
    second, third = [WEST, EAST, EARLIER], [WEST, replace(EAST, columns=40, version=2), EARLIER, LATER]
    for due, scenes in ((DUE, second), (DUE + timedelta(days=1), third)):
        now = {scene.key: scene for scene in scenes}
        mapped = MappedItems(str(mosaic))
        prepared = renewed(job, ground.news(mapped, now, before), mapped, monitor="kept", due=due)
        assert prepared is not None
        start(prepared, local=True).wait(timeout_s=60)
        before = now
    return Kept(mosaic=mosaic, job=job)


@pytest.fixture
def kept(good: Kept) -> Iterator[Kept]:
    """To be damaged; put back afterwards: a job's run is named after where its mosaic lies."""
    copy = good.mosaic.parent.with_name("copy")
    if not copy.exists():
        shutil.copytree(good.mosaic, copy)
    yield good
    shutil.rmtree(good.mosaic)
    shutil.copytree(copy, good.mosaic)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)


def a_tile_of(number: int) -> Callable[[Kept], None]:
    return lambda kept: flip(kept.mosaic / f"0/mask/c/0/{kept.tile(number)}")


def a_tile_of_each_and_what_lies_over_them(kept: Kept) -> None:
    for number in range(3):
        flip(kept.mosaic / f"0/score/c/0/{kept.tile(number)}")
    for path in (kept.mosaic / "1/mask/c").rglob("*"):
        if path.is_file():
            flip(path)


def a_level(kept: Kept) -> None:
    flip(kept.mosaic / "2/source/c/0/0/0")


def the_ledger_of_a_renewing_run(kept: Kept) -> None:
    run = kept.mosaic / ".resmap" / "runs" / kept.runs[1].run
    for part in (*(run / "ledger").iterdir(), *(run / "levels").iterdir()):
        spoil(part)


def the_root(kept: Kept) -> None:
    (kept.mosaic / "zarr.json").write_bytes((kept.mosaic / "zarr.json").read_bytes()[:-400])


@pytest.mark.parametrize(
    "damage",
    [
        a_tile_of(0), a_tile_of(2), a_tile_of_each_and_what_lies_over_them, a_level, the_ledger_of_a_renewing_run,
        the_root,
    ],
    ids=["first run", "third run", "all", "level", "ledger", "root"],
)  # fmt: skip
def test_a_repaired_mosaic_is_the_one_that_the_ticks_left(kept: Kept, damage: Callable[[Kept], None]) -> None:
    assert verify(str(kept.mosaic), full=True).bad == ()
    undisturbed, times = kept.contents(), Mosaic.open(str(kept.mosaic)).times
    damage(kept)
    assert verify(str(kept.mosaic), full=True).bad
    start(kept.job, local=True, repair=True).wait(timeout_s=60)
    assert kept.contents() == undisturbed
    report = verify(str(kept.mosaic), full=True)
    assert (report.bad, report.unrecorded, report.unfinished) == ((), 0, 0)
    assert Mosaic.open(str(kept.mosaic)).times == times
    assert [run.facts()["state"] for run in kept.runs] == ["done"] * 3
    assert not any(run.facts()["levels_behind"] for run in kept.runs)


def test_a_stopped_run_whose_tile_is_repaired_is_still_not_done(kept: Kept) -> None:
    last = kept.runs[-1]
    row = int(last.finished()[-1])
    whole = list(last.entries())
    for part in (kept.mosaic / ".resmap" / "runs" / last.run / "ledger").iterdir():
        part.unlink()
    ledger = last.ledger()
    for entry in whole:
        if entry.tile != row:
            ledger.record(entry)
    ledger.flush()
    last.save_facts(last.facts() | {"state": "interrupted"})
    flip(kept.mosaic / f"0/mask/c/0/{kept.tile(2)}")
    start(kept.job, local=True, repair=True).wait(timeout_s=60)
    assert last.facts()["state"] == "interrupted"
    report = verify(str(kept.mosaic), full=True)
    assert (report.bad, report.unfinished) == ((), 1)
