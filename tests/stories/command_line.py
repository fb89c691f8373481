"""``resmap`` in this process: what it prints and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from jobs import cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed: all of stdout, and nothing else there."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one sentence that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error: ")

    @property
    def remedy(self) -> str:
        """What to do about it."""
        (line,) = [line for line in self.err.splitlines() if line.strip().startswith("do:")]
        return line.split("do:", 1)[1].strip()


Resmap: TypeAlias = Callable[..., Said]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    """Runs ``resmap`` with these words."""

    def run(*words: object) -> Said:
        monkeypatch.setattr("sys.argv", ["resmap", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as over:
            cli.main()
        printed = capsys.readouterr()
        status = over.value.code
        return Said(status=int(status or 0), out=printed.out, err=printed.err)

    return run
