"""Catalogs that strangers might write: a good item with one thing wrong at a time, pages that lead astray, addresses of
places that are none of theirs. Made, not stored: what is wrong is said by the code that makes it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from tests.catalogs.examples import stac_item

Json: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]

WRONG: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a negative": -1.5,
    "true": True,
    "a text": "✈ text",
    "an empty text": "",
    "a list": [1, "two", None],
    "an empty list": [],
    "an object": {"a": {"b": [1]}},
    "an empty object": {},
    "a huge number": 10**400,
    "no number": float("nan"),
    "infinity": float("-inf"),
    "ten kilobytes": "\u202e😀" * 2500,
}
"""What stands where something else should."""

PUBLIC = "https://93.184.216.34/stac"

STRANGE_IDS = [
    "../../../etc/passwd", "/etc/passwd", "..", ".", "a/b/c", "a\\b", "NUL", "con", "a\x00b", "a\nb\r\n", "\x1b[2J",
    "\u202ecod.tif", "😀", "é", "e\u0301", "a" * 10_240, " ", "<script>alert(1)</script>", "{{7*7}}", "${HOME}",
    "$(reboot)", "'; DROP TABLE runs; --", "%2e%2e%2f", "file:///etc/passwd", "ids with spaces ", "\ufeffbom", "-rf",
]  # fmt: skip

DATES = {
    "year one": ("0001-01-01T00:00:00Z", True),
    "year 9999": ("9999-12-31T23:59:59.999999Z", True),
    "a leap second": ("2016-12-31T23:59:60Z", True),
    "a leap second at the end of time": ("9999-12-31T23:59:60Z", False),
    "no zone": ("2024-06-01T10:00:00", True),
    "a far zone": ("2024-06-01T10:00:00+14:00", True),
    "before the first year": ("0001-01-01T00:00:00+14:00", False),
    "year zero": ("0000-01-01T00:00:00Z", False),
    "a thirtieth of February": ("2024-02-30T00:00:00Z", False),
    "hour 25": ("2024-06-01T25:00:00Z", False),
    "second 61": ("2024-06-01T00:00:61Z", False),
    "words": ("yesterday", False),
    "a number": (20240601, False),
    "a day": ("2024-06-01", True),
    "a year": (2024, True),
    "nanoseconds": ("2024-06-01T00:00:00.123456789Z", True),
    "other digits": ("٢٠٢٤-٠٦-٠١T٠٠:٠٠:٠٠Z", True),
    "a list": (["2024-06-01T00:00:00Z"], False),
    "ten kilobytes": ("2" * 10_240, False),
}
"""What stands for an item's date, and whether it is one."""

INSIDE = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "127.0.0.1..", "localhost", "LOCALHOST", "localhost.", "a.localhost", "[::1]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[2001:0:53aa:64c:0:0:80ff:fffe]", "0", "0.0.0.0", "[::]",
    "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.0.1", "100.64.0.1", "198.18.0.1", "192.0.2.1", "203.0.113.9",
    "169.254.169.254", "169.254.1.1", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[fe80::1]", "[fe80::1%25eth0]", "[fec0::1]",
    "[fc00::1]", "[fd12:3456::1]", "224.0.0.1", "239.255.255.250", "[ff02::1]", "240.0.0.1", "255.255.255.255",
    "①②⑦.⓪.⓪.①", "１２７.０.０.１", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "loca\u00adlhost",
    "%31%32%37.0.0.1", "localhos%74", "[4000::1]",
]  # fmt: skip
"""Addresses that are none of a public catalog's business, in every spelling that some reader or other understands."""

