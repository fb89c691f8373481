"""STAC JSON → Item: the one place where a stranger's document becomes our value.

How its bands are found and read is told in ``catalogs/bands.py``, where it lies in ``catalogs/footprints.py``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import marshal
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias

from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from catalogs.bands import ASSET_FIELDS, ITEM_FIELDS, assets_wanted, is_file, list_in, mapping_in, number_in, reading_of
from catalogs.conditions import date_of, properties_of
from catalogs.footprints import footprint_of, plain_footprints
from catalogs.hrefs import unsigned
from catalogs.tables import LINKS, Rows
from mapper.errors import CatalogError
from mapper.imagery import Asset, Band, CloudMask, Item, Placement

Json: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[str], str]

_CODE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*:[A-Za-z0-9_.-]+$")

_AT_ONCE = 4096
"""Documents of which the footprints are made together."""

_PLACE_FIELDS = ("proj:shape", "proj:transform", "proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
FIELDS = frozenset(
    ("id", "collection", "bbox", "geometry", "assets", "href", "datetime", "start_datetime", "end_datetime",
     "eo:cloud_cover", *ASSET_FIELDS, *ITEM_FIELDS, *_PLACE_FIELDS)
)  # fmt: skip
"""All that is looked at of a document, whether of the item itself, of its properties or of its assets."""


def item_from_stac(
    doc: Json,
    *,
    bands: Sequence[str],
    index: int = 0,
    judge: Judge | None = None,
    footprint: BaseGeometry | None = None,
) -> Item:
    """The item, with the bands asked for, in their order.

    Args:
        doc: STAC item, asset hrefs absolute.
        bands: references, as in ``catalogs/bands.py``.
        index: its row in the run's item table.
        judge: gives the href that may be opened in place of one that was found, or raises; None takes all as they are.
        footprint: where it lies, if that is known already.

    Raises:
        SpecError: it has no such band; the message says which it has.
        CatalogError: it is no STAC item: no id, no date, no place.
    """
    name = doc.get("id")
    if not isinstance(name, str) or not name:
        raise CatalogError("a STAC item has no id", item=str(name)[:80])
    properties = properties_of(doc)
    date = date_of(doc)
    footprint = footprint_of(doc) if footprint is None else footprint
    reading = reading_of(doc, bands)
    files: dict[str, Asset] = {}

    def placed(band: Band) -> Band:
        key = band.asset.key
        if key not in files:
            files[key] = _asset(key, doc["assets"][key], properties, judge)
        return Band(
            asset=files[key], index=band.index, name=band.name, dtype=band.dtype,
            scale=band.scale, offset=band.offset, nodata=band.nodata,
        )  # fmt: skip

    cloud = reading.cloud
    return Item(
        id=name,
        collection=str(doc.get("collection") or ""),
        datetime=date,
        footprint=footprint,
        bands=tuple(map(placed, reading.bands)),
        cloud=CloudMask(band=placed(cloud.band), values=cloud.values, bits=cloud.bits) if cloud else None,
        cloud_cover=number_in(properties.get("eo:cloud_cover")),
        index=index,
    )


def items_from_stac(docs: Iterable[Json], *, bands: Sequence[str], judge: Judge | None = None) -> list[Item]:
    """The items of many documents, ``index`` the position here. Arguments and errors as for one."""
    items: list[Item] = []
    rest = docs.saying(FIELDS) if isinstance(docs, Rows) else iter(docs)
    with many_values():
        while some := list(islice(rest, _AT_ONCE)):
            for doc, plain in zip(some, plain_footprints(some), strict=True):
                items.append(item_from_stac(doc, bands=bands, index=len(items), judge=judge, footprint=plain))
    return items


@contextlib.contextmanager
def many_values() -> Iterator[None]:
    """While millions of values are made that all stay, the search for forgotten ones is put off.

    It looks at each of them again and again, finds nothing, and takes half the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def lean(doc: dict[str, Any], bands: Sequence[str]) -> dict[str, Any]:
    """The item with the assets it is read by, and no links but to itself and to what it replaces: an eighth of most.

    Whatever it is, the same bands of it make the same ``Item``, or the same error.
    """
    assets = mapping_in(doc.get("assets"))
    files = [key for key, asset in assets.items() if is_file(asset)]
    kept = assets_wanted(files, bands, [str(doc.get("collection") or "")])
    if kept is None:
        return doc
    links = [link for link in list_in(doc.get("links")) if mapping_in(link).get("rel") in LINKS]
    return {**doc, "assets": {key: asset for key, asset in assets.items() if key in kept}, "links": links}


