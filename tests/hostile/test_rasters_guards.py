"""Each guard against a stranger's file is there, and is what stops it: without it the same file does its harm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from mapper import limits, raster
from mapper.errors import AssetError
from mapper.imagery import Placement
from mapper.raster import DRIVERS, GDAL_OPTIONS, gdal_path
from mapper.read import RasterReader
from tests.hostile.canaries import plant
from tests.hostile.rasters import COARSE, COARSE_FRAME, FRAME, UTM45, Case, geotiff, picture, truth
from tests.hostile.rasters_announced import first_block, tiff, with_first_block
from tests.hostile.rasters_disguised import CANARY, disguised
from tests.hostile.tiff_bytes import HEIGHT, METADATA, WIDTH
from tests.mapper.rasters import item_of, placed


def test_gdal_is_held_by_these_settings() -> None:
    held = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_GEOREF_SOURCES": "INTERNAL",
        "USE_RRD": "NO",
        "GDAL_VRT_ENABLE_PYTHON": "NO",
        "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
        "GTIFF_IGNORE_READ_ERRORS": "NO",
        "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
        "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
        "GTIFF_DIRECT_IO": "NO",
        "GTIFF_VIRTUAL_MEM_IO": "NO",
        "GTIFF_USE_MMAP": "NO",
        "VSI_CACHE": "NO",
        "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": "NO",
        "GDAL_HTTP_NETRC": "NO",
        "CPL_VSIL_CURL_HEADER_FILE_KVP_ENABLED": "NO",
    }
    assert {name: GDAL_OPTIONS[name] for name in held} == held
    bounded = ("GTIFF_MAX_CUMULATED_MEM_USAGE", "GDAL_MAX_BAND_COUNT", "GDAL_JPEG_MAX_ALLOWED_SCAN_NUMBER")
    patient = ("GDAL_HTTP_TIMEOUT", "GDAL_HTTP_CONNECTTIMEOUT", "GDAL_HTTP_LOW_SPEED_TIME", "GDAL_HTTP_MAX_RETRY")
    assert all(int(GDAL_OPTIONS[name]) > 0 for name in bounded + patient)
    assert DRIVERS == ["GTiff", "JPEG", "PNG", "JP2OpenJPEG"]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with the canaries in it."""
    plant(tmp_path)
    return tmp_path


