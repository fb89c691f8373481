"""The hour by which something is to be over: what a user writes → an instant."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from mapper.errors import SpecError

_WRITTEN = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<time>\d{1,2}:\d{2})(?P<seconds>:\d{2})?"
    r"(?:\s*(?P<offset>Z|[+-]\d{2}:?\d{2})|\s+(?P<zone>[A-Za-z][\w+/-]*))?"
)
_EXAMPLES = (
    'write it as "2026-12-01 06:00", with a zone after it where it is not this machine\'s: Europe/Paris, UTC, +02:00'
)


def parse_deadline(text: str, *, now: datetime) -> datetime:
    """The instant that is meant, aware, in the zone that was written; in this machine's where none was.

    An hour that a zone has twice is the first of the two, so that nobody is late.

    Args:
        text: ``2026-12-01 06:00``, or with ``T``; then ``Z``, an offset, or an IANA name, or nothing.
        now: aware.

    Raises:
        SpecError: it is no time, the zone is unknown or leaves that hour out, or it is over.
    """
    parts = _WRITTEN.fullmatch(" ".join(text.split()))
    if parts is None:
        raise SpecError(f"--by: {text[:60]!r} is no time", fix=_EXAMPLES)
    hour = parts["time"].rjust(5, "0") + (parts["seconds"] or ":00")
    try:
        meant = datetime.fromisoformat(f"{parts['day']}T{hour}")
        if parts["offset"]:
            offset = "+00:00" if parts["offset"] == "Z" else parts["offset"]
            at = datetime.fromisoformat(f"{parts['day']}T{hour}{offset}")
        else:
            at = _placed(meant, _zone(parts["zone"]) if parts["zone"] else None)
        over = at.astimezone(UTC) <= now
    except (ValueError, OverflowError) as error:
        raise SpecError(f"--by: {text[:60]!r} is no time: {error}", fix=_EXAMPLES) from error
    if over:
        raise SpecError(f"--by: {said(at)} is over; it is {said(now.astimezone(at.tzinfo))}", fix="give a later hour")
    return at


def said(at: datetime) -> str:
    """An instant as people read it, with its zone."""
    return f"{at:%Y-%m-%d %H:%M} {at.tzname() or ''}".rstrip()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise SpecError(f"--by: there is no zone {name[:60]!r}", fix="write it as in Europe/Paris, or UTC") from error


def _placed(meant: datetime, zone: tzinfo | None) -> datetime:
    """A time of a zone's clocks, None being this machine's. Its first instant where clocks show it twice."""
    at = meant.replace(tzinfo=zone, fold=0) if zone is not None else meant.astimezone()
    back = at.astimezone(UTC).astimezone(zone)  # None: this machine's
    if back.replace(tzinfo=None) != meant:
        raise SpecError(
            f"--by: clocks leave {meant:%Y-%m-%d %H:%M} out in this zone: they are put forward",
            fix=f"say {back:%H:%M}, which is the same instant",
        )
    return at
