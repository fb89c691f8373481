"""How pages say figures: with their unit, in few digits; what nobody knows is a dash, never a 0."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from jobs.dashboard.monitor_views import TickState
from jobs.dashboard.views import Span

UNKNOWN = "–"

WAIT_WORDS = {
    "read": "reads",
    "decode": "decoding",
    "copy": "copies to the GPU",
    "blend": "cutting and blending",
    "encode": "encoding",
    "write": "writes",
    "tasks": "a tile to do",
}
"""What a model waits for, as it follows "waits for"; by ``cluster.readings.WAITS``."""

TILE_WORDS = {
    "waiting": "waiting",
    "in_hand": "in hand",
    "done": "done",
    "nodata": "no imagery",
    "failed": "failed",
    "quarantined": "quarantined",
}
"""States of tiles; those in hand are a part of those waiting."""

RUN_MARKS = {
    "queued": "○",
    "planned": "○",
    "running": "▶",
    "done": "✓",
    "quarantined": "▲",
    "interrupted": "‖",
    "out-of-budget": "$",
    "stopped": "■",
    "cancelled": "■",
    "unknown": "?",
}
"""A mark beside each state of a run, so that none is told by its colour alone."""

MONITOR_MARKS = {
    "active": "●",
    "paused": "‖",
    "running": "▶",
    "done": "✓",
    "nothing": "–",
    "failed": "▲",
    "skipped": "»",
    "replaced": "↷",
    "waiting": "○",
    "delivered": "✓",
    "given up": "▲",
}
"""Likewise of monitors, their ticks and their alerts."""

TICK_WORDS: Mapping[TickState, str] = {
    "running": "at work",
    "done": "mapped",
    "nothing": "no news",
    "failed": "failed",
    "skipped": "skipped",
    "replaced": "replaced",
}
"""What became of a tick."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def figure(value: float | None, unit: str = "") -> str:
    """Three digits that matter, thousands apart: ``0.42``, ``12.3``, ``1,230 km²/h``."""
    if value is None or value != value:
        return UNKNOWN
    size = abs(value)
    places = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.095 else 3
    said = f"{value:,.{places}f}"
    return f"{said}\u00a0{unit}" if unit else said


def count(value: int | None) -> str:
    """A whole number, thousands apart."""
    return UNKNOWN if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """``58 %``; what is there but rounds to nothing is said to be less than 1 %."""
    if value is None or value != value:
        return UNKNOWN
    return "<1\u00a0%" if 0 < value < 0.005 else f"{100 * value:.0f}\u00a0%"


def memory(size_bytes: float | None) -> str:
    """Bytes as MiB or GiB."""
    if size_bytes is None:
        return UNKNOWN
    return figure(size_bytes / 2**30, "GiB") if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f}\u00a0MiB"


def traffic(bytes_per_s: float | None) -> str:
    """Bytes a second, in thousands of thousands as networks count."""
    return UNKNOWN if bytes_per_s is None else figure(bytes_per_s / 1e6, "MB/s")


def duration(seconds: float | None) -> str:
    """``<0.1 s``, ``0.4 s``, ``42 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 0.05:
        return "<0.1\u00a0s"
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s".replace(".0", "")
    if seconds < 100:
        return f"{seconds:.0f}\u00a0s"
    minutes = round(seconds / _MINUTE)
    if minutes < 100:
        return f"{minutes}\u00a0min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}\u00a0h {minutes}\u00a0min" if minutes else f"{hours}\u00a0h"
    days, hours = divmod(hours, 24)
    return f"{days}\u00a0d {hours}\u00a0h" if hours else f"{days}\u00a0d"


def left(seconds: Span | None) -> str:
    """``12 to 15 minutes left``: both ends in the unit of the longer one."""
    if seconds is None:
        return UNKNOWN
    for unit, per, until, places in (
        ("second", 1, 100, 0),
        ("minute", _MINUTE, 100 * _MINUTE, 0),
        ("hour", _HOUR, 48 * _HOUR, 1),
        ("day", _DAY, float("inf"), 1),
    ):
        if seconds.high < until:
            low, high = (f"{end / per:.{places}f}".removesuffix(".0") for end in (seconds.low, seconds.high))
            if high == "0":
                return "less than a second left"
            return (
                f"about {high} {unit}{'' if high == '1' else 's'} left"
                if low == high
                else f"{low} to {high} {unit}s left"
            )
    raise AssertionError("days have no end")


def usd(value: float | Span | None) -> str:
    """Dollars, or a range of them: cents where they matter."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Span):
        low, high = usd(value.low), usd(value.high)
        return high if low == high else f"{low} to {high}"
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}" if value >= 0.0001 else "<$0.0001"


def moment(at: datetime | None) -> str:
    """``2024-06-01 12:30:00 UTC``."""
    return UNKNOWN if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime | None) -> str:
    """The time of the day, UTC."""
    return UNKNOWN if at is None else f"{at.astimezone(UTC):%H:%M:%S}"


def zoned(at: datetime | None, zone: str) -> str:
    """``2024-06-01 14:30 Europe/Paris``: as a clock on the wall of a zone shows it; seconds where they are not 0."""
    return UNKNOWN if at is None else f"{wall(at, zone)} {zone}"


def wall(at: datetime, zone: str) -> str:
    """The same, where the zone stands elsewhere."""
    local = at.astimezone(ZoneInfo(zone))
    return local.strftime("%Y-%m-%d %H:%M:%S" if local.second else "%Y-%m-%d %H:%M")


def minute(at: datetime | None) -> str:
    """``2024-06-01 12:30 UTC``."""
    return UNKNOWN if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def away(at: datetime | None, now: datetime) -> str:
    """``in 3 h 20 min``, ``12 min ago``, ``now``."""
    if at is None:
        return UNKNOWN
    seconds = round((at - now).total_seconds())
    if seconds == 0:
        return "now"
    return f"in\u00a0{duration(seconds)}" if seconds > 0 else f"{duration(-seconds)}\u00a0ago"


def surface(square_metres: float | None) -> str:
    """``420 m²``, ``1.2 ha``, ``35 km²``."""
    if square_metres is None or square_metres < 10_000:
        return figure(square_metres, "m²")
    return figure(square_metres / 1e4, "ha") if square_metres < 1e6 else figure(square_metres / 1e6, "km²")


def iso(at: datetime) -> str:
    """For machines: ``2024-06-01T12:30:00Z``."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def web_address(href: object) -> str | None:
    """The address if a browser may go there: http or https, and nothing that runs; None for all others."""
    text = str(href)
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    plain = text.isascii() and text.isprintable() and " " not in text
    return text if plain and parts.scheme in ("http", "https") and parts.netloc else None
