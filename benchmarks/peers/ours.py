"""The product itself: ``jobs.run.start`` on Ray with one logical GPU, or in one process.

``python -m benchmarks.peers.ours WORK [local]``

All that a user gets: search, frozen plan, ledger with checksums, coarser levels, and tiles read back at the end.
``work_s`` is what the run itself counts: from when its workers were ready to the last entry in the ledger, with all
levels built.
"""

from __future__ import annotations

import sys

from benchmarks.peers.work import Work
from jobs.job import Job
from jobs.run import start


def main() -> None:
    """Map the work."""
    work = Work.asked()
    local = "local" in sys.argv[2:]
    summary = start(job_of(work), gpus=None if local else 1, local=local).wait()
    if summary.state != "done":
        raise SystemExit(f"the run ended as {summary.state}: {summary.problems[:3]}")
    (worker,) = summary.workers
    work.hand_in(
        work_s=worker["tiles"] / worker["tiles_per_s"],
        windows=worker["windows"],
        tiles=worker["tiles"],
        stage_s=worker["seconds"],
    )


def job_of(work: Work) -> Job:
    """The work as a user would ask for it; what is not said is as it comes."""
    return Job.from_dict(
        {
            "name": "benchmark",
            "area": {"wkt": work.area},
            "imagery": {"catalog": work.catalog, "bands": ["red", "green", "blue"]},
            "grid": {"shard_px": work.shard_px, "chunk_px": work.chunk_px},
            "prompts": [{"name": f"prompt {n}", "expression": text} for n, text in enumerate(work.prompts)],
            "model": {"name": work.model, "weights": work.weights},
            "windows": {"overlap_px": work.overlap_px},
            "output": {"mosaic": work.mosaic},
        }
    )


if __name__ == "__main__":
    main()
