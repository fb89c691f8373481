"""The process of a Ray job that runs ours: this file travels with the job, and must run where there is no resmap.

Beside it lies ``asked.json``: the words for ``resmap``, and which resmap sent them. What it has to tell whoever
follows the job it says in lines of its own, each a mark and one JSON value: ``begun`` with what is installed here,
``ended`` with the exit status and what ``resmap`` printed on stdout.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MARK = "resmap-driver: "
"""Before what is for a program to read."""

CANNOT = 78
"""Exit status where there is no resmap, or another one: as sysexits has it for what is not set up."""


def main(folder: Path) -> int:
    """Run what was asked; its exit status."""
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    here = {name: _version(name) for name in ("resmap", "ray")} | {"python": platform.python_version()}
    tell({"begun": here})
    if here["resmap"] != asked["resmap"]:
        has = f"resmap {here['resmap']}" if here["resmap"] else "no resmap"
        print(f"error: the Python of this cluster ({sys.executable}) has {has}; the job came from {asked['resmap']}")
        return CANNOT
    os.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = _resmap([str(word) for word in asked["words"]])
    tell({"ended": status, "answer": _document(printed.getvalue())})
    return status


def tell(value: object) -> None:
    """One line for whoever follows."""
    print(MARK + json.dumps(value, separators=(",", ":")), flush=True)


def told(line: str) -> dict[str, object] | None:
    """What such a line tells; None for any other."""
    if not line.startswith(MARK):
        return None
    value = _document(line.removeprefix(MARK))
    return value if isinstance(value, dict) else None


def _resmap(words: list[str]) -> int:
    from jobs.cli import main as resmap

    sys.argv = ["resmap", *words]
    try:
        resmap()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _document(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
