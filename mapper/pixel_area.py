"""How much of the Earth a pixel covers: on the ellipsoid, not in the plane of the map."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Proj, Transformer

from mapper.grid import Lattice, PixelBox

NODE_PX = 64
NODE_M = 1_000.0
"""The scale of a projection is asked for at points this far apart at most, and is linear between them: over 1 km
UTM's bends by 6e-9 and web mercator's, at any latitude, by 1.3e-8."""

PANEL_M = 100_000.0
PANEL_NODES = 6
"""Side of the squares over which the area of a box is integrated (Gauss-Legendre), and points along it: over 100 km
the next term of UTM's scale, and of web mercator's, is below 1e-12."""

WEB_MERCATOR = "Popular Visualisation Pseudo Mercator"


def pixel_area_m2(lattice: Lattice, box: PixelBox) -> NDArray[np.float64]:
    """Square metres of ellipsoid under each pixel of a box.

    In degrees it is the exact area between two parallels and two meridians. In a projection it is the pixel's area
    in the plane over the projection's areal scale there (J. P. Snyder, "Map Projections: A Working Manual", 1987,
    chapter 4). What a pixel gets does not depend on the box it is asked in.

    Returns:
        ``(y, x)``; NaN where the projection has no such place.
    """
    crs = _crs(lattice.crs)
    if crs.is_geographic:
        return np.broadcast_to(_between_parallels(lattice, crs, box)[:, None], box.shape)
    unit = float(crs.axis_info[0].unit_conversion_factor)
    flat = lattice.res_x * lattice.res_y * unit**2
    node_px = max(1, min(NODE_PX, int(NODE_M / (max(lattice.res_x, lattice.res_y) * unit))))
    around = box.snapped(node_px)
    rows = np.arange(around.top, around.bottom + 1, node_px)
    columns = np.arange(around.left, around.right + 1, node_px)
    nodes = _areal_scale(lattice, crs, rows, columns)
    across = _linear(nodes, rows, np.arange(box.top, box.bottom))
    return flat / _linear(across.T, columns, np.arange(box.left, box.right)).T


def box_area_m2(lattice: Lattice, box: PixelBox) -> float:
    """Square metres of ellipsoid under all pixels of a box, without a number for each of them.

    Agrees with the sum of ``pixel_area_m2`` to 3e-8, the bend of the scale between its nodes.

    Returns:
        The area; NaN where the projection has no such place.
    """
    crs = _crs(lattice.crs)
    if crs.is_geographic:
        around = PixelBox(box.top, 0, box.bottom, 1)
        return float(_between_parallels(lattice, crs, around).sum()) * box.width
    unit = float(crs.axis_info[0].unit_conversion_factor)
    rows, row_weights = _quadrature(box.top, box.bottom, PANEL_M / (lattice.res_y * unit))
    columns, column_weights = _quadrature(box.left, box.right, PANEL_M / (lattice.res_x * unit))
    flat = lattice.res_x * lattice.res_y * unit**2
    return float(row_weights @ (flat / _areal_scale(lattice, crs, rows, columns)) @ column_weights)


@lru_cache(maxsize=64)
def _crs(code: str) -> CRS:
    return CRS.from_user_input(code)


def _quadrature(begin: int, end: int, panel_px: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions between two pixel edges and their weights, which sum to the distance."""
    edges = np.linspace(begin, end, max(1, int(np.ceil((end - begin) / panel_px))) + 1)
    at, weights = np.polynomial.legendre.leggauss(PANEL_NODES)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + at)).ravel(), (half * weights).ravel()


def _linear(values: NDArray[np.float64], at: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of values known at ``at``, as rows at the middle of pixels."""
    wanted = pixels + 0.5
    below = np.clip(np.searchsorted(at, wanted, side="right") - 1, 0, len(at) - 2)
    share = ((wanted - at[below]) / (at[below + 1] - at[below]))[:, None]
    return (1 - share) * values[below] + share * values[below + 1]


def _areal_scale(
    lattice: Lattice,
    crs: CRS,
    rows: NDArray[np.int64] | NDArray[np.float64],
    columns: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """``(row, column)``: by how much the projection enlarges a surface at these lattice corners."""
    projection, to_degrees = _projection(lattice.crs, threading.get_ident())
    x, y = np.meshgrid(lattice.phase_x + columns * lattice.res_x, lattice.phase_y - rows * lattice.res_y)
    longitude, latitude = to_degrees.transform(x, y)
    scale: NDArray[np.float64] = np.asarray(projection.get_factors(longitude, latitude).areal_scale, np.float64)
    if crs.coordinate_operation is not None and crs.coordinate_operation.method_name == WEB_MERCATOR:
        # It puts the ellipsoid's latitudes on a sphere, and PROJ answers for that sphere: 0.3 % too much at 60°.
        squared = _eccentricity_squared(crs)
        scale = scale * (1 - squared * np.sin(np.radians(latitude)) ** 2) ** 2 / (1 - squared)
    return np.where(np.isfinite(scale) & (scale > 0), scale, np.nan)


def _eccentricity_squared(crs: CRS) -> float:
    assert crs.ellipsoid is not None  # every CRS on the Earth has one
    return 1 - (crs.ellipsoid.semi_minor_metre / crs.ellipsoid.semi_major_metre) ** 2


@lru_cache(maxsize=64)
def _projection(code: str, thread: int) -> tuple[Proj, Transformer]:
    """One a thread: a ``Proj`` may not be shared."""
    crs = _crs(code)
    assert crs.geodetic_crs is not None  # a projected CRS has one
    return Proj(crs), Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)


def _between_parallels(lattice: Lattice, crs: CRS, box: PixelBox) -> NDArray[np.float64]:
    """Square metres of one pixel in each row, for a lattice in degrees."""
    assert crs.ellipsoid is not None  # a geographic CRS has one
    unit = float(crs.axis_info[0].unit_conversion_factor)  # to radians
    edges = np.clip(
        (lattice.phase_y - np.arange(box.top, box.bottom + 1) * lattice.res_y) * unit, -np.pi / 2, np.pi / 2
    )
    sine = np.sin(edges)
    minor, e = crs.ellipsoid.semi_minor_metre, np.sqrt(_eccentricity_squared(crs))
    zone = sine / (1 - (e * sine) ** 2) + (np.arctanh(e * sine) / e if e else sine)
    return np.asarray(lattice.res_x * unit * minor**2 / 2 * -np.diff(zone), np.float64)
