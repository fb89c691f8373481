"""What keeps a mosaic's arrays: a plain Zarr tree, or an icechunk repository. One contract for both.

                 zarr                               icechunk
    put          is there at once                   is there once its receipt is committed
    read         what is there now                  what was committed last; opened for reading: when it was opened
    grow         the root's document last           one commit
    history      none                               every commit, by its id or by its tag

Workers put, one process commits, and both read what was committed. What was put and never committed is no part of
the mosaic: icechunk's garbage collection takes it, when its owner runs that.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import GroupNotFoundError, ZarrUserWarning
from zarr.storage import MemoryStore

from mapper.errors import MosaicError, QuestionError
from mapper.patience import HASTY, PATIENT, patiently
from mapper.shards import Shard, ShardCodec, each_shard
from mapper.storage import EngineName, has_repository, is_local, plain_store, store_failure
from mapper.traffic import host_of

CONCURRENT_REQUESTS = 16
"""Documents that are fetched or put at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One state of an icechunk mosaic."""

    id: str
    time: datetime
    """When it was committed; aware, UTC."""

    message: str
    metadata: Mapping[str, Any]
    """As given to ``commit``."""

    tags: tuple[str, ...]


class Tree:
    """The Zarr nodes of one state of a mosaic, each opened once. Threads may share it."""

    def __init__(self, root: zarr.Group, *, url: str, snapshot: str | None = None) -> None:
        self.root = root
        self._host = host_of(url)
        self.snapshot = snapshot
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def array(self, path: str) -> zarr.Array[Any]:
        """The array at a path below the root."""
        if path not in self._arrays:
            array = self.root[path]
            assert isinstance(array, zarr.Array)
            self._arrays[path] = array
        return self._arrays[path]

    def put(self, shards: Sequence[Shard]) -> None:
        """Encode and put shards, several at once; returns, or raises the first error, when all are over."""
        sync(each_shard(ShardCodec.put, [(self._codec(shard), shard) for shard in shards]))

    def get(self, shards: Sequence[Shard]) -> None:
        """Fill shards with what is stored, several at once; else as ``put``."""
        sync(each_shard(ShardCodec.get, [(self._codec(shard), shard) for shard in shards]))

    def stored(self, layer: str, axes: tuple[int, ...], rows: Sequence[int] | None = None) -> set[tuple[int, int]]:
        """Which shards of one slice of an array are stored: a listing a row of shards.

        Args:
            layer: path of the array.
            axes: positions along all its axes but the last two.
            rows: of shards, to look in; None for all.

        Returns:
            Rows and columns of shards.
        """
        array = self.array(layer)
        key = array.metadata.encode_chunk_key((*axes, 0, 0))  # …/0/0
        return sync(_listed(self.root.store, f"{array.store_path.path}/{key[:-4]}".lstrip("/"), rows))

    def _codec(self, shard: Shard) -> ShardCodec:
        return ShardCodec(self.array(shard.layer), host=self._host)


class Engine(Protocol):
    """Keeps the arrays of one mosaic. Threads may share one; errors are those of the library beneath."""

    name: EngineName

    def half_made(self) -> bool:
        """Whether this is what a killed ``create`` leaves, and nothing else."""

    def reading(self) -> Tree:
        """All that had been written, and committed where that is needed, before this call."""

    def put(self, shards: Sequence[Shard]) -> bytes | None:
        """Write shards. What this returns goes to ``commit``, from whichever process; None where nothing need be."""

    def change(self, act: Callable[[zarr.Group], None], message: str) -> None:
        """Change metadata, from the root on, which is made where there is none."""

    def commit(self, receipts: Sequence[bytes], message: str, metadata: Mapping[str, Any]) -> str | None:
        """Make what was put part of the mosaic, all or nothing."""

    def tag(self, name: str) -> str | None:
        """Give what is there now a name for ever, and say which."""

    def snapshots(self) -> list[Snapshot]:
        """Every state that can be opened, the latest first."""


def open_engine(url: str, *, writable: bool, at: str | None = None) -> Engine:
    """The engine of what is there, told from what is there.

    Args:
        url: of a mosaic.
        writable: whether it is opened to be written.
        at: a tag, a run or a snapshot of an icechunk mosaic.

    Raises:
        MosaicError: nothing is there, or no bucket.
        QuestionError: ``at`` is nothing that it knows.
        CredentialsError, StoreError: it cannot be reached.
    """
    engine = find_engine(url, writable=writable, at=at)
    if engine is None:
        raise MosaicError("there is no mosaic here", fix="check the path, or run a job that writes it", mosaic=url)
    return engine


def find_engine(url: str, *, writable: bool, at: str | None = None) -> Engine | None:
    """As ``open_engine``; None where nothing is there."""
    try:
        found: Engine | None = ZarrEngine.open(url, writable=writable)
        if found is None and not url.startswith(("memory://", "http://", "https://")):
            from mapper.icechunk_engine import IcechunkEngine  # a quarter of a second that most mosaics need not pay

            return IcechunkEngine.open(url, writable=writable, at=at)
    except Exception as error:
        raise store_failure(error, url, "opened") from error
    if found is not None and at is not None:
        raise QuestionError(
            "this mosaic keeps no history: its engine is zarr",
            fix="ask without a version; output.engine: icechunk keeps every commit",
            mosaic=url,
            at=at,
        )
    return found


def make_engine(url: str, name: EngineName) -> Engine:
    """The engine of a mosaic that is to be made here, or of one that is half made.

    Raises:
        MosaicError: something else is there.
    """
    try:
        if name == "zarr":
            return ZarrEngine.make(url)
        from mapper.icechunk_engine import IcechunkEngine

        return IcechunkEngine.make(url)
    except Exception as error:
        raise store_failure(error, url, "made") from error


class ZarrEngine:
    """A plain Zarr v3 tree: what is put is there."""

    name: EngineName = "zarr"

    def __init__(self, url: str, root: zarr.Group) -> None:
        self._url = url
        self._tree = Tree(root, url=url)

    @classmethod
    def open(cls, url: str, *, writable: bool) -> ZarrEngine | None:
        """The tree that is there, or None."""
        if is_local(url) and not Path(url.removeprefix("file://")).is_dir():
            return None  # zarr would make the folder
        try:
            return cls(url, _root(plain_store(url, read_only=not writable)))
        except (GroupNotFoundError, FileNotFoundError):
            return None

    @classmethod
    def make(cls, url: str) -> ZarrEngine:
        """A tree without nodes. What a killed ``create`` has left is taken away first."""
        there = cls.open(url, writable=True)
        if there is not None and there.half_made():
            root = there.reading().root
            for name in _members(root, deep=False):
                sync(root.store.delete_dir(name))
            return there
        if not url.startswith("memory://") and has_repository(url):
            raise FileExistsError(url)
        return cls(url, zarr.create_group(plain_store(url, read_only=False), zarr_format=3, overwrite=False))

    def half_made(self) -> bool:
        """Whether the root says nothing yet, and only trees of a mosaic are in it."""
        root = self._tree.root
        return not dict(root.attrs) and all(
            "spatial:registration" in member.attrs for member in _members(root, deep=False).values()
        )

    def reading(self) -> Tree:
        """As in ``Engine``."""
        return self._tree

    def put(self, shards: Sequence[Shard]) -> None:
        """As in ``Engine``: no receipt."""
        self._tree.put(shards)

    def change(self, act: Callable[[zarr.Group], None], message: str) -> None:
        """As in ``Engine``: changed in memory and put together, because node by node it takes ten requests for each."""
        store = self._tree.root.store
        paths = ["", *(f"{path}/" for path in _members(self._tree.root, deep=True))]
        before = sync(_documents(store, [f"{path}zarr.json" for path in paths]))
        draft = MemoryStore(dict(before))
        act(zarr.open_group(draft, mode="r+", zarr_format=3, use_consolidated=False))

        def put() -> None:
            try:
                sync(_put_changed(draft, before, store))
            except Exception as error:  # every store's library has errors of its own
                raise store_failure(error, self._url, "written") from error

        patiently(put, HASTY if is_local(self._url) else PATIENT)
        self._tree = Tree(_root(store), url=self._url)

    def commit(self, receipts: Sequence[bytes], message: str, metadata: Mapping[str, Any]) -> None:
        """As in ``Engine``: nothing to do."""

    def tag(self, name: str) -> None:
        """As in ``Engine``: no history, no name."""

    def snapshots(self) -> list[Snapshot]:
        """As in ``Engine``: none."""
        return []


def _root(store: Store) -> zarr.Group:
    return zarr.open_group(store, mode="r" if store.read_only else "r+", zarr_format=3)


def _members(root: zarr.Group, *, deep: bool) -> dict[str, zarr.Array[Any] | zarr.Group]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ZarrUserWarning)  # .resmap is no Zarr node, and known
        return dict(root.members(max_depth=None if deep else 0))


async def _documents(store: Store, keys: Sequence[str]) -> dict[str, Buffer]:
    """What is stored under some keys."""
    limit = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def get(key: str) -> tuple[str, Buffer | None]:
        async with limit:
            return key, await store.get(key, default_buffer_prototype())

    found = await asyncio.gather(*map(get, keys))
    return {key: content for key, content in found if content is not None}


async def _listed(store: Store, folder: str, rows: Sequence[int] | None) -> set[tuple[int, int]]:
    """The shards in a folder of rows of them."""
    there = {int(row) async for row in store.list_dir(folder) if row.isdecimal()}
    limit = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def columns(row: int) -> set[tuple[int, int]]:
        async with limit:
            return {(row, int(column)) async for column in store.list_dir(f"{folder}/{row}") if column.isdecimal()}

    return set().union(*await asyncio.gather(*map(columns, there if rows is None else there.intersection(rows))))


async def _put_changed(draft: MemoryStore, before: Mapping[str, Buffer], store: Store) -> None:
    """Put what the draft holds and was not there before; the root's document last, for it says that all is there."""
    limit = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def put(key: str) -> None:
        content = await draft.get(key, default_buffer_prototype())
        assert content is not None
        if key not in before or before[key].to_bytes() != content.to_bytes():
            async with limit:
                await store.set(key, content)

    await asyncio.gather(*[put(key) async for key in draft.list() if key != "zarr.json"])
    await put("zarr.json")
