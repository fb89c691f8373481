"""Items and a box of lattice pixels → pixels, valid mask and source. Real files, real servers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from PIL import Image
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from mapper.errors import AssetError, BrokenReadError, CredentialsError, MapperError, ReadError, SpecError
from mapper.grid import Lattice, PixelBox
from mapper.imagery import NO_SOURCE, Band, CloudMask, Item, Placement, View
from mapper.raster import header_of
from mapper.read import RasterReader
from tests.mapper.rasters import NEPAL, UTM45, item_of, place_pixels, placed, smooth_pixels, write_raster
from tests.servers import Fault, files_over_http
from tests.strategies import parts_of

WIDER = PixelBox(NEPAL.top - 30, NEPAL.left - 20, NEPAL.bottom + 10, NEPAL.right + 40)


def read(item: Item, box: PixelBox = NEPAL, *, lattice: Lattice = UTM45, bands: int = 3, **how: object) -> View:
    """One item over a box."""
    return RasterReader(bands=bands, **how).read([placed(item)], lattice, box)  # type: ignore[arg-type]  # as given


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster on the lattice."""
    path = tmp_path_factory.mktemp("aligned") / "aligned.tif"
    return write_raster(path, place_pixels(NEPAL), UTM45.transform(NEPAL))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster of soft waves in the zone next door, that holds all of NEPAL, with a hole of nodata."""
    path = tmp_path_factory.mktemp("warped") / "warped.tif"
    left, bottom, right, top = transform_bounds(UTM45.crs, "EPSG:32644", *UTM45.bounds(NEPAL))
    rows, columns = int((top - bottom) / 0.43) + 20, int((right - left) / 0.43) + 20
    transform = Affine(0.43, 0, left - 3.3, 0, -0.43, top + 3.1)
    pixels = smooth_pixels(PixelBox(0, 0, rows, columns))
    pixels[:, 200:240, 250:300] = 0
    return write_raster(path, pixels, transform, crs="EPSG:32644", nodata=0)


@pytest.fixture(scope="module")
def finer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster of 0.5 m whose corner lies on a lattice of 4 m."""
    path = tmp_path_factory.mktemp("finer") / "finer.tif"
    box = PixelBox(-6_120_096, 668_048, -6_120_096 + 480, 668_048 + 640)
    return write_raster(path, place_pixels(box), UTM45.transform(box))


COARSE = Lattice(crs="EPSG:32645", res_x=4, res_y=4)
COARSE_BOX = PixelBox(-765_012, 83_506, -765_012 + 60, 83_506 + 80)


# On the lattice ------------------------------------------------------------------------------------------------------


def test_a_raster_on_the_lattice_is_read_untouched(aligned: Path) -> None:
    assert (read(item_of(aligned)).pixels == place_pixels(NEPAL)).all()


def test_what_is_read_of_a_raster_on_the_lattice_is_all_valid_and_says_whose_it_is(aligned: Path) -> None:
    view = read(item_of(aligned, index=7))
    assert view.valid.all()
    assert (view.source == 7).all()


def test_beyond_a_rasters_edge_nothing_is_seen(aligned: Path) -> None:
    view = read(item_of(aligned), WIDER)
    inside = np.zeros(WIDER.shape, np.bool_)
    inside[NEPAL.within(WIDER)] = True
    assert (view.valid == inside).all()
    assert (view.pixels[:, ~inside] == 0).all()
    assert (view.source[~inside] == NO_SOURCE).all()


def test_a_box_that_a_raster_does_not_meet_is_a_gap(aligned: Path) -> None:
    far = PixelBox(NEPAL.top + 5000, NEPAL.left, NEPAL.top + 5064, NEPAL.left + 64)
    assert not read(item_of(aligned), far).valid.any()


def test_dust_of_millimetres_in_the_transform_does_not_resample(tmp_path: Path) -> None:
    dusty = UTM45.transform(NEPAL) @ Affine.translation(0.004, -0.006)
    path = write_raster(tmp_path / "dusty.tif", place_pixels(NEPAL), dusty)
    assert (read(item_of(path)).pixels == place_pixels(NEPAL)).all()


