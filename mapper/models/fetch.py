"""Weights by path, by address or from the model hub: verified, and kept once a machine.

    ~/.cache/resmap/weights/             RESMAP_CACHE, where set, stands for ~/.cache/resmap
      <sha256>.safetensors               named by what it holds, so two addresses of one file keep it once
      <sha256>.json                      where it came from
      <…>.lock                           eight workers of a machine fetch once, seven wait

A file from elsewhere is used only if its sha256 is known beforehand, or if the hub vouches for it by a commit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from mapper.errors import CredentialsError, MapperError, ModelError

SCHEMES = ("https", "http", "s3", "gs", "az", "abfs", "hf")
"""What an address may begin with; the sha256 is what is trusted, so plain http will do inside a cluster."""

HEADER_KEY = "resmap"
"""The entry of a safetensors header that says which model it is; ``weights.py`` writes it."""

LARGEST_BYTES = 64 * 2**30
"""The largest published model has 4 GB; an address that never ends must not fill the disk."""

LARGEST_HEADER_BYTES = 100 * 2**20
"""As the format has it."""

CONNECT_S, SILENT_S = 30.0, 120.0
"""How long a server may take to answer, and to send the next bytes. There is no limit for the whole."""

ATTEMPTS, WAIT_S = 3, 1.0
"""A connection that breaks in a file of gigabytes is ordinary."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[^/@\s]+)/(?P<file>[^\s]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file on the model hub: ``hf://owner/name@revision/path/in/it``."""

    repo: str
    revision: str
    file: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which nobody can move."""
        return _COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Weights in the cache."""

    path: Path
    sha256: str
    model: str
    """As the file says; empty where it does not."""

    source: str
    """The address they came from, without its secrets."""

    size_bytes: int


def cache_folder() -> Path:
    """Where fetched weights are kept: below ``RESMAP_CACHE``, else below the user's cache folder."""
    given = os.environ.get("RESMAP_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given).expanduser() if given else Path(home) / "resmap") / "weights"


def check_address(weights: str, sha256: str | None) -> None:
    """Whether weights may be had from here, before anything is opened.

    Raises:
        ModelError: the address is of no known kind, or nothing vouches for what it gives.
    """
    if _is_local(weights):
        return
    scheme = weights.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise ModelError(
            f"weights cannot be fetched from {scheme}://",
            fix=f"give a path, or an address that begins with one of {', '.join(SCHEMES)}",
            weights=shown(weights),
        )
    if sha256 is None and not (scheme == "hf" and hub_file(weights).pinned):
        fix = "give its sha256 beside it"
        raise ModelError(
            "weights from elsewhere must be vouched for",
            fix=fix + (", or a commit of 40 hex digits as the revision" if scheme == "hf" else ""),
            weights=shown(weights),
        )


def hub_file(address: str) -> HubFile:
    """The parts of an address on the model hub.

    Raises:
        ModelError: it is not ``hf://owner/name@revision/file``.
    """
    parts = _HUB.fullmatch(address)
    if parts is None or ".." in parts["file"].split("/"):
        raise ModelError(
            "this is no file on the model hub", fix="write hf://owner/name@revision/file", weights=shown(address)
        )
    return HubFile(repo=parts["repo"], revision=unquote(parts["revision"]), file=parts["file"])


def fetch(weights: str, sha256: str | None = None, *, wait_s: float = WAIT_S) -> Path:
    """A local file with these weights: the path given, or the cached copy of what lies at an address.

    Args:
        weights: a path, ``https://…``, ``s3://…``, ``gs://…``, ``az://…`` or ``hf://owner/name@revision/file``.
        sha256: what the file's digest must be, in hex; None only for a path or a commit of the hub.
        wait_s: before a broken download is tried again; twice as long before the last time.

    Raises:
        ModelError: nothing vouches for the address, nothing answers there, or the digest is another.
        CredentialsError: the server wants a login.
    """
    sha256 = sha256.lower() if sha256 else None
    check_address(weights, sha256)
    if _is_local(weights):
        path = _local(weights)
        if sha256 is not None:
            _check_local(path, sha256)
        return path
    folder = cache_folder()
    found = _kept(folder, weights, sha256)
    if found is not None:
        return found
    with _alone(folder, sha256 or hashlib.sha256(weights.encode()).hexdigest()) as desk:
        # While this process waited, another may have fetched it.
        return _kept(folder, weights, sha256) or _fetch(desk, weights, sha256, wait_s)


def from_hub(wanted: HubFile, *, folder: Path | None = None) -> Path:
    """A file of the model hub on this machine: in a folder, or where the hub's own tools keep it.

    Raises:
        ModelError: there is no such file, or the hub cannot be reached.
        CredentialsError: its terms must be accepted first, or it is private.
    """
    from huggingface_hub import errors, hf_hub_download

    where = {"weights": f"hf://{wanted.repo}@{wanted.revision}/{wanted.file}"}
    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_dir=folder))
    except errors.GatedRepoError as error:
        raise CredentialsError(
            f"{wanted.repo} is given to those who accepted its terms",
            fix=f"accept them at https://huggingface.co/{wanted.repo}, then: hf auth login",
            **where,
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:  # before its parent: no network
        raise ModelError(
            "the model hub cannot be reached", fix="check the network, or give the path of a copy", **where
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        kinds: dict[type[Exception], str] = {
            errors.RepositoryNotFoundError: f"repository {wanted.repo}, or it is private",
            errors.RevisionNotFoundError: f"revision {wanted.revision}",
        }
        missing = next((what for kind, what in kinds.items() if isinstance(error, kind)), f"file {wanted.file}")
        raise ModelError(f"the model hub has no {missing}", fix="correct the address", **where) from error
    except Exception as error:  # of a dozen more kinds; what each means is said by its own words
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(folder or cache_folder(), where) from error
        raise ModelError(
            f"the model hub did not give the file: {type(error).__name__}: {str(error)[:200]}",
            fix="try again later, or give the path of a copy",
            **where,
        ) from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex. A file that has not changed is read once a process.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns)


def kept_weights() -> list[Kept]:
    """What is in the cache, by name; files that are no weights are left out."""
    return [
        Kept(
            path=path,
            sha256=path.stem,
            model=str(header.get("model", "")),
            source=str(_note(path).get("source", "")),
            size_bytes=path.stat().st_size,
        )
        for path in sorted(cache_folder().glob("*.safetensors"))
        if (header := header_of(path)) is not None
    ]


def header_of(path: Path) -> dict[str, Any] | None:
    """What a weights file says of itself; None where it is no safetensors file. No tensor is read."""
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > LARGEST_HEADER_BYTES:
                return None
            said = json.loads(file.read(size)).get("__metadata__", {}).get(HEADER_KEY, "{}")
        header = json.loads(said)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, struct.error):
        return None
    return header if isinstance(header, dict) else {}


