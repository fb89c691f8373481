"""Items and a box of lattice pixels → pixels, valid mask and source.

A raster that lies on the lattice is read by windows, untouched. Any other is warped, in lattice cells of
``BLOCK_PX`` and never tile by tile: a warp's arithmetic depends on the extent it is asked for, and a pixel's
value must not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window

from mapper.composite import FirstSeen, Layer, median
from mapper.errors import AssetError, SpecError
from mapper.grid import BLOCK_PX, Lattice, PixelBox
from mapper.imagery import Asset, Band, CloudMask, PlacedItem, Valid, View
from mapper.raster import GDAL_OPTIONS, WARPED_CELLS, OpenFiles, Raster, Raw, read_failure


class Reader(Protocol):
    """Gives the view of a box of lattice pixels."""

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        """What the items, in this order, show of the frame."""


class RasterReader:
    """Reads rasters with GDAL. One may serve many threads; each keeps its own datasets open."""

    def __init__(
        self,
        *,
        bands: int,
        stretch: tuple[float, float] | None = None,
        composite: Literal["first", "median"] = "first",
    ) -> None:
        """A reader of this many bands.

        Args:
            bands: how many each item has.
            stretch: the physical values that become 0 and 255; None leaves uint8 as it is and refuses the rest.
            composite: ``first`` takes the first item that saw a pixel, in the order given.
        """
        self._bands = bands
        self._stretch = stretch
        self._composite = composite
        self._open = OpenFiles()

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        """What the items, in this order, show of the frame.

        Raises:
            AssetError: a file is bad, or not what its catalog says.
            ReadError: a file did not arrive.
            CredentialsError: a store refused us.
        """
        with rasterio.Env(**GDAL_OPTIONS):
            if self._composite == "median":
                return self._median(items, lattice, frame)
            canvas = FirstSeen(frame, bands=self._bands)
            for placed in items:
                box = placed.extent.intersection(frame)
                box = box if box.empty else canvas.unseen(box)
                if not box.empty:
                    canvas.add(box, self._layer(placed, lattice, box))
            return canvas.view()

    def _median(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        layers = []
        for placed in items:
            box = placed.extent.intersection(frame)
            if not box.empty:
                part, here = self._layer(placed, lattice, box), box.within(frame)
                pixels = np.zeros((self._bands, *frame.shape), np.uint8)
                valid = np.zeros(frame.shape, np.bool_)
                pixels[:, *here], valid[here] = part.pixels, part.valid
                layers.append(Layer(pixels=pixels, valid=valid, index=part.index))
        return median(layers, frame, bands=self._bands)

    def _layer(self, placed: PlacedItem, lattice: Lattice, box: PixelBox) -> Layer:
        item = placed.item
        pixels = np.zeros((self._bands, *box.shape), np.uint8)
        valid = np.ones(box.shape, np.bool_)
        for asset, positions in _by_asset(item.bands):
            if not valid.any():
                break
            wanted = [item.bands[position] for position in positions]
            raw, seen = self._asset(asset, wanted, lattice, box, Resampling.bilinear, item.id)
            valid &= seen
            for position, band, values in zip(positions, wanted, raw, strict=True):
                pixels[position] = _to_uint8(values, band, self._stretch, item.id)
        if item.cloud is not None and valid.any():
            valid &= ~self._hidden(item.cloud, lattice, box, item.id)
        pixels[:, ~valid] = 0
        return Layer(pixels=pixels, valid=valid, index=item.index)

    def _hidden(self, cloud: CloudMask, lattice: Lattice, box: PixelBox, item_id: str) -> Valid:
        raw, seen = self._asset(cloud.band.asset, [cloud.band], lattice, box, Resampling.nearest, item_id)
        hidden = np.isin(raw[0], list(cloud.values)) if cloud.values else np.zeros(box.shape, np.bool_)
        if cloud.bits:
            hidden |= (raw[0].astype(np.int64) & cloud.bits) != 0
        return hidden & seen

    def _asset(
        self,
        asset: Asset,
        bands: Sequence[Band],
        lattice: Lattice,
        box: PixelBox,
        resampling: Resampling,
        item_id: str,
    ) -> tuple[Raw, Valid]:
        """Stored values ``(band, y, x)`` of the box, and where they are real."""
        try:
            raster = self._open.get(asset)
            for band in bands:
                if not 1 <= band.index <= raster.count:
                    raise AssetError(
                        f"band {band.index} was asked of a file that has {raster.count}",
                        fix="correct imagery.bands in the job file",
                    )
            offset = raster.offset_on(lattice)
            if offset is not None:
                return _read_aligned(raster, bands, offset, box)
            return _read_warped(raster, bands, lattice, box, resampling)
        except AssetError as error:
            error.where |= {"item": item_id, "asset": asset.href}
            raise
        except rasterio.errors.RasterioError as error:
            self._open.forget(asset)
            raise read_failure(error, asset, item_id) from error
        except (rasterio.errors.CRSError, ValueError) as error:
            raise AssetError(f"the file cannot be placed: {error}", item=item_id, asset=asset.href) from error


def _by_asset(bands: Sequence[Band]) -> list[tuple[Asset, list[int]]]:
    """Positions of the bands, gathered by the file they are in: one read a file."""
    groups: dict[str, tuple[Asset, list[int]]] = {}
    for position, band in enumerate(bands):
        groups.setdefault(band.asset.href, (band.asset, []))[1].append(position)
    return list(groups.values())


def _read_aligned(raster: Raster, bands: Sequence[Band], offset: tuple[int, int], box: PixelBox) -> tuple[Raw, Valid]:
    """The box of a raster whose upper left pixel is lattice pixel ``offset``; unseen where it has none."""
    rows, columns = raster.shape
    inside = box.intersection(PixelBox(offset[0], offset[1], offset[0] + rows, offset[1] + columns))
    raw = np.zeros((len(bands), *box.shape), raster.dataset.dtypes[bands[0].index - 1])
    valid = np.zeros(box.shape, np.bool_)
    if not inside.empty:
        window = Window(inside.left - offset[1], inside.top - offset[0], inside.width, inside.height)
        there = inside.within(box)
        raw[:, *there], valid[there] = raster.read(bands, window)
    return raw, valid


def _read_warped(
    raster: Raster, bands: Sequence[Band], lattice: Lattice, box: PixelBox, resampling: Resampling
) -> tuple[Raw, Valid]:
    """The box, warped cell by cell."""
    raw = np.zeros((len(bands), *box.shape), raster.dataset.dtypes[bands[0].index - 1])
    valid = np.zeros(box.shape, np.bool_)
    for cell in box.cells(BLOCK_PX):
        part = cell.intersection(box)
        key = (lattice, cell, tuple((band.index, band.nodata) for band in bands), resampling)
        if key not in raster.warped:
            raster.warped[key] = _warp_cell(raster, bands, lattice, cell, resampling)
            if len(raster.warped) > WARPED_CELLS:
                raster.warped.popitem(last=False)
        warped = raster.warped[key]
        if warped is not None:
            there, here = part.within(box), part.within(cell)
            raw[:, *there], valid[there] = warped[0][:, *here], warped[1][here]
    return raw, valid


def _warp_cell(
    raster: Raster, bands: Sequence[Band], lattice: Lattice, cell: PixelBox, resampling: Resampling
) -> tuple[Raw, Valid] | None:
    """One lattice cell of a raster in another place, or None where they do not meet.

    Imagery finer than the lattice is averaged down by a power of two first (overviews serve that), so that a
    coarse map of fine imagery is not a sample of single pixels.
    """
    bounds = transform_bounds(lattice.crs, raster.crs, *lattice.bounds(cell), densify_pts=21)
    to_pixel = ~raster.transform
    corners = [to_pixel @ (x, y) for x in bounds[::2] for y in bounds[1::2]]
    columns, rows = [c for c, _ in corners], [r for _, r in corners]
    finer = min(max(columns) - min(columns), max(rows) - min(rows)) / BLOCK_PX
    step = 1 if resampling == Resampling.nearest else 2 ** max(0, math.floor(math.log2(max(finer, 1.0)) + 1e-9))
    margin = 2 * step  # a bilinear kernel reaches one pixel further on each side
    source = PixelBox(
        math.floor(min(rows)) - margin, math.floor(min(columns)) - margin,
        math.ceil(max(rows)) + margin, math.ceil(max(columns)) + margin,
    ).snapped(step).intersection(PixelBox(0, 0, *raster.shape))  # fmt: skip
    if source.empty:
        return None
    out_shape = (math.ceil(source.height / step), math.ceil(source.width / step))
    window = Window(source.left, source.top, source.width, source.height)
    raw, seen = raster.read(bands, window, None if step == 1 else out_shape)
    scale = Affine.scale(source.width / out_shape[1], source.height / out_shape[0])
    # The valid mask travels as an alpha band: the warper weighs pixels by it, so no nodata bleeds into the edge.
    work = raw.dtype if raw.dtype in (np.uint8, np.uint16, np.int16, np.float32) else np.dtype(np.float32)
    top = 1 if work == np.float32 else np.iinfo(work.name).max
    stack = np.concatenate([raw.astype(work), np.where(seen, top, 0).astype(work)[None]])
    warped = np.zeros((len(stack), *cell.shape), work)
    reproject(
        stack,
        warped,
        src_transform=raster.transform @ Affine.translation(source.left, source.top) @ scale,
        src_crs=raster.crs,
        dst_transform=lattice.transform(cell),
        dst_crs=lattice.crs,
        resampling=resampling,
        src_alpha=len(stack),
        dst_alpha=len(stack),
        tolerance=0.0,  # exact: the approximation's error would depend on the cell
        num_threads=1,
    )
    return warped[:-1].astype(raw.dtype), warped[-1] > top / 2


def _to_uint8(values: Raw, band: Band, stretch: tuple[float, float] | None, item_id: str) -> NDArray[np.uint8]:
    if stretch is None:
        if values.dtype != np.uint8:
            raise SpecError(
                f"band {band.name or band.index} holds {values.dtype}, and the model wants 0 to 255",
                fix="say which range to map there, as in imagery.scale: {from: [0, 3000]}",
                item=item_id,
            )
        return values
    low, high = stretch
    gain = 255 * band.scale / (high - low)
    shift = 255 * (band.offset - low) / (high - low)
    scaled = values.astype(np.float32) * np.float32(gain) + np.float32(shift)
    return np.asarray(np.rint(np.clip(np.nan_to_num(scaled), 0, 255)), np.uint8)
