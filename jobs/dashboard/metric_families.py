"""Every metric there is: its name, kind, labels and what it says. A scrape fills them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mapper.errors import told

LABEL_CHARS = 120
"""A label's value is cut there: sentences and addresses are chosen by strangers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ("run",)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(kind="gauge", name=f"resmap_{name}", help=text, labels=("run", *labels))


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(kind="counter", name=f"resmap_{name}_total", help=text, labels=("run", *labels))


def _of_monitor(kind: Literal["gauge", "counter"], name: str, text: str, *labels: str) -> Family:
    return Family(kind=kind, name=f"resmap_monitor_{name}", help=text, labels=("monitor", *labels))


_RUN = (
    _gauge("run_info", "What a run is; always 1.", "name", "model", "mosaic"),
    _gauge("run_live", "Whether a driver has the run now: 1 or 0."),
    _gauge("run_state", "1 for the state the run is in, 0 for all others.", "state"),
    _gauge("run_updated_timestamp_seconds", "When the newest of what is told happened, seconds since 1970."),
    _gauge("tiles", "Tiles of the run by state; each is in exactly one.", "state"),
    _gauge("tiles_in_hand", "Tiles that workers have now; they count as waiting too."),
    _gauge("mapped_square_meters", "Ground that is mapped."),
    _gauge("eta_seconds", "Time left at the recent pace; it is between low and high four times in five.", "bound"),
    _gauge("spent_usd", "Spent on workers so far."),
    _gauge("idle_usd", "Of what is spent, the part in which GPUs stood idle."),
    _gauge("at_completion_usd", "What it will have cost, between low and high four times in five.", "bound"),
    _gauge("budget_usd", "What the job may spend."),
    _gauge("gpu_hour_usd", "Price of one GPU for an hour, as the job names it."),
)
_WORKER = (
    _gauge("worker_info", "What a worker is; always 1.", "worker", "host", "device"),
    _gauge("worker_start_time_seconds", "When the worker's model was loaded, seconds since 1970.", "worker"),
    _gauge("worker_silent_seconds", "Time since the worker last said something.", "worker"),
    _counter("worker_up_seconds", "Time since its model was loaded.", "worker"),
    _counter("worker_busy_seconds", "Time in which its model computed.", "worker"),
    _counter("worker_wait_seconds", "Time in which its model stood idle, by what it waited for.", "worker", "stage"),
    _counter("worker_work_seconds", "Time of all its threads, by what they did.", "worker", "stage"),
    _counter("worker_tiles", "Tiles it handed in.", "worker"),
    _counter("worker_windows", "Windows its model looked at.", "worker"),
    _counter("worker_windows_reused", "Windows whose answer it had already.", "worker"),
    _counter("worker_pixels", "Pixels asked for, of the tiles it handed in.", "worker"),
    _counter("worker_mapped_square_meters", "Ground of the tiles it handed in, in this sitting.", "worker"),
    _gauge("worker_batch_windows", "Windows it gives its model at a time.", "worker"),
    _gauge("worker_queue_tiles", "Tiles it has, by how far they are.", "worker", "queue"),
    _gauge("worker_memory_peak_bytes", "Memory of its process, at most so far.", "worker"),
    _gauge("worker_gpu_memory_peak_bytes", "Memory it took of its GPU, at most so far.", "worker"),
    _gauge("worker_gpu_memory_bytes", "Memory its GPU has.", "worker"),
    _gauge("worker_gpu_power_watts", "Power its GPU draws.", "worker"),
    _gauge("worker_gpu_temperature_celsius", "Temperature of its GPU.", "worker"),
    _gauge("worker_gpu_utilization_ratio", "Share of time its GPU computes, as the card's driver says.", "worker"),
)
_CALLS = (
    _counter("calls", "Requests to a host, each try, since this dashboard first saw the run.", "kind", "host"),
    _counter("calls_failed", "Of those, the ones that gave an error.", "kind", "host"),
    _counter("calls_throttled", "Of the failed, the ones told to come slower (429, 503).", "kind", "host"),
    _counter("calls_moved_bytes", "Bytes that went to the host or came from it.", "kind", "host"),
    Family(
        kind="histogram",
        name="resmap_calls_duration_seconds",
        help="Requests by how long they took. The sum of the times is not kept.",
        labels=("run", "kind", "host"),
    ),
)
_MONITOR = (
    _of_monitor("gauge", "active", "1 for a monitor that looks when it is due, 0 for one that is paused."),
    _of_monitor(
        "gauge",
        "last_success_timestamp_seconds",
        "When a tick last looked and knew, seconds since 1970; news or none.",
    ),
    _of_monitor("gauge", "interval_seconds", "From one due instant to the next, the longest of the coming ones."),
    _of_monitor(
        "gauge", "lag_seconds", "Since the first due instant that no tick has answered; 0 where there is none."
    ),
    _of_monitor("counter", "ticks_total", "Ticks that are over.", "state"),
    _of_monitor("counter", "items_total", "Items that ticks found: new, changed, gone, set_aside.", "kind"),
    _of_monitor("counter", "tiles_total", "Tiles mapped anew."),
    _of_monitor("gauge", "alerts_waiting", "Alerts that nobody has taken yet, one for each sink."),
    _of_monitor("gauge", "alerts_given_up", "Alerts that nobody took, and that are not sent again."),
)
_LEFT_OUT = (
    Family(kind="gauge", name="resmap_runs_left_out", help="Runs that are not told of: there are too many.", labels=()),
    Family(kind="gauge", name="resmap_runs_unreadable", help="Runs whose files cannot be read.", labels=()),
    Family(kind="gauge", name="resmap_workers_left_out", help="Workers not told of: there are too many.", labels=()),
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (*_RUN, *_WORKER, *_CALLS, *_MONITOR, *_LEFT_OUT)}
"""Every metric there is, by name."""


class Made:
    """The metrics of one scrape, as they are filled."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily] = {}
        self._told: set[tuple[str, ...]] = set()

    def put(self, name: str, labels: Sequence[str], value: float | None) -> None:
        """Add one number; what nobody knows is left out. Of two with the same labels the first counts.

        A scrape in which two have the same name and labels is refused as a whole, and cut labels may be the same.
        """
        labels = [label(text) for text in labels]
        if value is None or not math.isfinite(value) or (name, *labels) in self._told:
            return
        self._told.add((name, *labels))
        kind = CounterMetricFamily if FAMILIES[name].kind == "counter" else GaugeMetricFamily
        held = self._families.get(name) or kind(name, FAMILIES[name].help, labels=FAMILIES[name].labels)
        assert not isinstance(held, HistogramMetricFamily)
        held.add_metric(labels, float(value))
        self._families[name] = held

    def put_classes(self, name: str, labels: Sequence[str], classes: Sequence[tuple[str, int]]) -> None:
        """Add one histogram, by rising upper bounds; each class holds those below it too."""
        labels = [label(text) for text in labels]
        if (name, *labels) in self._told:
            return
        self._told.add((name, *labels))
        held = self._families.get(name) or HistogramMetricFamily(
            name, FAMILIES[name].help, labels=FAMILIES[name].labels
        )
        assert isinstance(held, HistogramMetricFamily)
        held.add_metric(labels, classes, None)
        self._families[name] = held

    def families(self) -> list[Metric]:
        """All that have a number."""
        return list(self._families.values())


@lru_cache(maxsize=8192)
def label(text: str) -> str:
    """Text of strangers as a label's value: one line, no control characters, not endless."""
    cut = told(text.replace("\n", " "), LABEL_CHARS)
    return cut.encode(errors="replace").decode()
