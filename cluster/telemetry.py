"""Throughput per worker, summed from what tiles report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.pool import Outcome
from mapper.map_tile import TileResult

STAGES = ("read", "infer", "blend", "write")


@dataclass(slots=True, kw_only=True)
class WorkerSample:
    """What one worker has done so far."""

    worker: str
    tiles: int = 0
    area_km2: float = 0.0
    windows: int = 0
    reused: int = 0
    """Windows of them that a neighbouring tile had the model look at already."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Stage → seconds. Stages of different tiles overlap, so they may add up to more than the wall clock."""

    def rates(self, elapsed_s: float) -> dict[str, float]:
        """Tiles a second, km² an hour, and the share of the time the model was busy."""
        elapsed_s = max(elapsed_s, 1e-9)
        return {
            "tiles_per_s": self.tiles / elapsed_s,
            "km2_per_h": self.area_km2 * 3600 / elapsed_s,
            "busy": min(1.0, self.seconds["infer"] / elapsed_s),
        }


class Telemetry:
    """Samples by worker."""

    def __init__(self) -> None:
        self._samples: dict[str, WorkerSample] = {}

    def record(self, outcome: Outcome, *, area_km2: float) -> None:
        """Count one finished tile."""
        if not isinstance(outcome.result, TileResult):
            return
        sample = self._samples.get(outcome.worker)
        if sample is None:
            sample = WorkerSample(worker=outcome.worker)
            self._samples = dict(sorted({**self._samples, outcome.worker: sample}.items()))
        sample.tiles += 1
        sample.area_km2 += area_km2
        sample.windows += outcome.result.windows
        sample.reused += outcome.result.reused
        for stage in STAGES:
            sample.seconds[stage] += outcome.result.seconds.get(stage, 0.0)

    def samples(self) -> Iterable[WorkerSample]:
        """One a worker, by name."""
        return self._samples.values()
