"""Signals to a driver: what is in hand is finished, and how it ends says which signal it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from jobs.interrupts import draining

DRIVER = """
import os, signal, sys
from jobs.interrupts import draining

class Run:
    def stop(self):
        print("stopped", flush=True)

with draining(left="left") as drained:
    drained(Run())
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
    sys.exit(drained.status(130))
"""


def driver(*signals: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *signals], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        (("SIGINT",), 130),
        (("SIGTERM",), 143),
        (("SIGTERM", "SIGTERM", "SIGTERM"), 143),
        (("SIGINT", "SIGTERM"), 130),
    ],
)
def test_the_first_signal_drains_and_a_second_sigterm_does_nothing_more(signals: tuple[str, ...], status: int) -> None:
    ended, out, err = driver(*signals)
    assert (ended, out) == (status, "stopped\n")
    assert err == "finishing the tiles in hand; once more to leave at once\n"


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_ctrl_c_after_it_leaves_at_once(first: str) -> None:
    ended, _, err = driver(first, "SIGINT")
    assert ended == 130
    assert err.endswith("left\n")


def test_a_run_that_begins_in_the_moment_of_the_signal_is_drained_too() -> None:
    class Run:
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    before = signal.getsignal(signal.SIGTERM)
    with draining() as drained:
        os.kill(os.getpid(), signal.SIGTERM)
        assert drained(Run()).stopped
        assert drained.status(0) == 0  # it was finished all the same
    assert signal.getsignal(signal.SIGTERM) is before
