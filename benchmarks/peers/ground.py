"""The imagery of a measurement: neighbouring scenes as cloud-optimised GeoTIFFs, and the item collection of them.

Scenes are 4608 px wide, of red, green and blue, and lie 4096 px apart on the pixels of one UTM zone, so that each
overlaps its neighbours by a ninth. They show fields, grain and shades, and deflate to about the share that pictures
from the air do. Two textures take turns like the fields of a chessboard, so in every overlap it matters which scene is
laid first; the same file placed elsewhere is the next scene of its colour. All of the area is seen, and around it only
a margin of half an overlap.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from shapely.geometry import Polygon, box, mapping

from mapper.grid import PixelBox

CRS, RESOLUTION_M = "EPSG:32632", 10.0
BANDS = ("red", "green", "blue")
STEP_PX, OVERLAP_PX = 4096, 512
NORTH_WEST = (-110592, 32768)
"""Row and column of the area's corner, in pixels of the CRS's zero: 10° N, 7.4° E, where shards of 4096 begin."""

CATALOG = "items.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A piece of ground of whole shards, and how much of it a scene shows."""

    rows: int
    columns: int
    """Of shards."""

    shard_px: int
    step_px: int = STEP_PX
    overlap_px: int = OVERLAP_PX

    @property
    def box(self) -> PixelBox:
        """The area, in pixels of the CRS's zero."""
        top, left = NORTH_WEST
        return PixelBox(top, left, top + self.rows * self.shard_px, left + self.columns * self.shard_px)

    @property
    def scenes(self) -> list[PixelBox]:
        """Where each scene lies, row by row."""
        margin, side = self.overlap_px // 2, self.step_px + self.overlap_px
        return [
            PixelBox(top - margin, left - margin, top - margin + side, left - margin + side)
            for top in range(self.box.top, self.box.bottom, self.step_px)
            for left in range(self.box.left, self.box.right, self.step_px)
        ]

    def area(self) -> str:
        """The area in longitude and latitude, as WKT: its edges as bent as they must be to run along pixels."""
        edge = shapely.segmentize(box(*_bounds(self.box)), 64 * RESOLUTION_M)
        return str(shapely.to_wkt(_lonlat(edge), rounding_precision=-1))

    @classmethod
    def for_windows(cls, windows: float, *, window_px: int, overlap_px: int, shard_px: int = 2048) -> Ground:
        """About square, and worth about so many windows: counted as the map as a whole needs, with no halo."""
        shards = max(1.0, windows * (window_px - overlap_px) ** 2 / shard_px**2)
        rows = max(1, round(math.sqrt(shards)))
        return cls(rows=rows, columns=max(1, round(shards / rows)), shard_px=shard_px)


