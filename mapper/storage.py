"""A URL → somewhere to put things: a Zarr store, or a folder of small files.

Local paths, and every scheme fsspec knows (``s3://``, ``gs://``, ``az://``, ``memory://``). Credentials come
the way the store's own tools find them; nothing of them passes through here.

    <mosaic>/.resmap/   what is known of a mosaic beyond its pixels, where the engine is zarr
    <mosaic>.resmap/    the same where it is icechunk: a repository keeps to itself
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zarr.storage import FsspecStore, LocalStore

from mapper.errors import CredentialsError, MapperError, MosaicError, StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.abc.store import Store

EngineName: TypeAlias = Literal["zarr", "icechunk"]

REPOSITORY = ("config.yaml", "refs", "repo", "snapshots", "manifests", "transactions", "chunks", "overwritten")
"""What lies in the folder of an icechunk repository."""

_REFUSALS = frozenset(
    (
        "NoCredentialsError",
        "PartialCredentialsError",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "an error occurred while loading credentials",
        "no providers in chain provided credentials",
    )
)
"""How object stores say that we may not."""

_NO_PLACE = ("Permission denied (os error", "Not a directory (os error", "Read-only file system")
"""How a local disk says so through a library that has no exceptions of Python's."""


def is_local(url: str) -> bool:
    """Whether it is a path of this machine."""
    return "://" not in url or url.startswith("file://")


def plain_store(url: str, *, read_only: bool) -> LocalStore | FsspecStore:
    """The store of a Zarr tree at a path or URL. Nothing is made or looked at yet."""
    if is_local(url):
        return LocalStore(url.removeprefix("file://"), read_only=read_only)
    try:  # no listing is remembered: what another process has made since would be missing from it
        return FsspecStore.from_url(url, storage_options={"use_listings_cache": False}, read_only=read_only)
    except (ValueError, ImportError) as error:
        raise _no_such_store(error, url) from error


def open_store(url: str, *, mode: Literal["r"] = "r", at: str | None = None) -> Store:
    """The store in which xarray and Zarr read a mosaic of either engine.

    Args:
        url: of the mosaic.
        mode: for reading only; a mosaic is written through ``Mosaic``.
        at: a tag, a run or a snapshot of an icechunk mosaic; None is what is there now.

    Raises:
        MosaicError, CredentialsError, StoreError: no mosaic there, or it cannot be reached.
        QuestionError: it has no such tag, run or snapshot.
    """
    from mapper.engines import open_engine  # it needs what stands here

    return open_engine(url, writable=False, at=at).reading().root.store


def store_failure(error: Exception, url: str, act: str, **where: object) -> MapperError:
    """What a failure of a store means to whoever catches it: log in, choose another place, or try again.

    Args:
        error: what the store's own library raised.
        url: of the mosaic.
        act: what could not be done to it, as in ``written``.
        where: added to the error's place.
    """
    if isinstance(error, MapperError):
        return error
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, FileExistsError) or "ContainsGroup" in said or "clean prefixes" in said:
        return MosaicError("something else is already there", fix="choose another output.mosaic", mosaic=url, **where)
    refused = type(error).__name__ in _REFUSALS or any(name in said for name in _REFUSALS)
    if refused or (isinstance(error, PermissionError) and not is_local(url)):
        return CredentialsError(
            f"the store refuses us: {_gist(error)}", fix="check the credentials of this store", mosaic=url, **where
        )
    no_place = isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError)
    if is_local(url) and (no_place or any(name in said for name in _NO_PLACE)):
        return MosaicError(
            f"the mosaic cannot be {act} here: {_gist(error)}",
            fix="choose another output.mosaic, or mend its rights",
            mosaic=url,
            **where,
        )
    if "bucket does not exist" in said or "NoSuchBucket" in said:
        return MosaicError("the bucket does not exist", fix="make it, or correct output.mosaic", mosaic=url, **where)
    return StoreError(
        f"the mosaic could not be {act}: {type(error).__name__}: {_gist(error)}",
        fix="run the job again: finished tiles are kept",
        mosaic=url,
        **where,
    )


