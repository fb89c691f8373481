"""The ticks a process has in hand: begun beside the loop, kept by their beats, their ends entered."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

from jobs.monitors.beats import BEAT_S, Beat
from jobs.monitors.rows import MonitorRow, TickEnd, TickRow
from jobs.monitors.schedule import Due
from jobs.monitors.store import Claimed, Monitors
from mapper.errors import BusyError, MapperError


class Holder:
    """Who has a tick in hand; called, it says whether the tick was asked to stop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stop = threading.Event()

    def __call__(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the tick to stop: it ends when the tiles in hand are done."""
        self._stop.set()


RunTick: TypeAlias = Callable[[MonitorRow, Due, Holder], TickEnd]


class Clock(Protocol):
    """What tells the time."""

    def now(self) -> datetime:
        """The time of day, aware; it may leap."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Let time pass, until then or until something is asked to stop."""


class Work(Protocol):
    """Something under way beside the loop."""

    def result(self) -> object | BaseException | None:
        """What it gave or raised; None while it is under way."""


class RealClock:
    """This machine's."""

    def now(self) -> datetime:
        """The time of day."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Sleep, until then or until something is asked to stop."""
        stopped.wait(seconds)


class Thread:
    """Work in a thread of its own, which ends with the process."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._result = act, list[object | BaseException]()
        try:
            threading.Thread(target=self._run, name="tick", daemon=True).start()
        except RuntimeError as error:  # the machine has no thread left
            self._result.append(error)

    def result(self) -> object | BaseException | None:
        """What it gave or raised; None while it is under way."""
        return self._result[0] if self._result else None

    def _run(self) -> None:
        try:
            self._result.append(self._act())
        except BaseException as error:  # the loop's border: it is entered as how the tick ended
            self._result.append(error)


@dataclass(slots=True, kw_only=True)
class _InHand:
    """A tick of ours."""

    claimed: Claimed
    holder: Holder
    work: Work
    beaten: float
    lost: bool = False


class Hands:
    """Holds ticks for one process. Only the thread of its loop calls it, and only that thread writes the registry."""

    def __init__(
        self, store: Monitors, run_tick: RunTick, *, clock: Clock, beat_s: float = BEAT_S,
        begin: Callable[[Callable[[], object]], Work] = Thread, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Nothing is in hand yet; the arguments are those of ``Scheduler``."""
        self._store, self._run_tick, self._clock, self._beat_s = store, run_tick, clock, beat_s
        self._begin, self._tell = begin, tell
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self._held: dict[str, _InHand] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, holder: object) -> bool:
        return holder in self._held

    @property
    def over(self) -> bool:
        """Whether the work on all of them has ended, entered or not."""
        return all(held.work.result() is not None for held in self._held.values())

    def claim(self, name: str, due: Due, *, stood: Beat | None, now: datetime) -> bool:
        """Take a tick and begin it; False where it is not to be had."""
        holder = Holder(f"{self.name}:{next(self._numbers)}")
        claimed = self._store.claim(name, due, holder.name, now=now, stood=stood)
        if claimed is None:
            return False
        missed = f", and for {claimed.due.missed:,} missed before it" if claimed.due.missed else ""
        self._tell(f"monitor {name}: tick due {shown(claimed.due.at)}{missed}")
        work = self._begin(lambda: self._run_tick(claimed.row, claimed.due, holder))
        self._held[holder.name] = _InHand(claimed=claimed, holder=holder, work=work, beaten=self._clock.monotonic())
        return True

    def stop(self, holder: str | None = None) -> None:
        """Ask one to stop, or all."""
        for held in self._held.values():
            if holder in (None, held.holder.name):
                held.holder.stop()

    def keep(self) -> list[TickRow]:
        """Enter what ended, and beat for what goes on.

        Raises:
            MapperError: the registry does not answer; what ended is entered the next time.
        """
        ended = []
        for name, held in list(self._held.items()):
            result = held.work.result()
            if result is not None:
                row = self._finish(held, _end_of(result))
                del self._held[name]
                ended += [row] if row is not None else []
            elif not held.lost and self._clock.monotonic() - held.beaten >= self._beat_s:
                self._beat(held)
        return ended

    def _finish(self, held: _InHand, end: TickEnd) -> TickRow | None:
        tick = held.claimed.tick
        if held.lost:
            return None
        try:
            row = self._store.finish(tick, end, now=self._clock.now())
        except BusyError as error:
            self._tell(f"monitor {tick.monitor}: {error}")
            return None
        if row is not None:
            left = "left for the next to take up" if row.state == "running" else row.state
            self._tell(f"monitor {row.monitor}, due {shown(row.due)}: {left}{f': {row.said}' if row.said else ''}")
        return row

    def _beat(self, held: _InHand) -> None:
        try:
            tick = self._store.beat(held.claimed.tick)
        except BusyError as error:
            held.lost = True
            held.holder.stop()
            self._tell(f"monitor {held.claimed.tick.monitor}: {error}")
            return
        held.beaten = self._clock.monotonic()
        if tick.stop_asked is not None:
            held.holder.stop()


def _end_of(result: object | BaseException) -> TickEnd:
    """How a tick ended, whatever came of it."""
    if isinstance(result, TickEnd):
        return result
    if isinstance(result, MapperError):
        retryable = result.retryable or isinstance(result, BusyError)
        return TickEnd(state="failed", said=str(result), retryable=retryable)
    if isinstance(result, OSError):
        return TickEnd(state="failed", said=f"{type(result).__name__}: {result}", retryable=True)
    return TickEnd(state="failed", said=f"unexpected: {type(result).__name__}: {result}")


def shown(moment: datetime) -> str:
    """An instant, as it is told."""
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"
