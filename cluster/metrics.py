"""What a worker says of itself, through Ray's own metrics: on the page that each node of a cluster has for Prometheus.

Ray puts ``ray_`` before each name, and ``_total`` behind what only grows: ``ray_resmap_worker_tiles_total``. Labels are
the worker, its host, and where there are several of a kind the stage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cluster.readings import Reading

_log = logging.getLogger(__name__)

Said: TypeAlias = "float | Mapping[str, float] | None"
"""One number, none, or one a stage."""

COUNTERS: Mapping[str, tuple[str, Callable[[Reading], Said]]] = {
    "up_seconds": ("Seconds since the model was loaded.", lambda said: said.up_s),
    "busy_seconds": ("Seconds in which the model computed.", lambda said: said.busy_s),
    "wait_seconds": ("Seconds in which the model stood idle, by what it waited for.", lambda said: said.waited_s),
    "work_seconds": ("Seconds of all threads, by what they did.", lambda said: said.work_s),
    "tiles": ("Tiles handed in.", lambda said: said.tiles),
    "windows": ("Windows looked at.", lambda said: said.windows),
    "windows_reused": ("Windows that a neighbouring tile had looked at already.", lambda said: said.reused),
    "pixels": ("Pixels asked for, of tiles handed in.", lambda said: said.pixels),
    "calls": ("Requests, to imagery and to the store.", lambda said: _by_kind(said, "done")),
    "calls_failed": ("Requests that gave an error.", lambda said: _by_kind(said, "failed")),
    "calls_throttled": ("Requests that were told to come slower.", lambda said: _by_kind(said, "throttled")),
}
"""Name → what it is, and its value. They only grow."""

GAUGES: Mapping[str, tuple[str, Callable[[Reading], Said]]] = {
    "batch_windows": ("Windows given to the model at a time.", lambda said: said.batch),
    "tiles_in_hand": ("Tiles in hand.", lambda said: said.in_hand),
    "queue_tiles": ("Tiles in hand, by what they are at.", lambda said: said.queues),
    "memory_peak_bytes": ("Memory of the process, at most so far.", lambda said: said.host_peak_bytes),
    "gpu_memory_peak_bytes": ("Memory of the GPU taken, at most so far.", lambda said: said.device_peak_bytes),
    "gpu_memory_bytes": ("Memory of the GPU.", lambda said: said.device_total_bytes),
    "gpu_power_watts": ("What the GPU draws.", lambda said: said.power_w),
    "gpu_temperature_celsius": ("How warm the GPU is.", lambda said: said.temperature_c),
    "gpu_utilization_ratio": ("Load of the GPU, as its driver says, 0 to 1.", lambda said: said.utilization),
}


class RayMetrics:
    """The metrics of one worker; to be made inside its Ray actor. Nothing that goes wrong here reaches anybody else:
    it is said once in the log, and no metric is given any more."""

    def __init__(self, worker: str, host: str) -> None:
        self._labels = {"worker": worker, "host": host}
        self._made: dict[str, Any] = {}
        self._counted: dict[tuple[str, str], float] = {}
        self._broken = False

    def say(self, reading: Reading) -> None:
        """Give Ray what the worker says now."""
        if self._broken:
            return
        try:
            for name, (text, value) in COUNTERS.items():
                for stage, number in _stages(value(reading)).items():
                    self._count(name, text, stage, number)
            for name, (text, value) in GAUGES.items():
                for stage, number in _stages(value(reading)).items():
                    self._metric("Gauge", name, text, stage).set(number, tags=_tags(stage))
        except Exception as error:
            self._broken = True
            _log.warning("Ray takes no metrics of this worker: %s: %s", type(error).__name__, error)

    def _count(self, name: str, text: str, stage: str, number: float) -> None:
        more = number - self._counted.get((name, stage), 0.0)
        if more > 0:  # Ray counts up only
            self._metric("Counter", name, text, stage).inc(more, tags=_tags(stage))
            self._counted[name, stage] = number

    def _metric(self, kind: str, name: str, text: str, stage: str) -> Any:
        if name not in self._made:
            from ray.util import metrics

            keys = ("worker", "host", "stage") if stage else ("worker", "host")
            made = getattr(metrics, kind)(f"resmap_worker_{name}", description=text, tag_keys=keys)
            made.set_default_tags(self._labels)
            self._made[name] = made
        return self._made[name]


def _stages(value: Said) -> Mapping[str, float]:
    """Stage → number; one that has no stages under no name, and nothing where nothing is known."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {"": value}


def _tags(stage: str) -> dict[str, str]:
    return {"stage": stage} if stage else {}


def _by_kind(reading: Reading, field: str) -> dict[str, float]:
    """Requests by what they were for, whichever host they went to."""
    found: dict[str, float] = {}
    for calls in reading.calls:
        found[calls.kind] = found.get(calls.kind, 0) + getattr(calls, field)
    return found
