"""Whatever is given for an area, it is a surface on Earth or a sentence says why not, in bounded time and memory."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from shapely.geometry import box

from jobs import areas
from jobs.areas import MENDED_HERE, MOST_CORNERS, geometry_of
from jobs.spec import Area
from mapper.errors import CatalogError, CredentialsError, MapperError, SpecError
from tests.hostile.catalogs import WRONG, places, replaced
from tests.hostile.jobs import NO_AREAS, NO_WKT, SQUARE, circle, nested, polygon, star
from tests.hostile.outcome import outcome
from tests.hostile.servers import Reply, said_by

HERE = box(12.0, 55.0, 12.1, 55.1)


def area_in(folder: Path, document: object) -> object:
    (folder / "area.geojson").write_text(document if isinstance(document, str) else json.dumps(document))
    return outcome(lambda: geometry_of(Area(geojson="area.geojson"), folder=folder))


@pytest.mark.parametrize("name", NO_AREAS)
def test_what_is_no_area_is_refused(name: str, tmp_path: Path) -> None:
    error = area_in(tmp_path, NO_AREAS[name])
    assert isinstance(error, SpecError)
    assert error.fix


@pytest.mark.parametrize("text", NO_WKT, ids=lambda text: ascii(text)[:40])
def test_what_is_no_wkt_is_refused(text: str) -> None:
    assert isinstance(outcome(lambda: geometry_of(Area(wkt=text), folder=Path())), SpecError)


def test_any_wrong_value_in_a_document_is_taken_or_refused(tmp_path: Path) -> None:
    good = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": {}, "geometry": polygon(SQUARE)}],
    }
    answers = [area_in(tmp_path, replaced(good, place, value)) for place in places(good) for value in WRONG.values()]
    assert len(answers) > 200
    refused = [answer for answer in answers if isinstance(answer, MapperError)]
    assert 50 < len(refused) < len(answers)


def test_latitude_before_longitude_is_said_where_it_is_certain(tmp_path: Path) -> None:
    error = area_in(tmp_path, NO_AREAS["latitude first"])
    assert isinstance(error, SpecError)
    assert "the other way round" in error.what
    assert error.fix == "give longitude first, then latitude"


def test_beyond_the_antimeridian_the_remedy_is_to_cut(tmp_path: Path) -> None:
    error = area_in(tmp_path, NO_AREAS["beyond the antimeridian"])
    assert isinstance(error, SpecError)
    assert "antimeridian" in error.fix


def test_an_open_ring_is_closed_and_heights_are_dropped(tmp_path: Path) -> None:
    high = [[x, y, 100.0] for x, y in SQUARE[:-1]]
    area = area_in(tmp_path, polygon(high))
    assert area == HERE or HERE.equals(area)
    assert not area.has_z  # type: ignore[attr-defined]


def test_points_and_lines_beside_polygons_add_nothing(tmp_path: Path) -> None:
    parts = [{"type": "Point", "coordinates": [0, 0]}, {"type": "LineString", "coordinates": SQUARE}, polygon(SQUARE)]
    area = area_in(tmp_path, {"type": "GeometryCollection", "geometries": [*parts, nested(3)]})
    assert HERE.equals(area)


def test_a_file_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "gone", "/dev/zero", "/proc/self/mem", "s3://b/a.geojson", "file:///gone", "a" * 300):
        assert isinstance(outcome(partial(geometry_of, Area(geojson=name), folder=tmp_path)), SpecError)


def test_a_file_of_ten_million_corners_is_refused_before_it_is_read(tmp_path: Path) -> None:
    corner = b"[12.0000001,55.0000001],"
    with (tmp_path / "area.geojson").open("wb") as file:
        file.write(b'{"type":"Polygon","coordinates":[[')
        for _ in range(100):
            file.write(corner * 25_000)  # 2.5 million are as many as the limit of the file lets through
    begun = time.process_time()
    error = outcome(lambda: geometry_of(Area(geojson="area.geojson"), folder=tmp_path))
    assert isinstance(error, SpecError)
    assert "corners" in error.what
    assert time.process_time() - begun < 20  # of this process; reading it as JSON takes minutes
    with (tmp_path / "area.geojson").open("ab") as file:
        file.truncate(10 * 2**28)  # as sparse as can be: nothing of it lies on the disk
    error = outcome(lambda: geometry_of(Area(geojson="area.geojson"), folder=tmp_path))
    assert isinstance(error, MapperError)
    assert "larger than 64 MiB" in error.what


def test_an_honest_outline_of_many_corners_is_taken_whole(tmp_path: Path) -> None:
    area = area_in(tmp_path, polygon(circle(2 * MENDED_HERE)))
    assert area.area == pytest.approx(3.14159, rel=1e-4)  # type: ignore[attr-defined]


def test_an_outline_too_tangled_to_mend_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "MENDING_S", 1.0)  # two minutes are too long for a test
    error = area_in(tmp_path, polygon(star(2 * MENDED_HERE + 1)))
    assert isinstance(error, SpecError)
    assert "crosses itself too often" in error.what


def test_the_corners_of_an_area_are_counted() -> None:
    ring = ", ".join(f"{12 + n / 1e7:.7f} {55 + n % 2}" for n in range(MOST_CORNERS))
    error = outcome(lambda: geometry_of(Area(wkt=f"POLYGON(({ring}, 12 55))"), folder=Path()))
    assert isinstance(error, SpecError)
    assert "corners" in error.what


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=302, headers={"Location": "http://169.254.169.254/latest"}), CatalogError),
        (Reply(status=302, headers={"Location": "file:///etc/passwd"}), CatalogError),
        (Reply(status=404), SpecError),
        (Reply(status=401), CredentialsError),
        (Reply(body=b"<html>Sign in</html>"), SpecError),
        (Reply(body=json.dumps(polygon(SQUARE)).encode()), type(HERE)),
    ],
    ids=lambda value: str(getattr(value, "status", getattr(value, "__name__", ""))),
)
def test_an_address_is_read_by_the_same_rules_as_a_catalog(reply: Reply, kind: type) -> None:
    with said_by({"/area.geojson": reply}) as server:
        answer = outcome(lambda: geometry_of(Area(geojson=f"{server.url}/area.geojson"), folder=Path()))
        assert isinstance(answer, kind)
        assert len(server.asked) == 1
        if isinstance(answer, MapperError):
            assert answer.where["file"] == f"{server.url}/area.geojson"
