"""What ``resmap plan`` answers: a plan and its price, reckoned or measured, here and on fleets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jobs.demand import Demand, demand_of
from jobs.estimate import Estimate, estimate
from jobs.fleets import Fleet, Offer, cheapest, frontier, kinds, offers_by
from jobs.gpu_prices import Prices
from jobs.gpu_speed import Speed, Timed, speed_of, type_of
from jobs.pilot import Pilot, map_some, seconds_per_window, timed_for_fleets
from jobs.prepare import Prepared
from jobs.watch import Watcher
from mapper import models
from mapper.errors import SpecError
from mapper.models.fetch import shown
from mapper.storage import is_local


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleets:
    """Fleets for a plan: those that finish by an hour, or what so many GPUs make of it."""

    by: datetime | None
    """As it was asked for; None where no hour was."""

    within_s: float | None
    """From now until then."""

    prices: Prices
    demand: Demand
    timed: Timed
    speeds: Mapping[str, Speed]
    unknown: Mapping[str, str]
    """Types of which nobody knows how fast they are, and why."""

    budget_usd: float | None
    offers: tuple[Offer, ...]
    """With an hour: one a type and market."""

    sizes: tuple[tuple[int, tuple[Fleet, ...]], ...]
    """Without one: GPUs at most, and the fleets that none of that size beats."""

    @property
    def best(self) -> Offer | None:
        """The cheapest that makes it."""
        return cheapest(self.offers)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        best = self.best
        return {
            "by": None if self.by is None else self.by.isoformat(),
            "within_s": self.within_s,
            "prices": {"source": self.prices.source, "as_of": self.prices.as_of},
            "demand": asdict(self.demand),
            "window": {
                "speeds": {name: asdict(speed) for name, speed in self.speeds.items()},
                "unknown": dict(self.unknown),
                **asdict(self.timed),
            },
            "budget_usd": self.budget_usd,
            "offers": [{**asdict(offer), "cheapest": offer is best} for offer in self.offers],
            "sizes": [{"gpus": size, "fleets": [asdict(fleet) for fleet in fleets]} for size, fleets in self.sizes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A plan, and what it costs."""

    prepared: Prepared
    cost: Estimate
    device: str
    """On which the model was timed."""

    pilot: Pilot | None
    fleets: Fleets | None = None

    @property
    def exit_status(self) -> int:
        """As the command line ends: 4 where the pilot had to give tiles up."""
        return 4 if self.pilot is not None and self.pilot.problems else 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plan = self.prepared.plan
        grids = [
            {"name": grid.name, "crs": grid.lattice.crs, "shape": grid.shape, "shards": grid.tile_shape}
            for grid in plan.grids
        ]
        return {
            "run": self.prepared.run,
            "mosaic": self.prepared.job.spec.output.mosaic,
            "timed_on": self.device,
            **asdict(self.cost),
            "grids": grids,
            "steps": [step.isoformat() for step in plan.steps],
            "pilot": None if self.pilot is None else asdict(self.pilot),
            "fleets": None if self.fleets is None else self.fleets.as_json(),
        }


def price(prepared: Prepared, *, pilot: int | None, watcher: Watcher) -> Priced:
    """The price of a plan: with so many tiles really mapped, or with the model timed on noise.

    Raises:
        MapperError: the model cannot be loaded, or the store of the imagery refuses us.
    """
    spec = prepared.job.spec
    weights = spec.model.weights
    if weights and not is_local(weights):
        watcher.say(f"timing the model; its weights are fetched first from {shown(weights)}")
    timed, device = (None, "") if pilot is not None else seconds_per_window(spec)
    cost = estimate(
        prepared.plan,
        spec,
        prepared.area,
        window_px=models.window_px(spec.model.name),
        seconds_per_window=timed,
        workers=spec.compute.expected_gpus,
    )
    if pilot is None:
        return Priced(prepared=prepared, cost=cost, device=device, pilot=None)
    told = map_some(prepared, cost, pilot, watcher=watcher)
    return Priced(
        prepared=prepared, cost=told.priced(cost, spec.compute.usd_per_gpu_hour), device=told.device, pilot=told
    )


def with_fleets(
    priced: Priced,
    prices: Prices,
    *,
    by: datetime | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    watcher: Watcher,
) -> Priced:
    """The same, with fleets: those that finish by an hour, or the frontier of time and money.

    Args:
        priced: without them.
        prices: of the GPUs that can be had.
        by: aware; None for no hour.
        clock: tells now.
        watcher: is told what takes its time.

    Raises:
        SpecError: the job asks for a type of GPU that the table does not have.
        ModelError: the model cannot be loaded.
    """
    spec, plan = priced.prepared.job.spec, priced.prepared.plan
    window_px = models.window_px(spec.model.name)
    demand = demand_of(plan, spec, priced.cost, window_px=window_px, pilot=priced.pilot)
    asked = _asked(prices, spec.compute.gpu_type)
    timed, speeds, unknown = Timed(), dict[str, Speed](), dict[str, str]()
    if demand.tiles:
        watcher.say("counting what a window asks of a GPU")
        timed = timed_for_fleets(spec, priced.pilot)
        for name in asked:
            speed = speed_of(name, prices.gpus, timed, model=spec.model.name, precision=spec.model.precision,
                             reach=prices.reach)  # fmt: skip
            if isinstance(speed, str):
                unknown[name] = speed
            else:
                speeds[name] = speed
    found = kinds(demand, prices, speeds)
    # Now, and not when the command began: searching and timing have taken some of what was left.
    within_s = None if by is None else (by - clock()).total_seconds()
    budget_usd = spec.compute.budget_usd
    fleets = Fleets(
        by=by,
        within_s=within_s,
        prices=prices,
        demand=demand,
        timed=timed,
        speeds=speeds,
        unknown=unknown,
        budget_usd=budget_usd,
        offers=() if within_s is None else tuple(offers_by(within_s, found, budget_usd=budget_usd)),
        sizes=() if within_s is not None else tuple((size, tuple(those)) for size, those in frontier(found)),
    )
    return replace(priced, fleets=fleets)


def _asked(prices: Prices, gpu_type: str | None) -> Sequence[str]:
    """The types of the table that a job may run on.

    Raises:
        SpecError: there is none.
    """
    if gpu_type is None:
        return list(prices.gpus)
    found = type_of(gpu_type, prices.gpus)
    if found is None:
        raise SpecError(
            f"compute.gpu_type is {gpu_type}, and the price table has no such type",
            fix=f"add it to a table of your own (--prices FILE), or take one of {', '.join(prices.gpus)}",
        )
    return [found]