def is_pickle(path: Path) -> bool:
    """Whether a file looks like one of torch's pickles, zipped or bare, and not like safetensors.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors: eight bytes of length, which may happen to be PK, then JSON
        return False
    return head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def refused_pickle(path: str | Path, *, model: str = "NAME") -> ModelError:
    """Why a pickle is not opened, and how to make a safe file of it."""
    return ModelError(
        "these weights are a pickle, which could run code: it was not opened",
        fix=f"make a safe file of it once: resmap models convert {model} FILE --out {model}.safetensors",
        weights=path,
    )


def shown(address: str) -> str:
    """An address as it may be printed: without user, password and query, where secrets travel."""
    if _is_local(address):
        return address
    parts = urlsplit(address)
    if parts.scheme == "hf":  # its @ is of the revision
        return address.partition("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_local(weights: str) -> bool:
    return "://" not in weights or weights.startswith("file://")


def _local(weights: str) -> Path:
    return Path(url2pathname(urlsplit(weights).path) if weights.startswith("file://") else weights).expanduser()


@lru_cache(maxsize=64)
def _digest(path: Path, inode: int, size: int, changed_ns: int) -> str:
    """Keyed by what changes when a file does: weights of gigabytes are not read twice to be checked twice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_local(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read: {error.strerror}", fix="check model.weights", weights=path
        ) from error
    if found != expected:
        raise ModelError(
            f"the weights have sha256 {found[:12]}…, and the job asks for {expected[:12]}…",
            fix="get the right file, or correct model.sha256",
            weights=path,
        )


def _kept(folder: Path, address: str, sha256: str | None) -> Path | None:
    """The cached copy, if it is there and whole."""
    known = sha256 or next(
        (note.stem for note in folder.glob("*.json") if _note(note).get("source") == shown(address)), None
    )
    path = folder / f"{known}.safetensors"
    return path if known is not None and path.is_file() and sha256_of(path) == known else None


