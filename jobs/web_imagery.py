"""What the models of a run saw, as pictures of a web map that lie under its masks pixel for pixel.

The run's frozen items are read through the run's own reader, bands and stretch, on the lattice of the level that the
masks of that zoom come from: where a mask's pixel is one of the mosaic's, the imagery's is the one the model was given.
It is read from where the catalog says, so it is shown only near, where a picture takes little, and only where it can
be had: whatever is refused, missing or too much is left transparent.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from catalogs.hrefs import check_href
from catalogs.items import FIELDS, item_from_stac
from catalogs.select import items_order
from catalogs.snapshot import thawed_rows
from jobs.grids import placed
from jobs.job_file import document_in
from jobs.ledger import RunFolder
from jobs.planned_map import NOWHERE
from jobs.spec import JobSpec, spec_from
from mapper.errors import CredentialsError, MapperError
from mapper.grid import PixelBox
from mapper.imagery import Item
from mapper.read import RasterReader
from mapper.web.degrees import GridInDegrees
from mapper.web.webtiles import TILE_PX, centres

FARTHEST_LEVEL = 2
"""The coarsest level of the mosaic at which imagery is read: a file without overviews gives 16 pixels for one there."""

MOST_PX, MOST_TILES, MOST_ITEMS = 1 << 20, 64, 24
"""Of the mosaic, of the plan and of the catalog, for one picture."""

AT_ONCE, PATIENCE_S = 2, 15.0
"""Pictures read at a time, and how long the others wait before they are left out."""

REFUSED_S = 60.0
"""How long a store that refused us is not asked again."""

_CACHE_BYTES = 128 << 20
_THREADS = 4
_KEPT_ITEMS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The part of a picture that lies on one grid."""

    zone: GridInDegrees
    level: int
    rows: slice
    columns: slice
    row: NDArray[np.int64]
    """``(y, x)``: of the level's pixel under each of the picture's."""

    column: NDArray[np.int64]
    wanted: NDArray[np.bool_]
    """``(y, x)``: where a planned tile is."""

    @property
    def box(self) -> PixelBox:
        """Around the wanted pixels of the level."""
        row, column = self.row[self.wanted], self.column[self.wanted]
        return PixelBox(int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max()) + 1)


