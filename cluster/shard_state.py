"""What can become of a shard, as one table: whoever moves it asks here, and what is not in the table raises.

                      ┌──────── tried again ────────┐
                      ▼                             │
    planned ──► leased ──► written ──► done ──► verified
                  │  └─► failed            └──► nodata
                  └────► quarantined

A driver that dies forgets what it leased and what was written and not yet recorded: those are planned again, and
written again to the same bytes. ``cluster/dispatch.py`` moves a task up to its last answer, ``jobs/books.py`` moves a
tile into the ledger, and the four words of the ledger are states of this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from mapper.errors import MapperError

ShardState: TypeAlias = Literal["planned", "leased", "written", "done", "nodata", "failed", "quarantined", "verified"]
"""planned: nobody has it. leased: a worker has it, or two. written: its pixels are with the store, and the ledger
does not say so yet. done: the ledger says so, and something was seen. nodata: it says so, and nothing was seen.
failed: given up until the next sitting. quarantined: given up until somebody asks for it. verified: read back, and
equal."""

TRANSITIONS: Mapping[ShardState, frozenset[ShardState]] = {
    "planned": frozenset(("leased",)),
    "leased": frozenset(("leased", "planned", "written", "failed", "quarantined")),
    "written": frozenset(("done", "nodata", "planned")),
    "done": frozenset(("verified", "planned")),
    "nodata": frozenset(("verified", "planned")),
    "verified": frozenset(("planned",)),
    "failed": frozenset(("planned",)),
    "quarantined": frozenset(("planned",)),
}
"""State → those that may follow. To ``leased`` again: a second worker is given a copy. Back to ``planned``: a try that
failed, a driver that died, a repair, a retry."""

_ALL: tuple[ShardState, ...] = tuple(TRANSITIONS)

FINISHED: frozenset[str] = frozenset(("done", "nodata"))
GIVEN_UP: frozenset[str] = frozenset(("failed", "quarantined"))
RECORDED: frozenset[str] = FINISHED | GIVEN_UP
"""What a tile can be in the ledger."""


def moved(now: ShardState, to: ShardState) -> ShardState:
    """The new state.

    Raises:
        MapperError: the table does not allow it: something was handed out, told or recorded twice.
    """
    if to not in TRANSITIONS[now]:
        raise MapperError(
            f"a shard that is {now} cannot become {to}",
            fix="run the job again: what is recorded stays; please report this",
        )
    return to


class ShardStates:
    """The state of each of many shards, a byte a shard."""

    def __init__(self, count: int) -> None:
        """All are planned."""
        self._codes = bytearray(count)

    def __getitem__(self, row: int) -> ShardState:
        return _ALL[self._codes[row]]

    def move(self, row: int, to: ShardState) -> None:
        """One becomes something else; raises as ``moved``."""
        self._codes[row] = _ALL.index(moved(self[row], to))


def given_up(error: MapperError) -> Literal["failed", "quarantined"]:
    """What a shard is that is not tried again now: the next sitting takes it again by itself where the cause passes."""
    return "failed" if error.cause in ("transient", "resource") else "quarantined"
