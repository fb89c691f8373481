"""Which fleet finishes a plan by when, and for how much."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.amounts import Range
from jobs.deadline import parse_deadline, said
from jobs.demand import Demand
from jobs.fleet_tables import fleets_say, fleets_table, says_table
from jobs.fleets import Fleet, Kind, Market, cheapest, frontier, kinds, offers_by
from jobs.gpu_prices import SHIPPED, Prices, read_prices
from jobs.gpu_speed import Speed, Timed, Work, count_work, speed_of, type_of
from jobs.pricing import Fleets
from mapper.errors import SpecError
from tests.stories.command_line import Resmap
from tests.stories.world import World

NOW = datetime(2026, 11, 22, 11, 0, tzinfo=UTC)


def sure(value: float) -> Range:
    return Range(low=value, likely=value, high=value)


def table(**gpus: dict[str, Any]) -> Prices:
    """A table with a minute's notice, five to start up, and these types."""
    usual = {"memory_gb": 24, "on_demand_usd": 3.0, "spot_usd": 1.0,
             "node": {"name": "n", "gpus": 1, "vcpus": 8, "gbit_s": 8}}  # fmt: skip
    return Prices.model_validate(
        {
            "as_of": "today", "source": "a test", "start_up_s": 300, "notice_s": 100, "core_usd_per_hour": 0.36,
            "reach": {"low": 0.1, "likely": 0.2, "high": 0.5},
            "gpus": {name: usual | said for name, said in (gpus or {"L4": {}}).items()},
        }
    )  # fmt: skip


def demand(**changes: Any) -> Demand:
    """A hundred tiles of 36 windows, and nothing else to do."""
    nothing = sure(0.0)
    return replace(
        Demand(tiles=100, windows=sure(3600), decode_s=nothing, worker_s=nothing, read_bytes=nothing,
               written_bytes=nothing, requests=0, measured=True),
        **changes,
    )  # fmt: skip


def kind(
    market: Market = "on demand", *, seconds: Range | None = None, asked: Demand | None = None, **gpu: Any
) -> Kind:
    speed = Speed(seconds=seconds or sure(1.0), basis="your table")
    return Kind.of("L4", market, table(L4=gpu), asked or demand(), speed)


def fleet(of: Kind, nodes: int) -> Fleet:
    made = of.fleet(nodes)
    assert made is not None
    return made


def test_an_example_by_hand() -> None:
    four = fleet(kind(), 4)  # 25 rounds of 36 s, after 5 minutes
    assert four.seconds == sure(300 + 25 * 36)
    assert four.usd.likely == pytest.approx(4 * 3.0 * 1200 / 3600)
    assert four.start_up_usd == pytest.approx(1.0)
    assert fleet(kind(), 3).seconds == sure(300 + 34 * 36)  # the last round has one tile
    assert fleet(kind(), 100).seconds == fleet(kind(), 500).seconds == sure(336)
    assert fleet(kind(), 500).idle_gpus == 400


def test_interruptions_by_hand() -> None:
    # One an hour: each costs a start-up and the notice, and tiles of 36 s end within that. 400 s of 3,600 are lost.
    often = fleet(kind("spot", interruptions_per_day=24), 4)
    assert often.lost_share == pytest.approx(1 / 9)
    assert often.seconds.likely == pytest.approx(300 + 900 / (8 / 9))
    assert often.usd.likely == pytest.approx(4 * 1.0 * often.seconds.likely / 3600)
    # Tiles of 360 s outlast it: half of one is lost besides.
    slow = fleet(kind("spot", seconds=sure(10.0), interruptions_per_day=24), 4)
    assert slow.lost_share == pytest.approx((400 + 180) / 3600)


def test_a_range_is_reckoned_end_by_end() -> None:
    wide = fleet(kind(seconds=Range(low=0.5, likely=1.0, high=4.0)), 10)
    assert wide.seconds == Range(low=300 + 180, likely=300 + 360, high=300 + 1440)
    assert wide.usd.high == pytest.approx(10 * 3.0 * 1740 / 3600)


