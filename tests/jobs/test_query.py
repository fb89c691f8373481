"""``resmap query``: what it prints, and how it ends."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import zarr
from pyproj import Transformer
from shapely.geometry import Polygon, box

from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.questions import area
from tests.mapper.mosaics import PROMPTS, TIMES, Known, known_mosaic, small_grid
from tests.stories.command_line import Resmap, command_line
from tests.stories.world import World, mapped

GRID = small_grid("EPSG:32633", 10.0, (480_000, 6_100_000))
LEFT, BOTTOM, RIGHT, TOP = GRID.lattice.bounds(GRID.box)


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    monkeypatch.setenv("COLUMNS", "160")
    return command_line(monkeypatch, capsys)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Without gaps."""
    return known_mosaic([GRID], url=str(tmp_path_factory.mktemp("query") / "map.zarr"), gaps=False, missing=False)


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_mosaic([GRID], url=str(tmp_path_factory.mktemp("gaps") / "map.zarr"))


@pytest.fixture
def districts(tmp_path: Path) -> Path:
    """Two districts of the mosaic, in its CRS."""
    middle = (LEFT + RIGHT) / 2
    shapes = [box(LEFT, BOTTOM, middle, TOP), box(middle, BOTTOM, RIGHT, TOP)]
    path = tmp_path / "districts.gpkg"
    gpd.GeoDataFrame({"NAME": ["West[red]", "East"], "code": [1, 2]}, geometry=shapes, crs="EPSG:32633").to_file(path)
    return path


def bbox() -> str:
    """A box within the mosaic."""
    lonlat = Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    return ",".join(f"{value:.7f}" for value in lonlat.transform_bounds(LEFT + 90, BOTTOM + 90, RIGHT - 90, TOP - 90))


def test_area_as_json_is_what_python_answers(resmap: Resmap, known: Known, districts: Path) -> None:
    said = resmap("query", "area", known.url, "--polygons", districts, "--json")
    assert said.status == 0
    expected = area(known.url, districts)
    assert said.document == {"rows": json.loads(json.dumps(expected.as_json())), "notes": []}
    assert said.document["rows"][0]["time"] == "2023-06-01T00:00:00+00:00"


def test_area_as_csv_has_units_in_its_headings(resmap: Resmap, known: Known) -> None:
    said = resmap("query", "area", known.url, "--bbox", bbox(), "--csv", "--time", "latest")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["prompt"] for row in rows] == ["building", "lake"]
    columns = ["feature", "prompt", "time", "present_km2", "absent_km2", "unobserved_km2", "unmapped_km2"]
    assert list(rows[0]) == [*columns, "present_share", "gap_share"]
    assert float(rows[0]["gap_share"]) == 0.0


def test_area_for_people_is_a_table_with_gaps_in_their_own_column(
    resmap: Resmap, gappy: Known, districts: Path
) -> None:
    said = resmap("query", "area", gappy.url, "--polygons", districts, "--prompt", "lake", "--allow-gaps", 1)
    assert said.status == 0
    for heading in ("present", "absent", "unobserved", "unmapped", "km²", "gaps", "of place"):
        assert heading in said.out
    rows = [line for line in said.out.splitlines() if "lake" in line]
    assert [line.split()[0] for line in rows] == ["West[red]", "West[red]", "East", "East"]
    assert all(line.rstrip().endswith("%") for line in rows)


def test_a_column_names_the_districts(resmap: Resmap, known: Known, districts: Path) -> None:
    said = resmap("query", "area", known.url, "--polygons", districts, "--column", "code", "--json")
    assert {row["feature"] for row in said.document["rows"]} == {"1", "2"}


