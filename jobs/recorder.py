"""What workers say of themselves and what happens to a run, put beside its mosaic while it is under way.

A thread of the driver looks once a second at what the pool has heard. Nobody ever waits for it: what happens is told to
it in passing, what the store does not take is skipped or kept within bounds, and what fails in it ends in it.

It costs a store about 3,600 requests an hour for ``live.json``, 120 for ``telemetry/``, and one for ``events/``
whenever something happened, once in two seconds at most; listings and merges of parts add about 30.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from cluster.pool import WorkerFacts
from cluster.readings import Reading
from jobs.lease import NOBODY, Held
from jobs.ledger import RunFolder
from jobs.parts import Ledger
from jobs.telemetry import LIVE_EVERY_S, ROW_EVERY_S, Event, Live, Row, WorkerNow
from mapper.errors import BusyError, MapperError, StoreError, told
from mapper.traffic import TRAFFIC

ROWS_PUT_EVERY_S = 30.0
"""What of ``telemetry/`` a killed driver forgets at most."""

EVENTS_PUT_EVERY_S = 2.0
MOST_EVENTS = 10_000
"""Of one sitting; of more, one line says how many there were."""

STATES_KEPT = 16
"""Of those, places that only changes of the run's state take: how it ended is told, however much happened before."""

MOST_ROWS = 20_000
"""Rows that wait for a store that is away: thirteen minutes of 256 workers. The oldest go first."""

LAST_WORD_S = 5.0
"""How long the end of a sitting waits for its last word to be put."""

LONGEST_TEXT = 2000
"""Characters of one event."""

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


class Speaks(Protocol):
    """Whose workers say something of themselves: a ``Pool``."""

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        """As of ``Pool``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the driver itself reckons, asked for now and then from another thread; each answers at once."""

    area_km2: Callable[[], Mapping[str, float]]
    """Worker → of the tiles it has handed in in this sitting."""

    spent_usd: Callable[[], float]
    usd_per_gpu_hour: float
    budget_usd: float | None


