"""Requests of this process to the hosts that give imagery and take shards: how many, how fast, how many went wrong.

Hosts and buckets only: no path, no query and no name or password of an address is kept. What is counted is the
process's, whichever of its threads asked; who wants the count of a stretch of time takes the difference of two.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

LATENCY_MS = tuple(2**n for n in range(18))
"""Upper bounds of the classes in which requests are counted by how long they took, 1 ms to 131 s; one more holds all
that took longer."""

MOST_HOSTS = 64
"""Hosts that are counted apart; a catalog of strangers may name any number. All further ones are ``OTHERS``."""

FILES, OTHERS = "files", "others"

_LONGEST_HOST = 253  # of a name in the DNS
TOLD_TO_WAIT = (429, 503)
"""Statuses of HTTP with which a host says that we come too fast."""

_TOLD_TO_WAIT_SAID = ("SlowDown", "TooManyRequests", "response code: 429", "response code: 503")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Requests of one process to one host."""

    kind: str
    """imagery · store · catalog"""

    host: str
    """Name of the host, or of the bucket; ``files`` for local ones. Never a path, never a query."""

    done: int = 0
    failed: int = 0
    """Of those done, the ones that gave an error; each try counts that is seen: GDAL tries again by itself, unseen."""

    throttled: int = 0
    """Of those failed, the ones that were told to come slower (429, 503)."""

    moved_bytes: int = 0
    """Of shards as they are stored; of imagery as decoded, for GDAL does not tell what came."""

    took: tuple[int, ...] = (0,) * (len(LATENCY_MS) + 1)
    """Requests by class of ``LATENCY_MS``."""


class Request:
    """One request under way."""

    __slots__ = ("moved_bytes", "status")

    def __init__(self) -> None:
        self.moved_bytes = 0
        """To be said by who makes it, as far as known."""

        self.status = 200
        """Of HTTP, where an answer that is a refusal raises nothing."""


class _Count:
    __slots__ = ("done", "failed", "moved_bytes", "throttled", "took")

    def __init__(self) -> None:
        self.done = self.failed = self.throttled = self.moved_bytes = 0
        self.took = [0] * (len(LATENCY_MS) + 1)


class Traffic:
    """Counts by kind and host, since it was made. Threads may share one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], _Count] = {}
        self._lock = threading.Lock()

    @contextmanager
    def request(self, kind: str, host: str, *, missing: type[Exception] | tuple[()] = ()) -> Iterator[Request]:
        """While a request is under way; what rises out of it makes it one that failed, and goes on rising.

        Args:
            kind: imagery, store or catalog.
            host: as ``host_of`` gives it.
            missing: an error that is an answer: that there is no such thing.
        """
        began, asked = time.perf_counter(), Request()
        try:
            yield asked
        except BaseException as error:
            took_s = time.perf_counter() - began
            failed = not isinstance(error, missing)
            self.add(kind, host, took_s, asked.moved_bytes, failed=failed, throttled=failed and told_to_wait(error))
            raise
        took_s, refused = time.perf_counter() - began, asked.status in TOLD_TO_WAIT
        self.add(kind, host, took_s, asked.moved_bytes, failed=asked.status >= 400, throttled=refused)

    def add(
        self,
        kind: str,
        host: str,
        took_s: float,
        moved_bytes: int = 0,
        *,
        failed: bool = False,
        throttled: bool = False,
    ) -> None:
        """Count one that is over."""
        with self._lock:
            count = self._count(kind, host)
            count.done += 1
            count.failed += failed
            count.throttled += throttled
            count.moved_bytes += moved_bytes
            count.took[bisect_left(LATENCY_MS, 1000 * took_s)] += 1

    def add_all(self, calls: Iterable[Calls]) -> None:
        """Count what another process has counted."""
        with self._lock:
            for one in calls:
                count = self._count(one.kind, one.host)
                count.done += one.done
                count.failed += one.failed
                count.throttled += one.throttled
                count.moved_bytes += one.moved_bytes
                count.took = [mine + more for mine, more in zip(count.took, one.took, strict=True)]

    def calls(self) -> tuple[Calls, ...]:
        """All that was counted, by kind and host."""
        with self._lock:
            return tuple(
                Calls(
                    kind=kind,
                    host=host,
                    done=count.done,
                    failed=count.failed,
                    throttled=count.throttled,
                    moved_bytes=count.moved_bytes,
                    took=tuple(count.took),
                )
                for (kind, host), count in sorted(self._counts.items())
            )

    def _count(self, kind: str, host: str) -> _Count:
        key = kind, host
        if key not in self._counts and len(self._counts) >= MOST_HOSTS:
            key = kind, OTHERS
        return self._counts.setdefault(key, _Count())


TRAFFIC = Traffic()
"""Of this process."""


def calls_since(before: Iterable[Calls], now: Iterable[Calls]) -> tuple[Calls, ...]:
    """What was counted between two looks at one ``Traffic``; hosts that were not asked meanwhile are left out."""
    known: Mapping[tuple[str, str], Calls] = {(one.kind, one.host): one for one in before}
    since = []
    for one in now:
        was = known.get((one.kind, one.host))
        if was is None:
            since.append(one)
        elif one.done > was.done:
            since.append(
                Calls(
                    kind=one.kind,
                    host=one.host,
                    done=one.done - was.done,
                    failed=one.failed - was.failed,
                    throttled=one.throttled - was.throttled,
                    moved_bytes=one.moved_bytes - was.moved_bytes,
                    took=tuple(more - less for more, less in zip(one.took, was.took, strict=True)),
                )
            )
    return tuple(since)


@lru_cache(maxsize=1024)
def host_of(address: str) -> str:
    """The host of an address, or its bucket; ``files`` for a path of this machine."""
    if "://" not in address or address.startswith("file://"):
        return FILES
    try:
        name = urlsplit(address).hostname or ""
    except ValueError:  # brackets that do not close, say
        name = ""
    name = "".join(letter for letter in name if letter.isprintable() and not letter.isspace())[:_LONGEST_HOST]
    return name or "?"


def told_to_wait(error: BaseException | None) -> bool:
    """Whether a host said that we come too fast: what a library raised, or one of its causes, says so."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in TOLD_TO_WAIT:
                return True
        if any(sign in str(error) for sign in _TOLD_TO_WAIT_SAID):
            return True
        error = error.__cause__
    return False
