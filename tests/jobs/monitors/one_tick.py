"""One tick in a process of its own, which a test may kill: ``python -m tests.jobs.monitors.one_tick NEWS``."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

from jobs.growth import renewed, taken_up
from jobs.job import Job
from jobs.monitors.mapped import MappedItems
from jobs.monitors.news import News
from jobs.run import start


def main(told: Path) -> None:
    """Do the tick that a file tells of, or what is left of it."""
    said = json.loads(told.read_text())
    job, due = Job.from_dict(said["job"]), datetime.fromisoformat(said["due"])
    prepared = taken_up(job, due)
    if prepared is None:
        news = News(
            new=tuple(said["new"]),
            changed=tuple(said["changed"]),
            gone=tuple((collection, name) for collection, name in said["gone"]),
        )
        prepared = renewed(job, news, MappedItems(job.spec.output.mosaic), monitor="lakes", due=due)
    assert prepared is not None
    start(prepared, local=True).wait(timeout_s=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