def test_bands_come_in_the_order_of_the_item(aligned: Path) -> None:
    item = item_of(aligned)
    turned = Item(
        id=item.id, collection="", datetime=item.datetime, footprint=item.footprint, bands=item.bands[::-1]
    )  # fmt: skip
    assert (read(turned).pixels == place_pixels(NEPAL)[::-1]).all()


def test_bands_may_lie_in_files_of_their_own(tmp_path: Path) -> None:
    pixels = place_pixels(NEPAL)
    singles = [
        item_of(write_raster(tmp_path / f"{band}.tif", pixels[band : band + 1], UTM45.transform(NEPAL)), bands=1)
        for band in range(3)
    ]
    first = singles[0]
    item = Item(
        id="three", collection="", datetime=first.datetime, footprint=first.footprint,
        bands=tuple(single.bands[0] for single in singles),
    )  # fmt: skip
    assert (read(item).pixels == pixels).all()


def test_an_item_fills_no_pixel_beyond_its_extent(aligned: Path) -> None:
    extent = PixelBox(NEPAL.top + 50, NEPAL.left + 60, NEPAL.top + 90, NEPAL.left + 200)
    view = RasterReader(bands=3).read([placed(item_of(aligned), extent)], UTM45, NEPAL)
    expected = np.zeros(NEPAL.shape, np.bool_)
    expected[extent.within(NEPAL)] = True
    assert (view.valid == expected).all()


@pytest.mark.parametrize("composite", ["first", "median"])
@pytest.mark.parametrize(("down", "right"), [(-200, 0), (0, -200), (320, 0), (0, 420), (-200, -200)])
def test_an_item_whose_extent_is_beside_the_frame_fills_none_of_it(
    aligned: Path, composite: str, down: int, right: int
) -> None:
    extent = PixelBox(NEPAL.top + down, NEPAL.left + right, NEPAL.top + down + 10, NEPAL.left + right + 10)
    reader = RasterReader(bands=3, composite=composite)  # type: ignore[arg-type]  # one of the two
    assert not reader.read([placed(item_of(aligned), extent)], UTM45, NEPAL).valid.any()


# Cut however one likes -----------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(parts_of(WIDER))
def test_how_the_frame_is_cut_changes_no_bit_of_a_raster_on_the_lattice(aligned: Path, part: PixelBox) -> None:
    _same_in_part(item_of(aligned), part, WIDER, UTM45)


@settings(max_examples=8)
@given(parts_of(WIDER))
def test_how_the_frame_is_cut_changes_no_bit_of_a_warp(elsewhere: Path, part: PixelBox) -> None:
    _same_in_part(item_of(elsewhere), part, WIDER, UTM45)


@settings(max_examples=8)
@given(parts_of(COARSE_BOX))
def test_how_the_frame_is_cut_changes_no_bit_of_an_average(finer: Path, part: PixelBox) -> None:
    _same_in_part(item_of(finer), part, COARSE_BOX, COARSE)


def _same_in_part(item: Item, part: PixelBox, frame: PixelBox, lattice: Lattice) -> None:
    whole, cut = read(item, frame, lattice=lattice), read(item, part, lattice=lattice)
    here = part.within(frame)
    assert cut.pixels.tobytes() == whole.pixels[:, *here].tobytes()
    assert (cut.valid == whole.valid[here]).all()


# Warped --------------------------------------------------------------------------------------------------------------


def test_a_warp_agrees_with_gdals_own(elsewhere: Path) -> None:
    view = read(item_of(elsewhere))
    with (
        rasterio.open(elsewhere) as file,
        WarpedVRT(
            file, crs=UTM45.crs, transform=UTM45.transform(NEPAL), height=NEPAL.height, width=NEPAL.width,
            resampling=Resampling.bilinear, tolerance=0.001,
        ) as warped,
    ):  # fmt: skip
        expected, seen = warped.read(), warped.dataset_mask() != 0
    both = view.valid & seen
    assert np.abs(view.pixels[:, both].astype(int) - expected[:, both]).max() <= 2