NO_ADDRESS = [
    "/etc/passwd", "etc/passwd", "../../etc/passwd", "file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd",
    "file://localhost/etc/passwd", "\\\\server\\share\\a.tif", "C:\\a.tif", "/vsicurl/https://93.184.216.34/a.tif",
    "/vsicurl?header_file=/etc/passwd&url=https://93.184.216.34/a.tif", "/vsis3/bucket/a.tif", "/vsizip//data/a.zip",
    "/vsigzip//etc/passwd", "/vsisubfile/0_9,/etc/passwd", "/vsisparse//etc/passwd", "/vsistdin/", "/vsimem/a.tif",
    "/vsihdfs/a", "/vsiwebhdfs/http://10.0.0.1/a", "vrt:///data/a.tif", "vrt://93.184.216.34/a", "a.vrt",
    "https://93.184.216.34/a.vrt", "https://93.184.216.34/a.VRT?b", "s3://bucket/a.vrt", "<VRTDataset></VRTDataset>",
    "<GDAL_WMS></GDAL_WMS>", "data:image/tiff;base64,AAAA", "javascript:alert(1)", "ftp://93.184.216.34/a.tif",
    "gopher://93.184.216.34/", "dict://93.184.216.34:11211/", "ldap://93.184.216.34/", "pg:host=localhost",
    "PG:host=localhost", "ZARR:/data/a", 'ZARR:"/vsicurl/https://x"', "MEM:::DATAPOINTER=1", "GTI:/data/a.gti",
    "NETCDF:/data/a.nc:v", "HDF5:/data/a", "GTIFF_DIR:1:/etc/passwd", "WMS:http://x/", "STACIT:https://x", "s3://",
    "s3://bucket", "s3://bucket/", "s3:bucket/key", "s3:///key", "s3://UPPER/key", "s3://bucket/../other/key",
    "s3://user:word@bucket/key", "s3://bucket/a/./b", "gs://bucket\\a.tif", "gs://bu cket/a.tif", "az://c/a/../../b",
    "az://account.blob.core.windows.net@c/a", "abfs://c/a.tif", "https://user:word@93.184.216.34/a.tif",
    "https://93.184.216.34@10.0.0.1/a.tif", "https://93.184.216.34%40@10.0.0.1/", "https:///a.tif", "https://",
    "https:93.184.216.34/a.tif", "https://93.184.216.34\\@127.0.0.1/a", "https://93.184.216.34/a\x00.tif",
    "https://93.184.216.34/a\n.tif", "https://93.184.216.34/a\u202e.tif", "https://[::1/a.tif", "https://::1/a.tif",
    "https://93.184.216.34:99999/a.tif", "https://93.184.216.34:-1/a.tif", "https://93.184.216.34:22/a.tif",
    "https://93.184.216.34:25/a.tif", "http://93.184.216.34:111/", "https://93.184.216.34/" + "a" * 5000, "", " ",
    " https://93.184.216.34/a.tif", "https://exa mple.com/a.tif", "https://a..b/a.tif?x", "https://-/a\u00ad.tif",
]  # fmt: skip
"""What no remote catalog may name as the place of a picture."""


def places(node: Any, here: Path = ()) -> Iterator[Path]:
    """Where a value stands in a document, for each value in it but the whole."""
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*here, key)
        yield from places(value, (*here, key))


def replaced(doc: Json, place: Path, value: Any) -> Json:
    """The document with another value at a place."""
    changed = copy.deepcopy(doc)
    node: Any = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return changed


def good_item() -> Json:
    """An item with all that is read of one, in the spellings of STAC 1.0 and 1.1."""
    doc = stac_item("good", links=[{"rel": "self", "href": "https://93.184.216.34/good.json"}])
    doc["properties"] |= {"proj:epsg": 32632, "start_datetime": None, "end_datetime": None}
    doc["assets"]["image"]["href"] = "https://93.184.216.34/good.tif"
    doc["assets"]["old"] = {
        "href": "https://93.184.216.34/old.tif",
        "eo:bands": [{"name": "B1", "common_name": "nir"}],
        "raster:bands": [{"data_type": "uint8", "nodata": 0, "scale": 0.1, "offset": 0}],
        "proj:shape": [10, 10],
        "proj:transform": [1, 0, 0, 0, -1, 0],
    }
    return doc


def wrong_items(wrong: Sequence[str] = tuple(WRONG)) -> Iterator[tuple[str, Json]]:
    """Items with one wrong value each, and what is wrong."""
    good = good_item()
    for place in places(good):
        for name in wrong:
            yield f"{name} at {'.'.join(map(str, place))}", replaced(good, place, WRONG[name])


def page(*docs: Json, following: Any = None, **more: Any) -> Json:
    """A page of an API."""
    links = [{"rel": "next", "href": following}] if following is not None else []
    return {"type": "FeatureCollection", "features": list(docs), "links": links, **more}


def bodies() -> dict[str, bytes]:
    """Answers that are no STAC document, or none that can be relied on."""
    good = json.dumps(good_item()).encode()
    return {
        "nothing": b"",
        "blanks": b" \n\t ",
        "half a document": good[: len(good) // 2],
        "two documents": good + good,
        "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "XML": b"<?xml version='1.0'?><Error/>",
        "a text": b'"item"',
        "a number": b"12",
        "null": b"null",
        "a list": b"[" + good + b"]",
        "not a number": b"NaN",
        "bytes that are no text": b"\xff\xfe\x00\xd8" + good,
        "a NUL in the middle": good.replace(b"good", b"go\x00od"),
        "lists as deep as can be": b"[" * 1_000_000,
        "objects as deep as can be": b'{"a":' * 500_000,
        "a deep list in an item": good.replace(b'"eo:cloud_cover": 10.0', b'"x": ' + b"[" * 400 + b"]" * 400),
        "a number of ten thousand digits": good.replace(b"10.0", b"1" * 10_000),
        "another kind of document": json.dumps({"type": "Topology", "objects": {}}).encode(),
        "a Parquet file that is none": b"PAR1" + b"\x00" * 100 + b"PAR1",
        "an empty collection": json.dumps(page()).encode(),
    }
