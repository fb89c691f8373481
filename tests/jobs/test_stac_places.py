"""Where and when a slice of a mosaic is, as STAC has it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Point, box

from jobs.stac.places import bbox_of, footprint, time_range
from mapper.grid import Grid, Lattice, PixelBox

ACROSS = Grid(
    # A Mercator whose middle is at 150° E: 180° is at x = 3 339 584.7 m.
    lattice=Lattice(crs="EPSG:3832", res_x=1000, res_y=1000),
    box=PixelBox(1792, 3072, 2304, 3584),
    shard_px=256,
    chunk_px=128,
)

EVERY_SHARD = frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})


@pytest.mark.parametrize(
    ("time_step", "step", "first", "last"),
    [
        ("scene", "2024-06-20T10:30:00+00:00", "2024-06-20T10:30:00+00:00", "2024-06-20T10:30:00+00:00"),
        ("day", "2024-02-29T00:00:00+00:00", "2024-02-29T00:00:00+00:00", "2024-02-29T23:59:59+00:00"),
        ("week", "2024-12-30T00:00:00+00:00", "2024-12-30T00:00:00+00:00", "2025-01-05T23:59:59+00:00"),
        ("month", "2024-12-01T00:00:00+00:00", "2024-12-01T00:00:00+00:00", "2024-12-31T23:59:59+00:00"),
        ("season", "2023-12-01T00:00:00+00:00", "2023-12-01T00:00:00+00:00", "2024-02-29T23:59:59+00:00"),
        ("year", "2024-01-01T00:00:00+00:00", "2024-01-01T00:00:00+00:00", "2024-12-31T23:59:59+00:00"),
        ("all", "2024-06-01T10:30:00+00:00", "2024-06-01T10:30:00+00:00", "2025-01-15T10:30:00+00:00"),
        (None, "2024-06-01T10:30:00+00:00", "2024-06-01T10:30:00+00:00", "2024-06-01T10:30:00+00:00"),
    ],
)
def test_a_step_stands_for_the_time_in_which_it_looked(time_step: str | None, step: str, first: str, last: str) -> None:
    seen = [datetime(2024, 6, 1, 10, 30, tzinfo=UTC), datetime(2025, 1, 15, 10, 30, tzinfo=UTC)]
    told = time_range(datetime.fromisoformat(step), time_step, [(moment, moment) for moment in seen])
    assert [moment.isoformat() for moment in told] == [first, last]


@pytest.mark.parametrize("shards", [EVERY_SHARD, EVERY_SHARD - {(1, 1)}], ids=["all", "three"])
@pytest.mark.parametrize("asked", [True, False], ids=["area", "everything"])
def test_what_lies_across_the_antimeridian_is_cut_there(shards: frozenset[tuple[int, int]], asked: bool) -> None:
    area = MultiPolygon([box(178, -19, 180, -17), box(-180, -19, -179, -17)]) if asked else None
    found = footprint(ACROSS, area, shards)
    west, south, east, north = bbox_of(found)
    assert found.is_valid
    assert found.geom_type == "MultiPolygon"
    assert -180 <= found.bounds[0] < found.bounds[2] <= 180
    assert 175 < west < 180
    assert -180 < east < -174
    dice = np.random.default_rng(3)
    longitudes, latitudes = dice.uniform(west - 2, east + 362, 4000), dice.uniform(south - 2, north + 2, 4000)
    xs, ys = Transformer.from_crs("OGC:CRS84", ACROSS.lattice.crs, always_xy=True).transform(longitudes, latitudes)
    planned = [ACROSS.lattice.bounds(ACROSS.tile(row, column).core) for row, column in shards]
    wrapped = (longitudes + 180) % 360 - 180
    for longitude, latitude, x, y in zip(wrapped, latitudes, xs, ys, strict=True):
        point = Point(longitude, latitude)
        looked_at = any(left < x < right and bottom < y < top for left, bottom, right, top in planned)
        inside = looked_at and (area is None or area.contains(point))
        if found.boundary.distance(point) > 0.01:  # edges of 2 km are straight in degrees, and curves in the CRS
            assert found.contains(point) == inside


def test_a_box_is_the_narrower_way_around() -> None:
    assert bbox_of(box(-10, 0, 20, 5)) == (-10, 0, 20, 5)
    assert bbox_of(MultiPolygon([box(170, 0, 180, 5), box(-180, 1, -175, 9)])) == (170, 0, -175, 9)
    assert bbox_of(MultiPolygon([box(-100, 0, -90, 5), box(10, 1, 20, 9)])) == (-100, 0, 20, 9)
    assert bbox_of(box(-180, -90, 180, 90)) == (-180, -90, 180, 90)
