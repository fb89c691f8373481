"""The small process between a server and a run: it outlives the server, keeps the log, and writes down how it ended.

    python -m jobs.keeper FOLDER -- COMMAND…

It begins when it reads a line on stdin: till then the server may die, and nothing has happened. A file ``ended`` in the
folder then has the exit status. The interrupt it is sent goes to the command, and to nothing that the command started:
a run that drains needs its workers. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.run_log import AT_ONCE_BYTES, LogWriter

BEGUN, ENDED = "begun", "ended"
_FAILED_TO_BEGIN = 1
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def keep(folder: Path, command: Sequence[str]) -> int:
    """Run a command to its end, its words in the log of this folder. Gives its exit status."""
    asked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: Any) -> None:
        asked.append(number)
        for child in children:
            with contextlib.suppress(OSError):
                child.send_signal(signal.SIGINT)

    for number in INTERRUPTS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    if not sys.stdin.readline():
        return _FAILED_TO_BEGIN
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one keeper a run: the last one may be writing its last lines
        _put(folder / BEGUN, str(os.getpid()))
        log = LogWriter(folder)
        try:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n".encode())
            status = 130 if asked else _run(command, log, children, asked)
        finally:
            log.close()
        _put(folder / ENDED, str(status))
    return status


def _run(command: Sequence[str], log: LogWriter, children: list[subprocess.Popen[bytes]], asked: list[int]) -> int:
    # The command begins with signals held back, and lets them in once it can hear them: none is lost while it starts.
    # And what comes before we know the command is told to it once, not by both of us.
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        children.append(child)
        if asked:
            child.send_signal(signal.SIGINT)
    except OSError as error:
        log.write(f"the run cannot be started: {error.strerror or error}\n".encode())
        return _FAILED_TO_BEGIN
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    # What the command left behind may hold its end of the pipe for ever: the command's own end counts.
    reading = threading.Thread(target=_pump, args=(child, log), daemon=True)
    reading.start()
    status = child.wait()
    reading.join(timeout=1.0)
    return 128 - status if status < 0 else status


def _pump(child: subprocess.Popen[bytes], log: LogWriter) -> None:
    assert child.stdout is not None
    while said := os.read(child.stdout.fileno(), AT_ONCE_BYTES):
        with contextlib.suppress(OSError):  # a full disk costs words, not the run
            log.write(said)


def _put(path: Path, text: str) -> None:
    """Whole or not at all, and for its owner alone."""
    draft = path.with_suffix(".draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123  # of a number
        file.write(text)
    draft.replace(path)


if __name__ == "__main__":
    os.setsid()  # what ends the server's terminal is not meant for the run
    separator = sys.argv.index("--")
    sys.exit(keep(Path(sys.argv[separator - 1]), sys.argv[separator + 1 :]))
