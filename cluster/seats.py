"""A worker's place in a pool, and what becomes of it: values and rules, no Ray.

waiting ─► placed ─► loading ─► working ─► lost ──► another actor, waiting; after the third in a row, nobody
                                   └─► leaving ──► gone: empty-handed, or when its time is up
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.gpu_actor import Placed
from cluster.liveness import Signs
from cluster.pool import Finished, WorkerFacts
from mapper.errors import HandedBackError, MapperError, ResourceError, WorkerLostError
from mapper.map_tile import Task

MARGIN_S = 5.0
"""Of the time that a leaving worker has left, what is kept for its answers to arrive; a quarter where that is less."""

LONGEST_S = 600.0
"""So long a worker may take to finish, whose machine goes at a time that nobody has said."""

MOST_FALLS = 3
"""Actors in a row that a seat may lose before one of them has finished a task."""

NODE_DIED = "its node has died"
"""Words in which Ray says that it was not the actor."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """One worker's place, and the actor that has it now."""

    name: str
    actor: Any = None
    line: int = 0
    signs: Signs = field(default_factory=Signs)
    placed: Placed | None = None
    """None while it waits for a place."""

    facts: WorkerFacts | None = None
    """None until its model is loaded."""

    hand: dict[int, tuple[Task, int]] = field(default_factory=dict)
    """Number → task and token."""

    falls: int = 0
    leaves_at: float | None = None
    """When its time is up, where its machine goes."""

    paid: bool = False
    """Whether it has had a GPU: from then on that is kept for it, while an actor takes another's place too."""

    @property
    def waits(self) -> bool:
        """Whether it has no place yet."""
        return self.placed is None

    @property
    def node(self) -> str:
        """Of its actor; empty while it waits."""
        return self.placed.node if self.placed is not None else ""

    def taken_back(self, error: MapperError) -> list[Finished]:
        """What it has in hand, as over with this error; its hand is empty then."""
        over = [
            Finished(worker=self.name, task=task, result=_of(error, task), token=token)
            for task, token in self.hand.values()
        ]
        self.hand.clear()
        return over

    def loss(self, what: str, at: float, *, said: str = "") -> WorkerLostError:
        """That its actor is given up, with the evidence.

        Args:
            what: a clause.
            at: seconds, of the clock of its signs.
            said: by Ray.
        """
        heard_at = self.signs.heard_at
        return WorkerLostError(
            what,
            worker=self.name,
            host=self.placed.host if self.placed else "",
            pid=self.placed.pid if self.placed else "",
            said=said,
            last_heard="" if heard_at is None else f"{at - heard_at:.3g} s before",
        )

    def return_of(self, why: str) -> HandedBackError:
        """That its machine goes, and what it has not finished comes back."""
        return HandedBackError(
            "a worker's machine goes away, and the tile was given back",
            worker=self.name,
            host=self.placed.host if self.placed else "",
            why=why,
        )


def time_to_finish(left_s: float) -> float:
    """How long a worker may go on with what it has begun, whose machine goes in so many seconds."""
    left_s = min(left_s, LONGEST_S)
    return max(0.0, left_s - min(MARGIN_S, left_s / 4))


def by_node(seats: Iterable[Seat]) -> Counter[str]:
    """Node → seats that have their place there and stay."""
    return Counter(seat.node for seat in seats if not seat.waits and seat.leaves_at is None)


def nobody_ready(waited_s: float) -> ResourceError:
    """That no worker came."""
    return ResourceError(
        f"no GPU worker was ready after {waited_s:g} s",
        fix="ask for fewer with --gpus, or add nodes; `ray status` tells what the cluster waits for",
    )


def nobody_left(last: MapperError | None) -> MapperError:
    """That none is left: what the last one said itself, or what it died of."""
    if last is not None and not isinstance(last, WorkerLostError):
        return last
    return ResourceError(
        f"no GPU worker is left: each died {MOST_FALLS} times in a row before it finished a tile",
        fix="see what the last one died of",
        last=str(last),
    )


def _of(error: MapperError, task: Task) -> MapperError:
    return type(error)(error.what, fix=error.fix, **error.where, tile=task.name)