class WebImagery:
    """The imagery of one run. Threads may share one."""

    def __init__(self, folder: RunFolder) -> None:
        """Nothing is read yet but the job.

        Raises:
            SpecError: the job beside the mosaic cannot be read.
        """
        self._folder = folder
        self._spec = kept_spec(folder)
        imagery = self._spec.imagery
        self._reader = RasterReader(
            bands=len(imagery.bands),
            stretch=imagery.scale.from_ if imagery.scale else None,
            composite="median" if imagery.composite == "median" else "first",
            threads=_THREADS,
            cache_bytes=_CACHE_BYTES,
        )
        self._reading = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._refused_until = -np.inf

    def picture(
        self,
        zones: Sequence[GridInDegrees],
        tile: NDArray[np.int32],
        zone_of: NDArray[np.int16],
        place: tuple[int, int, int],
    ) -> NDArray[np.uint8] | None:
        """Red, green, blue and opacity of a picture.

        Args:
            zones: the grids of the run.
            tile: ``(256, 256)``: row of the plan under each pixel, ``NOWHERE`` where none is.
            zone_of: row of the plan → position in ``zones``.
            place: z, x, y.

        Returns:
            uint8 ``(256, 256, 4)``; None where nothing is shown.
        """
        if time.monotonic() < self._refused_until:
            return None
        wanted = np.unique(tile[tile != NOWHERE])
        if not 0 < len(wanted) <= MOST_TILES:
            return None
        out = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
        if not self._reading.acquire(timeout=PATIENCE_S):
            return None
        try:
            for number, zone in enumerate(zones):
                here = (tile != NOWHERE) & (zone_of[tile] == number)
                for look in _looks(zone, here, place):
                    self._draw(out, look, self._serving(wanted[zone_of[wanted] == number].tolist()))
        except CredentialsError:
            self._refused_until = time.monotonic() + REFUSED_S
            return None
        except (MapperError, OSError):  # what cannot be had is not shown: the masks are there all the same
            return None
        finally:
            self._reading.release()
        return out if out[..., 3].any() else None

    def _draw(self, out: NDArray[np.uint8], look: _Look, items: Sequence[Item]) -> None:
        """Read what one grid shows and lay it into the picture."""
        box = look.box
        if box.height * box.width > MOST_PX:
            return
        level = look.zone.levels[look.level]
        view = self._reader.read([placed(item, level.lattice) for item in items], level.lattice, box)
        row, column = look.row[look.wanted] - box.top, look.column[look.wanted] - box.left
        colours = view.pixels if len(view.pixels) >= 3 else np.repeat(view.pixels[:1], 3, axis=0)
        part = out[look.rows, look.columns]
        part[look.wanted, :3] = colours[:3, row, column].T
        part[look.wanted, 3] = np.where(view.valid[row, column], 255, 0)

    def _serving(self, tiles: Collection[int]) -> Sequence[Item]:
        """The items that show these tiles, in the order in which they are laid.

        No more than ``MOST_ITEMS``: pixels that only those after them show are left out. Where all of them decide
        together, none are shown rather than some.
        """
        by_tile = self._folder.tile_items(tiles)
        rows = sorted({row for items in by_tile.values() for row in items})
        composite = self._spec.imagery.composite
        if len(rows) > MOST_ITEMS and (composite == "median" or len(rows) > _KEPT_ITEMS):
            return ()
        return items_order(self._items_at(rows), composite)[:MOST_ITEMS]

    def _items_at(self, rows: Sequence[int]) -> list[Item]:
        """Items by row, their hrefs judged as the run judges them."""
        with self._lock:
            missing = [row for row in rows if row not in self._items]
        made = {}
        if missing:
            imagery = self._spec.imagery
            judge = partial(check_href, catalog=imagery.catalog)
            documents = thawed_rows(self._folder.items(), missing, fields=FIELDS)
            made = {
                row: item_from_stac(document, bands=imagery.bands, index=row, judge=judge)
                for row, document in documents.items()
            }
        with self._lock:
            found = [
                made[row] if row in made else self._items[row] for row in rows if row in made or row in self._items
            ]
            self._items.update(made)
            while len(self._items) > _KEPT_ITEMS:
                self._items.popitem(last=False)
        return found


def kept_spec(folder: RunFolder) -> JobSpec:
    """The job of a run, as it is kept beside the mosaic.

    Raises:
        SpecError: it is no job.
    """
    source = f"the job of run {folder.run}"
    return spec_from(document_in(folder.job(), source=source), source=source)


def _looks(zone: GridInDegrees, here: NDArray[np.bool_], place: tuple[int, int, int]) -> list[_Look]:
    """The parts of a picture on one grid, where the zoom is near enough for imagery."""
    if not here.any():
        return []
    z, x, y = place
    longitude, latitude = centres(z, x, y)
    looks = []
    for rows, columns, turn in zone.part_of(longitude, latitude):
        across, down = longitude[columns] + turn, latitude[rows]
        level = zone.level_for(across[len(across) // 2], down[len(down) // 2], 2 * np.pi / (TILE_PX << z))
        row, column, inside = (values.reshape(len(down), len(across)) for values in zone.crossings(across, down))
        wanted = np.logical_and(here[rows, columns], inside)
        if level <= FARTHEST_LEVEL and wanted.any():
            looks.append(
                _Look(
                    zone=zone, level=level, rows=rows, columns=columns,
                    row=row >> level, column=column >> level, wanted=wanted,
                )
            )  # fmt: skip
    return looks
