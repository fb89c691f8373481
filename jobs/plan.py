"""Job, items and model → a Plan: every tile, what it shows, and what it will cost. Nothing is read or written here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import shapely
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from catalogs.select import coverage, items_order, time_steps, utm_zones
from jobs.areas import area_km2, projected
from jobs.spec import JobSpec
from mapper.errors import EmptySearchError, GridError
from mapper.grid import Grid, Lattice, PixelBox, Windows
from mapper.imagery import Item, PlacedItem
from mapper.map_tile import TileTask

READ_BLOCK_PX = 512
"""Side of the blocks imagery is usually stored in: what one request brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTile:
    """One tile of the plan."""

    grid: int
    """Position in the plan's grids."""

    step: int
    """Position in the plan's steps."""

    row: int
    column: int
    clipped: bool
    items: tuple[int, ...]
    """Rows of the item table, in the order in which they are laid; empty where there is a hole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a run will do."""

    items: tuple[Item, ...]
    grids: tuple[Grid, ...]
    areas: Mapping[str, BaseGeometry]
    """Grid name → the area in its CRS."""

    steps: tuple[datetime, ...]
    tiles: tuple[PlannedTile, ...]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An estimate and how far it may be off."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Range:
        """Each of the three, multiplied."""
        return Range(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan costs before anything is spent."""

    area_km2: float
    covered_share: float
    """Of the area, 0 to 1, under at least one footprint."""

    hole_km2: float
    first_date: datetime
    last_date: datetime
    items: int
    tiles: int
    holes: int
    """Tiles without any imagery: they are written as unobserved and cost no GPU."""

    windows: int
    read_bytes: int
    """Decoded, at most: reading stops where a pixel is seen."""

    written_bytes: int
    """Before compression."""

    requests: int
    seconds: Range | None
    """Of the whole run; None where the model was not timed."""

    usd: Range | None
    workers: int


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
        tiles=tuple(tiles),
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


def lay_grids(spec: JobSpec, items: Sequence[Item], area: BaseGeometry) -> list[tuple[Grid, BaseGeometry]]:
    """The grids of a job, each with the part of the area it maps, in its CRS."""
    shard_px, chunk_px = spec.grid.shard_px, spec.grid.chunk_px
    if spec.grid.crs == "utm":
        assert spec.grid.resolution_m is not None  # GridSpec asks for it
        laid = []
        for zone in utm_zones(area):
            lattice = Lattice(crs=zone.crs, res_x=spec.grid.resolution_m, res_y=spec.grid.resolution_m)
            shape = projected(zone.strip, zone.crs)
            laid.append((Grid.over(lattice, shape.bounds, name=zone.name, shard_px=shard_px, chunk_px=chunk_px), shape))
        return laid
    lattice = native_lattice(items) if spec.grid.crs == "native" else _named_lattice(spec)
    shape = projected(area, lattice.crs)
    return [(Grid.over(lattice, shape.bounds, shard_px=shard_px, chunk_px=chunk_px), shape)]


def _named_lattice(spec: JobSpec) -> Lattice:
    assert spec.grid.resolution_m is not None  # GridSpec asks for it
    try:
        crs = CRS.from_user_input(spec.grid.crs)
    except CRSError as error:
        raise GridError(
            f"grid.crs {spec.grid.crs!r} is no CRS", fix="use native, utm, or a code such as EPSG:32645"
        ) from error
    if not crs.is_projected:
        raise GridError(
            f"grid.crs {spec.grid.crs} counts in degrees, and the resolution is in metres",
            fix="use a projected CRS, or utm",
        )
    return Lattice(crs=spec.grid.crs, res_x=spec.grid.resolution_m, res_y=spec.grid.resolution_m)


def native_lattice(items: Sequence[Item]) -> Lattice:
    """The lattice that all items lie on.

    Raises:
        GridError: an item does not say where its pixels lie, or they lie on several lattices.
    """
    lattice: Lattice | None = None
    for item in items:
        placement = item.bands[0].asset.placement
        if placement is None:
            raise GridError(
                "crs: native needs items that say where their pixels lie (proj:code, proj:transform)",
                fix="set grid.crs and grid.resolution_m",
                item=item.id,
            )
        own = _lattice_of(placement.crs, placement.transform)
        if lattice is None:
            lattice = own
        elif own.crs != lattice.crs or lattice.offset_of(placement.transform) is None:
            raise GridError(
                f"the items lie on several pixel grids ({_described(lattice)}; {_described(own)})",
                fix=f"set grid: {{crs: {_suggested(items)}, resolution_m: {lattice.res_x:g}}}",
                item=item.id,
            )
    if lattice is None:
        raise EmptySearchError("no imagery to take a native grid from", fix="widen the search")
    return lattice


def _lattice_of(crs: str, transform: Affine) -> Lattice:
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise GridError("crs: native needs imagery that is north-up", fix="set grid.crs and grid.resolution_m")
    return Lattice(
        crs=crs,
        res_x=transform.a,
        res_y=-transform.e,
        phase_x=_phase(transform.c, transform.a),
        phase_y=_phase(transform.f, -transform.e),
    )


def _phase(edge: float, res: float) -> float:
    """The sub-pixel part of an edge; a thousandth of a pixel is dust of the file format, not a phase."""
    part = edge / res - math.floor(edge / res + 1e-3)
    return 0.0 if part < 1e-3 else part * res


def _described(lattice: Lattice) -> str:
    return f"{lattice.crs} at {lattice.res_x:g}, phase {lattice.phase_x:.3g} {lattice.phase_y:.3g}"


def _suggested(items: Sequence[Item]) -> str:
    codes = Counter(item.bands[0].asset.placement.crs for item in items if item.bands[0].asset.placement)
    return next(iter(codes)) if len(codes) == 1 else "utm"


def placed(item: Item, lattice: Lattice) -> PlacedItem:
    """The item with the lattice pixels it may fill."""
    return PlacedItem(item=item, extent=_extent(item, lattice))


@lru_cache(maxsize=500_000)
def _extent_of_raster(crs: str, transform: Affine, shape: tuple[int, int], lattice: Lattice) -> PixelBox:
    offset = lattice.offset_of(transform) if crs == lattice.crs else None
    if offset is not None:
        return PixelBox(offset[0], offset[1], offset[0] + shape[0], offset[1] + shape[1])
    rows, columns = shape
    corners = [transform @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return _pixels_between(crs, (min(x), min(y), max(x), max(y)), lattice)


def _extent(item: Item, lattice: Lattice) -> PixelBox:
    """The pixels under any of the item's files; from the footprint where a file's place is not stated."""
    extent: PixelBox | None = None
    for band in item.bands:
        placement = band.asset.placement
        if placement is None:
            return _pixels_between("OGC:CRS84", item.footprint.bounds, lattice)
        own = _extent_of_raster(placement.crs, placement.transform, placement.shape, lattice)
        extent = own if extent is None else extent.union(own)
    assert extent is not None  # an item has at least one band
    return extent


def _pixels_between(crs: str, bounds: tuple[float, float, float, float], lattice: Lattice) -> PixelBox:
    left, bottom, right, top = _transformer(crs, lattice.crs).transform_bounds(*bounds, densify_pts=21)
    if not all(math.isfinite(value) for value in (left, bottom, right, top)):
        return PixelBox(0, 0, 0, 0)
    near = lattice.pixels((left, bottom, right, top))
    return PixelBox(near.top - 1, near.left - 1, near.bottom + 1, near.right + 1)


@lru_cache(maxsize=256)
def _transformer(one: str, other: str) -> Transformer:
    return Transformer.from_crs(one, other, always_xy=True)


def pixel_km2(lattice: Lattice, place: PixelBox) -> float:
    """Surface of a pixel in the middle of a box, on the ellipsoid."""
    row, column = (place.top + place.bottom) // 2, (place.left + place.right) // 2
    outline = box(*lattice.bounds(PixelBox(row, column, row + 1, column + 1)))
    corners = shapely.transform(outline, lambda xy: _lonlat(lattice.crs, xy))
    return area_km2(corners)


def _lonlat(crs: str, xy: object) -> object:
    import numpy as np

    points = np.asarray(xy)
    return np.column_stack(_transformer(crs, "OGC:CRS84").transform(points[:, 0], points[:, 1]))


def estimate(
    plan: Plan,
    spec: JobSpec,
    area: BaseGeometry,
    *,
    window_px: int,
    seconds_per_window: Range | None,
    workers: int,
) -> Estimate:
    """What the plan costs, from its tiles and the measured time of a window."""
    windows = Windows(size_px=window_px, overlap_px=spec.windows.overlap_px)
    covered = coverage(area, [item for item in plan.items if item.footprint.intersects(area)])
    bands, prompts = len(spec.imagery.bands), len(spec.prompts)
    itemsize = 1 if spec.imagery.scale is None else 2
    looks = read_px = requests = written = holes = 0
    opened: set[tuple[int, str]] = set()
    for tile in plan.tiles:
        grid = plan.grids[tile.grid]
        core = grid.tile(tile.row, tile.column).core
        written += core.height * core.width * (2 * prompts + 4)
        if not tile.items:
            holes += 1
            continue
        part = grid.lattice.pixels(plan.areas[grid.name].bounds).intersection(core)
        frame = windows.frame(core)
        looks += sum(1 for _ in windows.touching(core if part.empty else part))
        for number in tile.items:
            seen = placed(plan.items[number], grid.lattice).extent.intersection(frame)
            files = {band.asset.href for band in plan.items[number].bands}
            read_px += seen.height * seen.width * bands
            requests += len(files) * math.ceil(seen.height / READ_BLOCK_PX) * math.ceil(seen.width / READ_BLOCK_PX)
            opened |= {(number, href) for href in files}
    workers = max(1, workers)
    seconds = None if seconds_per_window is None else seconds_per_window.times(looks / workers)
    hourly = spec.compute.usd_per_gpu_hour * workers / 3600
    dates = [item.datetime for item in plan.items if item.footprint.intersects(area)]
    return Estimate(
        area_km2=area_km2(area),
        covered_share=covered.share,
        hole_km2=area_km2(covered.holes) if not covered.holes.is_empty else 0.0,
        first_date=min(dates),
        last_date=max(dates),
        items=len(dates),
        tiles=len(plan.tiles),
        holes=holes,
        windows=looks,
        read_bytes=read_px * itemsize,
        written_bytes=written,
        requests=requests + 2 * len(opened),
        seconds=seconds,
        usd=None if seconds is None else seconds.times(hourly),
        workers=workers,
    )
