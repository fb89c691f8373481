"""Real drivers that may be killed. They are forked from a process that has imported all: each costs its run alone."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

PATIENCE_S = 120.0
"""What a driver may take at most; one that takes longer hangs."""

WHERE = signal.SIGUSR1
"""Has a driver say what each of its threads is at."""

KILLED = -9
"""How a process ends that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A driver that is over."""

    status: int
    """Exit status; of one that a signal has ended, the signal's number below 0."""

    out: str
    err: str


class Driver:
    """One ``resmap`` command in a process of its own."""

    def __init__(self, process: Any, said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def pid(self) -> int:
        """Of its process."""
        return int(self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return bool(self.process.is_alive())

    def ended(self, timeout_s: float = PATIENCE_S) -> Ended:
        """How it ended.

        Raises:
            TimeoutError: it has not.
        """
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            raise TimeoutError(f"a driver goes on after {timeout_s:g} s: {self.where_it_is()}")
        return Ended(status=self.process.exitcode, out=self.said("out"), err=self.said("err"))

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def where_it_is(self) -> str:
        """What it has said last, and what each of its threads is at: it hangs, and nobody will see it again."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, WHERE)
            time.sleep(1)
        return self.said("err")[-20_000:]

    def said(self, where: str) -> str:
        """What it has said so far: ``out`` or ``err``."""
        return self._said.with_suffix(f".{where}").read_text()


@contextlib.contextmanager
def driver(
    folder: Path, *words: str, env: Mapping[str, str] = MappingProxyType({}), lease_s: float | None = None
) -> Iterator[Driver]:
    """``resmap`` with these words, under way; killed at the end if it still lives.

    Args:
        folder: for what it says.
        words: of the command.
        env: beside the environment of this process.
        lease_s: after how long its lease is over where it is silent; None for the minute that it is.
    """
    said = folder / f"said-{len(list(folder.glob('said-*.out')))}"
    for suffix in ("out", "err"):
        said.with_suffix(f".{suffix}").touch()
    process = _warm().Process(target=_command, args=(words, {**os.environ, **env}, str(said), lease_s))
    process.start()
    try:
        yield Driver(process, said)
    finally:
        if process.is_alive():
            process.kill()
        process.join(PATIENCE_S)


def drive(
    folder: Path, *words: str, env: Mapping[str, str] = MappingProxyType({}), lease_s: float | None = None
) -> Ended:
    """A command from its start to its end, whatever that is."""
    with driver(folder, *words, env=env, lease_s=lease_s) as under_way:
        return under_way.ended()


def wait_until(true: Callable[[], bool], process: Driver) -> None:
    """Wait for something that happens while a driver lives.

    Raises:
        AssertionError: it ended first, or nothing happened for too long.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert process.alive, f"the driver ended too soon: {process.said('err')[-2000:]}"
        assert time.monotonic() < deadline, f"nothing happened: {process.where_it_is()}"
        time.sleep(0.02)


def _warm() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.warm"])
    return context


def _command(words: tuple[str, ...], env: Mapping[str, str], said: str, lease_s: float | None) -> None:
    """In the new process: as a shell would start it."""
    os.environ.clear()
    os.environ.update(env)
    os.setsid()
    for number, suffix in ((1, "out"), (2, "err")):
        file = os.open(f"{said}.{suffix}", os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # they are this process's own for as long as it lives
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    faulthandler.register(WHERE, file=sys.stderr)
    sys.argv = ["resmap", *words]
    from jobs import cli, lease

    if lease_s is not None:
        lease.STALE_AFTER_S, lease.CONFIRMED_S, lease.HEARTBEAT_S = lease_s, lease_s / 2, lease_s / 6
    cli.main()
