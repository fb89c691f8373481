"""What to do about a failed tile: try again, give it up, or stop the run. Rules only; nobody sleeps here.

Each tile has a budget of tries for each cause (``BUDGETS``). The run has one too: when try after try fails because
something away from here does not answer, the fault is not the tiles'. Then nothing counts against a tile, and one try
at a time goes out to see whether it is over (``Outage``). A store may so be away for minutes and cost no tile. It ends
all the same: after ``outage_s`` without one success the run stops, or gives up what is left where all of it was tried.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mapper.errors import BrokenReadError, Cause, MapperError, StoreError


class Verdict(Enum):
    """What a failure means to the run, where it is not tried again."""

    QUARANTINE = "quarantine"
    """This tile is given up, named, and the run goes on."""

    STOP = "stop"
    """Every tile would fail the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one tile may spend on one cause."""

    tries: int
    """In all."""

    waits: float = 1.0
    """How many times as long as usual to wait in between."""

    then: Verdict = Verdict.QUARANTINE


BUDGETS: Mapping[Cause, Budget] = {
    "transient": Budget(tries=5),
    "resource": Budget(tries=4, waits=4.0),  # memory is freed by what others finish
    "worker": Budget(tries=2),  # the second time it was alone there: it is held to be the reason
    "returned": Budget(tries=sys.maxsize, waits=0.0),  # a machine that leaves says nothing of its tiles
    "credentials": Budget(tries=3, waits=4.0, then=Verdict.STOP),  # they are renewed while a run goes on
    "input": Budget(tries=1),
    "bug": Budget(tries=1),
    "model": Budget(tries=1, then=Verdict.STOP),
    "job": Budget(tries=1, then=Verdict.STOP),
}
"""Cause → what a tile may spend on it, where the policy says nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a run is."""

    attempts: int = BUDGETS["transient"].tries
    """Tries in all of a tile where the cause is transient."""

    lost_workers: int = BUDGETS["worker"].tries
    """Workers one tile may take with it before it is held to be the reason."""

    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    longest_said_s: float = 120.0
    """A server that asks for a longer wait is asked again after this one."""

    outage_tries: int = 4
    """So many tries that end one after the other, all for a transient cause, are an outage."""

    outage_s: float = 300.0
    """An outage is waited out for this long; 0: tiles are given up as if there were none."""

    probe_s: float = 5.0
    """The longest wait between two tries in an outage: how late its end is noticed."""

    def budget(self, cause: Cause) -> Budget:
        """What a tile may spend."""
        usual = BUDGETS[cause]
        tries = {"transient": self.attempts, "worker": self.lost_workers}.get(cause, usual.tries)
        return Budget(tries=tries, waits=usual.waits, then=usual.then)


def after_failure(error: MapperError, attempt: int, policy: RetryPolicy, *, spread: float = 0.0) -> float | Verdict:
    """Seconds to wait before the next try, or why there is none.

    Args:
        error: what went wrong this time.
        attempt: how many tries have failed for this cause, this one included.
        policy: how patient the run is.
        spread: 0 to 1; lengthens the wait by up to half, so that tiles which failed together do not return together.
    """
    budget = policy.budget(error.cause)
    if attempt >= budget.tries:
        return budget.then
    return wait_before_retry(error, attempt, policy, spread=spread)


def wait_before_retry(error: MapperError, attempt: int, policy: RetryPolicy, *, spread: float = 0.0) -> float:
    """Seconds: what a server asked for, and not less than twice the last wait. Arguments as in ``after_failure``."""
    wait_s = policy.budget(error.cause).waits * policy.first_wait_s * 2.0 ** min(attempt - 1, 30)
    said_s = min(error.wait_s or 0.0, policy.longest_said_s)
    return max(min(wait_s, policy.longest_wait_s), said_s) * (1 + spread / 2)


@dataclass(slots=True)
class Outage:
    """Whether anything answers at all, as the ends of all tries tell it one after the other."""

    policy: RetryPolicy
    probe_at: float = 0.0
    """Not before then the next try goes out, where ``holds``."""

    probes: int = 0
    """Tries that went out so."""

    _failed: int = 0
    """Tries that failed for a transient cause since one last went well."""

    _since: float = 0.0
    """When the first of them ended."""

    _failing: set[object] = field(default_factory=set)
    """Some of the tasks whose tries they were, two at most: what fails alone may be at fault itself. Where files came
    broken, the files in their place: however many tiles one of them shows, it fails alone."""

    _shared: bool = False
    """Whether the mosaic itself could not be written or read, which is no tile's fault."""

    _wait_s: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether there is one, and it is still waited out: then failures count against no tile."""
        return self._there and not self.too_long(now)

    def too_long(self, now: float) -> bool:
        """Whether there is one, and it has been waited out."""
        return self._there and now - self._since >= self.policy.outage_s

    def went_well(self) -> None:
        """Something answered."""
        self._failed, self._shared = 0, False
        self._failing.clear()

    def failed(self, task: int, error: MapperError, now: float) -> None:
        """A try of a task ended so. Only what is transient is a sign of an outage; bad input shows that it arrived."""
        if error.cause == "input":
            self.went_well()
        if error.cause != "transient":
            return
        was_there = self._there
        self._since = self._since if self._failed else now
        self._failed += 1
        self._shared |= isinstance(error, StoreError)
        if len(self._failing) < 2:
            self._failing.add(error.where.get("asset", task) if isinstance(error, BrokenReadError) else task)
        if not was_there:
            self._wait_s = self.policy.first_wait_s
            self.probe_at = now + self._wait_s
        self.probe_at = max(self.probe_at, now + min(error.wait_s or 0.0, self.policy.longest_said_s))

    def probed(self, now: float) -> None:
        """One try has gone out to see; the next goes later."""
        self.probes += 1
        self._wait_s = min(2 * self._wait_s, self.policy.probe_s)
        self.probe_at = now + self._wait_s

    @property
    def _there(self) -> bool:
        return (
            self.policy.outage_s > 0
            and self._failed >= self.policy.outage_tries
            and (self._shared or len(self._failing) > 1)
        )
