"""A run that is a job of a Ray cluster, followed to its end: what its driver says, and how it ended, in our words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cluster.ray_jobs import OPEN, RayHead, RayJob
from cluster.ray_log import Log
from jobs import ray_driver
from jobs.interrupts import INTERRUPTED, TERMINATED
from jobs.ray_driver import CANNOT
from jobs.ray_submit import There, there_of
from mapper.errors import AwayError, MapperError, ResourceError, told

PATIENCE_S = 120.0
"""How long a head may be away while a run is followed: as long as it takes to start another."""

LOOK_S, LAST_WORDS_S = 2.0, 15.0
"""How often it is asked how a job stands; how long the log of one that has ended may take."""

CANCELLED = 6
"""Exit status of whoever waited for a run that somebody else cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run that was followed ended."""

    there: There
    exit_status: int
    answer: Any = None
    """What ``resmap run --json`` printed there; None where it printed nothing."""


@dataclass(slots=True)
class Stopping:
    """Whether a run that is followed is to end."""

    asked: bool = False

    def stop(self) -> None:
        """End it after the tiles in hand."""
        self.asked = True


def heard(head: RayHead, key: str) -> Iterator[str]:
    """The lines of a submission as they come, till it ends."""
    with Log(head, key) as log:
        while not log.over:
            yield from log.lines(LOOK_S)


def follow(head: RayHead, key: str, *, tell: Callable[[str], None], stopping: Stopping) -> Ended:
    """Wait for a run, telling every line that its driver says.

    Args:
        head: of its cluster.
        key: its submission.
        tell: is told each line.
        stopping: where it is asked to stop, the job is told so, once.

    Raises:
        AwayError: the head is away for two minutes.
        ResourceError: the cluster could not run it; why.
    """
    began: dict[str, Any] = {}
    ended: dict[str, Any] | None = None

    def take(lines: Sequence[str]) -> None:
        nonlocal ended
        for line in lines:
            value = ray_driver.told(line)
            if value is None:
                tell(line)
            elif isinstance(found := value.get("begun"), dict):
                began.update(found)
            elif "ended" in value:
                ended = value

    asked = False
    with Log(head, key) as log:
        heard = looked = time.monotonic()
        over: float | None = None
        while not log.over and (over is None or time.monotonic() - over < LAST_WORDS_S):
            take(log.lines(0.5))
            try:
                if stopping.asked and not asked:
                    head.stop(key)
                    asked = True
                if over is None and time.monotonic() - looked >= LOOK_S:
                    job, heard = _still(head, key), time.monotonic()
                    looked = heard
                    over = heard if job.status not in OPEN else None
            except AwayError:
                if time.monotonic() - heard > PATIENCE_S:
                    raise
        if not log.over:  # its node is gone, or a proxy between us lets no connection live
            take(log.behind(head.log(key)))
    job = _still(head, key)
    return _ended(job, began, ended, asked=asked)


def _still(head: RayHead, key: str) -> RayJob:
    job = head.job(key)
    if job is None:
        raise MapperError(
            "the cluster knows nothing of this job any more: its head was begun anew",
            fix="submit it again: the run goes on from where it was left",
            job=key,
        )
    return job


def _ended(job: RayJob, began: Mapping[str, Any], ended: Mapping[str, Any] | None, *, asked: bool) -> Ended:
    """How it ended, in our words.

    Raises:
        ResourceError: the cluster could not run it.
    """
    there = there_of(job)
    if ended is not None and isinstance(ended.get("ended"), int):
        status = int(ended["ended"])
        if job.status == "STOPPED" and status in (INTERRUPTED, TERMINATED):
            status = INTERRUPTED if asked else CANCELLED
        return Ended(there=there, exit_status=status, answer=ended.get("answer"))
    if job.status == "STOPPED":
        return Ended(there=there, exit_status=INTERRUPTED if asked else CANCELLED)
    raise _failure(job, began)


def _failure(job: RayJob, began: Mapping[str, Any]) -> ResourceError:
    """Why a job ended that never said how."""
    again = "submit it again: the run goes on from where it was left"
    why = told(job.message.partition("\n")[0], 500) or "nothing more is known"
    if job.exit_status == CANNOT:
        has = f"resmap {began['resmap']}" if began.get("resmap") else "no resmap"
        return ResourceError(
            f"the Python of the cluster has {has}, and this is resmap {version('resmap')}",
            fix="install the same in the image of the cluster's nodes, or name one that has it: --image, --runtime-env",
            python=began.get("python"),
            ray=began.get("ray"),
        )
    if job.exit_status == 127:
        return ResourceError(
            "the cluster has no `python` on the PATH of its nodes", fix="put it there, and start Ray with that PATH"
        )
    if job.error == "RUNTIME_ENV_SETUP_FAILURE":
        return ResourceError(
            f"the runtime environment cannot be made there: {why}", fix="correct it, then submit again"
        )
    if job.error in ("JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"):
        return ResourceError(f"no node takes the run's driver: {why}", fix="check --driver-label; then submit again")
    if job.exit_status is not None:
        return ResourceError(f"the run's driver ended with {job.exit_status} and no last word", fix=again)
    return ResourceError(f"the run's driver is gone, with its node perhaps: {why}", fix=again)
