"""A run on Ray, and the processes that it is made of: found among the driver's own children, killed by their ids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.chaos.drivers import Driver, driver, wait_until

GPUS = 2
SLOW = {"COLOUR_SLEEP_S": "0.2"}
"""A run on two actors then takes some ten seconds: long enough to be met in the middle."""


class RayRun:
    """``resmap run`` under way, and all that it has started."""

    def __init__(self, under_way: Driver) -> None:
        self.driver = under_way
        self._seen: dict[int, psutil.Process] = {}

    def processes(self, title: str) -> list[psutil.Process]:
        """Those that live and have this in their title, as ``ray::GpuActor``."""
        found = []
        for child in self._all():
            with contextlib.suppress(psutil.Error):
                if title in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def one(self, title: str) -> psutil.Process:
        """The first of them, once there is one."""
        wait_until(lambda: bool(self.processes(title)), self.driver)
        return self.processes(title)[0]

    def left(self) -> list[str]:
        """What lives of all that it has started."""
        return [" ".join(child.cmdline())[:80] for child in self.processes("")]

    def end(self) -> None:
        """Kill all that is left. A process knows when it began: one that has its id now is not killed for it."""
        for child in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def _all(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.driver.pid).children(recursive=True):
                self._seen.setdefault(child.pid, child)
        return list(self._seen.values())


@contextlib.contextmanager
def on_ray(job: Path, *words: str, env: Mapping[str, str] = MappingProxyType({})) -> Iterator[RayRun]:
    """``resmap run`` on two logical GPUs, of a Ray of its own unless the words name one."""
    command = ("run", str(job), "--gpus", str(GPUS), "--json", *words)
    with driver(job.parent, *command, env={**SLOW, **env}) as under_way:
        run = RayRun(under_way)
        try:
            yield run
        finally:
            run.end()
