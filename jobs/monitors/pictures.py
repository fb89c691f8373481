"""Before and after of an alert: two pictures of the same ground, what the models saw with what changed outlined.

The imagery is that of the items which the mosaic's own source layer names there, read as the run read it. Where it
cannot be had any more, or not soon, the masks are drawn on a plain ground. What was not seen is hatched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from queue import Empty, Queue
from threading import Thread

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from shapely.geometry.base import BaseGeometry

from catalogs.hrefs import check_href, unsigned
from catalogs.items import FIELDS, item_from_stac
from catalogs.select import items_order
from catalogs.snapshot import thawed_rows
from jobs.grids import placed
from jobs.job import Job
from jobs.monitors.alert import Alert, Pictures
from jobs.monitors.observed import position
from jobs.monitors.page import MAP_PX, drawn
from jobs.renewal import TurnedRun, runs_in_turn
from mapper.errors import MapperError
from mapper.grid import Grid, PixelBox
from mapper.imagery import NO_SOURCE, Item, View
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.pixel_area import pixel_area_m2
from mapper.pyramid import coarser
from mapper.questions.placed import own_land
from mapper.questions.places import LONLAT
from mapper.read import RasterReader
from mapper.runs import asked_area
from mapper.storage import Folder

WIDEST_PX = 4096
"""Of the mosaic, along a picture: what is read for it. Changes that are spread wider are shown where the largest is."""

NARROWEST_PX = 80
"""A change of fewer pixels is shown with some ground around it."""

MARGIN = 0.12
"""Around what changed, of its size."""

FLATTEST, STEEPEST = 0.6, 1.0
"""Height of a picture over its width."""

MOST_ITEMS = 24
PATIENCE_S = 15.0
"""For the imagery of one picture; a store that takes longer is not asked again in this tick."""

_THREADS, _CACHE_BYTES = 2, 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """What a picture shows."""

    grid: Grid
    """Of the mosaic, or a coarser level of it: up to twice as fine as the picture."""

    base: Grid
    """The mosaic's own."""

    box: PixelBox
    """Pixels of ``grid``."""

    @property
    def finest(self) -> PixelBox:
        """The box in the mosaic's own pixels."""
        box = self.box
        for _ in range(self.grid.level):
            box = box.doubled()
        return box


