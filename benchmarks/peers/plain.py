"""The arithmetic of the map in plain numpy, for those who do without resmap: it shares no line with the product.

What it makes must be the product's mosaic to the last bit, so it also checks it: windows lie where they do there, are
blended with the same ramp in the same order, and the stored score is rounded alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.windows import Window
from zarr.codecs import ZstdCodec

from benchmarks.peers.work import GDAL, Scene, Work
from mapper.grid import PixelBox
from mapper.segmenter import Segmenter

UNOBSERVED, UNMAPPED, NO_SOURCE = 254, 255, 0xFFFFFFFF
THRESHOLD = 125
"""Stored score from which a pixel is present: half of 250."""


def make_mosaic(work: Work) -> dict[str, Any]:
    """An empty mosaic as the product lays it out, without its coordinates and coarser levels: name → Zarr array."""
    root = zarr.open_group(work.mosaic, mode="w", zarr_format=3)
    side, chunk = work.shard_px, work.chunk_px
    arrays = {}
    for name, dtype, fill in (
        ("mask", "uint8", UNMAPPED),
        ("score", "uint8", UNMAPPED),
        ("source", "uint32", NO_SOURCE),
    ):
        axes = (1,) if name == "source" else (len(work.prompts), 1)
        ones = (1,) * len(axes)
        arrays[name] = root.create_array(
            f"0/{name}",
            shape=(*axes, work.rows, work.columns),
            chunks=(*ones, chunk, chunk),
            shards=(*ones, side, side),
            dtype=dtype,
            fill_value=fill,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("prompt", "time", "y", "x")[-2 - len(axes) :],
        )
    return arrays


def frame_of(core: PixelBox, window_px: int, overlap_px: int) -> PixelBox:
    """The box around all windows that touch a core."""
    rows = starts(core.top, core.bottom, window_px, overlap_px)
    columns = starts(core.left, core.right, window_px, overlap_px)
    return PixelBox(rows[0], columns[0], rows[-1] + window_px, columns[-1] + window_px)


def starts(begin: int, end: int, window_px: int, overlap_px: int) -> range:
    """Where the windows of one axis begin that share a pixel with begin..end."""
    stride = window_px - overlap_px
    first = -(-(begin - window_px + 1) // stride)  # the least whole k with k·stride + window > begin
    return range(first * stride, end, stride)


def read_frame(scenes: Sequence[Scene], frame: PixelBox) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """What the scenes show of a frame, the first on top: uint8 ``(3, y, x)``, 0 where nothing; scene by pixel."""
    pixels = np.zeros((3, *frame.shape), np.uint8)
    source = np.full(frame.shape, NO_SOURCE, np.uint32)
    with rasterio.Env(**GDAL):
        for number, scene in enumerate(scenes):
            part = scene.box.intersection(frame)
            if part.empty or (source[part.within(frame)] != NO_SOURCE).all():
                continue
            with rasterio.open(scene.href) as file:
                rows, columns = part.within(scene.box)
                seen = file.read(window=Window.from_slices(rows, columns))
            here = part.within(frame)
            fresh = (source[here] == NO_SOURCE) & (seen != 0).any(axis=0)
            np.copyto(pixels[:, *here], seen, where=fresh)
            source[here][fresh] = number
    return pixels, source


def score_of(
    pixels: NDArray[np.uint8], frame: PixelBox, core: PixelBox, net: Segmenter, text: Any, work: Work
) -> tuple[NDArray[np.uint8], int]:
    """Stored score ``(prompt, y, x)`` of a core, and how many windows it took.

    Args:
        pixels: uint8 ``(3, y, x)`` over the frame, which holds all windows that touch the core; 0 where not seen.
        frame: where they lie.
        core: what is asked.
        net: the model.
        text: the sentences as it understands them.
        work: how windows lie.
    """
    side = net.window_px
    corners = list(
        product(
            starts(core.top, core.bottom, side, work.overlap_px), starts(core.left, core.right, side, work.overlap_px)
        )
    )
    windows = [PixelBox(top, left, top + side, left + side) for top, left in corners]
    ramp = _ramp(side, work.overlap_px)
    total = np.zeros((len(work.prompts), *core.shape), np.float32)
    weight = np.zeros(core.shape, np.float32)
    for first in range(0, len(windows), work.batch):
        batch = windows[first : first + work.batch]
        logits = net.logits(np.stack([pixels[:, *window.within(frame)] for window in batch]), text)
        for window, answer in zip(batch, logits, strict=True):
            part = window.intersection(core)
            there, (rows, columns) = part.within(core), part.within(window)
            share = ramp[rows, None] * ramp[None, columns]
            total[:, *there] += share * answer[:, rows, columns]
            weight[there] += share
    total /= weight
    with np.errstate(over="ignore"):  # exp(100) is a score of 0
        score = np.rint(1 / (1 + np.exp(-total)) * 250).astype(np.uint8)
    score[:, ~(pixels[:, *core.within(frame)] != 0).any(axis=0)] = UNOBSERVED
    return score, len(windows)


def mask_of(score: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The stored mask: present from the threshold, gaps as they are."""
    return np.where(score > 250, score, (score >= THRESHOLD).astype(np.uint8))


def _ramp(window_px: int, overlap_px: int) -> NDArray[np.float32]:
    """Weight along an axis of a window: rises over the overlap, flat, falls."""
    edge = np.minimum(np.arange(window_px) + 0.5, window_px - np.arange(window_px) - 0.5)
    return np.asarray(np.minimum(edge / max(1, overlap_px), 1), np.float32)
