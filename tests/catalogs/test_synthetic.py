"""The synthetic Earth: the same ground whoever looks, and a demo catalog whose facts are true."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box, shape

from catalogs.synthetic import (
    BUILDING,
    CLASSES,
    DEMO_AREA,
    DEMO_DATES,
    LAKE,
    DemoCatalog,
    Scene,
    World,
    random_places,
    utm_code,
    write_demo_catalog,
)

JUNE = datetime.date(2023, 6, 21)
CLEAR = (4, 5, 6)

places = st.sampled_from(
    [
        ("EPSG:32632", 690_000.0, 6_145_000.0, 1.0),
        ("EPSG:32633", 310_117.3, 6_145_233.7, 0.3),
        ("EPSG:3857", -6_500_000.0, -4_100_000.0, 1.194),
        ("EPSG:4326", 12.0007, 55.0004, 1e-5),  # just above the cut between two bands of the plane
        ("EPSG:32643", 720_000.0, 3_050_000.0, 10.0),
    ]
)


def draw(crs: str, left: float, top: float, side: float, shape: tuple[int, int], date: datetime.date = JUNE) -> Scene:
    return World().draw(crs=crs, transform=Affine(side, 0, left, 0, -side, top), shape=shape, date=date)


@settings(max_examples=12, deadline=None)
@given(place=places, down=st.integers(0, 90), right=st.integers(0, 90))
def test_a_cut_of_a_raster_drawn_alone_equals_the_same_cut_of_the_whole(
    place: tuple[str, float, float, float], down: int, right: int
) -> None:
    crs, left, top, side = place
    whole = draw(crs, left, top, side, (130, 130))
    part = draw(crs, left + right * side, top - down * side, side, (40, 40))
    where = np.s_[down : down + 40, right : right + 40]
    assert (part.truth == whole.truth[where]).all()
    assert (part.pixels == whole.pixels[:, where[0], where[1]]).all()


def test_two_halves_wider_than_a_block_join_without_a_trace() -> None:
    whole = draw("EPSG:32632", 689_000, 6_146_500, 1, (300, 600))
    halves = [draw("EPSG:32632", 689_000 + 300 * n, 6_146_500, 1, (300, 300)) for n in range(2)]
    assert (np.concatenate([half.pixels for half in halves], axis=2) == whole.pixels).all()
    assert (np.concatenate([half.truth for half in halves], axis=1) == whole.truth).all()


@pytest.mark.parametrize(("crs", "side"), [("EPSG:32633", 1.0), ("EPSG:3857", 1.76), ("EPSG:4326", 1.3e-5)])
def test_another_projection_shows_the_same_things_in_the_same_places(crs: str, side: float) -> None:
    here = draw("EPSG:32632", 689_300, 6_145_900, 1, (500, 500))
    rows, columns = np.mgrid[50:450, 50:450]
    to_other = Transformer.from_crs("EPSG:32632", crs, always_xy=True)
    x, y = to_other.transform(689_300 + columns + 0.5, 6_145_900 - rows - 0.5)
    left, top = x.min() - side, y.max() + side
    size = int((y.max() - y.min()) / side) + 3, int((x.max() - x.min()) / side) + 3
    there = draw(crs, left, top, side, size)
    found = there.truth[((top - y) / side).astype(int), ((x - left) / side).astype(int)]
    assert len(np.unique(found)) >= 4
    assert (found == here.truth[50:450, 50:450]).mean() > 0.97


@pytest.mark.parametrize(("coarse_m", "fine_m"), [(3.0, 1.0), (10.0, 2.0)])
def test_a_finer_raster_agrees_with_a_coarser_at_shared_pixel_centres(coarse_m: float, fine_m: float) -> None:
    times, size = round(coarse_m / fine_m), round(900 / coarse_m)
    coarse = draw("EPSG:32632", 688_700, 6_146_200, coarse_m, (size, size))
    fine = draw("EPSG:32632", 688_700, 6_146_200, fine_m, (size * times, size * times))
    middle = times // 2
    assert (fine.truth[middle::times, middle::times] == coarse.truth).all()


def test_two_processes_draw_the_same_bits() -> None:
    program = (
        "import datetime, hashlib; from affine import Affine; from catalogs.synthetic import World;"
        "at = Affine(1, 0, 690000, 0, -1, 6146600);"
        "s = World(3).draw(crs='EPSG:32632', transform=at, shape=(150, 150), date=datetime.date(2023, 6, 21));"
        "print(hashlib.sha256(s.pixels.tobytes() + s.truth.tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    first, second = (
        subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert first.strip()


def test_another_seed_is_another_earth() -> None:
    one, two = (
        World(seed).draw(
            crs="EPSG:32632", transform=Affine(2, 0, 690_000, 0, -2, 6_146_600), shape=(200, 200), date=JUNE
        )
        for seed in (1, 2)
    )
    assert (one.truth != two.truth).mean() > 0.2


def test_the_year_changes_the_colours_and_hardly_the_ground() -> None:
    june, november = (
        draw("EPSG:32632", 689_000, 6_146_500, 2, (300, 300), datetime.date(2023, month, 15)) for month in (6, 11)
    )
    assert np.abs(june.pixels.astype(float).mean((1, 2)) - november.pixels.astype(float).mean((1, 2))).max() > 5
    assert (june.truth == november.truth).mean() > 0.99


def test_houses_are_built_over_the_years_and_none_is_torn_down() -> None:
    then, now = (
        draw("EPSG:32632", 689_300, 6_145_900, 1, (600, 600), datetime.date(year, 6, 15)).truth == BUILDING
        for year in (2015, 2029)
    )
    assert (now & ~then).sum() > 100
    assert not (then & ~now).any()


def test_no_building_stands_in_a_lake_at_any_stand_of_its_water() -> None:
    for lon, lat in random_places(4, seed=5, villages=1.0):
        crs = utm_code(lon, lat)
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        frame = (round(x) - 400.0, round(y) + 400.0, 2.0, (400, 400))
        scenes = [draw(crs, *frame, datetime.date(2023, month, 1)) for month in (4, 10)]
        built = np.logical_or.reduce([scene.truth == BUILDING for scene in scenes])
        wet = np.logical_or.reduce([scene.truth == LAKE for scene in scenes])
        near = built.copy()
        near[1:] |= built[:-1]
        near[:-1] |= built[1:]
        near[:, 1:] |= built[:, :-1]
        near[:, :-1] |= built[:, 1:]
        assert not (near & wet).any(), (lon, lat)


def test_villages_can_be_found_anywhere_and_are_built_on() -> None:
    shares = []
    for lon, lat in random_places(6, seed=2, villages=1.0):
        crs = utm_code(lon, lat)
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        scene = draw(crs, x - 150, y + 150, 2, (150, 150))
        shares.append(float((scene.truth == BUILDING).mean()))
    assert np.mean(shares) > 0.04, shares


def test_random_places_are_the_same_each_time_and_spread_over_the_globe() -> None:
    found = np.array(random_places(200, seed=1))
    assert (found == np.array(random_places(200, seed=1))).all()
    assert found[:, 0].min() < -150
    assert found[:, 0].max() > 150
    assert found[:, 1].min() > -61
    assert found[:, 1].max() < 71


@pytest.mark.parametrize(("lon", "lat"), [(179.9999, 10.0), (-70.0, -55.25), (20.0, 69.9), (0.0, 0.0)])
def test_awkward_corners_of_the_globe_can_be_drawn(lon: float, lat: float) -> None:
    scene = draw("EPSG:4326", lon, lat, 1e-5, (40, 40))
    assert scene.pixels.min() > 0
    assert scene.truth.max() < len(CLASSES)


def test_a_turned_raster_and_one_of_a_single_pixel_can_be_drawn() -> None:
    turned = World().draw(
        crs="EPSG:32632", transform=Affine(0.8, 0.6, 690_000, 0.6, -0.8, 6_146_000), shape=(50, 70), date=JUNE
    )
    one = draw("EPSG:32632", 690_000, 6_146_000, 1, (1, 1))
    assert turned.pixels.shape == (3, 50, 70)
    assert one.truth[0, 0] == draw("EPSG:32632", 690_000, 6_146_000, 1, (5, 5)).truth[0, 0]


# The demo catalog


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoCatalog:
    return write_demo_catalog(tmp_path_factory.mktemp("demo"), resolution_m=2.0)


@pytest.fixture(scope="module")
def items(demo: DemoCatalog) -> list[pystac.Item]:
    return list(pystac.Catalog.from_file(str(demo.catalog)).get_items(recursive=True))


def read(item: pystac.Item, asset: str) -> NDArray[np.uint8]:
    with rasterio.open(item.assets[asset].get_absolute_href()) as file:
        pixels: NDArray[np.uint8] = file.read()
    return pixels


def placement(item: pystac.Item) -> tuple[str, Affine]:
    return item.properties["proj:code"], Affine(*item.properties["proj:transform"][:6])


def test_the_demo_has_three_dates_in_each_of_two_zones(demo: DemoCatalog, items: list[pystac.Item]) -> None:
    found = sorted((item.properties["proj:code"], item.datetime.date()) for item in items if item.datetime)
    assert found == [(f"EPSG:326{zone}", date) for zone in (32, 33) for date in DEMO_DATES]
    assert {item.collection_id for item in items} == {demo.collection} == {"resmap-demo"}


def test_every_href_in_the_catalog_is_relative_and_leads_to_a_file(demo: DemoCatalog) -> None:
    for path in demo.catalog.parent.rglob("*.json"):
        found = pystac.read_dict(pystac.StacIO.default().read_json(str(path)))
        hrefs = [str(link.target) for link in found.links if isinstance(link.target, str)]
        hrefs += [asset.href for asset in getattr(found, "assets", {}).values()]
        for href in hrefs:
            assert not href.startswith("/")
            assert (path.parent / href).is_file()


def test_what_an_item_says_of_its_files_is_what_the_files_say(items: list[pystac.Item]) -> None:
    for item in items:
        crs, transform = placement(item)
        assert item.assets["image"].extra_fields["bands"][1]["name"] == "green"
        for asset, count in (("image", 3), ("scl", 1)):
            with rasterio.open(item.assets[asset].get_absolute_href()) as file:
                assert file.crs == rasterio.crs.CRS.from_user_input(crs)
                assert file.transform == transform
                assert [file.height, file.width] == item.properties["proj:shape"]
                assert (file.count, file.dtypes[0], file.nodata) == (count, "uint8", 0)
                assert file.block_shapes[0] == (512, 512)
                assert file.overviews(1)


def test_pixels_are_black_exactly_where_the_camera_did_not_look(items: list[pystac.Item]) -> None:
    unseen_shares = {}
    for item in items:
        pixels, scl = read(item, "image"), read(item, "scl")[0]
        assert ((pixels == 0).any(0) == (scl == 0)).all()
        assert ((pixels == 0).all(0) == (scl == 0)).all()
        unseen_shares[item.id.split("-")[-1]] = float((scl == 0).mean())
    assert unseen_shares["cloudy"] == unseen_shares["clear"] == 0
    assert 0.1 < unseen_shares["swath"] < 0.4


def test_cloud_cover_is_the_share_of_cloud_pixels(items: list[pystac.Item]) -> None:
    for item in items:
        scl = read(item, "scl")[0]
        share = 100 * np.isin(scl, (8, 9))[scl != 0].mean()
        assert item.properties["eo:cloud_cover"] == pytest.approx(share, abs=0.01)
        assert (15 < share < 75) if "cloudy" in item.id else share == 0


def test_pixels_flagged_clear_show_the_world_untouched(demo: DemoCatalog, items: list[pystac.Item]) -> None:
    item = next(item for item in items if "cloudy" in item.id)
    assert item.datetime
    pixels, scl = read(item, "image"), read(item, "scl")[0]
    crs, transform = placement(item)
    bare = demo.world.draw(crs=crs, transform=transform, shape=scl.shape, date=item.datetime.date()).pixels
    clear = np.isin(scl, CLEAR)
    assert (pixels[:, clear] == bare[:, clear]).all()
    cloudy = scl == 9
    assert np.abs(pixels[:, cloudy].astype(int) - bare[:, cloudy]).mean() > 40


def test_every_point_of_the_area_was_seen_cloudless_at_least_once(items: list[pystac.Item]) -> None:
    west, south, east, north = DEMO_AREA
    lon, lat = (a.ravel() for a in np.meshgrid(np.linspace(west, east, 300), np.linspace(south, north, 300)))
    seen = np.zeros(lon.shape, bool)
    for item in items:
        crs, transform = placement(item)
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        scl = read(item, "scl")[0]
        column = np.floor((x - transform.c) / transform.a).astype(int)
        row = np.floor((y - transform.f) / transform.e).astype(int)
        inside = (row >= 0) & (row < scl.shape[0]) & (column >= 0) & (column < scl.shape[1])
        seen[inside] |= np.isin(scl[row[inside], column[inside]], CLEAR)
    assert seen.all()


def test_footprints_lie_where_the_pixels_are(items: list[pystac.Item]) -> None:
    for item in items:
        footprint = shape(item.geometry)
        assert footprint.is_valid
        assert item.bbox == pytest.approx(footprint.bounds, abs=1e-6)
        crs, transform = placement(item)
        rows, columns = np.nonzero(read(item, "scl")[0][::40, ::40])
        x, y = transform.c + (columns * 40 + 0.5) * transform.a, transform.f + (rows * 40 + 0.5) * transform.e
        lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
        assert all(footprint.buffer(6e-5).intersects(box(a, b, a, b)) for a, b in zip(lon, lat, strict=True))


def test_every_class_is_in_the_demo_in_amounts_that_make_a_score_mean_something(demo: DemoCatalog) -> None:
    west, south, east, north = demo.area
    side = 4e-5
    truth = demo.truth(
        crs="EPSG:4326",
        transform=Affine(side, 0, west, 0, -side / 2, north),
        shape=(int((north - south) / side * 2), int((east - west) / side)),
    )
    share = dict(zip(CLASSES, np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size, strict=True))
    assert share["building"] > 0.02, share
    assert share["road"] > 0.02, share
    assert 0.06 < share["lake"] < 0.18, share
    assert min(share["field"], share["woods"], share["land"]) > 0.08, share


def test_writing_the_demo_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        write_demo_catalog(folder, resolution_m=6.0)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(tmp_path / "one") == digests(tmp_path / "two")
