"""The outbox: what waits there is sent until it is taken, or for three days.

A row is one alert for one sink. It is recorded as delivered after it was taken, so a process that dies between the two
sends it again: at least once, with the same key. Each sink has a thread of its own and is left in peace for the rest of
a round once it fails: one that hangs or is down holds up no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from jobs.monitors.alert import Alert
from jobs.monitors.rows import AlertRow
from jobs.monitors.sinks import Sink, sink_of
from jobs.spec import JobSpec, Monitor
from mapper.errors import DeliveryError, MapperError, SinkGoneError, SpecError, told
from mapper.names import slug

FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 6 * 3600.0
"""After the first failure, doubled for each after, and what that grows to. A receiver that says how long to wait is
given more than that where it asks for more, and never more than the longest."""

PATIENCE = timedelta(days=3)
"""After which an alert that nobody took is given up."""

AT_ONCE = 8
"""Sinks that are sent to at a time."""

_ERROR_CHARS = 500

SinkOf: TypeAlias = Callable[[str, str], Sink]
"""Names of a monitor and of a sink of it → the sink. SpecError where there is none."""


class Outbox(Protocol):
    """Where rows wait; ``jobs/monitors/store.py`` keeps it."""

    def waiting(self, now: datetime) -> Sequence[AlertRow]:
        """Rows that are due, the oldest first."""

    def delivered(self, key: str) -> None:
        """Record that a row was taken."""

    def failed(self, key: str, error: str, next_try: datetime | None) -> None:
        """Record an attempt that failed, and when the next one is due; None where it is given up."""


def rows_of(alerts: Iterable[Alert], monitor: Monitor, *, now: datetime) -> tuple[AlertRow, ...]:
    """The rows to put into the outbox: one an alert and sink of its rule, of all sinks where the rule names none.

    Where the monitor has no sinks an alert is a row that nobody waits for: it is known, and is not told twice.
    """
    every = [sink.name for sink in monitor.sinks] or [""]
    sinks = {rule.name: rule.sinks or every for rule in monitor.alerts}
    return tuple(
        AlertRow(
            key=f"{alert.key}-{slug(sink)}", monitor=alert.monitor, due=alert.due, sink=sink, body=alert.body(),
            created=now, next_try=now if sink else None, delivered=None if sink else now,
        )
        for alert in alerts
        for sink in sinks[alert.rule]
    )  # fmt: skip


def deliver(store: Outbox, sinks: SinkOf, now: datetime, *, monitor: str | None = None) -> int:
    """Send what is due, each sink in a thread of its own.

    Args:
        store: the outbox.
        sinks: see ``sinks_of_jobs``.
        now: the time.
        monitor: whose alerts; None for those of all.

    Returns:
        How many were taken.
    """
    by_sink: dict[tuple[str, str], list[AlertRow]] = defaultdict(list)
    for row in store.waiting(now):
        if monitor is not None and row.monitor != monitor:
            continue
        by_sink[row.monitor, row.sink].append(row)
    if not by_sink:
        return 0
    with ThreadPoolExecutor(min(AT_ONCE, len(by_sink)), thread_name_prefix="alerts") as pool:
        return sum(pool.map(lambda rows: _deliver_in_order(store, sinks, rows, now), by_sink.values()))


def sinks_of_jobs(jobs: Mapping[str, JobSpec]) -> SinkOf:
    """The sinks of monitors, by the monitor's name and the sink's."""

    def found(monitor: str, name: str) -> Sink:
        job = jobs.get(monitor)
        specs = job.monitor.sinks if job is not None and job.monitor is not None else ()
        spec = next((spec for spec in specs if spec.name == name), None)
        if spec is None:
            raise SpecError(
                f"monitor {told(monitor, 60)!r} has no sink {told(name, 60)!r} any more",
                fix="add it again, or let its alerts be given up",
            )
        return sink_of(spec)

    return found


def wait_after(attempts: int, asked_s: float | None) -> timedelta:
    """How long to wait before the next attempt.

    Args:
        attempts: those that failed, this one among them: 1 or more.
        asked_s: what the receiver asked for; None where it said nothing.
    """
    ours = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 30))
    return timedelta(seconds=min(LONGEST_WAIT_S, max(ours, asked_s or 0.0)))


def _deliver_in_order(store: Outbox, sinks: SinkOf, rows: Iterable[AlertRow], now: datetime) -> int:
    """Send the rows of one sink until one fails."""
    taken = 0
    gone: MapperError | None = None
    for row in rows:
        error = gone or _failure(sinks, row)
        if error is None:
            store.delivered(row.key)
            taken += 1
            continue
        next_try = now + wait_after(row.attempts + 1, error.wait_s)
        said = told(str(error), _ERROR_CHARS)
        if isinstance(error, SinkGoneError):
            gone = error  # it is not asked again in this round: it said for good
            store.failed(row.key, f"given up: {said}", None)
        elif next_try - row.created > PATIENCE:
            tries = f"{row.attempts + 1} attempts in {PATIENCE.days} days"
            store.failed(row.key, f"given up after {tries}; the last: {said}", None)
        else:
            store.failed(row.key, said, next_try)
            break
    return taken


def _failure(sinks: SinkOf, row: AlertRow) -> MapperError | None:
    """What came of sending one row; None where it was taken."""
    try:
        sinks(row.monitor, row.sink).send(Alert.of(row.body))
    except MapperError as error:
        return error
    except Exception as error:  # one bad sink, or a bug in one, must not keep the others' alerts back
        return DeliveryError(f"{type(error).__name__} in the sink {row.sink}", fix="report it")
    return None
