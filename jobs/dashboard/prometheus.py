"""What Prometheus is told: ``/metrics``, made anew at each scrape from what the pages are made of.

Counters of one worker are those of its actor: one that takes another's place begins at 0, as Prometheus expects of a
process that was restarted, and ``resmap_worker_start_time_seconds`` says so. Sums over workers are left to the one who
asks, but for requests (``call_tally.py``), whose classes by worker would be tens of thousands of series.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cluster.readings import LATENCY_MS, WAITS, WORK, Calls, Reading
from jobs.dashboard.call_tally import CallTally, Peer
from jobs.dashboard.metric_families import Made
from jobs.dashboard.monitor_views import MonitorLine
from jobs.dashboard.views import TILE_STATES, GpuRow, RunLine, RunPage, RunState, Span
from jobs.stac.provenance import clean
from jobs.telemetry import Live
from mapper.errors import MapperError

RUNS = 100
"""At most so many runs are told of, those under way first."""

MONITORS = 1000
"""At most so many monitors."""

WORKERS = 2048
"""At most so many workers, of all runs together."""

ENDED_WITHIN = timedelta(hours=1)
"""How long a run that is over is still told of, so that its last numbers are seen."""

QUEUES = ("waiting", "reading", "ready", "unwritten", "writing")
"""Of a worker, as ``Reading.queues`` names them."""

ReadLive: TypeAlias = Callable[[RunLine], Live | None]


class Source(Protocol):
    """What a scrape asks; ``Queries`` has it."""

    def runs(self) -> tuple[RunLine, ...]:
        """All runs."""

    def page(self, key: str) -> RunPage:
        """All panels of one."""

    def monitors(self) -> tuple[MonitorLine, ...]:
        """All monitors."""


class Exporter:
    """Answers scrapes. One for the life of the dashboard; threads share it."""

    def __init__(self, source: Source, live: ReadLive | None = None) -> None:
        """Nothing is read yet.

        Args:
            source: whatever the pages are made of.
            live: the newest word of a run's workers; from beside its mosaic where left out.
        """
        self._source = source
        self._live = live or _beside_the_mosaic
        self._tallies: dict[str, CallTally] = {}
        self._lock = threading.Lock()

    def answer(self, accept: str = "", *, now: datetime | None = None) -> tuple[bytes, str]:
        """The text for one scrape, and its content type.

        Args:
            accept: the request's Accept header: OpenMetrics for whoever asks for it.
            now: aware; the clock's where left out.
        """
        encode, content_type = choose_encoder(accept)
        with self._lock:  # two scrapers would count the same requests twice
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Collected(self._families(now or datetime.now(UTC))))
            return encode(registry), content_type

    def _families(self, now: datetime) -> list[Metric]:
        lines = self._source.runs()
        wanted = _told_of(lines, now)
        told_of, more = wanted[:RUNS], len(wanted) - len(wanted[:RUNS])
        made = Made()
        room, unreadable, workers_left_out = WORKERS, 0, 0
        for line in told_of:
            try:
                page = self._source.page(line.id)
            except MapperError:
                unreadable += 1
                continue
            _tell_run(made, page)
            live = self._heard(line)
            workers = live.workers if live else ()
            _tell_workers(made, page, live, most=room)
            workers_left_out += max(0, len(workers) - room)
            room = max(0, room - len(workers))
            for peer, calls in self._calls(line.id, live.callers if live else ()).items():
                _tell_calls(made, line.id, peer, calls)
        self._tallies = {line.id: self._tallies[line.id] for line in told_of if line.id in self._tallies}
        with suppress(MapperError):  # runs are told of where monitors cannot be read
            for monitor in self._source.monitors()[:MONITORS]:
                _tell_monitor(made, monitor, now)
        made.put("resmap_runs_left_out", (), more)
        made.put("resmap_runs_unreadable", (), unreadable)
        made.put("resmap_workers_left_out", (), workers_left_out)
        return made.families()

    def _heard(self, line: RunLine) -> Live | None:
        """The newest word of a run's workers; None where its store does not give it this time."""
        try:
            return self._live(line)
        except MapperError:
            return None

    def _calls(self, key: str, readings: Sequence[Reading]) -> Mapping[Peer, Calls]:
        if key not in self._tallies:
            self._tallies[key] = CallTally(readings)
        return self._tallies[key].take(readings)


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _told_of(lines: Iterable[RunLine], now: datetime) -> list[RunLine]:
    """The runs that are under way, and then those that have just ended, the latest first."""
    recent = [line for line in lines if line.live or (line.updated and now - line.updated <= ENDED_WITHIN)]
    ever = datetime.min.replace(tzinfo=UTC)
    return sorted(recent, key=lambda line: (line.live, line.updated or ever), reverse=True)


def _tell_run(made: Made, page: RunPage) -> None:
    line, progress, cost, run = page.line, page.progress, page.cost, page.line.id
    made.put("resmap_run_info", (run, line.name, page.model, clean(line.mosaic)), 1)
    made.put("resmap_run_live", (run,), line.live)
    for state in get_args(RunState):
        made.put("resmap_run_state", (run, state), line.state == state)
    made.put("resmap_run_updated_timestamp_seconds", (run,), page.as_of.timestamp())
    for state in TILE_STATES:
        made.put("resmap_tiles", (run, state), getattr(progress, state))
    made.put("resmap_tiles_in_hand", (run,), progress.in_hand)
    made.put("resmap_mapped_square_meters", (run,), progress.mapped_km2 * 1e6)
    _put_span(made, "resmap_eta_seconds", run, progress.eta_s)
    made.put("resmap_spent_usd", (run,), cost.spent_usd)
    made.put("resmap_idle_usd", (run,), cost.idle_usd)
    _put_span(made, "resmap_at_completion_usd", run, cost.at_completion_usd)
    made.put("resmap_budget_usd", (run,), cost.budget_usd)
    made.put("resmap_gpu_hour_usd", (run,), cost.usd_per_gpu_hour)


