"""Job, items and model → a Plan: every tile, what it shows, and what it will cost. Nothing is read or written here."""

from __future__ import annotations

import pickle
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from catalogs.items import many_values
from catalogs.select import items_order, time_steps
from jobs.grids import Spots, lay_grids, mean_pixel_km2, placed
from jobs.spec import JobSpec
from jobs.tile_table import Flags, Ints, Stretch, TileTable
from jobs.tiling import AreaTiles, Boxes, area_tiles, shown_tiles, tiles_seen
from mapper.errors import EmptySearchError
from mapper.grid import Grid, Windows
from mapper.imagery import Item, PlacedItem, unpacked
from mapper.map_tile import TileTask

ITEMS_AT_HAND = 1 << 10
"""Items that are kept ready to be sent. Tasks follow the Hilbert curve, so the next ones ask for the same."""

_NOWHERE = shapely.Polygon()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(PlacedItem):
    """An item as it goes to workers: turned into bytes once and not with every tile; there it is a ``PlacedItem``."""

    packed: bytes

    @classmethod
    def of(cls, item: Item, grid: Grid) -> Sent:
        """The item on a grid, without its footprint: where it ends is told by its extent and its files."""
        whole = placed(item, grid.lattice)
        there = replace(whole, item=replace(item, footprint=_NOWHERE))
        return cls(item=item, extent=whole.extent, packed=pickle.dumps(there, pickle.HIGHEST_PROTOCOL))

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return unpacked, (self.packed,)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """All that a run will do."""

    items: tuple[Item, ...]
    grids: tuple[Grid, ...]
    areas: Mapping[str, BaseGeometry]
    """Grid name → the area in its CRS."""

    steps: tuple[datetime, ...]
    tiles: TileTable
    sources_from: int = 0
    """What the source layer holds for item 0: in a renewing run, more than any run before it has used."""

    def tasks(self, wanted: Mapping[int, tuple[int, ...]], *, written_sources: Container[int]) -> Iterator[TileTask]:
        """The tasks of the tiles that lack something, in order.

        Args:
            wanted: row in ``tiles`` → positions of the prompts to write.
            written_sources: rows whose source layer an earlier run has written.
        """
        sent = lru_cache(ITEMS_AT_HAND)(self._sent)
        for row, prompts in wanted.items():
            planned = self.tiles[row]
            grid = self.grids[planned.grid]
            yield TileTask(
                id=row,
                grid=grid,
                tile=grid.tile(planned.row, planned.column),
                time=planned.step,
                items=tuple(sent(item, planned.grid) for item in planned.items),
                prompts=prompts,
                clipped=planned.clipped,
                write_source=row not in written_sources,
            )

    def _sent(self, item: int, grid: int) -> Sent:
        one = self.items[item]
        return Sent.of(replace(one, index=one.index + self.sources_from), self.grids[grid])

    def pixel_km2(self, row: int) -> float:
        """Mean surface of a pixel of a tile, to 1e-4 of it."""
        tiles = self.tiles
        return mean_pixel_km2(self.grids[tiles.grid[row]], int(tiles.row[row]), int(tiles.column[row]))


def lay_plan(spec: JobSpec, items: Sequence[Item], area: BaseGeometry, *, window_px: int) -> Plan:
    """Tile the area and say which items serve each tile.

    Args:
        spec: the job.
        items: what the search found, with a margin around the area; ``index`` is the position here.
        area: longitude and latitude.
        window_px: side of the model's windows.

    Returns:
        The plan. Its tiles are in the order of their steps, then of the grids, then along a Hilbert curve.

    Raises:
        GridError: the grid cannot be laid.
        EmptySearchError: no item lies in the area.
    """
    inside = [items[n] for n in np.flatnonzero(lie_inside(area, items)).tolist()]
    if not inside:
        raise EmptySearchError(
            "no imagery lies in the area",
            fix="widen imagery.datetime, imagery.filter or area",
            found=f"{len(items)} items around it",
        )
    laid = lay_grids(spec, items, area)
    with many_values():
        steps = time_steps(inside, spec.imagery.time_step)
        everything = spec.imagery.time_step == "all"
        serving = {step.start: step.items for step in time_steps(items, spec.imagery.time_step)}
        layout = Layout(spec, items, laid, window_px=window_px)
        tiles = layout.tiles((n, items if everything else serving[step.start]) for n, step in enumerate(steps))
    return Plan(
        items=tuple(items),
        grids=tuple(grid for grid, _ in laid),
        areas={grid.name: shape for grid, shape in laid},
        steps=tuple(step.start for step in steps),
        tiles=tiles,
    )


