"""Outlines with fewer points that still do not touch one another.

Objects that are told apart at corners too lie at least a pixel from each other. So an outline that goes nowhere
further than half a pixel out of its own pixels meets no other, whatever becomes of that one: each is simplified by
itself, and the same wherever shards and files end.

First every step of a staircase is drawn through the middle of its edge of one pixel, which makes straight what a
straight border became in pixels. Then points are left out (Douglas and Peucker 1973, as GEOS does it, which keeps
polygons valid) as far as the half pixel allows: with the tolerance asked for, or half, a quarter, an eighth of it.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from mapper.grid import Lattice

HALVINGS = 4
HAIR_PX = 1e-6
"""What rounding does to the half pixel."""


def simplified(geometry: NDArray[np.object_], lattice: Lattice, tolerance_px: float) -> NDArray[np.object_]:
    """Polygons of whole pixels with fewer points: valid, of the same number, apart where they were.

    Args:
        geometry: outlines of 8-connected objects, in the lattice's CRS.
        lattice: whose pixels they are.
        tolerance_px: how far an outline may move inwards; outwards it moves half a pixel at most.
    """
    scale = np.array([lattice.res_x, -lattice.res_y])
    origin = np.array([lattice.phase_x, lattice.phase_y])
    pixels = shapely.transform(geometry, lambda xy: np.rint((xy - origin) / scale))
    result = shapely.simplify(_without_steps(pixels), 0)
    allowed = shapely.buffer(pixels, 0.5 + HAIR_PX, join_style="mitre")
    waiting = np.arange(len(pixels))
    smooth = result.copy()
    for halving in range(HALVINGS):
        fewer = shapely.simplify(smooth[waiting], tolerance_px / 2**halving)
        good = shapely.covers(allowed[waiting], fewer) & shapely.is_valid(fewer) & ~shapely.is_empty(fewer)
        good &= shapely.get_num_geometries(fewer) == shapely.get_num_geometries(pixels[waiting])
        result[waiting[good]] = fewer[good]
        waiting = waiting[~good]
    moved: NDArray[np.object_] = shapely.transform(result, lambda xy: xy * scale + origin)
    return moved


def _without_steps(pixels: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons in which each edge of one pixel between a turn to one side and one to the other is its middle."""
    parts, owner = shapely.get_parts(pixels, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    last = np.flatnonzero(np.diff(ring, append=-1))  # each ring's last point is its first
    points, ring = np.delete(points, last, axis=0), np.delete(ring, last)
    size = np.bincount(ring)
    end = np.cumsum(size)
    following = np.arange(len(points)) + 1
    following[end - 1] = end - size
    before = np.empty_like(following)
    before[following] = np.arange(len(points))
    edge = points[following] - points
    turn = np.sign(edge[before, 0] * edge[:, 1] - edge[before, 1] * edge[:, 0])
    step = (np.abs(edge).sum(axis=1) == 1) & (turn * turn[following] < 0)
    drawn = np.stack([points, (points + points[following]) / 2], axis=1).reshape(-1, 2)
    kept = np.stack([~step & ~step[before], step], axis=1).ravel()
    rings = shapely.linearrings(drawn[kept], indices=np.repeat(ring, 2)[kept])  # which closes them
    polygons = shapely.polygons(rings, indices=part)
    whole = pixels.copy()
    several = shapely.get_num_geometries(pixels) > 1
    whole[owner[~several[owner]]] = polygons[~several[owner]]
    multi, number = np.unique(owner[several[owner]], return_inverse=True)
    whole[multi] = shapely.multipolygons(polygons[several[owner]], indices=number)
    return whole
