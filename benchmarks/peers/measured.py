"""One contender, run in a process of its own: how long, how many cores, how much memory, what the server gave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "benchmarks" / "plugins"
"""Where the stand-in is found as an installed package's model would be."""

LOOK_EVERY_S = 0.5
MEMORY_EVERY = 4
"""Memory is looked at each so many looks: the kernel walks all pages for it."""


@dataclass(slots=True, kw_only=True)
class Process:
    """What a process and all that it started have used."""

    wall_s: float = 0.0
    """From its start to its end."""

    cpu_s: float = 0.0
    """Of all of them; seen twice a second, so that the last half second of each may lack."""

    peak_bytes: int = 0
    """Memory of all together, a page shared by n of them counted as a n-th for each (PSS)."""

    seen: dict[int, float] = field(default_factory=dict, repr=False)


def measured(module: str, *words: str, scratch: Path, timeout_s: float) -> Process:
    """Run a module to its end.

    Raises:
        RuntimeError: it failed; what it said is in the error.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGINS)]),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RESMAP_REGISTRY": f"sqlite:///{scratch}/registry.sqlite",
    }
    used = Process()
    log = scratch / f"{module.rpartition('.')[2]}.log"
    with log.open("wb") as said:
        begun = time.monotonic()
        running = subprocess.Popen(
            [sys.executable, "-m", module, *words], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(running.pid, used, over), daemon=True)
        watch.start()
        try:
            status = running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _end(running.pid)
            status = running.wait()
        finally:
            used.wall_s = round(time.monotonic() - begun, 3)
            over.set()
            watch.join()
    used.cpu_s = round(sum(used.seen.values()), 2)
    if status != 0:
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{module} ended with {status} after {used.wall_s:.0f} s:\n{tail}")
    return used


def _watch(pid: int, used: Process, over: threading.Event) -> None:
    looks = 0
    while not over.wait(LOOK_EVERY_S):
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
            memory = 0
            for process in family:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    times = process.cpu_times()
                    used.seen[process.pid] = times.user + times.system
                    memory += process.memory_full_info().pss if looks % MEMORY_EVERY == 0 else 0
            used.peak_bytes = max(used.peak_bytes, memory)
            looks += 1


def _end(pid: int) -> None:
    """End a process that takes too long, and what it started."""
    root = psutil.Process(pid)
    for process in [*root.children(recursive=True), root]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
