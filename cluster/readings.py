"""What a worker says of itself, every second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mapper.traffic import LATENCY_MS, Calls
from mapper.work import WORK

__all__ = ["LATENCY_MS", "WAITS", "WORK", "Calls", "Reading"]

WAITS = ("read", "decode", "copy", "blend", "encode", "write", "tasks")
"""What a model waits for while it stands idle: the stage that the next tile is at; ``tasks`` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one worker says of itself. Counts and seconds only grow, from its model's being loaded on; an actor that
    takes another's place begins again at 0, with another ``began``."""

    worker: str
    host: str = ""
    pid: int = 0
    device: str = ""
    began: float = 0.0
    """When its model was loaded, seconds since 1970 by its own clock: tells one actor of a seat from the next."""

    up_s: float = 0.0
    busy_s: float = 0.0
    """The model computing. With all of ``waited_s`` it makes ``up_s``."""

    waited_s: Mapping[str, float] = field(default_factory=dict)
    """The model standing idle, by ``WAITS``."""

    work_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of all its threads, by ``WORK``: they work side by side, so it may be more than ``up_s``."""

    tiles: int = 0
    windows: int = 0
    reused: int = 0
    pixels: int = 0
    """Of tiles handed in, those asked for."""

    batch: int = 0
    """Windows at a time now."""

    in_hand: int = 0
    holds: int = 0
    queues: Mapping[str, int] = field(default_factory=dict)
    """Tiles now: waiting, reading, ready, unwritten, writing."""

    host_peak_bytes: int = 0
    """Memory of its process, at most so far."""

    device_peak_bytes: int | None = None
    """Of its GPU; None where it has none."""

    device_total_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    utilization: float | None = None
    """Of its GPU as the driver of the card says, 0 to 1."""

    calls: tuple[Calls, ...] = ()
    """Of its process and of those that read for it, since it began."""