def test_a_warp_sees_what_gdals_own_sees_but_for_the_rim_of_a_hole(elsewhere: Path) -> None:
    view = read(item_of(elsewhere))
    assert 0.005 < (~view.valid).mean() < 0.02
    with (
        rasterio.open(elsewhere) as file,
        WarpedVRT(
            file, crs=UTM45.crs, transform=UTM45.transform(NEPAL), height=NEPAL.height, width=NEPAL.width,
            resampling=Resampling.nearest,
        ) as warped,
    ):  # fmt: skip
        assert (view.valid != (warped.dataset_mask() != 0)).mean() < 0.002


def test_no_nodata_bleeds_into_the_rim_of_a_hole(elsewhere: Path) -> None:
    view = read(item_of(elsewhere))
    assert view.pixels[:, view.valid].min() >= 20  # the waves reach down to 28, the hole is 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_a_warp_keeps_the_values_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    pixels = np.full((1, 120, 120), 90, dtype)
    pixels[:, :, :60] = 0
    path = write_raster(tmp_path / "a.tif", pixels, UTM45.transform(NEPAL) @ Affine.translation(0.5, 0.5), nodata=0)
    view = read(item_of(path, bands=1), bands=1, stretch=(0, 255))
    assert set(np.unique(view.pixels[:, view.valid])) == {90}


def test_no_value_that_is_not_finite_is_seen_or_spreads(tmp_path: Path) -> None:
    pixels = np.full((1, 120, 120), 90, np.float32)
    pixels[:, 40:60, 40:60] = np.nan
    path = write_raster(tmp_path / "a.tif", pixels, UTM45.transform(NEPAL) @ Affine.translation(0.5, 0.5))
    view = read(item_of(path, bands=1), bands=1, stretch=(0, 255))
    assert set(np.unique(view.pixels[:, view.valid])) == {90}


def test_imagery_finer_than_the_lattice_is_averaged(finer: Path) -> None:
    view = read(item_of(finer), COARSE_BOX, lattice=COARSE)
    with rasterio.open(finer) as file:
        means = file.read().reshape(3, 60, 8, 80, 8).mean(axis=(2, 4))
    assert np.abs(view.pixels[:, 1:-1, 1:-1] - means[:, 1:-1, 1:-1]).max() <= 1


def test_a_pixel_lies_where_the_file_says_to_a_tenth_of_a_pixel(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint16) * 100, (1, 120, 120)).copy()
    path = write_raster(tmp_path / "a.tif", ramp, UTM45.transform(NEPAL) @ Affine.translation(0.5, 0))
    inside = PixelBox(NEPAL.top + 10, NEPAL.left + 10, NEPAL.top + 100, NEPAL.left + 12)
    view = read(item_of(path, bands=1), inside, bands=1, stretch=(0, 2550))
    # Lattice column 10 has its centre at 10.5, which is the file's 10.0: half way between the centres of 9 and 10.
    assert np.abs(view.pixels[0, :, 0] - 95.0).max() <= 1


# Values --------------------------------------------------------------------------------------------------------------


def test_one_black_band_is_a_dark_roof_and_all_of_them_are_the_edge_of_the_scene(tmp_path: Path) -> None:
    pixels = place_pixels(NEPAL)
    pixels[0, 10:20, 10:20] = 0
    pixels[:, 50:60, 10:20] = 0
    path = write_raster(tmp_path / "a.tif", pixels, UTM45.transform(NEPAL), nodata=0)
    expected = np.ones(NEPAL.shape, np.bool_)
    expected[50:60, 10:20] = False
    assert (read(item_of(path)).valid == expected).all()


def test_the_catalogs_nodata_holds_where_the_file_has_none(tmp_path: Path) -> None:
    pixels = place_pixels(NEPAL)
    pixels[:, :5] = 255
    path = write_raster(tmp_path / "a.tif", pixels, UTM45.transform(NEPAL))
    assert (read(item_of(path, nodata=255)).valid == (pixels != 255).any(axis=0)).all()