def _asset(key: str, asset: Json, properties: Json, judge: Judge | None) -> Asset:
    href = asset["href"]
    if "?" in href:
        href = unsigned(href)
    return Asset(key=key, href=judge(href) if judge else href, placement=_placement(asset, properties))


def _placement(asset: Json, properties: Json) -> Placement | None:
    """Where a file lies, as its asset says, else as its item says. Worked out once for all that say the same."""
    said = [*map(asset.get, _PLACE_FIELDS)], [*map(properties.get, _PLACE_FIELDS)]
    try:
        return _known_placement(marshal.dumps(said, 2))  # see reading_of
    except ValueError:  # no plain JSON
        return _placement_said(said)


@lru_cache(maxsize=65_536)
def _known_placement(said: bytes) -> Placement | None:
    return _placement_said(marshal.loads(said))


def _placement_said(said: Iterable[Sequence[object]]) -> Placement | None:
    asset, properties = (dict(zip(_PLACE_FIELDS, values, strict=True)) for values in said)
    for level in (asset, properties):
        shape, transform = level["proj:shape"], level["proj:transform"]
        if shape or transform:
            crs = _crs(asset) or _crs(properties)
            try:
                return _placed(crs, tuple(list_in(shape)), tuple(list_in(transform)))
            except TypeError:  # lists in lists are no numbers
                return None
    return None


@lru_cache(maxsize=65_536)
def _placed(crs: str | None, shape: tuple[object, ...], transform: tuple[object, ...]) -> Placement | None:
    """One value for all scenes of one place."""
    size, affine = _shape(shape), _transform(transform)
    return Placement(crs=crs, transform=affine, shape=size) if crs and size and affine else None


def _crs(level: Json) -> str | None:
    code, epsg = level.get("proj:code"), level.get("proj:epsg")
    if isinstance(code, str) and _CODE.match(code):
        return code
    if isinstance(epsg, int | float) and 0 < epsg < 10**6:
        return f"EPSG:{int(epsg)}"
    wkt, projjson = level.get("proj:wkt2"), level.get("proj:projjson")
    if isinstance(projjson, Mapping) and projjson:
        return _crs_described(json.dumps(projjson))
    return _crs_described(wkt) if isinstance(wkt, str) and "[" in wkt else None


@lru_cache(maxsize=256)
def _crs_described(text: str) -> str | None:
    """The code of a CRS written out as WKT or PROJJSON, else its WKT; None where it is none."""
    try:
        crs = CRS.from_json(text) if text.startswith("{") else CRS.from_wkt(text)
    except CRSError:
        return None
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(crs.to_wkt())


def _shape(size: Sequence[object]) -> tuple[int, int] | None:
    sides = [int(side) for side in size if isinstance(side, int | float) and side > 0]
    return (sides[0], sides[1]) if len(sides) == len(size) == 2 else None


def _transform(written: Sequence[object]) -> Affine | None:
    values = [number_in(value) for value in written]
    if len(values) not in (6, 9) or any(value is None or not math.isfinite(value) for value in values):
        return None
    transform = Affine(*(float(value) for value in values[:6] if value is not None))
    return None if transform.is_degenerate else transform
