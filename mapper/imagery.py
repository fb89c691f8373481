"""All that a reader must know about a picture, and what it gives back."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from mapper.grid import PixelBox

Pixels: TypeAlias = NDArray[np.uint8]
"""``(band, y, x)``, 0 to 255, as a model is given it."""

Valid: TypeAlias = NDArray[np.bool_]
"""``(y, x)``; True where the ground was seen."""

Source: TypeAlias = NDArray[np.uint32]
"""``(y, x)``; the row in the run's item table of the item seen there, ``NO_SOURCE`` where none was."""

NO_SOURCE = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a raster lies, as its catalog states it (``proj:code``, ``proj:transform``, ``proj:shape``)."""

    crs: str
    transform: Affine
    shape: tuple[int, int]
    """Rows, columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file of an item."""

    key: str
    """Its name in the item."""

    href: str
    """Where it is: absolute, unsigned."""

    placement: Placement | None = None
    """None where the catalog does not say; then the file itself must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One band of one file. ``physical = stored · scale + offset``."""

    asset: Asset
    index: int = 1
    """Counted from 1, as in the file."""

    name: str = ""
    dtype: str | None = None
    """As the catalog states it, such as ``uint16``; None where it does not."""

    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    """The stored value that means "not seen"; None where the catalog does not say (the file may)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudMask:
    """The band of an item that tells cloud, and the stored values or bits that mean it."""

    band: Band
    values: frozenset[int] = frozenset()
    """A pixel is hidden where the band has one of these values …"""

    bits: int = 0
    """… or any of these bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One scene: the bands a job asked for, in its order, and what decides whether and where it is used."""

    id: str
    collection: str
    datetime: datetime
    """Aware, UTC. The middle of the range where the catalog gives a range."""

    footprint: BaseGeometry
    """Longitude and latitude."""

    bands: tuple[Band, ...]
    cloud: CloudMask | None = None
    cloud_cover: float | None = None
    """Per cent of the scene; None where the catalog does not say."""

    index: int = 0
    """Row in the run's item table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedItem:
    """An item on one grid."""

    item: Item
    extent: PixelBox
    """The lattice pixels it may fill. Pixels of its files beyond them are not used, in any tile: which items
    serve a pixel then depends on the pixel alone, not on the tile that asked."""


@lru_cache(maxsize=4096)
def unpacked(packed: bytes) -> PlacedItem:
    """The item as it was pickled; the tasks of neighbours bring the same bytes, and they are read once."""
    placed: PlacedItem = pickle.loads(packed)
    return placed


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen of a frame."""

    pixels: Pixels
    """0 wherever not valid."""

    valid: Valid
    source: Source
