"""Real labelled pictures, each pixel saying of every concept: yes, no, or unknown.

Truth is two bit sets a pixel: ``yes`` (the concept is there) and ``known`` (yes or no is known). A label set
knows only some concepts: of Dubai's vegetation it is not known what is trees and what is grass.

Held back for scoring, and in no training set: dubai/tile8, oam-banepa, neon-trees/sjer, and of naip-nd-series the
part east of ``PRAIRIE_EAST`` (a strip between the parts is in neither).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize
from shapely.geometry import LineString

from benchmarks.pocket.thesaurus import CONCEPTS

DATA = Path(__file__).parents[3] / "shared" / "data"

Bits: TypeAlias = NDArray[np.uint16]
BIT = {concept: np.uint16(1 << at) for at, concept in enumerate(CONCEPTS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A labelled picture."""

    name: str
    pixels: NDArray[np.uint8]
    """``(3, y, x)`` red, green, blue."""
    yes: Bits
    """``(y, x)``: concepts that are there."""
    known: Bits
    """``(y, x)``: concepts of which we know whether they are there."""
    synthetic: bool = False


def bits(concepts: Iterable[str]) -> np.uint16:
    """One bit a concept."""
    total = 0
    for concept in concepts:
        total |= int(BIT[concept])
    return np.uint16(total)


EVERYTHING = bits(CONCEPTS)
PRAIRIE_WEST, PRAIRIE_EAST = 0.47, 0.53
"""Shares of the width of naip-nd-series: left of the first is learned from, right of the second is scored."""
WATERS = ("water", "lake", "river", "sea")

# class: (concepts there, concepts not known there); all else is known not to be there
SYNTHETIC: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "land": ((), ("land", "grass", "vegetation")),
    "field": (("field",), ("vegetation", "land", "grass")),
    "woods": (("woods", "vegetation"), ()),
    "lake": (WATERS, ()),
    "road": (("road",), ("land",)),
    "building": (("building",), ()),
}
DUBAI: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "water": (WATERS, ()),
    "land": (("land",), ("grass",)),
    "road": (("road",), ()),
    "building": (("building",), ()),
    "vegetation": (("vegetation",), ("woods", "grass", "field")),
    "unlabelled": ((), tuple(CONCEPTS)),
}
DUBAI_COLOURS = {
    "water": (226, 169, 41), "land": (132, 41, 246), "road": (110, 193, 228), "building": (60, 16, 152),
    "vegetation": (254, 221, 58),
}  # fmt: skip


