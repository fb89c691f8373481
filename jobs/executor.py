"""Submitted jobs are run, each by a process of its own, as many at once as the machine is to have.

What is queued, under way and over stands in the registry (``jobs/submissions.py``), so a server may end and come back,
and two may share the work of a machine. Beside it lies a folder a run: the job as it was given, and its log.

    <data folder>/jobs/<key>/   job.yaml   log-…   begun   ended   lock
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from jobs.dashboard import monitor_views
from jobs.dashboard.control import Submitted
from jobs.dashboard.views import run_key
from jobs.elsewhere import end_elsewhere
from jobs.monitors.store import Monitors
from jobs.registry import Registry, RunRow
from jobs.run_log import read_log
from jobs.settings import data_folder
from jobs.submissions import OPEN, Queue, Submission, now
from jobs.submitted import Asked, asked_again, asked_by, lost_tiles
from jobs.turns import JOB, RESMAP, Turns, ask_to_end
from mapper.errors import MapperError, QuestionError

LOOK_EVERY_S = 0.25
"""How soon it is seen that a run has ended, or that another server has queued one."""


class Executor:
    """``Control`` on this machine. ``start`` makes it take jobs from the queue; without, it only steers."""

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        folder: Path | None = None,
        children: int = 1,
        host: str = "",
        program: Sequence[str] = RESMAP,
    ) -> None:
        """Begin nothing yet.

        Args:
            registry: None takes the user's own.
            folder: for jobs and logs; None takes the user's own.
            children: runs under way at once on this machine. A run has all its GPUs, so mostly 1.
            host: name of this machine; empty asks it.
            program: what is started with ``run JOB …``.
        """
        self._registry = registry or Registry()
        self._queue = Queue(self._registry)
        self._monitors = Monitors(self._registry)
        self._folder = folder or data_folder() / "jobs"
        self.host = host or socket.gethostname()
        self._turns = Turns(self._queue, host=self.host, children=children, program=program)
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._go, name="executor", daemon=True)
        self.away = ""
        """Why nothing can be begun now; empty where all is well."""

    def start(self) -> Executor:
        """Take jobs from the queue, and look after those that an earlier server has begun."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more. What is under way goes on; the next server finds it."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Executor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, job: str, *, gpus: int | None = None, local: bool = False, by: str = "") -> Submitted:
        """As ``Control.submit``."""
        asked = asked_by(job, gpus=gpus)
        with self._queue.deciding() as decision:
            known = decision.find(asked.key)
            if known is None or known.state not in OPEN:
                row = self._row(asked, known, gpus=gpus, local=local, by=by, ended=asked.ended)
                _keep_job(Path(row.log), asked.text)
                decision.put(row, name=asked.name)
            else:
                row = known
            created = known is None and row.state == "queued"
            decision.note(act="submit", key=row.key, outcome=row.run_state, by=by)
        self._wake.set()
        return _told(row, created=created)

    def cancel(self, key: str, *, by: str = "") -> str:
        """As ``Control.cancel``."""
        with self._queue.deciding() as decision:
            known = decision.find(key)
            if known is not None and known.state in OPEN:
                self._check_ours(known)
                ask_to_end(decision, known)
                state = "cancelled" if known.state == "queued" else "running"
                decision.note(act="cancel", key=key, outcome=state, by=by)
                return state
        run = known or self._run(key)
        ended = end_elsewhere(self._registry, key, run.run, run.mosaic, host=self.host, by=by)
        return ended or (run.run_state if isinstance(run, Submission) else run.state)

    def retry(self, key: str, *, by: str = "") -> Submitted:
        """As ``Control.retry``.

        Raises:
            QuestionError: as there; or it is under way, or belongs to another machine.
        """
        asked = self._kept(key)
        nothing = asked.ended is not None and not lost_tiles(asked)
        with self._queue.deciding() as decision:
            known = decision.find(key)
            if known is not None and known.state in OPEN:
                if not known.retry:
                    raise QuestionError("this run is under way", fix="wait for its end, then take tiles again", run=key)
                row = known
            else:
                gpus, local = (known.gpus, known.local) if known is not None else (None, False)
                ended = asked.ended if nothing else None
                row = self._row(asked, known, gpus=gpus, local=local, by=by, ended=ended, retry=True)
                _keep_job(Path(row.log), asked.text)
                decision.put(row, name=asked.name)
            decision.note(act="retry", key=key, outcome=row.run_state, by=by)
        self._wake.set()
        return _told(row, created=False)

    def log(self, key: str, *, after: int = 0) -> tuple[str, int]:
        """As ``Control.log``."""
        known = self._queue.find(key)
        if known is None:
            self._run(key)
            raise QuestionError(
                "this run was not submitted: what it says is where it was begun", fix="look there", run=key
            )
        self._check_ours(known)
        return read_log(Path(known.log), after=max(0, after))

    def pause_monitor(self, name: str, *, by: str = "") -> monitor_views.Asked:
        """As ``Control.pause_monitor``."""
        return self._steer("pause", self._monitors.pause(name).name, state="paused", by=by)

    def resume_monitor(self, name: str, *, by: str = "") -> monitor_views.Asked:
        """As ``Control.resume_monitor``."""
        return self._steer("resume", self._monitors.resume(name).name, state="active", by=by)

    def run_monitor(self, name: str, *, by: str = "") -> monitor_views.Asked:
        """As ``Control.run_monitor``."""
        if self._monitors.get(name).state == "paused":
            raise QuestionError("this monitor is paused", fix="resume it first", monitor=name)
        return self._steer("look now", self._monitors.ask(name).name, state="asked", by=by)

    def _steer(self, act: str, name: str, *, state: str, by: str) -> monitor_views.Asked:
        self._registry.note(act=act, key=f"monitor {name}", outcome=state, by=by)
        return monitor_views.Asked(name=name, state=state)

    def key_of(self, named: str) -> str:
        """The key of a run, from its key or from its name.

        Raises:
            QuestionError: there is no such run, or there are several.
        """
        keys = {row.key for row in self._queue.all() if named in (row.key, row.run)}
        keys |= {run_key(row.run, row.mosaic) for row in self._registry.find(named)}
        if not keys:
            raise _unknown(named)
        if len(keys) > 1:
            raise QuestionError(f"{len(keys)} runs are called {named}", fix=f"name one: {', '.join(sorted(keys))}")
        return keys.pop()

    def submission(self, key: str) -> Submission | None:
        """How a submission stands; None where there was none of this run."""
        return self._queue.find(key)

    def _go(self) -> None:
        while not self._closed.is_set():
            try:
                self._turns.step()
                self.away = ""
            except MapperError as error:  # the registry is away: what is under way goes on, and is found again
                self.away = str(error)
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()

    def _row(
        self,
        asked: Asked,
        known: Submission | None,
        *,
        gpus: int | None,
        local: bool,
        by: str,
        ended: int | None,
        retry: bool = False,
    ) -> Submission:
        """A turn of a job: it waits, unless nothing is left to do."""
        moment = now()
        return Submission(
            key=asked.key,
            run=asked.run,
            mosaic=asked.mosaic,
            job=asked.kept,
            gpus=gpus,
            local=local,
            retry=retry,
            state="queued" if ended is None else "ended",
            turn=1 if known is None else known.turn + 1,
            created=moment if known is None else known.created,
            by=by[:100] if known is None else known.by,
            host=self.host,
            queued=moment,
            exit_status=ended,
            log=str(self._folder / asked.key),
            ended=None if ended is None else moment,
        )

    def _kept(self, key: str) -> Asked:
        """The job of a run, as it was given where we still have that."""
        known = self._queue.find(key)
        if known is None:
            run = self._run(key)
            return asked_again(run.run, run.mosaic)
        self._check_ours(known)
        try:
            return asked_by((Path(known.log) / JOB).read_text())
        except (OSError, ValueError):
            return asked_by(known.job)

    def _run(self, key: str) -> RunRow:
        run = self._registry.run_of(key)
        if run is None:
            raise _unknown(key)
        return run

    def _check_ours(self, known: Submission) -> None:
        if known.host != self.host:
            raise QuestionError(
                f"this run belongs to {known.host}, and is shown here only", fix="ask the server there", run=known.key
            )


def _told(row: Submission, *, created: bool) -> Submitted:
    return Submitted(key=row.key, run=row.run, mosaic=row.mosaic, state=row.run_state, created=created)


def _unknown(named: str) -> QuestionError:
    return QuestionError(f"no run is called {named[:200]!r}", fix="`resmap status` lists the runs")


def _keep_job(folder: Path, text: str) -> None:
    """The job file of a run, for this user alone: its addresses may be signed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{JOB}.draft"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123  # of a number
        file.write(text)
    draft.replace(folder / JOB)
