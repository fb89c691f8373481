"""Which bands of which assets a job's references mean, and how their values are read.

A job names bands, a document names assets, and a band is found by the first of these that fits::

    red            an asset of that key                                    red: B04.tif
    image:1        an asset and the number of a band, from 1               image: naip.tif, band 1
    image:nir      an asset and the name of a band                         image: naip.tif, band 4
    red            the name or common name of a band of any asset          image: naip.tif, band 1

Read are STAC 1.1 (``bands``) and 1.0 (``eo:bands`` beside ``raster:bands``). What the asset states goes before what
the item states. Of all that a document says only the fields named here are looked at, and they are the same in
thousands of items: so what they mean is worked out once, for all that say the same.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from catalogs.conditions import did_you_mean, properties_of
from catalogs.sensors import facts_for, is_picture, known_offset
from mapper.errors import SpecError, told
from mapper.imagery import Asset, Band, CloudMask

Json: TypeAlias = Mapping[str, Any]
_Described: TypeAlias = tuple[tuple[str, ...], str, dict[str, list[Any]], list[Any]]
"""References, collection, assets and properties: of the last two the fields below, None where they say nothing."""

ASSET_FIELDS = (
    "bands", "eo:bands", "raster:bands", "roles", "gsd", "data_type", "nodata", "raster:scale", "raster:offset",
)  # fmt: skip
ITEM_FIELDS = (
    "data_type", "nodata", "raster:scale", "raster:offset",
    "s2:processing_baseline", "processing:version", "earthsearch:boa_offset_applied",
)  # fmt: skip
"""All that is looked at of an asset, and of an item's properties."""

_MAPPING, _SEQUENCE = (dict, Mapping), (list, tuple, Sequence)
"""What JSON is read as goes first: that something is a dict is known ten times sooner than that it is like one."""

_NOT_IMAGERY = frozenset(("thumbnail", "overview", "metadata", "visual", "tiles"))
"""Roles of assets that a band's name does not mean, where another asset has a band of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How an item is read: bands and what tells cloud, their assets by key alone, without href and placement."""

    bands: tuple[Band, ...]
    cloud: CloudMask | None


def reading_of(doc: Json, references: Sequence[str]) -> Reading:
    """How the bands a job names are read from an item, in the job's order.

    Raises:
        SpecError: it has no such band; the message says which it has.
    """
    described = _described_by(doc, tuple(references))
    try:
        key = marshal.dumps(described, 2)  # version 2 writes equal values in equal bytes
    except ValueError:  # no plain JSON
        key = b""
    try:
        return _known_reading(key) if key else _reading(described)
    except SpecError as error:
        raise SpecError(error.what, fix=error.fix, item=doc.get("id")) from None


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


def is_file(asset: object) -> bool:
    """Whether what stands among an item's assets is one."""
    return isinstance(asset, _MAPPING) and isinstance(asset.get("href"), str)


def mapping_in(value: object) -> Json:
    """A JSON object as it is, an empty one in place of anything else."""
    return value if isinstance(value, _MAPPING) else {}


def list_in(value: object) -> Sequence[Any]:
    """A JSON array as it is, an empty one in place of anything else."""
    return value if isinstance(value, _SEQUENCE) and not isinstance(value, str) else []


def number_in(value: object) -> float | None:
    """The number meant, None where none is; STAC writes "nan" and "inf" as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _described_by(doc: Json, references: tuple[str, ...]) -> _Described:
    """All of a document that decides how it is read."""
    assets, properties = mapping_in(doc.get("assets")), properties_of(doc)
    collection = str(doc.get("collection") or "")
    looked_at: dict[str, Any] = {reference: assets.get(reference) for reference in references}
    if not all(map(is_file, looked_at.values())):
        looked_at = {str(key): asset for key, asset in assets.items() if is_file(asset)}
    facts = facts_for(collection)
    for key in facts.cloud_assets if facts else ():
        if key in assets and is_file(assets[key]):
            looked_at[key] = assets[key]
    said = {key: [*map(asset.get, ASSET_FIELDS)] for key, asset in looked_at.items()}
    return references, collection, said, [*map(properties.get, ITEM_FIELDS)]


@lru_cache(maxsize=1024)
def _known_reading(key: bytes) -> Reading:
    return _reading(marshal.loads(key))


def _reading(described: _Described) -> Reading:
    references, collection, said, of_item = described
    assets = {key: dict(zip(ASSET_FIELDS, values, strict=True)) for key, values in said.items()}
    properties = dict(zip(ITEM_FIELDS, of_item, strict=True))
    return Reading(
        bands=tuple(_band(assets, reference, collection, properties) for reference in references),
        cloud=_cloud(assets, collection),
    )


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
        roles = {str(role).lower() for role in list_in(self.asset.get("roles"))}
        picture = bool(roles & _NOT_IMAGERY) or is_picture(self.key)
        many = len(_described(self.asset)) > 1
        return picture, many, number_in(self.facts.get("gsd") or self.asset.get("gsd")) or math.inf


def _band(assets: Mapping[str, Json], reference: str, collection: str, properties: Json) -> Band:
    found = _by_asset(assets, reference) or _by_name(assets, reference)
    if found is None:
        known = [*assets, *(name for band in _all(assets) for name in (band.common_name, band.name) if name)]
        raise SpecError(
            f"an item has no band {reference!r}; it has {told(', '.join(dict.fromkeys(known)), 500) or 'no assets'}",
            fix=did_you_mean(reference, known) or "set imagery.bands to some of these",
        )
    levels = (found.facts, found.asset, properties)
    scale, offset = number_in(_first(levels, "raster:scale")), number_in(_first(levels, "raster:offset"))
    if not is_picture(found.key):
        band_name = found.name or found.key
        offset = known_offset(collection, properties, band_name=band_name, scale=scale, offset=offset)
    nodata = number_in(_first(levels, "nodata"))
    dtype = _first(levels, "data_type")
    known_facts = facts_for(collection)
    return Band(
        asset=Asset(key=found.key, href=""),
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


def _by_name(assets: Mapping[str, Json], reference: str) -> _Found | None:
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
        return [mapping_in(band) for band in asset["bands"]]
    spectral, raster = list_in(asset.get("eo:bands")), list_in(asset.get("raster:bands"))
    if len(raster) == 1 and len(spectral) > 1:
        raster = list(raster) * len(spectral)
    count = max(len(spectral), len(raster))
    spectral, raster = [*spectral, *[{}] * (count - len(spectral))], [*raster, *[{}] * (count - len(raster))]
    return [
        {
            **mapping_in(eo),
            "data_type": mapping_in(values).get("data_type"),
            "nodata": mapping_in(values).get("nodata"),
            "raster:scale": mapping_in(values).get("scale"),
            "raster:offset": mapping_in(values).get("offset"),
        }
        for eo, values in zip(spectral, raster, strict=True)
    ]


def _cloud(assets: Mapping[str, Json], collection: str) -> CloudMask | None:
    facts = facts_for(collection)
    for key in facts.cloud_assets if facts else ():
        if facts and key in assets:
            band = Band(asset=Asset(key=key, href=""), name=key)
            return CloudMask(band=band, values=facts.cloud_values, bits=facts.cloud_bits)
    return None


def _first(levels: Iterable[Json], name: str) -> object:
    for level in levels:
        value = level.get(name)
        if value is not None:
            return value
    return None
