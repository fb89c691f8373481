"""Job files, areas and prompts that people write by accident, and others on purpose."""

from __future__ import annotations

import json
import math
from typing import Any

from tests.hostile.catalogs import Json

SQUARE = [[12.0, 55.0], [12.1, 55.0], [12.1, 55.1], [12.0, 55.1], [12.0, 55.0]]


def good_job() -> Json:
    """A job with every key there is."""
    return {
        "name": "roofs",
        "area": {"bbox": [12.0, 55.0, 12.1, 55.1]},
        "imagery": {
            "catalog": "https://example.com/stac", "collections": ["fields"], "datetime": "2020", "filter": "a < 1",
            "bands": ["red", "green", "blue"], "scale": {"from": [0, 3000]}, "time_step": "all", "composite": "first",
        },
        "grid": {"crs": "EPSG:32633", "resolution_m": 0.5, "shard_px": 2048, "chunk_px": 512},
        "prompts": [{"name": "roof", "expression": "the roofs", "threshold": 0.5}],
        "model": {"name": "pocket", "precision": "fp32", "compiled": False},
        "windows": {"overlap_px": 128, "blend": True},
        "output": {
            "mosaic": "/data/map.zarr", "engine": "zarr", "commit_shards": 64, "commit_s": 30.0, "pyramid": "mode"
        },
        "compute": {"gpus": 1, "readers": 0, "batch": 4, "budget_usd": 10, "usd_per_gpu_hour": 2.0},
        "monitor": {"schedule": "0 6 * * *", "timezone": "UTC", "late": "30d"},
    }  # fmt: skip


def laughs(levels: int = 30) -> str:
    """A billion laughs and more, in a screenful."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merged_laughs(levels: int = 30) -> str:
    """The same by merged mappings: these are copied out as they are read."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def job_texts() -> dict[str, bytes]:
    """Files that are no job."""
    good, many = good_job(), [{"name": f"p{n}", "expression": "x"} for n in range(2000)]
    return {
        "nothing": b"",
        "blanks": b"   \n\n",
        "a remark": b"# a job",
        "a text": b"roofs",
        "a number": b"12",
        "a list": b"[1, 2]",
        "two documents": b"a: 1\n---\nb: 2",
        "aliases of aliases": laughs().encode(),
        "merges of merges": merged_laughs().encode(),
        "a list that holds itself": b"name: &a [*a]",
        "a mapping that merges itself": b"a: &a {<<: *a}",
        "an alias of nothing": b"name: *a",
        "a list as deep as can be": b"name: " + b"[" * 100_000,
        "a mapping as deep as can be": b"{a: " * 50_000,
        "lists under lists": "\n".join(" " * n + "- " for n in range(1500)).encode(),
        "a million values": b"a: [" + b"1," * 1_000_000 + b"1]",
        "a python object": b"name: !!python/object/apply:os.system ['touch /tmp/pwned']",
        "a python name": b"name: !!python/name:os.system",
        "another tag": b"name: !mine {a: 1}",
        "a set": b"name: !!set {a, b}",
        "a tagged text that is no time": b"name: !!timestamp x",
        "a tagged text that is no truth": b"name: !!bool x",
        "a key twice": b"name: a\nname: b",
        "a key twice, deeper": b"area: {wkt: a, wkt: b}",
        "a list as a key": b"? [a, b]\n: c",
        "no key": b"? \n: c",
        "a number as a key": b"1: c",
        "a huge number": b"name: " + b"9" * 10_000,
        "a huge number of sixties": b"name: 1" + b":59" * 5000,
        "no number": b"grid: {crs: utm, resolution_m: .nan}",
        "tabs": b"\tname: a",
        "a NUL": b"name: a\x00b",
        "half a surrogate": b'name: "\\ud800"',
        "an escape": b'name: "\\e[2J"',
        "Latin 1": "name: Häuser".encode("latin-1"),
        "UTF-16": "name: a".encode("utf-16"),
        "bytes": bytes(range(256)),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a misspelt key of a megabyte": b'"' + b"n" * 2**20 + b'": 1',
        "two thousand prompts": json.dumps({**good, "prompts": many}).encode(),
        "four megabytes and more": b"name: " + b"a" * 4 * 2**20,
    }  # fmt: skip


