"""A few things at once, in order, and no more of them in memory than that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 4
"""Shards in hand: while some are read, others are worked on."""

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def several(act: Callable[[Thing], Made], things: Iterable[Thing]) -> Iterator[Made]:
    """What ``act`` makes of each thing, in threads, in the order of the things.

    The first error is raised in its turn; what is under way then comes to its end, and nothing more is begun.
    """
    in_hand: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="changes") as pool:
        try:
            for thing in things:
                in_hand.append(pool.submit(act, thing))
                if len(in_hand) >= AT_ONCE:
                    yield in_hand.popleft().result()
            while in_hand:
                yield in_hand.popleft().result()
        finally:
            for future in in_hand:
                future.cancel()
