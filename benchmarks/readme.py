"""The tables of the README and of pocket's card, from ``results/*.json``: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "mapper/models/weights/pocket.md",
    ROOT / "docs/speed.md",
    ROOT / "docs/dashboard.md",
    ROOT / "docs/monitoring.md",
    ROOT / "docs/fleet.md",
)


def main() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """A page with each ``<!-- table NAME -->`` block as its result says now."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists() and f"<!-- table {name} -->" in text:
            lines = "\n".join(table(json.loads(path.read_text(encoding="utf-8"))))
            before, begin, rest = text.partition(f"<!-- table {name} -->\n")
            _, end, after = rest.partition("<!-- end -->")
            text = f"{before}{begin}{lines}\n{end}{after}"
    return text


def _demo(figures: dict[str, Any]) -> list[str]:
    scores = ", ".join(f"{name} {score:.2f}" for name, score in figures["scores"].items())
    rows = [
        ("IoU with the exact truth", scores),
        ("the whole demo", f"{figures['seconds']:.0f} s, {figures['world_s']:.0f} s of it to make the world"),
        *[
            (worker["worker"], f"{worker['tiles_per_s']:.2f} tiles/s, {worker['km2_per_h']:,.0f} km²/h, "
                               f"model busy {100 * worker['busy']:.0f} % of the time")
            for worker in figures["workers"]
        ],
        ("opening the mosaic with `xr.open_zarr`", f"{1000 * figures['open_s']:.0f} ms"),
        ("beside shard borders, pixels that differ from one window centred there",
         f"{100 * figures['seams']['differ']:.2f} %"),
    ]  # fmt: skip
    return ["| measured | |", "|---|---|", *[f"| {name} | {value} |" for name, value in rows], "", _made_with(figures)]


