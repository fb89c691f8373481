"""What is said of a monitor in sentences: its rules, whom it tells, what is not as it should be."""

from __future__ import annotations

from datetime import datetime

from jobs.dashboard.monitor_views import TickLine
from jobs.dashboard.words import count, moment, surface
from jobs.spec import AlertSpec, SinkSpec


def rule_says(rule: AlertSpec) -> str:
    """``new houses: building appeared, more than 1 ha, in the whole area, to hook``."""
    over = surface(rule.area_m2) if rule.area_m2 is not None else f"{count(rule.count)} places"
    where = "in the whole area" if rule.within is None else "in each given place"
    whom = ", ".join(rule.sinks) or "all sinks"
    return f"{rule.name}: {rule.prompt} {rule.change}, more than {over}, {where}, to {whom}"


def sink_says(sink: SinkSpec) -> str:
    """Name and kind: where it goes may be a secret."""
    kind = next(kind for kind in ("webhook", "file", "stac", "email") if getattr(sink, kind) is not None)
    return f"{sink.name} ({kind})"


def trouble_of(
    last: TickLine | None,
    *,
    next_try: datetime | None,
    overdue: bool,
    waits_since: datetime | None,
    alerts_tried: int,
    alerts_given_up: int,
    alert_error: str,
) -> str:
    """What is not as it should be, the worst first; empty where all is well.

    Args:
        last: the tick that was due last.
        next_try: when that is tried again, where it failed.
        overdue: whether more than an interval has passed since the first instant that no tick has answered.
        waits_since: that instant.
        alerts_tried, alerts_given_up: how many were not taken, and will be, and will not be sent again.
        alert_error: why one of them was not.
    """
    if last is not None and last.state == "failed":
        again = f"; it is tried again at {moment(next_try)}" if next_try is not None else ""
        return f"The last look failed: {last.said}{again}. Nothing is lost: the next one finds all that came since."
    if overdue and not (last is not None and last.state == "running"):
        return (
            f"It should have looked at {moment(waits_since)}, and nobody did: "
            "start `resmap monitor serve`, or see that what calls `resmap monitor run --once` does."
        )
    if alerts_tried:
        return f"{_alerts(alerts_tried)} sent and not taken: {alert_error or 'it was not said why'}"
    if alerts_given_up:
        return f"{_alerts(alerts_given_up)} given up: {alert_error or 'it was not said why'}"
    return ""


def _alerts(many: int) -> str:
    return "1 alert was" if many == 1 else f"{count(many)} alerts were"
