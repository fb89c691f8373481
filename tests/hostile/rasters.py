"""The corpus of raster files from strangers: each with what must come of it. Made anew by every run, from no file."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from mapper.grid import Lattice, PixelBox
from tests.mapper.rasters import NEPAL, place_pixels
from tests.mapper.rasters import UTM45 as UTM45

Must: TypeAlias = Literal["exact", "refused", "honest", "any"]
"""What must come of a file that is read: its pixels and what of them is real, exactly; an error of ours that names the
file; one of the two; or, of damage that its format cannot show, an error of ours or whatever pixels."""

FRAME = PixelBox(NEPAL.top, NEPAL.left, NEPAL.top + 128, NEPAL.left + 192)
"""Where every file says it lies, unless it lies about that."""

COARSE = Lattice(crs=UTM45.crs, res_x=2.0, res_y=2.0)
COARSE_FRAME = PixelBox(NEPAL.top // 4 - 2, NEPAL.left // 4 - 2, NEPAL.top // 4 + 34, NEPAL.left // 4 + 50)

CODECS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "deflate": {"compress": "deflate", "predictor": 2},
    "lzw": {"compress": "lzw"},
    "zstd": {"compress": "zstd"},
    "lerc": {"compress": "lerc"},
    "lerc_zstd": {"compress": "lerc_zstd"},
    "packbits": {"compress": "packbits"},
    "webp": {"compress": "webp", "webp_lossless": True},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file."""

    name: str
    content: bytes
    must: Must
    pixels: NDArray[np.uint8] | None = None
    """uint8 ``(band, y, x)`` over ``FRAME``, as a reader must give them; None for ``place_pixels``."""

    valid: NDArray[np.bool_] | None = None
    """None for all."""

    bands: int = 3
    stretch: tuple[float, float] | None = None
    coarse: bool = False
    """Whether it is read on a lattice four times as coarse, where overviews serve."""

    placed: bool = False
    """Whether its catalog says where it lies."""

    suffix: str = ".tif"
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Files next to it; ``*`` in a name stands for its own name, ``?`` for that without its suffix."""

    @property
    def file(self) -> str:
        """What it is called."""
        return self.name + self.suffix

    def write(self, folder: Path) -> Path:
        """Put it in a folder, with what lies beside it."""
        for name, content in self.beside.items():
            (folder / name.replace("*", self.file).replace("?", self.name)).write_bytes(content)
        (folder / self.file).write_bytes(self.content)
        return folder / self.file


def truth(bands: int = 3) -> NDArray[np.uint8]:
    """What the files show, unless said otherwise; never 0."""
    return place_pixels(FRAME, bands=bands)


def geotiff(pixels: NDArray[Any] | None = None, *, mask: NDArray[np.bool_] | None = None, **options: Any) -> bytes:
    """A file as a library writes it; ``options`` are rasterio's, with ``tags``, ``scales``, ``palette``."""
    pixels = truth() if pixels is None else pixels
    tags, scales = options.pop("tags", {}), options.pop("scales", None)
    palette = options.pop("palette", None)
    profile: dict[str, Any] = {
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "crs": UTM45.crs,
        "transform": UTM45.transform(FRAME),
    }
    profile |= {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    profile |= {"dtype": pixels.dtype} | options
    for name in [name for name, value in profile.items() if value is None]:
        del profile[name]
    overviews = profile.pop("overviews", ())
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
            for domain, items in tags.items():
                file.update_tags(ns=domain, **items)
            if scales:
                file.scales, file.offsets = scales
            if palette:
                file.write_colormap(1, palette)
            if mask is not None:
                file.write_mask(mask)
            if overviews:
                file.build_overviews(list(overviews))
        return bytes(memory.read())


def corpus(*, folder: str, url: str) -> list[Case]:
    """All cases.

    Args:
        folder: holds ``canary.tif`` and ``canary_half.tif``, which no case may make us open.
        url: of a server of that folder.
    """
    from tests.hostile import rasters_announced, rasters_damaged, rasters_disguised

    cases = [
        *sound(), *rasters_damaged.damaged(), *rasters_announced.announced(), *rasters_disguised.disguised(folder, url),
    ]  # fmt: skip
    twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    assert not twice, twice
    return cases


def sound() -> Iterator[Case]:
    """Odd and right: these must be read exactly."""
    for name, options in CODECS.items():
        if name != "jpeg":
            yield Case(name=f"sound-{name}", content=geotiff(**options), must="exact")
    yield Case(name="sound-bigtiff", content=geotiff(bigtiff="yes", compress="deflate"), must="exact")
    yield Case(name="sound-big-endian", content=geotiff(endianness="big", compress="lzw"), must="exact")
    yield Case(name="sound-strips", content=geotiff(tiled=None, blockxsize=None, blockysize=5), must="exact")
    yield Case(name="sound-one-strip", content=geotiff(tiled=None, blockxsize=None, blockysize=128), must="exact")
    yield Case(name="sound-band-after-band", content=geotiff(interleave="band", compress="deflate"), must="exact")
    yield Case(name="sound-cog", content=geotiff(**COG), must="exact")
    yield Case(name="sound-point", content=geotiff(tags={None: {"AREA_OR_POINT": "Point"}}), must="exact")
    yield Case(name="sound-other-name", content=geotiff(), must="exact", suffix=".jpg")
    yield from _sound_values()
    yield from _sound_validity()
    yield from _sound_places()


COG: Mapping[str, Any] = {"driver": "COG", "compress": "deflate", "blocksize": 128, "tiled": None, "blockxsize": None,
                          "blockysize": None}  # fmt: skip


def _sound_values() -> Iterator[Case]:
    plain = truth(1)
    for dtype in ("int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"):
        values = (plain // 2).astype(dtype)
        for codec in ("none", "deflate"):
            yield Case(
                name=f"sound-{dtype}-{codec}", content=geotiff(values, compress=codec), must="exact", bands=1,
                pixels=plain // 2, stretch=(0, 255),
            )  # fmt: skip
    palette = {n: (n, 255 - n, 7, 255) for n in range(256)}
    yield Case(name="palette", content=geotiff(plain, palette=palette), must="exact", bands=1, pixels=plain)
    for name, scales in {"huge": (1e308, -1e308), "nan": (float("nan"), float("inf")), "zero": (0.0, 0.0)}.items():
        content = geotiff(plain.astype(np.int16), scales=([scales[0]], [scales[1]]))
        yield Case(name=f"scale-{name}", content=content, must="exact", bands=1, pixels=plain, stretch=(0, 255))
    for dtype in ("complex64", "complex128", "complex_int16"):
        values = plain.astype("complex64" if dtype == "complex_int16" else dtype)
        yield Case(
            name=f"complex-{dtype}", content=geotiff(values, dtype=dtype), must="refused", bands=1, stretch=(0, 255)
        )


def _sound_validity() -> Iterator[Case]:
    plain, hole = truth(1), np.zeros(FRAME.shape, np.bool_)
    hole[20:50, 30:90] = True
    block = np.zeros(FRAME.shape, np.bool_)
    block[64:128, 64:128] = True
    for name, value in {"nan": np.nan, "inf": np.inf, "minus-inf": -np.inf}.items():
        values = np.where(hole, np.float32(value), plain).astype(np.float32)
        for nodata in (None, np.nan):
            content = geotiff(values, nodata=nodata)
            yield Case(name=f"pixels-{name}-nodata-{nodata}", content=content, must="exact", bands=1,
                       pixels=plain, valid=~hole, stretch=(0, 255))  # fmt: skip
    holed = np.where(hole, 0, truth()).astype(np.uint8)
    yield Case(name="nodata-0", content=geotiff(holed, nodata=0), must="exact", valid=~hole)
    yield Case(name="nodata-none", content=geotiff(holed), must="exact", pixels=holed)
    yield Case(name="nodata-text", content=geotiff(holed).replace(b"none", b"NONE"), must="exact", pixels=holed)
    wide = np.where(hole, np.int16(-9999), plain.astype(np.int16))
    yield Case(name="nodata-minus-9999", content=geotiff(wide, nodata=-9999), must="exact", bands=1, valid=~hole,
               pixels=plain, stretch=(0, 255))  # fmt: skip
    yield Case(name="mask", content=geotiff(mask=~hole), must="exact", valid=~hole)
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    yield Case(name="alpha", content=geotiff(np.concatenate([truth(), alpha[None]]), alpha="yes"), must="exact",
               valid=~hole)  # fmt: skip
    for codec in ("plain", "deflate", "zstd"):
        sparse = np.where(block, 0, truth()).astype(np.uint8)
        content = geotiff(sparse, sparse_ok=True, **CODECS[codec])
        yield Case(name=f"sparse-{codec}", content=content, must="exact", valid=~block)
        content = geotiff(sparse, sparse_ok=True, interleave="band", **CODECS[codec])
        yield Case(name=f"sparse-band-after-band-{codec}", content=content, must="exact", valid=~block)
        content = geotiff(sparse, sparse_ok=True, mask=np.ones(FRAME.shape, np.bool_), **CODECS[codec])
        yield Case(name=f"sparse-under-a-mask-{codec}", content=content, must="exact", valid=~block)
    nothing = np.zeros_like(truth())
    yield Case(name="sparse-all", content=geotiff(nothing, sparse_ok=True), must="exact",
               valid=np.zeros(FRAME.shape, np.bool_))  # fmt: skip


def _sound_places() -> Iterator[Case]:
    here = UTM45.transform(FRAME)
    up = Affine(here.a, 0, here.c, 0, -here.e, here.f + 128 * here.e)
    yield Case(name="south-up", content=geotiff(truth()[:, ::-1], transform=up), must="exact")
    yield Case(name="half-a-pixel-off", content=geotiff(transform=here @ Affine.translation(0.5, 0.5)), must="any")
    yield Case(name="rotated", content=geotiff(transform=here @ Affine.rotation(30)), must="any")
    yield Case(name="rotated-by-quarter", content=geotiff(transform=here @ Affine.rotation(90)), must="any")
    yield Case(name="sheared", content=geotiff(transform=here @ Affine.shear(89.9999)), must="any")
    yield Case(name="mirrored", content=geotiff(transform=here @ Affine.scale(-1, 1)), must="any")
    yield Case(name="far-away", content=geotiff(transform=here @ Affine.translation(1e7, 1e7)), must="any")
    yield Case(name="no-crs", content=geotiff(crs=None), must="refused")
    yield Case(name="no-transform", content=geotiff(transform=None), must="refused")
    one = Affine(here.a * 192, 0, here.c, 0, here.e * 128, here.f)
    yield Case(name="one-pixel", content=geotiff(truth()[:, :1, :1], transform=one), must="any")
    small = np.zeros(FRAME.shape, np.bool_)
    small[0, 0] = True
    yield Case(name="one-pixel-in-place", content=geotiff(truth()[:, :1, :1]), must="exact", valid=small)
    yield Case(name="coarse-cog", content=geotiff(**COG), must="any", coarse=True)
    yield Case(name="coarse-overviews", content=geotiff(overviews=[2, 4, 8]), must="any", coarse=True)


@lru_cache(maxsize=1)
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Names, and good files of every codec and kind: what damage starts from."""
    files = {name: geotiff(**options) for name, options in CODECS.items()} | {
        "cog": geotiff(**COG),
        "bigtiff": geotiff(bigtiff="yes", compress="deflate", overviews=[2]),
        "masked": geotiff(mask=truth()[0] > 100, compress="deflate"),
        "jp2": picture("JP2OpenJPEG", quality=100, reversible="yes", crs=UTM45.crs),
        "jpg": picture("JPEG", quality=95),
        "png": picture("PNG"),
    }
    return tuple(files.items())


def picture(driver: str, pixels: NDArray[Any] | None = None, **options: Any) -> bytes:
    """A file of another kind than TIFF, which can only be written whole."""
    pixels = truth() if pixels is None else pixels
    with MemoryFile(ext=".jp2" if driver == "JP2OpenJPEG" else "") as memory:
        with memory.open(
            driver=driver, count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype,
            transform=UTM45.transform(FRAME) if "crs" in options else None, **options,
        ) as file:  # fmt: skip
            file.write(pixels)
        return bytes(memory.read())


def flipped(content: bytes, places: range, chance: random.Random, times: int = 1) -> bytes:
    """A copy in which some bytes of a part are others."""
    out = bytearray(content)
    for _ in range(times):
        at = chance.randrange(places.start, places.stop)
        out[at] ^= chance.randrange(1, 256)
    return bytes(out)
