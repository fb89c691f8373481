"""What to do about a failed tile: try again, give it up, or stop the run. Rules only; nobody sleeps here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mapper.errors import CredentialsError, MapperError, SpecError, WorkerLostError


class Verdict(Enum):
    """What a failure means to the run, where it is not tried again."""

    QUARANTINE = "quarantine"
    """This tile is given up, named, and the run goes on."""

    STOP = "stop"
    """Every tile would fail the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a run is with one tile."""

    attempts: int = 4
    """Tries in all where the cause may pass: a network, a full disk, memory."""

    lost_workers: int = 2
    """Workers one tile may take with it before it is held to be the reason."""

    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0


def after_failure(error: MapperError, attempt: int, policy: RetryPolicy, *, spread: float = 0.0) -> float | Verdict:
    """Seconds to wait before the next try, or why there is none.

    Args:
        error: what went wrong this time.
        attempt: how many tries have failed, this one included.
        policy: how patient the run is.
        spread: 0 to 1; lengthens the wait by up to half, so that tiles which failed together do not return together.
    """
    if isinstance(error, SpecError | CredentialsError):
        return Verdict.STOP
    allowed = policy.lost_workers if isinstance(error, WorkerLostError) else policy.attempts
    if not error.retryable or attempt >= allowed:
        return Verdict.QUARANTINE
    wait_s = min(policy.first_wait_s * 2.0 ** (attempt - 1), policy.longest_wait_s)
    return wait_s * (1 + spread / 2)
