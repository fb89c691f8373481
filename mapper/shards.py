"""Whole shards ↔ bytes in the store: each encoded once and put once, got once and decoded; nothing else is asked.

zarr writes a shard as it writes a part of one: it fetches what is there, merges, and takes every chunk through an event
loop that all threads share; so it reads, too. For whole shards that costs more CPU time than the compression, so they
are laid here, by the sharding codec's specification and in the order in which zarr lays them:

    chunk · chunk · … · offset and length of each chunk (uint64) · CRC-32C of those
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.abc.store import OffsetByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import StorePath

from mapper.errors import GridError, MosaicError
from mapper.failpoints import reach
from mapper.patience import REQUEST_S
from mapper.traffic import FILES, TRAFFIC
from mapper.work import SPENT

SHARDS_AT_ONCE = 8
"""Of one call, as bytes in memory: so much it takes beside the pixels."""

_NO_CHUNK = np.iinfo(np.uint64).max
"""In the index, offset and length of a chunk that is not stored because it is the fill value all over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """All that one layer of one tile shows."""

    layer: str
    """Path of its array below the mosaic's root."""

    place: tuple[int, ...]
    """Its position in the array, counted in shards along each axis."""

    pixels: NDArray[Any]
    """``(y, x)``: a whole shard, or less where the array ends. Read when it is put, filled when it is got."""


