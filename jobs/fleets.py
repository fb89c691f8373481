"""Which fleet finishes a plan by when, for how much: arithmetic of a demand and a price table, and nothing else.

    S  seconds in which one GPU would do the whole plan    the longest of: model, network, cores that blend
    R  rounds of tiles            ceil(tiles / GPUs)
    W  seconds at work            R · S / tiles; no less than the driver and the store take for all of it
    L  lost a spot interruption   a node's start-up, what is paid after its notice, half a tile that outlasts it
    T  seconds in all             start-up + W / (1 - interruptions a second of a node · L)
    money                         nodes · price · T, and readers that the nodes have no cores for

Each of the three of a ``Range`` is reckoned by itself. A fleet is sized by its slow end: a GPU that turns out not to
have been needed has cost its start-up and no more, and one that is missing costs the hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from jobs.amounts import Range, duration
from jobs.demand import Demand
from jobs.gpu_prices import GpuType, Prices
from jobs.gpu_speed import Speed

Market: TypeAlias = Literal["spot", "on demand"]
Bound: TypeAlias = Literal["model", "network", "cores", "driver", "store"]

DRIVER_S_A_TILE = 0.00078
"""Of the one core of a driver (``results/scale.json``)."""

MODEL_CORES = 1
"""Of each GPU's machine, to drive its model: as ``cluster/readers.py`` has it."""

LEAST_CORES = 0.5
"""A GPU's share of its machine that blends, however few cores there are."""

SIZES = (1, 4, 16, 64, 256, 1024, 4096)
"""GPUs of the fleets that are told without an hour."""

HARDLY = 0.97
"""Of another's time: what is not faster than this is not worth more money."""

