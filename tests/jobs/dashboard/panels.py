"""Values that fill every panel of the dashboard: runs that are not there, hostile names in some."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.readings import WAITS
from jobs.dashboard.views import (
    Bottleneck,
    CallsRow,
    Cost,
    Event,
    FailureGroup,
    GpuRow,
    Progress,
    RunLine,
    RunPage,
    Span,
    Straggler,
    run_key,
)
from tests.jobs.dashboard.hostile import HOSTILE

BEGAN = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
PLANNED = 4096
STATE_COLOURS = {
    "waiting": "#8a8f98",
    "done": "#2b7bba",
    "nodata": "#c9c4b8",
    "failed": "#d1495b",
    "quarantined": "#7a1f5c",
}


def line(run: str = "kathmandu-1", mosaic: str = "s3://maps/kathmandu.zarr", **changes: Any) -> RunLine:
    """A run in the list, under way unless told otherwise."""
    told: dict[str, Any] = {
        "name": "Kathmandu, buildings",
        "state": "running",
        "planned": PLANNED,
        "finished": 1500,
        "given_up": 9,
        "began": BEGAN,
        "updated": BEGAN + timedelta(minutes=40),
        "live": True,
    }
    return RunLine(id=run_key(run, mosaic), run=run, mosaic=mosaic, **(told | changes))


LIVE = line()
DONE = line("banepa-7", "s3://maps/banepa.zarr", name="Banepa, trees", state="done", finished=PLANNED, live=False)
HELD = line(
    "delta-3",
    "/maps/delta.zarr",
    name=HOSTILE[2],
    state="quarantined",
    finished=4000,
    given_up=96,
    live=False,
)
QUEUED = line("alps-2", "/maps/alps.zarr", name="Alps, huts", state="queued", finished=0, given_up=0,
              began=None, updated=None, live=False)  # fmt: skip


def gpu(n: int, *, pace: float) -> GpuRow:
    """A worker; those with a low number wait most."""
    busy = min(0.95, 0.2 + 0.1 * n)
    shares = {"read": 0.6, "decode": 0.15, "copy": 0.05, "blend": 0.05, "encode": 0.05, "write": 0.08, "tasks": 0.02}
    state: Any = {6: "silent", 7: "waiting"}.get(n, "working")
    real = n != 5
    return GpuRow(
        worker=f"gpu-{n}",
        host=f"node-{n // 4}" if n != 3 else HOSTILE[7],
        device="NVIDIA L4" if real else "cpu",
        state=state,
        heard_s=42.0 if state == "silent" else 0.4,
        tiles=150 + 20 * n,
        tiles_per_s=pace * (0.5 + n / 8),
        mpx_per_s=4.19 * pace * (0.5 + n / 8),
        km2_per_h=1359.0 * pace * (0.5 + n / 8),
        busy=busy,
        waits={wait: (1 - busy) * shares[wait] for wait in WAITS},
        batch=8,
        in_hand=3,
        host_peak_bytes=5_400_000_000,
        device_peak_bytes=17_000_000_000 if real else None,
        device_total_bytes=24_000_000_000 if real else None,
        power_w=61.5 + n if real else None,
        temperature_c=58.0 + n if real else None,
        utilization=busy if real else None,
        spark=tuple(pace * (0.5 + n / 8) * (1 + ((7 * k + n) % 5 - 2) / 10) for k in range(60)),
    )


def failures(count: int = 9) -> tuple[FailureGroup, ...]:
    """Two causes; the words of the second are a stranger's."""
    return (
        FailureGroup(
            cause="ReadError",
            count=count - 2,
            first_tile=17,
            first_name="r0000c0017",
            first_error="range request timed out after 30 s (asset https://example.com/a.tif)",
            fix="lower concurrent_reads or raise timeout_s in the job file",
            retryable=True,
            tiles=tuple((17 + 3 * k, f"r0000c{17 + 3 * k:04d}") for k in range(min(count - 2, 20))),
        ),
        FailureGroup(
            cause="AssetError",
            count=2,
            first_tile=99,
            first_name="r0001c0035",
            first_error=HOSTILE[0],
            fix=HOSTILE[9],
            retryable=False,
            tiles=((99, "r0001c0035"), (100, "r0001c0036")),
        ),
    )


