from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from shapely.geometry import MultiPolygon, Point, box
from shapely.geometry.base import BaseGeometry

from catalogs.select import Composite, Step, coverage, items_order, time_steps, utm_zones
from mapper.errors import GridError, SpecError
from mapper.imagery import Item

NOON = datetime(2024, 6, 5, 12, tzinfo=UTC)


def item(
    name: str = "a", when: datetime = NOON, *, cloud: float | None = None, over: BaseGeometry | None = None
) -> Item:
    return Item(id=name, collection="c", datetime=when, footprint=over or box(0, 0, 1, 1), bands=(), cloud_cover=cloud)


moments = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
many_items = st.lists(
    st.builds(item, st.text("abc", min_size=1, max_size=3), moments, cloud=st.none() | st.floats(0, 100)),
    max_size=12,
    unique_by=lambda made: made.id,
)


class TestTimeSteps:
    @pytest.mark.parametrize(
        ("step", "when", "start"),
        [
            ("day", NOON, datetime(2024, 6, 5)),
            ("week", NOON, datetime(2024, 6, 3)),
            ("month", NOON, datetime(2024, 6, 1)),
            ("season", NOON, datetime(2024, 6, 1)),
            ("season", datetime(2024, 2, 29, tzinfo=UTC), datetime(2023, 12, 1)),
            ("season", datetime(2024, 12, 31, tzinfo=UTC), datetime(2024, 12, 1)),
            ("season", datetime(2024, 11, 30, tzinfo=UTC), datetime(2024, 9, 1)),
            ("year", NOON, datetime(2024, 1, 1)),
            ("scene", NOON, datetime(2024, 6, 5, 12)),
            ("all", NOON, datetime(2024, 6, 5, 12)),
            ("day", datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), datetime(2023, 12, 31)),
        ],
    )
    def test_a_step_begins_where_the_calendar_says(self, step: Step, when: datetime, start: datetime) -> None:
        (found,) = time_steps([item(when=when)], step)
        assert found.start == start.replace(tzinfo=UTC)

    @given(many_items, st.sampled_from(get_args(Step)), st.randoms())
    def test_every_item_is_in_exactly_one_step_whatever_order_they_come_in(
        self, items: list[Item], step: Step, dice: random.Random
    ) -> None:
        steps = time_steps(items, step)
        assert sorted(i.id for s in steps for i in s.items) == sorted(i.id for i in items)
        assert all(earlier.start < later.start for earlier, later in itertools.pairwise(steps))
        assert all(s.start <= i.datetime for s in steps for i in s.items)
        shuffled = list(items)
        dice.shuffle(shuffled)
        assert time_steps(shuffled, step) == steps

    def test_all_is_one_step_that_begins_with_the_earliest_item(self) -> None:
        (step,) = time_steps([item("late", NOON + timedelta(days=400)), item("early")], "all")
        assert step.start == NOON
        assert [i.id for i in step.items] == ["early", "late"]

    def test_no_items_are_no_steps(self) -> None:
        assert time_steps([], "all") == []

    def test_an_unknown_step_is_refused_by_name(self) -> None:
        with pytest.raises(SpecError, match="'decade'"):
            time_steps([], "decade")  # type: ignore[arg-type]  # the job file is checked elsewhere too


class TestOrder:
    items: Sequence[Item] = (
        item("b", NOON, cloud=50),
        item("a", NOON, cloud=None),
        item("c", NOON - timedelta(days=1), cloud=80),
        item("d", NOON + timedelta(days=1), cloud=float("nan")),
        item("e", NOON + timedelta(days=2), cloud=0),
    )

    @pytest.mark.parametrize(
        ("composite", "order"),
        [("first", "cabde"), ("median", "cabde"), ("latest", "edbac"), ("least-cloudy", "ebcad")],
    )
    def test_each_composite_has_its_order(self, composite: Composite, order: str) -> None:
        for arrangement in itertools.permutations(self.items):
            assert "".join(i.id for i in items_order(arrangement, composite)) == order

    def test_an_unknown_composite_is_refused_by_name(self) -> None:
        with pytest.raises(SpecError, match="'best'"):
            items_order([], "best")  # type: ignore[arg-type]  # the job file is checked elsewhere too


longitudes, latitudes = st.floats(-180, 180), st.floats(-80, 84)


