"""``resmap query``: how much, how many, where, and what changed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import AsJson, plain, print_json
from mapper.errors import QuestionError

if TYPE_CHECKING:
    import geopandas as gpd

    from mapper.questions import Answer

app = typer.Typer(
    help="Ask a mosaic: how much, how many, where, what changed.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="What was not seen is a column of its own. Exit status 8: more of a place is a gap than --allow-gaps.",
)

MOST_ROWS = 200
"""Rows that are shown to people; --json and --csv give all."""

MosaicUrl = Annotated[str, typer.Argument(help="Path or URL of the mosaic.", show_default=False)]
Box = Annotated[
    str | None,
    typer.Option("--bbox", metavar="W,S,E,N", help="A box of longitude and latitude. All that was mapped, if nothing."),
]
Polygons = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Polygons in any vector format and CRS: one answer for each."),
]
Column = Annotated[str | None, typer.Option(help="Of the file, whose values name the polygons.")]
Crs = Annotated[str | None, typer.Option(help="Of the file, where it does not say: EPSG:25832 and the like.")]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="A name or sentence; may be repeated. Default all.")
]
Times = Annotated[
    list[str] | None,
    typer.Option("--time", help="2024, 2024-06, 2024-06-01 or latest; may be repeated. Default all."),
]
Gaps = Annotated[
    float, typer.Option("--allow-gaps", min=0, max=1, help="Largest share of a place that may not have been seen.")
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")]


@app.command()
def area(
    mosaic: MosaicUrl,
    bbox: Box = None,
    polygons: Polygons = None,
    column: Column = None,
    crs: Crs = None,
    prompt: Prompts = None,
    time: Times = None,
    allow_gaps: Gaps = 0.1,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """How much is there: km² present, absent, and not seen."""
    from mapper import questions

    answer = questions.area(
        _url(mosaic),
        _place(bbox, polygons, column, crs),
        prompts=prompt,
        times=time,
        allow_gaps=allow_gaps,
        column=column,
        crs=crs,
    )
    _print(answer, as_json=as_json, as_csv=as_csv)


@app.command()
def change(
    mosaic: MosaicUrl,
    before: Annotated[str, typer.Option("--from", help="The earlier time step: a date, month or year that means one.")],
    after: Annotated[str, typer.Option("--to", help="The later one.")] = "latest",
    bbox: Box = None,
    polygons: Polygons = None,
    column: Column = None,
    crs: Crs = None,
    prompt: Prompts = None,
    allow_gaps: Gaps = 0.1,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """What appeared and what vanished between two times, in km²."""
    from mapper import questions

    place = _place(bbox, polygons, column, crs)
    answer = questions.change(
        _url(mosaic), before, after, place, prompts=prompt, allow_gaps=allow_gaps, column=column, crs=crs
    )
    _print(answer, as_json=as_json, as_csv=as_csv)


@app.command()
def count(
    mosaic: MosaicUrl,
    bbox: Box = None,
    polygons: Polygons = None,
    column: Column = None,
    crs: Crs = None,
    prompt: Prompts = None,
    time: Times = None,
    allow_gaps: Gaps = 0.1,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """How many objects are there. Two that touch in the mask are one."""
    from mapper import questions

    answer = questions.count(
        _url(mosaic),
        _place(bbox, polygons, column, crs),
        prompts=prompt,
        times=time,
        allow_gaps=allow_gaps,
        column=column,
        crs=crs,
    )
    _print(answer, as_json=as_json, as_csv=as_csv)


@app.command()
def where(
    mosaic: MosaicUrl,
    bbox: Box = None,
    polygons: Polygons = None,
    column: Column = None,
    crs: Crs = None,
    prompt: Prompts = None,
    time: Times = None,
    limit: Annotated[int, typer.Option(min=1, help="How many objects at most.")] = 20,
    order: Annotated[
        str, typer.Option("--order", metavar="area|score", help="The largest or the surest first.")
    ] = "area",
    out: Annotated[
        Path | None, typer.Option(help="Also write them, with outlines: .geojson, .gpkg, .parquet, or .csv without.")
    ] = None,
    allow_gaps: Gaps = 0.1,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """The objects themselves, the largest or the surest first."""
    from mapper import questions

    if order not in ("area", "score"):
        raise QuestionError(f"--order {order} is neither area nor score", fix="use area or score")
    if out is not None:
        _check_out(out)
    found = questions.where(
        _url(mosaic), _place(bbox, polygons, column, crs), prompts=prompt, times=time, limit=limit,
        order="area" if order == "area" else "score", outlines=out is not None,
        allow_gaps=allow_gaps, column=column, crs=crs,
    )  # fmt: skip
    if out is not None:
        _write(found, out)
        print(f"wrote {len(found)} objects to {plain(str(out))}", file=sys.stderr)
    _print_found(found, limit, as_json=as_json, as_csv=as_csv)


def _url(mosaic: str) -> str:
    from jobs.job import absolute

    return absolute(mosaic)


def _place(
    bbox: str | None, polygons: str | None, column: str | None, crs: str | None
) -> tuple[float, float, float, float] | str | None:
    if polygons is None and (column is not None or crs is not None):
        raise QuestionError(
            "--column and --crs are of a file, and no --polygons is given", fix="give the file, or none"
        )
    if bbox is not None and polygons is not None:
        raise QuestionError("--bbox and --polygons are two places", fix="give one of them")
    if bbox is None:
        return polygons
    try:
        west, south, east, north = (float(part) for part in bbox.split(","))
    except ValueError as error:
        raise QuestionError(
            f"--bbox {bbox!r} is no box", fix="write --bbox=west,south,east,north in degrees, without spaces"
        ) from error
    return west, south, east, north


def _print(answer: Answer[Any], *, as_json: bool, as_csv: bool) -> None:
    for note in answer.notes:
        print(f"note: {''.join(mark if mark.isprintable() else '�' for mark in note)}", file=sys.stderr)
    rows = answer.as_json()
    if as_json:
        print_json({"rows": rows, "notes": list(answer.notes)})
    elif as_csv:
        _print_csv(rows)
    else:
        _print_table(rows)


def _print_found(found: gpd.GeoDataFrame, limit: int, *, as_json: bool, as_csv: bool) -> None:
    table = found.drop(columns="geometry")
    rows = [{**row, "time": row["time"].isoformat() + "+00:00"} for row in table.to_dict(orient="records")]
    if as_json:
        print_json({"rows": rows})
    elif as_csv:
        _print_csv(rows)
    elif not rows:
        print("nothing was found")
    else:
        _print_table(
            [{name: row[name] for name in row if name not in ("west", "south", "east", "north")} for row in rows]
        )
        if len(rows) == limit:
            print(f"the first {limit}; there may be more: --limit", file=sys.stderr)


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Names to the left, numbers to the right, units with the headings."""
    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    names = list(rows[0] if rows else ())
    if len({row["feature"] for row in rows}) == 1:  # said once, it leaves a narrow terminal room for the numbers
        table.title = plain(str(rows[0]["feature"]))
        names.remove("feature")
    days_tell = _days_tell(rows)
    for name in names:
        number = isinstance(rows[0][name], int | float) or rows[0][name] is None
        table.add_column(_HEADINGS.get(name, name), justify="right" if number else "left", overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(_shown(name, row[name], days_tell=days_tell) for name in names))
    Console().print(table)
    if len(rows) > MOST_ROWS:
        print(f"the first {MOST_ROWS} of {len(rows):,} rows; --json or --csv has them all", file=sys.stderr)