def write_ground(folder: Path, ground: Ground, *, url: str) -> dict[str, Any]:
    """Write scenes and ``items.json`` into a folder that is served at a URL; what was written, in figures."""
    side = ground.step_px + ground.overlap_px
    drafts = [_write_cog(folder / f"texture-{seed}.tif", _texture(seed, side)) for seed in (1, 2)]
    across = len(range(ground.box.left, ground.box.right, ground.step_px))
    items, written = [], 0
    for number, place in enumerate(ground.scenes):
        name = f"scene-{number:03d}"
        content = drafts[(number // across + number % across) % 2]
        (folder / f"{name}.tif").write_bytes(_moved(content, place))
        items.append(_item(name, number, place, f"{url}/{name}.tif"))
        written += len(content)
    (folder / CATALOG).write_text(json.dumps({"type": "FeatureCollection", "features": items}), encoding="utf-8")
    return {
        "crs": CRS,
        "resolution_m": RESOLUTION_M,
        "area_px": list(ground.box.shape),
        "scenes": len(items),
        "scene_px": side,
        "overlap_px": ground.overlap_px,
        "bytes": written,
        "bytes_per_raw_byte": round(written / (len(items) * 3 * side**2), 3),
    }


def _texture(seed: int, side: int) -> NDArray[np.uint8]:
    """``(3, side, side)``: fields with sharp edges, shades of several sizes, grain; never 0."""
    dice = np.random.default_rng(seed)
    fields = dice.normal(0, 28, (side // 48 + 1, side // 48 + 1))
    light = np.kron(fields, np.ones((48, 48)))[:side, :side].astype(np.float32)
    for cell, strength in ((512, 18.0), (64, 9.0), (8, 6.0)):
        light += _shades(dice, side, cell) * np.float32(strength)
    pixels = np.empty((3, side, side), np.uint8)
    for band, (base, gain) in enumerate(((95, 1.0), (105, 0.9), (85, 0.7))):
        own = _shades(dice, side, 128) * np.float32(8) + dice.normal(0, 2.0, (side, side)).astype(np.float32)
        pixels[band] = np.clip(base + gain * light + own, 1, 255)
    return pixels


def _shades(dice: np.random.Generator, side: int, cell: int) -> NDArray[np.float32]:
    """Smooth noise ``(side, side)`` of unit strength, bumps of one cell."""
    knots = Image.fromarray(dice.normal(0, 1, (side // cell + 2,) * 2).astype(np.float32))
    return np.asarray(knots.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _write_cog(path: Path, pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a COG at the CRS's zero; the file itself is taken away again."""
    options = {
        "driver": "COG", "dtype": "uint8", "count": len(pixels), "nodata": 0, "crs": CRS,
        "height": pixels.shape[1], "width": pixels.shape[2], "transform": _transform(PixelBox(0, 0, 1, 1)),
        "blocksize": 512, "compress": "deflate", "predictor": "yes", "level": 4,
        "overview_resampling": "average", "num_threads": "all_cpus",
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as file:
        file.write(pixels)
    content = path.read_bytes()
    path.unlink()
    return content


def _moved(content: bytes, place: PixelBox) -> bytes:
    """The same file at another place: the tag that ties its corner to the ground is written over."""
    left, top = _bounds(place)[0], _bounds(place)[3]
    tie = struct.Struct("<6d")
    before, after = tie.pack(0, 0, 0, 0, 0, 0), tie.pack(0, 0, 0, left, top, 0)
    header = content[:65536]
    at = header.index(_TIE_TAG)
    offset = struct.unpack_from("<I", header, at + 8)[0]
    assert header[offset : offset + len(before)] == before  # the draft lies at the CRS's zero
    return content[:offset] + after + content[offset + len(after) :]


_TIE_TAG = struct.pack("<HHI", 33922, 12, 6)
"""ModelTiepointTag of GeoTIFF: six doubles, whose offset follows."""


def _item(name: str, number: int, place: PixelBox, href: str) -> dict[str, Any]:
    outline: Polygon = _lonlat(shapely.segmentize(box(*_bounds(place)), 512 * RESOLUTION_M))
    moment = datetime(2024, 6, 1, 10, tzinfo=UTC) + timedelta(seconds=15 * number)
    bands = [{"name": band, "eo:common_name": band, "data_type": "uint8", "nodata": 0} for band in BANDS]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
        ],
        "id": name,
        "collection": "benchmark",
        "geometry": mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": moment.isoformat().replace("+00:00", "Z"),
            "proj:code": CRS,
            "proj:shape": list(place.shape),
            "proj:transform": list(_transform(place))[:6],
        },
        "links": [],
        "assets": {
            "visual": {
                "href": href,
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "bands": bands,
            }
        },
    }


def _transform(place: PixelBox) -> Affine:
    left, _, _, top = _bounds(place)
    return Affine(RESOLUTION_M, 0, left, 0, -RESOLUTION_M, top)


def _bounds(place: PixelBox) -> tuple[float, float, float, float]:
    """Left, bottom, right, top in metres of the CRS."""
    return (
        place.left * RESOLUTION_M,
        -place.bottom * RESOLUTION_M,
        place.right * RESOLUTION_M,
        -place.top * RESOLUTION_M,
    )


def _lonlat(shape: Any) -> Any:
    there = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True)
    return shapely.transform(shape, lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
