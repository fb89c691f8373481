"""Two drivers on one mosaic: the second follows the first where both run the same job, and is refused where not."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.lease import Lease
from jobs.ledger import FINISHED
from jobs.prepare import Prepared
from jobs.session import ENTERED, summary_in
from jobs.summary import Summary
from jobs.watch import Watcher
from mapper import errors
from mapper.errors import BusyError, MapperError, StoreError
from mapper.storage import state_folder

LOOK_EVERY_S = 1.0
"""How soon the end of the other driver is seen."""

TELL_EVERY_S = 10.0
COSTS_AT_MOST = 0.1
"""Of its time, what a follower spends on counting in a large ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What became of the driver that had the mosaic."""

    summary: Summary | None
    """How it ended, or that it goes on and we were told to leave. None: it is gone, and its work is ours to take on."""


def follow(
    prepared: Prepared,
    lease: Lease,
    watcher: Watcher,
    stopped: Callable[[], bool],
    *,
    refuse: Callable[[], None] = lambda: None,
) -> Followed | None:
    """Wait while another driver has this mosaic for the same job, telling how far it is.

    Args:
        prepared: the job.
        lease: of its mosaic, not entered.
        watcher: who is told.
        stopped: whether to wait no longer; the other driver goes on.
        refuse: called where another job's driver has the mosaic; may say why this job never can.

    Returns:
        None where nobody has it.

    Raises:
        BusyError: a driver of another job has it.
        MapperError: what ended the other driver.
    """
    follower: _Follower | None = None
    while (busy := _busy(lease)) is not None:
        holder = _holder(prepared)
        if holder is None:  # it has ended between the two looks
            continue
        if holder.get("run") != prepared.run:
            refuse()
            raise busy
        if follower is None:
            follower = _Follower(prepared, watcher)
            place = f"process {holder.get('pid')} on {holder.get('host')}"
            watcher.say(f"run {prepared.run} is under way in {place}; following it")
        if stopped():
            return Followed(summary=follower.left())
        follower.look()
        time.sleep(LOOK_EVERY_S)
    if follower is None:
        return None
    if _holder(prepared) is not None:
        watcher.say("its driver is gone; taking over")
        return Followed(summary=None)
    return Followed(summary=_ending(prepared))


def _busy(lease: Lease) -> BusyError | None:
    try:
        lease.refuse_if_held()
    except BusyError as busy:
        return busy
    return None


def _holder(prepared: Prepared) -> Mapping[str, Any] | None:
    """What the lease says of whoever has the mosaic, or had it when they died."""
    output = prepared.job.spec.output
    with contextlib.suppress(FileNotFoundError, ValueError):
        holder = json.loads(state_folder(output.mosaic, engine=output.engine).read("lease.json"))
        if isinstance(holder, dict):
            return holder
    return None


def _ending(prepared: Prepared) -> Summary | None:
    """How the other driver said that it ended; None where it said nothing.

    Raises:
        MapperError: what ended it.
    """
    if not prepared.folder.exists():  # it failed before it had mapped anything, and took all away
        return None
    facts = prepared.folder.facts()
    if facts.get("state") == "stopped" and isinstance(failure := facts.get("failure"), dict):
        raise _error_in(failure)
    return None if facts.get("state") in ("planned", "running") else summary_in(facts)


def failure_facts(error: MapperError) -> dict[str, Any]:
    """An error as plain values, for those who follow."""
    where = {key: str(value) for key, value in error.where.items() if value not in (None, "")}
    return {"class": type(error).__name__, "what": error.what, "fix": error.fix, "where": where}


def _error_in(failure: Mapping[str, Any]) -> MapperError:
    kind = getattr(errors, str(failure.get("class")), MapperError)
    if not (isinstance(kind, type) and issubclass(kind, MapperError)):
        kind = MapperError
    where = failure.get("where")
    error: MapperError = kind(str(failure.get("what", "")), fix=str(failure.get("fix", "")))
    error.where = dict(where) if isinstance(where, dict) else {}
    return error


class _Follower:
    """Tells now and then how far another driver is."""

    def __init__(self, prepared: Prepared, watcher: Watcher) -> None:
        self._prepared, self._watcher = prepared, watcher
        self._next = 0.0
        self._last = ""

    def look(self) -> None:
        """Say what is new, where it is time."""
        began = time.monotonic()
        if began < self._next:
            return
        with contextlib.suppress(FileNotFoundError, StoreError):  # it is being made just now, or the store is away
            counts, planned = self._counts()
            said = f"{sum(counts[state] for state in FINISHED)}/{planned} tiles"
            if said != self._last and planned:
                self._watcher.say(said)
                self._last = said
        took = time.monotonic() - began
        self._next = time.monotonic() + max(TELL_EVERY_S, took / COSTS_AT_MOST)

    def left(self) -> Summary:
        """Of a follower that is told to leave."""
        counts, planned = self._counts() if self._prepared.folder.exists() else ({}, 0)
        tiles = {"planned": planned} | {state: counts.get(state, 0) for state in ENTERED}
        return Summary(
            run=self._prepared.run,
            mosaic=self._prepared.job.spec.output.mosaic,
            state="interrupted",
            tiles=tiles,
            seconds=0.0,
            worked_tiles=0,
            seam=None,
            verified_tiles=0,
            stopped="this was only following it: the run goes on in the process that began it",
        )

    def _counts(self) -> tuple[Mapping[str, int], int]:
        folder = self._prepared.folder
        return folder.counts(), int(folder.facts().get("planned", 0))