class ShardCodec:
    """Encodes and decodes the shards of one array. Threads may share one."""

    def __init__(self, array: zarr.Array[Any], *, host: str = FILES) -> None:
        """The codec of an array whose shards are 1 along all axes but the last two.

        Args:
            array: whose shards.
            host: what its requests are counted under.

        Raises:
            MosaicError: the array keeps its shards in another way than ``mapper/layout.py`` gives.
        """
        compressor = _compressor(array)
        if compressor is None:
            raise MosaicError(
                "this mosaic keeps its shards in another way than resmap writes them",
                fix="choose another output.mosaic",
                layer=array.path,
            )
        self._array, self._host = array, host
        self._zstd = compressor
        self._sides = array.shards or array.chunks
        self._chunk = array.chunks[-2:]
        self._cells = tuple(side // chunk for side, chunk in zip(self._sides[-2:], self._chunk, strict=True))
        self._dtype = array.dtype.newbyteorder("<")

    async def put(self, shard: Shard) -> None:
        """Encode a shard in a thread and put it: one request. One that is a gap all over is deleted: also one.

        Raises:
            GridError: as ``encode``.
            TimeoutError: the store has not taken it in ``REQUEST_S``.
        """
        reach("before-encode")
        content = await asyncio.to_thread(self._encoded, shard)
        reach("after-encode")
        target = self._path(shard)
        began = time.perf_counter()
        try:
            with TRAFFIC.request("store", self._host) as request:
                async with asyncio.timeout(REQUEST_S):
                    if content is None:
                        await target.delete()
                    else:
                        await target.set(default_buffer_prototype().buffer.from_bytes(content))
                        request.moved_bytes = len(content)
        finally:
            SPENT.add("write", time.perf_counter() - began)
        reach("mid-put")

    async def get(self, shard: Shard) -> None:
        """Fill the pixels of a shard with what is stored: one request. One that is not stored is a gap all over.

        Raises:
            GridError: as ``encode``.
            ValueError, RuntimeError: it is damaged.
            TimeoutError: the store has not given it in ``REQUEST_S``.
        """
        # From its first byte on, and not simply all of it: s3fs asks for the length of a whole object first.
        with TRAFFIC.request("store", self._host) as request:
            async with asyncio.timeout(REQUEST_S):
                content = await self._path(shard).get(default_buffer_prototype(), OffsetByteRequest(0))
            request.moved_bytes = 0 if content is None else len(content)
        await asyncio.to_thread(self.decode, None if content is None else content.to_bytes(), shard)

    def _encoded(self, shard: Shard) -> bytes | None:
        with SPENT.computing("encode"):
            return self.encode(shard)

    def encode(self, shard: Shard) -> bytes | None:
        """The bytes of a shard; None where every pixel of it is the array's fill value.

        Raises:
            GridError: the array has no such shard, or it has another shape.
        """
        self._check(shard)
        index = np.full((*self._cells, 2), _NO_CHUNK, "<u8")
        parts, length = [], 0
        for cell in _in_z_order(*self._cells):
            content = self._content(shard.pixels, cell)
            if content is not None:
                parts.append(content)
                index[cell] = length, len(content)
                length += len(content)
        if not parts:
            return None
        table = index.tobytes()
        return b"".join((*parts, table, google_crc32c.value(table).to_bytes(4, "little")))

    def decode(self, content: bytes | None, shard: Shard) -> None:
        """Fill the pixels of a shard from its bytes; with the array's fill value where it is not stored.

        Raises:
            GridError: as ``encode``.
            ValueError, RuntimeError: the bytes are not those of a shard, or fail a checksum.
        """
        self._check(shard)
        if content is None:
            shard.pixels[...] = self._array.fill_value
            return
        body, table, checksum = (memoryview(content)[part] for part in _thirds(len(content), 16 * prod(self._cells)))
        if google_crc32c.value(bytes(table)) != int.from_bytes(checksum, "little"):
            raise ValueError("the index of a shard fails its checksum")
        index = np.frombuffer(table, "<u8").reshape(*self._cells, 2)
        for cell in np.ndindex(*self._cells):
            begin, length = index[cell].tolist()
            part = shard.pixels[self._within(cell)]
            if begin == _NO_CHUNK:
                part[...] = self._array.fill_value
            else:
                chunk = np.frombuffer(self._zstd.decode(body[begin : begin + length]), self._dtype)
                part[...] = chunk.reshape(self._chunk)[: part.shape[0], : part.shape[1]]

    def _path(self, shard: Shard) -> StorePath:
        metadata = self._array.metadata
        assert isinstance(metadata, ArrayV3Metadata)
        return self._array.store_path / metadata.encode_chunk_key(shard.place)

    def _within(self, cell: tuple[int, ...]) -> tuple[slice, ...]:
        """The pixels of a shard that one of its chunks holds."""
        return tuple(slice(at * side, (at + 1) * side) for at, side in zip(cell, self._chunk, strict=True))

    def _check(self, shard: Shard) -> None:
        left = [size - at * side for size, at, side in zip(self._array.shape, shard.place, self._sides, strict=True)]
        whole = tuple(min(side, pixels) for side, pixels in zip(self._sides, left, strict=True))
        if min(shard.place) < 0 or min(whole) < 1:
            raise GridError(
                f"{shard.layer} has no shard {shard.place}", fix="open the mosaic again if it has grown since"
            )
        if shard.pixels.shape != whole[-2:]:
            raise GridError(f"shard {shard.place} of {shard.layer} is {whole[-2:]}, and was given {shard.pixels.shape}")

    def _content(self, pixels: NDArray[Any], cell: tuple[int, ...]) -> bytes | None:
        """One chunk, encoded; None where it is the fill value all over."""
        part, fill = pixels[self._within(cell)], self._array.fill_value
        if part.size == 0 or (part[0, 0] == fill and (part == fill).all()):
            return None
        if part.shape != self._chunk:  # the array ends in it
            missing = [(0, side - there) for side, there in zip(self._chunk, part.shape, strict=True)]
            part = np.pad(part, missing, constant_values=fill)
        content: bytes = self._zstd.encode(np.ascontiguousarray(part, self._dtype))
        return content


_Held: TypeAlias = tuple[ShardCodec, Shard]


async def each_shard(act: Callable[[ShardCodec, Shard], Awaitable[None]], shards: Iterable[_Held]) -> None:
    """Put or get shards, several at once. Returns, or raises the first error, when none is under way any more.

    Args:
        act: ``ShardCodec.put`` or ``ShardCodec.get``.
        shards: each with the codec of its array.
    """
    limit = asyncio.Semaphore(SHARDS_AT_ONCE)

    async def one(codec: ShardCodec, shard: Shard) -> None:
        async with limit:
            await act(codec, shard)

    for ended in await asyncio.gather(*(one(*held) for held in shards), return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended


def _thirds(length: int, table: int) -> tuple[slice, slice, slice]:
    """Where the chunks, the index and its checksum lie in a shard.

    Raises:
        ValueError: it is too short to have any.
    """
    if length < table + 4:
        raise ValueError(f"a shard of {length} bytes has no index")
    return slice(0, length - table - 4), slice(length - table - 4, length - 4), slice(length - 4, length)


def is_ours(array: zarr.Array[Any]) -> bool:
    """Whether an array keeps its shards as resmap writes them. Somebody may have copied a mosaic in another way."""
    return _compressor(array) is not None


def _compressor(array: zarr.Array[Any]) -> Zstd | None:
    codecs = array.metadata.codecs if isinstance(array.metadata, ArrayV3Metadata) else ()
    match [codec.to_dict() for codec in codecs]:
        case [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "codecs": [{"name": "bytes", **order}, {"name": "zstd", "configuration": how}],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ] if order in ({}, {"configuration": {}}, {"configuration": {"endian": "little"}}):
            return Zstd.from_config(how)
    return None


@lru_cache(maxsize=16)
def _in_z_order(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    """The cells of a shard so that neighbours lie near one another in its bytes; rows alternate fastest."""

    def code(cell: tuple[int, ...]) -> int:
        return sum((part >> bit & 1) << 2 * bit + axis for axis, part in enumerate(cell) for bit in range(16))

    return tuple(sorted(np.ndindex(rows, columns), key=code))
