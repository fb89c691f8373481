"""What a fleet goes through, one after the other: ``python -m tests.fleet [--record] [NAME …]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  # a home of its own, and the plug-in models on every path
from benchmarks.record import RESULTS, record
from tests.fleet.fleet import SETTINGS, TILE_S, fleet
from tests.fleet.needs import missing
from tests.fleet.scenarios import SCENARIOS

RESULT = "fleet"


def main() -> int:
    """Go through them; 1 where one was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all where left out")
    parser.add_argument("--record", action="store_true", help=f"put the figures into benchmarks/results/{RESULT}.json")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    return 1 if _gone_through(asked.names or list(SCENARIOS), keep=asked.record) else 0


def _gone_through(names: list[str], *, keep: bool) -> int:
    """How many were not as promised. What is known by then is kept after each."""
    known, failed = _known() if keep else {}, 0
    figures: dict[str, Any] = {"tile_s": TILE_S, "settings": dict(SETTINGS)}
    with tempfile.TemporaryDirectory(prefix="rmf-") as folder, fleet(Path(folder)) as made:
        made.ready()
        _say({"started_s": _rounded(made.started_s)})
        one_process_s = made.undisturbed()
        figures |= {"started_s": _rounded(made.started_s), "one_process_s": round(one_process_s, 1)}
        for name in names:
            began = time.monotonic()
            try:
                made.ready()
                told = SCENARIOS[name](made)
            except (AssertionError, RuntimeError) as error:
                print(f"{name}: after {time.monotonic() - began:.0f} s: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            load = round(os.getloadavg()[1], 1)  # a fleet on two cores is slow enough without strangers
            figures[name] = {"does": SCENARIOS[name].__doc__, **told, "load_of_5_min": load}
            _say({name: figures[name]})
            if keep:
                record(RESULT, known | figures)
    return failed


def _known() -> dict[str, Any]:
    """What was recorded before, for the scenarios that are left out this time."""
    path = RESULTS / f"{RESULT}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return {name: known[name] for name in SCENARIOS if name in known}


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what, indent=2), flush=True)


if __name__ == "__main__":
    sys.exit(main())
