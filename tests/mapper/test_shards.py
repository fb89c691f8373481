"""Whole shards as bytes: what the sharding codec of Zarr says, and what zarr itself would have put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from mapper.errors import GridError, MapperError, MosaicError
from mapper.shards import Shard, ShardCodec, each_shard, is_ours

FILL = 255


def array_of(shape: tuple[int, int], *, cells: int = 2, dtype: str = "uint8", store: Any = None) -> zarr.Array[Any]:
    """An array as ``mapper/layout.py`` makes them, its shards of so many chunks of 8 pixels along a side."""
    side = 8 * cells
    return zarr.create_array(
        MemoryStore() if store is None else store,
        name="0/score",
        shape=(2, *shape),
        shards=(1, side, side),
        chunks=(1, 8, 8),
        dtype=dtype,
        fill_value=FILL,
        compressors=ZstdCodec(level=1, checksum=True),
    )


def pixels_of(shape: tuple[int, int], seed: int, dtype: str = "uint8") -> NDArray[Any]:
    """Some chunks of noise, some of one value, some that are nothing but the fill value."""
    rng = np.random.default_rng(seed)
    cells = rng.choice([0, 7, FILL], (-(-shape[0] // 8), -(-shape[1] // 8)))
    coarse = np.kron(cells, np.ones((8, 8), np.int64))[: shape[0], : shape[1]]
    return np.where(coarse == 0, rng.integers(0, 256, shape), coarse).astype(dtype)


def put(array: zarr.Array[Any], pixels: NDArray[Any], *place: int) -> None:
    sync(each_shard(ShardCodec.put, [(ShardCodec(array), Shard(layer=array.path, place=place, pixels=pixels))]))


def got(array: zarr.Array[Any], *place: int) -> NDArray[Any]:
    shape = tuple(
        min(side, size - at * side)
        for at, side, size in zip(place[-2:], (array.shards or ())[-2:], array.shape[-2:], strict=True)
    )
    pixels = np.empty(shape, array.dtype)
    sync(each_shard(ShardCodec.get, [(ShardCodec(array), Shard(layer=array.path, place=place, pixels=pixels))]))
    return pixels


def stored(array: zarr.Array[Any]) -> dict[str, bytes]:
    store = array.store
    assert isinstance(store, MemoryStore)
    return {key: value.to_bytes() for key, value in store._store_dict.items() if "/c/" in key}


def chunks_in(shard: bytes, cells: int) -> list[tuple[int, bytes]]:
    """Number of each chunk that is stored, counted row by row, and its bytes, by the index at the shard's end."""
    table = np.frombuffer(shard[-16 * cells**2 - 4 : -4], "<u8").reshape(-1, 2).astype(np.int64)
    return [(n, shard[begin : begin + length]) for n, (begin, length) in enumerate(table) if begin != -1]


@given(
    cells=st.integers(1, 5),
    cut=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    dtype=st.sampled_from(["uint8", "uint32"]),
    seed=st.integers(0, 999),
)
def test_a_shard_is_what_zarr_would_have_put(cells: int, cut: tuple[int, int], dtype: str, seed: int) -> None:
    side = 8 * cells
    shape = (2 * side - cut[0], 2 * side - cut[1])
    ours, theirs = (array_of(shape, cells=cells, dtype=dtype) for _ in range(2))
    for row, column in np.ndindex(2, 2):
        rows, columns = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        pixels = pixels_of((min(side, shape[0] - rows.start), min(side, shape[1] - columns.start)), seed, dtype)
        put(ours, pixels, 1, row, column)
        theirs[1, rows, columns] = pixels
    np.testing.assert_array_equal(np.asarray(ours[...]), np.asarray(theirs[...]))
    assert stored(ours).keys() == stored(theirs).keys()
    for key, shard in stored(theirs).items():  # where the chunks lie in a shard is free, and may change with zarr
        assert chunks_in(stored(ours)[key], cells) == chunks_in(shard, cells)
        assert len(stored(ours)[key]) == len(shard)


@given(
    cells=st.integers(1, 5),
    cut=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    dtype=st.sampled_from(["uint8", "uint32"]),
    seed=st.integers(0, 999),
)
def test_a_shard_that_zarr_put_is_got_as_zarr_reads_it(cells: int, cut: tuple[int, int], dtype: str, seed: int) -> None:
    side = 8 * cells
    array = array_of((2 * side - cut[0], 2 * side - cut[1]), cells=cells, dtype=dtype)
    array[1] = pixels_of((array.shape[1], array.shape[2]), seed, dtype)
    for place in np.ndindex(2, 2, 2):  # those of the first plane were never written
        rows, columns = (slice(at * side, (at + 1) * side) for at in place[1:])
        np.testing.assert_array_equal(got(array, *place), np.asarray(array[place[0], rows, columns]))


