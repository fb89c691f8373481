"""What a job costs, measured: the model timed on noise, or some tiles really mapped, to be thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cluster.pool import Outcome, outcomes
from cluster.retries import RetryPolicy
from cluster.telemetry import Telemetry
from jobs.amounts import Range
from jobs.estimate import Estimate, looks_likely
from jobs.gpu_speed import Timed, card_name, count_work
from jobs.prepare import Prepared, model_choice, setup_for
from jobs.sampling import Stratum, draw, share_of, total_of
from jobs.spec import JobSpec
from jobs.watch import Silent, Watcher
from mapper.layout import MosaicSpec
from mapper.map_tile import TileResult, TileTask
from mapper.mosaic import Mosaic
from mapper.segmenter import Segmenter
from mapper.work import SPENT, spent_since

LOOKS = 3

BUSY = 0.8
"""Share of the time from which on it is the model that a run waits for."""

ANOTHER_DAY = 0.1
"""By what share the same tiles may take longer or shorter another time: networks and machines have other guests. An
assumption; a sample cannot show it."""

ATTEMPTS = 2
"""Tries of one tile: a pilot shows what fails, it does not sit it out."""

Stage: TypeAlias = Literal["read", "infer", "blend", "write"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def seconds_per_window(spec: JobSpec) -> tuple[Range, str]:
    """Seconds one window takes with all the job's sentences, and the device it was timed on.

    The low end is the model alone. The high end allows for reading that the model has to wait for.

    Raises:
        ModelError: the model cannot be loaded.
    """
    times, net = _timed(spec)
    return Range(low=min(times), likely=1.15 * float(np.median(times)), high=2.0 * max(times)), net.device


def timed_for_fleets(spec: JobSpec, pilot: Pilot | None = None) -> Timed:
    """What this machine knows of the model that says something of other machines: how long a window takes here, as the
    pilot had it or timed on noise, and what a window asks of any device.

    Raises:
        ModelError: the model cannot be loaded.
    """
    if pilot is not None and pilot.window_s is not None and pilot.card:
        return Timed(window_s=pilot.window_s, card=pilot.card)
    times, net = _timed(spec, looks=0 if pilot is not None else LOOKS)
    expressions = [prompt.expression for prompt in spec.prompts]
    return Timed(
        window_s=float(np.median(times)) if times else None,
        card=card_name(net.device),
        work=count_work(net, expressions),
    )


def _timed(spec: JobSpec, looks: int = LOOKS) -> tuple[list[float], Segmenter]:
    """Seconds of each look at a window of noise, and the model."""
    import torch

    from cluster.lane import CPU_THREADS

    net = model_choice(spec).load()
    before = torch.get_num_threads()
    torch.set_num_threads(CPU_THREADS)
    try:
        text = net.encode_text([prompt.expression for prompt in spec.prompts])
        pixels = np.random.default_rng(0).integers(
            0, 256, (1, len(net.band_names), net.window_px, net.window_px), np.uint8
        )
        times = []
        for look in range(looks + 1 if looks else 0):
            begun = time.perf_counter()
            net.logits(pixels, text)
            if look:  # the first one pays for warming up
                times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return times, net


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """Some tiles of a plan, read, segmented and encoded by one worker, and what they say of the whole plan."""

    tiles: int
    """Drawn."""

    device: str
    seconds: float
    """From the model being loaded to the last tile."""

    windows: int
    """That the model looked at."""

    read_bytes: int
    """Decoded."""

    stored_bytes: int
    """Compressed, in the tiles that were written."""

    blank_share: float | None
    """Of the plan's tiles under imagery, those on which not one pixel is valid, 0 to 1: they cost no GPU."""

    failed_share: float
    """Of the tiles drawn."""

    problems: tuple[Mapping[str, str], ...]
    """Of the tiles that failed: tile, error, cause."""

    stages: Mapping[Stage, float]
    """Stage → seconds, summed over tiles; stages of different tiles overlap."""

    bound: Stage | None
    """What the others waited for; None where nothing could be measured."""

    whole_s: Range | None
    """One worker's time for the whole plan; None where nothing could be measured."""

    whole_bytes: Range | None
    """Compressed size of the whole map, without its coarser levels."""

    card: str = ""
    """The device as its maker calls it; empty where it has no such name."""

    window_s: float | None = None
    """Of the model, a window; None where it looked at none."""

    whole_windows: Range | None = None
    """That the model would look at for the whole plan."""

    whole_read_bytes: Range | None = None
    """Decoded, for the whole plan."""

    decode_s: Range | None = None
    """Seconds of cores that decode and warp for the whole plan."""

    worker_s: Range | None = None
    """Likewise, of those that blend and encode."""

    def priced(self, cost: Estimate, usd_per_gpu_hour: float) -> Estimate:
        """The estimate with what was measured in place of what was reckoned."""
        cost = replace(cost, stored_bytes=self.whole_bytes)
        if self.whole_s is None:
            return replace(cost, seconds=None, usd=None)
        return cost.taking(self.whole_s.times(1 / cost.workers), usd_per_gpu_hour)


