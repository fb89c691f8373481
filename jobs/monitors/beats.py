"""Whether a holder lives: a number it keeps raising, watched by others on a clock of their own that nobody can set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

Key = TypeVar("Key")

STALE_S = 60.0
"""A beat that stood still for so long is nobody's any more."""

BEAT_S = 10.0
"""How often a holder raises it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What was seen of a holder."""

    holder: str | None
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    beat: Beat
    since: float
    moved: bool = False


class Watch:
    """How long each beat has stood still while it was looked at.

    Only what was seen counts: after the registry was away, or the watcher itself was stopped, the watch begins anew.
    The holder had no better chance to raise its number then than the watcher to read it.
    """

    def __init__(self, stale_s: float = STALE_S) -> None:
        self._stale_s = stale_s
        self._seen: dict[object, _Seen] = {}
        self._looked: float | None = None

    def look(self, beats: Mapping[Key, Beat], *, at: float) -> dict[Key, Beat]:
        """Those that have stood still for long enough, of all that are watched now.

        Args:
            beats: all there are; those that are no more are forgotten.
            at: seconds of a monotonic clock of this process.
        """
        if self._looked is not None and at - self._looked > self._stale_s / 3:
            self._seen.clear()
        self._looked = at
        self._seen = {key: self._next(key, beat, at) for key, beat in beats.items()}
        return {key: beat for key, beat in beats.items() if at - self._seen[key].since >= self._stale_s}

    def lives(self, key: object) -> bool:
        """Whether a beat was seen to move."""
        return key in self._seen and self._seen[key].moved

    def forget(self) -> None:
        """Begin anew: the registry did not answer."""
        self._seen.clear()

    def _next(self, key: object, beat: Beat, at: float) -> _Seen:
        last = self._seen.get(key)
        if last is None:
            return _Seen(beat=beat, since=at)
        return last if last.beat == beat else replace(last, beat=beat, since=at, moved=True)
