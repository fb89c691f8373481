"""Failpoints: off they are nothing, on they do what the variable says, and each name in the table is in the code."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.readers import ReaderActor
from mapper import failpoints
from mapper.errors import ReadError, SpecError, StoreError
from mapper.failpoints import ONCE, POINTS, VARIABLE, parsed, reach
from mapper.grid import Lattice, PixelBox
from mapper.map_tile import ModelChoice, Setup

ROOT = Path(__file__).parents[2]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets the variable for this process, which has read it before, and forgets it afterwards."""
    monkeypatch.setattr(failpoints, "_reached", Counter())
    failpoints._rules.cache_clear()
    yield monkeypatch
    failpoints._rules.cache_clear()


def placed() -> dict[str, set[str]]:
    """Point → the files in which the code reaches it."""
    found: dict[str, set[str]] = {}
    for package in ("mapper", "catalogs", "cluster", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                    (name,) = node.args
                    assert isinstance(name, ast.Constant), f"{path}: a failpoint is named in so many letters"
                    found.setdefault(str(name.value), set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_point_lies_in_the_one_file_that_the_table_names() -> None:
    assert placed() == {name: {where.partition(":")[0]} for name, where in POINTS.items()}


def test_without_the_variable_nothing_happens(points: pytest.MonkeyPatch) -> None:
    points.delenv(VARIABLE, raising=False)
    for name in POINTS:
        reach(name)


def test_a_point_fails_as_what_lies_there_would(points: pytest.MonkeyPatch) -> None:
    points.setenv(VARIABLE, "before-read=raise,before-commit=raise")
    with pytest.raises(ReadError, match="before-read"):
        reach("before-read")
    with pytest.raises(StoreError, match="before-commit"):
        reach("before-commit")
    reach("after-read")


def test_a_reader_of_its_own_comes_by_its_point(points: pytest.MonkeyPatch) -> None:
    setup = Setup(
        mosaic="memory://none",
        model=ModelChoice(name="colour"),
        prompts=(),
        bands=3,
        stretch=None,
        composite="first",
        overlap_px=0,
        blend=True,
        batch=None,
        areas={},
    )
    points.setenv(VARIABLE, "reader-reads=raise")
    lattice = Lattice(crs="EPSG:32632", res_x=1.0, res_y=1.0)
    assert isinstance(ReaderActor(setup).read((), lattice, PixelBox(0, 0, 8, 8)).answer, ReadError)


def test_a_point_acts_at_the_turn_asked_for_and_at_no_other(points: pytest.MonkeyPatch) -> None:
    points.setenv(VARIABLE, "mid-put=raise@3")
    reach("mid-put")
    reach("mid-put")
    with pytest.raises(StoreError):
        reach("mid-put")
    reach("mid-put")


def test_a_point_acts_once_however_many_processes_come_by(points: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points.setenv(VARIABLE, "mid-put=raise")
    points.setenv(ONCE, str(tmp_path))
    with pytest.raises(StoreError):
        reach("mid-put")
    reach("mid-put")
    assert [path.name for path in tmp_path.iterdir()] == ["mid-put"]


@pytest.mark.parametrize("text", ["no-such=kill", "mid-put", "mid-put=explode", "mid-put=kill@0", "mid-put=sleep:"])
def test_what_there_is_not_is_an_error_at_once(text: str) -> None:
    with pytest.raises(SpecError, match=VARIABLE) as refused:
        parsed(text)
    assert refused.value.fix


@pytest.mark.parametrize(("act", "status"), [("kill", -signal.SIGKILL), ("exit", 70)])
def test_a_process_ends_at_a_point(act: str, status: int) -> None:
    code = "from mapper.failpoints import reach; reach('mid-put'); print('on')"
    env = {**os.environ, VARIABLE: f"mid-put={act}"}
    over = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (over.returncode, over.stdout) == (status, "")


def test_a_stopped_process_goes_on_when_it_is_woken() -> None:
    code = "from mapper.failpoints import reach; reach('mid-put'); print('on')"
    env = {**os.environ, VARIABLE: "mid-put=stop"}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        _, how = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert (process.returncode, out) == (0, "on\n")
