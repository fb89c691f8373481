"""One driver a mosaic: a small file that says who runs it, kept fresh while they do."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from mapper.errors import BusyError, MapperError, StoreError
from mapper.storage import EngineName, Folder, is_local, state_folder, store_failure

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
"""A lease this old belongs to a driver that is gone or cannot reach the store."""

SETTLE_S = 1.0
"""In a bucket, where nothing can be locked: how long a new lease must have stood before it counts. Of two drivers
that began in the same moment, the first to write then finds the other's."""

CONFIRMED_S = STALE_AFTER_S / 2
"""For so long after it was last seen to be ours nobody can have taken it: no request is made to be sure."""

_PROCESS = uuid.uuid4().hex
"""Tells this process from an earlier one of the same id: in a container the driver is process 1 every time."""

_NAME, _EPOCH = "lease.json", "epoch.json"


class Held(Protocol):
    """A lease, as those see it who may write only while it is held."""

    @property
    def epoch(self) -> int:
        """Number of this taking; 0 where nobody was asked."""

    @property
    def sure(self) -> bool:
        """Whether nobody can have taken it, as far as is known without a request."""

    def check(self) -> None:
        """Raise BusyError where it is lost."""


class _Nobody:
    """No lease: of whoever knows itself alone with a mosaic."""

    epoch = 0
    sure = True

    def check(self) -> None:
        """It cannot be lost."""


NOBODY: Held = _Nobody()


class Claim:
    """What one driver says of itself in the lease, and whether it still stands there. No threads, no sleep.

    Every taking of the lease has a number, its epoch, one more than the last. The parts of a ledger are ordered by it
    first, so that a driver which was stopped, lost its lease and wakes up cannot override what came after it.
    """

    def __init__(self, folder: Folder, mosaic: str, run: str, *, now: Callable[[], float] = time.time) -> None:
        """Nothing is read or written yet.

        Args:
            folder: which holds the lease.
            mosaic: as it is named in errors.
            run: of which run.
            now: the clock, in seconds, that all machines share.
        """
        self._folder, self._mosaic, self._now = folder, mosaic, now
        self._holder = {"run": run, "host": socket.gethostname(), "pid": os.getpid(), "process": _PROCESS,
                        "id": uuid.uuid4().hex}  # fmt: skip
        self.epoch = 0
        """Of this taking; 0 while it has not taken place."""

        self._confirmed = -math.inf

    def take(self) -> None:
        """Write the lease, unless a driver that lives has it.

        Raises:
            BusyError: one has.
        """
        asked_at = self._now()
        self.refuse_if_held()
        holder = self._read(_NAME) or {}
        last = self._read(_EPOCH) or {}
        self.epoch = max(_whole(holder.get("epoch")), _whole(last.get("epoch"))) + 1
        self._put(_EPOCH, {"epoch": self.epoch, "id": self._holder["id"]})
        self._write(asked_at)

    def settle(self) -> None:
        """Look whether another took it in the same moment.

        Raises:
            BusyError: so it is.
        """
        if not self._ours():
            raise BusyError(
                "another process has just begun to write this mosaic", fix="wait for it", mosaic=self._mosaic
            )

    def beat(self) -> None:
        """Keep it fresh, unless another has taken it."""
        asked_at = self._now()
        if self._ours(or_older=True):
            self._write(asked_at)

    @property
    def sure(self) -> bool:
        """Whether it was seen to be ours so lately that nobody can have taken it since."""
        return self._now() - self._confirmed < CONFIRMED_S

    def check(self) -> None:
        """Whether we may write: asked before anything is recorded, committed or handed out.

        Raises:
            BusyError: another driver has taken the lease since; nothing more may be written.
            StoreError: the lease cannot be read, so nobody knows.
        """
        if self.sure:
            return
        asked_at = self._now()
        if not self._ours(or_older=True):
            raise BusyError(
                "another driver has taken this mosaic over: this one was away for too long, and stops",
                fix="nothing is lost; `resmap status` shows who writes it now",
                mosaic=self._mosaic,
                epoch=self.epoch,
            )
        self._write(asked_at)

    def release(self) -> None:
        """Take it away, if it is ours."""
        try:
            if self._ours():
                self._folder.remove(_NAME)
        finally:
            self._confirmed = -math.inf

    def refuse_if_held(self) -> None:
        """Whether a driver that lives has it.

        Raises:
            BusyError: one has.
        """
        holder = self._read(_NAME)
        if holder is not None and not self._gone(holder):
            raise BusyError(
                f"run {holder.get('run')} is writing this mosaic now",
                fix="wait for it; `resmap status` shows it",
                mosaic=self._mosaic,
                host=holder.get("host"),
                pid=holder.get("pid"),
            )

    def run_at_work(self) -> str | None:
        """The run for which a driver that lives has it; None where none has."""
        holder = self._read(_NAME)
        return None if holder is None or self._gone(holder) else str(holder.get("run"))

    def _ours(self, *, or_older: bool = False) -> bool:
        """Whether it is ours now; ``or_older``: also where there is none, or that of an earlier epoch.

        The last epoch is always that of the last taking: a successor may have come and gone, and left no lease. A
        driver that is stopped between reading the lease and writing it puts its own over that of its successor. That
        one has the higher epoch, and goes on.
        """
        asked_at = self._now()
        last = self._read(_EPOCH)
        if last is not None and last.get("id") != self._holder["id"]:
            return False
        holder = self._read(_NAME)
        if holder is None:
            return or_older
        older = or_older and "epoch" in holder and _whole(holder["epoch"]) < self.epoch
        if holder.get("id") != self._holder["id"]:
            return older
        self._confirmed = asked_at
        return True

    def _write(self, asked_at: float) -> None:
        """Write the lease. It is known to be ours since ``asked_at`` alone, when it was last asked who has it: whoever
        is stopped between the two, and wakes up long after, must not take its own word for it."""
        self._put(_NAME, {**self._holder, "epoch": self.epoch, "at": self._now()})
        self._confirmed = asked_at

    def _put(self, name: str, content: dict[str, object]) -> None:
        """Write a file. Where the store's answer was lost, look whether ours is there before it is called a failure."""
        try:
            self._folder.write(name, json.dumps(content).encode())
        except StoreError:
            if self._read(name) != content:
                raise

    def _read(self, name: str) -> dict[str, object] | None:
        try:
            content: dict[str, object] = json.loads(self._folder.read(name))
        except (FileNotFoundError, ValueError):
            return None
        return content

    def _gone(self, holder: dict[str, object]) -> bool:
        if self._now() - float(str(holder.get("at", 0))) > STALE_AFTER_S:
            return True
        if holder.get("host") != self._holder["host"] or not isinstance(holder.get("pid"), int):
            return False
        if holder["pid"] == os.getpid():
            return holder.get("process") != _PROCESS
        return not _alive(int(str(holder["pid"])))


