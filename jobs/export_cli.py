"""``resmap export``: a mosaic in other people's formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import AsJson, plain, print_json
from mapper.errors import QuestionError

if TYPE_CHECKING:
    from jobs.exports import Progress, Written

app = typer.Typer(
    help="A mosaic in other people's formats: GeoTIFF, PNG, vectors, web map, STAC.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--out with a suffix of the format is a file: it takes the latest time step and the only prompt unless told "
    "which. Any other --out is a folder: it takes a file for every prompt and time step.",
)

Mosaic = Annotated[str, typer.Argument(help="Path or URL of the mosaic.", show_default=False)]
Out = Annotated[str, typer.Option("--out", "-o", help="A file, or a folder for several.", show_default=False)]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="Name of a prompt, as the job file has it.")]
Time = Annotated[str | None, typer.Option("--time", "-t", help="When a time step begins: 2024, 2024-06-20, …")]
Force = Annotated[bool, typer.Option("--force", help="Write over what is there.")]


@app.command()
def cog(
    mosaic: Mosaic,
    out: Out,
    prompt: Prompt = None,
    time: Time = None,
    zone: Annotated[str | None, typer.Option(help="Which zone, such as utm32n, where there are several.")] = None,
    layer: Annotated[Literal["mask", "score"], typer.Option(help="What to write.")] = "mask",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Cloud-Optimised GeoTIFFs, for QGIS, ArcGIS and GDAL: 0 absent, 1 present, 254 unobserved, nodata unmapped."""
    from jobs.exports import export_cog

    with _telling() as progress:
        written = export_cog(
            _url(mosaic), _path(out), prompt=prompt, time=time, zone=zone, layer=layer, force=force,
            progress=progress,
        )  # fmt: skip
    _say(written, as_json)


@app.command()
def png(
    mosaic: Mosaic,
    out: Out,
    prompt: Prompt = None,
    time: Time = None,
    largest_px: Annotated[int, typer.Option("--px", min=64, max=8192, help="Longer side of the map.")] = 1600,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """A picture of the map with legend and scale: all prompts together, or one."""
    from jobs.exports import export_png

    with _telling() as progress:
        written = export_png(
            _url(mosaic), _path(out), prompt=prompt, time=time, largest_px=largest_px, force=force,
            progress=progress,
        )  # fmt: skip
    _say(written, as_json)


@app.command()
def vectors(
    mosaic: Mosaic,
    out: Out,
    prompt: Prompt = None,
    time: Time = None,
    kind: Annotated[Literal["polygons", "points", "boxes"], typer.Option(help="What an object becomes.")] = "polygons",
    simplify_px: Annotated[
        float | None, typer.Option("--simplify", min=0, help="How far an outline may move, in pixels.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The objects found, one a row: GeoParquet, FlatGeobuf, GeoPackage or GeoJSON, by the file's suffix."""
    from jobs.exports import export_vectors

    with _telling() as progress:
        written = export_vectors(
            _url(mosaic), _path(out), prompt=prompt, time=time, kind=kind, simplify_px=simplify_px, force=force,
            progress=progress,
        )  # fmt: skip
    _say(written, as_json)


@app.command()
def pmtiles(
    mosaic: Mosaic,
    out: Out,
    prompt: Prompt = None,
    time: Time = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """A web map in one file, to be put beside a page: PMTiles."""
    from jobs.exports import export_pmtiles

    with _telling() as progress:
        written = export_pmtiles(_url(mosaic), _path(out), prompt=prompt, time=time, force=force, progress=progress)
    _say(written, as_json)


@app.command()
def stac(
    mosaic: Mosaic,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the catalog.", show_default=False)],
    formats: Annotated[
        str, typer.Option("--with", help="Also write these there: cog, png, vectors, pmtiles; commas between them.")
    ] = "",
    xyz: Annotated[
        str | None, typer.Option(help="Address of a tile server's map, with {z}, {x} and {y}, for STAC browsers.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the map: an SPDX identifier.")] = "other",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """A STAC catalog of the mosaic: a collection, an item a time step and zone, and the model it was made with.

    Exports that lie in the folder already, under the names that `resmap export` gives them, become assets.
    """
    from jobs.stac.published import formats_of, publish

    with _telling() as progress:
        done = publish(
            _url(mosaic), _path(out), formats=formats_of(formats), xyz=xyz, licence=licence, force=force,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(done.as_json())
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Catalog  {plain(str(done.catalog))}")
    console.print(f"{done.items} items in {plain(done.collection)}, {len(done.written)} files beside them.")
    for note in done.notes:
        console.print(plain(note), style="dim")


def _url(mosaic: str) -> str:
    from jobs.job import absolute

    return absolute(mosaic)


def _path(out: str) -> Path:
    """Where to write, on this machine."""
    if "://" in out:
        raise QuestionError("files are exported to this machine only", fix="give a path, and upload it then", out=out)
    return Path(out).expanduser()


def _say(written: Sequence[Written], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "written": [
                    {"path": w.path, "bytes": w.bytes, "prompt": w.prompt, "time": w.time.isoformat(), "zone": w.zone}
                    for w in written
                ],
                "bytes": sum(one.bytes for one in written),
            }
        )
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for one in written:
        table.add_row(_size(one.bytes), plain(one.path))
    Console(soft_wrap=True, highlight=False).print(table)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


@contextmanager
def _telling() -> Iterator[Progress]:
    """A bar a file on a terminal, a line a file elsewhere; always on stderr."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(plain(name), total=total)
                if not console.is_terminal:
                    console.print(f"writing {plain(name)}")
            bars.update(tasks[name], completed=done, total=total)

        yield progress
