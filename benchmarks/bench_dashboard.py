"""The dashboard on a run of a million tiles and 256 GPUs that is under way: how soon it answers, and how late it is.

A made-up run (``benchmarks/simulated_run.py``) is written by a process of its own: its ledger grows by so many rows a
second, its workers speak every second. ``resmap serve`` is a process, too. One client asks for its pages and its API in
turn, one after the other; another listens to the stream of events. Update lag is the time from a part of the ledger
being put, which is when the rows in it can be known to anybody, to the first page in the stream that counts them.

python -m benchmarks.bench_dashboard [--tiles 1000000] [--workers 256] [--rate 1000] [--rounds 40] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from benchmarks.record import circumstances, record

DONE = 0.4
"""Share of the tiles that are entered when it begins."""

START_WITHIN_S = 600.0
SETTLE_S = 5.0
PAUSE_S = 0.05
"""Between two requests of the one client."""


def main() -> None:
    """Write, serve, ask, and record."""
    asked = _asked()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        facts = _measured(asked, Path(folder))
    if asked.out:
        document = {"benchmark": "dashboard", "made_with": circumstances(), **facts}
        asked.out.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    print(asked.out or record("dashboard", facts))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1000.0, help="rows of the ledger a second")
    parser.add_argument("--rounds", type=int, default=40, help="how often each address is asked for")
    parser.add_argument("--folder", help="where to work; a temporary folder of the system's else")
    parser.add_argument("--out", type=Path, help="a file for the figures, in place of benchmarks/results")
    return parser.parse_args()


def _measured(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    environment = os.environ | {"RESMAP_REGISTRY": f"sqlite:///{folder / 'registry.db'}", "XDG_DATA_HOME": str(folder)}
    words = [f"--{name}={getattr(asked, name)}" for name in ("tiles", "workers", "rate")]
    writer = [sys.executable, "-m", "benchmarks.simulated_run", str(folder / "run"), *words, f"--done={DONE}",
              "--seconds=100000"]  # fmt: skip
    server = [sys.executable, "-m", "jobs.cli", "serve", "--port=0", "--no-open", "--read-only", "--json"]
    with _process(writer, environment) as writing:
        key = _line(writing)["key"]
        put: list[tuple[float, int]] = []
        threading.Thread(target=_note, args=(writing.stdout, put), daemon=True).start()
        with _process(server, environment) as serving:
            address = _line(serving)["url"]
            process = psutil.Process(serving.pid)
            with httpx.Client(base_url=address, timeout=60.0) as client:
                opening = _opening(client, key, process)
                return {
                    "tiles": asked.tiles,
                    "workers": asked.workers,
                    "ledger rows a second": asked.rate,
                    "first opening": opening,
                    **_steady(client, key, process, put, asked.rounds),
                }


def _opening(client: httpx.Client, key: str, process: psutil.Process) -> dict[str, Any]:
    """The first page after the server began, for which all of the ledger is read."""
    before, begun = _cpu_s(process), time.perf_counter()
    client.get(f"/runs/{key}").raise_for_status()
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_s": _cpu_s(process) - before,
        "rss_bytes": process.memory_info().rss,
    }


def _steady(
    client: httpx.Client, key: str, process: psutil.Process, put: list[tuple[float, int]], rounds: int
) -> dict[str, Any]:
    seen: list[tuple[float, int]] = []
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(str(client.base_url), key, seen, stop), daemon=True)
    listener.start()
    time.sleep(SETTLE_S)
    first_put, cpu_s, begun = len(put), _cpu_s(process), time.perf_counter()
    took: dict[str, list[float]] = {name: [] for name in _addresses(key)}
    cost: dict[str, list[float]] = {name: [] for name in took}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for name, path in _addresses(key).items():
            before, at = _cpu_s(process), time.perf_counter()
            answer = client.get(path)
            took[name].append(time.perf_counter() - at)
            cost[name].append(_cpu_s(process) - before)
            sizes[name] = len(answer.raise_for_status().content)
            time.sleep(PAUSE_S)
    seconds, used_s = time.perf_counter() - begun, _cpu_s(process) - cpu_s
    lags = lags_of(put[first_put:-3], seen)
    stop.set()
    return {
        "seconds": seconds,
        "answers": {
            name: {**_spread_ms(took[name]), "cpu_p50_ms": 1000 * statistics.median(cost[name]), "bytes": sizes[name]}
            for name in took
        },
        "all answers": _spread_ms([one for each in took.values() for one in each]),
        "update lag": {**_spread_ms(lags), "parts": len(lags)},
        "server": {"cpu share of a core": used_s / seconds, "rss_bytes": process.memory_info().rss},
    }


def _addresses(key: str) -> dict[str, str]:
    """What people and machines ask for."""
    api = f"/api/v1/runs/{key}"
    return {
        "page: runs": "/",
        "page: run": f"/runs/{key}",
        "page: map": f"/runs/{key}/map",
        "page: failures": f"/runs/{key}/failures",
        "page: tile": f"/runs/{key}/tiles/7",
        "api: runs": "/api/v1/runs",
        "api: run": api,
        "api: failures": f"{api}/failures",
        "api: history": f"{api}/history",
        "api: map": f"{api}/map",
        "api: picture of all tiles": f"{api}/map/state/0/0/4/11/6.png",
        "metrics": "/metrics",
    }


def lags_of(put: Sequence[tuple[float, int]], seen: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds from each part's being put to the first page that counts its rows; parts never seen are left out.

    Args:
        put: moment, and tiles entered in all by then.
        seen: moment, and tiles counted on the page that came then.
    """
    lags = []
    for at, entered in put:
        first = next((moment for moment, counted in seen if counted >= entered), None)
        if first is not None:
            lags.append(max(0.0, first - at))
    return lags


def _listen(address: str, key: str, seen: list[tuple[float, int]], stop: threading.Event) -> None:
    with httpx.stream("GET", f"{address.rstrip('/')}/api/v1/runs/{key}/events", timeout=60.0) as answer:
        kind = ""
        for line in answer.iter_lines():
            if stop.is_set():
                return
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            elif line.startswith("data:") and kind == "page":
                told = json.loads(line.removeprefix("data:"))["progress"]
                seen.append((time.time(), told["planned"] - told["waiting"]))


def _note(lines: IO[str] | None, put: list[tuple[float, int]]) -> None:
    for line in lines or ():
        at, entered = json.loads(line)
        put.append((at, entered))


@contextlib.contextmanager
def _process(words: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The first document that it prints, in one line or several."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        with contextlib.suppress(json.JSONDecodeError):
            found: dict[str, Any] = json.loads(said)
            return found
    sys.exit(f"{process.args!r} ended with status {process.wait(timeout=START_WITHIN_S)}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    at = {"p50_ms": 0.5, "p95_ms": 0.95, "max_ms": 1.0}
    return {name: 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in at.items()}


if __name__ == "__main__":
    main()