amounts = st.floats(0, 1e6)
demands = st.builds(
    lambda tiles, windows, decode, worker, read: demand(
        tiles=tiles, windows=sure(windows), decode_s=sure(decode), worker_s=sure(worker), read_bytes=sure(1e6 * read)
    ),
    tiles=st.integers(1, 5000), windows=st.floats(1, 1e6), decode=amounts, worker=amounts, read=amounts,
)  # fmt: skip
markets = st.sampled_from(["spot", "on demand"])


@given(asked=demands, market=markets, nodes=st.integers(1, 3000), a_day=st.floats(0, 50), gpus=st.sampled_from([1, 8]))
def test_more_gpus_are_never_slower_and_twice_as_many_cost_at_most_twice(
    asked: Demand, market: Market, nodes: int, a_day: float, gpus: int
) -> None:
    node = {"name": "n", "gpus": gpus, "vcpus": 8 * gpus, "gbit_s": 8}
    one = kind(market, asked=asked, interruptions_per_day=a_day, node=node)
    if one.fleet(nodes) is None:
        assert one.fleet(2 * nodes) is None
        return
    few, more, twice = fleet(one, nodes), fleet(one, nodes + 1), fleet(one, 2 * nodes)
    assert more.seconds.likely <= few.seconds.likely
    assert twice.usd.likely <= 2 * few.usd.likely * (1 + 1e-9)
    assert few.gpus == nodes * gpus
    assert few.readers <= few.cores


@given(asked=demands, nodes=st.integers(1, 3000))
def test_spot_that_is_never_taken_away_takes_as_long_as_what_is_not_spot(asked: Demand, nodes: int) -> None:
    spot, other = (fleet(kind(market, asked=asked), nodes) for market in ("spot", "on demand"))
    assert spot.seconds == other.seconds
    assert spot.lost_share == 0


@given(asked=demands, market=markets, hours=st.floats(0.05, 200), spread=st.floats(1, 5))
def test_the_smallest_fleet_in_time_is_in_time_and_one_node_less_is_not(
    asked: Demand, market: Market, hours: float, spread: float
) -> None:
    one = kind(market, asked=asked, seconds=Range(low=0.5, likely=1.0, high=spread), interruptions_per_day=2)
    offer = one.smallest(3600 * hours)
    if offer.fleet is None:
        assert offer.why
        most = one.fleet(100_000)
        assert most is None or most.seconds.likely > 3600 * hours * (1 - 1e-9) or "can be had" in offer.why
        return
    took = offer.fleet.seconds.high if offer.sure else offer.fleet.seconds.likely
    assert took <= 3600 * hours * (1 + 1e-9)
    if offer.fleet.nodes > 1:
        less = fleet(one, offer.fleet.nodes - 1).seconds
        assert (less.high if offer.sure else less.likely) > 3600 * hours


def test_an_hour_that_only_the_likely_pace_makes_is_told_as_that() -> None:
    one = kind(seconds=Range(low=0.5, likely=1.0, high=40.0))  # a tile takes 36 s, or 24 minutes
    offer = one.smallest(1200)
    assert offer.fleet is not None
    assert (offer.fleet.gpus, offer.sure) == (4, False)
    assert "at the slow end: one tile takes 24 min" in offer.why


@pytest.mark.parametrize(
    ("within_s", "asked", "gpu", "why"),
    [
        (300, {}, {}, "a node takes 5 min to start"),
        (330, {}, {}, "one tile takes 36 s, and more GPUs than tiles do not help"),
        (3600, {"tiles": 10**7}, {}, "the driver takes 2.2 h for all tiles"),
        (900, {}, {"most": 4}, "it takes 7 GPUs, and no more than 4 can be had"),
        (9000, {}, {"interruptions_per_day": 300}, "spot nodes go faster than they come"),
    ],
    ids=["start-up", "one tile", "driver", "as many as there are", "interruptions"],
)
def test_none_that_makes_it_says_why(within_s: float, asked: dict[str, Any], gpu: dict[str, Any], why: str) -> None:
    offer = kind("spot", asked=demand(**asked), **gpu).smallest(within_s)
    assert offer.fleet is None
    assert why in offer.why


