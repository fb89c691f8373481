"""Runs that were begun in a terminal: ended from here where that is sure to hit the right process, else explained."""

from __future__ import annotations

import json
import time
from typing import Any

from jobs.lease import STALE_AFTER_S
from jobs.processes import Process, interrupt, resmap_of_mine
from jobs.registry import Registry
from mapper.errors import QuestionError
from mapper.storage import state_folder


def end_elsewhere(registry: Registry, key: str, run: str, mosaic: str, *, host: str, by: str) -> str | None:
    """Interrupt the process that the lease of a mosaic names; once, since a second time it leaves at once.

    Returns:
        The state of the run then; None where nobody has it.

    Raises:
        QuestionError: somebody has it whom we cannot or may not end.
    """
    holder = _holder(mosaic)
    if holder is None or holder.get("run") != run or time.time() - _number(holder.get("at")) > STALE_AFTER_S:
        return None
    pid, place = int(_number(holder.get("pid"))), str(holder.get("host"))[:100]
    if place != host:
        raise QuestionError(
            f"this run was begun on {place}, and is not ours to end", fix=f"end it there: process {pid}", run=key
        )
    found = Process.of(pid)
    if found is None or not found.lives():  # it has ended, and its lease lies there for a moment longer
        return None
    process = resmap_of_mine(pid, by=_number(holder.get("at")))
    if process is None:
        raise QuestionError(
            f"process {pid} has this run, and is no `resmap run` of this user",
            fix="end it where it was begun",
            run=key,
        )
    told = f"told process {pid}, lease {str(holder.get('id'))[:40]}"
    if all(entry.outcome != told for entry in registry.audit(key)) and interrupt(process):
        registry.note(act="cancel", key=key, outcome=told, by=by)
    return "running"


def _holder(mosaic: str) -> dict[str, Any] | None:
    try:
        holder = json.loads(state_folder(mosaic).read("lease.json"))
    except (FileNotFoundError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
