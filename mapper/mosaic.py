"""The output: a Zarr v3 tree that says what every value means and where it lies, in either engine.

    <mosaic>/              conventions, CF, and what made it
      0/ or utm33n/0/      mask, score (prompt, time, y, x) · source (time, y, x) · prompt, time, y, x, spatial_ref
      1/ 2/ …              the same in pixels twice as wide each time, see mapper/pyramid.py

All metadata is written first; then any worker writes any shard, in any order. A shard is encoded once and put
once, by one writer: two processes inside one shard lose each other's chunks without an error.

Where the engine is icechunk, what a worker has written is in the mosaic once the coordinator has committed its
receipt, see mapper/engines.py:

    written = mosaic.write(grid, tile, time, layers)       # in any process, in any thread
    mosaic.commit([written.receipt, …], "64 shards", {"run": run})
    mosaic.tag(f"run-{run}")                               # later: Mosaic.open(url, at=run)
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync

from mapper.engines import Engine, Snapshot, Tree, find_engine, make_engine, open_engine
from mapper.errors import MosaicError, VerifyError
from mapper.grid import Grid, PixelBox, Tile
from mapper.imagery import Source
from mapper.layout import (
    LAYERS,
    LAYOUT,
    MosaicSpec,
    Reduction,
    consolidate,
    create_tree,
    grid_from,
    grow_level,
    root_attributes,
)
from mapper.masks import Stored
from mapper.prompts import Prompt
from mapper.shards import Shard, is_ours
from mapper.storage import EngineName, store_failure


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of one call of ``write``."""

    nbytes: int
    """Handed to the encoder."""

    receipt: bytes | None
    """For ``commit``, some kilobytes; None where nothing need be committed."""


