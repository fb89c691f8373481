"""Items to test with: small ones made here, real ones where the shared data lies."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from catalogs.documents import absolute
from catalogs.tables import Table

REAL = Path(__file__).parents[3] / "shared" / "data" / "stac"


def stac_item(name: str = "scene", **changes: Any) -> dict[str, Any]:
    """A small item of three bands in one file, at 10 to 11 east and 50 to 51 north."""
    west, south, east, north = changes.pop("bounds", (10.0, 50.0, 11.0, 51.0))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    doc: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": name,
        "collection": "fields",
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": "2024-06-01T10:00:00Z",
            "eo:cloud_cover": 10.0,
            "proj:code": "EPSG:32632",
            "proj:shape": [1000, 2000],
            "proj:transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5600000.0],
        },
        "links": [],
        "assets": {
            "image": {
                "href": f"https://example.com/{name}.tif",
                "roles": ["data"],
                "bands": [
                    {"name": "B1", "eo:common_name": "red"},
                    {"name": "B2", "eo:common_name": "green"},
                    {"name": "B3", "eo:common_name": "blue"},
                ],
            }
        },
    }
    properties = changes.pop("properties", {})
    doc["properties"] = {**doc["properties"], **properties}
    return {**doc, **changes}


def stac_collection(name: str = "fields") -> dict[str, Any]:
    """The collection the small items are of."""
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": "fields",
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [],
    }


def real(path: str) -> Path:
    """A file of the shared data; the test is skipped where there is none."""
    if not (REAL / path).exists():
        pytest.skip(f"the shared data are not here: {REAL / path}")
    return REAL / path


@cache
def real_items() -> dict[str, list[dict[str, Any]]]:
    """Every real item there is, by where it comes from."""
    found: dict[str, list[dict[str, Any]]] = {}
    lines = real("naip/items.ndjson").read_text().splitlines()
    found["naip"] = [json.loads(line) for line in lines]
    table = real("sentinel-2/1000-sentinel-2-items.parquet")
    found["sentinel-2 table"] = list(Table(table.read_bytes(), str(table)).items())
    found["sentinel-2 json"] = json.loads(real("sentinel-2/item-collection.json").read_text())["features"]
    for path in sorted(REAL.glob("stactools-*/**/*.json")):
        doc = json.loads(path.read_text())
        if doc.get("type") == "Feature":
            found.setdefault(path.parents[1].name, []).append(absolute(doc, str(path)))
    for path in sorted((REAL / "recorded").glob("*.json")):
        for exchange in json.loads(path.read_text()):
            found.setdefault(path.stem, []).extend(exchange["response"]["body"].get("features", []))
    return found
