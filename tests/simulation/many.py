"""Many simulated runs, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.runs import simulate
from tests.simulation.world import BrokenError

AT_ONCE = 50
"""Runs that a process is given at a time: some seconds of work."""

TELL_EVERY_S = 10.0


@dataclass(slots=True)
class Seen:
    """What came of some runs."""

    runs: int = 0
    broken: list[int] = field(default_factory=list)
    tiles: int = 0
    sittings: int = 0
    steps: int = 0
    seconds: float = 0.0
    """On their own clocks."""

    core_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    in_runs: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """As they are recorded."""
        return {
            "runs": self.runs,
            "broken": sorted(self.broken),
            "tiles": self.tiles,
            "sittings": self.sittings,
            "steps": self.steps,
            "hours_on_their_clocks": round(self.seconds / 3600, 1),
            "core_s": round(self.core_s),
            "faults": {str(fault): times for fault, times in self.faults.most_common()},
        }

    def add(self, other: Seen) -> None:
        """Those of another process with it."""
        self.runs += other.runs
        self.broken += other.broken
        self.tiles += other.tiles
        self.sittings += other.sittings
        self.steps += other.steps
        self.seconds += other.seconds
        self.core_s += other.core_s
        self.faults += other.faults
        self.in_runs += other.in_runs


def many(seeds: range, processes: int | None) -> Seen:
    """The runs of these seeds. What breaks is printed at once, how far it is every few seconds."""
    seen, told_at = Seen(), time.monotonic()
    parts = [seeds[begin : begin + AT_ONCE] for begin in range(0, len(seeds), AT_ONCE)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in as_completed([pool.submit(some, part) for part in parts]):
            seen.add(part.result())
            if time.monotonic() - told_at > TELL_EVERY_S:
                told_at = time.monotonic()
                print(f"{seen.runs} of {len(seeds)} runs, {len(seen.broken)} broken", file=sys.stderr, flush=True)
    return seen


def some(seeds: range) -> Seen:
    """The runs of these seeds, one after the other."""
    seen, begun = Seen(runs=len(seeds)), time.process_time()
    for seed in seeds:
        try:
            told = simulate(seed)
        except BrokenError as error:
            seen.broken.append(seed)
            print(f"seed {seed}: {error}\n    python -m tests.simulation --seed {seed}", flush=True)
            continue
        seen.faults += told.hit
        seen.in_runs.update(told.hit.keys())
        seen.tiles, seen.sittings, seen.steps = (
            seen.tiles + told.tiles,
            seen.sittings + told.sittings,
            seen.steps + told.steps,
        )
        seen.seconds += told.seconds
    seen.core_s = time.process_time() - begun
    return seen
