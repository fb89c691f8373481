"""A small piece of ground at 12° east, in two UTM zones, and jobs that map it.

The items, in pixels of 1 m from the north-west corner of the ground (12° E runs down column 300)::

    0     100      193         360 420       720
    ┌──────┬──────────────────┐    ┌───────────┐ 0      west    1 June 2024    zone 32, cloudy, slanted edge
    │ west │ north            │    │           │ 60     middle  20 June 2024   zone 32
    │      └──────────────────┘     │           │       east    20 June 2024   zone 33, so it must be warped
    │          ┌────────────────┐   │           │ 180   north   15 January 2025  zone 32
    │          │ middle        ╱│    │   east    │
    └──────────┼──────────────╯ │    │           │ 400
               └────────────────┘     └───────────┘ 460    the corners have no imagery at all
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import Polygon, box, mapping

from catalogs.snapshot import freeze, thaw
from jobs.job import Job
from jobs.ledger import RunFolder
from jobs.summary import Summary

COLLECTION = "resmap-demo"
"""The name under which it is known how ``scl`` tells cloud."""

NEXT_ZONE = "next-zone"

CORNER = (691575.25, 6099107.75)
"""North-west corner of the ground in EPSG:32632: a quarter of a pixel off the CRS's zero."""

CLOUD, CLEAR = 9, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The ground, written as files."""

    folder: Path
    catalog: Path
    """Static ``catalog.json``, every href relative."""

    area: tuple[float, float, float, float]
    """Longitude and latitude; reaches beyond the imagery on all sides."""

    items: tuple[dict[str, Any], ...]
    """STAC items with absolute hrefs."""

    def job(self, mosaic: Path | str, **changes: Any) -> dict[str, Any]:
        """A job over the whole ground; ``changes`` replace settings, and merge into sections."""
        return merged(
            {
                "name": "small world",
                "area": {"bbox": list(self.area)},
                "imagery": {"catalog": str(self.catalog), "bands": ["red", "green", "blue"]},
                "grid": {"crs": "EPSG:32632", "resolution_m": 1.0, "shard_px": 128, "chunk_px": 64},
                "prompts": [{"name": "warm", "expression": "what is red"}],
                "model": {"name": "colour"},
                "windows": {"overlap_px": 32},
                "output": {"mosaic": str(mosaic)},
            },
            changes,
        )

    @staticmethod
    def rectangle(left: float, top: float, right: float, bottom: float) -> dict[str, str]:
        """An area whose corners lie exactly there, in pixels of the ground."""
        lonlat = Transformer.from_crs("EPSG:32632", "OGC:CRS84", always_xy=True)
        ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return {"wkt": Polygon([lonlat.transform(CORNER[0] + x, CORNER[1] - y) for x, y in ring]).wkt}

    def files(self, item: str) -> dict[str, Path]:
        """Asset key → its file."""
        document = next(document for document in self.items if document["id"] == item)
        return {key: Path(asset["href"]) for key, asset in document["assets"].items()}


def merged(job: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The job with settings replaced: a mapping merges into its section, None takes a key away."""
    out = copy.deepcopy(dict(job))
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(out.get(key), dict) and key != "area":
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def write_world(folder: Path) -> World:
    """Writes the ground: GeoTIFFs, items, two collections and their catalog."""
    rows, columns = np.ogrid[:400, :360]
    west = _blocks(1, 400, 360)
    west[:, columns + 0 * rows > 360 - (400 - rows) // 8] = 0  # as the edge of an orbit's swath
    scl = np.full((400, 360), CLEAR, np.uint8)
    scl[(rows - 200) ** 2 + (columns - 170) ** 2 < 60**2] = CLOUD  # half of it over the middle item
    scl[(west == 0).all(axis=0)] = 0
    zone_32, zone_33 = "EPSG:32632", "EPSG:32633"
    items = [
        _item(folder, "west", "2024-06-01T10:30:00Z", zone_32, _corner(0, 0), west, scl=scl),
        _item(folder, "middle", "2024-06-20T10:30:00Z", zone_32, _corner(180, 193), _blocks(2, 280, 227)),
        _item(folder, "north", "2025-01-15T10:30:00Z", zone_32, _corner(0, 100), _blocks(4, 60, 260)),
        _item(folder, "east", "2024-06-20T10:30:00Z", zone_33, _corner_in(zone_33, 0, 420), _blocks(3, 460, 300),
              collection=NEXT_ZONE),
    ]  # fmt: skip
    catalog = write_catalog(folder, items)
    lonlat = Transformer.from_crs("EPSG:32632", "OGC:CRS84", always_xy=True)
    left, top = CORNER
    area = lonlat.transform_bounds(left - 20, top - 480, left + 640, top + 20)
    absolute = [
        {**item, "assets": {key: {**asset, "href": str(folder / asset["href"])}
                            for key, asset in item["assets"].items()}}
        for item in items
    ]  # fmt: skip
    return World(
        folder=folder,
        catalog=catalog,
        area=(round(area[0], 6), round(area[1], 6), round(area[2], 6), round(area[3], 6)),
        items=tuple(absolute),
    )


def write_catalog(folder: Path, items: list[dict[str, Any]]) -> Path:
    """A static catalog of these items, whose hrefs are relative to the folder; a collection's files lie beside it."""
    children = []
    for name in sorted({item["collection"] for item in items}):
        own = [item for item in items if item["collection"] == name]
        for item in own:
            (folder / f"{item['id']}.json").write_text(json.dumps(item))
        document = collection_of(name) | {
            "links": [{"rel": "item", "href": f"./{item['id']}.json", "type": "application/geo+json"} for item in own]
        }
        (folder / f"{name}.json").write_text(json.dumps(document))
        children.append({"rel": "child", "href": f"./{name}.json", "type": "application/json"})
    path = folder / "catalog.json"
    path.write_text(
        json.dumps(
            {"type": "Catalog", "stac_version": "1.1.0", "id": "small", "description": "small", "links": children}
        )
    )
    return path


def collection_of(name: str) -> dict[str, Any]:
    """A collection's document, without its items."""
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": name,
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [[11, 54, 13, 56]]}, "temporal": {"interval": [["2024-01-01T00:00:00Z", None]]}},
        "links": [],
    }


