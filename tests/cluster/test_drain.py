"""Nodes of a real Ray that leave in the middle of a run: by `resmap drain`, by a signal, or because a cloud says so."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from cluster.local import LocalPool
from cluster.pool import outcomes
from tests.cluster.drained_run import let_go, tries
from tests.cluster.nodes import Nodes, nodes, until
from tests.cluster.test_spot import PREEMPTED, Service, served
from tests.cluster.tiles import world

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

TILES = 12
MOST_IN_HAND = 16


@pytest.fixture(scope="module")
def ray() -> Iterator[Nodes]:
    """A head without a GPU and a node that stays; those that leave join it."""
    with nodes() as ray:
        ray.join("steady")
        yield ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The mosaic as one process maps it."""
    mapped = world(tmp_path_factory.mktemp("alone"))
    pool = LocalPool(mapped.setup)
    assert len(list(outcomes(pool, mapped.tasks))) == TILES
    pool.close()
    return hashlib.sha256(mapped.scores().tobytes()).hexdigest()


class Leaver:
    """A node that joins, and will leave."""

    def __init__(self, ray: Nodes, name: str) -> None:
        self.start = ray.join(name)
        until(lambda: self._raylets())
        (self.raylet,) = self._raylets()
        (self.id,) = [word.removeprefix("--node_id=") for word in self.raylet.cmdline() if "--node_id=" in word]

    def worker(self, pids: list[int]) -> int:
        """That of a run's workers which is here."""
        (here,) = {child.pid for child in self.raylet.children(recursive=True)} & set(pids)
        return here

    def ended(self) -> bool:
        """Whether Ray has ended the node."""
        return not self.raylet.is_running() or self.raylet.status() == psutil.STATUS_ZOMBIE

    def _raylets(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.start.pid).children(recursive=True) if one.name() == "raylet"]


class Run:
    """A run of two workers in a process of its own."""

    def __init__(self, ray: Nodes, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.drained_run", ray.address, str(folder)],
            env=ray.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.told: list[str] = []
        threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True).start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.told
        self.pids: list[int] = json.loads(line)

    def begun_by(self, pid: int) -> list[int]:
        """Tiles that a worker has begun."""
        return [tile for what, tile, by in tries(self.folder) if (what, by) == ("began", pid)]

    def ended(self) -> dict[str, Any]:
        """What it says in the end."""
        out, _ = self._process.communicate()
        assert self._process.returncode == 0, self.told
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def _listen(self, to: IO[str]) -> None:
        self.told += iter(to.readline, "")


def resmap(ray: Nodes, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], env=ray.environment | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def left_in_the_middle(
    ray: Nodes, folder: Path, leave: Callable[[Leaver, int], None], name: str, *, ends: bool = True
) -> Left:
    """A run one of whose nodes leaves once its worker has begun tiles; ``ends``: those go on after that."""
    leaver = Leaver(ray, name)
    run = Run(ray, folder)
    here = leaver.worker(run.pids)
    until(lambda: run.begun_by(here))
    leave(leaver, here)
    until(lambda: any("leaves" in line for line in run.told))
    for pid in run.pids:
        if ends or pid != here:
            let_go(folder, pid)
    said = run.ended()
    return Left(leaver, run, said, Counter(tile for what, tile, _ in tries(folder) if what == "began"))


@dataclass(frozen=True, slots=True)
class Left:
    """What came of it."""

    leaver: Leaver
    run: Run
    said: dict[str, Any]
    begun: Counter[int]
    """How often each tile was begun."""

    def look(self, undisturbed: str) -> None:
        """All tiles are there once, are what they should be, and no try was counted against any."""
        whole = {"tiles": list(range(TILES)), "attempts": [1] * TILES, "errors": [], "scores": undisturbed}
        assert self.said == whole
        assert sum((self.begun - Counter(range(TILES))).values()) <= MOST_IN_HAND


def test_a_node_that_is_drained_in_time_has_nothing_done_twice(ray: Nodes, tmp_path: Path, undisturbed: str) -> None:
    with ThreadPoolExecutor(1) as beside:
        drained: list[Future[subprocess.CompletedProcess[str]]] = []

        def drain(leaver: Leaver, worker: int) -> None:
            words = ("drain", "--within", "300", "--wait", "--node", leaver.id, "--address", ray.address)
            drained.append(beside.submit(resmap, ray, *words))

        left = left_in_the_middle(ray, tmp_path, drain, "in-time")
    left.look(undisturbed)
    said = drained[0].result()
    assert (said.returncode, said.stderr) == (0, "")
    assert "is drained: none of 1 workers is left there" in said.stdout
    assert left.begun == Counter(range(TILES))
    until(left.leaver.ended)  # by Ray, as nothing runs there


