"""The Grafana board of ``cluster/deploy/grafana/dashboard.json``: rows of panels, each a question to Prometheus.

``python -m benchmarks.grafana_board`` writes it anew. It is made here because a board by hand is two thousand lines in
which nobody finds a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BOARD = Path(__file__).parents[1] / "cluster" / "deploy" / "grafana" / "dashboard.json"

RUN = 'run=~"$run"'
WORKER = f'{RUN}, worker=~"$worker"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24

Kind = Literal["stat", "timeseries", "bargauge", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture."""

    title: str
    says: str
    """What it means, and what to do about it."""

    asks: tuple[tuple[str, str], ...]
    """PromQL, and the legend of its lines."""

    unit: str
    """As Grafana names them."""

    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    most: float | None = None


ROWS: dict[str, tuple[Panel, ...]] = {
    "Fleet": (
        Panel(title="Tiles left", says="Planned and not decided yet.", kind="stat", width=4, height=4, unit="short",
              asks=((f'sum(resmap_tiles{{{RUN}, state="waiting"}})', "tiles"),)),
        Panel(title="Time left", says="At the recent pace; four times in five between the two.", kind="stat",
              width=6, height=4, unit="s",
              asks=((f'max(resmap_eta_seconds{{{RUN}, bound="low"}})', "from"),
                    (f'max(resmap_eta_seconds{{{RUN}, bound="high"}})', "to"))),
        Panel(title="Tiles given up", says="The run's page groups them by cause and can take them again.", kind="stat",
              width=4, height=4, unit="short",
              asks=((f'sum(resmap_tiles{{{RUN}, state=~"failed|quarantined"}})', "tiles"),)),
        Panel(title="Workers heard of", says="Those that spoke in the last 15 s.", kind="stat", width=5, height=4,
              unit="short", asks=((f"count(resmap_worker_silent_seconds{{{RUN}}} < 15) or vector(0)", "workers"),)),
        Panel(title="Model computing", says="Of all workers' time in the last 5 minutes.", kind="stat", width=5,
              height=4, unit="percentunit", most=1,
              asks=((f"sum(rate(resmap_worker_busy_seconds_total{{{RUN}}}[5m])) / "
                     f"sum(rate(resmap_worker_up_seconds_total{{{RUN}}}[5m]))", "busy"),)),
        Panel(title="Tiles a second", says="All workers together.", unit="short", width=12,
              asks=((f"sum by (run) (rate(resmap_worker_tiles_total{{{RUN}}}[5m]))", "{{run}}"),)),
        Panel(title="Tiles by state", says="Each is in exactly one.", unit="short", width=12, stacked=True,
              asks=((f"sum by (state) (resmap_tiles{{{RUN}}})", "{{state}}"),)),
    ),
    "Per GPU": (
        Panel(title="Tiles a second", says="One line far below the others is a slow machine.", unit="short",
              asks=((f"rate(resmap_worker_tiles_total{{{WORKER}}}[5m])", "{{worker}}"),)),
        Panel(title="Model computing", says="Near 100 % is as it should be.", unit="percentunit", most=1,
              asks=((f"rate(resmap_worker_busy_seconds_total{{{WORKER}}}[5m]) / "
                     f"rate(resmap_worker_up_seconds_total{{{WORKER}}}[5m])", "{{worker}}"),)),
        Panel(title="Ground an hour", says="Square metres an hour.", unit="short",
              asks=((f"3600 * rate(resmap_worker_mapped_square_meters_total{{{WORKER}}}[5m])", "{{worker}}"),)),
        Panel(title="GPU memory at most", says="Near the card's own size: a smaller compute.batch.", unit="percentunit",
              most=1,
              asks=((f"resmap_worker_gpu_memory_peak_bytes{{{WORKER}}} / resmap_worker_gpu_memory_bytes{{{WORKER}}}",
                     "{{worker}}"),)),
        Panel(title="Power", says="A card that waits draws little.", unit="watt",
              asks=((f"resmap_worker_gpu_power_watts{{{WORKER}}}", "{{worker}}"),)),
        Panel(title="Temperature", says="Above 85 °C most cards slow down.", unit="celsius",
              asks=((f"resmap_worker_gpu_temperature_celsius{{{WORKER}}}", "{{worker}}"),)),
        Panel(title="Process memory at most", says="It does not fall: what one process ever had.", unit="bytes",
              asks=((f"resmap_worker_memory_peak_bytes{{{WORKER}}}", "{{worker}}"),)),
        Panel(title="Windows at a time", says="The batch; it grows while that pays.", unit="short",
              asks=((f"resmap_worker_batch_windows{{{WORKER}}}", "{{worker}}"),)),
        Panel(title="Seconds since heard", says="Above 15 something is wrong; replaced after two minutes.", unit="s",
              asks=((f"resmap_worker_silent_seconds{{{WORKER}}}", "{{worker}}"),)),
    ),
    "Stalls": (
        Panel(title="What the models' time goes to", says="Computing, and all that they wait for: together all of it. "
              "read: more readers, or a nearer store. tasks: fewer GPUs would do.", unit="percentunit", width=12,
              stacked=True, most=1,
              asks=((f"sum(rate(resmap_worker_busy_seconds_total{{{WORKER}}}[5m])) / "
                     f"sum(rate(resmap_worker_up_seconds_total{{{WORKER}}}[5m]))", "computes"),
                    (f"sum by (stage) (rate(resmap_worker_wait_seconds_total{{{WORKER}}}[5m])) / on () group_left () "
                     f"sum(rate(resmap_worker_up_seconds_total{{{WORKER}}}[5m]))", "waits: {{stage}}"))),
        Panel(title="Who waits most", says="Share of its time in which a worker's model stands idle.", width=12, most=1,
              unit="percentunit", kind="bargauge",
              asks=((f"topk(16, sum by (worker) (rate(resmap_worker_wait_seconds_total{{{WORKER}}}[5m])) / "
                     f"sum by (worker) (rate(resmap_worker_up_seconds_total{{{WORKER}}}[5m])))", "{{worker}}"),)),
        Panel(title="What threads do", says="Threads at work at a time, by stage.", unit="short", width=12,
              stacked=True,
              asks=((f"sum by (stage) (rate(resmap_worker_work_seconds_total{{{WORKER}}}[5m]))", "{{stage}}"),)),
        Panel(title="Where tiles are", says="Many ready: the model is the limit. None ready: reading is. Many "
              "unwritten: writing is.", unit="short", width=12, stacked=True,
              asks=((f"sum by (queue) (resmap_worker_queue_tiles{{{WORKER}}})", "{{queue}}"),)),
    ),
    "Stores and catalogs": (
        Panel(title="Requests a second", says="Each try counts.", unit="reqps",
              asks=((f"sum by (kind, host) (rate(resmap_calls_total{{{RUN}}}[5m]))", "{{kind}} {{host}}"),)),
        Panel(title="Failed", says="Of all requests; tried again by themselves.", unit="percentunit", most=1,
              asks=((f"sum by (kind, host) (rate(resmap_calls_failed_total{{{RUN}}}[5m])) / "
                     f"sum by (kind, host) (rate(resmap_calls_total{{{RUN}}}[5m]))", "{{kind}} {{host}}"),)),
        Panel(title="Told to come slower", says="429 and 503. Fewer readers, or ask for a higher limit.",
              unit="percentunit", most=1,
              asks=((f"sum by (kind, host) (rate(resmap_calls_throttled_total{{{RUN}}}[5m])) / "
                     f"sum by (kind, host) (rate(resmap_calls_total{{{RUN}}}[5m]))", "{{kind}} {{host}}"),)),
        Panel(title="How long requests take", says="Half are faster, and 99 of 100.", unit="s", width=12,
              asks=tuple(
                  (f"histogram_quantile({share}, sum by (le, kind, host) "
                   f"(rate(resmap_calls_duration_seconds_bucket{{{RUN}}}[5m])))", f"p{name} {{{{kind}}}} {{{{host}}}}")
                  for share, name in (("0.5", "50"), ("0.99", "99")))),
        Panel(title="Traffic", says="Bytes a second, both ways.", unit="Bps", width=12,
              asks=((f"sum by (kind, host) (rate(resmap_calls_moved_bytes_total{{{RUN}}}[5m]))",
                     "{{kind}} {{host}}"),)),
    ),
    "Cost": (
        Panel(title="Spent", says="On workers.", unit="currencyUSD", kind="stat", width=6, height=4,
              asks=((f"sum(resmap_spent_usd{{{RUN}}})", "spent"),)),
        Panel(title="At completion", says="Four times in five between the two.", unit="currencyUSD", kind="stat",
              width=6, height=4,
              asks=((f'sum(resmap_at_completion_usd{{{RUN}, bound="low"}})', "from"),
                    (f'sum(resmap_at_completion_usd{{{RUN}, bound="high"}})', "to"))),
        Panel(title="Per 1,000 km²", says="Spent over mapped.", unit="currencyUSD", kind="stat", width=6, height=4,
              asks=((f"1e9 * sum(resmap_spent_usd{{{RUN}}}) / sum(resmap_mapped_square_meters{{{RUN}}})", "usd"),)),
        Panel(title="For idle GPUs", says="Of what is spent.", unit="percentunit", kind="stat", width=6, height=4,
              asks=((f"sum(resmap_idle_usd{{{RUN}}}) / sum(resmap_spent_usd{{{RUN}}})", "idle"),)),
        Panel(title="Spent and budget", says="A run ends by itself when its budget is spent.", width=24,
              unit="currencyUSD",
              asks=((f"resmap_spent_usd{{{RUN}}}", "{{run}} spent"),
                    (f"resmap_budget_usd{{{RUN}}}", "{{run}} budget"))),
    ),
    "Monitors": (
        Panel(title="Behind", says="Since the first due instant that no tick has answered. Above the interval between "
              "two, something is wrong: the monitor's page says what.", unit="s",
              asks=(("resmap_monitor_lag_seconds", "{{monitor}}"),
                    ("resmap_monitor_interval_seconds", "{{monitor}}: interval"))),
        Panel(title="Since it last looked and knew", says="News or none.", unit="s",
              asks=(("time() - resmap_monitor_last_success_timestamp_seconds", "{{monitor}}"),)),
        Panel(title="Alerts on their way", says="Waiting to be taken by a sink, and given up after three days.",
              unit="short", asks=(("resmap_monitor_alerts_waiting", "{{monitor}} waiting"),
                                  ("resmap_monitor_alerts_given_up", "{{monitor}} given up"))),
        Panel(title="Ticks a day", says="By what became of them.", unit="short", stacked=True,
              asks=(("86400 * sum by (state) (rate(resmap_monitor_ticks_total[1d]))", "{{state}}"),)),
        Panel(title="Items a day", says="New, reprocessed, gone; and those set aside.", unit="short", stacked=True,
              asks=(("86400 * sum by (kind) (rate(resmap_monitor_items_total[1d]))", "{{kind}}"),)),
        Panel(title="Tiles a day", says="Mapped anew.", unit="short",
              asks=(("86400 * sum by (monitor) (rate(resmap_monitor_tiles_total[1d]))", "{{monitor}}"),)),
    ),
}  # fmt: skip


