"""A Ray of several nodes on this machine, as `ray start` makes it, which asks for a token."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RAY = (sys.executable, "-m", "ray.scripts.scripts")
STARTS_S = 240.0


@dataclass(slots=True)
class Nodes:
    """The processes of `ray start`, one a node."""

    folder: Path
    address: str
    """Of the head."""

    environment: dict[str, str]
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def join(self, name: str, *, gpus: int = 1) -> subprocess.Popen[bytes]:
        """A worker node, once it is there; its name is a resource it has."""
        return self.start(name, f"--address={self.address}", f"--num-gpus={gpus}")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """One more node. Ray gives it 30 s to start; a busy machine may take longer, and tries again."""
        said = self.folder / f"{name}.log"
        usual = ("--block", "--node-ip-address=127.0.0.1", "--resources", f'{{"{name}": 100}}', "--disable-usage-stats")
        for _ in range(5):
            with said.open("wb") as log:
                process = self.started[name] = subprocess.Popen(
                    [*RAY, "start", "--num-cpus=4", *usual, *words], env=self.environment, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            while process.poll() is None:
                if "now block forever" in said.read_text():
                    return process
                time.sleep(0.1)
        raise AssertionError(said.read_text())

    def stop(self) -> None:
        """End all of them, by the process groups that were started."""
        for one in reversed(self.started.values()):
            for process in _family(one.pid):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            one.wait()


@contextmanager
def nodes(*, gpus: int = 0, token: str | None = None) -> Iterator[Nodes]:
    """A head, ready to be joined; ended with all its nodes."""
    with tempfile.TemporaryDirectory(prefix="rn", ignore_cleanup_errors=True) as folder:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        mine |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or secrets.token_hex(32), "RESMAP_SPOT": "off"}
        port = _free_port()
        ray = Nodes(Path(folder), f"127.0.0.1:{port}", mine)
        try:
            ray.start(
                "head", "--head", f"--port={port}", "--include-dashboard=false", f"--num-gpus={gpus}",
                f"--temp-dir={folder}/r",
            )  # fmt: skip
            yield ray
        finally:
            ray.stop()


def until(true: Callable[[], object], within_s: float = STARTS_S) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """A process and all that came of it."""
    import psutil

    try:
        first = psutil.Process(pid)
        return [pid, *(child.pid for child in first.children(recursive=True))]
    except psutil.Error:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