def truth_of_classes(
    index: NDArray[np.uint8], classes: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> tuple[Bits, Bits]:
    """``yes`` and ``known`` of a map of class numbers, numbered in the order of ``classes``."""
    yes = np.array([bits(there) for there, _ in classes.values()], np.uint16)
    known = np.array([EVERYTHING & ~bits(unknown) for _, unknown in classes.values()], np.uint16)
    return yes[index], known[index]


def training_pictures() -> list[Picture]:
    """All real pictures that may be learned from."""
    return [
        *(picture for tile in (1, 2, 3, 5) for picture in dubai(tile)),
        *denmark(), *vegas(), *river_series(), *naip_zones(), *prairie(), *trees("harv", "osbs", "teak"),
        *uc_merced(),
    ]  # fmt: skip


def dubai(tile: int) -> list[Picture]:
    """The labelled images of one area of Dubai."""
    found = []
    for path in sorted((DATA / f"dubai/tile{tile}/images").glob("*.jpg")):
        pixels = _rgb(path)
        colours = np.array(Image.open(path.parents[1] / "masks" / f"{path.stem}.png").convert("RGB"))
        index = np.full(colours.shape[:2], list(DUBAI).index("unlabelled"), np.uint8)
        for name, colour in DUBAI_COLOURS.items():
            index[(colours == colour).all(-1)] = list(DUBAI).index(name)
        yes, known = truth_of_classes(index, DUBAI)
        found.append(Picture(name=f"dubai{tile}/{path.stem}", pixels=pixels, yes=yes, known=known))
    return found


def denmark() -> list[Picture]:
    """Fields in Jutland at 10 m, in three renderings of the 12-bit values."""
    with rasterio.open(DATA / "s2-fields-denmark/RGB_small.tif") as source:
        values, transform, shape = source.read().astype(np.float32), source.transform, source.shape
    parcels = gpd.read_file(DATA / "s2-fields-denmark/marker2016_small.shp").geometry
    inside = _burned(parcels.buffer(-8), shape, transform)
    outside = ~_burned(parcels.buffer(12), shape, transform)
    yes = np.where(inside, bits(["field"]), 0).astype(np.uint16)
    known = np.where(inside, EVERYTHING & ~bits(["vegetation", "land", "grass"]), 0).astype(np.uint16)
    known[outside] |= bits(["field", "lake", "water", "river", "sea"])
    renderings = {
        "offset": (values - np.array([700, 500, 300])[:, None, None]) / 6.0,
        "percentile": _stretched(values, 1, 99),
        "dark": _stretched(values, 0.5, 99.8),
    }
    return [
        Picture(name=f"denmark/{how}", pixels=np.clip(rendered, 0, 255).astype(np.uint8), yes=yes, known=known)
        for how, rendered in renderings.items()
    ]


def vegas() -> list[Picture]:
    """Roads and parking lanes of a shopping centre; the widths are guesses from the lanes."""
    with rasterio.open(DATA / "spacenet-vegas-roads/RGB-PanSharpen_AOI_2_Vegas_img0.tif") as source:
        pixels, transform, shape = source.read([1, 2, 3]), source.transform, source.shape
    lines = gpd.read_file(DATA / "spacenet-vegas-roads/AOI_2_Vegas_img0.geojson")
    degrees_per_m = 2.7e-6 / 0.3
    half_widths = lines["lane_number"].astype(float).clip(1, 6) * 1.6 * degrees_per_m
    roads = list(zip(lines.geometry, half_widths, strict=True))
    on = _burned((line.buffer(width) for line, width in roads), shape, transform)
    off = ~_burned((line.buffer(width + 8 * degrees_per_m) for line, width in roads), shape, transform)
    desert = np.zeros(shape, bool)
    desert[:300] = True
    yes = np.where(on, bits(["road"]), 0).astype(np.uint16)
    known = np.where(on, EVERYTHING, np.where(off, bits(["road"]), 0)).astype(np.uint16)
    known |= bits([*WATERS, "woods", "field"])
    known[desert] |= bits(["building", "road"])
    yes[desert & off] |= bits(["land"])
    known[desert & off] |= bits(["land"])
    return [Picture(name="vegas", pixels=pixels, yes=yes, known=known)]


def river_series() -> list[Picture]:
    """Water and forest by their indices (MNDWI, NDVI) on Landsat, shown in near natural colours."""
    found = []
    for path in sorted((DATA / "landsat-river-series").glob("*.tif")):
        with rasterio.open(path) as source:
            swir, nir, red, green = source.read().astype(np.float32)
        wetness = (green - swir) / (green + swir + 1)
        greenness = _greenness(red, nir)
        water, land = wetness > 0.1, wetness < -0.15
        woods, not_woods = land & (greenness > 0.45), greenness < 0.15
        yes = np.where(water, bits(["water", "river"]), 0).astype(np.uint16)
        yes |= np.where(woods, bits(["vegetation", "woods"]), 0).astype(np.uint16)
        known = np.where(water | land, bits(["water", "river", "lake", "sea"]), 0).astype(np.uint16)
        known &= np.where(water, ~bits(["lake", "sea"]), EVERYTHING).astype(np.uint16)  # an oxbow is a lake too
        known |= np.where(woods | not_woods, bits(["vegetation", "woods"]), 0).astype(np.uint16)
        known |= np.where(woods, bits(["building", "road", "land", "field"]), 0).astype(np.uint16)
        natural = np.stack([red, 0.75 * green + 0.25 * nir * 0.5, green * 0.8])
        pixels = np.clip(_stretched(natural, 0.5, 99.8), 0, 255).astype(np.uint8)
        found.append(Picture(name=f"ucayali/{path.stem}", pixels=pixels, yes=yes, known=known))
    return found


def naip_zones() -> list[Picture]:
    """Vegetation by NDVI on six small aerial pictures; a highway drawn by hand on one of them."""
    found = []
    for path in sorted((DATA / "naip-zones").glob("*.tif")):
        with rasterio.open(path) as source:
            red, green, blue, nir = source.read().astype(np.float32)
        greenness = _greenness(red, nir)
        shape = red.shape
        yes, known = np.zeros(shape, np.uint16), np.full(shape, bits(["sea"]), np.uint16)
        if path.stem.startswith("m_3211605"):
            view = [
                (-9, 206),
                (9, 198),
                (50, 174),
                (93, 152),
                (130, 124),
                (167, 90),
                (188, 62),
                (203, 40),
                (218, 17),
                (228, -5),
            ]
            line = LineString(view)
            on = _burned([line.buffer(8)], shape, None)
            off = ~_burned([line.buffer(17)], shape, None)
            yes[on] |= bits(["road"])
            known |= np.where(on | off, bits(["road"]), 0).astype(np.uint16) | bits(["building", "field", *WATERS])
            known[on] |= EVERYTHING
        elif path.stem.startswith("m_4208701"):
            known |= bits(["field", "woods", "vegetation", "grass", "land", *WATERS])
        green_now, bare = greenness > 0.2, greenness < 0.02
        if not path.stem.startswith("m_4208701"):
            yes |= np.where(green_now & (yes == 0), bits(["vegetation"]), 0).astype(np.uint16)
            known |= np.where(green_now | bare, bits(["vegetation"]), 0).astype(np.uint16)
            known |= np.where(green_now, bits([*WATERS, "building", "road", "land"]), 0).astype(np.uint16)
        pixels = np.stack([red, green, blue]).astype(np.uint8)
        found.append(Picture(name=f"naip/{path.stem[:9]}", pixels=pixels, yes=yes, known=known))
    return found


def prairie(*, east: bool = False) -> list[Picture]:
    """Lakes and plants of North Dakota on four dates, by the near infrared: the western part, or the one held back."""
    found = []
    for path in sorted((DATA / "naip-nd-series").glob("*.tif")):
        with rasterio.open(path) as source:
            west, begin = int(PRAIRIE_WEST * source.width), int(PRAIRIE_EAST * source.width)
            columns = slice(begin, None) if east else slice(0, west)
            red, green, blue, nir = source.read()[:, :, columns].astype(np.float32)
        water, plants, bare = _wet(green, nir), _greenness(red, nir) > 0.25, _greenness(red, nir) < 0.05
        seen = green > 0
        yes = np.where(water, bits(["water", "lake"]), 0).astype(np.uint16)
        yes |= np.where(plants & ~water, bits(["vegetation"]), 0).astype(np.uint16)
        known = np.where(water | (nir > 110), bits(["water", "lake"]), 0).astype(np.uint16) | bits(["sea"])
        known |= np.where(water | plants | bare, bits(["vegetation"]), 0).astype(np.uint16)
        known |= np.where(water, EVERYTHING & ~bits(["river"]), 0).astype(np.uint16)
        known |= np.where(plants, bits(["building", "road", "land"]), 0).astype(np.uint16)
        yes, known = np.where(seen, yes, 0), np.where(seen, known, 0)
        pixels = np.stack([red, green, blue]).astype(np.uint8)
        found.append(Picture(name=f"prairie/{path.stem[-8:-4]}", pixels=pixels, yes=yes, known=known))
    return found


def trees(*places: str) -> list[Picture]:
    """Crowns in forest plots: the ellipse within each box is a tree; what lies outside all boxes is not known."""
    found = []
    for path in sorted(path for place in places for path in (DATA / "neon-trees" / place).glob("*.tif")):
        with rasterio.open(path) as source:
            pixels = source.read([1, 2, 3])
        yes = np.zeros(pixels.shape[1:], np.uint16)
        y, x = np.ogrid[: yes.shape[0], : yes.shape[1]]
        for left, top, right, bottom in tree_boxes(path):
            across = (x - (left + right) / 2) / max(1, right - left) * 2
            down = (y - (top + bottom) / 2) / max(1, bottom - top) * 2
            yes[across**2 + down**2 < 0.8] = bits(["woods", "vegetation"])
        known = np.where(yes > 0, EVERYTHING & ~bits(["grass"]), bits([*WATERS, "building", "road", "field"]))
        found.append(Picture(name=f"trees/{path.stem}", pixels=pixels, yes=yes, known=known.astype(np.uint16)))
    return found


def tree_boxes(path: Path) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom in pixels of every tree labelled beside a picture."""
    document = ElementTree.parse(path.with_suffix(".xml"))
    edges = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[int(float(box.findtext(edge, "0"))) for edge in edges] for box in document.iter("bndbox")]
    return [(left, top, right, bottom) for left, top, right, bottom in boxes]


def uc_merced() -> list[Picture]:
    """Chips with one word each: what fills them wholly, and what surely is not in them."""
    urban_no = ("field", "lake", "river", "sea")
    says: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # class: (fills the chip, nowhere in it)
        "forest": (("woods", "vegetation"), ("building", "field", "land", "road", *WATERS)),
        "agricultural": (("field",), ("building", "woods", "road", *WATERS)),
        "airplane": ((), ("woods", "water", *urban_no)),
        "baseballdiamond": ((), ("water", *urban_no)),
        "beach": ((), ("woods", "field", "building", "road", "river", "lake")),
        "buildings": ((), ("water", *urban_no)),
        "freeway": ((), ("water", *urban_no)),
        "golfcourse": ((), ("building",)),
        "harbor": ((), ("woods", "field", "vegetation", "grass", "land", "road")),
        "parkinglot": ((), ("water", "woods", *urban_no)),
        "river": ((), ("field", "building", "sea")),
        "runway": ((), ("building", "woods", "water", *urban_no)),
        "storagetanks": ((), ("woods", *urban_no)),
        "tenniscourt": ((), urban_no),
    }
    found = []
    for word, (fills, nowhere) in says.items():
        for path in sorted((DATA / "ucmerced" / word).glob("*.png")):
            pixels = _rgb(path)
            yes = np.full(pixels.shape[1:], bits(fills), np.uint16)
            found.append(Picture(name=f"ucmerced/{path.stem}", pixels=pixels, yes=yes, known=yes | bits(nowhere)))
    return found


def _wet(green: NDArray[np.float32], nir: NDArray[np.float32]) -> NDArray[np.bool_]:
    """NDWI above zero (McFeeters 1996) and dark in the near infrared: ripe fields, too, have the first."""
    return np.asarray((green > nir) & (nir < 90))


def _greenness(red: NDArray[np.float32], nir: NDArray[np.float32]) -> NDArray[np.float32]:
    """NDVI."""
    return (nir - red) / (nir + red + 1)


def _rgb(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.moveaxis(np.array(Image.open(path).convert("RGB")), -1, 0))


def _stretched(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    from_, to = np.percentile(values, [low, high], axis=(1, 2))
    scaled = (values - from_[:, None, None]) / (to - from_)[:, None, None] * 235 + 10
    return np.asarray(scaled, np.float32)


def _burned(shapes: Iterable[object], shape: tuple[int, ...], transform: object) -> NDArray[np.bool_]:
    place = {} if transform is None else {"transform": transform}
    real = [one for one in shapes if not one.is_empty]  # type: ignore[attr-defined]
    return np.asarray(rasterize(real, out_shape=shape[:2], **place), bool)