MOST_GPUS = 100_000

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """So many GPUs of one type, and what they make of a plan."""

    gpu: str
    market: Market
    gpus: int
    nodes: int
    node: str
    seconds: Range
    """From being asked for to the last tile."""

    usd: Range
    start_up_usd: float
    """Of it, paid before the first window."""

    lost_share: float
    """Of the time at work, to interruptions."""

    cores: float
    """That read, blend and drive models, in all, at the likely pace."""

    readers: int
    """Of these, readers' that the nodes have no room for: a core each, on other nodes."""

    node_gbit_s: float
    """Through one node's link, the busier direction."""

    all_gbit_s: float
    """Read and written by the fleet together."""

    link_gbit_s: float
    """What a node's link can do."""

    bound: Bound
    """What decides its pace."""

    idle_gpus: int
    """GPUs for which there is no tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The smallest fleet of a type and market that finishes in time; or why none does."""

    gpu: str
    market: Market
    fleet: Fleet | None
    sure: bool = False
    """At the slow end too; else at the likely pace alone."""

    why: str = ""
    """None does; or what of it is not as it should be."""

    within_budget: bool = True
    """By its likely cost, as a run is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One type of GPU on one market, for one plan: all that does not depend on how many."""

    name: str
    market: Market
    gpu: GpuType
    prices: Prices
    demand: Demand
    whole_s: Range
    """Of one GPU, for the whole plan."""

    bound: Bound

    @classmethod
    def of(cls, name: str, market: Market, prices: Prices, demand: Demand, speed: Speed) -> Kind:
        """What one GPU of this type would make of a plan."""
        gpu = prices.gpus[name]
        link = gpu.node.gbit_s * 1e9 / 8 / gpu.node.gpus
        blending = max(LEAST_CORES, gpu.node.vcpus / gpu.node.gpus - MODEL_CORES)
        limits: dict[Bound, Range] = {
            "model": demand.windows.by(speed.seconds),
            "network": _most([demand.read_bytes, demand.written_bytes]).times(1 / link),
            "cores": demand.worker_s.times(1 / blending),
        }
        bound = max(limits, key=lambda limit: limits[limit].likely)
        return cls(name=name, market=market, gpu=gpu, prices=prices, demand=demand, whole_s=_most(limits.values()),
                   bound=bound)  # fmt: skip

    @property
    def tile_s(self) -> Range:
        """One tile on one GPU."""
        return self.whole_s.times(1 / self.demand.tiles)

    @property
    def usd_per_hour(self) -> float:
        """Of one GPU."""
        usd = self.gpu.spot_usd if self.market == "spot" else self.gpu.on_demand_usd
        assert usd is not None  # no kind is made of what has no price
        return usd

    @property
    def working_share(self) -> Range:
        """Of the time at work, what is left of it after interruptions; 0 or less where they come too fast."""
        if self.market == "on demand":
            return Range(low=1.0, likely=1.0, high=1.0)
        rate = self.gpu.interruptions_per_day / DAY_S

        def left(tile_s: float) -> float:
            torn = tile_s / 2 if tile_s > self.prices.notice_s else 0.0
            return 1.0 - rate * (self.prices.start_up_s + self.prices.notice_s + torn)

        return _each(left, self.tile_s)

    @property
    def floor(self) -> Mapping[Bound, Range]:
        """Seconds at work that no number of GPUs takes less than."""
        driver_s = self.demand.tiles * DRIVER_S_A_TILE
        floors: dict[Bound, Range] = {"driver": Range(low=driver_s, likely=driver_s, high=driver_s)}
        store = self.prices.store
        if store.requests_per_s is not None or store.gbit_s is not None:
            asked_s = self.demand.requests / (store.requests_per_s or math.inf)
            bits = self.demand.read_bytes.times(8e-9 / (store.gbit_s or math.inf))
            floors["store"] = _each(lambda given_s: max(asked_s, given_s), bits)
        return floors

    def fleet(self, nodes: int) -> Fleet | None:
        """So many nodes; None where spot nodes go faster than they come."""
        node, demand = self.gpu.node, self.demand
        working = self.working_share
        if working.high <= 0:
            return None
        gpus = nodes * node.gpus
        rounds = math.ceil(demand.tiles / gpus)
        floor = self.floor
        work = _most([self.tile_s.times(rounds), *floor.values()])
        slowest = max(floor, key=lambda one: floor[one].likely)
        seconds = Range(
            low=self.prices.start_up_s + work.low / working.low,
            likely=self.prices.start_up_s + work.likely / working.likely,
            high=self.prices.start_up_s + work.high / working.high,
        )
        busy = min(gpus, demand.tiles)
        decoding = demand.decode_s.likely / work.likely
        cores = gpus * MODEL_CORES + decoding + demand.worker_s.likely / work.likely
        readers = max(0, math.ceil(min(cores - nodes * node.vcpus, decoding) - 1e-9))
        usd_per_s = (gpus * self.usd_per_hour + readers * self.prices.core_usd_per_hour) / 3600
        gbit = _most([demand.read_bytes, demand.written_bytes]).likely * 8e-9 / work.likely
        return Fleet(
            gpu=self.name,
            market=self.market,
            gpus=gpus,
            nodes=nodes,
            node=node.name,
            seconds=seconds,
            usd=seconds.times(usd_per_s),
            start_up_usd=self.prices.start_up_s * usd_per_s,
            lost_share=1.0 - working.likely,
            cores=cores,
            readers=readers,
            node_gbit_s=gbit / min(nodes, math.ceil(busy / node.gpus)),
            all_gbit_s=(demand.read_bytes.likely + demand.written_bytes.likely) * 8e-9 / work.likely,
            link_gbit_s=node.gbit_s,
            bound=slowest if floor[slowest].likely > self.tile_s.likely * rounds else self.bound,
            idle_gpus=gpus - busy,
        )

    def smallest(self, within_s: float) -> Offer:
        """The smallest fleet that finishes in time."""
        offer = Offer(gpu=self.name, market=self.market, fleet=None)
        sure = self._nodes(within_s, lambda found: found.high)
        if isinstance(sure, int):
            return replace(offer, fleet=self.fleet(sure), sure=True)
        likely = self._nodes(within_s, lambda found: found.likely)
        if isinstance(likely, int):
            return replace(offer, fleet=self.fleet(likely), why=f"at the slow end: {sure}")
        return replace(offer, why=likely)

    def _nodes(self, within_s: float, end: Callable[[Range], float]) -> int | str:
        """How many nodes finish in time, by one end of the estimate; or why none do."""
        start_up_s, working = self.prices.start_up_s, end(self.working_share)
        if within_s <= start_up_s:
            return f"a node takes {duration(start_up_s)} to start"
        if working <= 0:
            return "spot nodes go faster than they come"
        at_work_s, tile_s = (within_s - start_up_s) * working, end(self.tile_s)
        for limit, floor in self.floor.items():
            if end(floor) > at_work_s:
                return f"{_FLOORS[limit]} takes {duration(end(floor))} for all tiles, however many GPUs there are"
        rounds = math.floor(min(self.demand.tiles, at_work_s / tile_s * (1 + 1e-12))) if tile_s else self.demand.tiles
        if rounds < 1:
            return f"one tile takes {duration(tile_s)}, and more GPUs than tiles do not help; lower grid.shard_px"
        nodes = math.ceil(math.ceil(self.demand.tiles / rounds) / self.gpu.node.gpus)
        gpus, most = nodes * self.gpu.node.gpus, self.gpu.most or MOST_GPUS
        if gpus > most:
            return f"it takes {gpus:,} GPUs, and no more than {most:,} can be had"
        return nodes


