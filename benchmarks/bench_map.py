"""A map of the same ground, made by resmap and by its peers, from COGs behind a slow server to a Zarr mosaic.

::

    python -m benchmarks.bench_map                      all contenders with the stand-in GPU
    python -m benchmarks.bench_map --model stand-in-896 the same with RemoteSAM's windows
    python -m benchmarks.bench_map --model pocket       the same with a real model on the CPU
    python -m benchmarks.bench_map --variants           peers in other sizes too; the best of all is the best peer
    python -m benchmarks.bench_map --efficiency         ours alone, for five minutes: how much of the GPU it uses
    python -m benchmarks.bench_map --size small         a minute, to see that all works

Same for all: the imagery (``peers/ground.py``), a server on loopback that answers each request 30 ms late
(``ranged_server.py``), the model and its sentences, windows that overlap by 128 px and are blended by one rule, the
mosaic's grid, chunks, shards and codecs, the machine's cores, torch threads of the model (one). Each contender is a
process of its own, in every round in another order. The masks and scores of all are compared pixel by pixel with those
of the obvious loop, which shares no line with ours. ``peers/<contender>.py`` says what each one tuned and what it
leaves out. The unit is megapixels of map a second: contenders differ in how many windows they compute for one map.
Ours counts as ``windows`` all that its tiles are made of, and gives the device those that no tile has asked for yet.

Two clocks: ``work`` runs from when the model is loaded, ``wall`` from the start of the command to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import zarr

from benchmarks.peers.ground import CATALOG, CRS, RESOLUTION_M, Ground, write_ground
from benchmarks.peers.measured import measured
from benchmarks.peers.work import CPU_THREADS, Work
from benchmarks.ranged_server import RangedServer, delivers, ranged_server
from benchmarks.record import circumstances, record
from benchmarks.stand_in import WIDE, WINDOW_PX, Worked, write_weights
from mapper import models

CONTENDERS: Mapping[str, tuple[str, ...]] = {
    "ours": ("benchmarks.peers.ours",),
    "ours, in one process": ("benchmarks.peers.ours", "local"),
    "obvious loop": ("benchmarks.peers.obvious_loop",),
    "Ray Data": ("benchmarks.peers.ray_data",),
    "odc-stac and dask": ("benchmarks.peers.odc_dask",),
}
"""Module and the words it is given after the work."""

VARIANTS: Mapping[str, tuple[str, ...]] = {
    **{f"Ray Data, {n} readers": ("benchmarks.peers.ray_data", str(n)) for n in (2, 6)},
    **{f"odc-stac and dask, {n} threads": ("benchmarks.peers.odc_dask", str(n)) for n in (2, 8)},
}
"""Peers in other sizes than those they come with."""

ALL = {**CONTENDERS, **VARIANTS}

OURS = ("ours", "ours, in one process")
REFERENCE = "obvious loop"
PROMPTS = ("the buildings", "the roads")
OVERLAP_PX, CHUNK_PX = 128, 512
STAND_INS = {"stand-in": WINDOW_PX, "stand-in-896": WIDE.WINDOW_PX}
"""Model → side of its windows."""

BATCH = {"stand-in": 16, "stand-in-896": 16, "pocket": 2}
"""Windows a peer gives the model at once; ours chooses itself."""

SETTLE_S = 2.0
"""Before each contender: what the last one started has ended by then."""

POCKET_WINDOWS_PER_S = 5.0
"""About what one core does: decides how much ground is worth the seconds asked for, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one measurement keeps the same for all."""

    model: str
    rate: float
    latency_s: float
    ground: Ground
    folder: Path
    timeout_s: float

    def work(self, server: RangedServer, name: str) -> tuple[Work, Path]:
        """What a contender is asked to do, and where its device tells what it did."""
        box, slug = self.ground.box, _slug(name)
        log = self.folder / f"{slug}.device"
        log.unlink(missing_ok=True)
        stand_in = self.model in STAND_INS
        weights = write_weights(self.folder / f"{slug}.json", windows_per_s=self.rate, log=log) if stand_in else None
        work = Work(
            catalog=f"{server.url}/{CATALOG}",
            area=self.ground.area(),
            crs=CRS,
            resolution_m=RESOLUTION_M,
            top=box.top,
            left=box.left,
            rows=box.height,
            columns=box.width,
            shard_px=self.ground.shard_px,
            chunk_px=CHUNK_PX,
            overlap_px=OVERLAP_PX,
            prompts=PROMPTS,
            model=self.model,
            weights=None if weights is None else str(weights),
            batch=BATCH[self.model],
            mosaic=str(self.folder / f"{slug}.zarr"),
            report=str(self.folder / f"{slug}.report"),
        )
        return work, log


def main() -> None:
    """Measure what was asked for."""
    asked = _asked()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        setting = _setting(asked, Path(scratch))
        served = setting.folder / "served"
        served.mkdir()
        with ranged_server(served, latency_s=setting.latency_s) as server:
            ground = write_ground(served, setting.ground, url=server.url)
            figures = {
                "setting": _told(setting),
                "ground": ground,
                "server": delivers(server, "scene-000.tif"),
                **(efficiency(setting, server) if asked.efficiency else against_peers(setting, server, asked)),
            }
    contest = f"map_{asked.model.replace('-', '_')}" + (f"_{asked.rate:g}" if asked.model in STAND_INS else "")
    name = "map_efficiency" if asked.efficiency else contest
    if asked.out is None:
        print(record(name, figures))
    else:
        asked.out.write_text(json.dumps({"benchmark": name, "made_with": circumstances(), **figures}, indent=2))
        print(asked.out)


def against_peers(setting: Setting, server: RangedServer, asked: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all contenders, each round in another order; medians, spreads and ratios."""
    names = list(asked.only or (ALL if asked.variants else CONTENDERS))
    rounds: list[dict[str, dict[str, Any]]] = []
    for turn in range(asked.repeats):
        shift = turn % len(names)
        found = {}
        for name in names[shift:] + names[:shift]:
            found[name] = contender(setting, server, name)
            print(f"{name:28} {_line(found[name])}", flush=True)
        if turn == 0 and REFERENCE in names:
            same = {name: difference(setting, name) for name in names if name != REFERENCE}
            print("pixels that differ from the obvious loop's:", json.dumps(same), flush=True)
        for mosaic in setting.folder.glob("*.zarr"):
            shutil.rmtree(mosaic)
        rounds.append(found)
    figures: dict[str, Any] = {"repeats": asked.repeats, "contenders": {}}
    for name in names:
        figures["contenders"][name] = _summed([found[name] for found in rounds])
        if name != REFERENCE and REFERENCE in names:
            figures["contenders"][name]["pixels_that_differ"] = same[name]
    return figures | _ratios(figures["contenders"])