def test_a_node_that_has_no_time_loses_only_what_it_has_in_hand(ray: Nodes, tmp_path: Path, undisturbed: str) -> None:
    def drain(leaver: Leaver, worker: int) -> None:
        done = resmap(ray, "drain", "--within", "0.1", "--node", leaver.id, "--address", ray.address)
        assert done.returncode == 0, done.stderr

    left = left_in_the_middle(ray, tmp_path, drain, "at-once", ends=False)
    left.look(undisturbed)
    assert set(left.begun.values()) == {1, 2}


def test_ray_start_that_is_told_to_end_drains_its_node(ray: Nodes, tmp_path: Path, undisturbed: str) -> None:
    def end(leaver: Leaver, worker: int) -> None:
        leaver.start.send_signal(signal.SIGTERM)

    left = left_in_the_middle(ray, tmp_path, end, "ended")
    left.look(undisturbed)
    assert left.begun == Counter(range(TILES))
    until(lambda: left.leaver.start.poll() is not None)


def test_a_worker_that_is_told_to_end_says_so_and_ends_nothing_it_holds(
    ray: Nodes, tmp_path: Path, undisturbed: str
) -> None:
    left = left_in_the_middle(ray, tmp_path, lambda leaver, worker: os.kill(worker, signal.SIGTERM), "signalled")
    left.look(undisturbed)
    assert any("SIGTERM" in line for line in left.run.told)
    left.leaver.start.send_signal(signal.SIGTERM)
    until(lambda: left.leaver.start.poll() is not None)


def test_a_machine_that_its_cloud_takes_is_drained(
    ray: Nodes, tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service("gcp")

    def take(leaver: Leaver, worker: int) -> None:
        service.says[PREEMPTED] = (200, b"TRUE")

    with served(service) as address:
        for name, value in {"RESMAP_SPOT": "gcp", "RESMAP_METADATA": address}.items():
            monkeypatch.setitem(ray.environment, name, value)
        left = left_in_the_middle(ray, tmp_path, take, "preempted")
        left.look(undisturbed)
        assert any("Google Cloud preempts it" in line for line in left.run.told)
        until(left.leaver.ended)  # Ray was told, too: nothing more is placed there


def test_draining_again_is_draining_once_more_and_nobody_is_there_to_wait_for(ray: Nodes) -> None:
    leaver = Leaver(ray, "empty")
    for within in ("50", "90"):
        done = resmap(
            ray, "drain", "--within", within, "--wait", "--json", "--node", leaver.id, "--address", ray.address
        )
        said = json.loads(done.stdout or "{}")
        if done.returncode:  # Ray was quicker, and has ended it
            assert f"the Ray cluster has no node {leaver.id}" in done.stderr
        else:
            assert said == {"node": leaver.id, "within_s": float(within), "workers": 0, "left": 0}
    until(leaver.ended)


def test_what_cannot_be_drained_is_said_in_a_sentence(ray: Nodes) -> None:
    nowhere = "127.0.0.1:1"
    no_token = {"RAY_AUTH_TOKEN": "", "HOME": str(ray.folder)}
    for words, environment, status, sentence in (
        (("--address", ray.address, "--node", "ab" * 28), {}, 1, "the Ray cluster has no node abab"),
        (("--address", ray.address, "--node", "../x"), {}, 1, "the Ray cluster has no node ../x"),
        (("--address", ray.address), {}, 1, "several nodes of this Ray cluster are on this machine"),
        (("--address", nowhere, "--node", "ab" * 28), {}, 1, "no Ray cluster answers"),
        (("--address", "http://127.0.0.1:8265"), {}, 1, "this is no address of a head"),
        ((), {"RAY_ADDRESS": "ray://127.0.0.1:10001"}, 1, "this is no address of a head"),
        ((), {"RAY_ADDRESS": nowhere}, 1, "no Ray cluster answers"),
        (("--address", ray.address), {"RAY_AUTH_TOKEN": "x" * 64}, 5, "the token here is not the one"),
        (("--address", ray.address), no_token, 5, "asks for a token, and there is none here"),
        (("--within", "-1"), {}, 2, "--within"),
        (("--within", "nan"), {}, 2, "--within"),
    ):
        done = resmap(ray, "drain", *words, **environment)
        assert (done.returncode, sentence in done.stderr) == (status, True), (words, done.stderr)
        assert "Traceback" not in done.stderr
