"""Objects that are complete → what is told of them.

As numbers first, so that they travel light from the process that found them; geometries are made where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from mapper.grid import Grid, Lattice
from mapper.imagery import Source
from mapper.masks import SCORE_ONE
from mapper.outlines.fragments import Fragments
from mapper.outlines.rings import Rings, trace
from mapper.outlines.span_area import area_unit_m2
from mapper.outlines.spans import Int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBatch:
    """Some objects; row ``n`` of each array is one of them."""

    anchor: NDArray[np.int64]
    """``(n, 2)``: lattice row and column of its northernmost, then westernmost pixel. No two objects share one."""

    pixels: NDArray[np.int64]
    score: NDArray[np.float64]
    """Mean of its pixels, 0 to 1."""

    bounds: NDArray[np.int64]
    """``(n, 4)``: top, left, bottom, right in lattice pixels, half-open."""

    source: Source
    """The scene most of its pixels show, of equals the first in the item table; ``NO_SOURCE`` where there is none."""

    area_m2: NDArray[np.float64]
    """Square metres of ellipsoid."""

    geometry: NDArray[np.object_]
    """Shapely, in the grid's CRS: a Polygon, with its holes; a MultiPolygon where parts meet in corners only. All are
    valid, without needless points, outer rings counter-clockwise. None where outlines were not asked for."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Objects that are complete, with rings for geometries: numbers only, so that they travel light."""

    sums: tuple[Int, Int, Int, Int, Int]
    """Anchor, pixels, score, area, bounds."""

    unit_m2: float
    source: Source
    object_of_part: Int
    rings: Rings | None

    def batch(self, grid: Grid) -> ObjectBatch:
        """With geometries, which are made where they are used."""
        anchor, pixels, score, area, bounds = self.sums
        return ObjectBatch(
            anchor=anchor,
            pixels=pixels,
            score=score / (pixels * float(SCORE_ONE)),
            bounds=bounds,
            source=self.source,
            area_m2=np.asarray(area * self.unit_m2, np.float64),
            geometry=self._geometry(grid),
        )

    def _geometry(self, grid: Grid) -> NDArray[np.object_]:
        count = len(self.source)
        geometry = np.full(count, None, np.object_)
        if self.rings is None:
            return geometry
        polygons = self.rings.polygons(grid.lattice)
        parts = np.bincount(self.object_of_part, minlength=count)
        single = parts[self.object_of_part] == 1
        geometry[self.object_of_part[single]] = polygons[single]
        several = np.flatnonzero(~single)
        corner = self.rings.northwest()[several]
        order = several[np.lexsort((corner[:, 0], corner[:, 1], self.object_of_part[several]))]
        owner, number = np.unique(self.object_of_part[order], return_inverse=True)
        geometry[owner] = shapely.multipolygons(polygons[order], indices=number)
        return geometry


def close(fragments: Fragments, lattice: Lattice, *, outlines: bool) -> Closed:
    """Complete objects, sorted by their anchor.

    Args:
        fragments: nothing of which goes on elsewhere.
        lattice: whose pixels they are.
        outlines: whether to trace them.
    """
    ordered = by_anchor(fragments)
    sums = ordered.sums
    return Closed(
        sums=(sums.anchor, sums.pixels, sums.score, sums.area, sums.bounds),
        unit_m2=area_unit_m2(lattice),
        source=ordered.votes.winners(len(sums)),
        object_of_part=ordered.object_of_part,
        rings=trace(ordered.corners) if outlines else None,
    )


def by_anchor(fragments: Fragments) -> Fragments:
    """The same, numbered by their anchors from the north, then from the west."""
    sums = fragments.sums
    rank = np.lexsort((sums.anchor[:, 1], sums.anchor[:, 0]))
    place = np.empty(len(sums), np.int64)
    place[rank] = np.arange(len(sums))
    return replace(
        fragments,
        sums=sums.of(rank),
        object_of_part=place[fragments.object_of_part],
        votes=replace(fragments.votes, object=place[fragments.votes.object]),
    )