def test_a_store_that_gives_no_more_decides_the_pace() -> None:
    prices = Prices.model_validate(table().model_dump() | {"store": {"requests_per_s": 100.0}})
    one = Kind.of("L4", "on demand", prices, demand(requests=360_000), Speed(seconds=sure(1.0), basis="your table"))
    assert fleet(one, 100).seconds == sure(300 + 3600)
    assert fleet(one, 100).bound == "store"
    assert "the imagery's store takes 60 min" in one.smallest(3000).why
    assert fleet(one, 1).bound == "model"


def test_a_link_that_is_too_thin_asks_for_more_nodes() -> None:
    # 7.2 TB through 8 Gbit/s take two hours, and the model one.
    one = kind(asked=demand(read_bytes=sure(7.2e12)))
    assert fleet(one, 1).seconds == sure(300 + 7200)
    assert fleet(one, 1).bound == "network"
    assert fleet(one, 1).node_gbit_s == pytest.approx(8)
    assert fleet(one, 10).all_gbit_s == pytest.approx(80)
    free = kind(asked=demand()).smallest(2000).fleet
    thin = one.smallest(2000).fleet
    assert free is not None
    assert thin is not None
    assert (free.nodes, thin.nodes) == (3, 5)


def test_reading_that_the_nodes_have_no_cores_for_goes_to_readers_that_cost() -> None:
    # 11 cores decode, one blends, one drives the model; there are eight.
    asked = demand(decode_s=sure(11 * 3600), worker_s=sure(3600))
    one = fleet(kind(asked=asked), 1)
    assert one.cores == pytest.approx(13)
    assert one.readers == 5
    assert one.usd.likely == pytest.approx((3.0 + 5 * 0.36) * 3900 / 3600)
    assert one.bound == "model"


def test_blending_that_the_nodes_have_no_cores_for_slows_them_down() -> None:
    one = fleet(kind(asked=demand(worker_s=sure(14 * 3600))), 1)
    assert one.bound == "cores"
    assert one.seconds == sure(300 + 2 * 3600)
    assert one.readers == 0


def two_kinds() -> list[Kind]:
    """A slow cheap type, and one that is eight times as fast for ten times the money."""
    prices = table(L4={"on_demand_usd": 1.0, "spot_usd": None}, H100={"on_demand_usd": 10.0, "spot_usd": 4.0})
    speeds = {"L4": Speed(seconds=sure(8.0), basis="your table"), "H100": Speed(seconds=sure(1.0), basis="your table")}
    return kinds(demand(), prices, speeds)


def test_the_cheapest_that_makes_it_is_named_and_the_budget_is_kept() -> None:
    offers = offers_by(7200, two_kinds())
    assert [(offer.gpu, offer.market) for offer in offers] == [
        ("H100", "spot"),
        ("L4", "on demand"),
        ("H100", "on demand"),
    ]
    assert cheapest(offers) is offers[0]
    assert offers[0].fleet is not None
    within = offers_by(7200, two_kinds(), budget_usd=offers[0].fleet.usd.likely)
    assert [offer.within_budget for offer in within] == [True, False, False]
    assert cheapest(offers_by(7200, two_kinds(), budget_usd=0.01)) is None
    assert cheapest(offers_by(60, two_kinds())) is None


def test_a_sure_fleet_is_taken_before_a_cheaper_one_that_is_not() -> None:
    prices = table(A={"on_demand_usd": 1.0, "spot_usd": None}, B={"on_demand_usd": 5.0, "spot_usd": None})
    speeds = {"A": Speed(seconds=Range(low=1, likely=1, high=900), basis="by data sheet"),
              "B": Speed(seconds=sure(1.0), basis="timed here")}  # fmt: skip
    best = cheapest(offers_by(7200, kinds(demand(), prices, speeds)))
    assert best is not None
    assert best.gpu == "B"


def test_the_frontier_has_no_fleet_that_another_of_its_size_beats() -> None:
    sizes = dict(frontier(two_kinds()))
    assert list(sizes) == [1, 4, 16, 64, 100]
    for size, fleets in sizes.items():
        assert all(one.gpus == size for one in fleets)
        times, money = [one.seconds.likely for one in fleets], [one.usd.likely for one in fleets]
        assert times == sorted(times, reverse=True)
        assert money == sorted(money)
    assert [(one.gpu, one.market) for one in sizes[1]] == [("H100", "spot")]
    assert [one.gpu for one in sizes[100]] == ["L4", "H100"]


