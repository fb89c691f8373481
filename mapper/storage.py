"""A URL → somewhere to put things: a Zarr store, or a folder of small files.

Local paths, and every scheme fsspec knows (``s3://``, ``gs://``, ``az://``, ``memory://``). Credentials come
the way the store's own tools find them; nothing of them passes through here.

    <mosaic>/.resmap/   what is known of a mosaic beyond its pixels, where the engine is zarr
    <mosaic>.resmap/    the same where it is icechunk: a repository keeps to itself
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zarr.storage import FsspecStore, LocalStore

from mapper.errors import CredentialsError, MapperError, MosaicError, StoreError
from mapper.failpoints import reach
from mapper.patience import BODY_ATTEMPTS, HASTY, REQUEST_S, Patience, asked_to_wait, patiently, s3_options
from mapper.s3_tries import counting_session
from mapper.traffic import TRAFFIC, host_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.abc.store import Store

EngineName: TypeAlias = Literal["zarr", "icechunk"]

REPOSITORY = ("config.yaml", "refs", "repo", "snapshots", "manifests", "transactions", "chunks", "overwritten")
"""What lies in the folder of an icechunk repository."""

S3 = ("s3://", "s3a://")

_REFUSALS = frozenset(
    (
        "NoCredentialsError",
        "PartialCredentialsError",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "an error occurred while loading credentials",
        "no providers in chain provided credentials",
    )
)
"""How object stores say that we may not."""

_NO_PLACE = ("Permission denied (os error", "Not a directory (os error", "Read-only file system")
"""How a local disk says so through a library that has no exceptions of Python's."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_SAID = tuple(f"(os error {number})" for number in _NO_ROOM)


def is_local(url: str) -> bool:
    """Whether it is a path of this machine."""
    return "://" not in url or url.startswith("file://")


def plain_store(url: str, *, read_only: bool) -> LocalStore | FsspecStore:
    """The store of a Zarr tree at a path or URL. Nothing is made or looked at yet."""
    if is_local(url):
        return LocalStore(url.removeprefix("file://"), read_only=read_only)
    fs, path = _file_system(url, asynchronous=True)
    if not fs.async_impl:
        return FsspecStore.from_url(url, read_only=read_only)  # it makes such a store wait in a thread
    return FsspecStore(fs, path=path, read_only=read_only)


def _file_system(url: str, *, asynchronous: bool = False) -> tuple[AbstractFileSystem, str]:
    """What fsspec knows of a URL, and the path in it; how often it asks and how long it listens is said to it."""
    import fsspec

    options: dict[str, Any] = {}
    if not is_local(url):
        # No listing is remembered: what another process has made since would be missing from it.
        options = {"use_listings_cache": False, **({"asynchronous": True} if asynchronous else {})}
    ours = url.startswith(S3)
    try:
        fs, path = fsspec.core.url_to_fs(url, **options, **(s3_options() if ours else {}))
    except (ValueError, ImportError) as error:
        raise _no_such_store(error, url) from error
    if ours:
        fs.retries = BODY_ATTEMPTS
        if fs.session is None:  # fsspec gives one file system to all who ask alike
            fs.session = counting_session(fs.kwargs)
    return fs, path


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
    said = f"{_code(error)}: {error}"
    if isinstance(error, FileExistsError) or "ContainsGroup" in said or "clean prefixes" in said:
        return MosaicError("something else is already there", fix="choose another output.mosaic", mosaic=url, **where)
    refused = any(name in said for name in _REFUSALS)
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
    if getattr(error, "errno", None) in _NO_ROOM or any(name in said for name in _NO_ROOM_SAID):
        return StoreError(
            f"the mosaic could not be {act}: there is no room left",
            fix="make room, and run the job again: finished tiles are kept",
            mosaic=url,
            **where,
        )
    if (wait_s := asked_to_wait(error)) is not None:
        where["wait_s"] = wait_s
    return StoreError(
        f"the mosaic could not be {act}: {type(error).__name__}: {_gist(error)}",
        fix="run the job again: finished tiles are kept",
        mosaic=url,
        **where,
    )


