"""(c) odc-stac and dask: load as one lazy array, overlap its chunks, run the model over them, ``to_zarr``.

``python -m benchmarks.peers.odc_dask WORK [THREADS]``

Tuned: chunks of a shard, aligned with the scenes' own blocks and read without resampling; odc-stac's settings for
far COGs, and wide caches; neighbours' chunks read once and shared through the graph; more
threads than cores, so that some read while one infers; scores stored straight from the threads. The model is one,
behind a lock. odc-stac reads red, green and blue one by one, so a block of all three is decoded three times; it does
not tell which scene a pixel is of, so no source layer is written. It makes no coarser levels, no ledger, no checksums
of its own.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import odc.stac
import pystac
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec

from benchmarks.peers.plain import UNMAPPED, mask_of, score_of
from benchmarks.peers.work import GDAL, Work
from mapper import models
from mapper.grid import PixelBox

THREADS = 4
"""Where the command line does not say."""

BANDS = ("visual.1", "visual.2", "visual.3")
"""Red, green and blue of one file, as odc-stac names them."""


class Segment:
    """A chunk with its overlap → stored score of the chunk. Threads share one."""

    def __init__(self, work: Work, around: PixelBox, margin_px: int) -> None:
        """Load the model.

        Args:
            work: what to map.
            around: the pixels of the whole array.
            margin_px: that each chunk comes with on all sides.
        """
        self._work, self._around, self._margin_px = work, around, margin_px
        self._net = work.load()
        self._text = self._net.encode_text(work.prompts)
        self._lock = threading.Lock()
        self.window_px, self.windows = self._net.window_px, 0

    @property
    def name(self) -> str:
        """As a ``Segmenter``: this one, behind a lock."""
        return self._net.name

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Any:
        """One batch at a time: there is one device."""
        with self._lock:
            self.windows += len(pixels)
            return self._net.logits(pixels, text)

    def __call__(self, block: NDArray[np.uint8], block_info: Any = None) -> NDArray[np.uint8]:
        """uint8 ``(3, y, x)`` with margin → uint8 ``(prompt, y, x)`` without."""
        _, row, column = block_info[0]["chunk-location"]
        side, margin = self._work.shard_px, self._margin_px
        top, left = self._around.top + row * side, self._around.left + column * side
        core = PixelBox(top, left, top + side, left + side)
        frame = PixelBox(top - margin, left - margin, core.bottom + margin, core.right + margin)
        score, _ = score_of(block, frame, core, self, self._text, self._work)  # type: ignore[arg-type]
        return score


def main() -> None:
    """Map the work."""
    work = Work.asked()
    odc.stac.configure_rio(cloud_defaults=True, **GDAL)
    items = list(pystac.ItemCollection.from_dict(work.items()))
    side = work.shard_px
    # A shard more on each side, so that chunks at the border have neighbours; what nobody needs of it is not computed.
    box = PixelBox(work.box.top - side, work.box.left - side, work.box.bottom + side, work.box.right + side)
    margin_px = models.window_px(work.model)  # what the windows that touch a chunk look at, at most
    segment = Segment(work, box, margin_px=margin_px)
    ready = time.monotonic()
    score = da.map_blocks(  # type: ignore[no-untyped-call]
        segment,
        _overlapping(_pixels(work, items, box), margin_px),
        dtype=np.uint8,
        chunks=((len(work.prompts),), (side,) * (box.height // side), (side,) * (box.width // side)),
        meta=np.empty((0, 0, 0), np.uint8),
        name="score",
    )[:, None, side:-side, side:-side]
    layers = xr.Dataset(
        {
            "mask": (("prompt", "time", "y", "x"), score.map_blocks(mask_of, dtype=np.uint8)),
            "score": (("prompt", "time", "y", "x"), score),
        }
    )
    codec = {
        "chunks": (1, 1, work.chunk_px, work.chunk_px),
        "shards": (1, 1, side, side),
        "compressors": ZstdCodec(level=1, checksum=True),
        "_FillValue": UNMAPPED,
    }
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else THREADS
    with dask.config.set(scheduler="threads", num_workers=threads):
        layers.to_zarr(
            work.mosaic, group="0", zarr_format=3, consolidated=False, encoding={"mask": codec, "score": codec}
        )
    work.hand_in(work_s=time.monotonic() - ready, windows=segment.windows)


def _overlapping(pixels: Any, margin_px: int) -> Any:
    """Each chunk with so many pixels of its neighbours on all sides."""
    depth = {0: 0, 1: margin_px, 2: margin_px}
    return da.overlap.overlap(pixels, depth, boundary=0)  # type: ignore[no-untyped-call]


def _pixels(work: Work, items: list[pystac.Item], box: PixelBox) -> Any:
    """Lazy uint8 ``(3, y, x)`` over a box: the first scene on top, 0 where none."""
    step = work.resolution_m
    place = GeoBox(box.shape, Affine(step, 0, box.left * step, 0, -step, -box.top * step), work.crs)
    loaded = odc.stac.load(
        items,
        bands=BANDS,
        geobox=place,
        chunks={"y": work.shard_px, "x": work.shard_px},
        groupby=lambda item, parsed, number: 0,
        dtype="uint8",
        nodata=0,
    )
    bands = [loaded[band].data for band in BANDS]
    return da.concatenate(bands).rechunk({0: 3})  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
