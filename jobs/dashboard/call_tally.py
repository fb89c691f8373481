"""Requests of a whole run, counted so that the sum never falls though actors come and go.

Each actor counts from its own beginning. A plain sum over those alive would fall when one is replaced, and whoever
reads counters takes a fall for a restart, and all that is left for new. So what an actor had counted stays in the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from cluster.readings import LATENCY_MS, Calls, Reading

HOSTS = 20
"""Of a run, by name; whatever else it talks to is ``other``: a catalog of strangers may name any number of hosts."""

OTHER = "other"

Peer: TypeAlias = tuple[str, str]
"""Kind and host, as of ``Calls``."""

_Actor: TypeAlias = tuple[str, float, int]
"""Worker, when it began, its process."""


class CallTally:
    """The requests of one run by peer, from the moment on at which it was first looked at.

    What was counted before is left out: somebody who looks anew begins at 0 then, which is a restart and no leap.
    """

    def __init__(self, readings: Iterable[Reading] = ()) -> None:
        """``readings``: of the run's workers as they are now; what they have counted so far does not count."""
        self._sums: dict[Peer, Calls] = {}
        self._seen: dict[_Actor, dict[Peer, Calls]] = {}
        for reading in readings:
            self._seen[_actor(reading)] = {(calls.kind, calls.host): calls for calls in reading.calls}
            for calls in reading.calls:
                self._add(calls, calls)

    def take(self, readings: Iterable[Reading]) -> Mapping[Peer, Calls]:
        """The sums, with what the run's workers have counted since the last time.

        Args:
            readings: of the workers that are heard of now.
        """
        now: dict[_Actor, dict[Peer, Calls]] = {}
        for reading in readings:
            before = self._seen.get(_actor(reading), {})
            now[_actor(reading)] = {(calls.kind, calls.host): calls for calls in reading.calls}
            for calls in reading.calls:
                self._add(calls, before.get((calls.kind, calls.host), Calls(kind=calls.kind, host=calls.host)))
        # A worker that is silent for a moment is not listed, and is no new one when it is again.
        self._seen |= now
        return self._sums

    def _add(self, calls: Calls, before: Calls) -> None:
        """Add what is more than before."""
        peer = (calls.kind, calls.host)
        if peer not in self._sums and len(self._sums) >= HOSTS:
            peer = (calls.kind, OTHER)
        held = self._sums.get(peer, Calls(kind=peer[0], host=peer[1]))
        self._sums[peer] = Calls(
            kind=peer[0],
            host=peer[1],
            done=held.done + max(0, calls.done - before.done),
            failed=held.failed + max(0, calls.failed - before.failed),
            throttled=held.throttled + max(0, calls.throttled - before.throttled),
            moved_bytes=held.moved_bytes + max(0, calls.moved_bytes - before.moved_bytes),
            took=tuple(map(_grown, held.took, _classes(calls), _classes(before))),
        )


def _grown(held: int, now: int, before: int) -> int:
    return held + max(0, now - before)


def _classes(calls: Calls) -> tuple[int, ...]:
    """One number a class, whoever wrote the file."""
    return (*calls.took, *(0,) * (len(LATENCY_MS) + 1))[: len(LATENCY_MS) + 1]


def _actor(reading: Reading) -> _Actor:
    return reading.worker, reading.began, reading.pid
