"""What a run has spent, when that is enough, and what is said then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mapper.errors import SpecError

if TYPE_CHECKING:
    from jobs.prepare import Prepared
    from mapper.map_tile import Task

KEEP_EVERY_S = 30.0
"""What a killed driver forgets of its spending at most."""


class Meter:
    """Reckons what a run spends, and says when its budget is used up.

    Every GPU is paid for from the moment a worker has it, its start-up with it, until that worker is let go; while
    another takes the place of one that died, too. The budget is used up once it would not bear what the tiles in hand
    still cost: they are finished, so that nothing paid for is lost.
    """

    def __init__(
        self,
        *,
        usd_per_gpu_hour: float,
        budget_usd: float | None,
        spent_usd: float = 0.0,
        tile_usd: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A meter that stands at what earlier sessions of the run have spent.

        Args:
            usd_per_gpu_hour: the price of one GPU.
            budget_usd: what the run may cost in all; None for no limit.
            spent_usd: by earlier sessions.
            tile_usd: what a tile has cost in them, start-ups and all: a budget that does not bear one more is used up
                before a worker is asked for.
            clock: seconds.
        """
        self._usd_per_s = usd_per_gpu_hour / 3600
        self._budget_usd, self._clock = budget_usd, clock
        self.keep: Callable[[float], None] = lambda _: None
        """Told what has been spent in all, every ``KEEP_EVERY_S`` and at the end."""

        self.spent_usd = spent_usd
        """By all sessions of the run."""

        self.used_up = budget_usd is not None and spent_usd + tile_usd >= budget_usd
        """Whether no more may be handed out; once it is so, it stays so."""

        self._gpus, self._tile_usd = 0.0, tile_usd
        self._counted_to = self._kept_at = clock()
        self._worked_usd = 0.0
        self._handed_out = self._over = self._room = 0
        self._all_out = False

    def begin(self) -> None:
        """Workers are being asked for."""
        self._counted_to = self._kept_at = self._clock()

    def have(self, gpus: float) -> None:
        """From now on the workers have so many GPUs, and they cost."""
        self._spend()
        self._gpus = gpus

    def work(self, workers: Mapping[str, int]) -> None:
        """The workers have loaded the model; they were paid for while they did."""
        self.count(workers)
        self._worked_usd = 0.0

    def count(self, workers: Mapping[str, int]) -> None:
        """Add what has been spent since last asked, and look at the budget.

        Args:
            workers: that take tiles now → how many each may hold.
        """
        self._room = sum(workers.values())
        now = self._spend()
        if self._budget_usd is not None and self.spent_usd + self._in_hand_usd() >= self._budget_usd:
            self.used_up = True
        if now - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = now
            self.keep(self.spent_usd)

    def handing_out(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The same tasks. As many of those drawn as there is room for are in hand until they are ``over``."""
        for task in tasks:
            self._handed_out += 1
            yield task
        self._all_out = True

    def over(self) -> None:
        """One of the tasks handed out is over for good."""
        self._over += 1

    def close(self) -> None:
        """The workers are let go."""
        self.count({})
        self.keep(self.spent_usd)

    def says(self, left: int) -> str:
        """What is said of a run that ends with its budget used up and so many tiles left."""
        tile_usd = self._worked_usd / self._over if self._over else self._tile_usd
        rest = f", for about {dollars(left * tile_usd)} more" if tile_usd else ""
        todo = f"{left:,} {'tile is' if left == 1 else 'tiles are'} left to do{rest}" if left else "its levels are left"
        return (
            f"the budget is used up: {dollars(self.spent_usd)} of {dollars(self._budget_usd or 0)} are spent, and "
            f"{todo}; raise compute.budget_usd and run again"
        )

    def _spend(self) -> float:
        """Add what the GPUs there are have cost since last asked; the moment up to which they have."""
        now = self._clock()
        usd = self._gpus * (now - self._counted_to) * self._usd_per_s
        self._counted_to = now
        self.spent_usd += usd
        self._worked_usd += usd
        return now

    def _in_hand_usd(self) -> float:
        """What it takes to finish the tiles in hand: what one has cost, each; before any is over, as much again.

        Nothing where no tile is left to hold back: to stop then would save no money.
        """
        waiting = self._handed_out - self._over
        if waiting == 0 or (self._all_out and waiting <= self._room):
            return 0.0
        return min(waiting, self._room) * self._worked_usd / self._over if self._over else self._worked_usd


def dollars(usd: float) -> str:
    """An amount of money, as people read it: cents, and two figures of what is less than one."""
    places = 2 if usd >= 0.01 or usd <= 0 else min(6, 1 - math.floor(math.log10(usd)))
    return f"${usd:,.{places}f}"


def refuse_over_budget(cost_usd: float, budget_usd: float | None) -> None:
    """Stop a job whose plan costs more than its budget.

    Raises:
        SpecError: it does.
    """
    if budget_usd is not None and cost_usd > budget_usd:
        raise SpecError(
            f"the plan costs about {dollars(cost_usd)}, and the budget is {dollars(budget_usd)}",
            fix="raise compute.budget_usd, or ask for less",
        )


def check_budget(prepared: Prepared, *, elsewhere: bool, tell: Callable[[str], None]) -> None:
    """Stop a run before it begins, where its plan is likely to cost more than its budget.

    A run that has spent something goes on until its budget is used up: whoever raised it has seen the price. So does
    one whose workers are elsewhere while this machine has no GPU: the model's time here says nothing of theirs.

    Args:
        prepared: the job and its plan.
        elsewhere: whether the workers are on other machines.
        tell: takes a warning.

    Raises:
        SpecError: it costs too much.
    """
    from jobs.estimate import estimate
    from jobs.pilot import seconds_per_window
    from mapper import models

    spec = prepared.job.spec
    budget_usd = spec.compute.budget_usd
    if budget_usd is None or (prepared.saved and prepared.folder.facts().get("spent_usd")):
        return
    if prepared.plan.tiles.holes.all():  # no model is asked anything
        return
    timed, device = seconds_per_window(spec)
    if elsewhere and device == "cpu":
        tell(f"the budget of {dollars(budget_usd)} is watched as the run goes: the model cannot be timed on a GPU here")
        return
    window_px = models.window_px(spec.model.name)
    cost = estimate(prepared.plan, spec, prepared.area, window_px=window_px, seconds_per_window=timed, workers=1)
    assert cost.usd is not None  # the model was timed
    refuse_over_budget(cost.usd.likely, budget_usd)
