"""One at a time: who rewrites a file that several may grow.

On this machine the system's own lock, which the dead let go of; in a bucket, which knows no locks, a lease beside the
file (``jobs/lease.py``), which costs a second and is waited out for a minute where its holder died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.lease import SETTLE_S, Claim
from mapper.errors import BusyError, DeliveryError
from mapper.storage import Folder, is_local, store_failure

PATIENCE_S = 30.0
"""How long a file of this machine is waited for."""

_LOOK_S = 0.05


@contextmanager
def alone_with(folder: Folder, name: str) -> Iterator[Callable[[], None]]:
    """While in it nobody else who asks is with the file of that name; yields what is called before it is put.

    Raises:
        DeliveryError: somebody else is.
        StoreError, CredentialsError, MosaicError: as ``store_failure`` says.
    """
    beside = folder.child(f".{name}.turn")
    if is_local(folder.url):
        with _locked(Path(folder.url.removeprefix("file://"), f".{name}.lock")):
            yield lambda: None
        return
    claim = Claim(beside, f"{folder.url}/{name}", name)
    try:
        claim.take()
        time.sleep(SETTLE_S)
        claim.settle()
    except BusyError as error:
        raise _busy(f"{folder.url}/{name}") from error
    try:
        yield claim.check
    finally:
        claim.release()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # POSIX only, as is running a job

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise store_failure(error, str(path.parent), "written") from error
    with file:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise _busy(str(path.parent)) from error
            time.sleep(_LOOK_S)
        yield


def _busy(place: str) -> DeliveryError:
    return DeliveryError("somebody else is writing there now", fix="it is tried again by itself", file=place)
