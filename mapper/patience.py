"""How long one asks a store again: a request within seconds, what only the driver can put for minutes.

    a request     the library beneath tries again at once, a few times: an answer was an error, or broke off
    a tile        given back to the dispatcher, which hands it out again later
    the driver    what it puts itself is waited for here: ledger, run.json, commits. It holds what cannot be made again
                  without work, so an outage of a few minutes must not end it

What is put again is the same bytes under the same name, so an answer that was lost does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mapper.errors import StoreError

Done = TypeVar("Done")

_log = logging.getLogger(__name__)

ATTEMPTS = 4
"""Of one request: one in five that fail leaves one in 600."""

BODY_ATTEMPTS = 2
"""Where the answer breaks off in its body, or no connection comes about; each makes ``ATTEMPTS``. botocore does not
look at bodies, and s3fs, which does, looks at nothing else."""

CONNECT_S = 5.0
SILENCE_S = 15.0
"""Without a byte from the store; what it takes to send it a shard does not count."""

REQUEST_S = 180.0
"""A shard or a small file, all attempts together. Of a store that stops taking bytes nobody else would tell."""

ICE_ATTEMPTS = 6
"""Of one of icechunk's requests, bodies and connections with it."""

FIRST_BACKOFF_MS, LONGEST_BACKOFF_MS = 100, 5_000
"""icechunk's waiting between two attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the driver waits for a store that is away."""

    total_s: float = 300.0
    """In all; then it gives up, and the run can be resumed."""

    first_wait_s: float = 1.0
    longest_wait_s: float = 10.0


PATIENT = Patience()
BRIEF = Patience(total_s=30.0, first_wait_s=0.25, longest_wait_s=2.0)
"""For what icechunk gives up sooner than s3fs: of a document whose body broke off it makes one try."""

HASTY = Patience(total_s=0.0)
"""For people who wait for an answer: they try again themselves."""


def patiently(
    act: Callable[[], Done],
    patience: Patience,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Done:
    """What an act returns, once the store lets it.

    Args:
        act: what is done again after a ``StoreError``; a part of it may have been done before.
        patience: how long. A store that says when to come back is obeyed within it.
        clock: tells seconds.
        sleep: waits for them.

    Raises:
        StoreError: the patience is over.
        MapperError: anything else that is wrong, at once.
    """
    until, wait_s = clock() + patience.total_s, patience.first_wait_s
    while True:
        try:
            return act()
        except StoreError as error:
            left_s = until - clock()
            if left_s <= 0:
                raise
            _log.warning("the store does not let us; waiting for it, %.0f s at most: %s", left_s, error.what)
            sleep(min(max(wait_s, error.wait_s or 0.0), left_s))
            wait_s = min(2 * wait_s, patience.longest_wait_s)


def s3_options() -> dict[str, Any]:
    """What s3fs is told of attempts and silence; what the user has set (``FSSPEC_S3_CONFIG_KWARGS``) counts more.

    botocore's ``legacy`` mode: of its modes the one that tries again after any 429, and that gives no request less
    for the failures of others.
    """
    import fsspec

    own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    retries = {"mode": "legacy", "total_max_attempts": ATTEMPTS}
    return {"config_kwargs": {"retries": retries, "connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, **own}}


def asked_to_wait(error: BaseException | None) -> float | None:
    """Seconds after which a store that refused a request wants to be asked again; None where it does not say.

    Args:
        error: what a store's library raised; what the store said hangs on it or on its causes.
    """
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
            return float(said) if said.isdecimal() else None
        error = error.__cause__
    return None
