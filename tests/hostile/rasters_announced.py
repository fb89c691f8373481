"""Headers that announce what is not so: sizes, places, loops, and where on Earth they lie."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from mapper.grid import BLOCK_PX
from tests.hostile import tiff_bytes as t
from tests.hostile.rasters import FRAME, UTM45, Case, geotiff, truth

TILE = 64
GEO: Mapping[int, Any] = {
    t.SCALE: (0.5, 0.5, 0.0),
    t.TIEPOINT: (0.0, 0.0, 0.0, *UTM45.bounds(FRAME)[::3], 0.0),
    t.GEOKEYS: t.utm45_keys(),
}
SOUND: Mapping[int, Any] = {
    t.WIDTH: TILE, t.HEIGHT: TILE, t.BITS: 8, t.COMPRESSION: 1, t.PHOTOMETRIC: 1, t.SAMPLES: 1, t.TILE_WIDTH: TILE,
    t.TILE_HEIGHT: TILE, t.TILE_OFFSETS: "data", t.TILE_COUNTS: TILE * TILE, t.SAMPLE_FORMAT: 1, **GEO,
}  # fmt: skip
BLOCK = truth(1)[0, :TILE, :TILE].tobytes()
DEFLATE, ZSTD, LERC, JPEG = 8, 50000, 34887, 7


def tiff(changes: Mapping[int, Any] | None = None, *, data: bytes = BLOCK, **more: Any) -> bytes:
    """A file of one tile, with some tags changed, or gone where None."""
    tags = {code: value for code, value in ({**SOUND, **(changes or {})}).items() if value is not None}
    return t.Tiff(directories=[tags], data=data, **more).written()


def announced() -> Iterator[Case]:
    """All of them."""
    shown = np.zeros(FRAME.shape, np.bool_)
    shown[:TILE, :TILE] = True
    for big in (False, True):
        for order in "<>":
            yield Case(name=f"by-hand-{'big' if big else 'classic'}-{'LM'[order == '>']}",
                       content=tiff(big=big, order=order),
                       must="exact", bands=1, pixels=truth(1), valid=shown)  # fmt: skip
    yield from _magic()
    for name, (changes, must) in (SIZES | VALUES).items():
        yield Case(name=name, content=tiff(changes), must=must, bands=1, stretch=(0, 255))
    for name, changes in PLACES.items():
        yield Case(name=f"place-{name}", content=tiff(changes), must="any", bands=1)
    for name in UNPLACED:
        yield Case(name=f"unplaced-{name}", content=tiff(UNPLACED[name]), must="refused", bands=1)
    yield from _chains()
    yield from _bombs()
    yield from _averages()


def _magic() -> Iterator[Case]:
    good, big = tiff(), tiff(big=True)
    changed = {
        "swapped": b"MM" + good[2:], "none": b"\0\0" + good[2:], "41": good[:2] + b"\x29" + good[3:],
        "first-directory-0": good[:4] + bytes(4) + good[8:], "first-directory-1": good[:4] + b"\1\0\0\0" + good[8:],
        "first-directory-beyond": good[:4] + b"\xff\xff\xff\x7f" + good[8:], "only": good[:8], "four-bytes": good[:4],
        "big-as-classic": big[:2] + b"\x2a" + big[3:], "classic-as-big": good[:2] + b"\x2b" + good[3:],
        "big-offset-size-4": big[:4] + b"\4\0" + big[6:], "big-offset-size-0": big[:4] + b"\0\0" + big[6:],
        "big-constant": big[:6] + b"\1\0" + big[8:], "big-directory-beyond": big[:8] + b"\xff" * 8 + big[16:],
        "big-entries-2-to-63": big[:16] + struct.pack("<Q", 2**63) + big[24:],
        "entries-65535": good[:8] + b"\xff\xff" + good[10:], "entries-0": good[:8] + b"\0\0" + good[10:],
    }  # fmt: skip
    for name, content in changed.items():
        yield Case(name=f"magic-{name}", content=content, must="refused", bands=1)


def _of(code: int, kind: int, count: int, content: bytes) -> dict[int, t.Tag]:
    return {code: t.Tag(kind, count, content)}


HUGE = 2**31 - 1
SIZES: dict[str, tuple[dict[int, Any], Any]] = {
    "tile-2-30-of-one-pixel": ({t.WIDTH: 1, t.HEIGHT: 1, t.TILE_WIDTH: 2**30, t.TILE_HEIGHT: 2**30}, "refused"),
    "tile-2-15-of-one-pixel": ({t.WIDTH: 1, t.HEIGHT: 1, t.TILE_WIDTH: 2**15, t.TILE_HEIGHT: 2**15}, "refused"),
    "tile-2-13": ({t.TILE_WIDTH: 2**13, t.TILE_HEIGHT: 2**13}, "any"),
    "tile-0": ({t.TILE_WIDTH: 0}, "refused"),
    "tile-1-wide": ({t.TILE_WIDTH: 1}, "any"),
    "tile-17": ({t.TILE_WIDTH: 17, t.TILE_HEIGHT: 17}, "any"),
    "image-2-31": ({t.WIDTH: HUGE, t.HEIGHT: HUGE}, "refused"),
    "image-2-31-in-large-tiles": (
        {t.WIDTH: HUGE, t.HEIGHT: HUGE, t.TILE_WIDTH: 2**14, t.TILE_HEIGHT: 2**14}, "refused"),
    "image-2-20": ({t.WIDTH: 2**20, t.HEIGHT: 2**20, t.TILE_WIDTH: 16, t.TILE_HEIGHT: 16}, "refused"),
    "image-0": ({t.WIDTH: 0}, "refused"),
    "image-taller-than-its-tiles": ({t.HEIGHT: 6400}, "any"),
    "bands-0": ({t.SAMPLES: 0}, "any"),
    "bands-5000": ({t.SAMPLES: 5000}, "refused"),
    "bands-65535": ({t.SAMPLES: 65535}, "refused"),
    "bands-65535-apart": ({t.SAMPLES: 65535, t.PLANAR: 2}, "refused"),
    "bands-4096-of-large-tiles": ({t.SAMPLES: 4096, t.TILE_WIDTH: 1024, t.TILE_HEIGHT: 1024}, "refused"),
    "bytes-4-gb": ({t.TILE_COUNTS: 2**32 - 1}, "any"),
    "bytes-2-63": ({t.TILE_COUNTS: 2**63 - 1}, "any"),
    "bytes-0": ({t.TILE_COUNTS: 0}, "any"),
    "bytes-1": ({t.TILE_COUNTS: 1}, "any"),
    "offset-0": ({t.TILE_OFFSETS: 0}, "any"),
    "offset-beyond": ({t.TILE_OFFSETS: 2**31}, "refused"),
    "offset-2-63": ({t.TILE_OFFSETS: 2**63 - 1}, "refused"),
    "offset-of-the-header": ({t.TILE_OFFSETS: 0 + 8}, "any"),
    "offsets-none": ({t.TILE_OFFSETS: None}, "any"),
    "counts-none": ({t.TILE_COUNTS: None}, "any"),
    "offsets-2-32": (_of(t.TILE_OFFSETS, t.LONG, 2**32 - 1, struct.pack("<I", 8)), "any"),
    "counts-2-32": (_of(t.TILE_COUNTS, t.LONG, 2**32 - 1, struct.pack("<I", 8)), "any"),
    "strips-of-0-rows": ({t.TILE_WIDTH: None, t.TILE_HEIGHT: None, t.TILE_OFFSETS: None, t.TILE_COUNTS: None,
                          273: "data", 279: 4096, 278: 0}, "any"),
    "strips-of-2-32-rows": ({t.TILE_WIDTH: None, t.TILE_HEIGHT: None, t.TILE_OFFSETS: None, t.TILE_COUNTS: None,
                             273: "data", 279: 4096, 278: 2**32 - 1}, "any"),
    "strip-of-a-million-pixels": (
        {t.WIDTH: 2**20, t.HEIGHT: 300, t.TILE_WIDTH: None, t.TILE_HEIGHT: None, t.TILE_OFFSETS: None,
         t.TILE_COUNTS: None, 273: (0,) * 300, 279: (0,) * 300, 278: 1}, "any"),
}  # fmt: skip
VALUES: dict[str, tuple[dict[int, Any], Any]] = {
    **{f"bits-{bits}": ({t.BITS: bits}, "any") for bits in (0, 1, 2, 7, 12, 24, 63, 64, 128, 65535)},
    **{f"format-{kind}": ({t.SAMPLE_FORMAT: kind}, "any") for kind in (0, 3, 4, 5, 6, 99)},
    **{f"colour-{kind}": ({t.PHOTOMETRIC: kind}, "any") for kind in (3, 6, 8, 32803, 65535)},
    **{f"codec-{code}": ({t.COMPRESSION: code}, "any") for code in (
        0, 2, 3, 4, 5, 6, JPEG, DEFLATE, 34712, 34925, LERC, ZSTD, 50001, 50002, 65535)},
    "planes-9": ({t.PLANAR: 9}, "any"),
    "predictor-99": ({t.COMPRESSION: DEFLATE, 317: 99}, "any"),
    **{f"nodata-tag-{text[:9] or 'empty'}": ({t.NODATA: text}, "any") for text in (
        "nan", "inf", "-9999", "1e400", "300", "", "none", "0x10", "9" * 4000)},
    "nodata-not-ended": (_of(t.NODATA, t.ASCII, 4, b"1234"), "any"),
    "nodata-of-doubles": (_of(t.NODATA, t.DOUBLE, 1, struct.pack("<d", 7)), "any"),
    "text-100-kb": ({270: "a" * 100_000}, "any"),
    "text-8-mb": ({270: "\x1b[31m" * 1_600_000}, "any"),
    "text-2-31-announced": (_of(270, t.ASCII, 2**31 - 1, struct.pack("<I", 8)), "any"),
    "metadata-not-closed": ({t.METADATA: "<GDALMetadata><Item name='a'>"}, "any"),
    "metadata-deep": ({t.METADATA: "<GDALMetadata>" + "<a>" * 100_000}, "any"),
    "metadata-laughs": ({t.METADATA: '<!DOCTYPE z [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><GDALMetadata>'
                                     '<Item name="x">&b;&b;</Item></GDALMetadata>'}, "any"),
    "metadata-of-a-file": ({t.METADATA: '<!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/passwd">]><GDALMetadata>'
                                        '<Item name="OVERVIEW_FILE">&a;</Item></GDALMetadata>'}, "any"),
    "metadata-items-20000": ({t.METADATA: "<GDALMetadata>" + "<Item name='a'>b</Item>" * 20_000 + "</GDALMetadata>"},
                             "any"),
    "metadata-binary": ({t.METADATA: bytes(range(256)) * 16}, "any"),
    "metadata-claims-tiff": ({t.METADATA: '<GDALMetadata><Item name="BLOCK_OFFSET_0_0" domain="TIFF">8</Item>'
                                          '<Item name="INTERLEAVE" domain="IMAGE_STRUCTURE">BAND</Item>'
                                          "</GDALMetadata>"}, "any"),
}  # fmt: skip
NAN, INF = math.nan, math.inf
PLACES: dict[str, dict[int, Any]] = {
    **{f"pixel-{size:g}": {t.SCALE: (size, size, 0.0)} for size in (1e-300, 1e-9, 1e9, 1e300, -0.5)},
    "pixel-not-square": {t.SCALE: (1e-6, 1e4, 0.0)},
    **{f"corner-{x:g}": {t.TIEPOINT: (0.0, 0.0, 0.0, x, x, 0.0)} for x in (1e300, -1e308)},
    "tiepoints-1000": {t.TIEPOINT: tuple(float(n) for n in range(6000))},
    "tiepoint-short": {t.TIEPOINT: (0.0, 0.0)},
    **{f"crs-{code}": {t.GEOKEYS: t.utm45_keys(code)} for code in (4326, 4978, 3857, 2056, 5041, 32661, 27700)},
    "crs-loop": {t.GEOKEYS: (1, 1, 0, 1, 3072, t.GEOKEYS, 8, 0)},
    "crs-of-nan": {t.GEOKEYS: (1, 1, 0, 6, 1024, 0, 1, 1, 3072, 0, 1, 32767, 3074, 0, 1, 32767, 3075, 0, 1, 1,
                               2057, t.GEO_DOUBLES, 1, 0, 3080, t.GEO_DOUBLES, 1, 1), t.GEO_DOUBLES: (NAN, INF)},
    "crs-pe-string": {t.GEOKEYS: (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32767, 3073, t.GEO_TEXT, 3000, 0),
                      t.GEO_TEXT: "ESRI PE String = " + "PROJCS[" * 400},
    "matrix-rotated": {t.MATRIX: (0.3, 0.4, 0.0, 4e5, 0.4, -0.3, 0.0, 3e6, *(0.0,) * 7, 1.0), t.SCALE: None},
}  # fmt: skip
UNPLACED: dict[str, dict[int, Any]] = {
    "no-crs": {t.GEOKEYS: None},
    "no-corner": {t.SCALE: None, t.TIEPOINT: None},
    **{f"crs-{code}": {t.GEOKEYS: t.utm45_keys(code)} for code in (0, 1, 60000)},
    "keys-empty": {t.GEOKEYS: (1, 1, 0, 0)},
    "keys-65535": {t.GEOKEYS: (1, 1, 0, 65535)},
    "pixel-0": {t.SCALE: (0.0, 0.0, 0.0)},
    "pixel-nan": {t.SCALE: (NAN, NAN, NAN)},
    "pixel-inf": {t.SCALE: (INF, INF, INF)},
    "corner-nan": {t.TIEPOINT: (0.0, 0.0, 0.0, NAN, NAN, 0.0)},
    "corner-inf": {t.TIEPOINT: (0.0, 0.0, 0.0, INF, -INF, 0.0)},
    "matrix-0": {t.MATRIX: (0.0,) * 16, t.SCALE: None},
    "matrix-nan": {t.MATRIX: (NAN,) * 16, t.SCALE: None},
    "matrix-flat": {t.MATRIX: (1.0, 1.0, 0.0, 4e5, 1.0, 1.0, 0.0, 3e6, *(0.0,) * 7, 1.0), t.SCALE: None},
    "points-only": {t.SCALE: None, t.TIEPOINT: tuple(float(n % 7) for n in range(24))},
    "polynomial-only": {t.SCALE: None, t.TIEPOINT: None, t.GEOKEYS: None, 50844: t.Tag(
        t.DOUBLE, 92, struct.pack("<92d", *np.linspace(-1, 1, 92)))},
}  # fmt: skip


def _chains() -> Iterator[Case]:
    shown = np.zeros(FRAME.shape, np.bool_)
    shown[:TILE, :TILE] = True
    small = {**SOUND, 254: 1, t.WIDTH: 32, t.HEIGHT: 32}
    exact: Any = {"bands": 1, "pixels": truth(1), "valid": shown}
    loops = {"to-itself": [SOUND], "of-two": [SOUND, small], "of-five": [SOUND, *[small] * 4]}
    for name, chain in loops.items():
        content = t.Tiff(directories=chain, data=BLOCK, links={len(chain) - 1: 0}).written()
        yield Case(name=f"chain-loops-{name}", content=content, must="honest", **exact)
        yield Case(name=f"chain-loops-{name}-coarse", content=content, must="any", bands=1, coarse=True)
    for name, after in {"beyond": 2**31, "into-itself": 14, "into-the-pixels": 600}.items():
        content = t.Tiff(directories=[SOUND], data=BLOCK, links={0: -after}).written()
        yield Case(name=f"chain-{name}", content=content, must="honest", **exact)
        yield Case(name=f"chain-{name}-coarse", content=content, must="any", bands=1, coarse=True)
    for count in (1000, 5000):
        content = t.Tiff(directories=[SOUND, *[small] * count], data=BLOCK).written()
        yield Case(name=f"chain-of-{count}", content=content, must="any", bands=1, coarse=True)
    bomb = {**small, t.TILE_WIDTH: 2**15, t.TILE_HEIGHT: 2**15}
    content = t.Tiff(directories=[SOUND, bomb], data=BLOCK).written()
    yield Case(name="overview-of-huge-tiles", content=content, must="any", bands=1, coarse=True)


def _bombs() -> Iterator[Case]:
    """Small when sent, large when decoded."""
    side = 8192
    zeros = zlib.compress(bytes(side * side), 9)
    big = {t.WIDTH: side, t.HEIGHT: side, t.TILE_WIDTH: side, t.TILE_HEIGHT: side}
    yield Case(name="bomb-deflate-64-mib", must="any", bands=1,
               content=tiff({**big, t.COMPRESSION: DEFLATE, t.TILE_COUNTS: len(zeros)}, data=zeros))  # fmt: skip
    for name, code in {"deflate": DEFLATE, "zstd": ZSTD, "lerc": LERC, "lzma": 34925}.items():
        content = tiff({t.COMPRESSION: code, t.TILE_COUNTS: len(zeros)}, data=zeros)
        yield Case(name=f"bomb-{name}-longer-than-its-block", content=content, must="any", bands=1)
    for codec in ("lerc", "zstd", "webp", "jpeg"):
        bands = 3 if codec in ("webp", "jpeg") else 1
        inside = geotiff(np.zeros((bands, 2048, 2048), np.uint8), compress=codec, blockxsize=2048, blockysize=2048)
        outside = geotiff(truth(bands), compress=codec)
        data = first_block(inside)
        yield Case(name=f"bomb-{codec}-other-size-inside", content=with_first_block(outside, data), must="any",
                   bands=bands)  # fmt: skip
    for size in ((60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)):
        for interlaced in (0, 1):
            yield Case(name=f"bomb-png-{size[0]}-{size[1]}-{interlaced}", content=_png(*size, interlaced),
                       must="refused", bands=1, suffix=".png", placed=True)  # fmt: skip
    for side in (65_500, 20_000):
        yield Case(name=f"bomb-jpg-{side}", content=_jpeg(side), must="refused", suffix=".jpg", placed=True)


def _averages() -> Iterator[Case]:
    """A file that would be decoded whole for one cell: very fine, or very long."""
    bounds = UTM45.bounds(FRAME)
    for name, across, down in (("fine", 2**19, 2**19), ("long", 2**20, 64), ("tall", 64, 2**20)):
        span = BLOCK_PX * 0.5
        geo = {t.SCALE: (span / across, span / down, 0.0), t.TIEPOINT: (0.0, 0.0, 0.0, bounds[0], bounds[3], 0.0)}
        count = math.ceil(across / 512) * math.ceil(down / 512)
        tags = {t.WIDTH: across, t.HEIGHT: down, t.TILE_WIDTH: 512, t.TILE_HEIGHT: 512, **geo,
                t.TILE_OFFSETS: (0,) * count, t.TILE_COUNTS: (0,) * count}  # fmt: skip
        yield Case(name=f"average-{name}", content=tiff(tags), must="refused" if name == "fine" else "any", bands=1)


def first_block(content: bytes) -> bytes:
    """The first block of a file as stored."""
    offset, count = _block_entries(content)
    return content[_read(content, offset) : _read(content, offset) + _read(content, count)]


def with_first_block(content: bytes, data: bytes) -> bytes:
    """A file whose first block is another, put at its end."""
    out = bytearray(content + data)
    offset, count = _block_entries(content)
    struct.pack_into("<I", out, offset, len(content))
    struct.pack_into("<I", out, count, len(data))
    return bytes(out)


def _block_entries(content: bytes) -> tuple[int, int]:
    """Where a classic file says where its first block is, and how long."""
    start = struct.unpack_from("<I", content, 4)[0]
    found = {}
    for number in range(struct.unpack_from("<H", content, start)[0]):
        at = start + 2 + 12 * number
        code, _, many = struct.unpack_from("<HHI", content, at)
        found[code] = at + 8 if many == 1 else _read(content, at + 8)
    return found[t.TILE_OFFSETS], found[t.TILE_COUNTS]


def _read(content: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", content, at)[0])


def _png(width: int, height: int, interlaced: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _jpeg(side: int) -> bytes:
    """A small progressive JPEG that says it is large."""
    import io

    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc2")
    struct.pack_into(">HH", content, at + 5, side, side)
    return bytes(content)