def test_a_mask_in_the_file_says_what_was_seen(tmp_path: Path) -> None:
    mask = place_pixels(NEPAL)[0] > 100
    path = write_raster(tmp_path / "a.tif", place_pixels(NEPAL), UTM45.transform(NEPAL), mask=mask)
    assert (read(item_of(path)).valid == mask).all()


def test_an_alpha_band_says_what_was_seen(tmp_path: Path) -> None:
    alpha = np.where(place_pixels(NEPAL)[0] > 100, 255, 0).astype(np.uint8)
    path = write_raster(
        tmp_path / "a.tif", np.concatenate([place_pixels(NEPAL), alpha[None]]), UTM45.transform(NEPAL), alpha="YES"
    )
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    assert (read(item_of(path)).valid == (alpha > 0)).all()


def test_values_are_stretched_over_one_range_with_the_bands_scale_and_offset(tmp_path: Path) -> None:
    stored = (place_pixels(NEPAL, bands=1).astype(np.uint16) * 40).astype(np.uint16)
    path = write_raster(tmp_path / "a.tif", stored, UTM45.transform(NEPAL))
    view = read(item_of(path, bands=1, scale=1e-4, offset=-0.1), bands=1, stretch=(0.0, 0.3))
    physical = stored * 1e-4 - 0.1
    expected = np.clip(physical / 0.3 * 255, 0, 255)
    assert np.abs(view.pixels - expected).max() <= 0.51


def test_sixteen_bits_with_no_range_to_map_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", place_pixels(NEPAL).astype(np.uint16), UTM45.transform(NEPAL))
    with pytest.raises(SpecError, match="holds uint16") as caught:
        read(item_of(path))
    assert "imagery.scale" in caught.value.fix
    assert caught.value.where["item"] == "scene"


# Several items -------------------------------------------------------------------------------------------------------


@pytest.fixture
def halves(tmp_path: Path) -> list[Item]:
    """Item 0 in the upper two thirds, all 100; item 1 in the lower two thirds, all 200."""
    items = []
    for index, (rows, value) in enumerate([(slice(0, 200), 100), (slice(100, 300), 200)]):
        pixels = np.zeros((3, *NEPAL.shape), np.uint8)
        pixels[:, rows] = value
        path = write_raster(tmp_path / f"{index}.tif", pixels, UTM45.transform(NEPAL), nodata=0)
        items.append(item_of(path, index=index, name=f"scene-{index}"))
    return items


@pytest.mark.parametrize(("order", "border"), [((0, 1), 200), ((1, 0), 100)])
def test_the_first_item_in_order_wins(halves: list[Item], order: tuple[int, int], border: int) -> None:
    view = RasterReader(bands=3).read([placed(halves[index]) for index in order], UTM45, NEPAL)
    expected = np.where(np.arange(300) < border, 100, 200)
    assert (view.pixels == expected[None, :, None]).all()
    assert (view.source == np.where(expected == 100, 0, 1)[:, None]).all()


def test_the_median_of_two_is_the_lower(halves: list[Item]) -> None:
    view = RasterReader(bands=3, composite="median").read([placed(item) for item in halves], UTM45, NEPAL)
    assert (view.pixels == np.where(np.arange(300) < 200, 100, 200)[None, :, None]).all()


def test_an_item_that_shows_nothing_new_is_not_opened(aligned: Path) -> None:
    gone = item_of("/no/such/file.tif", name="gone")
    view = RasterReader(bands=3).read([placed(item_of(aligned)), placed(gone)], UTM45, NEPAL)
    assert view.valid.all()