def _note(path: Path) -> dict[str, Any]:
    """What is noted beside a cached file."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[Path]:
    """A folder to work in, while no other process of this machine fetches the same; it is gone afterwards."""
    from filelock import FileLock

    desk = folder / f".{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire()
        shutil.rmtree(desk, ignore_errors=True)  # of a process that was killed
        desk.mkdir()
    except OSError as error:
        raise ModelError(
            f"weights cannot be kept here: {error.strerror or error}",
            fix="set RESMAP_CACHE to a folder that can be written",
            folder=folder,
        ) from error
    try:
        yield desk
    finally:
        shutil.rmtree(desk, ignore_errors=True)
        lock.release()


def _fetch(desk: Path, address: str, sha256: str | None, wait_s: float) -> Path:
    """Download, check, and give it its name in one step."""
    place = {"weights": shown(address)}
    half, note = desk / "weights", desk / "note"
    if address.startswith("hf://"):
        from_hub(hub_file(address), folder=desk / "hub").replace(half)
    else:
        _download(address, half, place, wait_s)
    if is_pickle(half):
        raise refused_pickle(place["weights"])
    found = sha256_of(half)
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"what lies there has sha256 {found[:12]}…, and the job asks for {sha256[:12]}…: it was not kept",
            fix="correct the address, or model.sha256",
            **place,
        )
    path = desk.parent / f"{found}.safetensors"
    note.write_text(json.dumps({"source": place["weights"]}) + "\n")
    half.chmod(0o644)
    half.replace(path)
    note.replace(path.with_suffix(".json"))
    return path


def _download(address: str, half: Path, place: dict[str, str], wait_s: float) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_once(address, half, place)
            return
        except MapperError:
            raise
        except Exception as error:  # each store's library has a tree of its own; sorted out just below
            failure, lasting = _failure(error, address, half.parent, place)
            if lasting or attempt == ATTEMPTS:
                raise failure from error
        time.sleep(wait_s * attempt)


def _download_once(address: str, half: Path, place: dict[str, str]) -> None:
    import fsspec
    from fsspec.callbacks import Callback

    scheme = address.partition("://")[0].lower()
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        # The library's own limit is five minutes for the whole file. Proxies and .netrc are honoured.
        limits = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENT_S)
        # A signed address is sent as it is: decoding its %2F would break the signature.
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}, "encoded": "%" in address}
    try:
        store, path = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        raise ModelError(f"{scheme}:// needs another package", fix=str(error), **place) from error

    class Guard(Callback):  # type: ignore[misc]  # fsspec has no types
        """Stops what is larger than it may be, before the disk is full of it."""

        def set_size(self, size: int | None) -> None:
            super().set_size(size)
            _check_room(size or 0, half.parent, place)

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > LARGEST_BYTES:
                _check_room(self.value, half.parent, place)

    store.get_file(path, str(half), callback=Guard())


def _check_room(size: int, folder: Path, place: dict[str, str]) -> None:
    if size > LARGEST_BYTES:
        raise ModelError(
            f"what lies there has more than {LARGEST_BYTES // 2**30} GB: these are no weights",
            fix="correct the address",
            **place,
        )
    if size > shutil.disk_usage(folder).free:
        raise _full(folder, place, size)


def _full(folder: Path, place: dict[str, str], size: int = 0) -> ModelError:
    needed = f" {size / 1e9:.1f} GB of" if size else ""
    return ModelError(
        f"there is no room for{needed} weights",
        fix="make room, or set RESMAP_CACHE to a folder of a larger disk",
        folder=folder.parent,
        **place,
    )


def _failure(error: Exception, address: str, folder: Path, place: dict[str, str]) -> tuple[MapperError, bool]:
    """What a failed download means, and whether trying again is no use."""
    status = getattr(error, "status", None)
    said = f"{type(error).__name__}: {error}".replace(address, place["weights"])[:200]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _full(folder, place), True
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return ModelError("there are no weights at this address", fix="correct it", **place), True
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return CredentialsError("the weights may not be read", fix="log in to where they lie", **place), True
    if status is not None:
        return ModelError(
            f"the server answers with status {status}", fix="try again later, or correct the address", **place
        ), status < 500
    return ModelError(
        f"the weights did not arrive: {said}",
        fix="check the network and the address, then run the command again",
        **place,
    ), False