class Mosaic:
    """A mosaic open for writing whole tiles and reading them back. Threads may share one.

    One that is open for writing reads what was committed before each call. One that is open for reading stays, in
    icechunk, at what was there when it was opened: whatever it is asked, the answers are of one state.
    """

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self._engine = engine
        self._facts = _facts(url, engine)

    @classmethod
    def create(cls, url: str, spec: MosaicSpec, *, engine: EngineName = "zarr") -> Mosaic:
        """Write all metadata of a mosaic that does not exist yet.

        The root's attributes are written last, or all is one commit: what lacks them is half made and made again.

        Raises:
            MosaicError: something else is there, or nothing can be made there.
            CredentialsError, StoreError: as ``store_failure`` says.
        """
        made = make_engine(url, engine)

        def fill(root: zarr.Group) -> None:
            for grid in spec.grids:
                create_tree(root, grid, spec)
            root.attrs.put(root_attributes(spec))
            consolidate(root, spec.grids)

        try:
            made.change(fill, "an empty mosaic")
        except Exception as error:
            raise store_failure(error, url, "made") from error
        return cls(url, made)

    @classmethod
    def open(cls, url: str, *, writable: bool = True, at: str | None = None) -> Mosaic:
        """A mosaic that exists; which engine it has is seen.

        Args:
            url: its path or URL.
            writable: whether it will be written to.
            at: how it was under a tag, at the end of a run, or in a snapshot: icechunk alone, and for reading only.

        Raises:
            MosaicError: there is none, it is half made, of a later layout, or something else.
            QuestionError: it has no such version.
            CredentialsError, StoreError: as ``store_failure`` says.
        """
        return cls(url, open_engine(url, writable=writable and at is None, at=at))

    @classmethod
    def exists(cls, url: str) -> bool:
        """Whether a whole mosaic is there.

        Raises:
            MosaicError: something else is.
        """
        engine = find_engine(url, writable=False)
        if engine is None or engine.half_made():
            return False
        _facts(url, engine)
        return True

    @property
    def engine(self) -> EngineName:
        """What keeps its arrays."""
        return self._engine.name

    @property
    def snapshot(self) -> str | None:
        """Id of the snapshot that it reads: ``open(url, at=…)`` shows the same in another process. None under zarr."""
        return self._now().snapshot

    @property
    def store(self) -> Store:
        """What xarray and Zarr read it through, in the state that it reads itself."""
        return self._now().root.store

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

    def write(self, grid: Grid, tile: Tile, time: int, layers: TileLayers) -> Written:
        """Write one tile of any level: each shard put once, whole. Writing it again leaves the same bytes."""
        place = (time, tile.row, tile.column)
        shards = [
            Shard(layer=f"{grid.path}/{name}", place=(prompt, *place), pixels=layer)
            for name, stack in (("mask", layers.mask), ("score", layers.score))
            for prompt, layer in zip(layers.prompts, stack, strict=True)
        ]
        if layers.source is not None:
            shards.append(Shard(layer=f"{grid.path}/source", place=place, pixels=layers.source))
        try:
            receipt = self._engine.put(shards)
        except Exception as error:
            raise store_failure(error, self.url, "written", tile=tile.name) from error
        put = layers.mask.nbytes + layers.score.nbytes + (0 if layers.source is None else layers.source.nbytes)
        return Written(nbytes=put, receipt=receipt)

    def commit(self, receipts: Sequence[bytes], message: str, metadata: Mapping[str, Any]) -> str | None:
        """Make what workers have written part of the mosaic, all or nothing: one process commits.

        What is called again with the same receipts, after an error, leaves the same mosaic.

        Args:
            receipts: of calls of ``write``, by any process.
            message: for people who read the history.
            metadata: for programs: JSON.

        Returns:
            The id of the new snapshot; None where there was nothing to commit, as always under zarr.

        Raises:
            BusyError: another process has written the same part of the mosaic since this one was opened or last
                committed, or has grown it. Nothing is committed.
            StoreError, CredentialsError: as ``store_failure`` says.
        """
        try:
            return self._engine.commit(receipts, message, metadata)
        except Exception as error:
            raise store_failure(error, self.url, "committed") from error

    def tag(self, name: str) -> str | None:
        """Give what is there now a name for ever, as ``run-<id>`` at the end of a run.

        Returns:
            The name: with a number added (``run-7.2``) where it stands for something older, and asking for ``run-7``
            then gives the latest. None under zarr, which keeps no history.
        """
        try:
            return self._engine.tag(name)
        except Exception as error:
            raise store_failure(error, self.url, "tagged") from error

    def snapshots(self) -> list[Snapshot]:
        """Every state that ``open(url, at=…)`` can show, the latest first; none under zarr."""
        try:
            return self._engine.snapshots()
        except Exception as error:
            raise store_failure(error, self.url, "read") from error

    def read(self, grid: Grid, tile: Tile, time: int, prompt: int) -> tuple[Stored, Stored, Source]:
        """Mask and score ``(y, x)`` of one tile and prompt, and the source, as stored.

        Raises:
            VerifyError, StoreError: as ``layer``.
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
            VerifyError: a shard is truncated or fails its checksum. Under zarr one that is missing reads as unmapped,
                and so may one that is empty: shards that are gaps all over are never stored, so only the ledger's
                checksums tell. Under icechunk one that is missing is an error.
            StoreError: the store does not answer.
        """
        inside = box.intersection(grid.box)
        axes = (time,) if name == "source" else (prompt, time)
        try:
            tree, layer = self._engine.reading(), f"{grid.path}/{name}"
            array = tree.array(layer)
            out = np.full(box.shape, array.fill_value, array.dtype)
            tiles = list(grid.tiles_in(inside))
            if is_ours(array) and all(inside.contains(tile.core) for tile in tiles):
                tree.get([
                    Shard(layer=layer, place=(*axes, tile.row, tile.column), pixels=out[tile.core.within(box)])
                    for tile in tiles
                ])  # fmt: skip
            else:  # a window into shards: only the chunks that it touches
                out[inside.within(box)] = array[*axes, *inside.within(grid.box)]
        except Exception as error:
            where = {"layer": f"{grid.path}/{name}", "tile": " ".join(tile.name for tile in grid.tiles_in(inside))}
            if isinstance(error, ValueError | RuntimeError):  # as all codecs say it; it is no better at the next try
                raise VerifyError(
                    f"what is stored there is damaged: {error}",
                    fix="`resmap verify --full` tells what else is, and `resmap run JOB --repair` maps it again",
                    mosaic=self.url,
                    **where,
                ) from error
            raise store_failure(error, self.url, "read", **where) from error
        return out

    def is_stored(self, grid: Grid, tile: Tile, *, time: int, prompt: int) -> bool:
        """Whether there is a mask of one shard of any level: it was written, and is not a gap all over."""
        try:
            mask = self._engine.reading().array(f"{grid.path}/mask")
            chunk = mask.metadata.encode_chunk_key((prompt, time, tile.row, tile.column))
            return sync((mask.store_path / chunk).exists())
        except Exception as error:
            raise store_failure(error, self.url, "read", layer=f"{grid.path}/mask", tile=tile.name) from error

    def stored(self, grid: Grid, *, time: int, prompt: int) -> set[tuple[int, int]]:
        """Rows and columns of all shards of which ``is_stored`` would be true, by listing.

        Raises:
            StoreError, CredentialsError: as ``store_failure`` says.
        """
        try:
            return self._engine.reading().stored(f"{grid.path}/mask", (prompt, time))
        except Exception as error:
            raise store_failure(error, self.url, "read", layer=f"{grid.path}/mask") from error

    def _now(self) -> Tree:
        try:
            return self._engine.reading()
        except Exception as error:
            raise store_failure(error, self.url, "read") from error

    def _grow(self, *, prompts: tuple[Prompt, ...], times: tuple[datetime, ...]) -> None:
        spec = MosaicSpec(grids=self.grids, prompts=prompts, times=times, made_by=self.made_by, pyramid=self.pyramid)
        added = [prompt.name for prompt in prompts[len(self.prompts) :]]
        added += [time.isoformat() for time in times[len(self.times) :]]
        try:
            self._engine.change(lambda root: _grow_trees(root, spec), f"room for {', '.join(added)}")
        except Exception as error:
            raise store_failure(error, self.url, "grown") from error
        self._facts = _facts(self.url, self._engine)


