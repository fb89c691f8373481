"""Signals to a process that drives a run: it is drained and saved, not cut off.

| signal                              | does                                              | exit status, work left |
|-------------------------------------|---------------------------------------------------|------------------------|
| Ctrl-C (SIGINT)                     | finishes the tiles in hand, saves, ends           | 130                    |
| SIGTERM                             | the same                                          | 143                    |
| Ctrl-C after either                 | leaves at once                                    | 130                    |
| SIGTERM after either                | nothing more: whoever sends it sends SIGKILL next |                        |
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a run that a signal left undone: as shells have it, 128 and the signal's number."""


class Stoppable(Protocol):
    """What can be drained."""

    def stop(self) -> None:
        """Begin no more; finish what is in hand."""


Stopped = TypeVar("Stopped", bound=Stoppable)


class Draining:
    """Which signal came first, and what is to be drained by it."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        """The signals that came."""

        self._runs: list[Stoppable] = []

    def __call__(self, run: Stopped) -> Stopped:
        """Have a signal drain this one."""
        self._runs.append(run)
        if self.asked:  # in the moment in which it began
            run.stop()
        return run

    def status(self, of_run: int) -> int:
        """The exit status of a process whose run ended so."""
        return TERMINATED if of_run == INTERRUPTED and self.asked[:1] == [signal.SIGTERM] else of_run

    def heard(self, number: int) -> None:
        """Drain what there is."""
        self.asked.append(number)
        for run in self._runs:
            run.stop()


@contextlib.contextmanager
def draining(
    *, says: str = "finishing the tiles in hand; once more to leave at once", left: str = ""
) -> Iterator[Draining]:
    """The first signal drains the runs that are given; a Ctrl-C after it leaves at once.

    Args:
        says: told on stderr at the first.
        left: told on stderr where it is left at once.
    """
    drained = Draining()

    def heard(number: int, frame: Any) -> None:
        if not drained.asked:
            print(says, file=sys.stderr, flush=True)
            drained.heard(number)
        elif number == signal.SIGINT:
            if left:
                print(left, file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)

    before = [(number, signal.signal(number, heard)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield drained
    finally:
        for number, handler in before:
            signal.signal(number, handler)