@pytest.mark.parametrize(
    ("values", "bits", "hidden"),
    [
        pytest.param(frozenset({3, 9}), 0, [3, 9], id="values"),
        pytest.param(frozenset(), 0b1010, [2, 3, 6, 7, 8, 9, 10, 11], id="bits"),
        pytest.param(frozenset({1}), 0b1000, [1, 8, 9, 10, 11], id="both"),
    ],
)
def test_cloud_is_not_seen(tmp_path: Path, aligned: Path, values: frozenset[int], bits: int, hidden: list[int]) -> None:
    classes = (np.indices(NEPAL.shape).sum(axis=0) // 9 % 12).astype(np.uint8)
    path = write_raster(tmp_path / "scl.tif", classes[None], UTM45.transform(NEPAL))
    cloud = CloudMask(band=item_of(path, bands=1).bands[0], values=values, bits=bits)
    assert (read(item_of(aligned, cloud=cloud)).valid == ~np.isin(classes, hidden)).all()


def test_a_coarser_cloud_band_is_never_blurred(tmp_path: Path, aligned: Path) -> None:
    box = PixelBox(NEPAL.top // 20, NEPAL.left // 20, NEPAL.bottom // 20 + 1, NEPAL.right // 20 + 1)
    lattice = Lattice(crs=UTM45.crs, res_x=10, res_y=10)
    classes = (np.indices(box.shape).sum(axis=0) % 3 * 4).astype(np.uint8)  # 0, 4, 8: in between would be 2 and 6
    path = write_raster(tmp_path / "scl.tif", classes[None], lattice.transform(box))
    cloud = CloudMask(band=item_of(path, bands=1).bands[0], values=frozenset({1, 2, 3, 5, 6, 7}))
    assert read(item_of(aligned, cloud=cloud)).valid.all()


def test_what_one_item_hides_the_next_shows(tmp_path: Path, aligned: Path) -> None:
    cloudy = np.zeros((1, *NEPAL.shape), np.uint8)
    cloudy[:, :, :100] = 9
    path = write_raster(tmp_path / "scl.tif", cloudy, UTM45.transform(NEPAL))
    cloud = CloudMask(band=item_of(path, bands=1).bands[0], values=frozenset({9}))
    items = [placed(item_of(aligned, cloud=cloud, index=0)), placed(item_of(aligned, index=1))]
    view = RasterReader(bands=3).read(items, UTM45, NEPAL)
    assert (view.source == (cloudy[0] == 9)).all()


def test_threads_may_share_a_reader(aligned: Path, elsewhere: Path) -> None:
    reader = RasterReader(bands=3)
    parts = [next(NEPAL.cells(64)).intersection(NEPAL), *(cell.intersection(NEPAL) for cell in NEPAL.cells(100))]
    for path in (aligned, elsewhere):
        item = item_of(path)
        whole = read(item)
        with ThreadPoolExecutor(4) as threads:
            views = list(threads.map(lambda part, of=item: reader.read([placed(of)], UTM45, part), parts * 3))
        for part, view in zip(parts * 3, views, strict=True):
            assert (view.pixels == whole.pixels[:, *part.within(NEPAL)]).all()


# Placed by the catalog -----------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A JPEG that does not know where it is."""
    path = tmp_path / "picture.jpg"
    Image.fromarray(smooth_pixels(NEPAL).transpose(1, 2, 0)).save(path, quality=95)
    return path


def test_a_picture_without_a_place_lies_where_its_catalog_says(picture: Path) -> None:
    placement = Placement(crs="EPSG:32645", transform=UTM45.transform(NEPAL), shape=NEPAL.shape)
    view = read(item_of(picture, placement=placement))
    with rasterio.open(picture) as decoded:
        assert (view.pixels == decoded.read()).all()


def test_a_picture_that_nobody_places_is_refused(picture: Path) -> None:
    with pytest.raises(AssetError, match="does not say where on Earth") as caught:
        read(item_of(picture))
    assert caught.value.where == {"item": "scene", "asset": str(picture)}


def test_a_placement_of_another_shape_is_not_believed(picture: Path) -> None:
    placement = Placement(crs="EPSG:32645", transform=UTM45.transform(NEPAL), shape=(301, 400))
    with pytest.raises(AssetError, match="does not say where on Earth"):
        read(item_of(picture, placement=placement))


def test_the_files_own_word_goes_before_the_catalogs(aligned: Path) -> None:
    moved = UTM45.transform(NEPAL) @ Affine.translation(50, 50)
    placement = Placement(crs="EPSG:32645", transform=moved, shape=NEPAL.shape)
    assert (read(item_of(aligned, placement=placement)).pixels == place_pixels(NEPAL)).all()


def test_a_files_header_says_where_it_lies(aligned: Path) -> None:
    asset = item_of(aligned).bands[0].asset
    assert header_of(asset).placement == Placement(
        crs="EPSG:32645", transform=UTM45.transform(NEPAL), shape=NEPAL.shape
    )


# What goes wrong -----------------------------------------------------------------------------------------------------


def _corrupt(source: Path, target: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 3 : len(content) // 3 * 2] = b"\xa5" * (len(content) // 3)
    target.write_bytes(content)


def _truncated(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def _page_of_html(source: Path, target: Path) -> None:
    target.write_text("<html>please log in</html>")


def _vrt(source: Path, target: Path) -> None:
    with rasterio.open(source) as file:
        height, width = file.shape
        geo = ", ".join(str(value) for value in file.transform.to_gdal())
    target.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>{band}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )


def _nothing(source: Path, target: Path) -> None:
    target.write_bytes(b"")


def _missing(source: Path, target: Path) -> None:
    assert source != target


@pytest.mark.parametrize("spoil", [_corrupt, _truncated, _page_of_html, _vrt, _nothing, _missing])
def test_a_bad_file_is_named_with_its_item(tmp_path: Path, aligned: Path, spoil: Callable[[Path, Path], None]) -> None:
    target = tmp_path / "bad.tif"
    spoil(aligned, target)
    with pytest.raises(AssetError) as caught:
        read(item_of(target))
    assert caught.value.where == {"item": "scene", "asset": str(target)}
    assert not caught.value.retryable


def test_a_vrt_would_have_been_followed_by_a_careless_reader(tmp_path: Path, aligned: Path) -> None:
    target = tmp_path / "bad.tif"
    _vrt(aligned, target)
    with rasterio.open(target) as file:  # the test above shows nothing unless this works
        assert (file.read() == place_pixels(NEPAL)).all()


@pytest.mark.parametrize("index", [0, 4, -1])
def test_a_band_the_file_does_not_have_is_refused(aligned: Path, index: int) -> None:
    item = item_of(aligned, bands=1)
    asset = item.bands[0].asset
    asked = Item(
        id="scene", collection="", datetime=item.datetime, footprint=item.footprint,
        bands=(Band(asset=asset, index=index),),
    )  # fmt: skip
    with pytest.raises(AssetError, match=f"band {index} was asked of a file that has 3") as caught:
        read(asked, bands=1)
    assert caught.value.fix == "correct imagery.bands in the job file"


def test_a_file_of_one_huge_block_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=16400, height=16400, count=1, dtype="uint8", crs=UTM45.crs,
        transform=UTM45.transform(NEPAL), tiled=True, blockxsize=16400, blockysize=16400, sparse_ok=True,
    ):  # fmt: skip
        pass
    with pytest.raises(AssetError, match="16400 × 16400") as caught:
        read(item_of(path, bands=1), bands=1)
    assert caught.value.fix == "store it as a tiled GeoTIFF"


@pytest.mark.parametrize("href", ["ftp://example.com/a.tif", "vsizip://a.zip/b.tif"])
def test_imagery_is_read_from_known_places_only(href: str) -> None:
    with pytest.raises(AssetError, match="is no place imagery is read from"):
        read(item_of(href))


def test_imagery_over_http_reads_as_it_does_here(aligned: Path) -> None:
    with files_over_http(aligned.parent) as server:
        view = read(item_of(f"{server.url}/{aligned.name}"))
    assert (view.pixels == place_pixels(NEPAL)).all()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, CredentialsError), (403, CredentialsError), (404, AssetError), (500, ReadError)],
)
def test_a_refusal_a_gap_and_a_bad_day_of_the_store_are_three_things(
    aligned: Path, status: int, kind: type[MapperError]
) -> None:
    with files_over_http(aligned.parent) as server:
        server.fail("/aligned.tif", Fault(status=status))
        with pytest.raises(MapperError) as caught:
            read(item_of(f"{server.url}/aligned.tif"))
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is ReadError)
    assert caught.value.where == {"item": "scene", "asset": f"{server.url}/aligned.tif"}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=503), ReadError),
        (Fault(status=429), ReadError),
        (Fault(truncate_at=900), BrokenReadError),
        (Fault(body=b"II*\0" + bytes(range(200))), BrokenReadError),
    ],
)
def test_what_does_not_come_and_what_comes_broken_are_told_apart(
    aligned: Path, fault: Fault, kind: type[MapperError]
) -> None:
    with files_over_http(aligned.parent) as server:
        server.fail("/aligned.tif", fault)
        with pytest.raises(ReadError) as caught:
            read(item_of(f"{server.url}/aligned.tif"))
    assert type(caught.value) is kind
    assert caught.value.retryable