def star(corners: int) -> list[list[float]]:
    """A ring that crosses itself nearly everywhere."""
    turn = 2 * math.pi / corners
    spikes = [(n * turn * (corners // 2 - 1), 1 + 0.1 * (n % 2)) for n in range(corners)]
    ring = [[round(12 + r * math.cos(a), 7), round(50 + r * math.sin(a), 7)] for a, r in spikes]
    return [*ring, ring[0]]


def circle(corners: int) -> list[list[float]]:
    """An honest ring."""
    turn = 2 * math.pi / corners
    ring = [[round(12 + math.cos(n * turn), 7), round(50 + math.sin(n * turn), 7)] for n in range(corners)]
    return [*ring, ring[0]]


def polygon(ring: Any) -> Json:
    """A GeoJSON polygon of one ring."""
    return {"type": "Polygon", "coordinates": [ring]}


def nested(levels: int) -> Json:
    """A polygon in collections in collections."""
    doc: Json = polygon(SQUARE)
    for _ in range(levels):
        doc = {"type": "GeometryCollection", "geometries": [doc]}
    return doc


NO_AREAS: dict[str, Any] = {
    "null": None, "a number": 5, "a text": "Denmark", "nothing": {}, "a list": [polygon(SQUARE)],
    "a type that is none": {"type": "Blob", "coordinates": [1]}, "a type that is a list": {"type": ["Polygon"]},
    "no coordinates": {"type": "Polygon"}, "coordinates of text": polygon([["a", "b"]] * 4),
    "coordinates that are null": polygon([[None, None]] * 4), "a ring of numbers": polygon([1, 2, 3, 4]),
    "a ring of one": polygon([[12, 55]]), "a ring of two": polygon([[12, 55], [13, 56]]),
    "a ring without width": polygon([[12, 55], [13, 55], [12, 55], [12, 55]]), "an empty ring": polygon([]),
    "no ring": {"type": "Polygon", "coordinates": []}, "a point": {"type": "Point", "coordinates": [12, 55]},
    "a line": {"type": "LineString", "coordinates": SQUARE},
    "no number": polygon([[float("nan"), 55], [13, 55], [13, 56], [12, 55]]),
    "infinity": polygon([[float("inf"), 55], [13, 55], [13, 56], [12, 55]]),
    "huge numbers": polygon([[10**400, 55], [13, 55], [13, 56], [12, 55]]),
    "metres": polygon([[600000, 6100000], [601000, 6100000], [601000, 6101000], [600000, 6100000]]),
    "beyond the pole": polygon([[12, 89], [13, 89], [13, 91], [12, 89]]),
    "latitude first": polygon([[27, 120], [28, 120], [28, 121], [27, 121], [27, 120]]),
    "beyond the antimeridian": polygon([[179, 1], [181, 1], [181, 2], [179, 2], [179, 1]]),
    "features that are no list": {"type": "FeatureCollection", "features": {"a": 1}},
    "features that are null": {"type": "FeatureCollection", "features": [None]},
    "no features": {"type": "FeatureCollection", "features": []},
    "a feature of nothing": {"type": "Feature", "geometry": None},
    "collections a thousand deep": nested(400),
    "a topology": {"type": "Topology", "objects": {}, "arcs": []},
}  # fmt: skip
"""Documents that are no area."""

NO_WKT = [
    "", " ", "POLYGON", "POLYGON(", "POLYGON EMPTY", "POINT(12 55)", "POLYGON((12 55, 13 55, 13 56))", "POLYGON((a b))",
    "MULTIPOLYGON(((12 55, 13 55", "GEOMETRYCOLLECTION(" * 100_000,
    "GEOMETRYCOLLECTION(" * 50 + "POINT(1 1)" + ")" * 50,
    "MULTISURFACE(" * 100_000, "(" * 1_000_000, "POLYGON((nan nan, 1 1, 2 2, nan nan))", "<VRTDataset/>",
    "POLYGON((1e999 55, 13 55, 13 56, 1e999 55))", "SRID=4326;POINT(1 1)", "POLYGON((12 55, 13 55, 13 56, 12 55)) rest",
    "\x00", "POLYGON\u202e((12 55, 13 55, 13 56, 12 55))", "CIRCULARSTRING(0 0, 1 1, 2 0)", "TRIANGLE((0 0, 1 1, 2 0))",
]  # fmt: skip
"""Texts that are no area."""

PROMPTS = {
    "empty": ("", False), "blanks": ("   ", False), "a line break": ("red\nroofs", False), "a NUL": ("a\x00b", False),
    "an escape": ("\x1b[31mroofs", False), "a tab": ("red\troofs", False), "right to left": ("\u202eroofs", False),
    "a hidden blank": ("\u200broofs", False), "a hard blank": ("red\u00a0roofs", False),
    "half a letter": ("\ud800", False),
    "only joiners": ("\u200c\u200d", False), "500 characters": ("r" * 500, True), "501 characters": ("r" * 501, False),
    "ten kilobytes": ("roof " * 2048, False), "markup": ("<script>alert(1)</script>", True),
    "a template": ("{{ 7*7 }} ${x} %s {0}", True), "a path": ("../../etc/passwd", True),
    "a shell line": ("$(reboot)", True),
    "Thai": ("หลังคาสีแดง", True), "Persian with a joiner": ("ساختمان\u200cها", True), "Hindi": ("लाल छतें", True),
    "Hebrew": ("גגות אדומים", True), "a family": ("👨\u200d👩\u200d👧", True), "composed": ("caf\u00e9", True),
    "decomposed": ("cafe\u0301", True), "Chinese": ("红色的屋顶", True),
}  # fmt: skip
"""What may be asked, and whether it is a sentence."""