class Painter:
    """Draws the alerts of one tick. For one thread."""

    def __init__(self, job: Job, mosaic: Mosaic) -> None:
        """Nothing is read yet."""
        imagery = job.spec.imagery
        self._imagery, self._mosaic = imagery, mosaic
        self._runs: list[TurnedRun] = list(reversed(runs_in_turn(mosaic.url, engine=job.spec.output.engine)))
        self._reader = RasterReader(
            bands=len(imagery.bands),
            stretch=imagery.scale.from_ if imagery.scale else None,
            composite="median" if imagery.composite == "median" else "first",
            threads=_THREADS,
            cache_bytes=_CACHE_BYTES,
        )
        self._area = asked_area(mosaic.url)
        self._may_be_had = True

    def draw(self, alert: Alert, shapes: Sequence[BaseGeometry], folder: Folder) -> Pictures:
        """Put ``before.png`` and ``after.png`` into a folder.

        Args:
            alert: what they are of.
            shapes: the changed polygons, the largest first, in longitude and latitude.
            folder: where they are put.

        Returns:
            Where they are; None for one that could not be drawn: an alert is told all the same.
        """
        frame = _frame(self._mosaic, self._area, shapes)
        there = {}
        for name, step in (("before", alert.before), ("after", alert.time)):
            time = None if step is None else position(self._mosaic.times, step)
            if step is not None and time is not None:
                with suppress(MapperError, OSError):
                    folder.write(f"{name}.png", self._png(alert, shapes, frame, step, time))
                    there[name] = f"{unsigned(folder.url)}/{name}.png"
        return Pictures(**there)

    def _png(self, alert: Alert, shapes: Sequence[BaseGeometry], frame: _Frame, step: datetime, time: int) -> bytes:
        prompt = [known.name for known in self._mosaic.prompts].index(alert.prompt)
        view = self._view(frame, time)
        page = drawn(
            alert,
            name="After" if step == alert.time else "Before",
            step=step,
            mask=_mask(self._mosaic, frame, time=time, prompt=prompt),
            view=view,
            outlines=_on_frame(shapes, frame),
            metres_per_px=_metres(frame),
        )
        content = io.BytesIO()
        page.save(content, format="PNG")
        return content.getvalue()

    def _view(self, frame: _Frame, time: int) -> View | None:
        """The imagery, where it can be had soon."""
        if not self._may_be_had:
            return None
        answers: Queue[View | None] = Queue(1)

        def read() -> None:
            view = None
            with suppress(MapperError, OSError, ValueError, LookupError):
                view = self._read(frame, time)
            answers.put(view)

        Thread(target=read, name="alert-picture", daemon=True).start()
        try:
            return answers.get(timeout=PATIENCE_S)
        except Empty:
            self._may_be_had = False
            return None

    def _read(self, frame: _Frame, time: int) -> View | None:
        items = items_order(self._items(self._sources(frame, time)), self._imagery.composite)
        if not items or (len(items) > MOST_ITEMS and self._imagery.composite == "median"):
            return None
        lattice = frame.grid.lattice
        return self._reader.read([placed(item, lattice) for item in items[:MOST_ITEMS]], lattice, frame.box)

    def _sources(self, frame: _Frame, time: int) -> list[int]:
        """What the source layer holds in the frame, shard by shard, in all zones."""
        found: set[int] = set()
        for grid in self._mosaic.grids:
            for part in _parts(grid, _box_on(grid, frame)):
                found.update(np.unique(self._mosaic.layer(grid, "source", part, time=time)).tolist())
        return sorted(found - {int(NO_SOURCE)})

    def _items(self, sources: Sequence[int]) -> list[Item]:
        """The items that sources stand for: each is a row of the last run whose sources begin at it or before."""
        judge = partial(check_href, catalog=self._imagery.catalog)
        rows: dict[int, list[int]] = {}
        for source in sources:
            for number, run in enumerate(self._runs):
                begin = run.renewal.sources_from if run.renewal is not None else 0
                if begin <= source:
                    rows.setdefault(number, []).append(source - begin)
                    break
        return [
            item_from_stac(document, bands=self._imagery.bands, index=row, judge=judge)
            for number, wanted in rows.items()
            for row, document in thawed_rows(self._runs[number].folder.items(), wanted, fields=FIELDS).items()
        ]


def _frame(mosaic: Mosaic, area: BaseGeometry | None, shapes: Sequence[BaseGeometry]) -> _Frame:
    """Around all that changed, or what is largest of it; no further than what was to be mapped where that suffices."""
    base = _grid_of(mosaic, shapes[0])
    asked = base.box if area is None else _pixels(base, [area])
    found = (_fitted(_pixels(base, some), asked) for some in (shapes, shapes[:1]))
    box = next((one for one in found if max(one.shape) <= WIDEST_PX), None)
    if box is None:
        box = _fitted(_pixels(base, [shapes[0].representative_point()]), asked, least=WIDEST_PX)
    grid = base
    while box.width > 2 * MAP_PX:
        grid, box = grid.coarser(), box.halved()
    return _Frame(grid=grid, base=base, box=box)


def _fitted(changed: PixelBox, asked: PixelBox, *, least: int = NARROWEST_PX) -> PixelBox:
    """A box around another with some margin, in the proportions of a picture."""
    height, width = (max(least, round(side * (1 + 2 * MARGIN))) for side in changed.shape)
    height, width = min(height, asked.height + 8), min(width, asked.width + 8)
    width = max(width, math.ceil(height / STEEPEST))
    height = max(height, math.ceil(width * FLATTEST))
    top, left = (changed.top + changed.bottom - height) // 2, (changed.left + changed.right - width) // 2
    if height <= asked.height + 8:
        top = min(max(top, asked.top - 4), asked.bottom + 4 - height)
    if width <= asked.width + 8:
        left = min(max(left, asked.left - 4), asked.right + 4 - width)
    return PixelBox(top, left, top + height, left + width)


def _grid_of(mosaic: Mosaic, shape: BaseGeometry) -> Grid:
    """The grid on whose own land a shape lies."""
    if len(mosaic.grids) == 1:
        return mosaic.grids[0]
    point = shape.representative_point()
    return next((grid for grid in mosaic.grids if own_land(grid).covers(_carried([point], grid)[0])), mosaic.grids[0])


