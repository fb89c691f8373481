"""STAC JSON → Item: the one place where a stranger's document becomes our value.

A job names bands, a document names assets, and a band is found by the first of these that fits::

    red            an asset of that key                                    red: B04.tif
    image:1        an asset and the number of a band, from 1               image: naip.tif, band 1
    image:nir      an asset and the name of a band                         image: naip.tif, band 4
    red            the name or common name of a band of any asset          image: naip.tif, band 1

Read are STAC 1.1 (``bands``) and 1.0 (``eo:bands`` beside ``raster:bands``). What the asset states goes
before what the item states.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError

from catalogs.conditions import date_of, did_you_mean, properties_of
from catalogs.footprints import footprint_of
from catalogs.hrefs import unsigned
from catalogs.sensors import facts_for, is_picture, known_offset
from mapper.errors import CatalogError, SpecError
from mapper.imagery import Asset, Band, CloudMask, Item, Placement

Json: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[str], str]

_MAPPING, _SEQUENCE = (dict, Mapping), (list, tuple, Sequence)
"""What JSON is read as goes first: that something is a dict is known ten times sooner than that it is like one."""

_CODE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*:[A-Za-z0-9_.-]+$")

_NOT_IMAGERY = frozenset(("thumbnail", "overview", "metadata", "visual", "tiles"))
"""Roles of assets that a band's name does not mean, where another asset has a band of that name."""


def item_from_stac(doc: Json, *, bands: Sequence[str], index: int = 0, judge: Judge | None = None) -> Item:
    """The item, with the bands asked for, in their order.

    Args:
        doc: STAC item, asset hrefs absolute.
        bands: references as above.
        index: its row in the run's item table.
        judge: gives the href that may be opened in place of one that was found, or raises; None takes all as they are.

    Raises:
        SpecError: it has no such band; the message says which it has.
        CatalogError: it is no STAC item: no id, no date, no place.
    """
    name = doc.get("id")
    if not isinstance(name, str) or not name:
        raise CatalogError("a STAC item has no id", item=str(name)[:80])
    properties = properties_of(doc)
    collection = str(doc.get("collection") or "")
    return Item(
        id=name,
        collection=collection,
        datetime=date_of(doc),
        footprint=footprint_of(doc),
        bands=tuple(_band(doc, reference, judge) for reference in bands),
        cloud=_cloud(doc, collection, judge),
        cloud_cover=_number(properties.get("eo:cloud_cover")),
        index=index,
    )


def items_from_stac(docs: Iterable[Json], *, bands: Sequence[str], judge: Judge | None = None) -> list[Item]:
    """The items of many documents, ``index`` the position here. Arguments and errors as for one."""
    with many_values():
        return [item_from_stac(doc, bands=bands, index=index, judge=judge) for index, doc in enumerate(docs)]


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


def assets_wanted(keys: Collection[str], bands: Sequence[str], collections: Iterable[str]) -> frozenset[str] | None:
    """The assets by which an item with these keys is read; None where any of them may be asked.

    Args:
        keys: of the item's assets.
        bands: references as above; none: any.
        collections: it may be of.
    """
    if not bands or not all(band in keys for band in bands):
        return None
    clouds = (facts.cloud_assets for facts in map(facts_for, collections) if facts)
    return frozenset(bands).union(*clouds)


def lean(doc: dict[str, Any], bands: Sequence[str]) -> dict[str, Any]:
    """The item with the assets it is read by, and no link but that to itself: an eighth of most.

    Whatever it is, the same bands of it make the same ``Item``, or the same error.
    """
    assets = _mapping(doc.get("assets"))
    files = [key for key, asset in assets.items() if _is_file(asset)]
    kept = assets_wanted(files, bands, [str(doc.get("collection") or "")])
    if kept is None:
        return doc
    links = [link for link in _list(doc.get("links")) if _mapping(link).get("rel") == "self"]
    return {**doc, "assets": {key: asset for key, asset in assets.items() if key in kept}, "links": links}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A band that a document describes."""

    key: str
    asset: Json
    number: int
    """From 1."""

    facts: Json
    """Its fields of STAC 1.1, or the same read from 1.0."""

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or "")

    @property
    def common_name(self) -> str:
        return str(self.facts.get("eo:common_name") or self.facts.get("common_name") or "")

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Better ones first: imagery before pictures of it, one band a file, finer pixels."""
        roles = {str(role).lower() for role in _list(self.asset.get("roles"))}
        picture = bool(roles & _NOT_IMAGERY) or is_picture(self.key)
        many = len(_described(self.asset)) > 1
        return picture, many, _number(self.facts.get("gsd") or self.asset.get("gsd")) or math.inf


def _band(doc: Json, reference: str, judge: Judge | None) -> Band:
    assets = _mapping(doc.get("assets"))
    if not _is_file(assets.get(reference)):  # the plain case needs no look at the other assets
        assets = {str(key): asset for key, asset in assets.items() if _is_file(asset)}
    found = _by_asset(assets, reference) or _by_name(assets, reference, doc)
    if found is None:
        known = [*assets, *(name for band in _all(assets) for name in (band.common_name, band.name) if name)]
        raise SpecError(
            f"an item has no band {reference!r}; it has {', '.join(dict.fromkeys(known)) or 'no assets'}",
            fix=did_you_mean(reference, known) or "set imagery.bands to some of these",
            item=doc.get("id"),
        )
    properties = properties_of(doc)
    levels = (found.facts, found.asset, properties)
    scale, offset = _number(_first(levels, "raster:scale")), _number(_first(levels, "raster:offset"))
    collection = str(doc.get("collection") or "")
    band_name = found.name or found.key
    if not is_picture(found.key):
        offset = known_offset(collection, properties, band_name=band_name, scale=scale, offset=offset)
    nodata = _number(_first(levels, "nodata"))
    dtype = _first(levels, "data_type")
    known_facts = facts_for(collection)
    return Band(
        asset=_asset(found.key, found.asset, properties, judge),
        index=found.number,
        name=reference,
        dtype=str(dtype) if dtype else None,
        scale=scale or 1.0,
        offset=offset or 0.0,
        nodata=known_facts.nodata if nodata is None and known_facts else nodata,
    )


