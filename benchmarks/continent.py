"""A continent that never was, and Sentinel-2's scenes of it: what planning is measured with.

The coast is drawn by a few hundred waves of fixed phases. The scenes are squares of 109.8 km on the 100 km lattice of
each UTM zone, as Sentinel-2's are, each taken at as many dates; their documents are as long as those of the public
catalogs: 19 assets with bands, shapes and transforms, some 12 kB of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
import stac_geoparquet.arrow
from affine import Affine
from pyproj import Transformer
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from catalogs.search import Query, search
from catalogs.snapshot import freeze
from mapper.imagery import Asset, Band, Item, Placement

BANDS = ("B04", "B03", "B02")
SIDE_PX, RESOLUTION_M = 10_980, 10.0
VERTICES = 20_000
FIRST = datetime(2024, 1, 3, 10, 0, 31, tzinfo=UTC)
STAMP = "20240103T100031"
"""The first date as it stands in names; in the documents of another date, that one stands in its place."""

_ASSETS = {
    **{f"B{n:02d}": (SIDE_PX, 10.0) for n in (2, 3, 4, 8)},
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), (SIDE_PX // 2, 20.0)),
    **dict.fromkeys(("B01", "B09", "AOT", "WVP"), (SIDE_PX // 6, 60.0)),
    **dict.fromkeys(("visual", "preview", "granule-metadata", "product-metadata")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """Where one scene of each date lies."""

    name: str
    crs: str
    left: float
    top: float
    footprint: BaseGeometry
    """Longitude and latitude."""


def continent() -> BaseGeometry:
    """A coast of 20 000 points, and the land in it: some 30 million square kilometres across the equator."""
    dice = np.random.default_rng(1)
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    radius = np.ones(VERTICES)
    for wave in range(2, 400):
        radius += dice.normal() * 0.25 / wave**1.1 * np.cos(wave * angle + dice.uniform(0, 2 * np.pi))
    coast = np.column_stack([18 + 27 * radius * np.cos(angle), 3 + 29 * radius * np.sin(angle)])
    return shapely.make_valid(shapely.Polygon(coast))


def squares(area: BaseGeometry) -> list[Square]:
    """The scenes' places, zone by zone: they overlap by a tenth, and more where zones meet."""
    shapely.prepare(area)
    west, south, east, north = area.bounds
    found: list[Square] = []
    for zone in range(int((west + 180) // 6) + 1, int((east + 180) // 6) + 2):
        for code, low, high, origin in ((32600, 0.0, north, 20.0), (32700, south, 0.0, 10_000_020.0)):
            crs = f"EPSG:{code + zone}"
            to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
            left, top = map(np.ravel, np.meshgrid(99_960 + 1e5 * np.arange(9), origin + 1e5 * np.arange(-80, 95)))
            side = SIDE_PX * RESOLUTION_M
            longitude, latitude = to_degrees.transform(left + side / 2, top - side / 2)
            near = (np.abs(longitude - (6 * zone - 183)) < 3.6) & (latitude > low - 0.5) & (latitude < high + 0.5)
            for x, y in zip(left[near], top[near], strict=True):
                outline = shapely.transform(
                    box(x, y - side, x + side, y), lambda xy, to=to_degrees: np.column_stack(to.transform(*xy.T))
                )
                if area.intersects(outline):
                    name = f"{zone:02d}{'NS'[code == 32700]}{len(found):04d}"
                    found.append(Square(name=name, crs=crs, left=float(x), top=float(y), footprint=outline))
    return found


def dates(number: int) -> list[datetime]:
    """As many as are asked for, over a year."""
    return [FIRST + timedelta(days=int(day)) for day in np.linspace(0, 360, number)]


def made_items(places: list[Square], scenes: int) -> list[Item]:
    """Items as planning is given them, with no catalog around: every place at each of so many dates."""
    placements = [
        Placement(crs=p.crs, transform=Affine(10.0, 0, p.left, 0, -10.0, p.top), shape=(SIDE_PX, SIDE_PX))
        for p in places
    ]
    items: list[Item] = []
    for date in dates(scenes):
        for place, placement in zip(places, placements, strict=True):
            name = f"S2A_{date:%Y%m%d}_{place.name}"
            bands = tuple(
                Band(asset=Asset(key=key, href=f"https://127.0.0.1/{name}/{key}.tif", placement=placement), name=key)
                for key in BANDS
            )
            items.append(Item(id=name, collection="sentinel-2-l2a", datetime=date, footprint=place.footprint,
                              bands=bands, index=len(items)))  # fmt: skip
    return items


def write_table(path: Path, places: list[Square], number: int) -> None:
    """A stac-geoparquet file of so many items: the first dates of all places."""
    first = stac_geoparquet.arrow.parse_stac_items_to_arrow([_document(place) for place in places]).read_all()
    stac_geoparquet.arrow.to_parquet(first, path)
    _write(path, pq.read_table(path), number)


def write_snapshot(path: Path, places: list[Square], number: int) -> None:
    """The same items as a search has frozen them."""
    one_date = path.with_name("one-date.parquet")
    write_table(one_date, places, len(places))
    query = Query(catalog=str(one_date), collections=(), area=box(-180, -90, 180, 90), bands=BANDS)
    path.write_bytes(freeze(search(query)))
    _write(path, pq.read_table(path), number)
    one_date.unlink()


def _write(path: Path, first: pa.Table, number: int) -> None:
    """The table of all dates from that of the first."""
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for batch in _tables(first, number):
            writer.write_table(batch)


def _tables(first: pa.Table, number: int) -> Iterator[pa.Table]:
    for date in dates(-(-number // len(first))):
        wanted = min(number, len(first))
        number -= wanted
        here = first.slice(0, wanted).combine_chunks()
        columns = []
        for name, column in zip(here.schema.names, here.columns, strict=True):
            whole = column.chunk(0)
            if name == "datetime":
                columns.append(pa.array([date] * wanted, whole.type))
            else:
                columns.append(
                    _redated(_redated(whole, STAMP, f"{date:%Y%m%dT%H%M%S}"), "2024-01-03", f"{date:%Y-%m-%d}")
                )
        yield pa.table(columns, schema=here.schema)


def _redated(column: pa.Array, old: str, new: str) -> pa.Array:
    """The column with another date in every text, however deep."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.replace_substring(column, old, new)
    if pa.types.is_struct(kind):
        parts = [_redated(pc.struct_field(column, [n]), old, new) for n in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=column.is_null())
    if pa.types.is_list(kind) and len(column) and not pa.types.is_primitive(kind.value_type):
        values = _redated(column.flatten(), old, new)
        offsets = pa.array(np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(column), 0))]), pa.int32())
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=column.is_null())
    return column


def _document(place: Square) -> dict[str, Any]:
    name = f"S2A_MSIL2A_{STAMP}_N0510_R122_T{place.name}_{STAMP}"
    folder = f"https://127.0.0.1/sentinel2-l2/{place.name}/2024-01-03/{name}.SAFE/GRANULE/L2A_T{place.name}/IMG_DATA"
    assets = {
        key: _asset(place, key, f"{folder}/T{place.name}_{STAMP}_{key}.tif", size) for key, size in _ASSETS.items()
    }
    shares = ("water", "vegetation", "snow_ice", "cloud_shadow", "nodata_pixel", "thin_cirrus", "unclassified")
    links = ("self", "collection", "parent", "root", "license", "preview")
    return {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name, "collection": "sentinel-2-l2a",
        "bbox": list(place.footprint.bounds), "geometry": mapping(place.footprint),
        "links": [{"rel": rel, "href": f"https://127.0.0.1/stac/{rel}/{name}", "type": "application/json"}
                  for rel in links],
        "assets": assets,
        "properties": {
            "datetime": FIRST.isoformat().replace("+00:00", "Z"), "platform": "sentinel-2a",
            "constellation": "sentinel-2", "instruments": ["msi"],
            "gsd": 10, "eo:cloud_cover": 12.5, "proj:code": place.crs,
            "s2:processing_baseline": "05.10", "s2:product_uri": f"{name}.SAFE", "s2:mgrs_tile": place.name,
            "sat:orbit_state": "descending", "sat:relative_orbit": 122,
            **{f"s2:{share}_percentage": 1.25 for share in shares},
        },
    }  # fmt: skip


def _asset(place: Square, key: str, href: str, size: tuple[int, float] | None) -> dict[str, Any]:
    common = {"href": href, "title": f"{key} of a scene of Sentinel-2", "type": "image/tiff; application=geotiff"}
    if size is None:
        return {**common, "roles": ["metadata"]}
    side, resolution = size
    return {
        **common, "roles": ["data"], "gsd": resolution, "proj:shape": [side, side],
        "proj:transform": [resolution, 0.0, place.left, 0.0, -resolution, place.top],
        "eo:bands": [{"name": key, "common_name": f"band {key}", "center_wavelength": 0.665}],
        "raster:bands": [{"nodata": 0.0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
    }  # fmt: skip
