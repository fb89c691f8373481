"""One raster file: how it may be opened, where it lies, what of it is real, and what its failures mean."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine, AffineError
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what GDAL's own errors are; no public module has it
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning
from rasterio.windows import Window

from mapper.errors import AssetError, BrokenReadError, CredentialsError, MapperError, ReadError, ResourceError
from mapper.grid import Lattice, PixelBox
from mapper.imagery import Asset, Band, Placement, Valid
from mapper.limits import LARGEST_HEADER_BYTES, MOST_BANDS, cell_shape, check_average, check_bands, check_header

Raw: TypeAlias = NDArray[Any]
"""``(band, y, x)`` in the file's own dtype and values."""

Cell: TypeAlias = tuple[Raw, Valid | None]
"""Stored values, and where they are real; None where all are."""

DRIVERS = ["GTiff", "JPEG", "PNG", "JP2OpenJPEG"]
"""The only GDAL drivers a stranger's file may be opened with: none of them follows a reference to another file."""

GDAL_OPTIONS: dict[str, Any] = {
    # One file is one file: no listing of its folder, no sidecar, no world file, no overviews of another's.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # one listing of a bucket costs more than the read
    "GDAL_PAM_ENABLED": "NO",  # a sidecar may say anything; the file and its catalog are enough
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "USE_RRD": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    # What is damaged is an error, never a grey or black block; and a file that shrinks under a map of it kills.
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # GDAL's own short cut decodes a PNG that is cut short without a word
    "GTIFF_DIRECT_IO": "NO",
    "GTIFF_VIRTUAL_MEM_IO": "NO",
    "GTIFF_USE_MMAP": "NO",
    # What a header may make us hold. GDAL takes the first of them once a process, from who opens the first TIFF.
    "GTIFF_MAX_CUMULATED_MEM_USAGE": LARGEST_HEADER_BYTES,
    "GDAL_MAX_BAND_COUNT": MOST_BANDS,
    "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": "NO",
    "GDAL_JPEG_MAX_ALLOWED_SCAN_NUMBER": 100,
    "VSI_CACHE": "NO",
    # MB; the default is 5 % of the machine's memory, in every process. No more than the blocks being decoded at one
    # time: what is decoded is kept by the reader, for all threads.
    "GDAL_CACHEMAX": 128,
    # All that one read asks for is requested at once; with the default of 10 MB, the rest block by block.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": 64 * 1024 * 1024,
    "GDAL_NUM_THREADS": 1,  # reading threads decode in parallel already
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    # A server that stalls ends: a request takes a minute at most, and half of one where nothing comes.
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_NETRC": "NO",
    "CPL_VSIL_CURL_HEADER_FILE_KVP_ENABLED": "NO",  # an address may not name a file whose lines are sent along
    # Once closed a file is forgotten. Else a failure is remembered as long as the process, and no retry asks again.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}
"""How GDAL is held, in every thread that opens or reads a stranger's file; stated in full, for its defaults move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself before a pixel of it is read."""

    placement: Placement
    dtypes: tuple[str, ...]
    """One a band."""


def header_of(asset: Asset) -> Header:
    """What a file says of itself; its place from its catalog where it does not know it.

    Raises:
        AssetError, ReadError, CredentialsError: as ``RasterReader.read``.
    """
    try:
        with rasterio.Env(**GDAL_OPTIONS), opened(asset) as dataset:
            raster = Raster(dataset, asset)
            authority = raster.crs.to_authority()
            crs = ":".join(authority) if authority else raster.crs.to_wkt()
            placement = Placement(crs=crs, transform=raster.transform, shape=raster.shape)
            return Header(placement=placement, dtypes=tuple(dataset.dtypes))
    except MapperError as error:
        error.where["asset"] = asset.href
        raise
    except UNREADABLE as error:
        raise read_failure(error, asset, "") from error


class Raster:
    """What must be known of a file to read any part of it; its place is the file's own word where it has one, else the
    catalog's. Holds no dataset."""

    def __init__(self, dataset: Any, asset: Asset) -> None:
        check_header(dataset)
        self.count: int = dataset.count
        self.shape: tuple[int, int] = dataset.shape
        self.dtypes: tuple[str, ...] = dataset.dtypes
        placement = asset.placement
        if dataset.crs is not None and not dataset.transform.is_identity:
            self.crs: Any = dataset.crs
            self.transform: Affine = dataset.transform
        elif placement is not None and placement.shape == dataset.shape:
            self.crs = rasterio.crs.CRS.from_user_input(placement.crs)
            self.transform = placement.transform
        else:
            raise AssetError("the file does not say where on Earth it lies, and nor does its catalog")
        if not all(map(math.isfinite, self.transform)) or self.transform.is_degenerate:
            raise AssetError("the file lies nowhere: its transform has no inverse", fix="leave the item out")
        self.cell_shape = cell_shape(dataset)
        self._blocks = _Blocks.of(dataset) if dataset.driver == "GTiff" else None
        self.sequential = dataset.driver in ("JPEG", "PNG")
        """Whether a row can only be decoded after all rows above it."""
        flags = {flag for band in dataset.mask_flag_enums for flag in band}
        self._has_mask = MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
        self._nodata: tuple[float | None, ...] = dataset.nodatavals
        self._jpeg = dataset.driver == "GTiff" and "JPEG" in str(dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"))
        self._judged = {1}
        """Overviews by their factor, this file itself among them, whose header can be held."""
        self._offsets: dict[Lattice, tuple[int, int] | None] = {}

    @property
    def box(self) -> PixelBox:
        """All its pixels, counted from its upper left one."""
        return PixelBox(0, 0, *self.shape)

    def cells(self, box: PixelBox) -> list[PixelBox]:
        """The cells that a box touches, row by row; those at the raster's edge are smaller."""
        (height, width), box = self.cell_shape, self.box.intersection(box)
        if box.empty:
            return []
        return [
            PixelBox(top, left, top + height, left + width).intersection(self.box)
            for top in range(box.top // height * height, box.bottom, height)
            for left in range(box.left // width * width, box.right, width)
        ]

    def offset_on(self, lattice: Lattice) -> tuple[int, int] | None:
        """Lattice (row, column) of its upper left pixel, or None where it does not lie on the lattice."""
        if lattice not in self._offsets:
            same = self.crs == rasterio.crs.CRS.from_user_input(lattice.crs)
            self._offsets[lattice] = lattice.offset_of(self.transform) if same else None
        return self._offsets[lattice]

    def check(self, bands: Sequence[Band]) -> None:
        """Raises ``AssetError`` where the file does not have these bands, or no picture can be made of them."""
        check_bands(self.dtypes, [band.index for band in bands])

    def read(
        self, dataset: Any, bands: Sequence[Band], box: PixelBox, out_shape: tuple[int, int] | None = None
    ) -> Cell:
        """Stored values of a box of its pixels, and where they are real.

        A pixel is unseen where the file's mask or alpha says so, or else where all bands asked of this file hold
        the nodata value: one black band is a dark roof, all of them are the edge of the scene. What is not finite in
        any band is not seen, nor is a block that was never written, whatever the mask says. (Of an average made of
        overviews only the overviews know what was never written.)

        Args:
            dataset: the file, open, for this thread alone.
            bands: which of its bands, in which order.
            box: inside ``self.box``.
            out_shape: rows and columns to average the box down to; None for the pixels as they are.
        """
        window = Window(box.left, box.top, box.width, box.height)
        shape = None if out_shape is None else (len(bands), *out_shape)
        sampling = Resampling.nearest if out_shape is None else Resampling.average
        reduced = 1 if out_shape is None else self._reduced(dataset, box, out_shape)
        with _complete() if self._jpeg else nullcontext():
            raw = dataset.read([band.index for band in bands], window=window, out_shape=shape, resampling=sampling)
        if self._has_mask:
            valid = dataset.dataset_mask(window=window, out_shape=out_shape) != 0
        else:
            valid = self._real(raw, bands)
        if np.issubdtype(raw.dtype, np.floating):
            valid &= np.isfinite(raw).all(axis=0)
        if self._blocks is not None and reduced == 1:
            for hole in self._blocks.unwritten(dataset, [band.index for band in bands], box):
                valid[_under(hole.within(box), box, valid.shape)] = False
        return raw, None if valid.all() else valid

    def _reduced(self, dataset: Any, box: PixelBox, out_shape: tuple[int, int]) -> int:
        """As ``check_average``; the overview that serves is judged when it first does, for it has blocks of its own."""
        reduced = check_average(dataset, box, out_shape)
        if reduced not in self._judged:
            level = dataset.overviews(1).index(reduced)
            with rasterio.open(dataset.name, driver=dataset.driver, sharing=False, overview_level=level) as overview:
                check_header(overview)
            self._judged.add(reduced)
        return reduced

    def _real(self, raw: Raw, bands: Sequence[Band]) -> Valid:
        """Where any band holds another value than nodata."""
        valid = np.zeros(raw.shape[1:], np.bool_)
        for values, band in zip(raw, bands, strict=True):
            nodata = self._nodata[band.index - 1]
            nodata = band.nodata if nodata is None else nodata
            if nodata is None:
                valid[:] = True
                break
            valid |= ~np.isnan(values) if math.isnan(nodata) else values != nodata
        return valid


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """How a GeoTIFF is cut, for asking which of its blocks were ever written."""

    shape: tuple[int, int]
    interleaved: bool
    """Whether one block holds all bands."""

    @classmethod
    def of(cls, dataset: Any) -> _Blocks:
        interleaved = dataset.count == 1 or dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
        return cls(shape=dataset.block_shapes[0], interleaved=interleaved)

    def unwritten(self, dataset: Any, indexes: Sequence[int], box: PixelBox) -> Iterator[PixelBox]:
        """The parts of a box whose block is in no place of the file, in any of the bands. GDAL fills them with zeros.

        To be asked after the box was read: where its blocks lie is then known, and no server is asked again with
        Python's lock held.
        """
        height, width = self.shape
        for top in range(box.top // height * height, box.bottom, height):
            for left in range(box.left // width * width, box.right, width):
                key = f"BLOCK_OFFSET_{left // width}_{top // height}"
                asked = indexes[:1] if self.interleaved else indexes
                if any(dataset.get_tag_item(key, "TIFF", bidx=index) is None for index in asked):
                    yield PixelBox(top, left, top + height, left + width).intersection(box)


@contextmanager
def _complete() -> Iterator[None]:
    """Raises ``AssetError`` where a block of JPEG is broken off or garbled: of that the decoder only warns, and fills
    the rest with grey. What it warns of reaches rasterio's log, in the thread that reads, and nothing else."""
    said: list[str] = []
    here = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and "JPEGLib" in record.getMessage():
                said.append(record.getMessage().rpartition("JPEGLib:")[2])

    log, listener = logging.getLogger("rasterio._err"), Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)
    if said:
        raise AssetError(f"a block of the file is damaged: {said[0]}", fix="leave the item out, or mend the file")


def _under(part: tuple[slice, slice], box: PixelBox, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an array over a box that touch a part of it, the array being of any shape."""
    down, across = shape[0] / box.height, shape[1] / box.width
    rows, columns = part
    return (
        slice(math.floor(rows.start * down), math.ceil(rows.stop * down)),
        slice(math.floor(columns.start * across), math.ceil(columns.stop * across)),
    )


def opened(asset: Asset) -> Any:
    """The file, opened by the first driver of the list that knows it; rasterio takes one driver a try.

    Raises:
        AssetError: it is no file, or it names another file as part of it.
        rasterio.errors.RasterioError: no driver can open it.
    """
    path = gdal_path(asset.href)
    if not path.startswith("/vsi") and Path(path).exists() and not Path(path).is_file():
        raise AssetError("this is no file, and imagery is read from files only", asset=asset.href)
    # A file without a place of its own is no news here: its catalog may place it, and ``Raster`` says so if not.
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    for driver in DRIVERS[:-1]:
        try:
            return _alone(rasterio.open(path, driver=driver, sharing=False))
        except rasterio.errors.RasterioIOError as error:
            if "not recognized" not in str(error):
                raise
    return _alone(rasterio.open(path, driver=DRIVERS[-1], sharing=False))


def _alone(dataset: Any) -> Any:
    """A dataset that is made of one file. GDAL would open what this tag names, with any driver it has, for the first
    overview that is asked of the dataset; so nothing is asked of it before."""
    if dataset.get_tag_item("OVERVIEW_FILE", "OVERVIEWS") is None:
        return dataset
    dataset.close()
    raise AssetError("the file names another file as its overviews, which is not followed", fix="leave the item out")


def gdal_path(href: str) -> str:
    """GDAL's name for an href: ``/vsicurl/``, ``/vsis3/`` and the like, or the path of a local file."""
    scheme, separator, rest = href.partition("://")
    if not separator:
        scheme, rest = "file", href
    try:
        prefix = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/",
                  "az": "/vsiaz/", "abfs": "/vsiaz/", "file": ""}[scheme]  # fmt: skip
    except KeyError:
        raise AssetError(f"{scheme}:// is no place imagery is read from", asset=href) from None
    if not prefix and (rest.startswith(("/vsi", "<")) or ":" in rest.partition("/")[0]):
        raise AssetError("this names no file but a way to one, and is no place imagery is read from", asset=href)
    return prefix + rest


UNREADABLE = (rasterio.errors.RasterioError, CPLE_BaseError, CRSError, AffineError, ValueError, ArithmeticError,
              MemoryError)  # fmt: skip
"""What GDAL and the arithmetic of places raise over a bad file; ``read_failure`` says which of our errors it is."""


def read_failure(error: BaseException, asset: Asset, item_id: str) -> MapperError:
    """What a failed read means: come back later, log in, or give the file up."""
    path = gdal_path(asset.href)
    said = " ".join(str(cause) for cause in (error, error.__cause__) if cause is not None)
    # A file's own name says nothing of what became of it, whatever words are in it.
    for name in (path, asset.href, path.rpartition("/")[2]):
        said = said.replace(name, "…") if name else said
    said = "".join(letter if letter.isprintable() else " " for letter in said)[:_LONGEST_COMPLAINT]
    where = {"item": item_id, "asset": asset.href}
    if isinstance(error, MemoryError):
        return ResourceError("memory ran out over a file", fix="give the workers more, or smaller tiles", **where)
    if not isinstance(error, (rasterio.errors.RasterioError, CPLE_BaseError)):
        return AssetError(f"the file cannot be placed: {said}", fix="leave the item out, or mend the file", **where)
    if "HTTP response code: 401" in said or "HTTP response code: 403" in said or "AccessDenied" in said:
        return CredentialsError("the store refused to give the file", fix="log in, or check who may read it", **where)
    gone = "HTTP response code: 404" in said or "does not exist" in said or "No such file" in said
    if path.startswith("/vsi") and not gone and "not recognized" not in said:
        if any(sign in said for sign in _SIGNS_OF_THE_NETWORK):
            return ReadError(f"the file did not arrive: {said}", fix="the tile is tried again", **where)
        return BrokenReadError(
            f"the file came broken: {said}", fix="the tile is tried again; if it stays so, leave the item out", **where
        )
    return AssetError(f"the file cannot be read: {said}", fix="leave the item out, or mend the file", **where)


_SIGNS_OF_THE_NETWORK = ("HTTP response code", "CURL error")
"""GDAL says so of a header that does not come. Of a block that does not it says what it says of a broken one; the file
is then opened anew at the next try, so that its header tells."""

_LONGEST_COMPLAINT = 500
"""Characters of what GDAL says that are passed on: a file may have it quote megabytes."""