@pytest.mark.parametrize("kept", [0, 3, 30, -1])
def test_a_truncated_shard_is_an_error(kept: int) -> None:
    array = array_of((16, 16))
    put(array, pixels_of((16, 16), 4), 0, 0, 0)
    (content,) = stored(array).values()
    with pytest.raises(ValueError, match=r"has no index|fails its checksum"):
        ShardCodec(array).decode(content[:kept], Shard(layer="x", place=(0, 0, 0), pixels=np.empty((16, 16), "u1")))


def test_no_flipped_bit_of_a_shard_is_read_as_pixels() -> None:
    array, pixels = array_of((16, 16)), pixels_of((16, 16), 4)
    put(array, pixels, 0, 0, 0)
    (content,) = stored(array).values()
    for bit in range(8 * len(content)):
        bad = bytearray(content)
        bad[bit // 8] ^= 1 << bit % 8
        read = np.empty((16, 16), np.uint8)
        try:
            ShardCodec(array).decode(bytes(bad), Shard(layer="x", place=(0, 0, 0), pixels=read))
        except (ValueError, RuntimeError):
            continue
        np.testing.assert_array_equal(read, pixels)


def test_another_implementation_of_zarr_reads_the_same(tmp_path: Path) -> None:
    pytest.importorskip("zarrs", reason="zarrs comes with the extra bench")
    array = array_of((29, 32), store=str(tmp_path), dtype="uint32")
    pixels = {
        (row, column): pixels_of((16 - 3 * row, 16), row + 2 * column, "uint32") for row, column in np.ndindex(2, 2)
    }
    for place, part in pixels.items():
        put(array, part, 0, *place)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        read = np.asarray(zarr.open_array(str(tmp_path), path="0/score", mode="r")[:1])[0]
    np.testing.assert_array_equal(read, np.block([[pixels[row, column] for column in (0, 1)] for row in (0, 1)]))


@given(seed=st.integers(0, 99))
def test_the_layout_of_memory_makes_no_difference(seed: int) -> None:
    array, pixels = array_of((16, 16)), pixels_of((16, 16), seed)
    views = (
        pixels,
        np.asfortranarray(pixels),
        np.repeat(pixels, 2, 1)[:, ::2],
        pixels[::-1][::-1],
        pixels.astype("i8"),
    )
    encoded = {ShardCodec(array).encode(Shard(layer="x", place=(0, 0, 0), pixels=view)) for view in views}
    assert len(encoded) == 1


def test_a_shard_that_is_a_gap_all_over_is_not_kept() -> None:
    array = array_of((32, 32))
    put(array, pixels_of((16, 16), 1), 0, 0, 1)
    put(array, np.full((16, 16), FILL, np.uint8), 0, 0, 1)
    put(array, np.full((16, 16), FILL, np.uint8), 0, 1, 1)
    assert stored(array) == {}


@pytest.mark.parametrize("place", [(2, 0, 0), (0, 2, 0), (0, 0, -1)])
def test_a_shard_beyond_the_array_is_refused(place: tuple[int, ...]) -> None:
    array = array_of((32, 32))
    with pytest.raises(GridError, match="has no shard"):
        put(array, pixels_of((16, 16), 1), *place)
    assert stored(array) == {}


@pytest.mark.parametrize("shape", [(8, 16), (16, 17), (1, 16)])
def test_a_part_of_a_shard_is_refused_and_never_filled_up_with_a_gap(shape: tuple[int, int]) -> None:
    array = array_of((32, 32))
    with pytest.raises(GridError, match=r"is \(16, 16\)"):
        put(array, pixels_of(shape, 1), 0, 0, 0)
    assert stored(array) == {}


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": (8, 8), "compressors": ZstdCodec(level=1)},
        {"chunks": (8, 8), "shards": (16, 16), "compressors": None},
        {"chunks": (8, 8), "shards": (16, 16), "serializer": BytesCodec(endian="big")},
        {"chunks": (16, 16), "compressors": None, "serializer": ShardingCodec(
            chunk_shape=(8, 8), codecs=[BytesCodec(), ZstdCodec()], index_location="start"
        )},
    ],
    ids=["no shards", "not compressed", "big endian", "index first"],
)  # fmt: skip
def test_an_array_that_is_kept_in_another_way_is_refused(how: dict[str, Any]) -> None:
    array = zarr.create_array(MemoryStore(), name="a", shape=(32, 32), dtype="uint32", fill_value=FILL, **how)
    with pytest.raises(MosaicError, match="in another way") as caught:
        ShardCodec(array)
    assert caught.value.where == {"layer": "a"}
    assert not is_ours(array)


def test_the_first_error_is_told_when_all_shards_are_over() -> None:
    array = array_of((64, 64))
    encoder, good = ShardCodec(array), pixels_of((16, 16), 3)
    shards = [Shard(layer="x", place=(0, row, column), pixels=good) for row, column in np.ndindex(4, 4)]
    shards[0] = Shard(layer="x", place=(0, 0, 0), pixels=good[:4])
    with pytest.raises(MapperError, match=r"\(4, 16\)"):
        sync(each_shard(ShardCodec.put, [(encoder, shard) for shard in shards]))
    assert len(stored(array)) == 15
