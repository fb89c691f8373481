"""What pages and API answer from: the queries and the control of runs, asked in threads, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import TypeAdapter
from starlette.requests import Request

from jobs.dashboard import audit
from jobs.dashboard.control import Control
from jobs.dashboard.guard import visitor_of
from jobs.dashboard.monitor_views import MonitorLine, MonitorPage
from jobs.dashboard.problems import Refusal
from jobs.dashboard.views import (
    Comparison,
    Event,
    FailureGroup,
    MapInfo,
    RunLine,
    RunPage,
    TileDetail,
)
from mapper.errors import MapperError, QuestionError, SpecError

AT_ONCE = 8
"""Answers that are worked out at one time; the others wait."""

PICTURES_AT_ONCE = 4
"""Pieces of maps, likewise: a map asks for dozens, and the pages' figures do not wait for them."""

LONGEST_KEY = 300
MOST_TAILS = 1000

T = TypeVar("T")


class Source(Protocol):
    """What is asked of runs: ``jobs/dashboard/queries.py``. Each raises ``QuestionError`` for what is not there."""

    def runs(self) -> tuple[RunLine, ...]:
        """All runs."""

    def page(self, key: str) -> RunPage:
        """All panels of one."""

    def failures(self, key: str) -> tuple[FailureGroup, ...]:
        """Its tiles given up, by cause."""

    def tile(self, key: str, n: int) -> TileDetail:
        """One of its tiles."""

    def tile_at(self, key: str, lon: float, lat: float, step: int) -> int | None:
        """The tile at a place."""

    def map(self, key: str) -> MapInfo:
        """What its map shows."""

    def picture(self, key: str, layer: str, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
        """A piece of its map, PNG."""

    def compare(self, a: str, b: str) -> Comparison:
        """Two runs."""

    def monitors(self) -> tuple[MonitorLine, ...]:
        """All monitors."""

    def monitor(self, name: str) -> MonitorPage:
        """All panels of one."""

    def alert_picture(self, name: str, alert: str, side: str) -> bytes:
        """What an alert of it is about, ``before`` or ``after``, PNG."""

    def events(self, key: str, after: int) -> tuple[Event, ...]:
        """What happened to it after that one, oldest first."""

    def history(self, key: str) -> Mapping[str, Any]:
        """How it went, in columns."""


class Answers:
    """One for an application. Threads run the queries; the loop never waits for a store."""

    def __init__(self, source: Source, control: Control) -> None:
        self.source = source
        self.control = control
        self._limiter = CapacityLimiter(AT_ONCE)
        self._pictures = CapacityLimiter(PICTURES_AT_ONCE)
        self._tails: dict[str, int] = {}

    async def work(self, ask: Callable[[], T]) -> T:
        """The answer, from a thread; whoever does not wait for it any more leaves the thread to end by itself."""
        return await to_thread.run_sync(ask, limiter=self._limiter, abandon_on_cancel=True)

    async def draw(self, ask: Callable[[], bytes]) -> bytes:
        """A picture, likewise."""
        return await to_thread.run_sync(ask, limiter=self._pictures, abandon_on_cancel=True)

    async def log_tail(self, key: str) -> str:
        """The last of what a run's process has said, some 256 KiB; empty where nothing of it is kept here."""
        return await self.work(lambda: self._tail(key))

    def _tail(self, key: str) -> str:
        parts: deque[tuple[int, str]] = deque(maxlen=4)
        at = self._tails.get(key, 0)
        try:
            while (said := self.control.log(key, after=at))[0]:
                parts.append((at, said[0]))
                at = said[1]
        except QuestionError:
            if not parts:
                return ""
        if parts:
            if len(self._tails) > MOST_TAILS:
                self._tails.clear()
            self._tails[key] = parts[0][0]  # the next time, what comes before is not read again
        return "".join(text for _, text in parts)

    async def change(
        self, request: Request, act: str, key: str, do: Callable[[str], T], known: Callable[[], object] | None = None
    ) -> T:
        """Do something to a run or a monitor for whoever asks, and enter it in the audit, whatever becomes of it.

        Args:
            request: of a visitor whom the guard let in.
            act: submit · cancel · retry · pause · resume · look now.
            key: of the run, or the monitor's name; empty where it is not made yet.
            do: is told on whose behalf.
            known: asks for what is changed, and raises where there is no such thing; a run where left out.

        Raises:
            Refusal: there is such a thing, and this cannot be done to it.
            MapperError: as ``do``.
        """
        visitor = visitor_of(request.scope)
        outcome = "broken off"
        try:
            done = await self.work(lambda: do(f"{visitor.by} at {visitor.origin}"))
            outcome = "done"
            return done
        except MapperError as error:
            outcome = f"refused: {error.what}"
            if isinstance(error, QuestionError) and key and await self._knows(known or (lambda: self.source.page(key))):
                raise Refusal(409, error.what, error.fix) from error
            if isinstance(error, SpecError):  # whoever submits can mend all of these, a mosaic of another job too
                raise Refusal(422, error.what, error.fix) from error
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            audit.tell(visitor, act, key, outcome)

    async def _knows(self, ask: Callable[[], object]) -> bool:
        try:
            await self.work(ask)
        except MapperError:
            return False
        return True


def as_json(kind: Any, value: Any) -> bytes:
    """A value of ``views`` as the API gives it: times in ISO 8601 with Z, null for what nobody knows."""
    return _adapter(kind).dump_json(value)


def checked_key(key: str, what: str = "run") -> str:
    """The key, if it can be one at all.

    Raises:
        QuestionError: it cannot.
    """
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= LONGEST_KEY) or not set(key).isdisjoint(
        "/\\ <>\"'"
    ):
        raise QuestionError(f"there is no {what} of this name", fix=f"the list of {what}s has all that are known")
    return key


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