def lie_inside(area: BaseGeometry, items: Sequence[Item]) -> Flags:
    """Whether the footprint of each item meets the area, as a step of time needs of one of its items."""
    shapely.prepare(area)
    return np.asarray(shapely.intersects(area, np.array([item.footprint for item in items], object)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ground:
    """One grid: the tiles of the area, and the spots that can be seen there."""

    tiles: AreaTiles
    seen: Boxes
    touched: Boxes


class Layout:
    """Where items can be seen on the grids of a job. Lays the tiles of one step of time after another."""

    def __init__(
        self, spec: JobSpec, items: Sequence[Item], laid: Sequence[tuple[Grid, BaseGeometry]], *, window_px: int
    ) -> None:
        """Look where the items lie.

        Args:
            spec: the job.
            items: all that any step will show; ``index`` is the position here.
            laid: the grids, each with the part of the area it maps, in its CRS.
            window_px: side of the model's windows.
        """
        self._everything = spec.imagery.time_step == "all"
        self._composite = spec.imagery.composite
        windows = Windows(size_px=window_px, overlap_px=spec.windows.overlap_px)
        spots = Spots(items)
        self._spot_of = spots.of
        self._grounds = []
        for grid, area in laid:
            seen, touched = tiles_seen(grid, windows, spots.extents(grid, margin_px=windows.size_px))
            self._grounds.append(_Ground(tiles=area_tiles(grid, area), seen=seen, touched=touched))
        # (grid, spot): whether any window of the grid sees the spot.
        self._visible = np.array([(ground.seen[:, :2] < ground.seen[:, 2:]).all(axis=1) for ground in self._grounds])

    def tiles(self, steps: Iterable[tuple[int, Sequence[Item]]]) -> TileTable:
        """The tiles of some steps, in their order, then of the grids, then along a Hilbert curve.

        Args:
            steps: number of each, and the items in it. A dated one answers where its imagery lies; ``all`` for the
                whole area.
        """
        return TileTable.joined(
            stretch
            for number, items in steps
            for stretch in self._stretches(number, items_order(items, self._composite))
        )

    def area_tiles(self, grid: int) -> AreaTiles:
        """The tiles of a grid that the area touches, by the grid's position."""
        return self._grounds[grid].tiles

    def _stretches(self, step: int, items: Sequence[Item]) -> Iterator[Stretch]:
        numbers = np.array([item.index for item in items_order(items, self._composite)], np.int32)
        at = self._spot_of[numbers]
        shows = self._visible[:, at]
        grids = range(len(shows)) if self._everything else np.flatnonzero(shows.any(axis=1)).tolist()
        for grid in grids:
            here = shows[grid]
            yield from _stretches_of(self._grounds[grid], grid, step, numbers[here], at[here], holes=self._everything)


def _stretches_of(
    ground: _Ground, grid: int, step: int, items: Ints, spots: np.ndarray[tuple[int], np.dtype[np.intp]], *, holes: bool
) -> Iterator[Stretch]:
    """The tiles of one grid and step."""
    tiles = ground.tiles
    for shown in shown_tiles(tiles, items, ground.seen[spots], ground.touched[spots], holes=holes):
        yield Stretch(
            grid=grid,
            step=step,
            row=tiles.row[shown.number],
            column=tiles.column[shown.number],
            clipped=tiles.clipped[shown.number],
            shown_by=shown.by,
            item=shown.item,
        )
