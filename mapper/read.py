"""Items and a box of lattice pixels → pixels, valid mask and source.

A raster that lies on the lattice is read by windows, untouched. Any other is warped, in lattice cells of
``BLOCK_PX`` and never tile by tile: a warp's arithmetic depends on the extent it is asked for, and a pixel's
value must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from rasterio.enums import Resampling

from mapper.composite import FirstSeen, Layer, median
from mapper.develop import Hidden, Stretched
from mapper.errors import AssetError, SpecError
from mapper.grid import Lattice, PixelBox
from mapper.imagery import Asset, Item, PlacedItem, Valid, View
from mapper.loading import CACHE_BYTES, Loader, Parts, reading_threads
from mapper.raster import UNREADABLE, Raw, read_failure


class Reader(Protocol):
    """Gives the view of a box of lattice pixels."""

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        """What the items, in this order, show of the frame."""


class RasterReader:
    """Reads rasters with GDAL. One may serve many threads: they share its open files and what it has decoded."""

    def __init__(
        self,
        *,
        bands: int,
        stretch: tuple[float, float] | None = None,
        composite: Literal["first", "median"] = "first",
        threads: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """A reader of this many bands.

        Args:
            bands: how many each item has.
            stretch: the physical values that become 0 and 255; None leaves uint8 as it is and refuses the rest.
            composite: ``first`` takes the first item that saw a pixel, in the order given.
            threads: how many threads fetch and decode, whoever asks; None takes what suits the machine.
            cache_bytes: decoded pixels kept for whoever asks next. No pixel depends on it.
        """
        self._bands = bands
        self._stretch = stretch
        self._composite = composite
        self._loader = Loader(threads=threads or reading_threads(), cache_bytes=cache_bytes)

    @property
    def cached_bytes(self) -> int:
        """What the decoded pixels kept take."""
        return self._loader.kept_bytes

    def read(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        """What the items, in this order, show of the frame.

        Raises:
            AssetError: a file is bad, or not what its catalog says.
            ReadError: a file did not arrive.
            CredentialsError: a store refused us.
        """
        if self._composite == "median":
            return self._median(items, lattice, frame)
        canvas = FirstSeen(frame, bands=self._bands)
        for placed in items:
            box = placed.extent.intersection(frame)
            box = box if box.empty else canvas.unseen(box)
            if not box.empty:
                canvas.add(box, self._layer(self._begun(placed.item, lattice, box)))
        return canvas.view()

    def _median(self, items: Sequence[PlacedItem], lattice: Lattice, frame: PixelBox) -> View:
        boxes = [(placed.item, placed.extent.intersection(frame)) for placed in items]
        scenes = (self._begun(item, lattice, box) for item, box in boxes if not box.empty)
        layers: list[Layer] = []
        coming = next(scenes, None)
        while coming is not None:
            scene, coming = coming, next(scenes, None)  # the next one is on its way while this one is laid
            layers.append(_over(self._layer(scene), scene.box, frame))
        return median(layers, frame, bands=self._bands)

    def _begun(self, item: Item, lattice: Lattice, box: PixelBox) -> _Scene:
        """All files of an item over a box, on their way at once."""

        groups: dict[str, list[int]] = {}
        for position, band in enumerate(item.bands):
            groups.setdefault(band.asset.href, []).append(position)
        looks = []
        for positions in groups.values():
            bands = tuple(item.bands[position] for position in positions)
            develop = Stretched.of(bands, self._stretch)
            parts = self._loader.look(bands, lattice, box, Resampling.bilinear, develop)
            looks.append(_Look(asset=bands[0].asset, positions=positions, parts=parts))
        cloud = None
        if item.cloud is not None:
            band = item.cloud.band
            parts = self._loader.look([band], lattice, box, Resampling.nearest, Hidden.of(item.cloud))
            cloud = _Look(asset=band.asset, positions=(), parts=parts)
        return _Scene(item=item, box=box, looks=looks, cloud=cloud)

    def _layer(self, scene: _Scene) -> Layer:
        """The pixels of one item, 0 wherever they are not valid."""
        item, box = scene.item, scene.box
        pixels = np.zeros((self._bands, *box.shape), np.uint8)
        valid: Valid | None = None
        for look in scene.looks:
            seen = np.zeros(box.shape, np.bool_)
            for here, part, real in look.come(box, item.id):
                for position, values in zip(look.positions, part, strict=True):
                    pixels[position][here] = values
                seen[here] = real
            valid = seen if valid is None else valid & seen
            if not valid.any():
                break
        assert valid is not None, "an item has bands"
        if scene.cloud is not None and valid.any():
            for here, hidden, _ in scene.cloud.come(box, item.id):
                valid[here] &= ~hidden[0]
        if not valid.all():
            pixels *= valid
        return Layer(pixels=pixels, valid=valid, index=item.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One file of an item, on its way."""

    asset: Asset
    positions: Sequence[int]
    """Of its bands among the item's."""

    parts: Future[Parts]

    def come(self, box: PixelBox, item_id: str) -> Iterator[tuple[tuple[slice, slice], Raw, Valid | np.bool_]]:
        """Rows and columns of the box, what was made of the file there, and where that is real. Where nothing comes,
        nothing is."""
        try:
            for where, future in self.parts.result():
                cell = future.result()
                if cell is not None:
                    common = where.intersection(box)
                    here, (kept, seen) = common.within(where), cell
                    yield common.within(box), kept[:, *here], np.True_ if seen is None else seen[here]
        # Others may wait for the same file: each is told anew, with its own item.
        except AssetError as error:
            raise AssetError(error.what, fix=error.fix, item=item_id, asset=self.asset.href) from error
        except SpecError as error:
            raise SpecError(error.what, fix=error.fix, item=item_id) from error
        except UNREADABLE as error:
            raise read_failure(error, self.asset, item_id) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """All files of an item over a box of lattice pixels, on their way."""

    item: Item
    box: PixelBox
    looks: Sequence[_Look]
    cloud: _Look | None


def _over(layer: Layer, box: PixelBox, frame: PixelBox) -> Layer:
    """A layer over a box as one over a frame around it."""
    if box == frame:
        return layer
    pixels = np.zeros((len(layer.pixels), *frame.shape), np.uint8)
    valid = np.zeros(frame.shape, np.bool_)
    here = box.within(frame)
    pixels[:, *here], valid[here] = layer.pixels, layer.valid
    return Layer(pixels=pixels, valid=valid, index=layer.index)