def map_some(prepared: Prepared, cost: Estimate, count: int, *, watcher: Watcher | None = None) -> Pilot:
    """Map some tiles of a plan into a folder of this machine that is gone afterwards; the job's mosaic is not touched.

    The tiles go through the worker that a run has, so reading and writing overlap inference as they do there. They lie
    far apart, so they share no windows, and a run's neighbours do: where the model is what is waited for, the likely
    time is that of the windows a run looks at. They are put on this machine's disk; a store far away takes longer,
    which is what a run waits for only where a pilot is close to being bound by writing.

    Args:
        prepared: the job and its plan.
        cost: what is known of the plan without a pilot.
        count: how many tiles to draw; all where there are fewer.
        watcher: is told of each tile.

    Raises:
        MapperError: what every tile would fail with: credentials, the model.
    """
    from cluster.local import LocalPool

    watcher = watcher or Silent()
    strata = draw(prepared.plan.tiles, count, seed=prepared.run)
    rows = sorted(row for stratum in strata for row in stratum.rows)
    watcher.say(_announced(len(rows), count, len(prepared.plan.tiles)))
    with tempfile.TemporaryDirectory(prefix="resmap-pilot-") as folder:
        mosaic = _mosaic(prepared, f"{folder}/map.zarr")
        setup = replace(setup_for(prepared, mosaic), mosaic=mosaic.url)
        pool = LocalPool(setup)
        try:
            device = pool.facts()[0].device
            watcher.begin(len(rows), 0)
            seen = _Seen(prepared, watcher)
            wanted = dict.fromkeys(rows, tuple(range(len(setup.prompts))))
            begun, spent, cpu_s = time.perf_counter(), SPENT.seconds(), time.process_time()
            tasks = prepared.plan.tasks(wanted, written_sources=frozenset())
            for outcome in outcomes(pool, tasks, policy=RetryPolicy(attempts=ATTEMPTS, outage_s=0.0)):
                seen.enter(outcome)
            seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_s
            work_s = _on_cores(spent_since(spent, SPENT.seconds()), cpu_s, device)
        finally:
            pool.close()
            watcher.end()
        stored = {row: _stored_bytes(Path(folder) / "map.zarr", seen.tasks[row]) for row in seen.results}
    told = _told(strata, seen, cost, seconds=seconds, stored=stored, device=device)
    return (
        told if told.bound is None else replace(told, card=card_name(device), **_for_fleets(strata, seen, cost, work_s))
    )


def _announced(taken: int, asked: int, tiles: int) -> str:
    which = f"all {tiles:,} tiles ({asked:,} were asked for)" if taken < asked else f"{taken:,} of {tiles:,} tiles"
    return f"mapping {which}, to be thrown away"


def _mosaic(prepared: Prepared, url: str) -> Mosaic:
    spec, plan = prepared.job.spec, prepared.plan
    made = MosaicSpec(grids=plan.grids, prompts=spec.prompt_values(), times=plan.steps, made_by={"pilot": prepared.run})
    return Mosaic.create(url, made)


@dataclass(slots=True)
class _Seen:
    """What has come of the tiles so far."""

    prepared: Prepared
    watcher: Watcher
    results: dict[int, TileResult] = field(default_factory=dict)
    tasks: dict[int, TileTask] = field(default_factory=dict)
    problems: list[Mapping[str, str]] = field(default_factory=list)
    telemetry: Telemetry = field(default_factory=Telemetry)

    def enter(self, outcome: Outcome) -> None:
        """Take in one tile that is over."""
        task, result = outcome.task, outcome.result
        assert isinstance(task, TileTask)  # a pilot hands out nothing else
        if isinstance(result, TileResult):
            self.results[task.id], self.tasks[task.id] = result, task
        else:
            error = outcome.error
            self.problems.append({"tile": task.name, "error": str(error), "cause": type(error).__name__})
        asked_px = result.asked_px if isinstance(result, TileResult) else 0
        self.telemetry.record(outcome, area_km2=asked_px * self.prepared.plan.pixel_km2(task.id))
        self.watcher.tile(outcome, list(self.telemetry.samples()))


def _stored_bytes(mosaic: Path, task: TileTask) -> int:
    """What the tile's shards take on the disk."""
    place = f"{task.time}/{task.tile.row}/{task.tile.column}"
    group = mosaic / task.grid.path
    shards = [*group.glob(f"mask/c/*/{place}"), *group.glob(f"score/c/*/{place}"), group / "source/c" / place]
    return sum(shard.stat().st_size for shard in shards if shard.is_file())


