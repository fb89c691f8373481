"""What a file may announce of itself. All of it is checked before anything is allocated for it: a header of two hundred
bytes may speak of terabytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mapper.errors import AssetError
from mapper.grid import PixelBox

CELL_PX = 256
"""A cell, the piece of a file that is read, decoded and kept as one, is whole blocks, no side shorter than this unless
it would be heavier than ``LARGEST_CELL_BYTES``."""

LARGEST_CELL_BYTES = 16 * 1024 * 1024
"""What several blocks that make a cell may weigh together: each reading thread holds some, and eight times as much
while it makes pixels of them."""

LARGEST_BLOCK_BYTES = 256 * 1024 * 1024
"""Decoded, with all bands that lie in it. A block is decoded whole, so a larger one is a bomb or a mistake; common ones
have a megabyte, and a whole Landsat band as one strip has 120."""

LARGEST_PICTURE_BYTES = 512 * 1024 * 1024
"""Decoded, of a JPEG or PNG. Some kinds of both are decoded whole, and any of them from its first row on."""

LARGEST_HEADER_BYTES = 128 * 1024 * 1024
"""Tags, places of blocks and compressed blocks of a GeoTIFF that are held at a time."""

MOST_BLOCKS = 4 * 1024 * 1024
"""Blocks of one file, of which each takes 16 bytes of the header: a million pixels a side in blocks of 512."""

MOST_BANDS = 4096
"""Bands of one file. GDAL makes an object of each at once; spectrometers have some hundred."""

LARGEST_AVERAGE_PX = 1024 * 1024 * 1024
"""Pixels that are decoded for one lattice cell where the file is finer than the lattice and has no overviews."""

LARGEST_SOURCE_BYTES = 512 * 1024 * 1024
"""Stored pixels under one lattice cell that are held to be warped; commonly four megabytes. Pixels that are very much
longer than wide ask for more."""

_TILED = "store it as a tiled GeoTIFF"


def check_header(dataset: Any) -> None:
    """Nothing, where what the file announces can be held.

    Raises:
        AssetError: it has no bands, or too many, or blocks too large or too many, or is a picture too large.
    """
    if not 1 <= dataset.count <= MOST_BANDS:
        raise AssetError(f"the file has {dataset.count} bands", fix=f"files of 1 to {MOST_BANDS} bands are read")
    height, width = max(dataset.block_shapes, key=math.prod)
    if height * width * _bytes_together(dataset) > LARGEST_BLOCK_BYTES:
        raise AssetError(f"the file has blocks of {width} × {height} px", fix=_TILED)
    blocks = sum(
        math.ceil(dataset.height / down) * math.ceil(dataset.width / across) for down, across in dataset.block_shapes
    )
    blocks = blocks // dataset.count if _interleaved(dataset) else blocks
    if dataset.driver == "GTiff" and blocks > MOST_BLOCKS:
        raise AssetError(f"the file has {blocks} blocks", fix="store it in larger blocks, or as several files")
    decoded = math.prod(dataset.shape) * sum(map(_itemsize, dataset.dtypes))
    if dataset.driver in ("JPEG", "PNG") and decoded > LARGEST_PICTURE_BYTES:
        raise AssetError(f"this is a picture of {dataset.width} × {dataset.height} px", fix=_TILED)


def check_bands(dtypes: Sequence[str], indexes: Sequence[int]) -> None:
    """Nothing, where the file has these bands (counted from 1) and each holds plain numbers.

    Raises:
        AssetError: it does not.
    """
    for index in indexes:
        if not 1 <= index <= len(dtypes):
            raise AssetError(
                f"band {index} was asked of a file that has {len(dtypes)}", fix="correct imagery.bands in the job file"
            )
        if dtypes[index - 1].startswith("complex"):
            raise AssetError(
                f"band {index} holds complex numbers, of which no picture is made",
                fix="name an asset that holds their magnitude",
            )


def check_average(dataset: Any, box: PixelBox, shape: tuple[int, int]) -> int:
    """How many of the file's pixels a side are one pixel already in the overview that serves an average.

    Args:
        dataset: the file, open.
        box: in its pixels.
        shape: rows and columns to average the box down to.

    Raises:
        AssetError: too many pixels would have to be decoded for it.
    """
    step = min(box.height / shape[0], box.width / shape[1])
    reduced = max((factor for factor in dataset.overviews(1) if factor <= step * 1.01), default=1)
    if box.height * box.width / reduced**2 > LARGEST_AVERAGE_PX:
        raise AssetError(
            f"{box.width} × {box.height} px of the file would be averaged for one cell of the map",
            fix="give the file overviews, or map at a finer resolution",
        )
    return reduced


def check_source(dtype: np.dtype[Any], bands: int, shape: tuple[int, int]) -> None:
    """Nothing, where the pixels under one lattice cell can be held.

    Raises:
        AssetError: they cannot.
    """
    if (bands + 1) * dtype.itemsize * math.prod(shape) > LARGEST_SOURCE_BYTES:
        raise AssetError(
            f"{shape[1]} × {shape[0]} px of the file lie under one cell of the map", fix="check the file's transform"
        )


def cell_shape(dataset: Any) -> tuple[int, int]:
    """Rows and columns of a cell: whole blocks."""
    height, width = max(dataset.block_shapes, key=math.prod)
    down, across = math.ceil(CELL_PX / height), math.ceil(CELL_PX / width)
    fit = max(1, LARGEST_CELL_BYTES // max(1, height * width * _bytes_together(dataset)))
    across = min(across, fit)
    return height * min(down, max(1, fit // across)), width * across


def _bytes_together(dataset: Any) -> int:
    """Bytes of one pixel in all bands that are decoded together."""
    sizes = [_itemsize(dtype) for dtype in dataset.dtypes]
    return sum(sizes) if _interleaved(dataset) else max(sizes)


def _itemsize(dtype: str) -> int:
    """Bytes of a stored value; numpy has no name for one kind of GDAL's."""
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize


def _interleaved(dataset: Any) -> bool:
    return bool(dataset.count > 1 and dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL")