def _put_span(made: Made, name: str, run: str, span: Span | None) -> None:
    if span is not None:
        made.put(name, (run, "low"), span.low)
        made.put(name, (run, "high"), span.high)


def _tell_workers(made: Made, page: RunPage, live: Live | None, *, most: int) -> None:
    """What has been counted stays while the run is told of; what is so now ends with the run.

    Of a seat that is listed twice, the actor that began last is told of.
    """
    if live is None:
        return
    rows = {row.worker: row for row in page.gpus}
    for worker in sorted(live.workers, key=lambda worker: worker.reading.began, reverse=True)[:most]:
        reading, seat = worker.reading, (page.line.id, worker.reading.worker)
        _tell_counts(made, seat, reading)
        made.put("resmap_worker_mapped_square_meters_total", seat, worker.area_km2 * 1e6)
        if page.line.live and not live.over:
            _tell_now(made, seat, reading, rows.get(reading.worker))


def _tell_counts(made: Made, seat: tuple[str, str], reading: Reading) -> None:
    made.put("resmap_worker_info", (*seat, reading.host, reading.device), 1)
    made.put("resmap_worker_start_time_seconds", seat, reading.began or None)
    made.put("resmap_worker_up_seconds_total", seat, reading.up_s)
    made.put("resmap_worker_busy_seconds_total", seat, reading.busy_s)
    for stage in WAITS:
        made.put("resmap_worker_wait_seconds_total", (*seat, stage), reading.waited_s.get(stage))
    for stage in WORK:
        made.put("resmap_worker_work_seconds_total", (*seat, stage), reading.work_s.get(stage))
    made.put("resmap_worker_tiles_total", seat, reading.tiles)
    made.put("resmap_worker_windows_total", seat, reading.windows)
    made.put("resmap_worker_windows_reused_total", seat, reading.reused)
    made.put("resmap_worker_pixels_total", seat, reading.pixels)


def _tell_now(made: Made, seat: tuple[str, str], reading: Reading, row: GpuRow | None) -> None:
    made.put("resmap_worker_silent_seconds", seat, row.heard_s if row else None)
    made.put("resmap_worker_batch_windows", seat, reading.batch)
    for queue in QUEUES:
        made.put("resmap_worker_queue_tiles", (*seat, queue), reading.queues.get(queue))
    made.put("resmap_worker_memory_peak_bytes", seat, reading.host_peak_bytes)
    made.put("resmap_worker_gpu_memory_peak_bytes", seat, reading.device_peak_bytes)
    made.put("resmap_worker_gpu_memory_bytes", seat, reading.device_total_bytes)
    made.put("resmap_worker_gpu_power_watts", seat, reading.power_w)
    made.put("resmap_worker_gpu_temperature_celsius", seat, reading.temperature_c)
    made.put("resmap_worker_gpu_utilization_ratio", seat, reading.utilization)


def _tell_calls(made: Made, run: str, peer: Peer, calls: Calls) -> None:
    labels = (run, *peer)
    made.put("resmap_calls_total", labels, calls.done)
    made.put("resmap_calls_failed_total", labels, calls.failed)
    made.put("resmap_calls_throttled_total", labels, calls.throttled)
    made.put("resmap_calls_moved_bytes_total", labels, calls.moved_bytes)
    bounds = [f"{upper / 1000:g}" for upper in LATENCY_MS] + ["+Inf"]
    below = [sum(calls.took[: number + 1]) for number in range(len(bounds))]
    made.put_classes("resmap_calls_duration_seconds", labels, [*zip(bounds, below, strict=True)])


def _tell_monitor(made: Made, line: MonitorLine, now: datetime) -> None:
    of = (line.name,)
    made.put("resmap_monitor_active", of, line.state == "active")
    if line.last_success_at is not None:
        made.put("resmap_monitor_last_success_timestamp_seconds", of, line.last_success_at.timestamp())
    made.put("resmap_monitor_interval_seconds", of, line.interval_s)
    waits = line.waits_since
    made.put("resmap_monitor_lag_seconds", of, 0 if waits is None else max(0.0, (now - waits).total_seconds()))
    for state, count in line.ticks.items():
        made.put("resmap_monitor_ticks_total", (line.name, state), count)
    for kind, found in (
        ("new", line.new_items), ("changed", line.changed_items), ("gone", line.gone_items),
        ("set_aside", line.set_aside),
    ):  # fmt: skip
        made.put("resmap_monitor_items_total", (line.name, kind), found)
    made.put("resmap_monitor_tiles_total", of, line.tiles)
    made.put("resmap_monitor_alerts_waiting", of, line.alerts_waiting)
    made.put("resmap_monitor_alerts_given_up", of, line.alerts_given_up)


def _beside_the_mosaic(line: RunLine) -> Live | None:
    from jobs.ledger import RunFolder

    return RunFolder(line.mosaic, line.run).live()
