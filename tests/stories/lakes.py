"""Prairie lakes on four real dates, as STAC items; and the water on each, seen without any of our code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.vrt import WarpedVRT
from rasterio.warp import Resampling

from tests.plugins.resmap_water import DARK_BELOW

COLLECTION = "naip-nd-series"
CRS = "EPSG:26914"
RESOLUTION_M = 5.0


def lake_items(folder: Path, base: str) -> list[dict[str, Any]]:
    """The four flights, by date; ``base`` is where the files are served."""
    return [_item(path, f"{base.rstrip('/')}/{path.name}") for path in sorted(folder.glob("*.tif"))]


def lake_collection(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The collection they are of."""
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": COLLECTION,
        "description": "one footprint in North Dakota, flown on several dates",
        "license": "other",
        "extent": {"spatial": {"bbox": [around(items)]}, "temporal": {"interval": [["2009-01-01T00:00:00Z", None]]}},
        "links": [],
    }


def around(items: list[dict[str, Any]]) -> list[float]:
    """A box around them: west, south, east, north."""
    west, south, east, north = zip(*(item["bbox"] for item in items), strict=True)
    return [min(west), min(south), max(east), max(north)]


def lake_job(catalog: str, mosaic: Path | str, area: list[float], **changes: Any) -> dict[str, Any]:
    """Water by green and near infrared, a step a day; ``changes`` replace sections."""
    return {
        "name": "prairie lakes",
        "area": {"bbox": area},
        "imagery": {
            "catalog": catalog,
            "collections": [COLLECTION],
            "bands": ["green", "nir"],
            "time_step": "day",
        },
        "grid": {"crs": CRS, "resolution_m": RESOLUTION_M, "shard_px": 256, "chunk_px": 128},
        "prompts": [{"name": "lake", "expression": "the lakes"}],
        "model": {"name": "water"},
        "windows": {"overlap_px": 32},
        "output": {"mosaic": str(mosaic)},
        **changes,
    }


def water_in(path: Path, transform: Affine, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where there is water and where the ground was seen, bool ``(y, x)``, on another grid of the same CRS.

    GDAL's own warp, bilinear as the mapper reads, and the thresholds of the model.
    """
    rows, columns = shape
    with (
        rasterio.open(path) as file,
        WarpedVRT(
            file,
            crs=CRS,
            transform=transform,
            width=columns,
            height=rows,
            resampling=Resampling.bilinear,
            add_alpha=True,
        ) as there,
    ):
        green, near, seen = there.read([2, 4, file.count + 1]).astype(np.float32)
    return np.asarray((green > near) & (near < DARK_BELOW) & (seen > 0)), np.asarray(seen > 0)


def _item(path: Path, href: str) -> dict[str, Any]:
    year, month, day = re.search(r"_(\d{4})(\d\d)(\d\d)$", path.stem).groups()  # type: ignore[union-attr]  # all end so
    with rasterio.open(path) as file:
        transform, (rows, columns) = list(file.transform)[:6], file.shape
        left, bottom, right, top = file.bounds
    west, south, east, north = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True).transform_bounds(
        left, bottom, right, top
    )
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": path.stem,
        "collection": COLLECTION,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": f"{year}-{month}-{day}T17:00:00Z",
            "proj:code": CRS,
            "proj:transform": transform,
            "proj:shape": [rows, columns],
        },
        "assets": {
            "image": {
                "href": href,
                "type": "image/tiff; application=geotiff",
                "roles": ["data"],
                "bands": [{"name": band, "data_type": "uint8"} for band in ("red", "green", "blue", "nir")],
            }
        },
        "links": [],
    }