class Recorder:
    """A context in which a sitting is recorded. It writes while the lease is surely held, and never afterwards.

    ``happened`` is told what happens, ``watch`` whose workers to listen to, ``leave`` that they are about to go.
    """

    def __init__(
        self,
        folder: RunFolder,
        sums: Sums,
        *,
        held: Held = NOBODY,
        say: Callable[[str], None] = _log.warning,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        every_s: float = LIVE_EVERY_S,
        last_word_s: float = LAST_WORD_S,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: of the run.
            sums: what the driver reckons.
            held: the lease of the mosaic.
            say: takes one line, should recording fail.
            clock: seconds.
            now: the moment, aware.
            every_s: how often it looks.
            last_word_s: how long leaving it waits for the last word to be put.
        """
        self._folder, self._sums, self._held, self._say = folder, sums, held, say
        self._clock, self._now, self._every_s, self._last_word_s = clock, now, every_s, last_word_s
        fence = _Fence(held)
        self._rows = _Kept(lambda: folder.telemetry_ledger(held=fence), most=MOST_ROWS)
        self._events = _Kept(lambda: folder.event_ledger(held=fence), most=MOST_EVENTS + 1)
        self._lock, self._hearing = threading.Lock(), threading.Lock()
        self._number, self._told, self._untold = held.epoch * 10 * MOST_EVENTS, 0, 0
        self._pool: Speaks | None = None
        self._began: datetime | None = None
        self._heard: tuple[WorkerNow, ...] = ()
        self._heard_at = clock()
        self._actors: dict[str, float] = {}
        self._due = dict.fromkeys(("row", "rows", "events"), clock())
        self._complained = self._abandoned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, name="recorder", daemon=True)
        self._overheard = _Overheard(lambda text: self.happened("worker", text))

    def __enter__(self) -> Recorder:
        self._overheard.begin()
        try:
            self._thread.start()
        except RuntimeError as error:  # the system gives no more threads
            self._complain(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the last word, and wait for it a little."""
        self._overheard.end()
        if error is not None:
            self.happened("state", f"stopped: {str(error) or type(error).__name__}")
        with self._lock:
            if self._untold:
                text = f"{self._untold:,} more things happened in this sitting than are kept one by one"
                self._events.add(self._event("warning", text, None))
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(self._last_word_s)
        self._abandoned = True

    def happened(self, kind: str, text: str, tile: int | None = None) -> None:
        """Take down an event, at once; it is put within seconds.

        Args:
            kind: as of ``Event``.
            text: a sentence; of strangers too.
            tile: its row in the plan, where it is about one.
        """
        with self._lock:
            if self._told >= MOST_EVENTS - (0 if kind == "state" else STATES_KEPT):
                self._untold += 1
                return
            self._told += 1
            self._events.add(self._event(kind, text, tile))

    def watch(self, pool: Speaks, workers: Iterable[WorkerFacts]) -> None:
        """From now on the workers of this pool are listened to: all of them are ready."""
        facts = tuple(workers)
        if facts:
            devices = ", ".join(sorted({worker.device for worker in facts}))
            hosts = len({worker.host for worker in facts})
            places = f"{hosts} hosts" if hosts > 1 else facts[0].host
            plural = "workers are" if len(facts) > 1 else "worker is"
            self.happened("worker", f"{len(facts)} {plural} ready on {places}: {devices}")
        self._began, self._pool = self._now(), pool

    def leave(self) -> None:
        """The pool is about to be closed: what its workers have said by now is their last word."""
        with self._hearing:
            pool, self._pool = self._pool, None
            if pool is None:
                return
            try:
                self._hear(pool)
                self._add_rows()
            except Exception as error:  # the border: whatever fails here is no matter of the run's
                self._complain(error)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _go(self) -> None:
        while not self._stop.wait(self._every_s):
            self._look(over=False)
        self._look(over=True)

    def _look(self, *, over: bool) -> None:
        """Listen, and put what is due. Each is tried, whatever became of those before."""
        at = self._clock()
        for act in (self._listen, self._put_events, self._put_rows, self._put_live):
            try:
                act(at, over)
            except Exception as error:  # the border: whatever fails here is no matter of the run's
                self._complain(error)

    def _listen(self, at: float, over: bool) -> None:
        with self._hearing:
            if (pool := self._pool) is None:
                return
            self._hear(pool)
            if self._is_due("row", at, ROW_EVERY_S):
                self._add_rows()

    def _put_events(self, at: float, over: bool) -> None:
        if over or (self._events.waiting and self._is_due("events", at, EVENTS_PUT_EVERY_S)):
            self._put(self._events.put)

    def _put_rows(self, at: float, over: bool) -> None:
        if over or self._is_due("rows", at, ROWS_PUT_EVERY_S):
            self._put(self._rows.put)

    def _put_live(self, at: float, over: bool) -> None:
        if self._began is None:
            return
        since_s = at - self._heard_at
        live = Live(
            at=self._now(),
            began=self._began,
            over=over,
            workers=tuple(replace(worker, heard_s=round(worker.heard_s + since_s, 3)) for worker in self._heard),
            in_hand=0 if self._pool is None else sum(worker.reading.in_hand for worker in self._heard),
            spent_usd=self._sums.spent_usd(),
            usd_per_gpu_hour=self._sums.usd_per_gpu_hour,
            budget_usd=self._sums.budget_usd,
            calls=() if os.getpid() in {worker.reading.pid for worker in self._heard} else TRAFFIC.calls(),
        )
        self._put(lambda: self._folder.save_live(live))

    def _put(self, act: Callable[[], None]) -> None:
        if self._held.sure and not self._abandoned:
            act()

    def _hear(self, pool: Speaks) -> None:
        area_km2 = self._sums.area_km2()
        self._heard = tuple(
            WorkerNow(reading=reading, heard_s=heard_s, area_km2=area_km2.get(name, 0.0))
            for name, (heard_s, reading) in sorted(pool.readings().items())
        )
        self._heard_at = self._clock()
        for worker in self._heard:
            self._notice(worker.reading)

    def _add_rows(self) -> None:
        at = self._now()
        for worker in self._heard:
            self._rows.add(Row(at=at, worker=worker))

    def _notice(self, reading: Reading) -> None:
        """An actor that has taken another's place. What became of the other the pool says itself."""
        before = self._actors.get(reading.worker)
        self._actors[reading.worker] = reading.began
        if before is not None and before != reading.began:
            self.happened("worker", f"{reading.worker} is back: process {reading.pid} on {reading.host} took its place")

    def _is_due(self, what: str, at: float, every_s: float) -> bool:
        if at < self._due[what]:
            return False
        self._due[what] = at + every_s
        return True

    def _event(self, kind: str, text: str, tile: int | None) -> Event:
        self._number += 1
        return Event(number=self._number, at=self._now(), kind=kind, text=told(text, LONGEST_TEXT), tile=tile)

    def _complain(self, error: Exception) -> None:
        """Once a sitting."""
        if self._complained or isinstance(error, BusyError):
            return
        self._complained = True
        said = error.what if isinstance(error, MapperError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            self._say(f"what workers say is not kept in full beside the mosaic; the run goes on: {said}")


class _Kept(Generic[Value]):
    """Values on their way to the parts of one kind, within bounds."""

    def __init__(self, open_ledger: Callable[[], Ledger[Value]], *, most: int) -> None:
        self._open = open_ledger
        self._ledger: Ledger[Value] | None = None
        self._waiting: deque[Value] = deque(maxlen=most)
        self._refused = False
        """Whether the ledger holds what the store did not take: then no more is given to it."""

    @property
    def waiting(self) -> bool:
        """Whether anything is not put yet."""
        return bool(self._waiting) or self._refused

    def add(self, value: Value) -> None:
        """One more; where there are too many, the first is forgotten."""
        self._waiting.append(value)

    def put(self) -> None:
        """Put all that wait, as one part; what the store does not take is put again next time."""
        if not self.waiting:
            return
        self._ledger = self._ledger or self._open()
        if self._refused:
            self._ledger.flush()
        while self._waiting:
            self._ledger.record(self._waiting.popleft())
        self._refused = True
        self._ledger.flush()
        self._refused = False


class _Fence:
    """A lease that is asked nothing: whoever is not sure to hold it writes nothing."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self.epoch = held.epoch

    @property
    def sure(self) -> bool:
        """As of ``Held``."""
        return self._held.sure

    def check(self) -> None:
        """Raise StoreError where nobody knows whose the mosaic is."""
        if not self.sure:
            raise StoreError("it is not known whether the mosaic is still this driver's")


class _Overheard(logging.Handler):
    """What the pool says of lost workers, in the thread that drives it: other runs of this process have their own."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._hear = hear
        self._driver = 0
        self._source = logging.getLogger("cluster")

    def begin(self) -> None:
        """Listen to what is said in this thread."""
        self._driver = threading.get_ident()
        self._source.addHandler(self)

    def end(self) -> None:
        """Listen no more."""
        self._source.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        if record.thread != self._driver:
            return
        try:
            self._hear(record.getMessage())
        except Exception:  # as every handler does: who warns is not to fail for it
            self.handleError(record)