_FLOORS: Mapping[Bound, str] = {"driver": "the driver", "store": "the imagery's store"}


def kinds(demand: Demand, prices: Prices, speeds: Mapping[str, Speed]) -> list[Kind]:
    """The types whose speed is known, on each market that has a price for them."""
    return [
        Kind.of(name, market, prices, demand, speed)
        for name, speed in speeds.items()
        for market, usd in _markets(prices.gpus[name]).items()
        if usd is not None
    ]


def _markets(gpu: GpuType) -> dict[Market, float | None]:
    return {"spot": gpu.spot_usd, "on demand": gpu.on_demand_usd}


def offers_by(within_s: float, found: Sequence[Kind], *, budget_usd: float | None = None) -> list[Offer]:
    """The smallest fleet of each kind that finishes in so many seconds: sure ones first, the cheapest of them first;
    then those that only likely do, and those that do not."""
    offers = [kind.smallest(within_s) for kind in found]
    if budget_usd is not None:
        offers = [
            replace(offer, within_budget=offer.fleet is None or offer.fleet.usd.likely <= budget_usd)
            for offer in offers
        ]
    return sorted(offers, key=_by_money)


def _by_money(offer: Offer) -> tuple[bool, bool, float]:
    return offer.fleet is None, not offer.sure, offer.fleet.usd.likely if offer.fleet else 0.0


def cheapest(offers: Sequence[Offer]) -> Offer | None:
    """Of those that finish in time and within the budget; one that is sure to before one that only likely does."""
    good = [offer for offer in offers if offer.fleet is not None and offer.within_budget]
    return min(good, key=_by_money) if good else None


def frontier(found: Sequence[Kind]) -> list[tuple[int, list[Fleet]]]:
    """For one GPU, four, sixteen and so on to one a tile: the fleets of at most that size that none of it beats in both
    time and money, the cheapest first."""
    tiles = found[0].demand.tiles if found else 0
    sizes = [*(size for size in SIZES if size < tiles), *([tiles] if 0 < tiles <= SIZES[-1] else [])]
    return [(size, _unbeaten(_of_size(size, found))) for size in sizes]


def _of_size(size: int, found: Sequence[Kind]) -> list[Fleet]:
    fleets = [
        kind.fleet(nodes)
        for kind in found
        if (nodes := size // kind.gpu.node.gpus) and nodes * kind.gpu.node.gpus <= (kind.gpu.most or MOST_GPUS)
    ]
    return [fleet for fleet in fleets if fleet is not None]


def _unbeaten(fleets: Sequence[Fleet]) -> list[Fleet]:
    """Those that no other beats in both likely time and likely money; what is hardly faster and dearer is beaten."""
    kept: list[Fleet] = []
    for fleet in sorted(fleets, key=lambda one: (one.usd.likely, one.seconds.likely)):
        if not kept or fleet.seconds.likely < HARDLY * kept[-1].seconds.likely:
            kept.append(fleet)
    return kept


def _most(ranges: Iterable[Range]) -> Range:
    """The largest of each end."""
    all_of = list(ranges)
    return Range(
        low=max(one.low for one in all_of),
        likely=max(one.likely for one in all_of),
        high=max(one.high for one in all_of),
    )


def _each(rule: Callable[[float], float], given: Range) -> Range:
    return Range(low=rule(given.low), likely=rule(given.likely), high=rule(given.high))