def shown(path: Path, *, driver: str | None = "GTiff", without: str = "", half: bool = False) -> Any:
    """What GDAL makes of a file under our settings but for one: its pixels, or half of them a side; or what it says."""
    options = {name: value for name, value in GDAL_OPTIONS.items() if name != without}
    try:
        with rasterio.Env(**options), rasterio.open(path, driver=driver, sharing=False) as file:
            size = (file.count, file.height // 2, file.width // 2) if half else None
            return file.read(out_shape=size, resampling=Resampling.average)
    except rasterio.errors.RasterioError as error:
        return str(error)


def case_in(folder: Path, name: str) -> tuple[Case, Path]:
    case = next(case for case in disguised(str(folder), "http://127.0.0.1:9") if case.name == name)
    return case, case.write(folder)


def test_a_virtual_file_is_followed_by_any_driver_but_ours(beside: Path) -> None:
    _, path = case_in(beside, "disguise-vrt")
    assert (shown(path, driver=None) == CANARY).all()
    for driver in DRIVERS:
        assert "not recognized" in shown(path, driver=driver)


@pytest.mark.parametrize("target", ["file", "base", "vrt", "scheme"])
def test_overviews_in_another_file_are_followed_unless_they_are_asked_for_first(
    beside: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path = case_in(beside, f"overviews-in-{target}-coarse")
    reader, item = RasterReader(bands=3), item_of(path)
    with pytest.raises(AssetError, match="names another file as its overviews"):
        reader.read([placed(item)], COARSE, COARSE_FRAME)
    assert (shown(path, half=True) == CANARY).any()  # so GDAL gives them, under every one of our settings
    monkeypatch.setattr(raster, "_alone", lambda dataset: dataset)
    view = RasterReader(bands=3).read([placed(item)], COARSE, COARSE_FRAME)
    assert (view.pixels[:, view.valid] == CANARY).mean() > 0.2
    assert case.must == "refused"


def test_a_sidecar_of_overviews_is_taken_where_folders_are_listed(beside: Path) -> None:
    _, path = case_in(beside, "beside-ovr-coarse")
    assert (shown(path, half=True, without="GDAL_DISABLE_READDIR_ON_OPEN") == CANARY).all()
    assert not (shown(path, half=True) == CANARY).all()


def test_a_mask_beside_a_file_is_taken_where_folders_are_listed(beside: Path) -> None:
    _, path = case_in(beside, "beside-msk")
    open_folder = {**GDAL_OPTIONS, "GDAL_DISABLE_READDIR_ON_OPEN": "NO"}
    for options, seen in ((open_folder, False), (GDAL_OPTIONS, True)):
        with rasterio.Env(**options), rasterio.open(path, driver="GTiff", sharing=False) as file:
            assert bool(file.dataset_mask().any()) is seen


def test_a_place_beside_a_file_is_taken_where_it_may_come_from_elsewhere(beside: Path) -> None:
    _, path = case_in(beside, "placed-by-tfw")
    loose = {**GDAL_OPTIONS, "GDAL_DISABLE_READDIR_ON_OPEN": "NO"}
    del loose["GDAL_GEOREF_SOURCES"]
    for options, found in ((loose, True), ({**loose, "GDAL_GEOREF_SOURCES": "INTERNAL"}, False)):
        with rasterio.Env(**options), rasterio.open(path, driver="GTiff", sharing=False) as file:
            assert (not file.transform.is_identity) is found


def test_a_png_that_is_cut_short_is_shown_as_if_it_were_whole_by_gdals_short_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(picture("PNG")[:200])
    assert shown(path, driver="PNG", without="GDAL_PNG_WHOLE_IMAGE_OPTIM").shape == truth().shape
    assert "Read failed" in shown(path, driver="PNG")


def test_a_jpeg_that_ends_too_early_is_grey_where_warnings_are_none(tmp_path: Path) -> None:
    path = tmp_path / "early.jpg"
    whole = picture("JPEG", quality=95)
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")  # which says: here it ends
    assert shown(path, driver="JPEG", without="GDAL_ERROR_ON_LIBJPEG_WARNING").shape == truth().shape
    assert "Read failed" in shown(path, driver="JPEG")


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", bytes(500)], ids=["cut", "ended", "erased"])
def test_a_block_of_jpeg_that_breaks_off_is_damage_and_not_grey_ground(tmp_path: Path, end: bytes) -> None:
    whole = geotiff(compress="jpeg", photometric="ycbcr")
    block = first_block(whole)
    path = tmp_path / "a.tif"
    path.write_bytes(with_first_block(whole, block[: len(block) // 2] + end))
    assert shown(path).shape == truth().shape  # GDAL only warns
    with pytest.raises(AssetError, match="a block of the file is damaged"):
        RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME)
    path.write_bytes(whole)
    assert RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME).valid.all()


def test_tags_beyond_the_limit_are_not_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({METADATA: "<GDALMetadata><Item name='a'>" + "b" * 3_000_000 + "</Item></GDALMetadata>"}))
    read = f"with rasterio.open({str(path)!r}, driver='GTiff') as file: print('a' in file.tags())"
    for most, taken in ((limits.LARGEST_HEADER_BYTES, True), (1_000_000, False)):
        # GDAL asks for this one once a process.
        program = f"import rasterio\nwith rasterio.Env(GTIFF_MAX_CUMULATED_MEM_USAGE={most}):\n  {read}"
        said = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
        )
        assert said.stdout.strip() == str(taken)


Patch = tuple[str, int, Callable[[], bytes], int]
LIMITS: dict[str, Patch] = {
    # what is refused → the limit, a lower one, a file that is sound under the true one, its bands
    "blocks of": ("LARGEST_BLOCK_BYTES", 64 * 64 * 3 - 1, geotiff, 3),
    "the file has 6 blocks": ("MOST_BLOCKS", 5, geotiff, 3),
    "the file has 3 bands": ("MOST_BANDS", 2, geotiff, 3),
    "this is a picture of": ("LARGEST_PICTURE_BYTES", 128 * 192 * 3 - 1, lambda: picture("PNG"), 3),
}


@pytest.mark.parametrize("said", LIMITS)
def test_what_is_announced_beyond_a_limit_is_refused(
    tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, lower, make, bands = LIMITS[said]
    case = Case(name="a", content=make(), must="exact", suffix=".tif")
    placement = Placement(crs=UTM45.crs, transform=UTM45.transform(FRAME), shape=FRAME.shape)
    item = item_of(case.write(tmp_path), bands=bands, placement=placement)
    assert RasterReader(bands=bands).read([placed(item)], UTM45, FRAME).valid.all()
    monkeypatch.setattr(limits, limit, lower)
    with pytest.raises(AssetError, match=said) as caught:
        RasterReader(bands=bands).read([placed(item)], UTM45, FRAME)
    assert caught.value.fix


@pytest.mark.parametrize("limit", ["LARGEST_AVERAGE_PX", "LARGEST_SOURCE_BYTES"])
def test_what_one_cell_of_the_map_asks_of_a_file_is_bounded(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(geotiff())
    view = RasterReader(bands=3).read([placed(item_of(path))], COARSE, COARSE_FRAME)
    assert view.valid.any()
    monkeypatch.setattr(limits, limit, 1000)
    with pytest.raises(AssetError, match="one cell of the map"):
        RasterReader(bands=3).read([placed(item_of(path))], COARSE, COARSE_FRAME)


def test_the_blocks_of_an_overview_are_judged_before_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_OVR_BLOCKSIZE="128"):
        path.write_bytes(geotiff(overviews=[2, 4]))
    assert RasterReader(bands=3).read([placed(item_of(path))], COARSE, COARSE_FRAME).valid.any()
    with rasterio.open(path, overview_level=1) as overview:
        assert overview.block_shapes[0] == (128, 128)
    monkeypatch.setattr(limits, "LARGEST_BLOCK_BYTES", 64 * 64 * 3)
    assert RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME).valid.all()
    with pytest.raises(AssetError, match="blocks of 128 × 128 px"):
        RasterReader(bands=3).read([placed(item_of(path))], COARSE, COARSE_FRAME)


def test_heavy_cells_have_fewer_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({WIDTH: 2**20, HEIGHT: 300, 322: None, 323: None, 324: None, 325: None, 273: (0,) * 300,
                           279: (0,) * 300, 278: 1}))  # fmt: skip
    with rasterio.open(path, driver="GTiff") as file:
        height, width = limits.cell_shape(file)
    assert (height, width) == (16, 2**20)
    assert height * width <= limits.LARGEST_CELL_BYTES


