"""How a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ENDED = ("done", "quarantined")
"""States of a run that has nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended; what ``resmap run --json`` prints."""

    run: str
    mosaic: str
    state: str
    """done · quarantined (finished, some tiles given up) · interrupted · out-of-budget · stopped (no worker left)."""

    tiles: Mapping[str, int]
    """planned, done, nodata, failed, quarantined."""

    seconds: float
    worked_tiles: int
    """Tiles mapped this time; the others were finished before."""

    seam: float | None
    """Share of the pixels where windows meet on which they disagree, before they are blended."""

    verified_tiles: int
    problems: tuple[Mapping[str, str], ...] = ()
    """The tiles given up: tile, error, fix."""

    workers: tuple[Mapping[str, Any], ...] = ()
    """Throughput by worker: tiles, tiles_per_s, km2_per_h, busy, and seconds by stage."""

    device: str = ""
    spent_usd: float = 0.0
    """On workers, by all sessions of this run: their number, times hours, times compute.usd_per_gpu_hour."""

    stopped: str = ""
    """Why it ended before its end, and what to do; empty where it did not."""

    @property
    def exit_status(self) -> int:
        """As the command line ends."""
        if self.state == "interrupted":
            return 130
        if self.state == "out-of-budget":
            return 6
        if self.state == "stopped":
            return 1
        return 4 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
