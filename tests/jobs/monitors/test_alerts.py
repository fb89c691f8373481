"""Changes become alerts: over a threshold, inside a place, once, and never from what was not seen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod

from jobs.job import Job
from jobs.monitors.alert import Alert, Polygons, share, surface
from jobs.monitors.alerts import EVERYWHERE, alerts_of, tell_alerts
from jobs.monitors.changed_file import every_polygon
from jobs.monitors.rows import AlertRow
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from mapper.changes import ChangeRule, changed_places, find_changes
from mapper.errors import SpecError
from mapper.storage import Folder
from tests.jobs.monitors.changed_ground import PIXEL_M2, SIDE, laid, lonlat, scores, step
from tests.jobs.monitors.receiver import receiver

DUE = datetime(2026, 11, 22, 6, tzinfo=UTC)
RULE = ChangeRule(hysteresis=0.0)
WEST, EAST = (slice(2, 6), slice(1, 5)), (slice(8, 14), slice(9, 13))
"""Rows and columns of a thing of 4 by 4 pixels in the west, and of one of 6 by 4 in the east."""

_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Case:
    """A mosaic with its changes, and what its monitor would tell."""

    url: str
    changes: tuple[Any, ...]

    def job(self, *rules: Mapping[str, Any], folder: Path | str = "/", sinks: Sequence[Any] = ()) -> Job:
        named = [
            {"name": f"rule {n}", "prompt": "thing 0", "change": "appeared", **rule} for n, rule in enumerate(rules)
        ]
        return Job.from_dict(
            {
                "name": "things",
                "area": {"wkt": lonlat(0, 0, SIDE, SIDE).wkt},
                "imagery": {"catalog": "/nowhere/catalog.json", "time_step": "day"},
                "prompts": [{"name": "thing 0", "expression": "things"}],
                "output": {"mosaic": self.url},
                "monitor": {"schedule": "every 1d", "alerts": named, "sinks": list(sinks)},
            },
            folder=folder,
        )

    def alerts(self, *rules: Mapping[str, Any], told: Sequence[str] = (), **how: Any) -> tuple[Alert, ...]:
        return alerts_of(self.job(*rules, **how), "watch", DUE, self.changes, told=told)


def case(folder: Path, layers: NDArray[np.uint8], *, shard_px: int = 8) -> Case:
    url = laid(folder / "map.zarr", layers, shard_px=shard_px)
    return Case(url, tuple(find_changes(url, RULE)))


@pytest.fixture(autouse=True)
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have tests of their own."""
    monkeypatch.setattr("jobs.monitors.alerts.MOST_PICTURES", 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """In the second step a thing appears in the west and one in the east; in the third the west one vanishes."""
    return case(tmp_path_factory.mktemp("two"), scores([], [WEST, EAST], [EAST]))


def within(tmp_path: Path, *features: tuple[str | None, Any]) -> dict[str, str]:
    """Places in a file."""
    path = tmp_path / "places.geojson"
    written = [
        {
            "type": "Feature",
            "properties": {} if name is None else {"name": name},
            "geometry": shapely.geometry.mapping(outline),
        }
        for name, outline in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": written}))
    return {"geojson": str(path)}


# Thresholds -----------------------------------------------------------------------------------------------------------


def test_more_than_the_threshold_is_told_and_as_much_is_not(two: Case) -> None:
    whole = next(one.appeared_m2 for one in two.changes if one.appeared)
    (alert,) = two.alerts({"area_m2": whole - 0.001})
    assert alert.area_m2 == whole
    assert two.alerts({"area_m2": whole}) == ()
    (alert,) = two.alerts({"count": 1})
    assert alert.count == 2
    assert two.alerts({"count": 2}) == ()


def test_an_alert_says_what_changed_where_when_and_how_much_was_seen(two: Case) -> None:
    (alert,) = two.alerts({"area_m2": 0, "change": "vanished"})
    assert (alert.monitor, alert.rule, alert.place) == ("watch", "rule 0", EVERYWHERE)
    assert (alert.prompt, alert.expression, alert.change) == ("thing 0", "things", "vanished")
    assert (alert.time, alert.before, alert.due) == (step(2), step(1), DUE)
    # A hundredth of a square metre a pixel, of which there are 16.
    assert alert.area_m2 == pytest.approx(16 * PIXEL_M2, abs=0.16)
    assert (alert.count, alert.threshold.area_m2, alert.revises) == (1, 0, None)
    (polygon,) = alert.polygons.features
    expected = lonlat(1, 2, 5, 6)
    # An edge of 40 m bends by less than a millionth of its length; the expected one is cut to 5 m.
    assert shapely.geometry.shape(polygon.geometry).symmetric_difference(expected).area < 1e-5 * expected.area
    assert polygon.properties.first_seen == polygon.properties.last_seen == step(1)
    assert alert.bbox == pytest.approx(expected.bounds, abs=1e-9)
    assert alert.observed_share == pytest.approx(1)
    assert alert.comparable_share == pytest.approx(1)
    assert Alert.of(alert.body()) == alert


def test_a_rule_hears_of_its_own_prompt_and_change_alone(tmp_path: Path) -> None:
    layers = np.stack([scores([], [WEST]), scores([], [])])
    found = case(tmp_path, layers)
    assert len(found.alerts({"area_m2": 0})) == 1
    assert found.alerts({"area_m2": 0, "change": "vanished"}) == ()
    job = found.job({"area_m2": 0})
    other = [one for one in found.changes if one.prompt == "thing 1"]
    assert alerts_of(job, "watch", DUE, other) == ()


# Places ---------------------------------------------------------------------------------------------------------------


def test_each_place_is_told_of_by_itself_and_of_the_part_inside_it(two: Case, tmp_path: Path) -> None:
    # The western place holds half of the thing there, the eastern one all of the thing there.
    halves = within(
        tmp_path, ("west", lonlat(0, 0, 3, 16)), ("east", lonlat(8, 0, 16, 16)), ("none", lonlat(6, 0, 8, 16))
    )
    west, east = two.alerts({"area_m2": 0, "within": halves})
    assert (west.place, east.place) == ("west", "east")
    assert west.area_m2 == pytest.approx(8 * PIXEL_M2, abs=0.08)
    assert east.area_m2 == pytest.approx(24 * PIXEL_M2, abs=0.24)
    (cut,) = west.polygons.features
    inside = shapely.geometry.shape(cut.geometry)
    assert inside.within(lonlat(0, 0, 3, 16).buffer(1e-9))
    assert abs(_GEOD.geometry_area_perimeter(inside)[0]) == pytest.approx(west.area_m2, rel=1e-3)
    assert cut.properties.area_m2 == west.area_m2
    assert west.key != east.key


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 15), min_size=1, max_size=4, unique=True), st.booleans())
def test_places_that_share_the_ground_share_what_changed(
    two: Case, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], upright: bool
) -> None:
    edges = [0, *sorted(cuts), 16]
    strips = [
        lonlat(one, 0, other, 16) if upright else lonlat(0, one, 16, other) for one, other in itertools.pairwise(edges)
    ]
    places = within(tmp_path_factory.mktemp("strips"), *((None, strip) for strip in strips))
    told = two.alerts({"area_m2": 0, "within": places})
    whole = next(one.appeared_m2 for one in two.changes if one.appeared)
    assert sum(alert.area_m2 for alert in told) == pytest.approx(whole, rel=1e-6)
    for alert in told:
        strip = strips[int(alert.place) - 1]
        changed = changed_places(two.url, times=[step(1)], kinds="appeared").geometry
        met = [part for shape in changed if (part := shape.intersection(strip)).area > 1e-3 * shape.area / 24]
        assert alert.count == len(met)


