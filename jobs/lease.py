"""One driver a mosaic: a small file that says who runs it, kept fresh while they do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mapper.errors import BusyError, MapperError
from mapper.storage import EngineName, is_local, state_folder, store_failure

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
"""A lease this old belongs to a driver that is gone or cannot reach the store."""

SETTLE_S = 1.0
"""In a bucket, where nothing can be locked: how long a new lease must have stood before it counts. Of two drivers
that began in the same moment, the first to write then finds the other's."""

_PROCESS = uuid.uuid4().hex
"""Tells this process from an earlier one of the same id: in a container the driver is process 1 every time."""


class Lease:
    """Held while a run writes to a mosaic; a context manager.

    A driver that was killed on this machine is known to be gone by its process id, and its lease is taken over at
    once; one of another machine is waited out.
    """

    def __init__(self, mosaic: str, run: str, *, engine: EngineName | None = None) -> None:
        """``engine`` as in ``state_folder``: needed while there is no mosaic yet."""
        self._folder = state_folder(mosaic, engine=engine)
        self._mosaic = mosaic
        self._holder = {"run": run, "host": socket.gethostname(), "pid": os.getpid(), "process": _PROCESS,
                        "id": uuid.uuid4().hex}  # fmt: skip
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        with self._alone():
            self.refuse_if_held()
            self._write()
        now = self._read()
        if now is None or now.get("id") != self._holder["id"]:  # another took it in the same moment
            raise BusyError(
                "another process has just begun to write this mosaic", fix="wait for it", mosaic=self._mosaic
            )
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join(timeout=HEARTBEAT_S)
        holder = self._read()
        if holder is not None and holder.get("id") == self._holder["id"]:
            self._folder.remove("lease.json")

    def refuse_if_held(self) -> None:
        """Whether a driver that lives has it.

        Raises:
            BusyError: one has.
        """
        holder = self._read()
        if holder is not None and not self._gone(holder):
            raise BusyError(
                f"run {holder.get('run')} is writing this mosaic now",
                fix="wait for it; `resmap status` shows it",
                mosaic=self._mosaic,
                host=holder.get("host"),
                pid=holder.get("pid"),
            )

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
                holder = self._read()
                if holder is None or holder.get("id") == self._holder["id"]:
                    self._write()

    def _write(self) -> None:
        self._folder.write("lease.json", json.dumps({**self._holder, "at": time.time()}).encode())

    def _read(self) -> dict[str, object] | None:
        try:
            holder: dict[str, object] = json.loads(self._folder.read("lease.json"))
        except (FileNotFoundError, ValueError):
            return None
        return holder

    def _gone(self, holder: dict[str, object]) -> bool:
        if time.time() - float(str(holder.get("at", 0))) > STALE_AFTER_S:
            return True
        if holder.get("host") != self._holder["host"] or not isinstance(holder.get("pid"), int):
            return False
        if holder["pid"] == os.getpid():
            return holder.get("process") != _PROCESS
        return not _alive(int(str(holder["pid"])))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