def test_what_was_mended_is_told_on_stderr_and_in_the_document(resmap: Resmap, known: Known, tmp_path: Path) -> None:
    bow = Polygon([(LEFT + 9, TOP - 9), (RIGHT - 9, BOTTOM + 9), (RIGHT - 9, TOP - 9), (LEFT + 9, BOTTOM + 9)])
    gpd.GeoDataFrame({"name": ["bow"]}, geometry=[bow], crs="EPSG:32633").to_file(tmp_path / "a.gpkg")
    said = resmap("query", "area", known.url, "--polygons", tmp_path / "a.gpkg", "--json")
    assert said.status == 0
    assert "note: a.gpkg: the outline of bow was mended" in said.err
    assert said.document["notes"][0].startswith("a.gpkg: the outline of bow was mended")


def test_change_tells_what_appeared_and_vanished(resmap: Resmap, known: Known) -> None:
    said = resmap("query", "change", known.url, "--from", "2023", "--to", "2024", "--prompt", "lake", "--json")
    before, after = known.masks[""][1]
    (row,) = said.document["rows"]
    pixel_km2 = 1e-4 / 0.9996**2  # on UTM's meridian
    assert row["appeared_km2"] == pytest.approx(((before == 0) & (after == 1)).sum() * pixel_km2, rel=1e-5)
    assert row["vanished_km2"] == pytest.approx(((before == 1) & (after == 0)).sum() * pixel_km2, rel=1e-5)
    assert row["not_comparable_km2"] == 0
    assert "appeared" in resmap("query", "change", known.url, "--from", "2023").out


def test_count_and_where_tell_of_the_same_objects(resmap: Resmap, known: Known) -> None:
    how = ("--prompt", "lake", "--time", "2023", "--bbox", bbox(), "--json")
    (row,) = resmap("query", "count", known.url, *how).document["rows"]
    objects = resmap("query", "where", known.url, *how, "--limit", 1000).document["rows"]
    assert row["objects"] == len(objects) > 1
    assert row["objects_km2"] == pytest.approx(sum(one["area_m2"] for one in objects) / 1e6)


def test_where_shows_the_largest_and_says_that_there_are_more(resmap: Resmap, known: Known) -> None:
    said = resmap("query", "where", known.url, "--limit", 3)
    assert "there may be more" in said.err
    assert said.out.startswith("whole mosaic")
    assert len([line for line in said.out.splitlines() if " 202" in line]) == 3


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".parquet", ".csv"])
def test_where_writes_what_it_found(resmap: Resmap, known: Known, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"found{ending}"
    said = resmap("query", "where", known.url, "--prompt", "lake", "--limit", 4, "--out", out)
    assert said.status == 0
    assert "wrote 4 objects" in said.err
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if ending == ".csv":
        assert len(list(csv.DictReader(io.StringIO(out.read_text())))) == 4
        return
    read = gpd.read_parquet(out) if ending == ".parquet" else gpd.read_file(out)
    assert len(read) == 4
    assert set(read.geometry.geom_type) <= {"Polygon", "MultiPolygon"}
    assert read.crs.to_epsg() == 4326 or read.crs.to_authority() == ("OGC", "CRS84")
    assert str(read["time"].dt.tz) == "UTC"


def test_where_there_is_nothing_it_says_so(resmap: Resmap, tmp_path: Path) -> None:
    url = str(tmp_path / "map.zarr")
    Mosaic.create(url, MosaicSpec(grids=(GRID,), prompts=PROMPTS, times=TIMES, made_by={}))
    out = tmp_path / "none.geojson"
    said = resmap("query", "where", url, "--allow-gaps", 1, "--out", out)
    assert (said.status, said.out) == (0, "nothing was found\n")
    assert json.loads(out.read_text())["features"] == []


def test_too_many_gaps_end_with_8_and_no_answer(resmap: Resmap, gappy: Known, districts: Path) -> None:
    said = resmap("query", "area", gappy.url, "--polygons", districts)
    assert (said.status, said.out) == (8, "")
    assert "was not seen, and 10 % is allowed" in said.complaint
    assert "feature " in said.err
    share = said.remedy.split("--allow-gaps ")[1].split()[0]
    assert resmap("query", "area", gappy.url, "--polygons", districts, "--allow-gaps", share).status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompt", "biulding"), "no prompt 'biulding'"),
        (("--time", "2019"), "no time step in 2019"),
        (("--time", "soon"), "is no time"),
        (("--bbox", "1,2,3"), "is no box"),
        (("--bbox", "12,a,13,4"), "is no box"),
        (("--bbox", "-10,5,-9,6"), "no part of the place lies on the mosaic"),
        (("--bbox", "179,1,-179,2"), "west beyond its east"),
        (("--polygons", "none.gpkg"), "no such file"),
        (("--bbox", "1,2,3,4", "--polygons", "x"), "are two places"),
        (("--crs", "EPSG:4326"), "no --polygons is given"),
    ],
)
def test_a_wrong_question_is_told_in_a_sentence(
    resmap: Resmap, known: Known, words: tuple[str, ...], says: str
) -> None:
    said = resmap("query", "area", known.url, *words)
    assert said.status == 2
    assert says in said.complaint
    assert said.remedy
    assert said.out == ""