_HEADINGS = {
    "feature": "place", "present_km2": "present\nkm²", "absent_km2": "absent\nkm²", "unobserved_km2": "unobserved\nkm²",
    "unmapped_km2": "unmapped\nkm²", "present_share": "present\nof seen", "gap_share": "gaps\nof place",
    "appeared_km2": "appeared\nkm²", "vanished_km2": "vanished\nkm²", "stayed_present_km2": "stayed\npresent\nkm²",
    "stayed_absent_km2": "stayed\nabsent\nkm²", "not_comparable_km2": "not com-\nparable\nkm²",
    "objects_km2": "objects\nkm²", "area_m2": "area\nm²",
}  # fmt: skip


_TIMES = ("time", "before", "after")


def _days_tell(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether no two time steps begin on one day."""
    times = {str(row[name]) for row in rows for name in _TIMES if name in row}
    return len({time.partition("T")[0] for time in times}) == len(times)


def _shown(name: str, value: Any, *, days_tell: bool) -> str:
    if value is None:
        return "–"
    if name in _TIMES:
        day, _, clock = str(value).partition("T")
        return day if days_tell else f"{day} {clock[:5]}"
    if name.endswith("_share"):
        return f"{100 * value:.1f} %"
    if name in ("longitude", "latitude"):
        return f"{value:.6f}"
    if isinstance(value, float):
        return _rounded(value)
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def _rounded(value: float) -> str:
    """Four digits that count, never in powers of ten."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = next(digits for digits in range(1, 12) if abs(value) >= 10 ** (3 - digits) or digits == 11)
    return f"{value:,.{digits}f}"


_WRITERS = (".geojson", ".gpkg", ".parquet", ".csv")


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in _WRITERS:
        raise QuestionError(f"{out.name} has an ending that says no format", fix=f"use {', '.join(_WRITERS)}")
    if not out.parent.is_dir():
        raise QuestionError("there is no such folder", fix="make it, or choose another", folder=str(out.parent))
    if out.is_dir():
        raise QuestionError("--out is a folder", fix="give a file in it", file=str(out))


def _write(found: gpd.GeoDataFrame, out: Path) -> None:
    """Whole, or not at all: to a draft beside it, then in its place."""
    draft = out.with_name(f".{out.stem}.draft{out.suffix.lower()}")
    found = found.assign(time=found["time"].dt.tz_localize("UTC"))
    try:
        if draft.suffix == ".csv":
            found.drop(columns="geometry").to_csv(draft, index=False)
        elif draft.suffix == ".parquet":
            found.to_parquet(draft, index=False)
        else:
            found.to_file(draft, driver="GeoJSON" if draft.suffix == ".geojson" else "GPKG", layer="objects")
        draft.replace(out)
    except OSError as error:
        raise QuestionError(
            f"the file cannot be written: {error}", fix="choose another --out", file=str(out)
        ) from error
    finally:
        draft.unlink(missing_ok=True)
