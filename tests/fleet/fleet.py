"""A fleet on one machine: a head, GPU nodes and the host of the data, each on a network address of its own.

    data .2    radosgw, pgstac                              head .3    Ray's head, and the driver of a run
    gpu-1 .11  a Ray node with one logical GPU              gpu-2 .12  another

The nodes are what ``ray start`` makes of them, with a token, and settings that let a fleet sit out a network that is
away for a while (``SETTINGS``).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.faults.radosgw import KEY, SECRET
from tests.fleet.hosts import ROOT, Host, host, switch
from tests.fleet.links import Link, address
from tests.stories.world import World, merged

PORT = 6379
DATA, HEAD = "data", "head"
NUMBERS = {DATA: 2, HEAD: 3, "gpu-1": 11, "gpu-2": 12}
"""Last part of each host's address."""

GPU_NODES = ("gpu-1", "gpu-2")
"""Those that every run begins with."""

SETTINGS: Mapping[str, str] = {
    "RAY_health_check_failure_threshold": "24",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
}
"""Of Ray, the same on every node. As it comes, a head that is cut off for half a minute counts all its nodes dead, and
they end themselves when they hear of it. With these a node is given up after about a minute and a half of silence, and
waits two for its head."""

TILE_S = 3.0
"""What the model sleeps for every batch of windows on a node: a run then takes a minute on two."""

START_S = 120.0
RUN_S = 600.0
"""What a run may take at most, whatever happens to it."""

CPUS = 3
STORE_BYTES = 80 << 20

_RESMAP = (sys.executable, "-m", "jobs.cli")
_NODES = """
import json, sys
from ray._raylet import GcsClient
nodes = GcsClient(address=sys.argv[1]).get_all_node_info().values()
print(json.dumps(sorted(node.node_manager_address for node in nodes if node.state == 0)))
"""