def test_places_of_one_name_are_told_apart(two: Case, tmp_path: Path) -> None:
    both = within(tmp_path, ("field", lonlat(0, 0, 8, 16)), ("field", lonlat(8, 0, 16, 16)))
    one, other = two.alerts({"area_m2": 0, "within": both})
    assert (one.place, other.place) == ("field (1)", "field (2)")


def test_places_lie_beside_the_job_file(two: Case, tmp_path: Path) -> None:
    within(tmp_path, ("all", lonlat(0, 0, 16, 16)))
    (alert,) = two.alerts({"area_m2": 0, "within": {"geojson": "places.geojson"}}, folder=tmp_path)
    assert alert.place == "all"
    with pytest.raises(SpecError):
        two.alerts({"area_m2": 0, "within": {"geojson": "nowhere.geojson"}}, folder=tmp_path)


def test_a_box_is_one_place_with_the_name_of_its_rule(two: Case) -> None:
    (alert,) = two.alerts({"area_m2": 0, "within": {"bbox": list(lonlat(0, 0, 16, 16).bounds)}})
    assert alert.place == "rule 0"


@pytest.mark.parametrize(
    "features",
    [[], [{"type": "Feature", "geometry": None}], ["x"], [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]],
)
def test_a_file_that_holds_no_places_is_said(two: Case, tmp_path: Path, features: list[Any]) -> None:
    (tmp_path / "places.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(SpecError):
        two.alerts({"area_m2": 0, "within": {"geojson": str(tmp_path / "places.geojson")}})


# Gaps -----------------------------------------------------------------------------------------------------------------


def test_what_was_not_seen_is_never_told(tmp_path: Path) -> None:
    layers = scores([WEST], [WEST], [WEST])
    layers[1, :, :8] = 254  # the west is under cloud, and was never looked at in the south of the east
    layers[1, 12:, 8:] = 255
    layers[0, :4, 8:] = 254
    found = case(tmp_path, layers)
    assert found.alerts({"area_m2": 0, "change": "vanished"}, {"area_m2": 0}) == ()


@pytest.mark.parametrize("shard_px", [4, 8, 16])
def test_an_alert_says_how_much_of_its_place_was_seen_and_comparable(tmp_path: Path, shard_px: int) -> None:
    layers = scores([], [EAST])
    layers[0, :4] = 254  # four rows of sixteen were not seen before
    layers[1, :, :4] = 254  # four columns are not seen now,
    layers[1, 14:, 8:] = 255  # and a corner was not looked at
    found = case(tmp_path, layers, shard_px=shard_px)
    west_and_more = lonlat(2, 0, 16, 16)
    everywhere, some = found.alerts({"area_m2": 0}, {"area_m2": 0, "within": {"wkt": west_and_more.wkt}})
    seen, both = layers[1] < 254, (layers[0] < 254) & (layers[1] < 254)
    # Pixels of this grid differ by less than a millionth in size.
    assert everywhere.observed_share == pytest.approx(seen.mean(), rel=1e-5)
    assert everywhere.comparable_share == pytest.approx(both.mean(), rel=1e-5)
    assert some.observed_share == pytest.approx(seen[:, 2:].mean(), rel=1e-5)
    assert some.comparable_share == pytest.approx(both[:, 2:].mean(), rel=1e-5)


def test_what_lies_beyond_the_mosaic_was_not_seen(two: Case) -> None:
    (alert,) = two.alerts({"area_m2": 0, "within": {"wkt": lonlat(0, 0, 32, 16).wkt}})
    assert alert.observed_share == pytest.approx(0.5, rel=1e-3)


# Once -----------------------------------------------------------------------------------------------------------------


def test_the_same_changes_have_the_same_key_and_are_told_once(two: Case) -> None:
    (one,) = two.alerts({"area_m2": 0})
    (again,) = two.alerts({"area_m2": 0})
    assert one == again
    assert two.alerts({"area_m2": 0}, told=[f"{one.key}-hook-0f1e2d3c4b", f"{one.key}-rows"]) == ()


def test_the_key_is_of_what_it_is_about(two: Case, tmp_path: Path) -> None:
    alerts = [
        *two.alerts({"area_m2": 0}, {"area_m2": 0}, {"area_m2": 0, "change": "vanished"}),
        *two.alerts({"area_m2": 0, "name": "rule 0", "within": within(tmp_path, ("a", lonlat(0, 0, 16, 16)))}),
        *alerts_of(two.job({"area_m2": 0}), "another", DUE, two.changes),
    ]
    assert len({alert.key[:16] for alert in alerts}) == len(alerts) == 5


def test_what_changes_otherwise_later_revises_what_was_told(tmp_path: Path) -> None:
    told: list[str] = []
    first, second = case(tmp_path / "one", scores([], [WEST])), case(tmp_path / "two", scores([], [WEST, EAST]))
    # A mosaic as it is at first, and as a late item makes it: the monitor's name for both is the same.
    chain = []
    for there in (first, first, second, second, first, first, second):
        found = there.alerts({"area_m2": 0}, told=told)
        chain.append(found)
        told += [alert.key for alert in found]
    assert [len(found) for found in chain] == [1, 0, 1, 0, 1, 0, 1]
    assert len(set(told)) == 4
    assert [found[0].revises for found in chain if found] == [None, *told[:3]]


def test_what_was_told_is_taken_back_where_no_more_than_the_threshold_is_left(tmp_path: Path) -> None:
    much, little, none = (
        case(tmp_path / name, scores([], boxes))
        for name, boxes in (("much", [WEST, EAST]), ("little", [WEST]), ("none", []))
    )
    rule = {"count": 1}
    told: list[str] = []
    chain = []
    for there in (little, much, little, little, none, none, much):
        found = there.alerts(rule, told=told)
        chain += [(there, alert) for alert in found]
        told += [alert.key for alert in found]
    assert [there for there, _ in chain] == [much, little, none, much]
    assert [alert.over_threshold for _, alert in chain] == [True, False, False, True]
    assert [alert.count for _, alert in chain] == [2, 1, 0, 2]
    assert [alert.revises for _, alert in chain] == [None, *told[:3]]
    nothing = chain[2][1]
    assert (nothing.area_m2, nothing.polygons.features, nothing.places, nothing.before) == (0, (), None, None)
    assert nothing.bbox == pytest.approx(lonlat(0, 0, SIDE, SIDE).bounds, abs=1e-9)
    assert "no longer over the threshold" in nothing.headline


def test_a_tick_that_is_done_again_tells_nobody_twice_and_leaves_others_alerts_alone(two: Case, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    store = Monitors(registry)
    store.enqueue([AlertRow(key="another", monitor="other", due=DUE, sink="hook", body="{}", created=DUE)])
    with receiver() as heard:
        job = two.job(
            {"area_m2": 0}, {"count": 0, "change": "vanished"}, sinks=[{"name": "hook", "webhook": heard.url}]
        )
        told = [tell_alerts(job, "watch", DUE, two.changes, store, now=DUE) for _ in range(2)]
        assert [(one.count, one.says) for one in told] == [(2, ("2 alerts",)), (0, ())]
        assert len(heard.posted) == 2
    delivered = [row for row in store.alerts("watch") if row.delivered]
    assert {row.key[:33] for row in delivered} == {posted.headers["webhook-id"] for posted in heard.posted}
    (other,) = store.alerts("other")
    assert other.attempts == 0
    registry.close()


# Files ----------------------------------------------------------------------------------------------------------------


def test_an_alert_holds_the_largest_polygons_and_its_file_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = scores([], [])
    layers[1, ::2, ::2] = 250  # 64 things of a pixel, which touch nowhere
    layers[1, 0, 0:3] = 250
    monkeypatch.setattr("jobs.monitors.alerts.MOST_POLYGONS", 10)
    (alert,) = case(tmp_path, layers).alerts({"count": 5})
    assert alert.count == 63
    assert len(alert.polygons.features) == 10
    areas = [one.properties.area_m2 for one in alert.polygons.features]
    assert areas == sorted(areas, reverse=True)
    everything = every_polygon(alert)
    assert len(everything) == 63
    assert sum(one.properties.area_m2 for one in everything) == pytest.approx(alert.area_m2)
    assert everything[:10] == alert.polygons.features


def test_a_body_stays_small_however_many_corners_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.alerts.BODY_BYTES", 1500)
    layers = scores([], [])
    layers[1, ::2, ::2] = 250
    (alert,) = case(tmp_path, layers).alerts({"count": 5})
    assert 0 < len(alert.polygons.features) < 5
    assert len(every_polygon(alert)) == alert.count == 64


def test_in_a_bucket_all_of_it_lies_beside_the_changes_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.alerts.MOST_PICTURES", 1)
    url = laid(f"{bucket}/watched/map.zarr", scores([], [WEST]), shard_px=16)
    (alert,) = Case(url, tuple(find_changes(url, RULE))).alerts({"area_m2": 0})
    folder = f"{bucket}/watched/map.changes/alerts/{alert.key}"
    assert alert.pictures.after == f"{folder}/after.png"
    assert alert.places == f"{folder}/places.parquet"
    assert Folder(folder).read("after.png").startswith(b"\x89PNG")
    assert every_polygon(alert.model_copy(update={"polygons": Polygons(features=())})) == alert.polygons.features


HOSTILE = "../../etc\n<script>\x00\x1b[31m" + "x" * 500


def test_names_of_strangers_become_no_path_and_no_line(two: Case, tmp_path: Path) -> None:
    (alert,) = two.alerts({"area_m2": 0, "within": within(tmp_path, (HOSTILE, lonlat(0, 0, 16, 16)))})
    assert alert.place.isprintable()
    assert len(alert.place) < 150
    folder = Path(two.url.replace(".zarr", ".changes")) / "alerts" / alert.key
    assert sorted(path.name for path in folder.iterdir()) == ["places.parquet"]
    assert alert.places == str(folder / "places.parquet")


@pytest.mark.parametrize(
    ("area_m2", "said"),
    [(0, "0 m²"), (12.34, "12.3 m²"), (950, "950 m²"), (9999, "9,999 m²"), (41_230, "4.12 ha"), (1.5e6, "1.5 km²"),
     (2.5e9, "2,500 km²")],
)  # fmt: skip
def test_surfaces_are_said_as_people_say_them(area_m2: float, said: str) -> None:
    assert surface(area_m2) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0, "0 %"),
        (1, "100 %"),
        (0.99996, "99.99 %"),
        (0.9951, "99.51 %"),
        (0.983, "98 %"),
        (0.0004, "0.04 %"),
    ],
)
def test_a_share_that_lacks_a_little_is_never_the_whole(value: float | None, said: str) -> None:
    assert share(value) == said
