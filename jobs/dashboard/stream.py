"""Runs as they move: server-sent events.

    event: page       data: the RunPage, whenever it changed, at most twice a second
    event: happened   data: an Event, id: its number; a client that comes again is told what it has missed
    event: problem    data: {error, fix}, when the run could not be read; it is tried again
    event: over       the run is over: nothing more will come

One reader of a run serves all who look at it. Each client takes the newest when it is ready for it: one that is slow
skips pages, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jobs.dashboard.answers import Answers, as_json
from jobs.dashboard.problems import Problem, Refusal, refusal_of
from jobs.dashboard.views import Event, RunPage

EVERY_S = 0.5
RESTING = 4
"""A reader rests so many times as long as a reading took: one that takes long leaves the others their turn."""

KEEP_ALIVE_S = 15
"""So often something is said, or what lies between would think the line dead."""

TAKE_WITHIN_S = 30
"""A client that takes nothing for so long is let go."""

COME_AGAIN_MS = 2000
MOST_CLIENTS = 128
MOST_EVENTS = 1000
"""Of what happened, the latest so many are told to one who comes again."""

OVER = frozenset(("done", "quarantined", "interrupted", "out-of-budget", "stopped", "cancelled"))


class Streams:
    """All clients that look at runs."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._readers: dict[str, _Reader] = {}
        self.clients = 0
        """So many look now."""

        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def answer(self, request: Request, key: str) -> Response:
        """The stream of a run; 204, which ends a browser's asking, where it is over and was seen to be.

        Raises:
            QuestionError: no such run.
            Refusal: too many look already.
        """
        page = await self._answers.work(lambda: self._answers.source.page(key))
        last = _number(request.headers.get("last-event-id", ""))
        newest = max((event.number for event in page.events), default=0)
        if last is not None and last >= newest and _is_over(page):
            return Response(status_code=204)
        if self.clients >= MOST_CLIENTS or self._stopped:
            raise Refusal(503, "too many look at runs already", "close some pages, and come again", headers=_AGAIN)
        return _Stream(lambda scope, receive, send: self._follow(key, newest if last is None else last, send))

    def stop(self) -> None:
        """End all streams, at once. Any thread may say so, or a handler of signals."""
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for reader in self._readers.values():
            reader.tell()

    async def _follow(self, key: str, after: int, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        reader = self._readers.get(key)
        if reader is None or reader.task.done():  # what was over may have been taken up again
            reader = self._readers[key] = _Reader(self._answers, key)
        self.clients += 1
        reader.clients += 1
        try:
            await self._send_all(reader, after, send)
        finally:
            self.clients -= 1
            reader.clients -= 1
            if not reader.clients:
                reader.task.cancel()
                if self._readers.get(key) is reader:
                    del self._readers[key]

    async def _send_all(self, reader: _Reader, after: int, send: Send) -> None:
        version, first = 0, True
        while not self._stopped:
            moved = reader.moved  # taken before looking: what happens meanwhile is not missed
            frames: list[bytes] = []
            if reader.version:
                missed = await reader.missed(after) if first else reader.since(after)
                if missed is None:
                    return  # it is so far behind that it has to come again
                first = False
                frames += [_frame("happened", as_json(Event, event), event.number) for event in missed]
                after = max((after, *(event.number for event in missed)))
            if reader.version != version:
                version = reader.version
                frames.append(reader.said)
            if reader.over:
                frames.append(_frame("over", b"{}", after))
            if frames and not await _within(TAKE_WITHIN_S, send, b"".join(frames)):
                return
            if reader.over or reader.task.done():
                return
            with anyio.move_on_after(KEEP_ALIVE_S) as waited:
                await moved.wait()
            if waited.cancelled_caught and not await _within(TAKE_WITHIN_S, send, b": still here\n\n"):
                return


class _Reader:
    """Reads a run for all who look at it."""

    def __init__(self, answers: Answers, key: str) -> None:
        self.clients = 0
        self.version = 0
        """Grows with each new ``said``; 0 before the first."""

        self.said = b""
        self.over = False
        self.moved = anyio.Event()
        self._answers = answers
        self._key = key
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._gone = 0
        """Number of the latest event that is no longer kept."""

        self.task = asyncio.create_task(self._read_on())

    def tell(self) -> None:
        """Wake all clients."""
        moved, self.moved = self.moved, anyio.Event()
        moved.set()

    def since(self, after: int) -> list[Event] | None:
        """What happened after that; None where some of it is no longer kept here."""
        return None if after < self._gone else [event for event in self._events if event.number > after]

    async def missed(self, after: int) -> list[Event]:
        """What happened after that, from where all of it is kept."""
        told = await self._answers.work(lambda: self._answers.source.events(self._key, after))
        return list(told[-MOST_EVENTS:])

    async def _read_on(self) -> None:
        after: int | None = None
        while not self.over:
            began = time.monotonic()
            try:
                said, over, events, after = await self._answers.work(partial(self._read, after))
            except Exception as error:  # the border: whatever it is, it is said, and clients come again if it stays
                said, over, events = _frame("problem", as_json(Problem, refusal_of(error).problem)), False, []
            self._keep(events)
            if said != self.said or over or events:
                self.version += said != self.said
                self.said, self.over = said, over
                self.tell()
            await asyncio.sleep(max(EVERY_S, RESTING * (time.monotonic() - began)))

    def _read(self, after: int | None) -> tuple[bytes, bool, list[Event], int]:
        source = self._answers.source
        page = source.page(self._key)
        newest = max((event.number for event in page.events), default=0)
        events = [] if after is None else list(source.events(self._key, after))
        after = max((newest if after is None else after, *(event.number for event in events)))
        return _frame("page", as_json(RunPage, page)), _is_over(page), events, after

    def _keep(self, events: list[Event]) -> None:
        for event in events:
            if len(self._events) == MOST_EVENTS:
                self._gone = self._events[0].number
            self._events.append(event)


class _Stream(Response):
    """An answer that goes on until its story ends or the client leaves."""

    def __init__(self, story: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._story = story

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the story."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _within(TAKE_WITHIN_S, send, f"retry: {COME_AGAIN_MS}\n\n".encode())
        async with anyio.create_task_group() as both:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                both.cancel_scope.cancel()

            both.start_soon(until_gone)
            await self._story(scope, receive, send)
            both.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_AGAIN = {"Retry-After": "10"}
_BREAKS = tuple((mark.encode(), f"\\u{ord(mark):04x}".encode()) for mark in "\x85\u2028\u2029")
"""What some readers take for the end of a line. JSON writes the others as escapes by itself."""


async def _within(most_s: float, send: Send, body: bytes) -> bool:
    """Whether a client took it in that time."""
    with anyio.move_on_after(most_s) as waited:
        await send({"type": "http.response.body", "body": body, "more_body": True})
    return not waited.cancelled_caught


def _frame(event: str, data: bytes, number: int | None = None) -> bytes:
    """One event as it goes over the line, on lines of its own whatever its words are."""
    for mark, escape in _BREAKS:
        data = data.replace(mark, escape)
    number_line = b"" if number is None else f"id: {number}\n".encode()
    return number_line + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _is_over(page: RunPage) -> bool:
    return page.line.state in OVER and not page.line.live
