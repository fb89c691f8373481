"""What ``resmap plan`` says of fleets on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from jobs.amounts import Range, duration
from jobs.budget import dollars
from jobs.deadline import said
from jobs.fleets import Fleet, Offer
from jobs.gpu_speed import Basis
from jobs.pricing import Fleets
from jobs.terminal import plain

CLOSE_TO_LINK = 0.8
"""Share of a node's link from which on it is told of."""


def fleets_table(fleets: Fleets) -> Table | None:
    """A row a fleet, the cheapest that makes it marked; None where there is none to show."""
    if fleets.by is not None and fleets.within_s is not None:
        shown = [(offer.fleet, _mark(offer, fleets.best)) for offer in fleets.offers if offer.fleet is not None]
        title = f"Fleets that finish by {said(fleets.by)}, in {duration(fleets.within_s)}"
    else:
        shown = [(fleet, " ") for _, those in fleets.sizes for fleet in those]
        title = "Fleets: at each size, those that no other beats in both time and money"
    if not shown:
        return None
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("  fleet", no_wrap=True)
    for heading in ("likely", "at most", "USD", "from – to", "cores", "Gbit/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    size = 0
    for fleet, mark in shown:
        if not fleets.by and size and fleet.gpus != size:
            table.add_row()
        size = fleet.gpus
        table.add_row(*_row(fleet, mark), style="bold" if mark == "▸" else None)
    return table


def _row(fleet: Fleet, mark: str) -> Iterator[str]:
    yield f"{mark} {named(fleet)}"
    yield duration(fleet.seconds.likely)
    yield duration(fleet.seconds.high)
    yield money(fleet.usd.likely)
    yield f"{money(fleet.usd.low)} – {money(fleet.usd.high)}"
    yield _count(fleet.cores) + (f" +{_count(fleet.readers)}" if fleet.readers else "")
    yield f"{_two(fleet.node_gbit_s)}/{_two(fleet.link_gbit_s)}"


def _mark(offer: Offer, best: Offer | None) -> str:
    if offer is best:
        return "▸"
    return " " if offer.sure and offer.within_budget else "$" if offer.sure else "?"


def named(fleet: Fleet) -> str:
    """A fleet in three words."""
    return f"{fleet.gpus:,} × {fleet.gpu}" + (" spot" if fleet.market == "spot" else "")


def money(usd: float) -> str:
    """As tables have it: cents only of what is less than ten dollars."""
    return dollars(usd) if usd < 10 else f"${_count(usd)}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 10_000 else f"{number / 1000:,.0f}k"


def _two(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def says_table(fleets: Fleets) -> Table:
    """What the fleets' own table does not say: which to take, which do not make it and why, what all of it rests on."""
    table = Table(show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in fleets_say(fleets):
        table.add_row(label, plain(text))
    return table


def fleets_say(fleets: Fleets) -> list[tuple[str, str]]:
    """The same as words: what it is about, and a sentence."""
    if not fleets.demand.tiles:
        return [("GPUs", "none: no tile is under imagery")]
    best = fleets.best.fleet if fleets.best is not None else None
    looked_at = [best] if best is not None else [fleet for _, those in fleets.sizes for fleet in those]
    return [*_choice(fleets), *_refusals(fleets), *_needs(looked_at), *_rests_on(fleets)]


def _choice(fleets: Fleets) -> Iterator[tuple[str, str]]:
    if fleets.by is None:
        return
    made = [offer for offer in fleets.offers if offer.fleet is not None]
    best, budget = fleets.best, dollars(fleets.budget_usd or 0)
    if not made:
        yield "take", f"none finishes by {said(fleets.by)}"
    elif best is None or best.fleet is None:
        least = min(offer.fleet.usd.likely for offer in made if offer.fleet is not None)
        yield (
            "take",
            f"none: all that make it are likely to cost more than compute.budget_usd, {budget}, and the cheapest "
            f"{dollars(least)}; give it more, or a later hour",
        )
    else:
        fleet = best.fleet
        lost = f", and {100 * fleet.lost_share:.1f} % of the time lost to interruptions" if fleet.lost_share > 0 else ""
        sure = "the cheapest that makes it" if best.sure else "the cheapest that likely makes it"
        yield (
            "take",
            f"{named(fleet)} on {fleet.nodes:,} × {fleet.node}, {sure}: {money(fleet.usd.likely)}, "
            f"{money(fleet.start_up_usd)} of it to start up{lost}",
        )
        price = fleet_price(fleets, fleet)
        yield "job file", f"compute: {{gpus: {fleet.gpus}, gpu_type: {fleet.gpu}, usd_per_gpu_hour: {price:g}}}"
    if any(not offer.sure for offer in made):
        yield "?", "in time at the likely pace, late at the slow end"
    if best is not None and any(not offer.within_budget for offer in made):
        yield "$", f"likely to cost more than compute.budget_usd, {budget}"


def fleet_price(fleets: Fleets, fleet: Fleet) -> float:
    """US dollars a GPU and hour of a fleet."""
    gpu = fleets.prices.gpus[fleet.gpu]
    return (gpu.spot_usd if fleet.market == "spot" else gpu.on_demand_usd) or 0.0


def _refusals(fleets: Fleets) -> Iterator[tuple[str, str]]:
    """Those that do not make it, a line a reason."""
    by_reason: dict[str, list[str]] = {}
    for offer in fleets.offers:
        if offer.fleet is None:
            by_reason.setdefault(offer.why, []).append(offer.gpu + (" spot" if offer.market == "spot" else ""))
    for name, why in fleets.unknown.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        yield "not", f"{', '.join(names)}: {why}"


def _needs(fleets: Sequence[Fleet]) -> Iterator[tuple[str, str]]:
    """Where the machines beside the GPUs are what is short."""
    most = max(fleets, key=lambda one: one.readers, default=None)
    if most is not None and most.readers:
        yield (
            "cores",
            f"+n: readers for which the GPUs' own nodes have no cores, {most.readers:,} with {named(most)}; "
            "give the cluster nodes without GPUs, and they are placed there",
        )
    for fleet in _once_a_type([one for one in fleets if one.node_gbit_s >= CLOSE_TO_LINK * one.link_gbit_s]):
        has, takes = _two(fleet.link_gbit_s), _two(fleet.node_gbit_s)
        more = "and decides the pace: more nodes are taken" if fleet.bound == "network" else "with little to spare"
        yield "network", f"{named(fleet)}: a {fleet.node} has {has} Gbit/s and takes {takes}, {more}"
    for fleet in _once_a_type([one for one in fleets if one.bound in _BOUND]):
        yield "pace", f"{named(fleet)}: {_BOUND[fleet.bound]}"
    if any(fleet.idle_gpus for fleet in fleets):
        yield "tiles", "fewer than GPUs in some: more GPUs do not help, a smaller grid.shard_px does"


_BOUND = {
    "cores": "its node has too few cores to blend as fast as its GPU maps",
    "driver": "the driver decides the pace, and more GPUs do not help",
    "store": "the imagery's store decides the pace, and more GPUs do not help",
}


def _once_a_type(fleets: Sequence[Fleet]) -> list[Fleet]:
    return list({fleet.gpu: fleet for fleet in fleets}.values())


def _rests_on(fleets: Fleets) -> Iterator[tuple[str, str]]:
    by_basis: dict[Basis, list[str]] = {}
    for name, speed in fleets.speeds.items():
        by_basis.setdefault(speed.basis, []).append(f"{name} {_window(speed.seconds)}")
    for basis, names in by_basis.items():
        of = next((speed.of for speed in fleets.speeds.values() if speed.basis == basis and speed.of), "")
        yield "a window", f"{', '.join(names)}: {_BASES[basis].format(of=of)}"
    if "by data sheet" in by_basis or "by ratio" in by_basis:
        yield (
            "to know",
            "`resmap plan JOB --pilot 20 --fleet` on one such GPU, and what it says as seconds_per_window in a table "
            "of your own (--prices FILE)",
        )
    if fleets.timed.card and fleets.timed.window_s is not None:
        yield "here", f"{fleets.timed.card}: seconds_per_window {fleets.timed.window_s:.3g}"
    if not fleets.demand.measured:
        yield "reckoned", "cores and network, from constants; --pilot measures them"
    dated = f", {fleets.prices.as_of}" if fleets.prices.as_of else ""
    yield "prices", f"{fleets.prices.source}{dated}; a node takes {duration(fleets.prices.start_up_s)} to start"
    if fleets.by is not None:
        yield "size", "so that the slow end is in time: a GPU too many costs its start-up, one too few the hour"


_BASES = {
    "your table": "as the price table has it",
    "timed here": "timed here",
    "by ratio": "by the ratio of data sheets to {of}, timed here",
    "by data sheet": "off data sheets; no GPU was timed",
}


def _window(seconds: Range) -> str:
    return f"{_ms(seconds.likely)} ms ({_ms(seconds.low)} to {_ms(seconds.high)})"


def _ms(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" if ms >= 1 else f"{ms:.2g}"
