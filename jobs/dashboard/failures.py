"""Tiles given up, by cause: how many, one to look at, and what to do about them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jobs.dashboard.states import RunView
from jobs.dashboard.views import FailureGroup
from jobs.ledger import Entry
from mapper import errors
from mapper.errors import MapperError

NAMED = 20
"""Tiles that are named by each group."""

UNTOLD = "MapperError"
"""What a group is called whose rows name no cause."""

_BY_CAUSE = {
    "transient": "nothing is wrong with the job: retry, once the server answers again",
    "resource": "retry; where it comes again, lower compute.batch or grid.shard_px",
    "worker": "retry; where it comes again, see what the machine's log says, and lower compute.batch",
    "returned": "nothing is wrong with the job: its worker's machine was taken away; retry",
    "credentials": "log in again, then retry",
    "input": "the imagery is bad: tell its publisher, or leave the item out by imagery.filter, in a new mosaic",
    "model": "put the model's weights right, then retry",
    "job": "put the job right, then run it again",
    "bug": "retry; where it comes again, please report it",
}


def failure_groups(view: RunView, entry: Callable[[int], Entry | None]) -> tuple[FailureGroup, ...]:
    """A group a cause, the largest first.

    Args:
        view: the run.
        entry: all that the ledger says of a tile.
    """
    states = view.states
    lost = np.flatnonzero(states.with_state("failed", "quarantined"))
    causes = states.cause[lost]
    groups = []
    for number in np.unique(causes).tolist():
        tiles = lost[causes == number]
        first = int(tiles[0])
        told = entry(first)
        cause, error = states.causes[number] or UNTOLD, told.error if told is not None else ""
        groups.append(
            FailureGroup(
                cause=cause,
                count=len(tiles),
                first_tile=first,
                first_name=view.tile_name(first),
                first_error=error,
                fix=advice(cause, error),
                retryable=retryable(cause),
                tiles=tuple((tile, view.tile_name(tile)) for tile in tiles[:NAMED].tolist()),
            )
        )
    return tuple(sorted(groups, key=lambda group: (-group.count, group.cause)))


def advice(cause: str, error: str) -> str:
    """What to do about an error: what it says itself, else what goes for all of its kind.

    Args:
        cause: class of the error.
        error: as ``str`` gives it: what happened (where); what to do.
    """
    _, where, said = error.partition("); ")
    if not where:
        _, _, said = error.partition("; ")
    return said.strip() or _BY_CAUSE[kind(cause).cause]


def retryable(cause: str) -> bool:
    """Whether the same may go well at the next try, though nobody does anything about it."""
    return kind(cause).cause in errors.PASSING


def kind(cause: str) -> type[MapperError]:
    """The class of this name; ``MapperError`` where it is none of ours."""
    found = getattr(errors, cause, MapperError)
    return found if isinstance(found, type) and issubclass(found, MapperError) else MapperError
