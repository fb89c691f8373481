"""What is wrong with a mosaic, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["shard", "level", "extra", "metadata", "part", "run"]
"""A tile's own shards · a shard of a coarser level · what nobody has recorded, nor will write again · the mosaic's
documents and coordinates · a part of a ledger · another file of a run."""

REDO = "`resmap run JOB --repair` maps it again"
REBUILD = "`resmap run JOB --repair` builds it again"
REWRITE = "`resmap run JOB --repair` writes it anew"
REMOVE = "`resmap run JOB --repair` takes it away"
FROM_COPY = "bring it back from a copy of the mosaic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is not as it should be."""

    run: str
    """The run that answers for it; empty where none does."""

    tile: str
    """Zone, level, tile, time step and prompt; or the file, where it is no tile."""

    reason: str
    fix: str
    """What to do."""

    kind: Kind
    row: int | None = None
    """Of the run's plan, where mapping that tile again mends it."""

    key: str = ""
    """In the store, what is to be taken away; of a coarser level, the shard as its ledger calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found."""

    checked: int
    """Tiles read back."""

    finished: int
    """Tiles that the ledgers call finished: of them some are read back, or all."""

    bad: tuple[Fault, ...]
    unfinished: int
    """Planned tiles that no run has finished."""

    full: bool
    bytes_compared: bool = True
    """Whether stored bytes were compared too, and not the pixels alone: that needs the edition of zstd that wrote."""

    unrecorded: int = 0
    """Shards that a run which was stopped had written and not yet recorded. They are no fault: it writes them again."""

    @property
    def redo(self) -> dict[str, list[str]]:
        """Run → the tiles that it must map again, by name."""
        found: dict[str, dict[str, None]] = {}
        for fault in self.bad:
            if fault.row is not None:
                found.setdefault(fault.run, {})["/".join(fault.tile.split("/")[:-1])] = None
        return {run: list(tiles) for run, tiles in found.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the tiles to redo."""
        return {**asdict(self), "redo": self.redo}

    @property
    def says(self) -> str:
        """In one line."""
        share = "all" if self.full else f"{self.checked:,} of {self.finished:,}, evenly spread; --full reads all"
        return (
            f"{self.checked:,} tiles read back ({share}), {len(self.bad):,} bad, {self.unfinished:,} not finished yet"
        )

    @property
    def says_unrecorded(self) -> str:
        """Of a run that was stopped, in one line; empty where there is nothing to say."""
        if not self.unrecorded:
            return ""
        shards, them = ("1 shard was", "it") if self.unrecorded == 1 else (f"{self.unrecorded:,} shards were", "them")
        return (
            f"{shards} written and not yet recorded when a run was stopped: no damage; "
            f"`resmap run` goes on, or the monitor's next tick does, and writes {them} again"
        )


def joined(reports: Iterable[Report], *, full: bool) -> Report:
    """Several as one."""
    held = list(reports)
    return Report(
        checked=sum(report.checked for report in held),
        finished=sum(report.finished for report in held),
        bad=tuple(fault for report in held for fault in report.bad),
        unfinished=sum(report.unfinished for report in held),
        full=full,
        bytes_compared=all(report.bytes_compared for report in held),
        unrecorded=sum(report.unrecorded for report in held),
    )
