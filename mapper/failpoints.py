"""Places at which a process can be made to die, stop or fail, so that a test can prove what is left then.

    RESMAP_FAILPOINTS="put-before-ledger=kill@3,after-read=stop" resmap run job.yaml

    kill       SIGKILL to this process
    stop       SIGSTOP to this process: it is there and silent until somebody sends SIGCONT
    exit       leaves at once, with no farewell and status 70
    raise      the error that a failure of the store, or of reading, would be there
    sleep:S    goes on after so many seconds
    mark       goes on; with RESMAP_FAILPOINTS_ONCE it can be seen that it was here

``@n`` is for the n-th time that this process comes by, else it is for every time. With
``RESMAP_FAILPOINTS_ONCE=FOLDER`` each point acts once and leaves a file of its name there: who takes the dead one's
place comes through.

Where the variable is not set, ``reach`` costs a look at a cached value.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mapper.errors import MapperError, ReadError, SpecError, StoreError

VARIABLE = "RESMAP_FAILPOINTS"
ONCE = "RESMAP_FAILPOINTS_ONCE"

POINTS: Mapping[str, str] = {
    "run-begins": "jobs/run.py: the job is prepared, nothing is made",
    "lease-taken": "jobs/run.py: this driver has the mosaic, nothing else is made",
    "plan-half-saved": "jobs/ledger.py: items are put, tiles and run.json are not",
    "before-run-json": "jobs/ledger.py: what run.json will say is decided",
    "after-run-json": "jobs/ledger.py: run.json is put",
    "before-read": "mapper/map_tile.py: a worker has a tile in hand",
    "after-read": "mapper/map_tile.py: its pixels are in memory",
    "reader-reads": "cluster/readers.py: an actor reads for a worker",
    "before-infer": "mapper/look.py: windows are about to reach the model",
    "after-infer": "mapper/look.py: the model has answered",
    "before-encode": "mapper/shards.py: a shard's pixels are whole",
    "after-encode": "mapper/shards.py: its bytes are whole, none is put",
    "mid-put": "mapper/shards.py: one shard of a tile is put, its others may not be",
    "after-put": "mapper/map_tile.py: all shards of a tile are put, nobody knows",
    "level-put": "mapper/pyramid.py: a shard of a coarser level is put, nobody knows",
    "put-before-ledger": "jobs/books.py: the driver knows of a tile, the books do not",
    "before-commit": "mapper/icechunk_engine.py: receipts are in hand, nothing is merged",
    "mid-commit": "mapper/icechunk_engine.py: receipts are merged, not committed",
    "commit-before-answer": "mapper/icechunk_engine.py: committed, and the driver does not know",
    "before-ledger-part": "jobs/parts.py: rows are in memory alone",
    "file-drafted": "mapper/storage.py: a small file is whole under another name (local disks)",
    "after-ledger": "jobs/parts.py: a part is put",
}
"""Name → where it lies and what is true there."""

_WHILE_READING = frozenset({"before-read", "after-read", "reader-reads"})

_RULE = re.compile(r"(?P<name>[a-z-]+)=(?P<act>kill|stop|exit|raise|mark|sleep:\d+(\.\d+)?)(@(?P<turn>[1-9]\d*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    act: str
    turn: int | None
    """Which time it acts; None for every time."""


def reach(name: str) -> None:
    """Die, stop, fail or wait here, if the environment says so.

    Args:
        name: one of ``POINTS``.

    Raises:
        ReadError, StoreError: the environment asked for an error here.
        SpecError: the variable speaks of what there is not.
    """
    rules = _rules()
    if rules and name in rules and _is_due(name, rules[name]):
        _act(name, rules[name].act)


def parsed(text: str) -> dict[str, _Rule]:
    """What the variable asks for.

    Raises:
        SpecError: a point or an act that there is not.
    """
    rules = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        rule = _RULE.fullmatch(part)
        if rule is None:
            raise SpecError(f"{VARIABLE} says {part!r}", fix="write POINT=kill|stop|exit|raise|mark|sleep:S[@n]")
        if rule["name"] not in POINTS:
            raise SpecError(f"{VARIABLE} names no point {rule['name']!r}", fix=f"there are {', '.join(POINTS)}")
        rules[rule["name"]] = _Rule(act=rule["act"], turn=int(rule["turn"]) if rule["turn"] else None)
    return rules


@cache
def _rules() -> dict[str, _Rule]:
    return parsed(os.environ.get(VARIABLE, ""))


_reached: Counter[str] = Counter()
"""How often this process has come by: what ``@n`` counts."""

_counting = threading.Lock()


def _is_due(name: str, rule: _Rule) -> bool:
    with _counting:
        _reached[name] += 1
        if rule.turn not in (None, _reached[name]):
            return False
    folder = os.environ.get(ONCE)
    if folder is None:
        return True
    try:
        Path(folder, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(name: str, act: str) -> None:
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif act == "exit":
        os._exit(70)
    elif act == "raise":
        kind: type[MapperError] = ReadError if name in _WHILE_READING else StoreError
        raise kind("a failpoint", fix=f"unset {VARIABLE}", failpoint=name)
    elif act.startswith("sleep:"):
        time.sleep(float(act.removeprefix("sleep:")))
