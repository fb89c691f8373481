"""Every parser of what strangers write, against input that no one thought of: ``python -m tests.hostile [--record]``.

Each gets a minute of one core or more, in a process of its own with bounded memory: one that takes more than that, or
crashes, is a fault as well. A fault names the command that shows it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from benchmarks.record import record
from tests.hostile.minutes import PARSERS, for_a_while


def main() -> int:
    """0 where nothing came to no good."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="PARSER", help=f"of {', '.join(PARSERS)}; all where left out")
    parser.add_argument("--seconds", type=float, default=60.0, help="of one core, for each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="put the figures into benchmarks/results/fuzz.json")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    with ThreadPoolExecutor(asked.processes) as pool:
        going = {what: pool.submit(_alone, what, asked.seconds, asked.seed) for what in asked.what or PARSERS}
        for what, answer in going.items():
            figures[what] = answer.result()
            print(f"{what}: {figures[what]}", flush=True)
    faults = [f"{what}: {fault}" for what, told in figures.items() for fault in told["faults"]]
    print(f"{sum(told['runs'] for told in figures.values()):,} inputs, {len(faults)} faults")
    if asked.record:
        record("fuzz", {"parsers": figures})
    return int(bool(faults))


def _alone(what: str, seconds: float, seed: int) -> dict[str, Any]:
    """In a process that may die of it, and of nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
        try:
            return one.submit(for_a_while, what, seconds, seed).result()
        except BrokenProcessPool:
            return {"runs": 0, "faults": ["the process died"]}


if __name__ == "__main__":
    sys.exit(main())
