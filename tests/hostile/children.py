"""Reading in a process that may die: asked, waited for, judged, and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of one file."""

    kind: str
    """``pixels``, the name of an error of ours, ``bug`` (another's error), ``died`` or ``hung``."""

    what: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    peak_bytes: int = 0
    """The most memory the process that read it has held so far."""


class Child:
    """One such process at a time, started when it is first needed, and again when it was lost."""

    def __init__(self, *, patience_s: float, module: str = "tests.hostile.raster_child") -> None:
        self._patience_s = patience_s
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self.at_rest_bytes = 0
        """What it held before it read anything."""

    def ask(self, **asked: Any) -> Said:
        """What comes of a file; a process that dies or says nothing in time is part of the answer."""
        process = self._process or self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            process.wait(10)
        line = self._line(process)
        if line is None:
            kind = "hung" if process.poll() is None else "died"
            what = f"status {process.poll()}"
            self.close()
            return Said(kind=kind, what=what)
        said = json.loads(line)
        return Said(
            kind=said["kind"], what=said["said"], where=said["where"], again=said["again"], peak_bytes=said["peak"]
        )

    @property
    def pid(self) -> int | None:
        """The process, where there is one now."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process."""
        if (process := self._process) is not None:
            self._process = None
            process.send_signal(signal.SIGKILL)
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            process.wait(10)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", self._module], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        line = self._line(self._process, patience_s=60)
        assert line is not None, "the process that reads does not start"
        self.at_rest_bytes = json.loads(line)["ready"]
        return self._process

    def _line(self, process: subprocess.Popen[bytes], patience_s: float | None = None) -> bytes | None:
        """The next line it says; None if it ends, or says nothing, first."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(patience_s or self._patience_s):
                    return None
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    process.wait(10)
                    return None
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line