def write_table(path: Path, items: tuple[dict[str, Any], ...]) -> Path:
    """The items as stac-geoparquet."""
    path.write_bytes(freeze(items))
    return path


def item_of(
    path: Path,
    *,
    name: str,
    moment: str,
    collection: str,
    href: str,
    bands: tuple[str, ...],
    extra_assets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A STAC item of one GeoTIFF, described by what the file says of itself; the footprint is its whole frame."""
    with rasterio.open(path) as file:
        crs, transform, shape = file.crs, file.transform, file.shape
        bounds, dtype, nodata = file.bounds, file.dtypes[0], file.nodata
    code = ":".join(crs.to_authority())
    lonlat = Transformer.from_crs(code, "OGC:CRS84", always_xy=True)
    outline = shapely.transform(
        shapely.segmentize(box(*bounds), (bounds.right - bounds.left) / 8),
        lambda xy: np.column_stack(lonlat.transform(xy[:, 0], xy[:, 1])),
    )
    described = [{"name": band, "data_type": dtype, "nodata": nodata} for band in bands]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        "geometry": mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": moment,
            "proj:code": code,
            "proj:shape": list(shape),
            "proj:transform": list(transform)[:6],
        },
        "links": [],
        "assets": {"image": {"href": href, "roles": ["data"], "bands": described}, **(extra_assets or {})},
    }


def mapped(job: Mapping[str, Any], *, gpus: int | None = None) -> Summary:
    """The job, run to its end: in this process, or on Ray with so many GPU actors."""
    return Job.from_dict(dict(job)).run(local=gpus is None, gpus=gpus).wait(timeout_s=150)


def layers(mosaic: Path | str, tree: str = "", level: int = 0) -> xr.Dataset:
    """All of one level of a mosaic as stored, in memory, opened as anybody would."""
    group = f"{tree}/{level}".lstrip("/")
    with xr.open_zarr(str(mosaic), group=group, mask_and_scale=False) as dataset:
        loaded: xr.Dataset = dataset.load()
    return loaded


def same_pixels(one: xr.Dataset, other: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Both on the pixels that both hold."""
    return tuple(xr.align(one, other, join="inner", exclude=("prompt", "time")))  # type: ignore[return-value]  # a pair


def seen_items(mosaic: Path | str, dataset: xr.Dataset) -> NDArray[np.str_]:
    """The source layer in words: the id of the item seen at each pixel, empty where none was.

    Rows of item tables differ between jobs; the items they name must not.
    """
    (run,) = {path.parent.name for path in Path(mosaic).glob(".resmap/runs/*/items.parquet")}
    ids = [item["id"] for item in thaw(RunFolder(str(mosaic), run).items())]
    names = np.array([*ids, ""])
    rows = dataset["source"].to_numpy()
    return np.asarray(names[np.minimum(rows, len(ids))])


def _corner(row: int, column: int) -> tuple[float, float]:
    return CORNER[0] + column, CORNER[1] - row


def _corner_in(crs: str, row: int, column: int) -> tuple[float, float]:
    """About the same corner in another zone, on a pixel phase of its own."""
    x, y = Transformer.from_crs("EPSG:32632", crs, always_xy=True).transform(CORNER[0] + column, CORNER[1] - row)
    return round(x) + 0.4, round(y) + 0.1


def _blocks(seed: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """``(3, rows, columns)``: fields of 9 pixels with grain, never 0."""
    dice = np.random.default_rng(seed)
    fields = dice.integers(60, 220, (3, rows // 9 + 1, columns // 9 + 1))
    pixels = np.kron(fields, np.ones((9, 9), int))[:, :rows, :columns]
    return np.asarray(np.clip(pixels + dice.integers(-12, 13, pixels.shape), 1, 255), np.uint8)


def _item(
    folder: Path,
    name: str,
    moment: str,
    crs: str,
    corner: tuple[float, float],
    pixels: NDArray[np.uint8],
    *,
    scl: NDArray[np.uint8] | None = None,
    collection: str = COLLECTION,
) -> dict[str, Any]:
    transform = Affine(1.0, 0, corner[0], 0, -1.0, corner[1])
    write_tiff(folder / f"{name}.tif", pixels, crs=crs, transform=transform)
    extra: dict[str, Any] = {}
    if scl is not None:
        write_tiff(folder / f"{name}-scl.tif", scl[None], crs=crs, transform=transform)
        extra["scl"] = {"href": f"{name}-scl.tif", "roles": ["data-mask"], "bands": [{"name": "scl"}]}
    item = item_of(
        folder / f"{name}.tif",
        name=name,
        moment=moment,
        collection=collection,
        href=f"{name}.tif",
        bands=("red", "green", "blue"),
        extra_assets=extra,
    )
    if scl is not None:
        item["properties"]["eo:cloud_cover"] = round(100 * float((scl == CLOUD).mean()), 2)
    else:
        item["properties"]["eo:cloud_cover"] = 1.0
    return item


def write_tiff(path: Path, bands: NDArray[Any], *, crs: str, transform: Affine, nodata: float = 0) -> Path:
    """A tiled GeoTIFF."""
    options = {
        "driver": "GTiff", "dtype": bands.dtype, "count": len(bands), "nodata": nodata, "crs": crs,
        "height": bands.shape[1], "width": bands.shape[2], "transform": transform,
        "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as file:
        file.write(bands)
    return path