def efficiency(setting: Setting, server: RangedServer) -> dict[str, Any]:
    """Ours alone: what share of a GPU that is never kept waiting it reaches, by both clocks."""
    found = contender(setting, server, "ours")
    print(_line(found))
    model_only_s = (found["device"]["windows"] - found["device"]["black_windows"]) / setting.rate
    return {
        "model_only_s": round(model_only_s, 3),
        "efficiency_from_workers_ready": round(model_only_s / found["work_s"], 4),
        "efficiency_from_start_of_command": round(model_only_s / found["wall_s"], 4),
        "ours": found,
    }


def contender(setting: Setting, server: RangedServer, name: str) -> dict[str, Any]:
    """One contender, once."""
    work, log = setting.work(server, name)
    module, *words = ALL[name]
    time.sleep(SETTLE_S)
    before = server.served()
    path = work.write(Path(work.report).with_suffix(".work"))
    used = measured(module, str(path), *words, scratch=setting.folder, timeout_s=setting.timeout_s)
    given = server.served() - before
    report = json.loads(Path(work.report).read_text(encoding="utf-8"))
    area_mpx = work.rows * work.columns / 1e6
    figures = {
        "wall_s": used.wall_s,
        "mpx_per_s_of_work": round(area_mpx / report["work_s"], 4),
        "mpx_per_s_of_wall": round(area_mpx / used.wall_s, 4),
        **report,
        "cpu_s": used.cpu_s,
        "peak_mb": round(used.peak_bytes / 1e6),
        "requests": given.requests,
        "bytes": given.bytes,
        "server_cpu_s": given.cpu_s,
    }
    if setting.model in STAND_INS:
        figures["device"] = _device(Worked.read(log), report["work_s"])
    return figures


def _device(device: Worked, work_s: float) -> dict[str, float]:
    """What a device did in the seconds of work, and when it did nothing."""
    gaps = [later.began - one.ended for one, later in pairwise(device.batches)]
    return {
        "windows": device.windows,
        "black_windows": device.windows - device.shown,
        "busy_s": round(device.busy_s, 3),
        "busy_share_of_work": round(device.busy_s / work_s, 4),
        "busy_share_from_first_to_last_batch": round(device.busy_s / device.span_s, 4),
        "idle_before_first_and_after_last_batch_s": round(work_s - device.span_s, 3),
        "idle_between_batches_s": round(device.span_s - device.busy_s, 3),
        "gaps_over_50_ms": sum(gap > 0.05 for gap in gaps),
        "longest_gap_s": round(max(gaps, default=0.0), 3),
    }


