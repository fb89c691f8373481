"""What the STAC extensions ask of the fields that are used: their specifications, restated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers(*lengths: int) -> Any:
    return lambda value: isinstance(value, list) and len(value) in lengths and all(map(number, value))


def text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def moment(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def dimension(value: Mapping[str, Any]) -> bool:
    if value["type"] == "spatial":
        return value["axis"] in ("x", "y") and numbers(2)(value["extent"]) and number(value["step"])
    if value["type"] == "temporal":
        return "axis" not in value and len(value["extent"]) == 2 and all(map(moment, value["extent"]))
    return text(value["type"]) and "axis" not in value and bool(value["values"])


def class_of_mask(value: Mapping[str, Any]) -> bool:
    hint = value["color_hint"]
    return isinstance(value["value"], int) and text(value["name"]) and len(hint) == 6 and int(hint, 16) >= 0


SCHEMAS = "https://stac-extensions.github.io"

EXTENSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "proj": (
        f"{SCHEMAS}/projection/v2.0.0/schema.json",
        {
            "proj:code": lambda value: text(value) and ":" in value,
            "proj:wkt2": text,
            "proj:bbox": numbers(4),
            "proj:shape": lambda value: numbers(2)(value) and all(isinstance(side, int) for side in value),
            "proj:transform": numbers(6, 9),
        },
    ),
    "raster": (
        f"{SCHEMAS}/raster/v2.0.0/schema.json",
        {"raster:spatial_resolution": number, "raster:sampling": lambda value: value in ("area", "point")},
    ),
    "processing": (
        f"{SCHEMAS}/processing/v1.2.0/schema.json",
        {
            "processing:expression": lambda value: text(value["format"]) and bool(value["expression"]),
            "processing:lineage": text,
            "processing:software": lambda value: all(map(text, value.values())),
            "processing:version": text,
            "processing:datetime": moment,
        },
    ),
    "file": (
        f"{SCHEMAS}/file/v2.1.0/schema.json",
        {
            "file:size": lambda value: isinstance(value, int) and value > 0,
            "file:checksum": lambda value: value.startswith("1220") and len(bytes.fromhex(value)) == 34,
        },
    ),
    "classification": (
        f"{SCHEMAS}/classification/v2.0.0/schema.json",
        {"classification:classes": lambda value: all(map(class_of_mask, value)) and len(value) == 4},
    ),
    "cube": (
        f"{SCHEMAS}/datacube/v2.3.0/schema.json",
        {
            "cube:dimensions": lambda value: all(map(dimension, value.values())),
            "cube:variables": lambda value: all(
                one["type"] in ("data", "auxiliary")
                and set(one["dimensions"]) <= {"prompt", "time", "y", "x"}
                and text(one["data_type"])
                and number(one["nodata"])
                for one in value.values()
            ),
        },
    ),
    "zarr": (
        f"{SCHEMAS}/zarr/v1.1.0/schema.json",
        {
            "zarr:consolidated": lambda value: value is True,
            "zarr:node_type": lambda value: value in ("array", "group"),
            "zarr:zarr_format": lambda value: value == 3,
        },
    ),
    "version": (f"{SCHEMAS}/version/v1.2.0/schema.json", {"version": text}),
    "renders": (
        f"{SCHEMAS}/render/v2.0.0/schema.json",
        {
            "renders": lambda value: all(
                isinstance(one["assets"], list) and isinstance(one["colormap"], dict) for one in value.values()
            )
        },
    ),
    "mlm": (
        f"{SCHEMAS}/mlm/v1.5.1/schema.json",
        {
            "mlm:name": text,
            "mlm:architecture": text,
            "mlm:tasks": lambda value: bool(value) and all(map(text, value)),
            "mlm:input": lambda value: all({"name", "bands", "input"} <= set(one) for one in value),
            "mlm:output": lambda value: all({"name", "tasks", "result"} <= set(one) for one in value),
        },
    ),
}
"""Prefix → schema, and what each field that is used must be: the extensions' own specifications, restated."""


def described(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object of a document that holds fields of extensions, but for asset definitions."""
    yield document
    yield document.get("properties", {})
    for asset in document.get("assets", {}).values():
        yield asset
        yield from asset.get("bands", [])
