"""A task on its way to its last answer: which workers have it, how often it failed, and who died with it in hand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.retries import Verdict
from cluster.shard_state import ShardState
from mapper.errors import Cause, MapperError, WorkerLostError
from mapper.map_tile import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a failed try means."""

    attempts: int
    """Tries of the task that failed; 0 where the answer was to no hand-out that counts."""

    verdict: Verdict | None
    """None where the run goes on with the task, or was never waiting for this answer."""

    error: MapperError
    """What to say of it: where workers were lost, all that is known of each."""


@dataclass(slots=True)
class Trial:
    """A task and how often it has failed."""

    task: Task
    state: ShardState = "planned"
    attempts: int = 0
    counted: Counter[Cause] = field(default_factory=Counter)
    """Cause → failures that count against the task."""

    losses: list[MapperError] = field(default_factory=list)
    """What was said of each worker that died with it in hand."""

    spared: int = 0
    """Failures that were not counted, because a copy ran on."""

    since: float = 0.0
    """When the last of its copies went out."""

    on: dict[int, Given] = field(default_factory=dict)
    """Token → hand-out whose answer is waited for: two while a copy runs."""

    @property
    def suspect(self) -> bool:
        """Whether a worker died with it in hand and no copy ran on: it is tried alone, so that nothing else can be
        the reason if that dies too."""
        return self.counted["worker"] > 0


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """One hand-out."""

    hand: Hand
    trial: Trial
    at: float
    alone: bool
    """Whether the worker gets nothing beside it."""

    in_company: bool
    """Whether the worker still had something that was left behind: what kills it may be that."""


@dataclass(slots=True)
class Hand:
    """What one worker has."""

    name: str
    holds: int = 0
    """Tasks it may hold now; 0 while it is away."""

    load: int = 0
    alone: int = 0
    """Tasks in hand that must have the worker to themselves."""

    left_behind: int = 0
    """Tasks it still works at although they are over: copies that lost."""

    stretch: deque[Task] = field(default_factory=deque)

    @property
    def awaited(self) -> int:
        """Tasks in hand whose outcome somebody waits for."""
        return self.load - self.left_behind

    @property
    def has_room(self) -> bool:
        """Whether it may be given a task."""
        return self.load < self.holds and not self.alone


@dataclass(order=True, slots=True)
class Waiting:
    """A task that goes out again, not before its time."""

    due: float
    order: int
    trial: Trial = field(compare=False)


def evidence(trial: Trial) -> MapperError:
    """What is known of the workers that died with one task in hand."""
    said = [f"{loss.what}{_said(loss)}" for loss in trial.losses]
    return WorkerLostError(
        f"{len(said)} workers died with this tile in hand, the last with nothing else: it is held to be the reason",
        fix="see what each said; `resmap run --retry` takes the tile again",
        tile=trial.task.name,
        workers=_each(trial.losses, "worker"),
        hosts=_each(trial.losses, "host"),
        said=" | ".join(said),
    )


def _said(loss: MapperError) -> str:
    """What the machine or Ray added."""
    return f" ({loss.where['said']})" if loss.where.get("said") else ""


def _each(losses: Iterable[MapperError], key: str) -> str:
    return ", ".join(str(loss.where[key]) for loss in losses if loss.where.get(key))
