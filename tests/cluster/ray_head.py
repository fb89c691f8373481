"""A Ray head as people start it, with its dashboard and a token, on ports and in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
import requests

STARTS_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One that runs."""

    dashboard: str
    """``http://host:port``."""

    gcs: str
    """``host:port``, as Ray tells it."""

    token: str
    environment: Mapping[str, str]
    """Of whoever may talk to it."""


@contextmanager
def ray_head(
    *, cpus: int = 4, gpus: int = 1, token: str | None = None, more: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Head]:
    """Start one, and end it and all that it started.

    Args:
        cpus, gpus: of the node, logical.
        token: what it asks for; a new one where left out, none at all where empty.
        more: variables of its environment.
    """
    token = secrets.token_hex(16) if token is None else token
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment |= more
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of Ray's sockets must be short
    dashboard, agent, port, client = _free_ports(4)
    words = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}", "--dashboard-host=127.0.0.1", "--include-dashboard=true",
        "--min-worker-port=0", "--max-worker-port=0", f"--num-cpus={cpus}", f"--num-gpus={gpus}",
        f"--temp-dir={folder}", "--object-store-memory=200000000",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
    try:
        _await(process, address, token, folder)
        yield Head(
            dashboard=address,
            gcs=(folder / "ray_current_cluster").read_text().strip(),
            token=token,
            environment=environment,
        )
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _await(process: subprocess.Popen[bytes], address: str, token: str, folder: Path) -> None:
    """Until jobs are taken."""
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            answer = requests.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, timeout=5)
            if answer.ok and (folder / "ray_current_cluster").exists():
                return
        time.sleep(0.1)
    raise AssertionError((folder / "said").read_text(errors="replace")[-3000:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """All of its processes, by their numbers."""
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid)
        family = [*found.children(recursive=True), found]
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(family, timeout=10)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in taken]
