"""``resmap preview``: a mosaic on a map in the browser, for this machine alone."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.serving import listening, open_browser, serve
from jobs.terminal import AsJson, plain, print_json
from mapper.errors import QuestionError

MAP = "map"
"""The id of the one mosaic in addresses."""

MOST_CONNECTIONS = 64
"""More at a time are told to come again: a browser opens six."""


def preview(
    mosaic: Annotated[str, typer.Argument(help="Path or URL of a mosaic.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    host: Annotated[str, typer.Option(help="An address of this machine; others are refused.")] = "127.0.0.1",
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Look at a mosaic on a map in the browser, until Ctrl-C. Everybody on this machine can; nobody else."""
    from jobs.careful import LOOPBACK
    from jobs.preview.app import app
    from mapper.exports.chosen import chosen_time
    from mapper.mosaic import Mosaic

    address = _loopback(host)
    url = mosaic if "://" in mosaic else str(Path(mosaic).expanduser())
    latest = chosen_time(Mosaic.open(url, writable=False), None)
    pages = app({MAP: url}, hosts=(*LOOPBACK, address))
    fix = "leave --port out, and it finds one that is free"
    with listening(address, port, what="the preview", fix=fix) as listener:
        root = f"http://{address}:{listener.getsockname()[1]}/{MAP}/"
        _tell(root, latest, as_json=as_json)
        if open_it:
            open_browser(root)
        serve(pages, listener, connections=MOST_CONNECTIONS)


def _loopback(host: str) -> str:
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = ipaddress.IPv4Address(0)
    if not address.is_loopback:
        raise QuestionError(
            f"a preview is for this machine alone, and {host!r} is not an address of its own",
            fix="leave --host out; from another machine, forward the port: ssh -L 8000:127.0.0.1:8000 …",
        )
    return str(address)


def _tell(root: str, time: int, *, as_json: bool) -> None:
    """Where the map is, and what QGIS needs to show it; on stdout at once, because it stays there until Ctrl-C."""
    tiles = f"{root}tiles/mask/0/{time}/{{z}}/{{x}}/{{y}}.png"
    if as_json:
        print_json({"url": root, "tiles": tiles, "tilejson": f"{root}tiles.json", "mosaic": f"{root}mosaic.json"})
        sys.stdout.flush()  # into a pipe it would wait there until the end
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Map   {plain(root)}")
    console.print(f"QGIS  {plain(tiles)}  [dim](an XYZ layer)[/]")
    console.print("Ctrl-C stops it.", style="dim")