def _code(error: BaseException | None) -> str:
    """What an error and its causes are called: by Python, and by the store, whose word s3fs leaves out."""
    names = []
    while error is not None:
        response = getattr(error, "response", None)
        names += [type(error).__name__]
        names += [str(response.get("Error", {}).get("Code", ""))] if isinstance(response, dict) else []
        error = error.__cause__
    return " ".join(names)


def _gist(error: Exception) -> str:
    """What an error says; of icechunk's reports of twenty lines, the first and the last cause."""
    said = str(error).strip()
    if "context:" not in said:
        return said
    causes = [line.lstrip(" x|`->") for line in said.splitlines() if line.startswith(("x ", "|->", "`->"))]
    return ": ".join(dict.fromkeys((causes[0], causes[-1]))) if causes else said.splitlines()[0]


def _no_such_store(error: Exception, url: str) -> MosaicError:
    return MosaicError(f"no store can be opened at this URL: {error}", fix="use a path, s3://, gs:// or az://", url=url)


def state_folder(mosaic: str, *, engine: EngineName | None = None, patience: Patience = HASTY) -> Folder:
    """Where what is known of a mosaic beyond its pixels is kept: its runs, and who writes it now.

    Args:
        mosaic: its path or URL; it need not exist yet.
        engine: which it has or will have. None: whichever is there, of which one request tells a Zarr tree and a few
            more a repository; zarr where neither is.
        patience: as in ``Folder``.
    """
    url = mosaic.rstrip("/")
    if (engine or _engine_at(url)) == "icechunk":
        return Folder(f"{url}.resmap", patience=patience)
    return Folder(url, patience=patience).child(".resmap")


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

    def __init__(self, url: str, *, patience: Patience = HASTY) -> None:
        """Look at nothing yet.

        Args:
            url: its path or URL; it need not exist.
            patience: how long a write waits for a store that is away. A disk of this machine is never waited for.
        """
        self.url = url.rstrip("/")
        self._patience = HASTY if is_local(self.url) else patience
        self._fs, self._path = _file_system(self.url)

    def child(self, name: str) -> Folder:
        """A folder in it, as patient."""
        return Folder(f"{self.url}/{name}", patience=self._patience)

    def read(self, name: str) -> bytes:
        """A file of it.

        Raises:
            FileNotFoundError: there is none.
            MosaicError, CredentialsError, StoreError: as ``store_failure`` says.
        """
        with self._told("read"), TRAFFIC.request("store", host_of(self.url), missing=FileNotFoundError) as request:
            content: Any = self._fs.cat_file(posixpath.join(self._path, name))
            request.moved_bytes = len(content)
        return bytes(content)

    def write(self, name: str, content: bytes) -> None:
        """Put a file, in place of one of the same name. What was put and not answered is put again: the same bytes.

        Raises:
            MosaicError, CredentialsError, StoreError: as ``store_failure`` says.
        """
        path = posixpath.join(self._path, name)

        def put() -> None:
            with self._told("written", missing=True), TRAFFIC.request("store", host_of(self.url)) as request:
                self._put(path, content)
                request.moved_bytes = len(content)

        patiently(put, self._patience)

    @contextlib.contextmanager
    def _told(self, act: str, *, missing: bool = False) -> Iterator[None]:
        """Errors of the store in our words; a file that is not there stays one, unless ``missing`` is one, too."""
        try:
            yield
        except Exception as error:  # every store's library has errors of its own
            if isinstance(error, FileNotFoundError) and not missing:
                raise
            raise store_failure(error, self.url, act) from error

    def _put(self, path: str, content: bytes) -> None:
        if not is_local(self.url):
            self._fs.pipe_file(path, content, **({"timeout": REQUEST_S} if self._fs.async_impl else {}))
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            reach("file-drafted")
            draft.replace(target)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

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
        with contextlib.suppress(FileNotFoundError), self._told("tidied"):
            self._fs.rm_file(posixpath.join(self._path, name))

    def remove_tree(self, names: Sequence[str]) -> None:
        """Take these files and folders of it away, and itself if nothing else is in it."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._told("tidied"):
                self._fs.rm(posixpath.join(self._path, name), recursive=True)
        if is_local(self.url):
            with contextlib.suppress(OSError):  # somebody's files are in it
                Path(self._path).rmdir()
