"""The board, the rules and the sample for Prometheus: they ask for what there is, and rules fire when they should."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest
import uvicorn
import yaml

from benchmarks.grafana_board import BOARD, board
from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.metric_families import FAMILIES
from tests.jobs.dashboard.fakes import FakeControl, FakeQueries

DEPLOY = BOARD.parent
HISTOGRAMS = {f"{name}_bucket" for name, family in FAMILIES.items() if family.kind == "histogram"}
TOKEN = "t0ken-of-the-tests"

needs_promtool = pytest.mark.skipif(
    which("promtool") is None, reason="promtool is in Debian's package prometheus, which is not installed here"
)
needs_prometheus = pytest.mark.skipif(
    which("prometheus") is None, reason="Debian's package prometheus is not installed here"
)


def asked_of_prometheus() -> dict[str, str]:
    """Where it stands → PromQL: all of the board and of the rules."""
    shown = json.loads(BOARD.read_text())
    panels = {f"{panel['title']} {target['refId']}": target["expr"] for panel in shown["panels"]
              for target in panel.get("targets", ())}  # fmt: skip
    variables = {held["name"]: held["definition"] for held in shown["templating"]["list"] if "definition" in held}
    notes = {note["name"]: note["expr"] for note in shown["annotations"]["list"]}
    return panels | variables | notes | {rule["alert"]: rule["expr"] for rule in rules()}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("where", asked_of_prometheus())
def test_whatever_is_asked_for_is_told(where: str) -> None:
    asked = asked_of_prometheus()[where]
    names = set(re.findall(r"\bresmap_[a-z_0-9]+", asked))
    assert names <= {*FAMILIES, *HISTOGRAMS}
    assert names or "up{" in asked
    for name, selector in re.findall(r"\b(resmap_[a-z_0-9]+)\{([^}]*)\}", asked):
        family = FAMILIES[name.removesuffix("_bucket")]
        assert set(re.findall(r"(\w+)=~?\"", selector)) <= set(family.labels)


def test_a_counter_is_asked_for_its_rate_only_and_a_gauge_never() -> None:
    for where, asked in asked_of_prometheus().items():
        for name in re.findall(r"\brate\((resmap_\w+)", asked):
            assert name in HISTOGRAMS or FAMILIES[name].kind == "counter", where
        for name in re.findall(r"(?<!rate\()\b(resmap_\w+_total)\b", asked):
            pytest.fail(f"{where} shows {name} itself: it falls when a worker is replaced")


def test_every_metric_is_on_the_board_or_says_what_a_run_is() -> None:
    everywhere = " ".join(asked_of_prometheus().values())
    unused = {name for name in FAMILIES if not re.search(rf"\b{name}(_bucket)?\b", everywhere)}
    assert unused == {
        "resmap_run_state",
        "resmap_run_updated_timestamp_seconds",
        "resmap_tiles_in_hand",
        "resmap_gpu_hour_usd",
        "resmap_runs_left_out",
        "resmap_runs_unreadable",
        "resmap_workers_left_out",
        "resmap_worker_gpu_utilization_ratio",
        "resmap_worker_windows_total",
        "resmap_worker_windows_reused_total",
        "resmap_worker_pixels_total",
    }


def test_the_board_is_the_one_that_is_made() -> None:
    assert json.loads(BOARD.read_text()) == board(), "python -m benchmarks.grafana_board writes it anew"


def test_no_two_panels_lie_over_one_another_and_none_reaches_beyond_the_edge() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in board()["panels"]}) == len(board()["panels"])


def test_the_sample_takes_the_token_from_a_file_and_the_rules_from_beside_it() -> None:
    sample = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = sample["scrape_configs"]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/etc/prometheus/resmap.token"}
    assert [(DEPLOY / name).is_file() for name in sample["rule_files"]] == [True]
    assert {rule["expr"] for rule in rules() if "up{" in rule["expr"]} == {f'up{{job="{job["job_name"]}"}} == 0'}


def test_every_alert_says_what_is_so_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


@needs_promtool
def test_prometheus_takes_the_rules_and_the_sample(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text())
    sample = (DEPLOY / "prometheus.yml").read_text().replace("/etc/prometheus/resmap.token", str(token))
    (tmp_path / "prometheus.yml").write_text(sample)
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


@needs_promtool
@pytest.mark.parametrize(
    ("alert", "series", "labels"),
    [
        ("ResmapNoProgress", {'resmap_tiles{run="r",state="waiting"}': "9x60", 'resmap_run_live{run="r"}': "1x60"},
         {"run": "r", "state": "waiting"}),
        ("ResmapWorkerSilent", {'resmap_worker_silent_seconds{run="r",worker="w"}': "0+60x60",
                                'resmap_run_live{run="r"}': "1x60"}, {"run": "r", "worker": "w"}),
        ("ResmapWorkersReplaced", {'resmap_worker_start_time_seconds{run="r",worker="w"}': "0+100x60"},
         {"run": "r", "worker": "w"}),
        ("ResmapTilesGivenUp", {'resmap_tiles{run="r",state="quarantined"}': "0x30 2x30"}, {"run": "r"}),
        ("ResmapThrottled", {'resmap_calls_total{run="r",kind="imagery",host="h"}': "0+100x60",
                             'resmap_calls_throttled_total{run="r",kind="imagery",host="h"}': "0+6x60"},
         {"run": "r", "kind": "imagery", "host": "h"}),
        ("ResmapBudgetNearlyUsed", {'resmap_spent_usd{run="r"}': "0+1x60", 'resmap_budget_usd{run="r"}': "50x60",
                                    'resmap_run_live{run="r"}': "1x60"}, {"run": "r"}),
        ("ResmapGpusMostlyWaiting", {'resmap_worker_busy_seconds_total{run="r",worker="w"}': "0+20x60",
                                     'resmap_worker_up_seconds_total{run="r",worker="w"}': "0+60x60",
                                     'resmap_run_live{run="r"}': "1x60"}, {"run": "r"}),
        ("ResmapMonitorBehind", {'resmap_monitor_lag_seconds{monitor="m"}': "0+60x60",
                                 'resmap_monitor_interval_seconds{monitor="m"}': "900x60",
                                 'resmap_monitor_active{monitor="m"}': "1x60"}, {"monitor": "m"}),
        ("ResmapAlertsNotTaken", {'resmap_monitor_alerts_waiting{monitor="m"}': "3x180"}, {"monitor": "m"}),
        ("ResmapDashboardAway", {'up{job="resmap",instance="i"}': "0x60"}, {"job": "resmap", "instance": "i"}),
    ],
)  # fmt: skip
def test_an_alert_fires_when_it_should_and_not_before(
    alert: str, series: dict[str, str], labels: dict[str, str], tmp_path: Path
) -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == alert]
    tried = {
        "rule_files": ["alerts.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [{"expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}', "eval_time": at,
                                      "exp_samples": fired} for at, fired in (
                    ("0m", []),
                    ("55m", [{"labels": _written(alert, rule, labels), "value": 1}]))],
            }
        ],
    }  # fmt: skip
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text())
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tried))
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _written(alert: str, rule: dict[str, Any], labels: dict[str, str]) -> str:
    every = {"alertname": alert, "alertstate": "firing", **rule["labels"], **labels}
    return "ALERTS{" + ",".join(f'{name}="{value}"' for name, value in every.items()) + "}"


@needs_promtool
def test_a_run_that_gets_on_sets_off_no_alert(tmp_path: Path) -> None:
    quiet = {
        'resmap_tiles{run="r",state="waiting"}': "500-1x60",
        'resmap_tiles{run="r",state="failed"}': "0x60",
        'resmap_run_live{run="r"}': "1x60",
        'resmap_worker_silent_seconds{run="r",worker="w"}': "1x60",
        'resmap_worker_start_time_seconds{run="r",worker="w"}': "100x60",
        'resmap_worker_busy_seconds_total{run="r",worker="w"}': "0+57x60",
        'resmap_worker_up_seconds_total{run="r",worker="w"}': "0+60x60",
        'resmap_calls_total{run="r",kind="store",host="h"}': "0+100x60",
        'resmap_calls_throttled_total{run="r",kind="store",host="h"}': "0+1x60",
        'resmap_spent_usd{run="r"}': "0+1x60",
        'resmap_budget_usd{run="r"}': "100x60",
        'resmap_monitor_lag_seconds{monitor="m"}': "0+10x60",
        'resmap_monitor_interval_seconds{monitor="m"}': "900x60",
        'resmap_monitor_active{monitor="m"}': "1x60",
        'resmap_monitor_lag_seconds{monitor="paused"}': "0+60x60",
        'resmap_monitor_interval_seconds{monitor="paused"}': "900x60",
        'resmap_monitor_active{monitor="paused"}': "0x60",
        'resmap_monitor_alerts_waiting{monitor="m"}': "0x30 3x2 0x30",
        'up{job="resmap",instance="i"}': "1x60",
    }
    tried = {
        "rule_files": ["alerts.yaml"],
        "tests": [{"interval": "1m", "input_series": [{"series": name, "values": v} for name, v in quiet.items()],
                   "promql_expr_test": [{"expr": "ALERTS", "eval_time": "55m", "exp_samples": []}]}],
    }  # fmt: skip
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text())
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tried))
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_scrapes_a_dashboard_with_its_token_and_answers_every_panel(tmp_path: Path) -> None:
    with served() as port:
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).status_code == 401
        (tmp_path / "token").write_text(TOKEN)
        (tmp_path / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text())
        sample = (DEPLOY / "prometheus.yml").read_text().replace("/etc/prometheus/resmap.token", f"{tmp_path}/token")
        sample = sample.replace("127.0.0.1:8765", f"127.0.0.1:{port}").replace("_interval: 15s", "_interval: 1s")
        (tmp_path / "prometheus.yml").write_text(sample)
        with prometheus(tmp_path) as api:
            (up,) = until(lambda: answered(api, 'up{job="resmap"} == 1'))
            assert up["metric"]["instance"] == f"127.0.0.1:{port}"
            (waiting,) = answered(api, 'resmap_tiles{state="waiting", run=~"kathmandu.*"}')
            assert float(waiting["value"][1]) > 0
            for where, asked in asked_of_prometheus().items():
                if not asked.startswith("label_values"):
                    answered(api, asked.replace("$run", ".*").replace("$worker", ".*")), where


@contextmanager
def served() -> Iterator[int]:
    """The dashboard as on an address that others reach: nothing without the token."""
    queries = FakeQueries()
    pages = app(queries, FakeControl(queries), access=Access(token=TOKEN, loopback=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(pages, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """A Prometheus with the configuration in a folder; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            api = f"http://127.0.0.1:{port}/api/v1"
            until(lambda: reached(f"http://127.0.0.1:{port}/-/ready"))
            yield api
        finally:
            process.terminate()
            process.wait(20)


def reached(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5).status_code == 200
    return False


def answered(api: str, asked: str) -> list[Any]:
    """What Prometheus says to a question; one that it does not understand fails."""
    said = httpx.get(f"{api}/query", params={"query": asked}, timeout=10).json()
    assert said["status"] == "success", f"{asked}: {said}"
    return list(said["data"]["result"])


def until(ask: Any) -> Any:
    """The answer, once there is one; a minute at most."""
    for _ in range(300):
        if found := ask():
            return found
        time.sleep(0.2)
    pytest.fail("no answer within a minute")
