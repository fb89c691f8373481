"""Runs under way on a machine: who is next, begun, and how each ended. Servers come and go; the runs go on.

A run is claimed, then its keeper (``jobs/keeper.py``) is made, then written down, and only then told to begin: whatever
dies in between, no run is begun twice and none is forgotten.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.interrupts import INTERRUPTED
from jobs.keeper import BEGUN, ENDED, INTERRUPTS
from jobs.processes import Process, here, interrupt
from jobs.submissions import OPEN, Decision, Queue, Submission, now
from mapper.errors import MapperError

JOB = "job.yaml"

RESMAP = (sys.executable, "-m", "jobs.cli")
"""How ``resmap`` is started here."""

KEEPER = ("-m", "jobs.keeper")
"""Words by which a process is known as the keeper of a run."""


class Turns:
    """Takes submissions of one machine through their states. One thread drives it."""

    def __init__(self, queue: Queue, *, host: str, children: int, program: Sequence[str] = RESMAP) -> None:
        self._queue, self._host, self._children, self._program = queue, host, children, tuple(program)
        self._spawned: set[int] = set()
        self._unsettled: set[str] = set()

    def step(self) -> None:
        """See who has ended, and begin whom there is room for.

        Raises:
            MapperError: the registry is away; the next step goes on from there.
        """
        self._reap()
        under_way = self._queue.all(host=self._host, states=OPEN)
        for submission in under_way:
            if submission.state == "starting" and (submission.key in self._unsettled or not _lives(submission)):
                self._settle(submission, _again)
            elif submission.state == "running" and not _lives(submission, *KEEPER):
                self._settle(submission, _ended)
        if any(submission.state == "queued" for submission in under_way) or self._unsettled:
            while (claimed := self._claim()) is not None:
                self._begin(claimed)

    def _settle(self, seen: Submission, decide: Callable[[Decision, Submission], None]) -> None:
        """Decide on a submission, if it still stands as it was seen: a second server may have been first."""
        with self._queue.deciding() as decision:
            row = decision.find(seen.key)
            if row is not None and (row.state, row.turn, row.pid) == (seen.state, seen.turn, seen.pid):
                decide(decision, row)
        self._unsettled.discard(seen.key)

    def _claim(self) -> Submission | None:
        me = here()
        with self._queue.deciding() as decision:
            found = decision.next_for(self._host, at_most=self._children)
            if found is not None:
                decision.change(found.key, state="starting", pid=me.pid, started=me.began)
        return found

    def _begin(self, claimed: Submission) -> None:
        folder = Path(claimed.log)
        self._unsettled.add(claimed.key)  # until it is written down; where that fails, the next step sees to it
        for name in (BEGUN, ENDED):
            (folder / name).unlink(missing_ok=True)
        try:
            process, go = self._spawn(folder, [*self._program, *_words(claimed, folder)])
        except OSError as error:
            raise MapperError(
                f"a run cannot be started: {error.strerror or error}", fix="look at this machine's memory and limits"
            ) from error
        try:
            if self._write_down(claimed, process):
                with contextlib.suppress(BrokenPipeError):  # it died at once, and the next step sees that
                    os.write(go, b"go\n")
        finally:
            os.close(go)
        self._unsettled.discard(claimed.key)

    def _write_down(self, claimed: Submission, process: Process) -> bool:
        """Enter whose a claimed run is. False where it shall not begin."""
        with self._queue.deciding() as decision:
            row = decision.find(claimed.key)
            if row is None or (row.state, row.turn) != ("starting", claimed.turn):
                return False
            if row.cancel_asked is not None:
                _again(decision, row)
                return False
            decision.change(row.key, state="running", pid=process.pid, started=process.began)
        return True

    def _spawn(self, folder: Path, command: list[str]) -> tuple[Process, int]:
        """A keeper that waits for its line, and where to write that. Nobody waits for it: it may outlive us."""
        there, go = os.pipe()
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *KEEPER, str(folder), "--", *command],
                os.environ,
                setsigmask=INTERRUPTS,  # an interrupt waits till the keeper can hear it: Python may lose early ones
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, there, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
            )
        except OSError:
            os.close(go)
            raise
        finally:
            os.close(there)
        self._spawned.add(pid)
        return Process.of(pid) or Process(pid=pid, began=0.0), go

    def _reap(self) -> None:
        for pid in tuple(self._spawned):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._spawned.discard(pid)


def ask_to_end(decision: Decision, row: Submission) -> None:
    """Have a submission that is open end: one that waits at once, one under way after the tiles in hand.

    It is told once: a run that is told twice leaves at once.
    """
    if row.state == "queued":
        decision.end(row, state="cancelled", cancel_asked=now(), ended=now())
    elif row.cancel_asked is None:
        # Told before it is written down: if that fails, it is told again, and leaves sooner than it might have.
        if row.state == "running" and row.process is not None:
            interrupt(row.process, *KEEPER)
        decision.change(row.key, cancel_asked=now())


def _lives(submission: Submission, *words: str) -> bool:
    return submission.process is not None and submission.process.lives(*words)


def _again(decision: Decision, row: Submission) -> None:
    """Back into the queue, unless it was cancelled meanwhile: its server died before it had begun."""
    if row.cancel_asked is not None:
        decision.end(row, state="cancelled", ended=now(), pid=None, started=None)
    else:
        decision.change(row.key, state="queued", pid=None, started=None)


def _ended(decision: Decision, row: Submission) -> None:
    """Write down how a run ended, from what its keeper has left."""
    folder = Path(row.log)
    if not (folder / BEGUN).exists():  # its server died before it told the keeper to begin
        _again(decision, row)
        return
    try:
        status: int | None = int((folder / ENDED).read_text())
    except (OSError, ValueError):  # the keeper was killed, or the machine went down
        status = None
    cancelled = row.cancel_asked is not None and status in (None, INTERRUPTED)
    decision.end(
        row,
        state="cancelled" if cancelled else "ended",
        exit_status=status,
        ended=now(),
        pid=None,
        started=None,
    )
    decision.note(act="end", key=row.key, outcome=f"exit status {'unknown' if status is None else status}", by="")


def _words(claimed: Submission, folder: Path) -> list[str]:
    words = ["run", str(folder / JOB)]
    words += ["--local"] if claimed.local else []
    words += ["--gpus", str(claimed.gpus)] if claimed.gpus is not None else []
    return words + (["--retry"] if claimed.retry else [])
