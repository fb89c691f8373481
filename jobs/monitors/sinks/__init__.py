"""Where alerts go: a webhook, a growing file, a STAC collection, e-mail."""

from __future__ import annotations

from typing import Protocol

from jobs.monitors.alert import Alert
from jobs.spec import Monitor, SinkSpec

__all__ = ["Sink", "sink_of", "sinks_of"]


class Sink(Protocol):
    """One receiver of alerts. Threads may share it."""

    def send(self, alert: Alert) -> None:
        """Hand over one alert; what is handed over twice is known by its key.

        Raises:
            SinkGoneError: no more of them, for good.
            MapperError: not this time; ``wait_s`` where the receiver says for how long.
        """


def sinks_of(monitor: Monitor) -> dict[str, Sink]:
    """The sinks of a monitor, by name. Nothing is looked up, made or sent yet.

    Raises:
        SpecError: one of them cannot be one: no address, no server.
    """
    return {spec.name: sink_of(spec) for spec in monitor.sinks}


def sink_of(spec: SinkSpec) -> Sink:
    """One of them.

    Raises:
        SpecError: as ``sinks_of``.
    """
    if spec.webhook is not None:
        from jobs.monitors.sinks.webhook import Webhook

        return Webhook(spec.webhook, secret=spec.secret)
    if spec.file is not None:
        from jobs.monitors.sinks.files import GrowingFile

        return GrowingFile(spec.file)
    if spec.stac is not None:
        from jobs.monitors.sinks.stac import AlertCatalog

        return AlertCatalog(spec.stac)
    from jobs.monitors.sinks.email import Mail

    assert spec.email is not None  # as SinkSpec has seen; the two others go with it
    assert spec.smtp is not None
    assert spec.sender is not None
    return Mail(spec.email, smtp=spec.smtp, sender=spec.sender)
