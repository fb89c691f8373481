"""The same boxes of pixels of a scene, read as users of each library would: ours and its peers.

A way is opened on a scene that nobody has read yet, and then asked for boxes, in an order, by as many callers as it is
given; its threads live on from one scene to the next, as those of a worker do. It gives each box as ``(band, y, x)`` in
the file's own dtype, except ours, which also stretches to uint8 and says what of it is valid and whose it is: the peers
are not asked to.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely.geometry import box as rectangle
from shapely.geometry import mapping

from mapper.grid import Lattice, PixelBox
from mapper.imagery import Asset, Band, Item, PlacedItem
from mapper.raster import GDAL_OPTIONS
from mapper.read import RasterReader

LATTICE = Lattice(crs="EPSG:32645", res_x=10, res_y=10)
TOP, LEFT = -300_000, 60_000
"""Lattice pixel of the upper left corner of every scene."""

STRETCH = (0.0, 5000.0)
"""What ours maps to 0 and 255 where a scene is not uint8."""

Read: TypeAlias = Callable[[PixelBox], NDArray[Any]]
"""A box of a scene's own pixels → ``(band, y, x)``."""

ReadAll: TypeAlias = Callable[[Sequence[PixelBox]], Iterator[NDArray[Any]]]
"""Boxes of a scene → each of them, in their order."""

Way: TypeAlias = Callable[["Scene", int], ReadAll]
"""A scene and a number of callers → what gives its boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Some bands over one place."""

    urls: tuple[str, ...]
    """One of all three bands, or one a band."""

    size_px: int
    dtype: str

    @property
    def transform(self) -> Affine:
        """Of every file of it."""
        return LATTICE.transform(PixelBox(TOP, LEFT, TOP + self.size_px, LEFT + self.size_px))


def by_callers(read: Read, callers: int) -> ReadAll:
    """Boxes by so many threads, few of them in memory at a time."""

    def read_all(boxes: Sequence[PixelBox]) -> Iterator[NDArray[Any]]:
        threads = _threads(callers)
        coming = deque(threads.submit(read, box) for box in boxes[: 2 * callers])
        for position in range(len(boxes)):
            yield coming.popleft().result()
            if position + 2 * callers < len(boxes):
                coming.append(threads.submit(read, boxes[position + 2 * callers]))

    return read_all


