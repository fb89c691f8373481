"""The README's tables, made from ``results/*.json``: ``python -m benchmarks.readme`` puts them in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    """Write the tables into the README."""
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """The README with each ``<!-- table NAME -->`` block as its result says now."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
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


def _made_with(figures: dict[str, Any]) -> str:
    made = figures["made_with"]
    return f"*{made['cores']} × {made['cpu']}, torch {made['versions']['torch']}, commit {made['commit'][:10]}.*"


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {"demo": _demo, "real_input": _real}


if __name__ == "__main__":
    main()