@pytest.mark.parametrize(
    "href",
    ["/vsizip//data/a.zip/b.tif", "/vsicurl?header_file=/etc/passwd&url=http://example.com/a.tif", "GTIFF_DIR:2:/a.tif",
     "JPEG_SUBFILE:0,9,/etc/passwd", "file:///vsisubfile/0_9,/etc/passwd", "<VRTDataset/>", "vrt:///etc/a.tif",
     "MEM:::DATAPOINTER=1", "zip:a.zip!b.tif"],
)  # fmt: skip
def test_no_href_is_a_way_around_the_list_of_drivers(href: str) -> None:
    with pytest.raises(AssetError, match="is no place imagery is read from"):
        gdal_path(href)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.tif"
    os.mkfifo(pipe)  # to open it would be to wait for ever
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(AssetError, match="this is no file"):
            RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME)


def test_a_block_that_was_never_written_is_a_gap_and_not_black_ground(tmp_path: Path) -> None:
    black = truth()
    black[:, 64:, 64:128] = 0
    for sparse in (True, False):
        path, seen = tmp_path / "a.tif", not sparse
        path.write_bytes(geotiff(black, sparse_ok=sparse))
        view = RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME)
        assert bool(view.valid[64:, 64:128].any()) is seen
        assert np.delete(view.valid, np.s_[64:128], axis=1).all()


def test_words_in_a_files_name_do_not_stop_a_run_for_want_of_a_login(tmp_path: Path) -> None:
    path = tmp_path / "AccessDenied HTTP response code: 403.tif"
    path.write_bytes(geotiff()[:3000])
    with pytest.raises(AssetError):
        RasterReader(bands=3).read([placed(item_of(path))], UTM45, FRAME)