def test_nodes_of_eight_are_not_offered_where_fewer_are_asked_for() -> None:
    one = kind(node={"name": "big", "gpus": 8, "vcpus": 96, "gbit_s": 400})
    assert [(size, [one.gpus for one in fleets]) for size, fleets in frontier([one])] == [
        (1, []), (4, []), (16, [16]), (64, [64]), (100, [96]),
    ]  # fmt: skip


SHEETS = table(
    L4={"tflops": {"bf16": 100, "fp32": 25}, "memory_gb_per_s": 300},
    L40S={"tflops": {"bf16": 400, "fp32": 100}, "memory_gb_per_s": 600, "seconds_per_window": {"remotesam": 0.02}},
    T4={"tflops": {"fp32": 8}, "memory_gb_per_s": 300},
)


def speed(name: str, timed: Timed, *, model: str = "pocket", precision: Any = "bf16") -> Speed | str:
    return speed_of(name, SHEETS.gpus, timed, model=model, precision=precision, reach=SHEETS.reach)


def test_a_speed_that_a_user_measured_stands_before_all_others() -> None:
    found = speed("L40S", Timed(window_s=1.0, card="NVIDIA L40S"), model="remotesam")
    assert isinstance(found, Speed)
    assert (found.basis, found.seconds.low) == ("your table", 0.02)


def test_a_gpu_that_was_timed_here_is_not_looked_up() -> None:
    found = speed("L4", Timed(window_s=0.1, card="NVIDIA L4"))
    assert isinstance(found, Speed)
    assert (found.basis, found.seconds.low) == ("timed here", 0.1)
    assert found.seconds.likely == pytest.approx(0.105)


def test_another_gpu_than_the_one_timed_lies_between_the_ratios_of_their_sheets() -> None:
    found = speed("L40S", Timed(window_s=0.4, card="NVIDIA L4"))  # four times the arithmetic, twice the memory
    assert isinstance(found, Speed)
    assert (found.basis, found.of) == ("by ratio", "L4")
    assert found.seconds.low == pytest.approx(0.1)
    assert found.seconds.likely == pytest.approx(0.4 * 1.05 / 8**0.5)
    assert found.seconds.high == pytest.approx(0.2 * 1.25)


def test_no_gpu_timed_is_reckoned_from_counted_work() -> None:
    found = speed("L4", Timed(window_s=9.0, work=Work(flops=1e12, moved_bytes=12e9)))  # 10 ms to reckon, 40 to fetch
    assert isinstance(found, Speed)
    assert found.basis == "by data sheet"
    assert found.seconds.low == pytest.approx(0.01 / 0.5)
    assert found.seconds.likely == pytest.approx(0.02 / 0.2)
    assert found.seconds.high == pytest.approx(0.04 / 0.1)


def test_what_nobody_knows_is_not_guessed() -> None:
    assert "no tflops.bf16" in str(speed("T4", Timed(work=Work(flops=1e12, moved_bytes=0))))
    assert isinstance(speed("T4", Timed(work=Work(flops=1e12, moved_bytes=0)), precision="fp32"), Speed)
    assert "cannot be counted" in str(speed("L4", Timed(window_s=1.0)))


@pytest.mark.parametrize(
    ("card", "name"),
    [("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"), ("Tesla T4", "T4"), ("NVIDIA A100-SXM4-40GB", "A100"),
     ("NVIDIA A100 80GB PCIe", "A100-80G"), ("NVIDIA H100 80GB HBM3", None), ("", None), ("l4", "L4")],
)  # fmt: skip
def test_a_card_is_known_by_the_words_of_its_name(card: str, name: str | None) -> None:
    assert type_of(card, table(L4={}, L40S={}, T4={}, A100={}, **{"A100-80G": {}}).gpus) == name


