"""What a GeoTIFF of one slice says of itself: where it lies, what its values mean, what it was made with.

GDAL writes all of it from one description of the levels in its own words (VRT), in which each coarser level is an
overview of the finest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from affine import Affine

from mapper.exports.chosen import iso
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.models.fetch import shown
from mapper.mosaic import Mosaic
from mapper.quicklook import COLOURS

Layer: TypeAlias = Literal["mask", "score"]

PALE, GREY, WHITE = (245, 244, 238), (158, 158, 158), (255, 255, 255)
"""Colours of absent, unobserved and unmapped."""

MEANINGS = {ABSENT: "absent", PRESENT: "present", UNOBSERVED: "unobserved", UNMAPPED: "unmapped"}
"""Value of a mask → its name, as in the mosaic's own metadata."""


def colour_table(prompt: int) -> dict[int, tuple[int, int, int]]:
    """Value of a mask → colour; the prompt's is the one it has in every picture of its mosaic."""
    return {ABSENT: PALE, PRESENT: COLOURS[prompt % len(COLOURS)], UNOBSERVED: GREY, UNMAPPED: WHITE}


def facts(mosaic: Mosaic, *, prompt: int, time: int, layer: Layer) -> dict[str, str]:
    """What a reader may want to know of the whole file: tag → text."""
    asked = mosaic.prompts[prompt]
    return {
        "RESMAP_PROMPT": asked.name,
        "RESMAP_EXPRESSION": asked.expression,
        "RESMAP_THRESHOLD": f"{asked.threshold:g}",
        "RESMAP_TIME": iso(mosaic.times[time]),
        "RESMAP_MODEL": str(mosaic.made_by.get("model", "")),
        "RESMAP_MOSAIC": shown(mosaic.url),
        "TIFFTAG_SOFTWARE": f"resmap {version('resmap')}",
        "TIFFTAG_IMAGEDESCRIPTION": f"{asked.expression} ({layer})",
    }


def described(
    levels: Sequence[Path],
    crs: str,
    transform: Affine,
    shape: tuple[int, int],
    *,
    layer: Layer,
    prompt: int,
    tags: Mapping[str, str],
) -> bytes:
    """The levels as one dataset of GDAL's, in a file beside them.

    Args:
        levels: GeoTIFFs of one band, the finest first.
        crs: of the pixels.
        transform: of the finest level.
        shape: its rows and columns.
        layer: what the values are.
        prompt: position on the mosaic's prompt axis, for its colour.
        tags: of the whole file.
    """
    root = ElementTree.Element("VRTDataset", rasterXSize=str(shape[1]), rasterYSize=str(shape[0]))
    _put(root, "SRS", crs)
    _put(root, "GeoTransform", ", ".join(f"{value:.17g}" for value in transform.to_gdal()))
    _metadata(root, {"AREA_OR_POINT": "Area", **tags})
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    _put(band, "Description", layer)
    _metadata(band, _mask_words() if layer == "mask" else _score_words())
    _put(band, "NoDataValue", str(UNMAPPED))
    _put(band, "ColorInterp", "Palette" if layer == "mask" else "Gray")
    if layer == "mask":
        names, table, colours = _put(band, "CategoryNames"), _put(band, "ColorTable"), colour_table(prompt)
        for value in range(max(MEANINGS) + 1):
            _put(names, "Category", MEANINGS.get(value, ""))
            red, green, blue = map(str, colours.get(value, WHITE))
            ElementTree.SubElement(table, "Entry", c1=red, c2=green, c3=blue, c4="255")
    for number, path in enumerate(levels):
        source = _put(band, "Overview" if number else "SimpleSource")
        ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = path.name
        _put(source, "SourceBand", "1")
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text


def qgis_style(prompt: int) -> bytes:
    """How QGIS shows a mask: three named values, and the ground visible where the prompt is absent.

    Of the colour table alone it makes a legend of 256 entries.
    """
    root = ElementTree.Element("qgis")
    renderer = ElementTree.SubElement(
        _put(root, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette, colours = _put(renderer, "colorPalette"), colour_table(prompt)
    for value, alpha in ((PRESENT, 255), (ABSENT, 0), (UNOBSERVED, 160)):
        colour = "#{:02x}{:02x}{:02x}".format(*colours[value])
        ElementTree.SubElement(
            palette, "paletteEntry", value=str(value), color=colour, alpha=str(alpha), label=MEANINGS[value]
        )
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text


def _mask_words() -> dict[str, str]:
    return {"flag_values": " ".join(map(str, MEANINGS)), "flag_meanings": " ".join(MEANINGS.values())}


def _score_words() -> dict[str, str]:
    return {
        "long_name": f"{SCORE_ONE} times the probability that the prompt is here",
        "valid_max": str(SCORE_ONE),
        "flag_values": f"{UNOBSERVED} {UNMAPPED}",
        "flag_meanings": "unobserved unmapped",
    }


def _metadata(parent: ElementTree.Element, words: Mapping[str, str]) -> None:
    metadata = _put(parent, "Metadata")
    for key, value in words.items():
        ElementTree.SubElement(metadata, "MDI", key=key).text = value


def _put(parent: ElementTree.Element, name: str, text: str = "") -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name)
    child.text = text
    return child