def test_a_wrong_out_is_refused_before_anything_is_read(resmap: Resmap, tmp_path: Path, known: Known) -> None:
    assert "says no format" in resmap("query", "where", known.url, "--out", tmp_path / "a.xlsx").complaint
    assert "no such folder" in resmap("query", "where", known.url, "--out", tmp_path / "b" / "a.csv").complaint
    assert resmap("query", "where", known.url, "--order", "size").status == 2


def test_what_is_no_mosaic_ends_with_3(resmap: Resmap, tmp_path: Path) -> None:
    assert resmap("query", "area", tmp_path / "nothing.zarr").status == 3
    theirs = tmp_path / "theirs.zarr"
    zarr.create_group(str(theirs), zarr_format=3, attributes={"title": "somebody's"})
    assert resmap("query", "area", theirs).status == 3


def test_a_later_layout_ends_with_3(resmap: Resmap, tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"))
    root = zarr.open_group(known.url, mode="r+")
    root.attrs["resmap"] = {**root.attrs["resmap"], "layout": 99}  # type: ignore[dict-item]  # JSON
    said = resmap("query", "area", known.url)
    assert (said.status, said.remedy) == (3, "upgrade resmap")


def test_a_run_that_is_under_way_is_answered_with_its_gaps(resmap: Resmap, tmp_path: Path) -> None:
    known = known_mosaic([GRID], url=str(tmp_path / "map.zarr"), gaps=False, missing=False)
    known.mosaic.add_times([datetime(2025, 1, 1, tzinfo=UTC)])
    (row,) = resmap(
        "query", "area", known.url, "--prompt", "lake", "--time", "2025", "--allow-gaps", 1, "--json"
    ).document["rows"]
    assert (row["gap_share"], row["present_share"], row["present_km2"]) == (1.0, None, 0.0)


def test_a_job_that_ran_is_asked_about_all_of_its_area(resmap: Resmap, world: World, tmp_path: Path) -> None:
    mapped(world.job(tmp_path / "map.zarr", area=world.rectangle(20, 20, 340, 380)))
    said = resmap("query", "area", tmp_path / "map.zarr", "--json", "--allow-gaps", 1)
    (row,) = said.document["rows"]
    total = sum(row[f"{name}_km2"] for name in ("present", "absent", "unobserved", "unmapped"))
    # The area of 320 × 360 m, in pixels of 1 m of which none is cut; UTM's scale there is 1.00005 a side.
    assert total == pytest.approx(320 * 360 / 1e6, rel=2e-3)
    assert row["unobserved_km2"] > 0  # the slanted edge of the west item
    found = resmap("query", "where", tmp_path / "map.zarr", "--json", "--allow-gaps", 1, "--limit", 100).document
    assert {one["item"] for one in found["rows"]} <= {"west", "middle", "north", "east"}
    assert np.isfinite([one["score"] for one in found["rows"]]).all()


def test_help_tells_the_exit_status_of_gaps(resmap: Resmap) -> None:
    assert "Exit status 8" in resmap("query", "--help").out