class TestUtmZones:
    def test_an_area_across_a_meridian_and_the_equator_lies_in_four_zones(self) -> None:
        zones = utm_zones(box(5, -1, 7, 1))
        assert [(zone.name, zone.crs) for zone in zones] == [
            ("utm31n", "EPSG:32631"),
            ("utm31s", "EPSG:32731"),
            ("utm32n", "EPSG:32632"),
            ("utm32s", "EPSG:32732"),
        ]
        assert zones[3].strip.equals(box(6, -1, 7, 0))

    @given(longitudes, longitudes, latitudes, latitudes)
    def test_the_strips_cover_the_area_once(self, a: float, b: float, c: float, d: float) -> None:
        area = box(min(a, b), min(c, d), max(a, b), max(c, d))
        if area.area < 1e-6:
            return
        strips = [zone.strip for zone in utm_zones(area)]
        assert sum(strip.area for strip in strips) == pytest.approx(area.area)
        assert shapely.union_all(strips).symmetric_difference(area).area == pytest.approx(0, abs=1e-6)

    def test_what_ends_at_a_meridian_is_not_in_the_zone_beyond(self) -> None:
        assert [zone.name for zone in utm_zones(box(0, 10, 6, 11))] == ["utm31n"]
        assert [zone.name for zone in utm_zones(box(174, 0, 180, 11))] == ["utm60n"]
        assert [zone.name for zone in utm_zones(box(-180, -11, -174, 0))] == ["utm01s"]

    def test_parts_on_either_side_of_the_antimeridian_are_in_the_first_and_last_zone(self) -> None:
        zones = utm_zones(MultiPolygon([box(179, 1, 180, 2), box(-180, 1, -179, 2)]))
        assert [zone.name for zone in zones] == ["utm01n", "utm60n"]

    @pytest.mark.parametrize(
        "area", [box(0, 80, 1, 85), box(0, -85, 1, -70), box(179, 0, 181, 1), Point(1, 1), MultiPolygon()]
    )
    def test_what_utm_cannot_hold_is_refused(self, area: BaseGeometry) -> None:
        with pytest.raises(GridError):
            utm_zones(area)


class TestCoverage:
    def test_full_half_and_none(self) -> None:
        area = box(0, 0, 2, 1)
        assert coverage(area, [item(over=box(-1, -1, 3, 3))]).share == 1
        assert coverage(area, [item(over=box(-1, -1, 3, 3))]).holes.is_empty
        half = coverage(area, [item(over=box(0, 0, 1, 1)), item(over=box(0, 0, 0.5, 1))])
        assert half.share == pytest.approx(0.5)
        assert half.holes.equals(box(1, 0, 2, 1))
        assert coverage(area, []) == (0.0, area)
        assert coverage(area, [item(over=box(5, 5, 6, 6))]).share == 0

    def test_a_sliver_of_rounding_is_no_hole(self) -> None:
        left, right = box(0, 0, 1, 1), box(1, 0, 2, 1)
        found = coverage(box(0, 0, 2, 1), [item(over=left), item(over=right)])
        assert found.share == 1
        assert found.holes.is_empty

    def test_many_dates_of_one_place_cover_what_one_covers(self) -> None:
        area, place = box(0, 0, 2, 1), box(0, 0, 1, 1)
        assert coverage(area, [item(str(n), over=shapely.Polygon(place)) for n in range(50)]) == coverage(
            area, [item(over=place)]
        )

    def test_the_share_is_of_true_area_not_of_degrees(self) -> None:
        area, north = box(0, 0, 10, 80), box(0, 60, 10, 80)
        geod = Geod(ellps="WGS84")

        def on_earth(geometry: BaseGeometry) -> float:
            return abs(geod.geometry_area_perimeter(shapely.segmentize(geometry, 0.1))[0])

        share = coverage(area, [item(over=north)]).share
        assert share == pytest.approx(on_earth(north) / on_earth(area), rel=1e-3)
        assert share < 0.15  # of degrees it is a quarter

    @given(st.lists(st.tuples(st.floats(0, 8), st.floats(40, 48)), max_size=6))
    def test_covered_and_holes_make_the_area(self, corners: list[tuple[float, float]]) -> None:
        area = box(0, 40, 9, 49)
        items = [item(over=box(x, y, x + 1, y + 1)) for x, y in corners]
        found = coverage(area, items)
        assert 0 <= found.share <= 1
        alone = coverage(area, [item(over=found.holes)]).share if not found.holes.is_empty else 0.0
        assert found.share + alone == pytest.approx(1, abs=1e-6)