def test_a_store_that_recovers_is_read_without_a_word(aligned: Path) -> None:
    with files_over_http(aligned.parent) as server:
        server.fail("/aligned.tif", Fault(status=503, times=1))
        assert (read(item_of(f"{server.url}/aligned.tif")).pixels == place_pixels(NEPAL)).all()


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(status=403), Fault(truncate_at=900)])
def test_a_file_that_did_not_arrive_is_asked_for_again(aligned: Path, fault: Fault) -> None:
    reader = RasterReader(bands=3)
    with files_over_http(aligned.parent) as server:
        item = item_of(f"{server.url}/aligned.tif")
        server.fail("/aligned.tif", fault)
        with pytest.raises(MapperError):
            reader.read([placed(item)], UTM45, NEPAL)
        server.fail("/aligned.tif")
        assert (reader.read([placed(item)], UTM45, NEPAL).pixels == place_pixels(NEPAL)).all()


def test_a_file_that_failed_once_is_opened_anew(tmp_path: Path, aligned: Path) -> None:
    target = tmp_path / "late.tif"
    _truncated(aligned, target)
    reader, item = RasterReader(bands=3), item_of(target)
    with pytest.raises(AssetError):
        reader.read([placed(item)], UTM45, NEPAL)
    target.write_bytes(aligned.read_bytes())
    assert (reader.read([placed(item)], UTM45, NEPAL).pixels == place_pixels(NEPAL)).all()