def test_work_is_counted_as_torch_does_it() -> None:
    import torch

    class Net:
        name, window_px, band_names, device, fingerprint = "net", 8, ("red",), "cpu", "f"

        def encode_text(self, expressions: Any) -> Any:
            return None

        def logits(self, pixels: Any, text: Any) -> Any:
            return (torch.ones(8, 16) @ torch.ones(16, 4)).view(4, 8).numpy()

    work = count_work(Net(), ["a"])
    assert work is not None
    assert work.flops == 2 * 8 * 16 * 4
    assert work.moved_bytes == 4 * (8 * 16 + 16 * 4) + 4 * (8 * 16 + 16 * 4 + 8 * 4)  # made, then taken and given

    class Stone(Net):
        def logits(self, pixels: Any, text: Any) -> Any:
            return np.zeros((1, 1, 8, 8), np.float32)

    assert count_work(Stone(), ["a"]) is None


def test_the_shipped_table_is_whole() -> None:
    prices = read_prices()
    assert {"T4", "L4", "A10G", "L40S", "A100", "H100"} <= set(prices.gpus)
    assert all(gpu.tflops.fp32 and gpu.memory_gb_per_s and gpu.on_demand_usd for gpu in prices.gpus.values())
    assert all((gpu.spot_usd or 0) < (gpu.on_demand_usd or 0) for gpu in prices.gpus.values())


def test_a_table_of_ones_own_lists_what_can_be_had_and_says_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "start_up_s: 60\ngpus:\n  L4: {on_demand_usd: 0.5, node: {gbit_s: 32}, seconds_per_window: {remotesam: 0.05}}\n"
        "  H100:\n"
    )
    prices, shipped = read_prices(mine), read_prices()
    assert list(prices.gpus) == ["L4", "H100"]
    assert prices.gpus["H100"] == shipped.gpus["H100"]
    assert (prices.gpus["L4"].on_demand_usd, prices.gpus["L4"].spot_usd) == (0.5, shipped.gpus["L4"].spot_usd)
    assert (prices.gpus["L4"].node.gbit_s, prices.gpus["L4"].node.vcpus) == (32, shipped.gpus["L4"].node.vcpus)
    assert prices.gpus["L4"].seconds_per_window == {"remotesam": 0.05}
    assert (prices.start_up_s, prices.reach, prices.source) == (60, shipped.reach, "mine.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpus: {L4: {on_demand_usd: cheap}}", "gpus.L4.on_demand_usd: input should be a valid number"),
        ("gpus: {L4: {on_demnd_usd: 1}}", "gpus.L4.on_demnd_usd is not a key (did you mean on_demand_usd?)"),
        ("gpus: {L4: {spot_usd: -1}}", "gpus.L4.spot_usd: input should be greater than or equal to 0"),
        ("gpus: {L4: {spot_usd: .nan}}", "gpus.L4.spot_usd: input should be a finite number"),
        ("gpus: {L4: {spot_usd: null, on_demand_usd: null}}", "gpus.L4: it has no price"),
        ("gpus: {L4: 3}", "gpus.L4: input should be a valid dictionary"),
        ("gpus: {MINE: {on_demand_usd: 1}}", "gpus.MINE.memory_gb is missing; gpus.MINE.node is missing"),
        ("gpus: {L4: {node: {gpus: 0}}}", "gpus.L4.node.gpus: input should be greater than or equal to 1"),
        (
            "gpus: {L4: {seconds_per_window: {remotesam: 0}}}",
            "gpus.L4.seconds_per_window.remotesam: input should be gr",
        ),
        ("gpus: {'\\e[31m': {}}", "string should match pattern"),
        ("gpus: {L4: }\nreach: {low: 0.9}", "reach: low, likely and high are not in this order"),
        ("gpus: {L4: }\nreach: 3", "reach: input should be a valid dictionary"),
        ("gpus: {L4: }\nstart_up_s: [1]", "start_up_s: input should be a valid number"),
        ("gpus: {}", "gpus: dictionary should have at least 1 item"),
        ("gpus: [L4]", "the price table lists no GPU types"),
        ("L4", "the price table lists no GPU types"),
        ("", "the price table lists no GPU types"),
        ("gpus: {L4: {]}", "the price table is not YAML at line 1"),
        ("gpus: {L4: {}, L4: {}}", "'L4' is given twice"),
    ],
)
def test_a_bad_table_is_told_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(SpecError) as refused:
        read_prices(tmp_path / "t.yaml")
    assert told in refused.value.what
    assert refused.value.where["file"] == tmp_path / "t.yaml"
    assert refused.value.fix


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the price table cannot be read: No such file"):
        read_prices(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="the price table is a folder"):
        read_prices(tmp_path)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-01 06:00 UTC", "2026-12-01T06:00"),
        ("2026-12-01T06:00Z", "2026-12-01T06:00"),
        ("2026-12-01  6:00:30 +02:00", "2026-12-01T04:00:30"),
        ("2026-12-01 06:00 Europe/Paris", "2026-12-01T05:00"),
        ("2027-07-01 06:00 Europe/Paris", "2027-07-01T04:00"),
        ("2027-10-31 02:30 Europe/Paris", "2027-10-31T00:30"),  # clocks show it twice: the first
        ("2026-11-23 00:00 Pacific/Auckland", "2026-11-22T11:00:01"),
    ],
)
def test_an_hour_is_meant_in_its_zone(text: str, utc: str) -> None:
    now = NOW - timedelta(days=1)
    wanted = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert abs((parse_deadline(text, now=now) - wanted).total_seconds()) <= 1