def _facts(url: str, engine: Engine) -> dict[str, Any]:
    """What the root says of a mosaic.

    Raises:
        MosaicError: it is half made, of another layout, or no mosaic.
    """
    if engine.half_made():
        raise MosaicError("this mosaic is half made: whoever made it was stopped", fix="run its job again", mosaic=url)
    facts = engine.reading().root.attrs.get("resmap")
    if not isinstance(facts, dict) or "layout" not in facts:
        raise MosaicError("this Zarr group is not a resmap mosaic", fix="choose another output.mosaic", mosaic=url)
    if int(facts["layout"]) != LAYOUT:
        later = int(facts["layout"]) > LAYOUT
        raise MosaicError(
            f"this mosaic has layout {facts['layout']}, and this resmap knows {LAYOUT}",
            fix="upgrade resmap" if later else "map it anew; layout 1 was never released",
            mosaic=url,
        )
    return facts


def _grow_trees(root: zarr.Group, spec: MosaicSpec) -> None:
    for level in (level for grid in spec.grids for level in grid.pyramid()):
        grow_level(root, level, spec, LAYERS)
    root.attrs.put(root_attributes(spec))
    consolidate(root, spec.grids)


def checksum(mask: Stored, score: Stored) -> int:
    """CRC-32 of one tile and prompt as stored, for the ledger: what was meant to be written."""
    return zlib.crc32(np.ascontiguousarray(score).data, zlib.crc32(np.ascontiguousarray(mask).data))


def source_checksum(source: Source) -> int:
    """CRC-32 of one tile's source layer as stored."""
    return zlib.crc32(np.ascontiguousarray(source, "<u4").data)
