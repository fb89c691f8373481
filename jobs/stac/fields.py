"""What the items of a mosaic say of themselves: STAC 1.1 and its extensions, as values. Nothing is read or written.

    projection 2.0      where the pixels lie             classification 2.0   what a mask's values mean
    raster 2.0          how large they are               datacube 2.3         the arrays of the Zarr group
    processing 1.2      the sentence, the software       zarr 1.1             how it is opened
    file 2.1            size and checksum of a file      render 2.0           the colours of a mask
    version 1.2         when the mosaic was last grown   web-map-links 1.3    a map to look at

What an extension has no field for is named ``resmap:…``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pystac import Asset, MediaType
from pystac.extensions.classification import Classification

from mapper.exports.chosen import iso
from mapper.exports.cog_header import MEANINGS, colour_table
from mapper.grid import Grid, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.masks import SCORE_ONE, UNMAPPED
from mapper.mosaic import Mosaic
from mapper.names import slug
from mapper.pixel_area import pixel_area_m2
from mapper.prompts import Prompt

RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
DATACUBE = "https://stac-extensions.github.io/datacube/v2.3.0/schema.json"
ZARR = "https://stac-extensions.github.io/zarr/v1.1.0/schema.json"
VERSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"
RENDER = "https://stac-extensions.github.io/render/v2.0.0/schema.json"
WEB_MAP_LINKS = "https://stac-extensions.github.io/web-map-links/v1.3.0/schema.json"

ZARR_TYPE = "application/vnd.zarr; version=3"
ICECHUNK_TYPE = "application/vnd.zarr+icechunk"
PARQUET_TYPE = "application/vnd.apache.parquet"
PMTILES_TYPE = "application/vnd.pmtiles"

_SAYS = {
    "absent": "looked for and not found",
    "present": "found",
    "unobserved": "looked at, and the ground was not seen: cloud, or no imagery",
    "unmapped": "never looked at",
}


def key_of(kind: str, prompt: Prompt) -> str:
    """Key of a prompt's asset: its own name where that is plain."""
    plain = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", prompt.name)
    return f"{kind}-{prompt.name if plain else slug(prompt.name)}"