def test_an_hour_without_a_zone_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_deadline("2026-12-01 06:00", now=NOW).astimezone(UTC) == datetime(2026, 12, 1, 11, tzinfo=UTC)
        assert parse_deadline("2027-11-07 01:30", now=NOW).astimezone(UTC) == datetime(2027, 11, 7, 5, 30, tzinfo=UTC)
        with pytest.raises(SpecError, match="clocks leave 2027-03-14 02:30 out"):
            parse_deadline("2027-03-14 02:30", now=NOW)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tomorrow", "'tomorrow' is no time"),
        ("2026-12-01", "is no time"),
        ("2026-13-01 06:00", "is no time: month must be in 1..12"),
        ("2026-12-01 24:30", "is no time: hour must be in 0..23"),
        ("2026-12-01 06:00 Europe/Atlantis", "there is no zone 'Europe/Atlantis'"),
        ("2026-12-01 06:00 ../etc/passwd", "is no time"),
        ("2026-12-01 06:00 +99:00", "is no time"),
        ("2027-03-28 02:30 Europe/Paris", "clocks leave 2027-03-28 02:30 out"),
        ("2026-11-22 11:00 UTC", "2026-11-22 11:00 UTC is over; it is 2026-11-22 11:00 UTC"),
        ("0001-01-01 00:00 +10:00", "is no time"),
    ],
)
def test_what_is_no_hour_to_come_is_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_deadline(text, now=NOW)
    assert told in refused.value.what
    assert refused.value.fix


def test_an_hour_is_said_with_its_zone() -> None:
    assert said(parse_deadline("2026-12-01 06:00 Europe/Paris", now=NOW)) == "2026-12-01 06:00 CET"


def shown(
    found: list[Kind], *, hours: float | None, width: int = 80, budget_usd: float | None = None
) -> tuple[str, str]:
    """The table and the words, as a terminal of a width shows them."""
    within_s = None if hours is None else 3600 * hours
    fleets = Fleets(
        by=None if hours is None else NOW + timedelta(hours=hours),
        within_s=within_s,
        prices=found[0].prices,
        demand=found[0].demand,
        timed=Timed(),
        speeds={one.name: Speed(seconds=sure(1.0), basis="by data sheet") for one in found},
        unknown={"T4": "it was not timed"},
        budget_usd=budget_usd,
        offers=() if within_s is None else tuple(offers_by(within_s, found, budget_usd=budget_usd)),
        sizes=() if hours is not None else tuple((size, tuple(those)) for size, those in frontier(found)),
    )
    console = Console(width=width, file=None, record=True, quiet=False)
    with console.capture() as table_text:
        made = fleets_table(fleets)
        console.print("" if made is None else made)
    with console.capture() as words:
        console.print(says_table(fleets))
    assert fleets_say(fleets)
    return table_text.get(), words.get()


