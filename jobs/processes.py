"""Which process it is: by its number and the moment it began, since numbers are given again."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import PurePath

import psutil

SAME_MOMENT_S = 2.0
"""A process's beginning is reckoned from the clock, which may have been set since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of this machine, alive or gone."""

    pid: int
    began: float
    """Seconds since 1970."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The one that has this number now; None where none has."""
        try:
            return cls(pid=pid, began=psutil.Process(pid).create_time())
        except (psutil.Error, ValueError, OverflowError):
            return None

    def lives(self, *words: str) -> bool:
        """Whether it is still there, is no corpse, and was begun with these words."""
        try:
            found = psutil.Process(self.pid)
            return (
                abs(found.create_time() - self.began) < SAME_MOMENT_S
                and found.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
                and (not words or set(words) <= set(found.cmdline()))
            )
        except (psutil.Error, ValueError, OverflowError):
            return False


def here() -> Process:
    """This process."""
    found = Process.of(os.getpid())
    assert found is not None  # we are alive
    return found


def resmap_of_mine(pid: int, *, by: float) -> Process | None:
    """The ``resmap run`` of this user that has this number, and began before a moment; None where it is anything else.

    Args:
        pid: number of a process, as somebody wrote it down.
        by: when it was written down, in seconds since 1970: a process that began later is another.
    """
    try:
        found = psutil.Process(pid)
        words, began, owner = found.cmdline(), found.create_time(), found.uids().real
    except (psutil.Error, ValueError, OverflowError):
        return None
    if owner != os.getuid() or began > by + SAME_MOMENT_S or not _is_resmap(words):
        return None
    return Process(pid=pid, began=began)


def interrupt(process: Process, *words: str) -> bool:
    """As Ctrl-C: says whether there was somebody to tell."""
    if not process.lives(*words):
        return False
    try:
        os.kill(process.pid, signal.SIGINT)
    except OSError:
        return False
    return True


def _is_resmap(words: list[str]) -> bool:
    """Whether a command line is one of ours: ``resmap run``, ``python …/resmap retry``, ``python -m jobs.cli run``."""
    command = [PurePath(word).name for word in words[:2]]
    known = "resmap" in command or words[1:3] == ["-m", "jobs.cli"]
    return known and bool({"run", "retry", "demo"} & set(words))
