"""``python -m tests.simulation``: many runs, each through other faults; a seed that breaks a promise replays."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.record import record
from tests.simulation.many import many
from tests.simulation.runs import simulate


def main() -> int:
    """0 where every promise was kept in every run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--seed", type=int, help="this run alone, each step of it told")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="put the figures into benchmarks/results/simulation.json")
    asked = parser.parse_args()
    if asked.seed is not None:
        print(simulate(asked.seed, log=print))
        return 0
    seen = many(range(asked.first, asked.first + asked.runs), asked.processes)
    print(f"{seen.runs} runs, {len(seen.broken)} broken; {seen.tiles} tiles, {seen.sittings} sittings,")
    print(
        f"{seen.steps} steps of drivers, {seen.seconds / 3600:.0f} h on their clocks, {seen.core_s:.0f} s of one core"
    )
    for what, times in seen.faults.most_common():
        print(f"{times:9d} times in {seen.in_runs[what]:6d} runs   {what}")
    if asked.record:
        record("simulation", seen.figures())
    return 1 if seen.broken else 0


if __name__ == "__main__":
    sys.exit(main())
