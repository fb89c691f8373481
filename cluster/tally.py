"""Where the time of one model goes: every moment is charged to one thing, so that the parts make the whole.

computing ────────────────────────────────► busy
standing idle, and of the tiles in hand …
  one is read, not all said of it yet ────► blend            its windows are being cut or blended
  none of those, but one is being read ───► read · decode    as the threads at it spent their time meanwhile
  none of those, and no more may come ────► write · encode   as the threads at it spent their time meanwhile
  none of those ──────────────────────────► tasks
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cluster.readings import WAITS

Stage: TypeAlias = Literal["blend", "reading", "writing", "tasks"]

SHARED: Mapping[str, tuple[str, str]] = {"reading": ("read", "decode"), "writing": ("write", "encode")}
"""Stage → what it is called while bytes are waited for, and while they are worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What was charged to what, in seconds since the beginning."""

    busy_s: float
    waited_s: Mapping[str, float]
    """By ``WAITS``."""

    @property
    def up_s(self) -> float:
        """All of it."""
        return self.busy_s + sum(self.waited_s.values())


def stage_of(*, ready: int, reading: int, unwritten: int, full: bool) -> Stage:
    """What an idle model waits for.

    Args:
        ready: tiles that are read, and of which not all is said.
        reading: tiles being read, or about to be.
        unwritten: tiles of which all is said, and that are not in the store yet.
        full: whether no other tile may come until one of those is: for want of memory, or as many as asked for.
    """
    if ready:
        return "blend"
    if reading:
        return "reading"
    return "writing" if unwritten and full else "tasks"


class Tally:
    """Charges the time of one model. Threads may share it; it calls nobody who could wait."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()
        self._computing = False
        self._stage: Stage = "tasks"
        self._busy_s = self._owed_s = 0.0
        self._idle_s = dict.fromkeys(SHARED, 0.0)
        self._waited_s = dict.fromkeys(WAITS, 0.0)
        self._worked: Mapping[str, float] = {}

    def compute(self) -> None:
        """The model has begun."""
        with self._lock:
            self._charge()
            self._computing = True

    def rest(self, *, copied_s: float = 0.0) -> None:
        """The model has ended; for so long of the time since it began it stood idle, because pixels were copied."""
        with self._lock:
            self._owed_s += copied_s
            self._charge()
            self._computing = False

    def stage(self, stage: Stage) -> None:
        """From now on this is what the model waits for, while it does."""
        with self._lock:
            self._charge()
            self._stage = stage

    def charged(self, worked_s: Mapping[str, float]) -> Charged:
        """All up to now.

        Args:
            worked_s: seconds of the threads by ``WORK`` up to now: they say how the stages that are two in one are
                shared. Where no thread has come back since the last time, it waits for bytes.
        """
        with self._lock:
            self._charge()
            for stage, (fetching, working) in SHARED.items():
                idle_s, self._idle_s[stage] = self._idle_s[stage], 0.0
                worked = [worked_s.get(name, 0.0) - self._worked.get(name, 0.0) for name in (fetching, working)]
                share = worked[1] / sum(worked) if min(worked) >= 0.0 < sum(worked) else 0.0
                self._waited_s[working] += idle_s * share
                self._waited_s[fetching] += idle_s - idle_s * share
            self._worked = dict(worked_s)
            return Charged(busy_s=self._busy_s, waited_s=dict(self._waited_s))

    def _charge(self) -> None:
        """Charge the time since the last change to what it was until now."""
        at = self._clock()
        passed_s, self._at = max(0.0, at - self._at), at
        if self._computing:
            copied_s = min(self._owed_s, passed_s)
            self._owed_s -= copied_s
            self._waited_s["copy"] += copied_s
            self._busy_s += passed_s - copied_s
        elif self._stage in SHARED:
            self._idle_s[self._stage] += passed_s
        else:
            self._waited_s[self._stage] += passed_s