def test_a_table_of_fleets_fits_eighty_columns_a_line_a_fleet() -> None:
    prices = table(A100={"node": {"name": "p4d.24xlarge", "gpus": 8, "vcpus": 96, "gbit_s": 400}})  # fmt: skip
    asked = demand(tiles=50_000, windows=sure(3.6e8), decode_s=sure(1e9), read_bytes=sure(1e15))
    found = kinds(asked, prices, {"A100": Speed(seconds=Range(low=0.2, likely=1.0, high=3.0), basis="by data sheet")})
    lines = shown(found, hours=150)[0].splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert lines[0].rstrip() == "Fleets that finish by 2026-11-28 17:00 UTC, in 6 days"
    assert lines[2].startswith("▸ ")
    assert "× A100 spot" in lines[2]
    assert "$" in lines[3]


def test_the_words_name_the_fleet_to_take_and_the_lines_of_the_job_file() -> None:
    words = shown(two_kinds(), hours=2, width=120)[1]
    assert "1 × H100 spot on 1 × n, the cheapest that makes it" in words
    assert "compute: {gpus: 1, gpu_type: H100, usd_per_gpu_hour: 4}" in words
    assert "T4: it was not timed" in words


def test_none_in_time_and_none_within_the_budget_are_told() -> None:
    assert "none finishes by 2026-11-22 11:01 UTC" in shown(two_kinds(), hours=1 / 60, width=120)[1]
    words = shown(two_kinds(), hours=2, width=120, budget_usd=0.5)[1]
    assert "cost more than compute.budget_usd, $0.50, and the cheapest $" in words


def test_plan_says_which_fleet_finishes_by_an_hour(
    world: World, resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, mine = tmp_path / "job.yaml", tmp_path / "mine.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", compute={"budget_usd": 50.0})))
    mine.write_text("gpus: {L4: {seconds_per_window: {colour: 0.01}}, H100: {seconds_per_window: {colour: 0.001}}}\n")
    by = f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC"
    made = resmap("plan", job, "--by", by, "--prices", mine, "--json").document
    fleets = made["fleets"]
    assert fleets["by"].startswith(by[:10])
    assert 10_000 < fleets["within_s"] <= 3 * 3600
    assert {offer["gpu"] for offer in fleets["offers"]} == {"L4", "H100"}
    assert sum(offer["cheapest"] for offer in fleets["offers"]) == 1
    assert fleets["window"]["speeds"]["L4"]["basis"] == "your table"
    assert fleets["demand"]["tiles"] == made["tiles"] - made["holes"]
    assert fleets["budget_usd"] == 50.0

    monkeypatch.setenv("RESMAP_PRICES", str(mine))
    people = resmap("plan", job, "--fleet", "--pilot", 5)
    assert people.status == 0
    assert "1 × L4 spot" in people.out
    assert "A10G" not in people.out
    assert "--pilot measures them" not in people.out  # it has
    assert resmap("plan", job, "--json").document["fleets"] is None
    refused = resmap("plan", job, "--by", "2020-01-01 06:00 UTC")
    assert refused.status == 3
    assert "is over" in refused.err
    mine.write_text("gpus: {L4: {spot: 1}}\n")
    refused = resmap("plan", job, "--fleet")
    assert refused.status == 3
    assert "gpus.L4.spot is not a key (did you mean spot_usd?)" in refused.err
    assert not (tmp_path / "map.zarr").exists()


def test_a_job_that_asks_for_one_type_is_shown_no_other(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job, mine = tmp_path / "job.yaml", tmp_path / "mine.yaml"
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", compute={"gpu_type": "H100"})))
    mine.write_text("gpus: {L4: {seconds_per_window: {colour: 0.01}}, H100: {seconds_per_window: {colour: 0.001}}}\n")
    sizes = resmap("plan", job, "--fleet", "--prices", mine, "--json").document["fleets"]["sizes"]
    assert {fleet["gpu"] for size in sizes for fleet in size["fleets"]} == {"H100"}
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", compute={"gpu_type": "TPU"})))
    refused = resmap("plan", job, "--fleet")
    assert refused.status == 3
    assert "the price table has no such type" in refused.err


def test_the_shipped_table_travels_with_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert SHIPPED.name in project["tool"]["setuptools"]["package-data"]["jobs"]
