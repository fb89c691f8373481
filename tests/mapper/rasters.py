"""Small GeoTIFFs whose pixel value tells its place, and the items that stand for them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import box as rectangle

from mapper.grid import Lattice, PixelBox
from mapper.imagery import Asset, Band, CloudMask, Item, PlacedItem, Placement

UTM45 = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)
NEPAL = PixelBox(-6_120_100, 668_050, -6_120_100 + 300, 668_050 + 400)
"""A box of lattice pixels near Banepa, on no round number."""

EVERYWHERE = PixelBox(-(2**40), -(2**40), 2**40, 2**40)


def place_pixels(box: PixelBox, *, bands: int = 3) -> NDArray[np.uint8]:
    """uint8 ``(band, y, x)``: neighbours differ, and so does everything within 200 px. Never 0."""
    rows, columns = np.arange(box.top, box.bottom)[:, None], np.arange(box.left, box.right)[None]
    return np.stack([((rows * 7 + columns * (13 + band) + 50 * band) % 251 + 1) for band in range(bands)]).astype(
        np.uint8
    )


def smooth_pixels(box: PixelBox, *, bands: int = 3) -> NDArray[np.uint8]:
    """uint8 ``(band, y, x)``: soft waves, so that two warps of it can be compared."""
    rows, columns = np.arange(box.top, box.bottom)[:, None], np.arange(box.left, box.right)[None]
    waves = [np.sin(rows / (17 + band)) + np.cos(columns / (23 + band)) for band in range(bands)]
    return np.asarray(np.rint(128 + 50 * np.stack(waves)), np.uint8)


def write_raster(
    path: Path,
    pixels: NDArray[Any],
    transform: Affine,
    *,
    crs: str = UTM45.crs,
    mask: NDArray[np.bool_] | None = None,
    **options: Any,
) -> Path:
    """A GeoTIFF (or what ``driver`` says) of ``(band, y, x)``."""
    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"} | options
    if profile["driver"] != "GTiff":
        profile = {"driver": profile["driver"]}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED="NO"),
        rasterio.open(
            path, "w", count=bands, height=height, width=width, dtype=pixels.dtype, crs=crs, transform=transform,
            **profile,
        ) as file,
    ):  # fmt: skip
        file.write(pixels)
        if mask is not None:
            file.write_mask(mask)
    return path


def item_of(
    href: str | Path,
    *,
    bands: int = 3,
    index: int = 0,
    name: str = "scene",
    cloud: CloudMask | None = None,
    placement: Placement | None = None,
    **facts: Any,
) -> Item:
    """An item of one file; ``facts`` are those of each band."""
    asset = Asset(key="image", href=str(href), placement=placement)
    return Item(
        id=name,
        collection="test",
        datetime=datetime(2020, 5, 1, tzinfo=UTC),
        footprint=rectangle(85.5, 27.6, 85.6, 27.7),
        bands=tuple(Band(asset=asset, index=number + 1, name=f"b{number + 1}", **facts) for number in range(bands)),
        cloud=cloud,
        index=index,
    )


def placed(item: Item, extent: PixelBox = EVERYWHERE) -> PlacedItem:
    """An item that may fill a box."""
    return PlacedItem(item=item, extent=extent)
