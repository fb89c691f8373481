"""Where an icechunk repository lies and how it is made: the same URLs and environment as those of a Zarr mosaic."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mapper.errors import MosaicError
from mapper.patience import FIRST_BACKOFF_MS, ICE_ATTEMPTS, LONGEST_BACKOFF_MS, SILENCE_S
from mapper.storage import Folder, has_repository, is_local

if TYPE_CHECKING:
    from icechunk import Repository, RepositoryConfig, Storage

FIRST_SNAPSHOT = "1CECHNKREP0F1RSTCMT0"
"""With which every repository begins; nothing is in it."""

_BEGUN = ("config.yaml", "snapshots", "transactions")
"""What a repository consists of before it has a branch: in the folders, no more than its first snapshot."""

SPLIT_SHARDS = 64
"""Side of the square of shards whose addresses share a manifest. A commit writes the manifests it touches anew, whole:
one that grows with the continent can at last be neither read nor collected."""

CACHED_REFS = 500_000
"""Addresses of shards that a process keeps, some 100 MB; icechunk's own limit is gigabytes."""


@cache
def icechunk() -> ModuleType:
    """The library, its log kept to errors unless the user asks for more.

    It warns, on stdout, that a local folder is not safe where several commit at once. One driver a mosaic commits, and
    its lease sees to that.
    """
    import icechunk as library

    if "ICECHUNK_LOG" not in os.environ:
        library.set_logs_filter("error")
    return library


def open_repository(url: str) -> Repository | None:
    """The repository that is there, or None. Nothing is made."""
    if is_local(url) and not has_repository(url):
        return None  # icechunk would make the folder, or panic
    storage = storage_at(url)
    try:
        found: Repository = icechunk().Repository.open(storage, config=_requests())
    except Exception:  # icechunk has one class for all errors
        if not icechunk().Repository.exists(storage):
            return None
        raise
    return found


def make_repository(url: str) -> Repository:
    """A new repository. What a killed process has left of one is taken away first.

    Raises:
        IcechunkError: something else is there.
        OSError: the folder cannot be made.
    """
    if is_local(url):
        Path(url.removeprefix("file://")).mkdir(parents=True, exist_ok=True)  # icechunk panics where it cannot
    folder = Folder(url)
    if (there := folder.names("*")) and set(there) <= set(_BEGUN):
        inside = {path.rpartition("/")[2] for name in _BEGUN[1:] for path in folder.names(f"{name}/*")}
        if inside <= {FIRST_SNAPSHOT}:
            folder.remove_tree(there)
    made: Repository = icechunk().Repository.create(storage_at(url), config=config())
    return made


def _requests() -> RepositoryConfig:
    """How often one request is made; all else as the repository says. What it says is read before, in ten tries."""
    ice = icechunk()
    retries = ice.StorageRetriesSettings(
        max_tries=ICE_ATTEMPTS, initial_backoff_ms=FIRST_BACKOFF_MS, max_backoff_ms=LONGEST_BACKOFF_MS
    )
    made: RepositoryConfig = ice.RepositoryConfig(storage=ice.StorageSettings(retries=retries))
    return made


def config() -> RepositoryConfig:
    """How a mosaic's repository keeps its manifests; stored with it, and heeded by all who open it."""
    ice = icechunk()
    axis = ice.ManifestSplitDimCondition
    splitting = ice.ManifestSplittingConfig.from_dict(
        {
            ice.ManifestSplitCondition.name_matches("^(mask|score|source)$"): {
                axis.DimensionName("y"): SPLIT_SHARDS,
                axis.DimensionName("x"): SPLIT_SHARDS,
                axis.Any(): 1,
            }
        }
    )
    no_preload = ice.ManifestPreloadConfig(max_total_refs=0, preload_if=ice.ManifestPreloadCondition.false())
    made: RepositoryConfig = ice.RepositoryConfig(
        caching=ice.CachingConfig(num_chunk_refs=CACHED_REFS),
        manifest=ice.ManifestConfig(splitting=splitting, preload=no_preload),
        storage=_requests().storage,
    )
    return made


def storage_at(url: str) -> Storage:
    """What icechunk calls the place of a repository. Credentials are found by it, in the environment.

    Raises:
        MosaicError: icechunk keeps nothing at such a URL.
    """
    ice = icechunk()
    if is_local(url):
        path = Path(url.removeprefix("file://")).absolute()
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file")
        storage: Storage = ice.local_filesystem_storage(str(path))
        return storage
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    makers = {"s3": _s3, "s3a": _s3, "gs": _google, "gcs": _google, "az": _azure, "abfs": _azure, "abfss": _azure}
    if scheme not in makers:
        raise MosaicError(
            f"icechunk keeps nothing at {scheme}://",
            fix="use a path, s3://, gs:// or az://, or output.engine: zarr",
            mosaic=url,
        )
    if not prefix:
        raise MosaicError(
            "an icechunk mosaic needs a folder in its bucket: what is known of it lies beside it",
            fix=f"use {url.rstrip('/')}/map",
            mosaic=url,
        )
    return makers[scheme](bucket, prefix)


def _s3(bucket: str, prefix: str) -> Storage:
    import fsspec

    settings = fsspec.config.conf.get("s3", {})  # FSSPEC_S3_…, as s3fs heeds it
    endpoint = settings.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
    anonymous = bool(settings.get("anon"))
    storage: Storage = icechunk().s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")),  # None: as the profile says
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,  # servers other than Amazon's rarely know buckets by host name
        network_stream_timeout_seconds=round(settings.get("config_kwargs", {}).get("read_timeout", SILENCE_S)),
        anonymous=anonymous or None,
        from_env=not anonymous or None,
    )
    return storage


def _google(bucket: str, prefix: str) -> Storage:
    storage: Storage = icechunk().gcs_storage(bucket=bucket, prefix=prefix, from_env=True)
    return storage


def _azure(container: str, prefix: str) -> Storage:
    name, _, host = container.partition("@")  # abfs://container@account.dfs.core.windows.net/folder
    account = host.partition(".")[0] or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    if not account:
        raise MosaicError(
            "nobody says in which storage account this container is",
            fix="set AZURE_STORAGE_ACCOUNT_NAME",
            container=name,
        )
    storage: Storage = icechunk().azure_storage(account=account, container=name, prefix=prefix, from_env=True)
    return storage
