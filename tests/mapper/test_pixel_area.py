"""How much of the Earth a pixel covers, against geodesics drawn around it by an independent tool."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from shapely.geometry import box
from shapely.geometry.polygon import orient

from mapper.grid import Lattice, PixelBox
from mapper.pixel_area import box_area_m2, pixel_area_m2
from tests.strategies import boxes, parts_of

PLACES = {
    "utm, on its meridian": ("EPSG:32633", 10.0, (500_000, 6_100_000)),
    "utm, at its edge": ("EPSG:32633", 10.0, (190_000, 6_100_000)),
    "utm, submetre": ("EPSG:32645", 0.3, (334_000, 3_060_000)),
    "utm, south": ("EPSG:32723", 30.0, (700_000, 7_400_000)),
    "degrees, on the equator": ("EPSG:4326", 1e-4, (12.0, 0.01)),
    "degrees, at 70°": ("EPSG:4326", 1e-4, (12.0, 70.0)),
    "equal area of Europe": ("EPSG:3035", 100.0, (4_300_000, 3_600_000)),
    "equal area of the globe": ("EPSG:6933", 100.0, (900_000, 6_000_000)),
    "web mercator at 60°": ("EPSG:3857", 50.0, (1_300_000, 8_400_000)),
    "web mercator at 80°": ("EPSG:3857", 300.0, (1_300_000, 15_500_000)),
    "feet of New York": ("EPSG:2263", 20.0, (980_000, 200_000)),
    "polar, on the pole": ("EPSG:3413", 500.0, (-10_000, 10_000)),
    "on Clarke's ellipsoid": ("EPSG:26717", 30.0, (500_000, 3_000_000)),
}
"""CRS, side of a pixel, a corner."""

SIDE_PX = 1500


def lattice_and_box(crs: str, res: float, corner: tuple[float, float]) -> tuple[Lattice, PixelBox]:
    lattice = Lattice(crs=crs, res_x=res, res_y=res)
    left, top = round(corner[0] / res), round(-corner[1] / res)
    return lattice, PixelBox(top, left, top + SIDE_PX, left + SIDE_PX + 7)


def geodesic_area_m2(lattice: Lattice, part: PixelBox) -> float:
    """The area within geodesics between points along the box's edges, on the CRS's own ellipsoid."""
    crs = CRS.from_user_input(lattice.crs)
    assert crs.geodetic_crs is not None
    outline = box(*lattice.bounds(part))
    fine = shapely.segmentize(outline, max(part.shape) * lattice.res_x / 2000)
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    there = shapely.transform(fine, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    geod = crs.get_geod()
    assert geod is not None
    return abs(geod.geometry_area_perimeter(orient(there))[0])


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_pixels_sum_to_the_geodesic_area_around_them(place: tuple[str, float, tuple[float, float]]) -> None:
    lattice, part = lattice_and_box(*place)
    # 1.3e-8 is the bend of a projection's scale between its nodes; a polygon is known to 1e-4 m², here 1e-10 of
    # itself, and its 2000 chords a side bow by less.
    assert pixel_area_m2(lattice, part).sum() == pytest.approx(geodesic_area_m2(lattice, part), rel=3e-8)


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_the_area_of_a_box_is_that_of_its_pixels(place: tuple[str, float, tuple[float, float]]) -> None:
    lattice, part = lattice_and_box(*place)
    assert box_area_m2(lattice, part) == pytest.approx(pixel_area_m2(lattice, part).sum(), rel=3e-8)


@given(box=boxes(largest_px=200, far_px=50_000), data=st.data())
def test_a_pixel_has_the_same_area_in_every_box(box: PixelBox, data: st.DataObject) -> None:
    lattice = Lattice(crs="EPSG:32645", res_x=10.0, res_y=10.0)
    part = data.draw(parts_of(box))
    np.testing.assert_array_equal(pixel_area_m2(lattice, box)[part.within(box)], pixel_area_m2(lattice, part))


def test_the_pixels_of_the_globe_are_all_of_its_surface() -> None:
    lattice = Lattice(crs="EPSG:4326", res_x=1.0, res_y=1.0)
    globe = PixelBox(-90, -180, 90, 180)
    surface_m2 = 510_065_621_724_088.4  # of WGS 84, as published by NGA to the square metre
    assert pixel_area_m2(lattice, globe).sum() == pytest.approx(surface_m2, rel=1e-12)
    assert box_area_m2(lattice, globe) == pytest.approx(surface_m2, rel=1e-12)


def test_beyond_the_pole_there_is_no_surface() -> None:
    lattice = Lattice(crs="EPSG:4326", res_x=1.0, res_y=1.0)
    assert (pixel_area_m2(lattice, PixelBox(-95, 0, -90, 3)) == 0).all()


def test_where_a_projection_has_no_place_there_is_no_area() -> None:
    lattice = Lattice(crs="+proj=ortho +lat_0=0 +lon_0=0 +ellps=sphere +type=crs", res_x=100_000, res_y=100_000)
    areas = pixel_area_m2(lattice, PixelBox(-70, -70, 70, 70))
    assert np.isnan(areas[0, 0])
    assert np.isfinite(areas[70, 70])
    assert np.isnan(box_area_m2(lattice, PixelBox(-70, -70, -60, -60)))
