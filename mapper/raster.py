"""One raster file: how it may be opened, where it lies, what of it is real, and what its failures mean."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from mapper.errors import AssetError, CredentialsError, ReadError
from mapper.grid import Lattice, PixelBox
from mapper.imagery import Asset, Band, Placement, Valid

Raw: TypeAlias = NDArray[Any]
"""``(band, y, x)`` in the file's own dtype and values."""

Cell: TypeAlias = tuple[Raw, Valid | None]
"""Stored values, and where they are real; None where all are."""

DRIVERS = ["GTiff", "JPEG", "PNG", "JP2OpenJPEG"]
"""The only GDAL drivers a stranger's file may be opened with: none of them follows a reference to another file."""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # one listing of a bucket costs more than the read
    "GDAL_PAM_ENABLED": "NO",  # a sidecar may say anything; the file and its catalog are enough
    # MB; the default is 5 % of the machine's memory, in every process. No more than the blocks being decoded at one
    # time: what is decoded is kept by the reader, for all threads.
    "GDAL_CACHEMAX": 128,
    # All that one read asks for is requested at once; with the default of 10 MB, the rest block by block.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": 64 * 1024 * 1024,
    "GDAL_NUM_THREADS": 1,  # reading threads decode in parallel already
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_NETRC": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # Once closed a file is forgotten. Else a failure is remembered as long as the process, and no retry asks again.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}

CELL_PX = 256
"""A cell, the piece of a file that is read, decoded and kept as one, is whole blocks, no side shorter than this."""

LARGEST_BLOCK_PX = 64 * 1024 * 1024
"""Pixels in one block of a file; a block is decoded whole, so a larger one is a bomb or a mistake."""


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
    except AssetError as error:
        error.where["asset"] = asset.href
        raise
    except rasterio.errors.RasterioError as error:
        raise read_failure(error, asset, "") from error


class Raster:
    """What must be known of a file to read any part of it; its place is the file's own word where it has one, else the
    catalog's. Holds no dataset."""

    def __init__(self, dataset: Any, asset: Asset) -> None:
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
        height, width = max(dataset.block_shapes, key=lambda block: block[0] * block[1])
        if height * width > LARGEST_BLOCK_PX:
            raise AssetError(f"the file has blocks of {width} × {height} px", fix="store it as a tiled GeoTIFF")
        self.cell_shape = (height * math.ceil(CELL_PX / height), width * math.ceil(CELL_PX / width))
        self.sequential = dataset.driver in ("JPEG", "PNG")
        """Whether a row can only be decoded after all rows above it."""
        flags = {flag for band in dataset.mask_flag_enums for flag in band}
        self._has_mask = MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
        self._nodata: tuple[float | None, ...] = dataset.nodatavals
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

    def read(
        self, dataset: Any, bands: Sequence[Band], box: PixelBox, out_shape: tuple[int, int] | None = None
    ) -> Cell:
        """Stored values of a box of its pixels, and where they are real.

        A pixel is unseen where the file's mask or alpha says so, or else where all bands asked of this file hold
        the nodata value: one black band is a dark roof, all of them are the edge of the scene. What is not finite in
        any band is not seen, whatever the mask says.

        Args:
            dataset: the file, open, for this thread alone.
            bands: which of its bands, in which order.
            box: inside ``self.box``.
            out_shape: rows and columns to average the box down to; None for the pixels as they are.
        """
        window = Window(box.left, box.top, box.width, box.height)
        shape = None if out_shape is None else (len(bands), *out_shape)
        sampling = Resampling.nearest if out_shape is None else Resampling.average
        raw = dataset.read([band.index for band in bands], window=window, out_shape=shape, resampling=sampling)
        if self._has_mask:
            valid = dataset.dataset_mask(window=window, out_shape=out_shape) != 0
        else:
            valid = self._real(raw, bands)
        if np.issubdtype(raw.dtype, np.floating):
            valid &= np.isfinite(raw).all(axis=0)
        return raw, None if valid.all() else valid

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


def opened(asset: Asset) -> Any:
    """The file, opened by the first driver of the list that knows it; rasterio takes one driver a try."""
    path = gdal_path(asset.href)
    # A file without a place of its own is no news here: its catalog may place it, and ``Raster`` says so if not.
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    for driver in DRIVERS[:-1]:
        try:
            return rasterio.open(path, driver=driver, sharing=False)
        except rasterio.errors.RasterioIOError as error:
            if "not recognized" not in str(error):
                raise
    return rasterio.open(path, driver=DRIVERS[-1], sharing=False)


def gdal_path(href: str) -> str:
    """GDAL's name for an href: ``/vsicurl/``, ``/vsis3/`` and the like, or the path of a local file."""
    scheme, separator, rest = href.partition("://")
    if not separator:
        return href
    try:
        prefix = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/",
                  "az": "/vsiaz/", "abfs": "/vsiaz/", "file": ""}[scheme]  # fmt: skip
    except KeyError:
        raise AssetError(f"{scheme}:// is no place imagery is read from", asset=href) from None
    return prefix + rest


def read_failure(error: Exception, asset: Asset, item_id: str) -> Exception:
    """What a failed read means: come back later, log in, or give the file up."""
    said = " ".join(str(cause) for cause in (error, error.__cause__) if cause is not None)
    where = {"item": item_id, "asset": asset.href}
    if "HTTP response code: 401" in said or "HTTP response code: 403" in said or "AccessDenied" in said:
        return CredentialsError("the store refused to give the file", fix="log in, or check who may read it", **where)
    remote = gdal_path(asset.href).startswith("/vsi")
    gone = "HTTP response code: 404" in said or "does not exist" in said or "No such file" in said
    if remote and not gone and "not recognized" not in said:
        return ReadError(f"the file did not arrive: {said}", fix="the tile is tried again", **where)
    return AssetError(f"the file cannot be read: {said}", fix="leave the item out, or mend the file", **where)