def test_what_a_failed_read_says_survives_the_trip_between_processes() -> None:
    with pytest.raises(AssetError) as caught:
        read(item_of("/no/such/file.tif"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.what, copy.where) == (AssetError, caught.value.what, caught.value.where)


# Real imagery --------------------------------------------------------------------------------------------------------


def test_a_real_ortho_with_alpha_reads_as_rasterio_reads_it(shared_data: Path) -> None:
    path = next((shared_data / "hro-colorado").glob("*.tif"))
    asset = item_of(path).bands[0].asset
    place = header_of(asset).placement
    transform = place.transform
    lattice = Lattice(
        crs=place.crs, res_x=transform.a, res_y=-transform.e,
        phase_x=transform.c % transform.a, phase_y=transform.f % -transform.e,
    )  # fmt: skip
    offset = lattice.offset_of(transform)
    assert offset is not None
    box = PixelBox(offset[0], offset[1], offset[0] + min(600, place.shape[0]), offset[1] + min(600, place.shape[1]))
    view = read(item_of(path), box, lattice=lattice)
    with rasterio.open(path) as file:
        window = rasterio.windows.Window(0, 0, box.width, box.height)
        expected, seen = file.read([1, 2, 3], window=window), file.dataset_mask(window=window) != 0
    assert (view.pixels == expected * seen).all()
    assert (view.valid == seen).all()
