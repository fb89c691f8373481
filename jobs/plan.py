"""Job, items and model → a Plan: every tile, what it shows, and what it will cost. Nothing is read or written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from catalogs.select import items_order, time_steps
from jobs.grids import lay_grids, pixel_km2, placed
from jobs.spec import JobSpec
from jobs.tile_table import PlannedTile, TileTable
from mapper.errors import EmptySearchError
from mapper.grid import Grid, PixelBox, Windows
from mapper.imagery import Item
from mapper.map_tile import TileTask


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """All that a run will do."""

    items: tuple[Item, ...]
    grids: tuple[Grid, ...]
    areas: Mapping[str, BaseGeometry]
    """Grid name → the area in its CRS."""

    steps: tuple[datetime, ...]
    tiles: TileTable

    def tasks(self, wanted: Mapping[int, tuple[int, ...]], *, written_sources: frozenset[int]) -> Iterator[TileTask]:
        """The tasks of the tiles that lack something, in order.

        Args:
            wanted: row in ``tiles`` → positions of the prompts to write.
            written_sources: rows whose source layer an earlier run has written.
        """
        for row, prompts in wanted.items():
            planned = self.tiles[row]
            grid = self.grids[planned.grid]
            yield TileTask(
                id=row,
                grid=grid,
                tile=grid.tile(planned.row, planned.column),
                time=planned.step,
                items=tuple(placed(self.items[item], grid.lattice) for item in planned.items),
                prompts=prompts,
                clipped=planned.clipped,
                write_source=row not in written_sources,
            )

    def key(self, row: int) -> str:
        """What names a tile in every run of this mosaic: zone, step and shard."""
        tile = self.tiles[row]
        grid = self.grids[tile.grid]
        return f"{grid.name}/{self.steps[tile.step].isoformat()}/{tile.row}/{tile.column}"

    def pixel_km2(self, row: int) -> float:
        """Surface of one pixel in the middle of a tile."""
        grid = self.grids[self.tiles[row].grid]
        return pixel_km2(grid.lattice, grid.tile(self.tiles[row].row, self.tiles[row].column).core)


def lay_plan(spec: JobSpec, items: Sequence[Item], area: BaseGeometry, *, window_px: int) -> Plan:
    """Tile the area and say which items serve each tile.

    Args:
        spec: the job.
        items: what the search found, with a margin around the area; ``index`` is the position here.
        area: longitude and latitude.
        window_px: side of the model's windows.

    Raises:
        GridError: the grid cannot be laid.
        EmptySearchError: no item lies in the area.
    """
    inside = [item for item in items if item.footprint.intersects(area)]
    if not inside:
        raise EmptySearchError(
            "no imagery lies in the area",
            fix="widen imagery.datetime, imagery.filter or area",
            found=f"{len(items)} items around it",
        )
    windows = Windows(size_px=window_px, overlap_px=spec.windows.overlap_px)
    laid = lay_grids(spec, items, area)
    steps = time_steps(inside, spec.imagery.time_step)
    around = time_steps(items, spec.imagery.time_step)
    by_start = {step.start: step.items for step in around}
    everything = spec.imagery.time_step == "all"
    tiles: list[PlannedTile] = []
    for position, step in enumerate(steps):
        serving = items if everything else by_start[step.start]
        ordered = items_order(serving, spec.imagery.composite)
        for number, (grid, shape) in enumerate(laid):
            tiles += _tiles_of(grid, number, shape, ordered, position, windows, holes=everything)
    return Plan(
        items=tuple(items),
        grids=tuple(grid for grid, _ in laid),
        areas={grid.name: shape for grid, shape in laid},
        steps=tuple(step.start for step in steps),
        tiles=TileTable.of(tiles),
    )


def _tiles_of(
    grid: Grid,
    number: int,
    area: BaseGeometry,
    items: Sequence[Item],
    step: int,
    windows: Windows,
    *,
    holes: bool,
) -> Iterator[PlannedTile]:
    """The tiles of one grid and step. A dated step answers where its imagery lies; ``all`` for the whole area."""
    shapely.prepare(area)
    serving: dict[tuple[int, int], list[int]] = {}
    touched: set[tuple[int, int]] = set()
    margin = windows.size_px
    for item in items:
        extent = placed(item, grid.lattice).extent
        if extent.empty:
            continue
        reach = PixelBox(extent.top - margin, extent.left - margin, extent.bottom + margin, extent.right + margin)
        for tile in grid.tiles_in(reach):
            if windows.frame(tile.core).intersection(extent).empty:
                continue
            serving.setdefault((tile.row, tile.column), []).append(item.index)
            if not tile.core.intersection(extent).empty:
                touched.add((tile.row, tile.column))
    for tile in grid.tiles():
        place = (tile.row, tile.column)
        if not holes and place not in touched:
            continue
        outline = box(*grid.lattice.bounds(tile.core))
        if not area.intersects(outline):
            continue
        yield PlannedTile(
            grid=number,
            step=step,
            row=tile.row,
            column=tile.column,
            clipped=not area.contains(outline),
            items=tuple(serving.get(place, ())) if place in touched else (),
        )
