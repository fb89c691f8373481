"""What was made once and is kept for all threads, within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values by key, shared by threads, the least recently used dropped.

    A value is made by the one thread that was first to ask for it; who asks meanwhile waits for that one. A failure is
    told to those who wait and is not kept: who asks next makes the value anew.
    """

    def __init__(
        self,
        capacity: int,
        *,
        weigh: Callable[[Value], int] = lambda value: 1,
        drop: Callable[[Value], None] = lambda value: None,
    ) -> None:
        """A keeper of values.

        Args:
            capacity: what all values kept may weigh together. One that is asked for is made and handed out even
                where it is heavier than that; it is then not kept.
            weigh: what a value weighs.
            drop: what is done with a value that is no longer kept.
        """
        self._capacity = capacity
        self._weigh = weigh
        self._drop = drop
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Future[Value]] = OrderedDict()
        self._weights: dict[Key, int] = {}
        self._weight = 0

    @property
    def weight(self) -> int:
        """What all values kept weigh together."""
        return self._weight

    def claim(self, keys: Iterable[Key]) -> tuple[dict[Key, Future[Value]], dict[Key, Future[Value]]]:
        """The values of these keys, made or still to come, and those among them that the caller must now make.

        Each of the latter must be answered by ``put`` or ``fail``, or others wait for ever.
        """
        asked: dict[Key, Future[Value]] = {}
        mine: dict[Key, Future[Value]] = {}
        with self._lock:
            for key in keys:
                future = self._entries.get(key)
                if future is None:
                    future = self._entries[key] = mine[key] = Future()
                self._entries.move_to_end(key)
                asked[key] = future
        return asked, mine

    def put(self, key: Key, future: Future[Value], value: Value) -> None:
        """Give those who wait a value that was claimed, and keep it while there is room."""
        future.set_result(value)
        with self._lock:
            dropped = []
            if self._entries.get(key) is future:
                self._weights[key] = self._weigh(value)
                self._weight += self._weights[key]
                while self._weight > self._capacity:
                    dropped.append(self._taken_out(next(key for key in self._entries if key in self._weights)))
            else:
                dropped.append(future)  # it was forgotten while it was made
        self._dispose(dropped)

    def fail(self, key: Key, future: Future[Value], error: BaseException) -> None:
        """Tell those who wait that a claimed value cannot be made, and forget that it was asked for."""
        with self._lock:
            if self._entries.get(key) is future:
                del self._entries[key]
        future.set_exception(error)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made now by this thread where nobody has made it.

        Raises:
            Exception: whatever ``make`` raised, here or in the thread this one waited for.
        """
        asked, mine = self.claim([key])
        for claimed, future in mine.items():
            try:
                self.put(claimed, future, make())
            except BaseException as error:
                self.fail(claimed, future, error)
        return asked[key].result()

    def peek(self, key: Key) -> Value | None:
        """The value of a key where it is kept, else None; counts as a use."""
        with self._lock:
            if key not in self._weights:
                return None
            self._entries.move_to_end(key)
            return self._entries[key].result()

    def forget(self, wanted: Callable[[Key], bool]) -> None:
        """Drop the values of some keys. Those that are being made are handed to who waits for them, and not kept."""
        with self._lock:
            dropped = [self._taken_out(key) for key in list(self._entries) if wanted(key)]
        self._dispose(dropped)

    def _taken_out(self, key: Key) -> Future[Value]:
        self._weight -= self._weights.pop(key, 0)
        return self._entries.pop(key)

    def _dispose(self, dropped: Iterable[Future[Value]]) -> None:
        for future in dropped:
            if future.done() and future.exception() is None:
                self._drop(future.result())