def happened(count: int, *, began: datetime = BEGAN) -> tuple[Event, ...]:
    """So many events, numbers from 1."""
    kinds = (
        ("state", "the run began with 8 workers"),
        ("worker", "gpu-6 is silent for 42 s"),
        ("given-up", f"r0001c0035 was given up: {HOSTILE[0]}"),
        ("warning", "the store tells us to come slower: 12 of 400 requests"),
        ("asked", "retry, by uid 1000 at 127.0.0.1"),
    )
    return tuple(
        Event(
            number=n + 1,
            at=began + timedelta(seconds=20 * n),
            kind=kinds[n % 5][0],
            text=kinds[n % 5][1],
            tile=99 if n % 5 == 2 else None,
        )
        for n in range(count)
    )


CALLS = (
    CallsRow(
        kind="imagery",
        host="naip-analytic",
        done=48_210,
        per_s=42.5,
        failed_share=0.012,
        throttled_share=0.004,
        p50_ms=64.0,
        p99_ms=2048.0,
        bytes_per_s=184e6,
    ),
    CallsRow(
        kind="store",
        host="maps",
        done=3200,
        per_s=3.2,
        failed_share=0.0,
        throttled_share=0.0,
        p50_ms=32.0,
        p99_ms=256.0,
        bytes_per_s=9.1e6,
    ),
    CallsRow(
        kind="catalog",
        host=HOSTILE[14],
        done=4,
        per_s=None,
        failed_share=0.25,
        throttled_share=0.0,
        p50_ms=None,
        p99_ms=None,
        bytes_per_s=None,
    ),
)


def page(of: RunLine = LIVE, *, moved: float = 0.0) -> RunPage:
    """All panels of a run; ``moved``: seconds it has been looked at."""
    tiles = min(of.finished + int(1.6 * moved), of.planned - of.given_up) if of.live else of.finished
    began = of.began or BEGAN
    updated = (of.updated or began) + timedelta(seconds=moved)
    pace = 1.6 + 0.3 * ((int(moved) % 7) / 7)
    waiting = of.planned - tiles - of.given_up
    known = of.began is not None
    return RunPage(
        line=replace(of, finished=tiles, updated=updated if known else None),
        progress=Progress(
            planned=of.planned,
            waiting=waiting,
            done=tiles - tiles // 10,
            nodata=tiles // 10,
            failed=of.given_up - of.given_up // 3,
            quarantined=of.given_up // 3,
            in_hand=24 if of.live else 0,
            tiles_per_s=pace if of.live else None,
            km2_per_h=1359.0 * pace if of.live else None,
            mpx_per_s=4.19 * pace if of.live else None,
            eta_s=Span(low=0.8 * waiting / pace, high=1.3 * waiting / pace) if of.live else None,
            mapped_km2=tiles * 0.377,
            history=tuple((began + timedelta(seconds=10 * k), 1.2 + 0.6 * ((k * k) % 11) / 11) for k in range(240))
            if known
            else (),
        ),
        cost=Cost(
            spent_usd=3.41 + 0.0016 * moved,
            at_completion_usd=Span(low=8.7, high=10.9) if of.live else None,
            per_1000_km2_usd=6.03,
            idle_usd=1.2,
            budget_usd=25.0,
            usd_per_gpu_hour=0.71,
        )
        if known
        else Cost(**dict.fromkeys(Cost.__slots__)),
        gpus=tuple(gpu(n, pace=pace / 8) for n in range(8)) if known else (),
        bottleneck=Bottleneck(
            wait="read", sentence="reads hold back 5 of 8 GPUs: raise compute.readers to 12", gpus=5, of=8
        )
        if known
        else Bottleneck(wait="nothing", sentence="", gpus=0, of=0),
        failures=failures(of.given_up) if of.given_up else (),
        stragglers=tuple(
            Straggler(
                tile=200 + k,
                name=f"r0002c{k:04d}",
                seconds=90.0 - 6 * k,
                worker=f"gpu-{k % 8}",
                parts={"read": 70.0 - 6 * k, "infer": 12.0, "write": 8.0},
                times_median=18.0 - k,
            )
            for k in range(10 if known else 0)
        ),
        calls=CALLS if known else (),
        events=tuple(reversed(happened(12 + int(moved / 5))))[:50] if known else (),
        prompts=(("building", "the buildings"), ("hostile", HOSTILE[2])),
        model="remotesam",
        as_of=updated,
        summary={} if of.live or not known else {"state": of.state, "seconds": 2450.0},
    )
