"""``python -m tests.simulation``: many runs, each through other faults; a seed that breaks a promise replays."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.runs import simulate
from tests.simulation.world import BrokenError


def main() -> int:
    """0 where every promise was kept in every run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--seed", type=int, help="this run alone, each step of it told")
    asked = parser.parse_args()
    if asked.seed is not None:
        print(simulate(asked.seed, log=print))
        return 0
    hit: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    begun, tiles, sittings, steps, seconds, broken = time.process_time(), 0, 0, 0, 0.0, []
    for seed in range(asked.first, asked.first + asked.runs):
        try:
            told = simulate(seed)
        except BrokenError as error:
            broken.append(seed)
            print(f"seed {seed}: {error}\n    python -m tests.simulation --seed {seed}", flush=True)
            continue
        hit += told.hit
        runs.update(told.hit.keys())
        tiles, sittings, steps = tiles + told.tiles, sittings + told.sittings, steps + told.steps
        seconds += told.seconds
    print(f"{asked.runs} runs, {len(broken)} broken; {tiles} tiles, {sittings} sittings, {steps} steps of drivers,")
    print(f"{seconds / 3600:.0f} h on their clocks, {time.process_time() - begun:.0f} s of one core")
    for what, times in hit.most_common():
        print(f"{times:9d} times in {runs[what]:6d} runs   {what}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