def _told(
    strata: Sequence[Stratum], seen: _Seen, cost: Estimate, *, seconds: float, stored: Mapping[int, int], device: str
) -> Pilot:
    results = list(seen.results.values())
    stages = {stage: sum(result.seconds.get(stage, 0.0) for result in results) for stage in STAGES}
    tiles = len(results) + len(seen.problems)
    # Holes alone say nothing of what tiles under imagery cost.
    known = any(seen.tasks[row].items for row in seen.results) or cost.holes == cost.tiles
    bound = _bound(stages, seconds) if known else None
    return Pilot(
        tiles=tiles,
        device=device,
        seconds=seconds,
        windows=sum(result.windows - result.reused for result in results),
        read_bytes=sum(result.read_bytes for result in results),
        stored_bytes=sum(stored.values()),
        blank_share=share_of(
            strata, {row: result.nodata for row, result in seen.results.items() if seen.tasks[row].items}
        ),
        failed_share=len(seen.problems) / tiles,
        problems=tuple(seen.problems),
        stages=stages,
        bound=bound,
        whole_s=None if bound is None else _whole(strata, seen.results, cost, seconds, stages, bound),
        whole_bytes=None if bound is None else total_of(strata, dict(stored)),
    )


def _bound(stages: Mapping[Stage, float], seconds: float) -> Stage:
    """The model where it was busy most of the time, else the longest of what it waited for."""
    if stages["infer"] >= BUSY * seconds:
        return "infer"
    return max(("read", "blend", "write"), key=lambda stage: stages[stage])


def _whole(
    strata: Sequence[Stratum],
    results: Mapping[int, TileResult],
    cost: Estimate,
    seconds: float,
    stages: Mapping[Stage, float],
    bound: Stage,
) -> Range:
    """One worker's seconds for the plan.

    The time that went by is split among the tiles as the stage that bounds it was. Filling and draining the pipeline
    takes a large part of a short pilot and none of a long run: the first tile's reading and the last one's writing
    count at the high end only. Where the model is what is waited for, the low end has each window looked at once, and
    the high end each tile at its own.
    """
    ends = _ends(results)
    steady = max(seconds - ends, stages["infer"], seconds / 2)
    took = {row: result.seconds.get(bound, 0.0) for row, result in results.items()}
    split = steady / sum(took.values()) if sum(took.values()) > 0 else 0.0
    total = total_of(strata, {row: split * value for row, value in took.items()})
    once, likely = _shared(results, cost) if bound == "infer" else (1.0, 1.0)
    return Range(
        low=total.low * once * (1 - ANOTHER_DAY),
        likely=total.likely * likely,
        high=total.high * seconds / steady * (1 + ANOTHER_DAY),
    )


def _on_cores(work_s: Mapping[str, float], cpu_s: float, device: str) -> dict[str, float]:
    """Seconds that cores really worked. Those of ``SPENT`` have the time in it that threads stood in line for a core,
    which says how busy this machine is and nothing of others."""
    of_cores = ("decode", "copy", "blend", "encode")
    counted = sum(work_s[work] for work in of_cores) + (work_s["infer"] if device == "cpu" else 0.0)
    share = min(1.0, cpu_s / counted) if counted > 0 else 1.0
    return {work: seconds * (share if work in of_cores else 1.0) for work, seconds in work_s.items()}


def _for_fleets(strata: Sequence[Stratum], seen: _Seen, cost: Estimate, work_s: Mapping[str, float]) -> dict[str, Any]:
    """What other machines need to know for the whole plan: seconds of cores are split among the tiles as the stage was
    that they belong to."""
    results = seen.results
    looked = sum(result.windows - result.reused for result in results.values())

    def whole(seconds: float, stage: Stage) -> Range:
        took = {row: result.seconds.get(stage, 0.0) for row, result in results.items()}
        split = seconds / sum(took.values()) if sum(took.values()) > 0 else 0.0
        return total_of(strata, {row: split * value for row, value in took.items()})

    once, likely = _shared(results, cost)
    windows = total_of(strata, {row: float(result.windows - result.reused) for row, result in results.items()})
    return {
        "window_s": work_s["infer"] / looked if looked else None,
        "whole_windows": Range(low=windows.low * once, likely=windows.likely * likely, high=windows.high),
        "whole_read_bytes": total_of(strata, {row: float(result.read_bytes) for row, result in results.items()}),
        "decode_s": whole(work_s["decode"], "read"),
        "worker_s": whole(work_s["blend"] + work_s["encode"] + work_s["copy"], "blend"),
    }


def _shared(results: Mapping[int, TileResult], cost: Estimate) -> tuple[float, float]:
    """How many of the windows that a pilot's tiles had the model look at a run looks at: the least, and likely.

    What tiles that lie side by side in the pilot have shared is not taken off twice.
    """
    asked = sum(result.windows for result in results.values())
    looked = asked - sum(result.reused for result in results.values())
    if not looked or not cost.windows:
        return 1.0, 1.0
    own = looked / asked * cost.windows
    return min(1.0, cost.windows_once / own), min(1.0, looks_likely(cost) / own)


def _ends(results: Mapping[int, TileResult]) -> float:
    """Seconds in which the model had nothing yet, or nothing any more: the first reading and the last writing."""
    told = list(results.values())
    return told[0].seconds.get("read", 0.0) + told[-1].seconds.get("write", 0.0)
