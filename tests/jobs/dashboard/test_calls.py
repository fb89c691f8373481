"""How hosts answer: counted once, also where a worker is replaced, and percentiles that lie where they should."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.readings import LATENCY_MS, Calls, Reading
from jobs.dashboard.calls import CallsBook, percentile_ms
from jobs.telemetry import Live, WorkerNow

NOW = 1_780_000_000.0
CLASSES = len(LATENCY_MS) + 1


def calls(done: int, *, failed: int = 0, throttled: int = 0, host: str = "images", kind: str = "imagery") -> Calls:
    took = (0, 0, 0, done) + (0,) * (CLASSES - 4)
    return Calls(kind=kind, host=host, done=done, failed=failed, throttled=throttled, moved_bytes=done * 10, took=took)


def live(at: float, **workers: Calls) -> Live:
    return Live(
        at=datetime.fromtimestamp(at, UTC),
        began=datetime.fromtimestamp(NOW, UTC),
        over=False,
        workers=tuple(
            WorkerNow(reading=Reading(worker=name.split("_")[0], began=float(len(name)), calls=(call,)), heard_s=0.1,
                      area_km2=0.0)
            for name, call in workers.items()
        ),
        in_hand=0, spent_usd=0.0, usd_per_gpu_hour=2.0, budget_usd=None,
    )  # fmt: skip


def test_rates_are_not_known_at_first_sight_and_then_of_the_last_minute() -> None:
    book = CallsBook()
    (first,) = book.rows(live(NOW, a=calls(100)))
    assert (first.done, first.per_s, first.bytes_per_s) == (100, None, None)
    (second,) = book.rows(live(NOW + 10, a=calls(150, failed=5, throttled=1)))
    assert (second.done, second.per_s, second.bytes_per_s) == (150, 5.0, 50.0)
    assert (second.failed_share, second.throttled_share) == (0.1, 0.02)
    for seconds in range(20, 140, 10):
        (row,) = book.rows(live(NOW + seconds, a=calls(150 + seconds, failed=5, throttled=1)))
    assert row.per_s == pytest.approx(1.0)
    assert row.failed_share == 0


def test_requests_of_a_worker_that_took_anothers_place_are_not_counted_as_fewer() -> None:
    book = CallsBook()
    book.rows(live(NOW, a=calls(1000), b=calls(1000)))
    (row,) = book.rows(live(NOW + 10, a=calls(1100), b_again=calls(50)))
    assert row.per_s == 15.0


def test_what_the_driver_asked_counts_too() -> None:
    heard = replace(live(NOW, a=calls(100)), calls=(calls(7, host="catalog", kind="catalog"),))
    assert [(row.kind, row.host, row.done) for row in CallsBook().rows(heard)] == [
        ("catalog", "catalog", 7), ("imagery", "images", 100),
    ]  # fmt: skip


def test_each_host_has_a_row_and_workers_are_added_up() -> None:
    rows = CallsBook().rows(live(NOW, a=calls(1), b=calls(2), c=calls(4, host="bucket", kind="store")))
    assert [(row.kind, row.host, row.done) for row in rows] == [("imagery", "images", 3), ("store", "bucket", 4)]


def test_nothing_is_said_where_no_driver_ever_spoke() -> None:
    assert CallsBook().rows(None) == ()


def test_no_time_is_known_where_nothing_was_asked() -> None:
    assert percentile_ms([0] * CLASSES, 0.5) is None


@given(st.lists(st.floats(0.01, 131_000), min_size=1, max_size=300), st.sampled_from([0.5, 0.99]))
def test_a_percentile_lies_in_the_class_of_the_true_one(took: list[float], share: float) -> None:
    counts = np.bincount([bisect_left(LATENCY_MS, one) for one in took], minlength=CLASSES)
    known = percentile_ms(counts, share)
    true = float(np.quantile(took, share, method="inverted_cdf"))
    assert known is not None
    assert bisect_left(LATENCY_MS, known) == bisect_left(LATENCY_MS, true)


def test_of_requests_beyond_the_last_class_only_that_is_said() -> None:
    assert percentile_ms([0] * (CLASSES - 1) + [5], 0.5) == LATENCY_MS[-1]
