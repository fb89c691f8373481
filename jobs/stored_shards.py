"""Shards read back one by one: their pixels held against a checksum, and their bytes against what those pixels are
stored as.

The pixels alone do not tell all. One flipped bit in a hundred leaves them as they were: zstd ignores some bits, and a
match may be copied from another place that holds the same. So each shard is encoded again, which takes as long as it
took once, and has to come out as it lies there. Another edition of zstd would write other bytes for the same pixels:
where that is so of most shards, bytes tell nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import OffsetByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync

from mapper.errors import MosaicError
from mapper.grid import Grid, Tile
from mapper.mosaic import Mosaic
from mapper.shards import Shard, ShardCodec
from mapper.storage import is_local, store_failure

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MEMORY_BYTES = 1 << 29
"""For the pixels of all tiles that are in hand at once."""

REQUESTS = 16
"""Tiles in hand at once where a store answers after some 30 ms."""

ODD_AT_MOST = 4096
"""Shards that are remembered because their bytes are odd, before it is asked whether all are."""

_DAMAGE = ("not found", "nosuchkey", "no such file", "checksum", "corrupt", "deserial", "decod", "invalid", "too short")
"""What icechunk says of a repository that is damaged, and not only out of reach."""


class DamagedError(Exception):
    """A shard that is not what was written: why."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One shard as it is stored."""

    array: NDArray[Any]
    stored: bool
    odd: bool
    """Whether other bytes lie there than these pixels are stored as here."""


class StoredShards:
    """The shards of a mosaic, to be read back. Threads may share it."""

    def __init__(self, mosaic: Mosaic) -> None:
        self._url, self._local = mosaic.url, is_local(mosaic.url)
        self._engine = mosaic.engine
        self._root = zarr.open_group(mosaic.store, mode="r", zarr_format=3, use_consolidated=False)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._lock = threading.Lock()

    def read(self, grid: Grid, layer: str, tile: Tile, place: tuple[int, ...]) -> Pixels:
        """One shard.

        Args:
            grid: of any level.
            layer: ``mask``, ``score`` or ``source``.
            tile: where it lies.
            place: its position along prompt and time, or time alone.

        Raises:
            DamagedError: it cannot be decoded.
            StoreError, CredentialsError: the store is away.
        """
        array = self._array(f"{grid.path}/{layer}")
        pixels = np.empty(tile.core.shape, array.dtype)
        shard = Shard(layer=layer, place=(*place, tile.row, tile.column), pixels=pixels)
        try:
            codec = ShardCodec(array)
        except MosaicError as error:
            raise DamagedError(f"{layer}: {error.what}") from error
        content = self._content(array, shard)
        try:
            codec.decode(content, shard)
        except Exception as error:  # of zstd, of numpy, and our own: whatever a damaged shard leads to
            raise DamagedError(f"{layer} cannot be decoded: {_gist(error)}") from error
        return Pixels(pixels, content is not None, codec.encode(shard) != content)

    def _content(self, array: zarr.Array[Any], shard: Shard) -> bytes | None:
        metadata = array.metadata
        assert isinstance(metadata, ArrayV3Metadata)
        path = array.store_path / metadata.encode_chunk_key(shard.place)
        try:
            content = sync(path.get(default_buffer_prototype(), OffsetByteRequest(0)))
        except Exception as error:
            if self._is_damage(error):
                raise DamagedError(f"{shard.layer} cannot be read: {_gist(error)}") from error
            raise store_failure(error, self._url, "read", layer=array.path) from error
        return None if content is None else content.to_bytes()

    def _is_damage(self, error: Exception) -> bool:
        """Whether it is the shard, and not the way to it."""
        if self._engine == "icechunk":
            return any(word in str(error).lower() for word in _DAMAGE)
        return self._local and isinstance(error, OSError) and not isinstance(error, PermissionError)

    def _array(self, path: str) -> zarr.Array[Any]:
        with self._lock:
            if path not in self._arrays:
                try:
                    array = self._root[path]
                except Exception as error:
                    raise DamagedError(f"{path} has no metadata that can be read: {_gist(error)}") from error
                if not isinstance(array, zarr.Array):
                    raise DamagedError(f"{path} is no array any more")
                self._arrays[path] = array
            return self._arrays[path]


class Odd(Generic[Asked]):
    """Shards whose bytes are odd and whose pixels are right: each is a fault, or none is."""

    def __init__(self) -> None:
        self._seen = 0
        self._held: list[Asked] = []
        self.tell = True
        """Whether bytes tell anything: most shards are stored as they would be here."""

    def see(self, shards: int, odd: Iterable[Asked]) -> None:
        """So many shards with the right pixels, and which of them are odd."""
        self._seen += shards
        if self.tell:
            self._held += odd
            if len(self._held) > ODD_AT_MOST and 2 * len(self._held) > self._seen:
                self._give_up()

    def faults(self) -> list[Asked]:
        """Those that are damaged, now that all were seen."""
        if 2 * len(self._held) > self._seen and self._seen > 1:
            self._give_up()
        return self._held

    def _give_up(self) -> None:
        self.tell, self._held = False, []


def in_threads(act: Callable[[Asked], Answer], asked: Iterable[Asked], hands: int) -> Iterator[Answer]:
    """What an act answers to each, in order; so many are under way at once and no more are held."""
    ahead: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(hands, thread_name_prefix="verify") as pool:
        try:
            for one in asked:
                ahead.append(pool.submit(act, one))
                if len(ahead) > hands:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


def hands_for(mosaic: Mosaic) -> int:
    """How many tiles may be in hand at once."""
    most = REQUESTS if not is_local(mosaic.url) else min(REQUESTS, os.cpu_count() or 1)
    side = max(grid.shard_px for grid in mosaic.grids)
    return max(1, min(most, MEMORY_BYTES // (8 * side * side)))  # mask, score and source of a tile, and one in bytes


def _gist(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no reason given'}"
