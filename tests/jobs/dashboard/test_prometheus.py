"""What Prometheus is told: parsed as it parses, named as it asks, and counted so that nothing falls that should not."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from shutil import which
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from cluster.readings import LATENCY_MS, WAITS, WORK, Calls, Reading
from jobs.dashboard.call_tally import HOSTS, OTHER
from jobs.dashboard.metric_families import FAMILIES, LABEL_CHARS
from jobs.dashboard.monitor_views import MonitorLine
from jobs.dashboard.prometheus import RUNS, WORKERS, Exporter
from jobs.dashboard.views import RunLine, RunPage
from jobs.telemetry import Live, WorkerNow
from mapper.errors import MosaicError
from tests.jobs.dashboard.fakes import BEGAN, DONE, LIVE, QUEUED, gpu, line, page
from tests.jobs.dashboard.hostile import HOSTILE

NOW = BEGAN + timedelta(hours=1)


def calls(done: int, *, host: str = "maps", failed: int = 0, took: int = 5) -> Calls:
    """Requests that all took as long."""
    classes = tuple(done if n == took else 0 for n in range(len(LATENCY_MS) + 1))
    return Calls(kind="store", host=host, done=done, failed=failed, moved_bytes=1000 * done, took=classes)


def reading(
    worker: str = "gpu-0", *, began: float = 1000.0, tiles: int = 5, of: tuple[Calls, ...] = (), **more: Any
) -> Reading:
    told: dict[str, Any] = {
        "host": "node-0",
        "device": "NVIDIA L4",
        "up_s": 100.0,
        "busy_s": 60.0,
        "waited_s": {"read": 40.0},
        "work_s": dict.fromkeys(WORK, 1.0),
        "queues": {"waiting": 2, "reading": 1},
    }
    return Reading(worker=worker, began=began, tiles=tiles, calls=of, **(told | more))


def live(*readings: Reading, over: bool = False) -> Live:
    return Live(
        at=NOW, began=BEGAN, over=over, in_hand=1, spent_usd=1.0, usd_per_gpu_hour=0.7, budget_usd=None,
        workers=tuple(WorkerNow(reading=one, heard_s=0.5, area_km2=0.25) for one in readings),
    )  # fmt: skip


@dataclass
class Runs:
    """Runs as a scrape asks for them."""

    pages: dict[str, RunPage]
    lives: dict[str, Live] = field(default_factory=dict)
    monitored: tuple[MonitorLine, ...] = ()

    def runs(self) -> tuple[RunLine, ...]:
        return tuple(held.line for held in self.pages.values())

    def page(self, key: str) -> RunPage:
        return self.pages[key]

    def monitors(self) -> tuple[MonitorLine, ...]:
        return self.monitored

    def live(self, of: RunLine) -> Live | None:
        return self.lives.get(of.id)

    def exporter(self) -> Exporter:
        return Exporter(self, self.live)


def one_run(*readings: Reading) -> Runs:
    return Runs({LIVE.id: page()}, {LIVE.id: live(*readings)})


def scraped(exporter: Exporter) -> dict[str, Metric]:
    text, content_type = exporter.answer(now=NOW)
    assert content_type.startswith("text/plain; version=0.0.4")
    return {family.name: family for family in plain_text(text.decode())}


def values(exporter: Exporter, name: str, **labels: str) -> list[float]:
    """Of all samples with this name and these labels."""
    return [
        sample.value
        for family in scraped(exporter).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def test_a_run_is_told_as_its_page_tells_it() -> None:
    exporter, shown = one_run(reading()).exporter(), page()
    for state in ("waiting", "done", "nodata", "failed", "quarantined"):
        assert values(exporter, "resmap_tiles", run=LIVE.id, state=state) == [getattr(shown.progress, state)]
    assert shown.progress.eta_s is not None
    assert values(exporter, "resmap_eta_seconds", bound="low") == [pytest.approx(shown.progress.eta_s.low)]
    assert values(exporter, "resmap_spent_usd") == [shown.cost.spent_usd]
    assert values(exporter, "resmap_run_live") == [1]
    assert values(exporter, "resmap_run_state", state="running") == [1]
    assert sum(values(exporter, "resmap_run_state")) == 1
    assert values(exporter, "resmap_mapped_square_meters") == [pytest.approx(shown.progress.mapped_km2 * 1e6)]


def test_a_worker_is_told_as_it_tells_of_itself() -> None:
    exporter = one_run(reading()).exporter()
    assert values(exporter, "resmap_worker_busy_seconds_total", worker="gpu-0") == [60]
    assert values(exporter, "resmap_worker_wait_seconds_total", stage="read") == [40]
    assert len(values(exporter, "resmap_worker_work_seconds_total")) == len(WORK)
    assert values(exporter, "resmap_worker_start_time_seconds") == [1000]
    assert values(exporter, "resmap_worker_queue_tiles", queue="waiting") == [2]
    assert values(exporter, "resmap_worker_silent_seconds") == [gpu(0, pace=1).heard_s]


def test_what_nobody_knows_is_left_out_and_no_zero() -> None:
    runs = Runs({LIVE.id: replace(page(), cost=page(QUEUED).cost)}, {LIVE.id: live(reading(power_w=None))})
    names = scraped(runs.exporter())
    assert not {"resmap_spent_usd", "resmap_worker_gpu_power_watts", "resmap_budget_usd"} & set(names)


def test_names_and_units_are_as_prometheus_asks() -> None:
    units = r"(seconds|bytes|meters|celsius|watts|ratio|usd|info|tiles|windows)"
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"resmap(_[a-z]+)+", name)
        assert name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")
        assert not re.search(r"_(ms|km2?|mb|percent|minutes|hours)\b|_count$|_sum$|_bucket$", name)
        if family.kind == "gauge":
            counts = r"(live|state|left_out|unreadable|in_hand|active|waiting|given_up)$"
            assert re.search(units + "$", name) or re.search(counts, name)


@pytest.mark.skipif(which("promtool") is None, reason="promtool is in Debian's package prometheus, not installed here")
def test_promtool_finds_nothing_to_say_of_it() -> None:
    text, _ = one_run(reading(of=(calls(5),))).exporter().answer(now=NOW)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_whoever_asks_for_open_metrics_gets_them() -> None:
    text, content_type = (
        one_run(reading(of=(calls(5),)))
        .exporter()
        .answer("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", now=NOW)
    )
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert {f"resmap_{name}" for name in ("tiles", "calls", "worker_busy_seconds")} <= {
        family.name
        for family in open_metrics(text.decode())  # type: ignore[no-untyped-call]
    }


def test_requests_are_classed_by_how_long_they_took() -> None:
    runs = one_run(reading())
    exporter = runs.exporter()
    scraped(exporter)
    runs.lives[LIVE.id] = live(reading(of=(calls(7, took=3), calls(2, host="naip", took=18))))
    family = scraped(exporter)["resmap_calls_duration_seconds"]
    by_class = {sample.labels["le"]: sample.value for sample in family.samples if sample.labels["host"] == "maps"}
    assert by_class == {f"{ms / 1000:g}": (7 if ms >= 8 else 0) for ms in LATENCY_MS} | {"+Inf": 7}
    assert [s.value for s in family.samples if s.labels["host"] == "naip"] == [0] * len(LATENCY_MS) + [2]


def test_no_counter_falls_while_workers_only_count_on() -> None:
    runs = one_run()
    exporter = runs.exporter()
    before: dict[tuple[str, ...], float] = {}
    for step in range(6):
        runs.lives[LIVE.id] = live(
            reading(tiles=step, up_s=100.0 + step, busy_s=60.0 + step / 2, waited_s={"read": 40 + step / 2},
                    of=(calls(10 * step),))
        )  # fmt: skip
        now = {
            (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
            for family in scraped(exporter).values()
            for sample in family.samples
            if family.type in ("counter", "histogram")
        }
        assert all(now[key] >= value for key, value in before.items())
        before = now
    assert len(before) > 20


def test_requests_of_an_actor_that_is_replaced_stay_counted_and_none_is_counted_twice() -> None:
    runs = one_run(reading(of=(calls(0),)), reading("gpu-1", of=(calls(0),)))
    exporter = runs.exporter()
    scraped(exporter)
    runs.lives[LIVE.id] = live(reading(of=(calls(100),)), reading("gpu-1", of=(calls(40),)))
    assert values(exporter, "resmap_calls_total") == [140]
    runs.lives[LIVE.id] = live(reading(of=(calls(110),)))
    assert values(exporter, "resmap_calls_total") == [150]
    runs.lives[LIVE.id] = live(reading(of=(calls(110),)), reading("gpu-1", began=2000.0, of=(calls(3),)))
    assert values(exporter, "resmap_calls_total") == [153]
    assert values(exporter, "resmap_calls_total") == [153]


def test_a_worker_that_is_not_heard_for_a_moment_is_no_new_one_when_it_is_again() -> None:
    runs = one_run(reading(of=(calls(0),)))
    exporter = runs.exporter()
    scraped(exporter)
    for readings, total in (((reading(of=(calls(50),)),), 50), ((), 50), ((reading(of=(calls(60),)),), 60)):
        runs.lives[LIVE.id] = live(*readings)
        assert values(exporter, "resmap_calls_total") == [total]


def test_a_dashboard_that_starts_late_begins_at_nothing_and_makes_no_leap() -> None:
    runs = one_run(reading(of=(calls(1_000_000),)))
    exporter = runs.exporter()
    assert values(exporter, "resmap_calls_total") == [0]
    runs.lives[LIVE.id] = live(reading(of=(calls(1_000_007),)))
    assert values(exporter, "resmap_calls_total") == [7]


def test_an_actor_that_takes_anothers_seat_begins_at_0_and_says_when() -> None:
    runs = one_run(reading(tiles=500), reading(began=9000.0, tiles=2, host="node-9"))
    exporter = runs.exporter()
    assert values(exporter, "resmap_worker_tiles_total", worker="gpu-0") == [2]
    assert values(exporter, "resmap_worker_start_time_seconds", worker="gpu-0") == [9000]


def test_a_run_that_is_over_keeps_its_counts_and_tells_nothing_of_now() -> None:
    done = page(replace(DONE, updated=NOW - timedelta(minutes=30)))
    runs = Runs({DONE.id: done}, {DONE.id: live(reading(power_w=60.0), over=True)})
    exporter = runs.exporter()
    assert values(exporter, "resmap_worker_tiles_total") == [5]
    assert not {"resmap_worker_silent_seconds", "resmap_worker_gpu_power_watts"} & set(scraped(exporter))


def test_runs_are_told_of_while_they_are_under_way_and_for_an_hour_after() -> None:
    ages = {"old": timedelta(minutes=61), "new": timedelta(minutes=59)}
    ended = {name: page(line(name, state="done", live=False, updated=NOW - age)) for name, age in ages.items()}
    runs = Runs({held.line.id: held for held in (page(), page(QUEUED), *ended.values())})
    told = {sample.labels["run"] for sample in scraped(runs.exporter())["resmap_run_live"].samples}
    assert told == {LIVE.id, ended["new"].line.id}


def test_of_many_runs_those_under_way_are_told_and_the_others_counted() -> None:
    ended = [page(line(f"over-{n}", state="done", live=False, updated=NOW)) for n in range(RUNS + 4)]
    under_way = [page(line(f"on-{n}")) for n in range(5)]
    exporter = Runs({held.line.id: held for held in (*ended, *under_way)}).exporter()
    told = {sample.labels["run"] for sample in scraped(exporter)["resmap_run_live"].samples}
    assert len(told) == RUNS
    assert {held.line.id for held in under_way} <= told
    assert values(exporter, "resmap_runs_left_out") == [9]


def test_of_many_workers_a_bounded_number_is_told_of() -> None:
    exporter = one_run(*(reading(f"gpu-{n}") for n in range(WORKERS + 3))).exporter()
    text, _ = exporter.answer(now=NOW)
    assert text.count(b"\nresmap_worker_tiles_total{") == WORKERS
    assert b"\nresmap_workers_left_out 3.0\n" in text


def test_of_many_hosts_the_rest_are_one() -> None:
    runs = one_run(reading())
    exporter = runs.exporter()
    scraped(exporter)
    runs.lives[LIVE.id] = live(reading(of=tuple(calls(1, host=f"host-{n}") for n in range(HOSTS + 30))))
    assert len(values(exporter, "resmap_calls_total")) == HOSTS + 1
    assert values(exporter, "resmap_calls_total", host=OTHER) == [30]


def test_a_run_that_cannot_be_read_hides_no_other() -> None:
    broken = line("broken")
    runs = one_run(reading())
    runs.pages[broken.id] = page(broken)
    exporter = Exporter(_Broken(runs, broken.id), runs.live)
    assert values(exporter, "resmap_run_live") == [1]
    assert values(exporter, "resmap_runs_unreadable") == [1]


@dataclass
class _Broken:
    whole: Runs
    broken: str

    def runs(self) -> tuple[RunLine, ...]:
        return self.whole.runs()

    def page(self, key: str) -> RunPage:
        if key == self.broken:
            raise MosaicError("a part of its ledger is damaged")
        return self.whole.page(key)

    def monitors(self) -> tuple[MonitorLine, ...]:
        return ()


def test_hostile_names_are_values_of_labels_and_break_no_line() -> None:
    runs = one_run(*(reading(name, host=name, device=name) for name in HOSTILE))
    runs.pages[LIVE.id] = replace(page(replace(LIVE, name="\n".join(HOSTILE))), model=HOSTILE[0])
    exporter = runs.exporter()
    families = scraped(exporter)
    workers = {sample.labels["worker"] for sample in families["resmap_worker_info"].samples}
    assert len(workers) >= len(HOSTILE) - 5, "a few are the same once control characters are gone"
    assert max(len(value) for family in families.values() for s in family.samples for value in s.labels.values()) < (
        LABEL_CHARS + 40
    )
    assert set(families) <= {name.removesuffix("_total") for name in FAMILIES}


def test_two_names_that_are_the_same_once_cut_are_told_once() -> None:
    long = "x" * LABEL_CHARS
    exporter = one_run(reading(long + "a"), reading(long + "b")).exporter()
    seen = [tuple(sorted(s.labels.items())) for s in scraped(exporter)["resmap_worker_tiles"].samples]
    assert len(seen) == len(set(seen)) == 1


def test_no_password_of_a_mosaics_address_is_told() -> None:
    held = page(line(mosaic="https://user:c4n4ry@maps.example/m.zarr?X-Amz-Signature=c4n4ry"))
    text, _ = Runs({held.line.id: held}).exporter().answer(now=datetime.now(UTC))
    assert b"maps.example" in text
    assert b"c4n4ry" not in text


def test_every_wait_has_a_series_where_it_was_counted() -> None:
    exporter = one_run(reading(waited_s=dict.fromkeys(WAITS, 2.0))).exporter()
    assert len(values(exporter, "resmap_worker_wait_seconds_total")) == len(WAITS)