def _carried(shapes: Sequence[BaseGeometry], grid: Grid) -> NDArray[np.object_]:
    """Shapes of longitude and latitude in the CRS of a grid."""
    there = Transformer.from_crs(LONLAT, grid.lattice.crs, always_xy=True)
    return np.asarray(
        shapely.transform(np.array(shapes, object), lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
    )


def _pixels(grid: Grid, shapes: Sequence[BaseGeometry]) -> PixelBox:
    """The pixels around some shapes, as far as they lie on the grid."""
    bounds = shapely.bounds(_carried(shapes, grid))
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    if not len(bounds):
        return grid.box
    left, bottom = bounds[:, :2].min(axis=0)
    right, top = bounds[:, 2:].max(axis=0)
    box = grid.lattice.pixels((left, bottom, right, top)).intersection(grid.box)
    return grid.box if box.empty else box


def _on_frame(shapes: Sequence[BaseGeometry], frame: _Frame) -> list[BaseGeometry]:
    """Shapes in pixels of the frame, (x, y), y down."""
    lattice, box = frame.grid.lattice, frame.box

    def moved(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        across = (xy[:, 0] - lattice.phase_x) / lattice.res_x - box.left
        down = (lattice.phase_y - xy[:, 1]) / lattice.res_y - box.top
        return np.column_stack([across, down])

    return list(shapely.transform(_carried(shapes, frame.grid), moved))


def _mask(mosaic: Mosaic, frame: _Frame, *, time: int, prompt: int) -> NDArray[np.uint8]:
    """The mask in pixels of the frame, from the mosaic's own: coarser levels may not stand yet. What lies beyond the
    frame's zone is warped from its own."""
    mask = _read(mosaic, frame.base, frame.finest, time=time, prompt=prompt)
    for _ in range(frame.grid.level):
        mask, _unused = coarser(mask, mask, mosaic.pyramid)
    for grid in mosaic.grids:
        box = _box_on(grid, frame)
        if grid == frame.base or box.empty:
            continue
        there = np.full(mask.shape, UNMAPPED, np.uint8)
        reproject(
            _read(mosaic, grid, box, time=time, prompt=prompt),
            there,
            src_transform=grid.lattice.transform(box),
            src_crs=grid.lattice.crs,
            dst_transform=frame.grid.lattice.transform(frame.box),
            dst_crs=frame.grid.lattice.crs,
            resampling=Resampling.nearest,
            src_nodata=UNMAPPED,
            dst_nodata=UNMAPPED,
        )
        mask = np.where(mask == UNMAPPED, there, mask)
    return mask


def _read(mosaic: Mosaic, grid: Grid, box: PixelBox, *, time: int, prompt: int) -> NDArray[np.uint8]:
    mask = np.full(box.shape, UNMAPPED, np.uint8)
    for part in _parts(grid, box):
        mask[part.within(box)] = mosaic.layer(grid, "mask", part, time=time, prompt=prompt)
    return mask


def _parts(grid: Grid, box: PixelBox) -> Iterator[PixelBox]:
    """What a box has of each shard that it touches."""
    for tile in grid.tiles_in(box.intersection(grid.box)):
        yield tile.core.intersection(box)


def _box_on(grid: Grid, frame: _Frame) -> PixelBox:
    """The pixels of any zone that lie under a frame; empty where there are none."""
    if grid == frame.base:
        return frame.finest.intersection(grid.box)
    bounds = frame.grid.lattice.bounds(frame.box)
    there = transform_bounds(frame.grid.lattice.crs, grid.lattice.crs, *bounds)
    nowhere = PixelBox(0, 0, 0, 0)
    return grid.lattice.pixels(there).intersection(grid.box) if np.isfinite(there).all() else nowhere


def _metres(frame: _Frame) -> float:
    """Side of a pixel of the frame on the ground."""
    row, column = (frame.box.top + frame.box.bottom) // 2, (frame.box.left + frame.box.right) // 2
    middle = PixelBox(row, column, row + 1, column + 1)
    return float(np.sqrt(pixel_area_m2(frame.grid.lattice, middle)[0, 0]))