def _real(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| pictures | date | IoU | precision | recall | IoU of saying “everywhere” |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for one in figures["sets"].values():
        for date, score in one["scores"].items():
            lines.append(
                f"| {one['title']} | {date} | {score['iou']:.2f} | {score['precision']:.2f} | {score['recall']:.2f} "
                f"| {score['iou_of_everywhere']:.2f} |"
            )
    return [*lines, "", _made_with(figures)]


def _segment(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| model | window | cores | obvious loop | 1 sentence | 4 sentences | 16 sentences | IoU of bf16 and fp32 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in figures["models"].items():
        ours = [one["bf16"][f"{count} prompts"] for count in (1, 4, 16)]
        cells = [f"{our['s_per_window']:.2f} s, {our['times_the_loop']:.1f}×" for our in ours]
        lines.append(
            f"| {name} | {one['window_px']} px | {one['threads']} | {one['loop_s_per_window_and_prompt']:.2f} s "
            f"| {' | '.join(cells)} | {one['mask_iou_bf16_fp32']:.3f} |"
        )
    return [*lines, "", _made_with(figures)]


def _pocket(figures: dict[str, Any]) -> list[str]:
    lines = ["| set | class | IoU | of saying “everywhere” |", "|---|---|--:|--:|"]
    for name, scored in figures.items():
        if isinstance(scored, dict) and "mean_iou" in scored:
            classes = {key: line for key, line in scored.items() if key != "mean_iou"}
            for key, line in classes.items():
                lines.append(f"| {name} | {key} | {line['iou']:.2f} | {line['all_yes_iou']:.2f} |")
            lines.append(f"| **{name}** | **mean of {len(classes)}** | **{scored['mean_iou']:.3f}** | |")
    lines += ["", "| other words for a thing | phrases | median cost in IoU | cost at most 0.03 | the dearest |"]
    lines += ["|---|--:|--:|--:|---|"]
    for kind, cost in figures["what a synonym costs"].items():
        dearest = ", ".join(f"{phrase} {value:.2f}" for phrase, value in list(cost["worst"].items())[:4])
        share = f"{100 * cost['share that cost at most 0.03']:.0f} %"
        lines.append(f"| {kind} | {cost['phrases']} | {cost['median cost']:.3f} | {share} | {dearest} |")
    nowhere, speed = figures["nowhere"], figures["speed"]
    absent = f"{nowhere['things']} things that are nowhere: {100 * nowhere['mean']:.2f} % of the pixels said to be one."
    fast = [f"{speed[f'mpx_per_s_{count}_prompts']:.1f}" for count in (1, 4)]
    lines += [
        "",
        f"{absent} Megapixels a second on one core in float32: {fast[0]} for one sentence, {fast[1]} for four.",
    ]
    return [*lines, "", _made_with(figures)]


def _open(figures: dict[str, Any]) -> list[str]:
    side, count = figures["mosaic_px"][0], figures["shards"]
    lines = [
        f"| a mosaic of {side:,} × {side:,} pixels, {figures['prompts']} sentences, {figures['times']} dates, "
        f"{count:,} shards each | median |",
        "|---|--:|",
    ]
    lines += [f"| {name} | {one['median_s']:.2f} s |" for name, one in figures["seconds"].items()]
    return [*lines, "", _made_with(figures)]


def _objects(figures: dict[str, Any]) -> list[str]:
    ways = figures["ways"]
    side, count = figures["side_px"], ways["whole raster"]["objects"]
    lines = [
        f"| {side:,} × {side:,} pixels → {count:,} polygons | median | CPU | memory above the start |",
        "|---|--:|--:|--:|",
    ]
    for name, one in ways.items():
        way = "the whole raster through `rasterio.features.shapes`" if name == "whole raster" else f"resmap, {name}"
        lines.append(f"| {way} | {one['median_s']:.1f} s | {one['cpu_s']:.1f} s | {one['peak_mb']:,.0f} MB |")
    return [*lines, "", _made_with(figures)]


def _map(figures: dict[str, Any]) -> list[str]:
    setting, contenders = figures["setting"], figures["contenders"]
    ours = contenders["ours"]["mpx_per_s_of_work"]
    model = f"a stand-in at {setting['rate']:g} windows/s" if setting["model"] == "stand-in" else setting["model"]
    lines = [
        f"| {model}, windows of {setting['window_px']} px, imagery {1000 * setting['latency_s']:.0f} ms away "
        "| Mpx/s | model busy | CPU | requested | resmap is |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, one in contenders.items():
        busy = f"{100 * one['device']['busy_share_of_work']:.0f} %" if "device" in one else ""
        shown = f"resmap{name.removeprefix('ours')}" if name.startswith("ours") else name
        speed, asked = one["mpx_per_s_of_work"], one["bytes"] / 1e6
        lines.append(
            f"| {shown} | {speed:.2f} | {busy} | {one['cpu_s']:.0f} s | {asked:,.0f} MB | {ours / speed:.2f}× |"
        )
    return [*lines, "", _made_with(figures)]


def _efficiency(figures: dict[str, Any]) -> list[str]:
    ours, setting = figures["ours"], figures["setting"]
    device = ours["device"]
    rows = [
        ("the model alone would take", f"{figures['model_only_s']:.0f} s"),
        ("the run took, from ready workers to the last shard", f"{ours['work_s']:.0f} s"),
        ("**efficiency**", f"**{figures['efficiency_from_workers_ready']:.3f}**"),
        ("share of the time in which the model was busy", f"{device['busy_share_of_work']:.3f}"),
        ("the longest it waited", f"{1000 * device['longest_gap_s']:.0f} ms"),
    ]
    head = (
        f"| {setting['rate']:g} windows/s, imagery {1000 * setting['latency_s']:.0f} ms away, {ours['tiles']} tiles | |"
    )
    return [head, "|---|--:|", *[f"| {name} | {value} |" for name, value in rows], "", _made_with(figures)]


def _read(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"| {figures['frames']} frames of neighbouring {figures['shard_px']} px tiles | frames/s | CPU | requests "
        "| bytes | resmap is |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in figures["measured"]:
        for name, way in one["ways"].items():
            shown = f"{one['scene']}, {one['latency_ms']:.0f} ms: {'resmap' if name == 'ours' else name}"
            lines.append(
                f"| {shown} | {way['frames_per_s']:.1f} | {way['cpu_s']:.1f} s "
                f"| {way['requests']:,.0f} | {way['mb']:,.0f} MB | {way['ours_is_faster']:.2f}× |"
            )
    return [*lines, "", _made_with(figures)]


def _write(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"| tiles of {figures['shard_px']} px: mask, score and source | tiles/s | CPU a tile | memory |",
        "|---|--:|--:|--:|",
    ]
    for place, ways in figures["ways"].items():
        for name, one in ways.items():
            speed, cpu_ms = one["tiles_s"], 1000 * one["cpu_s_a_tile"]
            lines.append(f"| {place}: {name} | {speed:.1f} | {cpu_ms:.0f} ms | {one['peak_mb']:.0f} MB |")
    return [*lines, "", _made_with(figures)]


def _plan(figures: dict[str, Any]) -> list[str]:
    lines = ["| | items | tiles | seconds | of them | peak memory |", "|---|--:|--:|--:|---|--:|"]
    for name in ("from table", "from snapshot", "from documents", "tiles, all time", "tiles, by month"):
        one = figures["cases"][name]
        steps = ", ".join(f"{step} {seconds:.0f}" for step, seconds in one["seconds"].items())
        counts = f"{one['items']:,} | {one['tiles']:,}"
        lines.append(f"| {name} | {counts} | {one['total_median_s']:.0f} | {steps} | {one['peak_mb']:,} MB |")
    return [*lines, "", _made_with(figures)]


def _resume(figures: dict[str, Any]) -> list[str]:
    here, bucket = (figures[f"outcomes {place}"] for place in ("on local disk", "in a bucket"))
    rows = [
        ("from the job file to the first task", f"{figures['resume_s']['median']:.1f} s"),
        ("memory for it, above the imports", f"{figures['resume_peak_mb']['median']:.0f} MB"),
        ("the books, CPU a finished tile, on a local disk", f"{here['cpu_ms_a_tile']:.2f} ms"),
        ("the same, in a bucket", f"{bucket['cpu_ms_a_tile']:.2f} ms"),
        (
            "memory after 10,000 and 100,000 tiles",
            f"{here['held_mb']['10000']:.0f} and {here['held_mb']['100000']:.0f} MB",
        ),
    ]
    head = f"| a run of {figures['planned']:,} shards, {figures['finished']:,} of them finished | |"
    return [head, "|---|--:|", *[f"| {name} | {value} |" for name, value in rows], "", _made_with(figures)]


def _dashboard(figures: dict[str, Any]) -> list[str]:
    size = (
        f"{figures['tiles']:,} tiles, {figures['workers']} GPUs, {figures['ledger rows a second']:,.0f} tiles a second"
    )
    lines = [f"| {size} | half within | 95 of 100 within |", "|---|--:|--:|"]
    for name, told in figures["answers"].items():
        lines.append(f"| {name} | {told['p50_ms']:.0f} ms | {told['p95_ms']:.0f} ms |")
    lag, server = figures["update lag"], figures["server"]
    lines.append(f"| from a tile's row in the ledger to a browser | {lag['p50_ms']:.0f} ms | {lag['p95_ms']:.0f} ms |")
    lines.append(f"| its process, while looked at | {100 * server['cpu share of a core']:.0f} % of a core | "
                 f"{server['rss_bytes'] / 2**20:.0f} MB |")  # fmt: skip
    return [*lines, "", _made_with(figures)]


def _scale(figures: dict[str, Any]) -> list[str]:
    lines = ["| GPUs | efficiency | CPU of the driver, a tile |", "|---|--:|--:|"]
    for one in figures["on_ray"]:
        driver_ms = one["driver_cpu_ms_a_tile"]["median"]
        lines.append(f"| {one['actors']}, stand-ins on Ray | {one['efficiency']['median']:.3f} | {driver_ms:.1f} ms |")
    inside = figures["in_process"]
    lines.append(f"| the driver without Ray, {inside['tiles']:,} tiles | | {inside['driver_cpu_ms_a_tile']:.2f} ms |")
    lines += [f"| {one['workers']}, on paper | {one['efficiency']:.3f} | |" for one in figures["on_paper"]]
    return [*lines, "", _made_with(figures)]


def _elastic(figures: dict[str, Any]) -> list[str]:
    rate = figures["tiles_a_second"]
    rows = [
        ("tiles a second with one GPU, with three, with one again",
         f"{rate['one_gpu']:.1f}, {rate['three_gpus']:.1f}, {rate['one_gpu_again']:.1f}"),
        ("from Ray's having the nodes until the throughput is that of three", f"{figures['follows_joining_s']:.1f} s"),
        ("from the word that they go until it is that of one", f"{figures['follows_leaving_s']:.1f} s"),
        ("tiles that were handed back, and begun anew",
         f"{figures['handed_back']}, {figures['begun_more_than_once']}"),
    ]  # fmt: skip
    head = f"| a tile takes a GPU {1000 * figures['tile_s']:.0f} ms | |"
    return [head, "|---|--:|", *[f"| {name} | {value} |" for name, value in rows], "", _made_with(figures)]


def _start(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| `resmap run --address` on a cluster that is up | first shard after | the plan | a model | the shard |",
        "|---|--:|--:|--:|--:|",
    ]
    for way in ("driver here", "driver as a Ray job"):
        told = figures[way]
        parts = " | ".join(f"{seconds:.1f} s" for seconds in told["parts_s"].values())
        lines.append(f"| the {way} | {told['seconds']:.1f} s | {parts} |")
    return [*lines, "", _made_with(figures)]


def _fleet(figures: dict[str, Any]) -> list[str]:
    lines = ["| what happens | the run took | and ended so long after that | maps that differ |", "|---|--:|--:|--:|"]
    for told in figures.values():
        if isinstance(told, dict) and "does" in told:
            after = f"{told['ended_s_after']:.0f} s" if "ended_s_after" in told else ""
            does = told["does"].replace("``", "`").rstrip(".")
            lines.append(f"| {does} | {told['seconds']:.0f} s | {after} | {told['differing_maps']} |")
    return [*lines, "", _made_with(figures)]


def _monitor(figures: dict[str, Any]) -> list[str]:
    parts = figures["parts"]
    lakes, year, latency = parts["lakes"], parts["year"], parts["latency"]
    overhead, whole = latency["overhead_s"], latency["post_to_alert_s"]
    opened = max(year[name] for name in ("open_mosaic_s", "open_zarr_s", "open_changes_s"))
    rows = [
        ("four flights over lakes posted one by one, the third of them last", f"{lakes['ticks'].count('done')} steps, "
         + ("the map that is made in one go, to the bit" if lakes["same_as_in_one_go"] else "**another map**")),
        ("all of them posted again", lakes["again"]),
        ("tiles mapped for each that was touched",
         f"{lakes['work']['ratio']:.2f}, over a year {year['work']['ratio']:.2f}"),
        ("from a post to the alert",
         f"{whole['p50']:.0f} s, {whole['p95']:.0f} s at most for 19 of 20; Ray starts each time"),
        ("of that, not reading or inference", f"{overhead['p50']:.0f} s, {overhead['p95']:.0f} s"),
        (f"a year of revisits over one MGRS tile ({year['ticks']} scenes)",
         f"registry {year['registry_bytes'] / 1e3:,.0f} kB, metadata {year['metadata_bytes'] / 1e3:,.0f} kB, "
         f"runs {year['run_bytes'] / 1e6:,.1f} MB in {year['run_files']:,} files"),
        ("opening it then", f"{1000 * opened:.0f} ms at most: mosaic, plain Zarr, changes"),
        ("a tick at the beginning, and after a year",
         f"{year['tick_s']['first_ten']:.1f} s, {year['tick_s']['last_ten']:.1f} s"),
    ]  # fmt: skip
    shores = ["| date | “lake” | water by NDWI | IoU | appeared | vanished |", "|---|--:|--:|--:|--:|--:|"]
    for number, (date, one) in enumerate(lakes["dates"].items()):
        changes = [
            f"{lakes['changes'][date][kind]['km2']:.2f} km²" if number else "–" for kind in ("appeared", "vanished")
        ]
        water = f"{one['lake_km2']:.2f} km² | {one['ndwi_km2']:.2f} km² | {one['iou']:.2f}"
        shores.append(f"| {date} | {water} | {' | '.join(changes)} |")
    told = [f"| {name} | {value} |" for name, value in rows]
    return ["| measured | |", "|---|---|", *told, "", *shores, "", _made_with(figures)]


def _made_with(figures: dict[str, Any]) -> str:
    made = figures["made_with"]
    return f"*{made['cores']} × {made['cpu']}, torch {made['versions']['torch']}, commit {made['commit'][:10]}.*"


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "demo": _demo,
    "real_input": _real,
    "segment_cpu": _segment,
    "pocket": _pocket,
    "open": _open,
    "objects": _objects,
    "map_stand_in_20": _map,
    "map_stand_in_60": _map,
    "map_stand_in_100": _map,
    "map_stand_in_896_20": _map,
    "map_pocket": _map,
    "map_efficiency": _efficiency,
    "read": _read,
    "write": _write,
    "plan": _plan,
    "resume": _resume,
    "scale": _scale,
    "elastic": _elastic,
    "start": _start,
    "fleet": _fleet,
    "dashboard": _dashboard,
    "monitor": _monitor,
}


if __name__ == "__main__":
    main()
