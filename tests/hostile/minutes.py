"""One parser fed for a while."""

from __future__ import annotations

import resource
from collections import Counter
from typing import Any

from tests.hostile import fuzz_documents, fuzz_raster

RASTER = "raster"
PARSERS = (*fuzz_documents.PARSERS, RASTER)

AT_ONCE = 500
MOST_BYTES = 8 * 1024**3
"""Of address space: torch and GDAL take some of it before anything is read."""


def for_a_while(what: str, seconds: float, seed: int) -> dict[str, Any]:
    """How many inputs a parser was given within so many seconds of a core, what came of them, and the faults."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    count: Counter[str] = Counter()
    faults: list[str] = []
    runs = 0
    while _core_s() < seconds:
        said, found = _some(what, seed + runs)
        count.update(said)
        faults += found
        runs += AT_ONCE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "runs": runs,
        "core_s": round(_core_s()),
        "peak_mb": peak // 1024,
        "became": dict(count.most_common()),
        "faults": faults[:20],
    }


def _some(what: str, seed: int) -> tuple[Counter[str], list[str]]:
    if what == RASTER:
        counted, bad = fuzz_raster.fuzz(AT_ONCE, seed)
        return Counter(counted), [str(one) for one in bad]
    told, faults = fuzz_documents.fuzz(what, AT_ONCE, seed)
    again = f"python -m tests.hostile.fuzz_documents --what {what} --runs 1 --seed"
    return told, [f"{again} {number}: {fault}" for fault, number in faults.items()]


def _core_s() -> float:
    """This process's and its children's: rasters are read in a child."""
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in of)