def sentences(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """``processing:expression``: the sentence, or name → sentence where there are several."""
    said: Any = prompts[0].expression if len(prompts) == 1 else {named.name: named.expression for named in prompts}
    return {"format": "text", "expression": said}


def resolution_m(grid: Grid) -> float:
    """Side of a pixel on the ground in the middle of a grid."""
    row, column = (grid.box.top + grid.box.bottom) // 2, (grid.box.left + grid.box.right) // 2
    return float(f"{math.sqrt(pixel_area_m2(grid.lattice, PixelBox(row, column, row + 1, column + 1))[0, 0]):.4g}")


def placement(grid: Grid, box: PixelBox) -> dict[str, Any]:
    """``proj:`` fields of an array over a box."""
    return {
        "proj:shape": list(box.shape),
        "proj:transform": list(grid.lattice.transform(box))[:6],
        "proj:bbox": list(grid.lattice.bounds(box)),
    }


def classes(prompt: int, asked: Prompt) -> list[dict[str, Any]]:
    """``classification:classes`` of a mask."""
    colours = colour_table(prompt)
    found = []
    for value, name in MEANINGS.items():
        red, green, blue = colours[value]
        says = f"“{asked.expression}”: {_SAYS[name]}" if name in ("absent", "present") else _SAYS[name]
        entry = Classification.create(
            value=value, name=name, description=says, color_hint=f"{red:02X}{green:02X}{blue:02X}"
        ).to_dict()
        found.append(entry | ({"nodata": True} if value == UNMAPPED else {}))
    return found


def cube(mosaic: Mosaic, grid: Grid, code: int | str) -> dict[str, Any]:
    """``cube:`` fields of a Zarr group: its axes and arrays."""
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    steps = [iso(time) for time in mosaic.times]  # as the axis has them
    names = [prompt.name for prompt in mosaic.prompts]

    def side(axis: Literal["x", "y"], extent: list[float], step: float) -> dict[str, Any]:
        return {"type": "spatial", "axis": axis, "extent": extent, "step": step, "reference_system": code}

    axes = ["prompt", "time", "y", "x"]
    return {
        "cube:dimensions": {
            "prompt": {"type": "prompt", "values": names, "description": "name of the prompt"},
            "time": {"type": "temporal", "extent": [iso(min(mosaic.times)), iso(max(mosaic.times))], "values": steps},
            "y": side("y", [bottom, top], -grid.lattice.res_y),
            "x": side("x", [left, right], grid.lattice.res_x),
        },
        "cube:variables": {
            "mask": {**_array(axes, "uint8", UNMAPPED), "type": "data", "description": _mask_text()},
            "score": {**_array(axes, "uint8", UNMAPPED), "type": "data", "description": _score_text()},
            "source": {
                **_array(axes[1:], "uint32", int(NO_SOURCE)),
                "type": "auxiliary",
                "description": "number of the scene seen here: its row in the item table",
            },
        },
    }


def _array(axes: list[str], data_type: str, nodata: int) -> dict[str, Any]:
    return {"dimensions": axes, "data_type": data_type, "nodata": nodata}


def zarr_asset(href: str, *, engine: str, title: str, group: str = "") -> Asset:
    """The mosaic, or the group of one of its zones.

    Args:
        href: where it lies.
        engine: of the mosaic, ``zarr`` or ``icechunk``.
        title: what it is.
        group: path of a group that has arrays, if it is one; of an icechunk repository only the whole has an address.
    """
    bands = [
        {"name": "mask", "description": _mask_text(), "data_type": "uint8", "nodata": UNMAPPED},
        {"name": "score", "description": _score_text(), "data_type": "uint8", "nodata": UNMAPPED},
        {"name": "source", "description": "row in the item table", "data_type": "uint32", "nodata": int(NO_SOURCE)},
    ]
    fields: dict[str, Any] = {"zarr:consolidated": True, "zarr:node_type": "group", "zarr:zarr_format": 3}
    if engine != "zarr":
        fields = {"resmap:group": group} if group else {}
    return Asset(
        href=href,
        title=title,
        media_type=ZARR_TYPE if engine == "zarr" else ICECHUNK_TYPE,
        roles=["data"],
        extra_fields=fields | ({"bands": bands} if group else {}),
    )


def cog_asset(href: str, *, layer: str, prompt: int, asked: Prompt, grid: Grid, frame: PixelBox) -> Asset:
    """A GeoTIFF of one prompt's mask or score."""
    band: dict[str, Any] = {
        "name": layer,
        "description": _mask_text() if layer == "mask" else _score_text(),
        "data_type": "uint8",
        "nodata": UNMAPPED,
    }
    fields: dict[str, Any] = {
        **placement(grid, frame),
        "raster:spatial_resolution": resolution_m(grid),
        "raster:sampling": "area",
        "processing:expression": sentences([asked]),
        "bands": [band],
    }
    if layer == "mask":
        fields["classification:classes"] = classes(prompt, asked)
    return Asset(
        href=href, title=f"“{asked.expression}”: {layer}", media_type=MediaType.COG, roles=["data"], extra_fields=fields
    )


def render(key: str, prompt: int, asked: Prompt) -> dict[str, Any]:
    """How a mask is painted: as in every picture of this mosaic, what is absent left clear."""
    clear = {"absent", "unmapped"}
    return {
        "title": f"“{asked.expression}”",
        "assets": [key],
        "nodata": UNMAPPED,
        "resampling": "nearest",
        "colormap": {
            str(value): [*colour, 0 if MEANINGS[value] in clear else 255]
            for value, colour in colour_table(prompt).items()
        },
    }


def resmap_fields(mosaic: Mosaic, facts: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """What no extension has a field for: prompts, model, run.

    Args:
        mosaic: which.
        facts: of its newest run, as everybody may know them; empty where there is none.
        job: of that run.
    """
    model = {"name": str(mosaic.made_by.get("model", ""))}
    fingerprint = str(facts.get("fingerprint", ""))
    if fingerprint:
        model["fingerprint"] = fingerprint
    fields: dict[str, Any] = {
        "resmap:prompts": [
            {"name": asked.name, "expression": asked.expression, "threshold": asked.threshold}
            for asked in mosaic.prompts
        ],
        "resmap:model": model,
        "resmap:pyramid": mosaic.pyramid,
    }
    if facts:
        fields["resmap:run"] = facts["run"]
    if job.get("windows"):
        fields["resmap:windows"] = job["windows"]
    return fields


def processing_fields(mosaic: Mosaic, facts: Mapping[str, Any]) -> dict[str, Any]:
    """``processing:`` fields: the sentences, and with what they were answered."""
    model = str(mosaic.made_by.get("model", "a model"))
    fields: dict[str, Any] = {
        "processing:expression": sentences(mosaic.prompts),
        "processing:lineage": f"Each sentence was asked of every window of the imagery by {model}; "
        "the answers were blended, and a threshold made masks of the scores.",
    }
    versions = facts.get("versions")
    if isinstance(versions, Mapping) and versions:
        fields["processing:software"] = {str(name): str(number) for name, number in versions.items()}
        fields["processing:version"] = str(versions.get("resmap", ""))
    if facts.get("ended"):
        fields["processing:datetime"] = str(facts["ended"]).replace("+00:00", "Z")
    return fields


def _mask_text() -> str:
    return ", ".join(f"{value} {name}" for value, name in MEANINGS.items())


def _score_text() -> str:
    gaps = ", ".join(f"{value} {name}" for value, name in MEANINGS.items() if value > SCORE_ONE)
    return f"{SCORE_ONE} times the probability that the prompt is here, {gaps}"
