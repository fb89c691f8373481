"""A driver: the code of a run but for Ray, a clock and a bucket. It may be killed or stopped at any of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from cluster.pool import Outcome, outcomes
from cluster.retries import RetryPolicy
from jobs.books import Books, Tally
from jobs.lease import SETTLE_S, Claim, Held
from jobs.prepare import Prepared
from jobs.standing import Standing, standing
from jobs.watch import Silent
from mapper.errors import MapperError, StoreError
from mapper.map_tile import TileTask
from mapper.mosaic import Mosaic
from mapper.storage import state_folder
from tests.simulation.workers import FaultyPool, build_here
from tests.simulation.world import PROMPTS, RUN, URL, BrokenError, KilledError, World

MOST_TURNS = 20_000
"""Of the loop of one sitting: more than that, and it goes round in circles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What runs: ours, or a copy with a bug in it that the simulation must find."""

    policy: RetryPolicy = RetryPolicy()  # noqa: RUF009  # a frozen value
    books: type[Books] = Books
    fenced: Callable[[Claim], Held] = lambda claim: claim
    forgets_tokens: bool = False


def sit(world: World, prepared: Prepared, code: Code) -> bool:
    """One sitting of the run, to its end or to that of its driver; whether nothing was left to do.

    Raises:
        MapperError: it ended itself.
        KilledError: it was killed.
    """
    claim = Claim(state_folder(URL, engine="zarr"), URL, RUN, now=world.now)
    claim.take()
    world.wait(SETTLE_S)
    claim.settle()
    try:
        left = _work(world, prepared, code, claim)
    except MapperError:
        _let_go(claim)
        raise
    _let_go(claim)
    return left


def _work(world: World, prepared: Prepared, code: Code, claim: Claim) -> bool:
    mosaic = cast("Mosaic", SimpleNamespace(url=URL, prompts=PROMPTS, commit=_committing(world)))
    todo = standing(prepared, mosaic, retry=False)
    pool = FaultyPool(world, claim, forgets_tokens=code.forgets_tokens)

    def sleep(seconds: float) -> None:
        world.step("sleeps")
        world.wait(seconds)
        pool.beat()

    books = code.books(prepared, mosaic, todo, Tally(), Silent(), held=code.fenced(claim), clock=world.now, sleep=sleep)
    try:
        try:
            if todo.wanted:
                _map(world, prepared, todo, books, pool, code)
            else:
                _build(world, books)
        except MapperError:
            books.close()  # as ``jobs/run.py`` does, whatever ended it
            raise
        books.close()
    except KilledError:
        pool.orphan()
        raise
    except MapperError:
        pool.close()
        raise
    pool.close()
    return not todo.wanted and not books.levels_behind


def _map(world: World, prepared: Prepared, todo: Standing, books: Books, pool: FaultyPool, code: Code) -> None:
    over = set[int]()
    turns = world.steps
    tasks = prepared.plan.tasks(todo.wanted, written_sources=todo.sources)
    for outcome in outcomes(pool, tasks, policy=code.policy, more=books.more, now=world.now):
        if isinstance(outcome.task, TileTask):
            if outcome.task.id in over:
                raise BrokenError(f"tile {outcome.task.id} has two outcomes")
            over.add(outcome.task.id)
        books.enter(outcome)
        if world.steps - turns > MOST_TURNS:
            raise BrokenError("the sitting does not end")
    if missing := set(todo.wanted) - over:
        raise BrokenError(f"the sitting ended, and nothing was heard of tiles {sorted(missing)}")


def _build(world: World, books: Books) -> None:
    while due := books.more(True):
        for task in due:
            books.enter(Outcome(worker="", task=task, attempts=1, result=build_here(world, task)))


def _let_go(claim: Claim) -> None:
    try:
        claim.release()
    except StoreError:
        return  # it goes stale


def _committing(world: World) -> Callable[[Sequence[bytes], str, Any], None]:
    return lambda receipts, message, metadata: world.commit(list(receipts))
