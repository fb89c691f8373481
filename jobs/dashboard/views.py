"""What the dashboard says: one value a panel. Pages draw them, the API gives them as JSON, a report keeps them.

Rates are of the last minutes, not since the beginning; None is what nobody knows, and is never drawn as 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from jobs.telemetry import Event as Event

RunState = Literal[
    "queued",
    "planned",
    "running",
    "done",
    "quarantined",
    "interrupted",
    "out-of-budget",
    "stopped",
    "cancelled",
    "unknown",
]
TileState = Literal["waiting", "done", "nodata", "failed", "quarantined"]

TILE_STATES: tuple[TileState, ...] = ("waiting", "done", "nodata", "failed", "quarantined")
"""In columns a tile's state is its position here, uint8."""


def run_key(run: str, mosaic: str) -> str:
    """How addresses name a run: one job written to several mosaics is several of them. Letters, digits, hyphens."""
    return f"{run}-{hashlib.sha256(mosaic.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range that holds the truth about four times in five."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """A run in the list of runs."""

    id: str
    """As in addresses: ``run_key``."""

    run: str
    mosaic: str
    name: str
    state: RunState
    planned: int
    finished: int
    given_up: int
    began: datetime | None
    updated: datetime | None
    live: bool
    """Whether a driver has it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is. All tiles are in exactly one of ``TILE_STATES``."""

    planned: int
    waiting: int
    done: int
    nodata: int
    failed: int
    quarantined: int
    in_hand: int
    """Of those waiting, the ones that workers have now."""

    tiles_per_s: float | None
    km2_per_h: float | None
    mpx_per_s: float | None
    eta_s: Span | None
    """Seconds left, from the recent pace; None where it stands still or is over."""

    mapped_km2: float
    history: tuple[tuple[datetime, float], ...]
    """Moment and tiles a second then, oldest first, at most 240."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it costs, in US dollars; all None where the job names no price."""

    spent_usd: float | None
    at_completion_usd: Span | None
    per_1000_km2_usd: float | None
    idle_usd: float | None
    """Of what is spent, the part in which GPUs stood idle."""

    budget_usd: float | None
    usd_per_gpu_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One worker. The slowest come first."""

    worker: str
    host: str
    device: str
    state: Literal["working", "waiting", "silent", "gone", "over"]
    """over: the run is not under way, and this is how it was last."""

    heard_s: float | None
    """Seconds since it last said something."""

    tiles: int
    tiles_per_s: float | None
    mpx_per_s: float | None
    km2_per_h: float | None
    busy: float | None
    """Share of the time in which its model computes. With all of ``waits`` it makes 1."""

    waits: Mapping[str, float]
    """Share of the time in which its model waits, by ``cluster.readings.WAITS``."""

    batch: int
    in_hand: int
    host_peak_bytes: int
    device_peak_bytes: int | None
    device_total_bytes: int | None
    power_w: float | None
    temperature_c: float | None
    utilization: float | None
    spark: tuple[float, ...]
    """Tiles a second in the last intervals, oldest first, at most 60."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """What holds the run back, in a sentence."""

    wait: str
    """One of ``WAITS``; ``infer`` where the model itself is the limit, and ``nothing`` where nothing can be said."""

    sentence: str
    """As: reads hold back 5 of 8 GPUs: raise compute.readers to 12."""

    gpus: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Tiles given up for one cause."""

    cause: str
    """Class of the error."""

    count: int
    first_tile: int
    first_name: str
    first_error: str
    fix: str
    retryable: bool
    tiles: tuple[tuple[int, str], ...]
    """Row and name of the first 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """One of the slowest tiles."""

    tile: int
    name: str
    seconds: float
    worker: str
    parts: Mapping[str, float]
    """Seconds by stage: read, infer, write."""

    times_median: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsRow:
    """How one host answers."""

    kind: str
    host: str
    done: int
    per_s: float | None
    failed_share: float
    throttled_share: float
    p50_ms: float | None
    p99_ms: float | None
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInfo:
    """What the live map shows."""

    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top in degrees."""

    steps: tuple[str, ...]
    """Time steps, as people write them."""

    prompts: tuple[tuple[str, str], ...]
    """Name and expression."""

    layers: tuple[str, ...]
    """state · seconds · score · mask · imagery: those there are."""

    max_zoom: int
    version: str
    """Changes whenever a picture may."""

    legend: Mapping[str, tuple[tuple[str, str], ...]]
    """Layer → colour (#rrggbb) and what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDetail:
    """All that is known of one tile."""

    tile: int
    name: str
    state: TileState
    zone: str
    row: int
    column: int
    step: str
    bounds: tuple[float, float, float, float]
    attempts: int
    worker: str
    at: datetime | None
    seconds: Mapping[str, float]
    windows: int
    asked_px: int
    seen_px: int
    present_px: Mapping[str, int]
    """Prompt → pixels."""

    cause: str
    error: str
    items: tuple[Mapping[str, Any], ...]
    """Those that may show it: id, collection, datetime, href (https only)."""

    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """All panels of one run."""

    line: RunLine
    progress: Progress
    cost: Cost
    gpus: tuple[GpuRow, ...]
    bottleneck: Bottleneck
    failures: tuple[FailureGroup, ...]
    stragglers: tuple[Straggler, ...]
    calls: tuple[CallsRow, ...]
    events: tuple[Event, ...]
    """The latest 50, newest first."""

    prompts: tuple[tuple[str, str], ...]
    model: str
    as_of: datetime
    """Of the newest thing it tells."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    """How its last sitting ended; empty where it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One figure of two runs."""

    label: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None
    """b over a."""

    better: Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs side by side."""

    a: RunLine
    b: RunLine
    rows: tuple[ComparedRow, ...]
    differences: tuple[tuple[str, str, str], ...]
    """Settings of the job files that differ: key, of a, of b."""
