"""Events on paper: a clock that jumps from act to act, lines to stand in, and bandwidth to share.

A story is a generator that yields what it waits for::

    def tile():
        yield readers                 # a place in front of which one may have to stand in line
        yield 0.3                     # seconds
        yield store.transfer(30e6)    # bytes, beside those of others
        readers.leave()

    go_on(clock, tile())
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

Act: TypeAlias = Callable[[], None]

Wait: TypeAlias = "float | Callable[[Act], bool]"
"""Seconds; or what is given the act to go on with, and answers whether it keeps that for later."""

Story: TypeAlias = Iterator[Wait]


def go_on(clock: Clock, story: Story) -> None:
    """To a story's next wait; from there the clock, a line or a store takes it further."""
    for wait in story:
        if isinstance(wait, float):
            clock.at(clock.time + wait, lambda: go_on(clock, story))
        elif not wait(lambda: go_on(clock, story)):
            continue
        return


class Clock:
    """Does acts in the order of their times."""

    def __init__(self) -> None:
        self.time = 0.0
        self._acts: list[tuple[float, int, Act]] = []
        self._order = itertools.count()

    @property
    def next_at(self) -> float:
        """When the next act is due; infinite where there is none."""
        return self._acts[0][0] if self._acts else math.inf

    def at(self, time: float, act: Act) -> None:
        """Do something then; what has one time is done in the order it was asked for."""
        heapq.heappush(self._acts, (time, next(self._order), act))

    def step(self) -> None:
        """To the next act, and do it."""
        time, _, act = heapq.heappop(self._acts)
        self.time = max(self.time, time)
        act()

    def run_until(self, time: float) -> None:
        """Do all that is due by then."""
        while self.next_at <= time:
            self.step()


class Line:
    """So many places, and a line in front of them."""

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock, self.places = clock, places
        self.taken = 0
        self.line: deque[Act] = deque()
        self._waited_s = self._since = 0.0

    def __call__(self, go_on: Act) -> bool:
        """Take a place at once, or stand in line."""
        if self.taken < self.places:
            self.taken += 1
            return False
        self._account()
        self.line.append(go_on)
        return True

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1
        self.admit()

    def admit(self) -> None:
        """Let in as many as there are places for: also when ``places`` has changed."""
        self._account()
        while self.line and self.taken < self.places:
            self.taken += 1
            self._clock.at(self._clock.time, self.line.popleft())

    @property
    def waited_s(self) -> float:
        """Seconds that tiles stood here, added up."""
        self._account()
        return self._waited_s

    def _account(self) -> None:
        self._waited_s += len(self.line) * (self._clock.time - self._since)
        self._since = self._clock.time


class Store:
    """Bandwidth that all transfers under way share alike.

    Each is over when the store has given this much to every transfer that was under way all the time: one sum serves
    all of them.
    """

    def __init__(self, clock: Clock, bytes_per_s: float) -> None:
        self._clock, self._bytes_per_s = clock, bytes_per_s
        self._given = self._since = 0.0
        self._under_way: list[tuple[float, int, Act]] = []
        self._order = itertools.count()
        self._version = 0

    def transfer(self, nbytes: float) -> Wait:
        """Until so many bytes have come or gone."""
        if math.isinf(self._bytes_per_s):
            return 0.0
        return lambda go_on: self._begin(nbytes, go_on)

    def _begin(self, nbytes: float, go_on: Act) -> bool:
        self._account()
        heapq.heappush(self._under_way, (self._given + nbytes, next(self._order), go_on))
        self._expect()
        return True

    def _account(self) -> None:
        if self._under_way:
            self._given += (self._clock.time - self._since) * self._bytes_per_s / len(self._under_way)
        self._since = self._clock.time

    def _expect(self) -> None:
        self._version += 1
        if self._under_way:
            missing = max(0.0, self._under_way[0][0] - self._given)
            version = self._version
            self._clock.at(
                self._clock.time + missing * len(self._under_way) / self._bytes_per_s, lambda: self._end(version)
            )

    def _end(self, version: int) -> None:
        if version == self._version:  # nothing began since this end was foreseen
            self._account()
            _, _, go_on = heapq.heappop(self._under_way)
            self._expect()
            go_on()
