"""The output: a Zarr v3 tree that says what every value means and where it lies.

    <mosaic>/              conventions, CF, and what made it
      0/ or utm33n/0/      mask, score (prompt, time, y, x) · source (time, y, x) · prompt, time, y, x, spatial_ref
      1/ 2/ …              the same in pixels twice as wide each time, see mapper/pyramid.py

All metadata is written first; then any worker writes any shard, in any order. A shard is encoded once and put
once, by one writer: two processes inside one shard lose each other's chunks without an error.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import GroupNotFoundError

from mapper.errors import MosaicError
from mapper.grid import Grid, PixelBox, Tile
from mapper.imagery import Source
from mapper.layout import (
    LAYOUT,
    MosaicSpec,
    Reduction,
    axis_values,
    consolidate,
    create_tree,
    grid_from,
    root_attributes,
)
from mapper.masks import Stored
from mapper.prompts import Prompt
from mapper.storage import open_store, store_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayers:
    """All that one tile writes."""

    mask: Stored
    """uint8 ``(prompt, y, x)`` over the core, prompts as in ``prompts``."""

    score: Stored
    source: Source | None
    """None where an earlier run wrote the same."""

    prompts: tuple[int, ...]
    """Positions along the mosaic's prompt axis."""


class Mosaic:
    """A mosaic open for writing whole tiles and reading them back. Threads may share one."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        self.url = url
        self._root = root
        self._arrays: dict[str, zarr.Array[Any]] = {}
        facts = root.attrs.get("resmap")
        if not isinstance(facts, dict) or "layout" not in facts:
            raise MosaicError("this Zarr group is not a resmap mosaic", fix="choose another output.mosaic", mosaic=url)
        if int(facts["layout"]) != LAYOUT:
            later = int(facts["layout"]) > LAYOUT
            raise MosaicError(
                f"this mosaic has layout {facts['layout']}, and this resmap knows {LAYOUT}",
                fix="upgrade resmap" if later else "map it anew; layout 1 was never released",
                mosaic=url,
            )
        self._facts: dict[str, Any] = facts

    @classmethod
    def create(cls, url: str, spec: MosaicSpec) -> Mosaic:
        """Write all metadata of a mosaic that does not exist yet.

        The root's attributes are written last: a folder without them is half made and is made again.
        """
        try:
            store = open_store(url, mode="w")
            if _half_made(url):
                root = zarr.open_group(store, mode="r+", use_consolidated=False)
            else:
                root = zarr.create_group(store, zarr_format=3, overwrite=False)
        except Exception as error:
            raise store_failure(error, url, "made") from error
        try:
            for grid in spec.grids:
                create_tree(root, grid, spec)
            root.attrs.put(root_attributes(spec))
            consolidate(root, spec.grids)
        except Exception as error:
            raise store_failure(error, url, "made") from error
        return cls.open(url)

    @classmethod
    def open(cls, url: str, *, writable: bool = True) -> Mosaic:
        """A mosaic that exists.

        Raises:
            MosaicError: there is none, it is half made, of a later layout, or something else.
        """
        try:
            root = zarr.open_group(open_store(url, mode="r+" if writable else "r"), mode="r+" if writable else "r")
        except (GroupNotFoundError, FileNotFoundError) as error:
            raise MosaicError(
                "there is no mosaic here", fix="check the path, or run a job that writes it", mosaic=url
            ) from error
        except Exception as error:
            raise store_failure(error, url, "opened") from error
        return cls(url, root)

    @classmethod
    def exists(cls, url: str) -> bool:
        """Whether a whole mosaic is there."""
        try:
            cls.open(url, writable=False)
        except MosaicError as error:
            if "not a resmap mosaic" in error.what and _half_made(url):
                return False
            if "no mosaic here" in error.what:
                return False
            raise
        return True

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts along its axis."""
        return tuple(Prompt(**fields) for fields in self._facts["prompts"])

    @property
    def times(self) -> tuple[datetime, ...]:
        """The beginnings of its time steps."""
        return tuple(datetime.fromisoformat(time) for time in self._facts["times"])

    @property
    def made_by(self) -> dict[str, Any]:
        """As in ``MosaicSpec``."""
        return dict(self._facts["made_by"])

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Its grids, in order."""
        return tuple(grid_from(fields) for fields in self._facts["grids"])

    @property
    def pyramid(self) -> Reduction:
        """How four pixels of a mask become one on the next coarser level."""
        reduction: Reduction = self._facts["pyramid"]
        return reduction

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Make room for more prompts at the end of the axis. Nothing written is touched."""
        self._grow(prompts=(*self.prompts, *prompts), times=self.times)

    def add_times(self, times: Sequence[datetime]) -> None:
        """Make room for more time steps at the end of the axis. Nothing written is touched."""
        self._grow(prompts=self.prompts, times=(*self.times, *times))

    def write(self, grid: Grid, tile: Tile, time: int, layers: TileLayers) -> int:
        """Write one tile of any level: each shard put once, whole. Writing it again leaves the same bytes.

        Returns:
            Bytes handed to the encoder.
        """
        rows, columns = tile.core.within(grid.box)
        try:
            for position, prompt in enumerate(layers.prompts):
                self._array(grid, "mask")[prompt, time, rows, columns] = layers.mask[position]
                self._array(grid, "score")[prompt, time, rows, columns] = layers.score[position]
            if layers.source is not None:
                self._array(grid, "source")[time, rows, columns] = layers.source
        except Exception as error:
            raise store_failure(error, self.url, "written", tile=tile.name) from error
        return layers.mask.nbytes + layers.score.nbytes + (0 if layers.source is None else layers.source.nbytes)

    def read(self, grid: Grid, tile: Tile, time: int, prompt: int) -> tuple[Stored, Stored, Source]:
        """Mask and score ``(y, x)`` of one tile and prompt, and the source, as stored.

        Raises:
            StoreError: as ``layer``.
        """
        mask = self.layer(grid, "mask", tile.core, time=time, prompt=prompt)
        score = self.layer(grid, "score", tile.core, time=time, prompt=prompt)
        return mask, score, self.layer(grid, "source", tile.core, time=time)

    def layer(
        self, grid: Grid, name: Literal["mask", "score", "source"], box: PixelBox, *, time: int, prompt: int = 0
    ) -> NDArray[Any]:
        """One layer over a box, as stored.

        Args:
            grid: one of ``grids``, or a coarser level of its ``pyramid()``.
            name: of the layer; uint8 ``mask`` and ``score``, or uint32 ``source``, which knows no prompts.
            box: pixels of the grid's lattice; what lies outside the grid comes back as the fill value.
            time: position on the time axis.
            prompt: position on the prompt axis.

        Returns:
            ``(y, x)``.

        Raises:
            StoreError: a shard is truncated or fails its checksum. One that is missing or empty reads as unmapped:
                shards that are gaps all over are never stored, so only the ledger's checksums tell.
        """
        array = self._array(grid, name)
        out = np.full(box.shape, array.fill_value, array.dtype)
        inside = box.intersection(grid.box)
        if inside.empty:
            return out
        axes = (time,) if name == "source" else (prompt, time)
        try:
            out[inside.within(box)] = array[*axes, *inside.within(grid.box)]
        except Exception as error:
            touched = " ".join(tile.name for tile in grid.tiles_in(inside))
            raise store_failure(error, self.url, "read", layer=f"{grid.path}/{name}", tile=touched) from error
        return out

    def _array(self, grid: Grid, name: str) -> zarr.Array[Any]:
        path = f"{grid.path}/{name}"
        if path not in self._arrays:
            array = self._root[path]
            assert isinstance(array, zarr.Array)
            self._arrays[path] = array
        return self._arrays[path]

    def _grow(self, *, prompts: tuple[Prompt, ...], times: tuple[datetime, ...]) -> None:
        spec = MosaicSpec(grids=self.grids, prompts=prompts, times=times, made_by=self.made_by, pyramid=self.pyramid)
        self._arrays.clear()
        root = zarr.open_group(self._root.store, mode="r+", use_consolidated=False)
        for level in (level for grid in spec.grids for level in grid.pyramid()):
            group = root[level.path]
            assert isinstance(group, zarr.Group)
            for name in ("mask", "score"):
                _array_of(group, name).resize((len(prompts), len(times), *level.shape))
            _array_of(group, "source").resize((len(times), *level.shape))
            for name, values in axis_values(spec).items():
                axis = _array_of(group, name)  # asked for again it would have the size in the consolidated metadata
                axis.resize(values.shape)
                axis[:] = values
        root.attrs.put(root_attributes(spec))
        consolidate(root, spec.grids)
        self.__init__(self.url, zarr.open_group(self._root.store, mode="r+"))  # type: ignore[misc]  # opened anew


def checksum(mask: Stored, score: Stored) -> int:
    """CRC-32 of one tile and prompt as stored, for the ledger: what was meant to be written."""
    return zlib.crc32(np.ascontiguousarray(score).data, zlib.crc32(np.ascontiguousarray(mask).data))


def source_checksum(source: Source) -> int:
    """CRC-32 of one tile's source layer as stored."""
    return zlib.crc32(np.ascontiguousarray(source, "<u4").data)


def _array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _half_made(url: str) -> bool:
    """Whether the group there is what a killed ``create`` leaves: no attributes, and in it only trees of a mosaic."""
    try:
        root = zarr.open_group(open_store(url, mode="r"), mode="r")
        members = [member for _, member in root.members()]
    except Exception:  # whatever it is, it is not ours to remake
        return False
    return not dict(root.attrs) and all("spatial:registration" in member.attrs for member in members)
