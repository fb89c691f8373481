"""What one of each thing costs, from ``results/*.json``: the one place that knows how those files name it.

A figure whose benchmark has not been run is None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, timed on a CPU."""

    name: str
    window_px: int
    windows_per_core_s: float
    """bfloat16, one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Our reader on one kind of scene, a million pixels of ground and one look at a time, all bands of it."""

    cpu_s: float
    requests: float
    mb: float
    """Over the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Unit costs; None where not measured yet."""

    models: tuple[Model, ...]
    reading: dict[str, Reading]
    """Kind of scene → its reading."""

    write_cpu_s: float | None
    """A million pixels of one sentence: mask, score and source, encoded and put."""

    stored_mb: float | None
    """The same, compressed."""

    driver_cpu_s: float | None
    """A tile: dispatch, Ray, books and ledger, with as many GPUs as were tried."""

    ledger_bytes: float | None
    """A tile."""

    plan_bytes: float | None
    """A tile, of ``tiles.parquet``."""

    plan_s: float | None
    """A tile, searching aside."""

    resume_s: float | None
    """A finished tile, when a run is taken up again."""

    gpu_busy: float | None
    """Share of the model's own speed that a run keeps, with a stand-in for the GPU; 0 to 1."""


def read_units(results: Path) -> Units:
    """The unit costs in a folder of results."""
    segment, read, write, scale, resume, efficiency = (
        _figures(results, name) for name in ("segment_cpu", "read", "write", "scale", "resume", "map_efficiency")
    )
    written = _at(write, "ways", "local disk", "resmap")
    write_mpx = (_at(write, "shard_px") or 0) ** 2 / 1e6
    finished, planned = _at(resume, "finished"), _at(resume, "planned")
    return Units(
        models=tuple(
            Model(
                name=name,
                window_px=one["window_px"],
                windows_per_core_s=one["bf16"]["1 prompts"]["windows_per_s"] / one["threads"],
            )
            for name, one in (_at(segment, "models") or {}).items()
        ),
        reading={
            one["scene"]: _reading(one["ways"]["ours"], read["frames_px"] / 1e6)
            for one in _at(read, "measured") or ()
            if one["latency_ms"] == max(other["latency_ms"] for other in read["measured"])
        },
        write_cpu_s=_per(_at(written, "cpu_s_a_tile"), write_mpx),
        stored_mb=_per(_at(written, "stored_mb"), write_mpx * (_at(write, "tiles") or 0)),
        driver_cpu_s=_per(_at((_at(scale, "on_ray") or [None])[-1], "driver_cpu_ms_a_tile", "median"), 1000),
        ledger_bytes=_per(_at(resume, "bytes", "ledger"), finished),
        plan_bytes=_per(_at(resume, "bytes", "tiles.parquet"), planned),
        plan_s=_per(_at(resume, "planned_s"), planned),
        resume_s=_per(_at(resume, "resume_s", "median"), finished),
        gpu_busy=_at(efficiency, "efficiency_from_workers_ready"),
    )


def _reading(ours: dict[str, Any], mpx: float) -> Reading:
    return Reading(cpu_s=ours["cpu_s"] / mpx, requests=ours["requests"] / mpx, mb=ours["mb"] / mpx)


def _figures(results: Path, name: str) -> dict[str, Any]:
    path = results / f"{name}.json"
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return figures


def _at(figures: Any, *keys: str) -> Any:
    for key in keys:
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures


def _per(amount: float | None, count: float | None) -> float | None:
    return amount / count if amount is not None and count else None
