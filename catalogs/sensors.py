"""What is known of a collection beyond what its items say: cloud classes, display range, offsets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mapper.imagery import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFacts:
    """What is known of a collection."""

    rgb: tuple[str, str, str] = ("red", "green", "blue")
    """Band references that every item of it answers to."""

    display_range: tuple[float, float] | None = None
    """Physical values to show as 0 and 255; None where the pixels are for showing as they are."""

    count: float = 1.0
    """Physical value of one stored count, where items do not state a scale."""

    nodata: float | None = None
    """The stored value that means "not seen", where items do not state it."""

    cloud_assets: tuple[str, ...] = ()
    """Keys of the asset that tells cloud, as catalogs name it; the first that an item has."""

    cloud_values: frozenset[int] = frozenset()
    cloud_bits: int = 0


_SCL = ("scl", "SCL", "SCL-20m", "scl_20m")
_HIDDEN_SCL = frozenset((3, 8, 9, 10))
"""Of Sentinel-2's scene classes: cloud shadow, cloud of medium and of high probability, thin cirrus.

Not 1, "saturated or defective": what saturates is bright roofs, sand and snow, so leaving it out would punch
holes into the very things that are looked for. Not 0, "no data": there the bands have their own nodata.
Not 11, snow, which is ground that was seen.
"""

_QA_PIXEL_BITS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4
"""Of Landsat Collection 2: dilated cloud, cirrus, cloud, cloud shadow (each: high confidence)."""

_FMASK_BITS = 1 << 1 | 1 << 2 | 1 << 3
"""Of HLS 2.0: cloud, adjacent to cloud or shadow, cloud shadow. Bit 0, cirrus, is reserved and not set."""

_SENTINEL_2 = SensorFacts(display_range=(0.0, 0.3), count=1e-4, nodata=0.0, cloud_assets=_SCL, cloud_values=_HIDDEN_SCL)
_LANDSAT = SensorFacts(
    display_range=(0.0, 0.3),
    count=2.75e-5,
    nodata=0.0,
    cloud_assets=("qa_pixel", "QA_PIXEL"),
    cloud_bits=_QA_PIXEL_BITS,
)
_HLS = SensorFacts(
    display_range=(0.0, 0.3),
    count=1e-4,
    nodata=-9999.0,
    cloud_assets=("Fmask", "fmask"),
    cloud_bits=_FMASK_BITS,
)

_FACTS = {
    "sentinel-2-l2a": _SENTINEL_2,
    "sentinel-2-c1-l2a": _SENTINEL_2,
    "sentinel-2-pre-c1-l2a": _SENTINEL_2,
    "sentinel-s2-l2a-cogs": _SENTINEL_2,
    "landsat-c2-l2": _LANDSAT,
    "landsat-c2l2-sr": _LANDSAT,
    "hls2-l30": _HLS,
    "hls2-s30": _HLS,
    "hlsl30_2.0": _HLS,
    "hlss30_2.0": _HLS,
    "naip": SensorFacts(),
    "resmap-demo": SensorFacts(cloud_assets=_SCL, cloud_values=_HIDDEN_SCL),
}

_REFLECTANCE = re.compile(r"^B(0[1-9]|1[0-2]|8A)$")
_PICTURES = ("visual", "tci", "preview", "thumbnail", "rendered_preview")
_HARMONISED_FROM = (4, 0)
"""Sentinel-2 processing baseline since which 1000 is added to every stored reflectance (January 2022)."""


def facts_for(collection_id: str) -> SensorFacts | None:
    """What is known of a collection, None where nothing is."""
    return _FACTS.get(collection_id.lower())


def display_range(item: Item) -> tuple[float, float] | None:
    """Values of ``stored · scale + offset`` of its bands to show as 0 and 255, None where none is known.

    Catalogs differ in whether they state the scale of one and the same file: where they do the range is in
    physical units, such as reflectance, else in stored counts.
    """
    facts = facts_for(item.collection)
    if facts is None or facts.display_range is None:
        return None
    if all(band.dtype == "uint8" or is_picture(band.asset.key) for band in item.bands):
        return None
    stated = any(band.scale != 1.0 for band in item.bands)
    low, high = facts.display_range
    return (low, high) if stated else (round(low / facts.count, 6), round(high / facts.count, 6))


def is_picture(asset_key: str) -> bool:
    """Whether an asset is a rendering of the bands, made to be looked at."""
    return asset_key.lower().startswith(_PICTURES)


def known_offset(
    collection_id: str,
    properties: Mapping[str, Any],
    *,
    band_name: str,
    scale: float | None,
    offset: float | None,
) -> float | None:
    """The offset of a band where its item states none, or one that is known to be wrong; else as stated.

    Sentinel-2 files have had 1000 added to every reflectance since baseline 04.00. The Planetary Computer
    serves them so and says nothing; Earth Search has taken it away again in most and still states −0.1
    (Element84/earth-search#66, #71: its flag is wrong for some). Unless both are put right, a series
    brightens in January 2022 and the two catalogs show different grounds.
    """
    if facts_for(collection_id) is not _SENTINEL_2 or not _REFLECTANCE.match(band_name):
        return offset
    if properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    if scale is None and offset is None and _baseline(properties) >= _HARMONISED_FROM:
        return -1000.0
    return offset


def _baseline(properties: Mapping[str, Any]) -> tuple[int, int]:
    written = properties.get("s2:processing_baseline") or properties.get("processing:version") or ""
    match = re.match(r"^(\d+)\.(\d+)$", str(written))
    return (int(match[1]), int(match[2])) if match else (0, 0)