def board() -> dict[str, Any]:
    """The whole document, as Grafana imports it."""
    return {
        "title": "resmap",
        "uid": "resmap",
        "description": "Runs of resmap: every GPU, and what it waits for. It asks /metrics of `resmap serve`.",
        "tags": ["resmap", "gpu"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_source(), _variable("run", "resmap_run_info"), _variable("worker", _WORKERS)]},
        "annotations": {"list": [_replaced()]},
        "panels": list(_laid()),
    }


_WORKERS = f"resmap_worker_info{{{RUN}}}"


def _laid() -> Iterator[dict[str, Any]]:
    """Panels from left to right, row below row."""
    number, y = 1, 0
    for title, panels in ROWS.items():
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}}  # fmt: skip
        number, y, x, deepest = number + 1, y + 1, 0, 0
        for panel in panels:
            if x + panel.width > _WIDTH:
                x, y, deepest = 0, y + deepest, 0
            yield _drawn(panel, number, x, y)
            number, x, deepest = number + 1, x + panel.width, max(deepest, panel.height)
        y += deepest


def _drawn(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    custom = {"fillOpacity": 70 if panel.stacked else 8, "lineWidth": 1, "showPoints": "never",
              "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}  # fmt: skip
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": custom if panel.kind == "timeseries" else {}}
    if panel.most is not None:
        defaults["max"] = panel.most
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.kind != "timeseries":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + n), "datasource": _SOURCE, "expr": asked, "legendFormat": legend, "range": True}
            for n, (asked, legend) in enumerate(panel.asks)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, of: str) -> dict[str, Any]:
    """All values of a label, any number of them chosen."""
    query = f"label_values({of}, {name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 7,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _replaced() -> dict[str, Any]:
    """A line where a worker took another's seat."""
    return {
        "name": "A worker was replaced",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": f"changes(resmap_worker_start_time_seconds{{{WORKER}}}[1m]) > 0",
        "titleFormat": "{{worker}}",
    }


def main() -> None:
    """Write the board where it lies."""
    BOARD.parent.mkdir(parents=True, exist_ok=True)
    BOARD.write_text(json.dumps(board(), indent=2) + "\n")
    print(f"{BOARD}: {sum(len(panels) for panels in ROWS.values())} panels")


if __name__ == "__main__":
    main()
