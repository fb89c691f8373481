"""Whether an actor still lives, from what was heard of it: rules, with the clock passed in."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_S = 120.0
"""An actor that says nothing for so long is given up: it was stopped, or its machine is gone. A sign of life comes
from a thread that does nothing else, eight times in that time."""

STUCK_S = 900.0
"""So is one that does say it lives while nothing it has in hand gets on. Longer than an outage of a store that reads
and puts sit out. A second worker has been given those tiles long before, where there is one."""

START_S = 300.0
"""How long it may take until one actor more has its model loaded, while somebody waits for it."""

LOOK_S = 2.0
"""The driver's clock runs no further than this between two looks: who was stopped itself has not waited."""

RAY_TELLS_S = 5.0
"""After a line broke, Ray is waited for so long to say why."""


class Watched:
    """A clock that runs while somebody looks at it."""

    def __init__(self, now: float) -> None:
        self._at, self._seconds = now, 0.0

    def look(self, now: float) -> float:
        """Seconds watched so far."""
        self._seconds += min(max(0.0, now - self._at), LOOK_S)
        self._at = now
        return self._seconds


@dataclass(slots=True, kw_only=True)
class Signs:
    """What was heard of one actor, and when. Times are of one clock."""

    heard_at: float | None = None
    """None until it has been placed: until then nothing can be heard."""

    moved_at: float = 0.0
    broken_at: float | None = None
    """When its line broke."""

    _moves: int = 0

    def hear(self, at: float) -> None:
        """It said something."""
        self.heard_at = at

    def move(self, at: float, moves: int | None = None) -> None:
        """It got on, or had nothing to get on with; where a count is given, only if that has changed."""
        if moves is None or moves != self._moves:
            self.moved_at = at
        if moves is not None:
            self._moves = moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is waited for, in seconds."""

    silent_s: float = SILENT_S
    stuck_s: float = STUCK_S
    start_s: float = START_S

    @property
    def alive_every_s(self) -> float:
        """How often an actor says that it lives."""
        return self.silent_s / 8

    def verdict(self, signs: Signs, at: float, *, in_hand: int) -> str | None:
        """Why an actor is given up; None while it is not."""
        if signs.broken_at is not None:
            return "its line broke" if at - signs.broken_at > RAY_TELLS_S else None
        if signs.heard_at is None:
            return None
        if (silent_s := at - signs.heard_at) > self.silent_s:
            return f"it has said nothing for {silent_s:.0f} s"
        if in_hand and (stuck_s := at - signs.moved_at) > self.stuck_s:
            return f"nothing in it has got on for {stuck_s:.0f} s"
        return None
