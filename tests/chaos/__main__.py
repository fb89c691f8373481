"""The long kills, one after the other: ``python -m tests.chaos [--record] [NAME …]``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401  # a home of its own, and the plug-in models on every path
from benchmarks.record import record
from tests.chaos.scenarios import SCENARIOS
from tests.stories.world import write_world


def main() -> int:
    """Run them; 1 where one was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all where left out")
    parser.add_argument("--record", action="store_true", help="put the figures into benchmarks/results/chaos_NAME.json")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    failed = 0
    for name in asked.names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="resmap-chaos-") as folder:
            world = write_world(_made(Path(folder, "world")))
            began = time.monotonic()
            try:
                figures = SCENARIOS[name](world, _made(Path(folder, "runs")))
            except (AssertionError, TimeoutError) as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
        figures = {"does": SCENARIOS[name].__doc__, "seconds": round(time.monotonic() - began, 1), **figures}
        print(json.dumps({name: figures}, indent=2), flush=True)
        if asked.record:
            record(f"chaos_{name}", figures)
    return 1 if failed else 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