def run_at_work(mosaic: str, *, engine: EngineName | None = None) -> str | None:
    """The run for which a driver that lives writes a mosaic now; None where none does.

    A driver of another machine that was killed is known to be gone after ``STALE_AFTER_S``.
    """
    return Claim(state_folder(mosaic, engine=engine), mosaic, "").run_at_work()


class Lease:
    """Held while a run writes to a mosaic; a context manager.

    A driver that was killed on this machine is known to be gone by its process id, and its lease is taken over at
    once; one of another machine is waited out.
    """

    def __init__(self, mosaic: str, run: str, *, engine: EngineName | None = None) -> None:
        """``engine`` as in ``state_folder``: needed while there is no mosaic yet."""
        self._folder = state_folder(mosaic, engine=engine)
        self._mosaic = mosaic
        self._claim = Claim(self._folder, mosaic, run)
        self.refuse_if_held, self.check = self._claim.refuse_if_held, self._claim.check
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def epoch(self) -> int:
        """Number of this taking of the mosaic's lease: one more than the last."""
        return self._claim.epoch

    @property
    def sure(self) -> bool:
        """Whether it was seen to be ours so lately that nobody can have taken it since; no request is made."""
        return self._claim.sure

    def __enter__(self) -> Lease:
        with self._alone():
            self._claim.take()
        self._claim.settle()
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join(timeout=HEARTBEAT_S)
        with contextlib.suppress(StoreError):  # it goes stale by itself; what ended the run must be told
            self._claim.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading the last lease and writing a new one, nobody else does the same."""
        if not is_local(self._mosaic):
            yield
            time.sleep(SETTLE_S)
            return
        import fcntl  # POSIX only, as is running a job; reading a mosaic is not

        lock = Path(self._folder.url.removeprefix("file://"), ".lease.lock")
        with contextlib.ExitStack() as held:
            try:
                lock.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(lock.open("wb")), fcntl.LOCK_EX)
            except OSError as error:
                raise store_failure(error, self._mosaic, "written") from error
            yield

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError, MapperError):  # a store away for a moment: beat on
                self._claim.beat()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _alive(pid: int) -> bool:
    import psutil

    try:
        # One that died and whose parent has not asked yet still has its number, in containers for ever.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