def difference(setting: Setting, name: str) -> dict[str, int]:
    """Pixels of a contender's mask and score that are not the reference's, shard row by shard row."""
    mosaics = [str(setting.folder / f"{_slug(each)}.zarr") for each in (name, REFERENCE)]
    one, other = (zarr.open_group(mosaic, mode="r") for mosaic in mosaics)
    side, counts = setting.ground.shard_px, {}
    for layer in ("mask", "score"):
        mine, theirs = (_array(group, layer) for group in (one, other))
        if mine.shape != theirs.shape:
            raise RuntimeError(f"{name} made a map of {mine.shape}, and {REFERENCE} one of {theirs.shape}")
        rows = range(0, mine.shape[-2], side)
        counts[layer] = sum(int((mine[..., r : r + side, :] != theirs[..., r : r + side, :]).sum()) for r in rows)
    return counts


def _slug(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def _array(group: zarr.Group, layer: str) -> Any:
    return group[f"0/{layer}"]


def _summed(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of some runs, the least and the most of the two clocks."""
    middle = {key: _median([run[key] for run in runs]) for key in runs[0]}
    for clock in ("wall_s", "work_s"):
        middle[f"{clock}_least_most"] = [min(run[clock] for run in runs), max(run[clock] for run in runs)]
    return middle


def _median(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _median([value[key] for value in values]) for key in values[0]}
    return round(statistics.median(values), 4)


def _ratios(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many times the best peer each of ours is, by both clocks."""
    peers = [name for name in contenders if name not in OURS]
    ratios: dict[str, Any] = {}
    for clock in ("work", "wall"):
        key = f"mpx_per_s_of_{clock}"
        if not peers:
            break
        best = max(peers, key=lambda name: float(contenders[name][key]))
        ratios[f"best_peer_by_{clock}"] = best
        for name in OURS:
            if name in contenders:
                times = contenders[name][key] / contenders[best][key]
                ratios[f"{name}, times the best peer by {clock}"] = round(times, 3)
    return ratios


def _line(found: Mapping[str, Any]) -> str:
    busy = f", {found['device']['busy_share_of_work']:.1%} of it busy" if "device" in found else ""
    return (
        f"{found['wall_s']:6.1f} s, {found['work_s']:6.1f} s of work{busy}; {found['mpx_per_s_of_work']:.2f} Mpx/s; "
        f"{found['windows']} windows, {found['cpu_s']:.0f} s of CPU, {found['peak_mb']} MB, "
        f"{found['requests']} requests of {found['bytes'] / 1e6:.0f} MB"
    )


def _told(setting: Setting) -> dict[str, Any]:
    facts = asdict(replace(setting, folder=Path()))
    del facts["folder"], facts["timeout_s"]
    if setting.model not in STAND_INS:
        del facts["rate"]
    return facts | {
        "window_px": _window_px(setting.model),
        "overlap_px": OVERLAP_PX,
        "chunk_px": CHUNK_PX,
        "prompts": list(PROMPTS),
        "batch_of_peers": BATCH[setting.model],
        "torch_threads_of_the_model": CPU_THREADS,
        "cores": os.cpu_count(),
    }


def _setting(asked: argparse.Namespace, folder: Path) -> Setting:
    rate = asked.rate if asked.model in STAND_INS else POCKET_WINDOWS_PER_S
    if asked.size == "small":
        ground = Ground(rows=2, columns=2, shard_px=1024, step_px=1024, overlap_px=128)
    else:
        ground = Ground.for_windows(asked.seconds * rate, window_px=_window_px(asked.model), overlap_px=OVERLAP_PX)
    return Setting(
        model=asked.model,
        rate=asked.rate,
        latency_s=asked.latency_ms / 1000,
        ground=ground,
        folder=folder,
        timeout_s=asked.timeout,
    )


def _window_px(model: str) -> int:
    return STAND_INS.get(model) or models.window_px(model)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=(*STAND_INS, "pocket"), default="stand-in")
    parser.add_argument("--rate", type=float, default=20.0, help="windows the stand-in does a second (default 20)")
    parser.add_argument("--latency-ms", type=float, default=30.0, help="before each answer (default 30)")
    parser.add_argument("--seconds", type=float, help="ground for so many seconds of the model (default 24; 300)")
    parser.add_argument("--size", choices=("small", "whole"), default="whole", help="small: 4 shards of 1024 px")
    parser.add_argument("--repeats", type=int, help="rounds of all contenders (default 2; small: 1)")
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME", help=f"of {'; '.join(ALL)}")
    parser.add_argument("--variants", action="store_true", help="peers in other sizes too")
    parser.add_argument("--efficiency", action="store_true", help="ours alone, for more than five minutes")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds one contender may take")
    parser.add_argument("--folder", type=Path, help="where imagery and mosaics lie meanwhile")
    parser.add_argument("--out", type=Path, help="the JSON file; benchmarks/results where left out")
    asked = parser.parse_args()
    if asked.efficiency and asked.model not in STAND_INS:
        parser.error("--efficiency is of the stand-in: only its speed is known beforehand")
    asked.seconds = asked.seconds or (300.0 if asked.efficiency else 24.0)
    asked.repeats = asked.repeats or (1 if asked.size == "small" else 2)
    return asked


if __name__ == "__main__":
    main()