@dataclass(slots=True)
class Node:
    """A host on its cable."""

    host: Host
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that is over."""

    status: int
    seconds: float
    said: str


class Run:
    """``resmap run`` under way on the head."""

    def __init__(self, fleet: Fleet, mosaic: str, process: subprocess.Popen[Any], log: Path) -> None:
        self.mosaic, self.began = mosaic, time.monotonic()
        self._fleet, self._process, self._log = fleet, process, log

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def recorded(self) -> int:
        """Tiles in its books."""
        return int(self._fleet.ask(recorded=self.mosaic))

    def wait_for_tiles(self, count: int) -> None:
        """Wait until so many are in its books.

        Raises:
            AssertionError: it ended first, or takes too long.
        """
        wait_until(lambda: self.recorded() >= count, self.check_goes_on)

    def check_goes_on(self) -> None:
        """AssertionError where it has ended."""
        assert self._process.poll() is None, f"the run ended too soon: {self.said[-3000:]}"

    def ended(self) -> Ended:
        """How it ended.

        Raises:
            AssertionError: it has not.
        """
        try:
            status = self._process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run goes on after {RUN_S:g} s: {self.said[-3000:]}") from None
        return Ended(status=status, seconds=time.monotonic() - self.began, said=self.said)


class Fleet:
    """All its hosts, up."""

    def __init__(self, folder: Path, middle: Host) -> None:
        self.nodes: dict[str, Node] = {}
        self.started_s: dict[str, float] = {}
        """Host → how long it took to come up and serve."""

        self._folder, self._switch, self._token = folder, middle, secrets.token_hex(32)
        self._made = self._runs = 0
        self._data: subprocess.Popen[Any] | None = None
        self._served: Mapping[str, str] = {}

    def serve(self) -> None:
        """Bring the data's host up. It stays as long as the fleet."""
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.fleet.data_host", address(NUMBERS[DATA])]
        pipe = subprocess.PIPE
        with self._data_log.open("w") as said:
            on = self._up(DATA)
            self._data = on.begin(*command, env=self._env(), stdin=pipe, stdout=pipe, stderr=said, text=True)
        self._served = self._answer()
        self.started_s[DATA] = time.monotonic() - began

    # Nodes ------------------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """As every run finds it: all links whole, the head and two GPU nodes there and no others."""
        for name, node in list(self.nodes.items()):
            if not node.link.whole and name in GPU_NODES:
                self.lose(name)  # one that never came back
            elif not node.link.whole:
                node.link.restore()
        if HEAD in self.nodes and not self.alive():
            for name in (HEAD, *GPU_NODES):
                self.lose(name)
        wanted = {address(NUMBERS[name]) for name in (HEAD, *GPU_NODES)}
        if HEAD not in self.nodes:
            self.add(HEAD)
        there = self.alive()
        for name in GPU_NODES:
            if name not in self.nodes or address(NUMBERS[name]) not in there:
                self.lose(name)
                self.add(name)
        wait_until(lambda: set(self.alive()) == wanted and len(self.alive()) == len(wanted))

    def add(self, name: str) -> None:
        """A host and the Ray node on it. Returns once Ray counts it."""
        began = time.monotonic()
        made = self._up(name)
        as_head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        where = as_head if name == HEAD else [f"--address={self.address}"]
        self._ray(made, "start", *where, f"--node-ip-address={made.address}", f"--num-gpus={int(name != HEAD)}",
                  f"--num-cpus={CPUS}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats")  # fmt: skip
        self.started_s[name] = time.monotonic() - began

    def leave(self, name: str) -> None:
        """Have a Ray node say goodbye, and end its host. Returns once Ray counts it no more."""
        self._ray(self.nodes[name].host, "stop")
        self.lose(name)
        wait_until(lambda: address(NUMBERS[name]) not in self.alive())

    def lose(self, name: str) -> None:
        """End a host at once, if it is there."""
        if (node := self.nodes.pop(name, None)) is not None:
            node.host.kill()
            node.link.pull()

    def alive(self) -> list[str]:
        """Addresses of the nodes that Ray counts; none where its head does not answer."""
        try:
            return list(json.loads(self.on_head(sys.executable, "-c", _NODES, self.address)))
        except RuntimeError:
            return []

    def on_head(self, *words: str) -> str:
        """What a command on the head says."""
        return self.nodes[HEAD].host.run(*words, env=self._env())

    def resmap(self, name: str, *words: str, timeout_s: float = START_S) -> str:
        """What a ``resmap`` command on a host says."""
        return self.nodes[name].host.run(*_RESMAP, *words, env=self._env(), timeout_s=timeout_s)

    @property
    def address(self) -> str:
        """Of the head, as Ray writes it."""
        return f"{address(NUMBERS[HEAD])}:{PORT}"

    def close(self) -> None:
        """End it all. The data's host leaves by itself, so that it takes its files away."""
        for name in set(self.nodes) - {DATA}:
            self.lose(name)
        if self._data is not None and self._data.stdin is not None and self._data.stdout is not None:
            self._data.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._data.wait(START_S)
            self._data.stdout.close()
        self.lose(DATA)

    # Runs -------------------------------------------------------------------------------------------------------------

    def job(self, **changes: Any) -> tuple[Path, str]:
        """A job file, and the mosaic of its own that it makes."""
        self._runs += 1
        mosaic = f"s3://maps/{self._runs}"
        job = {
            "name": "fleet",
            "area": World.rectangle(0, 0, 460, 400),
            "imagery": {"catalog": self._served["stac"], "bands": ["red", "green", "blue"]},
            "grid": {"crs": "EPSG:32632", "resolution_m": 1.0, "shard_px": 64, "chunk_px": 64},
            "prompts": [{"name": "warm", "expression": "what is red"}],
            "model": {"name": "colour"},
            "windows": {"overlap_px": 32},
            "output": {"mosaic": mosaic},
        }
        path = self._folder / f"job-{self._runs}.yaml"
        path.write_text(yaml.safe_dump(merged(job, changes)))
        return path, mosaic

    @contextlib.contextmanager
    def run(self, *, local: bool = False, **changes: Any) -> Iterator[Run]:
        """A run of the job on the fleet, under way; killed at the end if it still is.

        Args:
            local: in one process on the head, without Ray, by a model that does not sleep.
            changes: of the job, as of ``merged``.
        """
        job, mosaic = self.job(**changes)
        log = job.with_suffix(".log")
        where, sleeps = (("--local",), {"COLOUR_SLEEP_S": "0"}) if local else (("--address", self.address), {})
        with log.open("w") as said:
            command = [*_RESMAP, "run", str(job), *where]
            process = self.nodes[HEAD].host.begin(*command, env=self._env() | sleeps, stdout=said, stderr=said)
        try:
            yield Run(self, mosaic, process, log)
        finally:
            if process.poll() is None:
                _kill_what_it_began(process)
            process.wait()

    def undisturbed(self) -> float:
        """Have one process make the map that all others are held against; the seconds it took.

        Raises:
            AssertionError: it does not.
        """
        with self.run(local=True) as run:
            over = run.ended()
        assert over.status == 0, over.said
        self.ask(undisturbed=run.mosaic)
        return over.seconds

    def ask(self, **question: str) -> Any:
        """What the data's host knows of a mosaic, as ``tests.fleet.data_host`` answers."""
        assert self._data is not None
        assert self._data.stdin is not None
        self._data.stdin.write(json.dumps(question) + "\n")
        self._data.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._data is not None
        assert self._data.stdout is not None
        if not (line := self._data.stdout.readline()):
            said = self._data_log.read_text()[-3000:]
            raise RuntimeError(f"the data's host ended with {self._data.wait()}: {said}")
        return json.loads(line)

    @property
    def _data_log(self) -> Path:
        return self._folder / "data.log"

    # Hosts ------------------------------------------------------------------------------------------------------------

    def _up(self, name: str) -> Host:
        self._made += 1  # a host that comes back is another: its files are its own
        made = host(name, self._folder / f"{name}-{self._made}", address=address(NUMBERS[name]))
        try:
            self.nodes[name] = Node(made, Link(made, self._switch))
        except (RuntimeError, subprocess.CalledProcessError):
            made.kill()
            raise
        return made

    def _ray(self, on: Host, *words: str) -> None:
        """A command of Ray's. What it leaves running holds its output open, so that goes to a file."""
        log = on.folder / "ray-start.log"
        with log.open("w") as said:
            command = [sys.executable, "-m", "ray.scripts.scripts", *words]
            status = on.begin(*command, env=self._env(), stdout=said, stderr=said).wait(START_S)
        if status:
            raise RuntimeError(f"{on.name}: ray {words[0]} ended with {status}: {log.read_text()[-3000:]}")

    def _env(self) -> dict[str, str]:
        return {
            "HOME": "/run/home",
            "TMPDIR": "/run/tmp",
            "RAY_TMPDIR": "/run",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            **SETTINGS,
            "RESMAP_REGISTRY": "sqlite:////run/home/registry.sqlite",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self._served.get("store", ""),
            "COLOUR_SLEEP_S": str(TILE_S),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")]),
        }


@contextlib.contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """A fleet whose files lie in a folder, with the data's host up and nothing else; ``ready`` brings the nodes."""
    with switch(folder / "switch") as middle:
        made = Fleet(folder, middle)
        try:
            made.serve()
            yield made
        finally:
            made.close()


def wait_until(true: Callable[[], bool], check: Callable[[], None] = lambda: None, *, timeout_s: float = RUN_S) -> None:
    """Wait for something; ``check`` raises where that is in vain.

    Raises:
        AssertionError: it takes too long.
    """
    deadline = time.monotonic() + timeout_s
    while not true():
        check()
        assert time.monotonic() < deadline, f"nothing happened for {timeout_s:g} s"
        time.sleep(0.2)


def _kill_what_it_began(process: subprocess.Popen[Any]) -> None:
    """nsenter waits for its command; without it, the command would go on."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), 9)