def _by_asset(assets: Mapping[str, Json], reference: str) -> _Found | None:
    if reference in assets:
        bands = _bands_of(reference, assets[reference])
        if len(bands) > 1:
            named = ", ".join(f"{reference}:{band.common_name or band.name or band.number}" for band in bands)
            raise SpecError(f"asset {reference!r} has {len(bands)} bands", fix=f"name one of them: {named}")
        return bands[0]
    at = reference.rfind(":")
    while at > 0:
        key, which = reference[:at], reference[at + 1 :]
        if key in assets:
            bands = _bands_of(key, assets[key])
            if which.isdecimal():
                return _numbered(key, assets[key], bands, int(which))
            return next((band for band in bands if which in (band.name, band.common_name)), None)
        at = reference.rfind(":", 0, at)
    return None


def _numbered(key: str, asset: Json, bands: Sequence[_Found], number: int) -> _Found | None:
    if 1 <= number <= len(bands):
        return bands[number - 1]
    if number < 1 or _described(asset):
        return None
    return _Found(key=key, asset=asset, number=number, facts={})  # the catalog does not say how many there are


def _by_name(assets: Mapping[str, Json], reference: str, doc: Json) -> _Found | None:
    bands = _all(assets)
    for fits in (
        lambda band: band.name == reference,
        lambda band: band.common_name == reference,
        lambda band: reference.lower() in (band.name.lower(), band.common_name.lower()),
    ):
        fitting = sorted(filter(fits, bands), key=lambda band: (band.rank, band.key, band.number))
        if fitting:
            best = [band for band in fitting if band.rank == fitting[0].rank]
            if len({(band.name, band.number) for band in best}) > 1:
                raise SpecError(
                    f"{reference!r} may be any of {', '.join(f'{band.key} ({band.name})' for band in best)}",
                    fix="name the asset instead",
                    item=doc.get("id"),
                )
            return best[0]
    return None


def _all(assets: Mapping[str, Json]) -> list[_Found]:
    return [band for key, asset in assets.items() for band in _bands_of(key, asset) if band.facts]


def _bands_of(key: str, asset: Json) -> list[_Found]:
    described = _described(asset) or [{}]
    return [_Found(key=key, asset=asset, number=n, facts=facts) for n, facts in enumerate(described, 1)]


def _described(asset: Json) -> list[Json]:
    """The bands of an asset, each in the words of STAC 1.1."""
    if isinstance(asset.get("bands"), Sequence):
        return [_mapping(band) for band in asset["bands"]]
    spectral, raster = _list(asset.get("eo:bands")), _list(asset.get("raster:bands"))
    if len(raster) == 1 and len(spectral) > 1:
        raster = list(raster) * len(spectral)
    count = max(len(spectral), len(raster))
    spectral, raster = [*spectral, *[{}] * (count - len(spectral))], [*raster, *[{}] * (count - len(raster))]
    return [
        {
            **_mapping(eo),
            "data_type": _mapping(values).get("data_type"),
            "nodata": _mapping(values).get("nodata"),
            "raster:scale": _mapping(values).get("scale"),
            "raster:offset": _mapping(values).get("offset"),
        }
        for eo, values in zip(spectral, raster, strict=True)
    ]


def _asset(key: str, asset: Json, properties: Json, judge: Judge | None) -> Asset:
    href = unsigned(str(asset["href"]))
    return Asset(key=key, href=judge(href) if judge else href, placement=_placement(asset, properties))


def _placement(asset: Json, properties: Json) -> Placement | None:
    for level in (asset, properties):
        shape, transform = level.get("proj:shape"), level.get("proj:transform")
        if shape or transform:
            crs = _crs(asset) or _crs(properties)
            try:
                return _placed(crs, tuple(_list(shape)), tuple(_list(transform)))
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
    values = [_number(value) for value in written]
    if len(values) not in (6, 9) or any(value is None or not math.isfinite(value) for value in values):
        return None
    transform = Affine(*(float(value) for value in values[:6] if value is not None))
    return None if transform.is_degenerate else transform


def _cloud(doc: Json, collection: str, judge: Judge | None) -> CloudMask | None:
    facts = facts_for(collection)
    if facts is None:
        return None
    assets = _mapping(doc.get("assets"))
    for key in facts.cloud_assets:
        if _is_file(assets.get(key)):
            asset = _asset(key, assets[key], properties_of(doc), judge)
            return CloudMask(band=Band(asset=asset, name=key), values=facts.cloud_values, bits=facts.cloud_bits)
    return None


def _first(levels: Iterable[Json], name: str) -> object:
    for level in levels:
        value = level.get(name)
        if value is not None:
            return value
    return None


def _number(value: object) -> float | None:
    """The number meant, None where none is; STAC writes "nan" and "inf" as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _is_file(asset: object) -> bool:
    return isinstance(asset, _MAPPING) and isinstance(asset.get("href"), str)


def _mapping(value: object) -> Json:
    return value if isinstance(value, _MAPPING) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, _SEQUENCE) and not isinstance(value, str) else []
