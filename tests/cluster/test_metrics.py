"""A worker's metrics on the page that Ray has for Prometheus on each node."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster import outcomes
from cluster.metrics import COUNTERS, GAUGES, RayMetrics
from cluster.ray_pool import RayPool
from cluster.readings import WAITS, WORK, Calls, Reading
from tests.cluster.tiles import world

SHOWN_WITHIN_S = 90.0


TILES = "ray_resmap_worker_tiles_total"


def test_the_metrics_page_of_a_node_has_what_its_workers_say(ray_cluster: Any, tmp_path: Path) -> None:
    fresh = world(tmp_path)
    pool = RayPool(fresh.setup, workers=1)
    (node,) = ray_cluster.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    earlier = {labels for labels, _ in numbers(address, TILES)}
    try:
        list(outcomes(pool, fresh.tasks))
        deadline = time.monotonic() + SHOWN_WITHIN_S
        while not (lines := [line for line in numbers(address, TILES) if line[0] not in earlier]):
            assert time.monotonic() < deadline, "the page does not have them"
            pool.finished(1.0)
        ((labels, tiles),) = lines
        assert tiles == 12
        assert 'worker="gpu-0"' in labels
        assert f'host="{pool.facts()[0].host}"' in labels
        waits = {
            re.findall('stage="(.*?)"', one)[0] for one, _ in numbers(address, "ray_resmap_worker_wait_seconds_total")
        }
        assert waits <= set(WAITS)
        assert "tasks" in waits
        assert dict(numbers(address, "ray_resmap_worker_memory_peak_bytes"))[labels] > 10_000_000
        assert numbers(address, "ray_resmap_worker_gpu_power_watts") == []  # no card, no number
    finally:
        pool.close()


def numbers(address: str, name: str) -> list[tuple[str, float]]:
    """Labels and value of each line of a metric."""
    page = requests.get(address, timeout=10).text
    return [(labels, float(value)) for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)", page, re.MULTILINE)]


class Counted(RayMetrics):
    """Keeps what it is asked to give Ray."""

    def __init__(self) -> None:
        super().__init__("gpu-0", "here")
        self.given: list[tuple[str, str, float]] = []

    def _metric(self, kind: str, name: str, text: str, stage: str) -> Any:
        given = self.given

        class Metric:
            def inc(self, value: float, tags: dict[str, str]) -> None:
                given.append((name, tags.get("stage", ""), value))

            set = inc

        return Metric()


def test_what_grows_is_given_as_it_grows_and_what_is_not_known_is_not_given() -> None:
    metrics = Counted()
    calls = Calls(kind="imagery", host="a", done=3), Calls(kind="imagery", host="b", done=2, failed=1)
    metrics.say(Reading(worker="gpu-0", tiles=2, waited_s={"read": 1.5}, calls=calls))
    first, metrics.given = metrics.given, []
    metrics.say(Reading(worker="gpu-0", tiles=5, waited_s={"read": 1.5}, calls=calls))
    counted = [one for one in first if one[0] in COUNTERS]
    assert counted == [
        ("wait_seconds", "read", 1.5), ("tiles", "", 2), ("calls", "imagery", 5), ("calls_failed", "imagery", 1)
    ]  # fmt: skip
    assert [one for one in metrics.given if one[0] in COUNTERS] == [("tiles", "", 3)]
    assert not any(name.startswith("gpu_") for name, _, _ in first)


def test_all_that_a_worker_says_in_seconds_and_counts_is_there() -> None:
    reading = Reading(
        worker="w", up_s=1, busy_s=1, waited_s=dict.fromkeys(WAITS, 1.0), work_s=dict.fromkeys(WORK, 1.0), tiles=1,
        windows=1, reused=1, pixels=1, batch=1, in_hand=1, holds=1, queues={"ready": 1}, host_peak_bytes=1,
        device_peak_bytes=1, device_total_bytes=1, power_w=1.0, temperature_c=1.0, utilization=1.0,
        calls=(Calls(kind="store", host="b", done=2, failed=1, throttled=1),),
    )  # fmt: skip
    metrics = Counted()
    metrics.say(reading)
    assert {name for name, _, _ in metrics.given} == {*COUNTERS, *GAUGES}
    assert {stage for name, stage, _ in metrics.given if name == "wait_seconds"} == set(WAITS)


def test_a_ray_that_takes_no_metrics_is_told_of_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Refused(RayMetrics):
        def _metric(self, kind: str, name: str, text: str, stage: str) -> Any:
            raise ValueError("no such tag")

    metrics = Refused("gpu-0", "here")
    for tiles in (1, 2):
        metrics.say(Reading(worker="gpu-0", tiles=tiles))
    assert [record.getMessage() for record in caplog.records] == [
        "Ray takes no metrics of this worker: ValueError: no such tag"
    ]
