"""A row a worker: rates of the last minute, shares that make 1, and a state that a dead run does not wear."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.readings import WAITS, Reading
from jobs.dashboard.samples import FIGURES, Sample, figures_of
from jobs.dashboard.views import GpuRow
from jobs.dashboard.workers import gpu_rows, summary_rows
from jobs.telemetry import Live, WorkerNow

NOW = 1_780_000_000.0
BEGAN = NOW - 600


def reading(name: str = "gpu-0", *, up_s: float = 600.0, tiles: int = 60, busy: float = 0.5, **more: object) -> Reading:
    fields: dict[str, object] = {
        "worker": name, "began": BEGAN, "up_s": up_s, "busy_s": busy * up_s, "waited_s": {"read": (1 - busy) * up_s},
        "tiles": tiles, "pixels": tiles * 4_000_000, "in_hand": 3,
    }  # fmt: skip
    return Reading(**{**fields, **more})  # type: ignore[arg-type]


def live(*workers: WorkerNow, at: float = NOW, over: bool = False) -> Live:
    return Live(
        at=datetime.fromtimestamp(at, UTC), began=datetime.fromtimestamp(BEGAN, UTC), over=over, workers=workers,
        in_hand=3, spent_usd=1.0, usd_per_gpu_hour=2.0, budget_usd=None,
    )  # fmt: skip


def now(said: Reading, *, heard_s: float = 0.5, area_km2: float = 30.0) -> WorkerNow:
    return WorkerNow(reading=said, heard_s=heard_s, area_km2=area_km2)


def sample(said: Reading, at: float, *, area_km2: float = 0.0) -> Sample:
    return Sample(at=at, figures=figures_of(said, area_km2=area_km2), host="", device="")


def only(rows: tuple[GpuRow, ...]) -> GpuRow:
    (row,) = rows
    return row


def test_rates_and_shares_are_of_the_last_minute() -> None:
    before = sample(reading(up_s=530, tiles=59, busy=0.9), NOW - 70, area_km2=29.0)
    row = only(gpu_rows(live(now(reading(), heard_s=0.0)), {("gpu-0", BEGAN): [before]}, now=NOW, under_way=True))
    assert row.tiles_per_s == pytest.approx(1 / 70)
    assert row.mpx_per_s == pytest.approx(4 / 70)
    assert row.km2_per_h == pytest.approx(3600 / 70)
    # In the last 70 s it did not compute at all: 300 s of 600 after 477 of 530 would be less than nothing.
    assert row.busy == 0.0
    assert row.spark == pytest.approx((1 / 70,), rel=0.005)


def test_of_a_worker_that_has_just_begun_rates_are_those_since_then() -> None:
    row = only(gpu_rows(live(now(reading(up_s=20, tiles=10), area_km2=5.0)), {}, now=NOW, under_way=True))
    assert (row.tiles_per_s, row.km2_per_h) == (0.5, 900.0)


def test_the_area_of_a_seat_is_not_taken_for_that_of_the_actor_that_took_it() -> None:
    took_over = replace(reading(up_s=20, tiles=10), began=NOW - 20)
    assert only(gpu_rows(live(now(took_over)), {}, now=NOW, under_way=True)).km2_per_h is None


@given(st.lists(st.floats(0, 1e6), min_size=1 + len(WAITS), max_size=1 + len(WAITS)))
def test_shares_make_one_or_are_not_known(times: list[float]) -> None:
    said = Reading(
        worker="a", began=BEGAN, up_s=1.0, busy_s=times[0], waited_s=dict(zip(WAITS, times[1:], strict=True))
    )
    row = only(gpu_rows(live(now(said)), {}, now=NOW, under_way=True))
    if row.busy is None:
        assert row.waits == {}
        assert sum(times) == 0
    else:
        assert set(row.waits) == set(WAITS)
        assert row.busy + sum(row.waits.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("said", "heard_s", "under_way", "state"),
    [
        (reading(), 0.5, True, "working"),
        (reading(in_hand=0), 0.5, True, "waiting"),
        (reading(busy=0.0), 0.5, True, "waiting"),
        (reading(), 20.0, True, "silent"),
        (reading(), 200.0, True, "gone"),
        (reading(), 0.5, False, "over"),
        (reading(), 200.0, False, "over"),
    ],
)
def test_a_state_is_what_was_heard_and_whether_a_driver_has_the_run(
    said: Reading, heard_s: float, under_way: bool, state: str
) -> None:
    row = only(gpu_rows(live(now(said, heard_s=heard_s)), {}, now=NOW, under_way=under_way))
    assert row.state == state


def test_what_was_not_heard_since_the_driver_fell_silent_grows_older() -> None:
    row = only(gpu_rows(live(now(reading(), heard_s=1.0), at=NOW - 30), {}, now=NOW, under_way=True))
    assert row.heard_s == pytest.approx(31.0)
    assert row.state == "silent"


def test_a_worker_that_was_given_up_is_shown_as_gone() -> None:
    spoke = {("gpu-1", BEGAN): [sample(reading("gpu-1", tiles=7), NOW - 40)]}
    lost, there = gpu_rows(live(now(reading())), spoke, now=NOW, under_way=True)
    assert (lost.worker, lost.state, lost.tiles, lost.tiles_per_s) == ("gpu-1", "gone", 7, None)
    assert there.worker == "gpu-0"


def test_those_that_are_gone_come_first_then_the_slowest() -> None:
    rows = gpu_rows(
        live(now(reading("fast", tiles=90)), now(reading("slow", tiles=9)), now(reading("lost"), heard_s=500)),
        {}, now=NOW, under_way=True,
    )  # fmt: skip
    assert [row.worker for row in rows] == ["lost", "slow", "fast"]


def test_what_nobody_measured_is_not_known() -> None:
    row = only(gpu_rows(live(now(Reading(worker="a", began=BEGAN))), {}, now=NOW, under_way=True))
    assert (row.tiles_per_s, row.mpx_per_s, row.km2_per_h, row.busy) == (None,) * 4
    assert (row.power_w, row.temperature_c, row.utilization, row.device_peak_bytes) == (None,) * 4


def test_a_run_without_telemetry_shows_what_its_summary_tells() -> None:
    row = only(summary_rows([{"worker": "a", "tiles": 5, "tiles_per_s": 0.5}]))
    assert (row.state, row.tiles, row.tiles_per_s, row.km2_per_h, row.busy) == ("over", 5, 0.5, None, None)


def test_every_figure_of_telemetry_has_its_place() -> None:
    assert len(figures_of(reading(), area_km2=1.0)) == len(FIGURES)
