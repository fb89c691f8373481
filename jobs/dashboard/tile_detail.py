"""All that is known of one tile, and which one lies at a place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from catalogs.items import FIELDS, item_from_stac
from catalogs.snapshot import thawed_rows
from jobs.dashboard.map_tiles import area_bounds, planned_map
from jobs.dashboard.states import RunView
from jobs.dashboard.views import TILE_STATES, Event, TileDetail
from jobs.web_imagery import kept_spec
from mapper.errors import MapperError, QuestionError, SpecError, told
from mapper.exports.chosen import iso
from mapper.web.degrees import GridInDegrees

MOST_ITEMS = 100
"""Items of a tile that are told of, the first that are laid."""

_LONGEST = 300
"""Characters of what strangers call their things."""


def tile_detail(view: RunView, n: int) -> TileDetail:
    """All that is known of one tile.

    Args:
        view: the run.
        n: row of the plan.

    Raises:
        QuestionError: there is no such tile.
        MosaicError, CatalogError: a file of the run is damaged.
    """
    places = view.places
    if not 0 <= n < len(places.row):
        raise QuestionError("there is no such tile", fix=f"tiles are 0 to {len(places.row) - 1}", tile=n)
    grid, row, column = int(places.grid[n]), int(places.row[n]), int(places.column[n])
    names, steps = view.facts.get("grids", []), view.facts.get("steps", [])
    step = int(places.step[n])
    entry = view.states.last_entry(n)
    return TileDetail(
        tile=n,
        name=view.tile_name(n),
        state=TILE_STATES[int(view.states.state[n])] if entry is None else entry.state,
        zone=str(names[grid]) if grid < len(names) else "",
        row=row,
        column=column,
        step=iso(datetime.fromisoformat(steps[step])) if step < len(steps) else "",
        bounds=_bounds(view, n),
        attempts=entry.attempts if entry else 0,
        worker=entry.worker if entry else "",
        at=entry.at.astimezone(UTC) if entry else None,
        seconds=_seconds(entry.read_s, entry.infer_s, entry.write_s) if entry else {},
        windows=entry.windows if entry else 0,
        asked_px=entry.asked_px if entry else 0,
        seen_px=entry.seen_px if entry else 0,
        present_px=dict(zip(entry.prompts, entry.present_px, strict=False)) if entry else {},
        cause=entry.cause if entry else "",
        error=entry.error if entry else "",
        items=tuple(_items(view, n)),
        events=tuple(_events(view, n)),
    )


def tile_at(view: RunView, lon: float, lat: float, step: int) -> int | None:
    """Row of the planned tile of a time step at a place in degrees; None where none is planned.

    Where tiles of two zones overlap, the one that the map draws there.
    """
    planned = planned_map(view, step)
    return None if planned is None else planned.at(lon, lat)


def shown_href(href: object) -> str | None:
    """An address as strangers may see it: of the web or a bucket, without user, query and fragment; None for others."""
    text = str(href)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https", "s3") or not host or not _plain(text):
        return None
    name = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme.lower(), f"{name}:{port}" if port else name, parts.path, "", ""))


def _plain(text: str) -> bool:
    return text.isprintable() and not set(text) & set(" <>\"'`\\") and len(text) <= 4096


def _bounds(view: RunView, n: int) -> tuple[float, float, float, float]:
    """West, south, east, north of a tile in degrees; of the whole area while no grid is laid."""
    if not view.grids:
        return area_bounds(view)
    grid = view.grids[int(view.places.grid[n])]
    return GridInDegrees(grid).bounds_of(grid.tile(int(view.places.row[n]), int(view.places.column[n])).core)


def _seconds(*parts: float) -> dict[str, float]:
    """Seconds by stage; those that nobody knows are left out."""
    return {name: part for name, part in zip(("read", "infer", "write"), parts, strict=True) if math.isfinite(part)}


def _items(view: RunView, n: int) -> Iterator[Mapping[str, Any]]:
    """The items that may show a tile, in the order in which they are laid."""
    rows = view.folder.tile_items([n]).get(n, ())[:MOST_ITEMS]
    documents = thawed_rows(view.folder.items(), rows, fields=FIELDS) if rows else {}
    try:
        bands: Sequence[str] = kept_spec(view.folder).imagery.bands
    except (SpecError, FileNotFoundError):
        bands = ()
    for row in rows:
        document = documents.get(row)
        if document is None:
            continue
        properties = document.get("properties")
        said = properties if isinstance(properties, Mapping) else {}
        yield {
            "id": told(str(document.get("id", "")), _LONGEST),
            "collection": told(str(document.get("collection") or ""), _LONGEST),
            "datetime": told(str(said.get("datetime") or said.get("start_datetime") or ""), 40),
            "href": _href(document, bands),
        }


def _href(document: Mapping[str, Any], bands: Sequence[str]) -> str | None:
    """Where the first band lies that the model was given."""
    try:
        return shown_href(item_from_stac(document, bands=bands).bands[0].asset.href) if bands else None
    except (MapperError, KeyError, TypeError, ValueError):  # a stranger's document; the rest of it is told all the same
        return None


def _events(view: RunView, n: int) -> Iterator[Event]:
    """What happened to a tile, oldest first."""
    return (event for event in view.folder.events() if event.tile == n)
