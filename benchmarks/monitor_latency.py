"""From the post of a scene to the alert that it leads to, with everything in its place and nothing faked."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.monitored import monitored
from benchmarks.real_input import collection_of, naip, with_base
from jobs.ledger import RunFolder, run_names
from tests.pgstac import PgStac, pgstac
from tests.servers import files_from_another_process

SCENES = 20
ANSWER_S = 180
SECRET = b"a secret of sixteen bytes or more"


@dataclass
class Heard:
    """What a webhook was sent, and when."""

    url: str = ""
    alerts: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    forged: int = 0
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, step: str, until: float) -> float:
        """The moment when an alert of a step came.

        Raises:
            TimeoutError: none did.
        """
        with self.came:
            while time.monotonic() < until:
                for at, alert in self.alerts:
                    if alert["time"].startswith(step):
                        return at
                self.came.wait(0.2)
        raise TimeoutError(f"no alert of {step}")


@contextmanager
def webhook() -> Iterator[Heard]:
    """A receiver of alerts that checks their signatures by itself."""
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            signed = b".".join([self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), body])
            mac = b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
            with heard.came:
                if f"v1,{mac}" in self.headers["webhook-signature"].split():
                    heard.alerts.append((time.monotonic(), json.loads(body)))
                else:
                    heard.forged += 1
                heard.came.notify_all()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.url = f"http://127.0.0.1:{server.server_address[1]}/alerts"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()


def latency(data: Path, scratch: Path) -> dict[str, Any]:
    """Twenty scenes posted while ``resmap monitor serve`` runs on Ray, each when the alert of the last has come."""
    chosen = naip(data)
    with ExitStack() as stack:
        files = stack.enter_context(files_from_another_process(chosen.folder.resolve()))
        flights = [with_base(item, files) for item in chosen.items]
        api = stack.enter_context(pgstac([collection_of(chosen, flights)]))
        heard = stack.enter_context(webhook())
        job = monitored(chosen.job, api, chosen.name, scratch)
        job["monitor"] |= {
            "schedule": "every 5s",
            "sinks": [{"name": "hook", "webhook": heard.url, "secret": "BENCH_SECRET"}],
            "alerts": [
                {"name": f"any that {kind}", "prompt": "lake", "change": kind, "area_m2": 0.0}
                for kind in ("appeared", "vanished")
            ],
        }
        (scratch / "job.yaml").write_text(json.dumps(job))
        environment = os.environ | {"BENCH_SECRET": f"whsec_{b64encode(SECRET).decode()}"}
        command = [sys.executable, "-m", "jobs.cli", "monitor"]
        subprocess.run([*command, "add", str(scratch / "job.yaml"), "--name", "bench"], env=environment, check=True)
        api.post(_on(flights[0], 0))
        with (scratch / "serve.log").open("wb") as log:
            serving = subprocess.Popen([*command, "serve", "--gpus", "1"], env=environment, stdout=log, stderr=log)
        try:
            took = _posted(api, flights, heard, scratch, job["output"]["mosaic"])
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.wait(ANSWER_S)
    overhead = sorted(one["overhead_s"] for one in took)
    return {
        "scenes": len(took),
        "schedule": job["monitor"]["schedule"],
        "post_to_alert_s": {"p50": _share([one["post_to_alert_s"] for one in took], 0.5),
                            "p95": _share([one["post_to_alert_s"] for one in took], 0.95)},
        "read_and_infer_s": {"p50": _share([one["read_and_infer_s"] for one in took], 0.5)},
        "overhead_s": {"p50": _share(overhead, 0.5), "p95": _share(overhead, 0.95), "most": overhead[-1]},
        "forged": heard.forged,
    }  # fmt: skip


def _posted(
    api: PgStac, flights: list[dict[str, Any]], heard: Heard, scratch: Path, mosaic: str
) -> list[dict[str, float]]:
    until = time.monotonic() + ANSWER_S
    while not _steps(mosaic):  # the first scene has nothing to differ from
        if time.monotonic() > until:
            raise TimeoutError((scratch / "serve.log").read_text()[-2000:])
        time.sleep(0.5)
    took = []
    for number in range(1, SCENES + 1):
        item = _on(flights[number % len(flights)], number)
        known = set(run_names(mosaic))
        begun = time.monotonic()
        api.post(item)
        at = heard.wait_for(item["properties"]["datetime"][:10], begun + ANSWER_S)
        worked = 0.0
        for name in set(run_names(mosaic)) - known:
            for worker in RunFolder(mosaic, name).facts()["summary"]["workers"]:
                worked += worker["seconds"].get("read", 0.0) + worker["seconds"].get("infer", 0.0)
        took.append(
            {
                "post_to_alert_s": round(at - begun, 2),
                "read_and_infer_s": round(worked, 2),
                "overhead_s": round(at - begun - worked, 2),
            }
        )
        print(took[-1], file=sys.stderr, flush=True)
    return took


def _on(flight: dict[str, Any], number: int) -> dict[str, Any]:
    """A flight as if it were of another day."""
    day = datetime(2021, 1, 1, 17, tzinfo=UTC) + timedelta(days=5 * number)
    properties = {**flight["properties"], "datetime": f"{day:%Y-%m-%dT%H:%M:%SZ}"}
    return {**flight, "id": f"{flight['id']}-{number}", "properties": properties}


def _steps(mosaic: str) -> int:
    return sum(RunFolder(mosaic, name).facts().get("compared", 0) for name in run_names(mosaic)) if _is(mosaic) else 0


def _is(mosaic: str) -> bool:
    return Path(mosaic, ".resmap").is_dir()


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