def _gist(error: Exception) -> str:
    """What an error says; of icechunk's reports of twenty lines, the first and the last cause."""
    said = str(error).strip()
    if "context:" not in said:
        return said
    causes = [line.lstrip(" x|`->") for line in said.splitlines() if line.startswith(("x ", "|->", "`->"))]
    return ": ".join(dict.fromkeys((causes[0], causes[-1]))) if causes else said.splitlines()[0]


def _no_such_store(error: Exception, url: str) -> MosaicError:
    return MosaicError(f"no store can be opened at this URL: {error}", fix="use a path, s3://, gs:// or az://", url=url)


def state_folder(mosaic: str, *, engine: EngineName | None = None) -> Folder:
    """Where what is known of a mosaic beyond its pixels is kept: its runs, and who writes it now.

    Args:
        mosaic: its path or URL; it need not exist yet.
        engine: which it has or will have. None: whichever is there, of which one request tells a Zarr tree and a few
            more a repository; zarr where neither is.
    """
    url = mosaic.rstrip("/")
    if (engine or _engine_at(url)) == "icechunk":
        return Folder(f"{url}.resmap")
    return Folder(url).child(".resmap")


def _engine_at(url: str) -> EngineName:
    if url.startswith("memory://") or Folder(url).exists("zarr.json"):
        return "zarr"
    beside = Folder(f"{url}.resmap").exists("")
    return "icechunk" if beside or has_repository(url) else "zarr"


def has_repository(url: str) -> bool:
    """Whether an icechunk repository is there: its branches lie in ``refs``, or in ``repo`` since version 2."""
    return any(Folder(url).exists(name) for name in ("refs", "repo"))


class Folder:
    """A folder of small files, on this machine or in a bucket; every write is whole or absent."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._fs: AbstractFileSystem
        try:
            self._fs, self._path = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise _no_such_store(error, url) from error

    def child(self, name: str) -> Folder:
        """A folder in it."""
        return Folder(f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        """A file of it.

        Raises:
            FileNotFoundError: there is none.
            MosaicError, CredentialsError, StoreError: as ``store_failure`` says.
        """
        with self._told("read"):
            content: Any = self._fs.cat_file(posixpath.join(self._path, name))
        return bytes(content)

    def write(self, name: str, content: bytes) -> None:
        """Put a file, in place of one of the same name.

        Raises:
            MosaicError, CredentialsError, StoreError: as ``store_failure`` says.
        """
        path = posixpath.join(self._path, name)
        try:
            self._put(path, content)
        except Exception as error:  # every store's library has errors of its own
            raise store_failure(error, self.url, "written") from error

    @contextlib.contextmanager
    def _told(self, act: str) -> Iterator[None]:
        """Errors of the store in our words; a file that is not there stays one."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # every store's library has errors of its own
            raise store_failure(error, self.url, act) from error

    def _put(self, path: str, content: bytes) -> None:
        if is_local(self.url):
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        else:
            self._fs.pipe_file(path, content)

    def names(self, pattern: str = "*") -> list[str]:
        """Names of its files, in order; none where there is no folder."""
        with self._told("read"):
            self._fs.invalidate_cache(self._path)
            found = self._fs.glob(posixpath.join(self._path, pattern))
        return sorted(posixpath.relpath(path, self._path) for path in found)

    def exists(self, name: str) -> bool:
        """Whether it has this file or folder, now."""
        with self._told("read"):
            self._fs.invalidate_cache(self._path)  # a listing from before another process made it
            return bool(self._fs.exists(posixpath.join(self._path, name)))

    def remove(self, name: str) -> None:
        """Take a file away; nothing happens where there is none."""
        try:
            self._fs.rm_file(posixpath.join(self._path, name))
        except FileNotFoundError:
            return

    def remove_tree(self, names: Sequence[str]) -> None:
        """Take these files and folders of it away, and itself if nothing else is in it."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(posixpath.join(self._path, name), recursive=True)
        if is_local(self.url):
            with contextlib.suppress(OSError):  # somebody's files are in it
                Path(self._path).rmdir()
