"""What a mosaic is, on a card: for a notebook as HTML, for a terminal as text. Texts of strangers are shown as text."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import shapely
from pyproj import CRS

from mapper.errors import MapperError
from mapper.grid import Grid
from mapper.mosaic import Mosaic
from mapper.questions.asking import time_text
from mapper.questions.placed import to_lonlat
from mapper.runs import RunFacts, newest_run

MOST_PROMPTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """A row of the card: what it is about, and what is said, a line each."""

    name: str
    lines: tuple[str, ...]


def card_text(mosaic: Mosaic) -> str:
    """The card for a terminal."""
    rows = _rows(mosaic)
    wide = max(len(row.name) for row in rows)
    lines = ["<resmap mosaic>"]
    for row in rows:
        lines += [
            f"  {row.name if not number else '':<{wide}}  {_printable(line)}" for number, line in enumerate(row.lines)
        ]
    return "\n".join(lines)


def card_html(mosaic: Mosaic) -> str:
    """The card for a notebook: no script, no request, colours of the notebook's own theme."""
    rows = "".join(
        f'<tr><th style="{_TH}">{html.escape(row.name)}</th>'
        f'<td style="{_TD}">{"<br>".join(map(_escaped, row.lines))}</td></tr>'
        for row in _rows(mosaic)
    )
    snippet = _escaped("\n".join(_GO_ON))
    return (
        f'<div style="{_CARD}"><div style="{_TITLE}">resmap mosaic</div>'
        f'<table style="border-collapse:collapse;background:none;color:inherit;margin:0">{rows}</table>'
        f'<details style="margin-top:.5em"><summary style="cursor:pointer">how to go on</summary>'
        f'<pre style="{_PRE}">{snippet}</pre></details></div>'
    )


_CARD = ("border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:.8em 1.1em;max-width:52em;font-size:90%;"
         "line-height:1.45;font-family:system-ui,sans-serif")  # fmt: skip
_TITLE = "font-weight:600;margin-bottom:.4em;font-size:110%"
_TH = "text-align:left;vertical-align:top;font-weight:500;opacity:.65;padding:.12em 1.2em .12em 0;white-space:nowrap"
_TD = "text-align:left;vertical-align:top;padding:.12em 0;overflow-wrap:anywhere;white-space:pre-wrap"
_PRE = ("margin:.4em 0 0;padding:.6em .8em;background:rgba(128,128,128,.12);border-radius:4px;overflow-x:auto;"
        "font-size:85%;color:inherit")  # fmt: skip

_GO_ON = (
    'ds.score.sel(prompt="…").isel(time=-1)     # probability, 0 to 1, NaN where nothing was seen',
    "ds.resmap.level(3)                         # the same, coarser: to look at all of it",
    "ds.resmap.area((west, south, east, north)) # km² present, absent, and not seen",
    'ds.resmap.area("districts.gpkg")           # … of each polygon of a file',
    'ds.resmap.change("2023", "2024")           # km² appeared and vanished',
    "ds.resmap.where(limit=100)                 # the largest objects, as a GeoDataFrame",
    "ds.resmap.items                            # the scenes it was made of",
)


def _rows(mosaic: Mosaic) -> list[_Facts]:
    prompts = mosaic.prompts
    asked = [
        f"{prompt.name}: “{prompt.expression}” (threshold {prompt.threshold:g})" for prompt in prompts[:MOST_PROMPTS]
    ]
    if len(prompts) > MOST_PROMPTS:
        asked.append(f"and {len(prompts) - MOST_PROMPTS} more")
    model = mosaic.made_by.get("model")
    named = model.get("name") if isinstance(model, dict) else model
    rows = [
        _Facts(name="asked", lines=tuple(asked)),
        _Facts(name="times", lines=(_times(mosaic),)),
        _Facts(name="lies", lines=_place(mosaic.grids)),
        *[_Facts(name=grid.name or "pixels", lines=_pixels(grid)) for grid in mosaic.grids],
        *([_Facts(name="model", lines=(str(named),))] if named else []),
        *_done(mosaic),
        _Facts(name="mosaic", lines=(mosaic.url,)),
    ]
    return [row for row in rows if row.lines]


def _times(mosaic: Mosaic) -> str:
    times = sorted(mosaic.times)
    if not times:
        return "none yet"
    if len(times) <= 3:
        return ", ".join(map(time_text, times))
    return f"{len(times)} steps, {time_text(times[0])} to {time_text(times[-1])}"


def _place(grids: Sequence[Grid]) -> tuple[str, ...]:
    """Longitude and latitude of the middle, and of the edges."""
    outlines = [shapely.box(*grid.lattice.bounds(grid.box)) for grid in grids]
    bounds = [to_lonlat(outline, grid.lattice.crs).bounds for outline, grid in zip(outlines, grids, strict=True)]
    if not all(math.isfinite(value) for bound in bounds for value in bound):
        return ()
    west, south = (min(bound[axis] for bound in bounds) for axis in (0, 1))
    east, north = (max(bound[axis] for bound in bounds) for axis in (2, 3))
    digits = 2 if max(east - west, north - south) > 0.5 else 4
    return (
        f"{_degrees(west, 'W', 'E', digits)} to {_degrees(east, 'W', 'E', digits)}, "
        f"{_degrees(south, 'S', 'N', digits)} to {_degrees(north, 'S', 'N', digits)}",
    )


def _pixels(grid: Grid) -> tuple[str, ...]:
    lattice, crs = grid.lattice, CRS.from_user_input(grid.lattice.crs)
    rows, columns = grid.shape
    code = ":".join(crs.to_authority() or ()) or crs.name
    unit = crs.axis_info[0].unit_name if crs.axis_info else ""
    if crs.is_geographic:
        size, side = "", f"{_side(lattice.res_x, lattice.res_y)}°"
    else:
        metre = float(crs.axis_info[0].unit_conversion_factor)
        size = f"{_km(columns * lattice.res_x * metre)} × {_km(rows * lattice.res_y * metre)} km, "
        side = f"{_side(lattice.res_x, lattice.res_y)} {'m' if metre == 1 else unit}"
    levels = len(grid.pyramid())
    return (
        f"{size}{columns:,} × {rows:,} px of {side}",
        f"{code} ({crs.name}), {levels} {'levels' if levels > 1 else 'level'}",
    )


def _done(mosaic: Mosaic) -> list[_Facts]:
    """How far its newest run is, where its file says so."""
    try:
        run = newest_run(mosaic.url)
    except MapperError:
        return []
    return [_Facts(name="run", lines=(_how_far(run),))] if run is not None else []


def _how_far(run: RunFacts) -> str:
    done = run.tiles.get("done", 0) + run.tiles.get("nodata", 0)
    planned = run.tiles.get("planned", 0)
    share = f", {100 * done / planned:.0f} % of {planned:,} tiles" if planned else ""
    return f"{run.name or run.run}: {run.state}{share}"


def _degrees(value: float, below: str, above: str, digits: int) -> str:
    return f"{abs(value):.{digits}f}° {above if value >= 0 else below}"


def _km(metres: float) -> str:
    return f"{metres / 1000:,.0f}" if metres >= 100_000 else f"{metres / 1000:,.3g}"


def _side(across: float, down: float) -> str:
    return f"{across:g}" if across == down else f"{across:g} × {down:g}"


def _escaped(text: str) -> str:
    return html.escape("\n".join(map(_printable, text.split("\n"))))


def _printable(text: str) -> str:
    """Without what would drive a terminal, or turn the text around it."""
    return "".join(mark if mark.isprintable() else "�" for mark in text)
