"""The runs of one mosaic in their turn: ordinary ones first, then those in which a monitor renewed what had changed.

What a later renewing run planned is its own from then on: what earlier runs say of those tiles is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.ledger import RunFolder, reading_runs
from mapper.errors import MosaicError
from mapper.storage import EngineName, state_folder

READ_AT_ONCE = 16
"""Files that are fetched at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What makes a run a renewing one, as ``run.json`` has it."""

    number: int
    """1, 2, …: its turn among the renewing runs of its mosaic."""

    monitor: str
    due: datetime
    """Of the tick whose run it is, aware, UTC."""

    sources_from: int
    """What the source layer holds for row 0 of its item table."""

    gone: tuple[tuple[str, str], ...] = ()
    """Collection and id of the items that were deleted or superseded then; what came in their place is in its table."""

    def facts(self) -> dict[str, Any]:
        """As they are kept."""
        return {
            "renews": self.number,
            "monitor": self.monitor,
            "due": self.due.astimezone(UTC).isoformat(),
            "sources_from": self.sources_from,
            "gone": [list(key) for key in self.gone],
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Renewal | None:
        """That of a run with these facts; None for an ordinary run."""
        if "renews" not in facts:
            return None
        return cls(
            number=int(facts["renews"]),
            monitor=str(facts["monitor"]),
            due=datetime.fromisoformat(facts["due"]),
            sources_from=int(facts["sources_from"]),
            gone=tuple((str(collection), str(name)) for collection, name in facts["gone"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedRun:
    """One run of a mosaic, and what its file says of it."""

    folder: RunFolder
    facts: Mapping[str, Any]
    renewal: Renewal | None

    @property
    def turn(self) -> int:
        """Its number among the renewing runs; 0 for an ordinary one."""
        return 0 if self.renewal is None else self.renewal.number

    @property
    def steps(self) -> tuple[datetime, ...]:
        """What ``step`` of its plan numbers."""
        return tuple(datetime.fromisoformat(step) for step in self.facts["steps"])

    @property
    def created(self) -> datetime:
        """When it was planned; the first of all moments where nobody knows any more."""
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(str(self.facts.get("created")))
        return datetime.min.replace(tzinfo=UTC)


def runs_in_turn(mosaic: str, *, engine: EngineName | None = None) -> list[TurnedRun]:
    """The runs of a mosaic that have a plan, in the order in which they speak: of two, the later one is right.

    Raises:
        MosaicError: a file of one is damaged.
    """

    def run_in(path: str) -> TurnedRun:
        folder = RunFolder(mosaic, path.partition("/")[0], engine=engine)
        facts = folder.facts()
        return TurnedRun(folder=folder, facts=facts, renewal=Renewal.of(facts))

    with reading_runs(mosaic):
        paths = state_folder(mosaic, engine=engine).child("runs").names("*/run.json")
        with ThreadPoolExecutor(READ_AT_ONCE) as threads:  # after a year of days, one by one takes a bucket a minute
            runs = list(threads.map(run_in, paths))
    return sorted(runs, key=lambda run: (run.turn, str(run.facts.get("created", "")), run.folder.run))


def last_renewal(mosaic: str, *, engine: EngineName | None = None) -> Renewal | None:
    """That of the last renewing run of a mosaic; None where there was none."""
    runs = runs_in_turn(mosaic, engine=engine)
    return runs[-1].renewal if runs else None


def kept_by(mosaic: str, last: Renewal) -> MosaicError:
    """What a job is told that wants to map something in a mosaic that a monitor keeps."""
    return MosaicError(
        f"monitor {last.monitor!r} keeps this mosaic, and what a job left undone in it is the monitor's",
        fix=f"`resmap monitor run {last.monitor}` goes on with it; for new sentences, choose another output.mosaic",
        mosaic=mosaic,
    )