@cache
def _threads(callers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(callers)


@cache
def _reader(stretch: tuple[float, float] | None) -> RasterReader:
    return RasterReader(bands=3, stretch=stretch)


def ours(scene: Scene, callers: int) -> ReadAll:
    """The reader of a run."""
    assets = [Asset(key=str(n), href=url) for n, url in enumerate(scene.urls)]
    bands = tuple(
        Band(asset=assets[min(n, len(assets) - 1)], index=1 if len(assets) > 1 else n + 1, name=str(n))
        for n in range(3)
    )
    item = Item(
        id="scene", collection="", datetime=datetime(2026, 1, 1, tzinfo=UTC), footprint=rectangle(0, 0, 1, 1),
        bands=bands,
    )  # fmt: skip
    placed = PlacedItem(item=item, extent=PixelBox(TOP, LEFT, TOP + scene.size_px, LEFT + scene.size_px))
    reader = _reader(None if scene.dtype == "uint8" else STRETCH)

    def read(box: PixelBox) -> NDArray[Any]:
        frame = PixelBox(TOP + box.top, LEFT + box.left, TOP + box.bottom, LEFT + box.right)
        return reader.read([placed], LATTICE, frame).pixels

    return by_callers(read, callers)


def a_dataset_a_thread(scene: Scene, callers: int) -> ReadAll:
    """rasterio, tuned by hand: every caller keeps each file open, with the GDAL options of our reader."""
    held = threading.local()

    def read(box: PixelBox) -> NDArray[Any]:
        with rasterio.Env(**GDAL_OPTIONS):
            if not hasattr(held, "datasets"):
                held.datasets = [rasterio.open(f"/vsicurl/{url}", sharing=False) for url in scene.urls]
            window = Window(box.left, box.top, box.width, box.height)
            parts = [dataset.read(window=window) for dataset in held.datasets]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return by_callers(read, callers)


def rioxarray_isel(scene: Scene, callers: int) -> ReadAll:
    """rioxarray: each file opened once and lazily, a box taken by isel; no lock, so that callers read at once."""
    import rioxarray

    with rasterio.Env(**GDAL_OPTIONS):
        files: list[Any] = [rioxarray.open_rasterio(url, lock=False, cache=False) for url in scene.urls]

    def read(box: PixelBox) -> NDArray[Any]:
        with rasterio.Env(**GDAL_OPTIONS):
            rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
            parts = [file.isel(y=rows, x=columns).to_numpy() for file in files]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return by_callers(read, callers)


def odc_a_load_a_box(scene: Scene, callers: int) -> ReadAll:
    """odc-stac without dask: a load of just the box, its bands read by a pool of as many threads."""
    import odc.stac

    odc.stac.configure_rio(cloud_defaults=True)
    items, names = _stac(scene)

    def read(box: PixelBox) -> NDArray[Any]:
        loaded = odc.stac.load(items, bands=names, geobox=_geobox(scene, box), pool=callers)
        return np.stack([loaded[name].to_numpy()[0] for name in names])

    return by_callers(read, callers)


def odc_dask(scene: Scene, callers: int) -> ReadAll:
    """odc-stac with dask: the whole scene lazily, in chunks of 1024, a box computed at a time by dask's threads."""
    import dask
    import odc.stac

    odc.stac.configure_rio(cloud_defaults=True)
    items, names = _stac(scene)
    whole = _geobox(scene, PixelBox(0, 0, scene.size_px, scene.size_px))
    lazy = odc.stac.load(items, bands=names, geobox=whole, chunks={"x": 1024, "y": 1024})

    def read_all(boxes: Sequence[PixelBox]) -> Iterator[NDArray[Any]]:
        with dask.config.set(scheduler="threads", num_workers=2 * callers):
            for box in boxes:
                cut = lazy.isel(time=0, y=slice(box.top, box.bottom), x=slice(box.left, box.right)).compute()
                yield np.stack([cut[name].to_numpy() for name in names])

    return read_all


def odc_whole(scene: Scene, callers: int) -> ReadAll:
    """odc-stac, everything in memory first: the whole scene loaded by dask's threads, and the boxes cut from it.

    Nothing is read twice, and nothing larger than the machine's memory can be read at all.
    """
    import dask
    import odc.stac

    odc.stac.configure_rio(cloud_defaults=True)
    items, names = _stac(scene)
    whole = _geobox(scene, PixelBox(0, 0, scene.size_px, scene.size_px))

    def read_all(boxes: Sequence[PixelBox]) -> Iterator[NDArray[Any]]:
        with dask.config.set(scheduler="threads", num_workers=2 * callers):
            lazy = odc.stac.load(items, bands=names, geobox=whole, chunks={"x": 2048, "y": 2048})
            loaded = lazy.isel(time=0).compute()
        for box in boxes:
            yield np.stack([loaded[name].to_numpy()[box.top : box.bottom, box.left : box.right] for name in names])

    return read_all


def async_geotiff_reads(scene: Scene, callers: int) -> ReadAll:
    """async-geotiff on obstore: each file opened once, as many boxes at once as there are callers."""
    from async_geotiff import GeoTIFF
    from async_geotiff import Window as Part
    from obstore.store import HTTPStore

    base = scene.urls[0].rpartition("/")[0]
    store = HTTPStore.from_url(base, client_options={"allow_http": True})

    async def read_some(files: list[Any], box: PixelBox) -> NDArray[Any]:
        window = Part(col_off=box.left, row_off=box.top, width=box.width, height=box.height)
        parts = await asyncio.gather(*(file.read(window=window) for file in files))
        return np.concatenate([part.data for part in parts])

    def read_all(boxes: Sequence[PixelBox]) -> Iterator[NDArray[Any]]:
        loop = asyncio.new_event_loop()
        try:
            opening = [GeoTIFF.open(url.rpartition("/")[2], store=store) for url in scene.urls]
            files = loop.run_until_complete(_all(opening))
            coming = [loop.create_task(read_some(files, box)) for box in boxes[: 2 * callers]]
            for position in range(len(boxes)):
                yield loop.run_until_complete(coming.pop(0))
                if position + 2 * callers < len(boxes):
                    coming.append(loop.create_task(read_some(files, boxes[position + 2 * callers])))
        finally:
            loop.close()

    return read_all


async def _all(awaitables: Iterable[Any]) -> list[Any]:
    return list(await asyncio.gather(*awaitables))


def _geobox(scene: Scene, box: PixelBox) -> Any:
    from odc.geo.geobox import GeoBox

    corner = scene.transform @ Affine.translation(box.left, box.top)
    return GeoBox(box.shape, corner, LATTICE.crs)


def _stac(scene: Scene) -> tuple[list[Any], list[str]]:
    """The scene as a STAC item that says all that odc-stac can use: it opens no file to learn of its grid."""
    import pystac

    left, bottom, right, top = 85.0, 27.0, 86.0, 28.0
    names = ["red", "green", "blue"]
    whole = rectangle(left, bottom, right, top)
    item = pystac.Item(
        "scene", mapping(whole), list(whole.bounds), datetime(2026, 1, 1, tzinfo=UTC),
        {"proj:code": LATTICE.crs, "proj:shape": [scene.size_px] * 2, "proj:transform": list(scene.transform)[:6]},
        stac_extensions=[
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
    )  # fmt: skip
    item.collection_id = "scenes"
    held = [names] if len(scene.urls) == 1 else [[name] for name in names]
    for url, bands in zip(scene.urls, held, strict=True):
        facts = {
            "eo:bands": [{"name": band, "common_name": band} for band in bands],
            "raster:bands": [{"data_type": scene.dtype} for _ in bands],
        }
        key = bands[0] if len(bands) == 1 else "image"
        item.add_asset(key, pystac.Asset(url, media_type="image/tiff", roles=["data"], extra_fields=facts))
    return [item], names


WAYS: dict[str, Way] = {
    "ours": ours,
    "odc-stac, a load a box": odc_a_load_a_box,
    "odc-stac, dask chunks": odc_dask,
    "odc-stac, the whole first": odc_whole,
    "rioxarray": rioxarray_isel,
    "rasterio, a dataset a thread": a_dataset_a_thread,
    "async-geotiff": async_geotiff_reads,
}
