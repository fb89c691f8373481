"""The environment variables resmap knows: all of them, and nowhere else.

One more, ``RESMAP_CACHE``, says where fetched weights are kept. It is read in ``mapper/models/fetch.py``, because
models are loaded by workers and notebooks that know no jobs.
"""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """What resmap keeps for this user: the registry, submitted jobs and their logs, the server's token."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "resmap"


def registry_url() -> str:
    """Where runs and monitors are indexed: ``RESMAP_REGISTRY``, else a SQLite file in the user's data folder."""
    return os.environ.get("RESMAP_REGISTRY") or f"sqlite:///{data_folder() / 'registry.db'}"


def token() -> str | None:
    """What a server is shown by its clients: ``RESMAP_TOKEN``."""
    return os.environ.get("RESMAP_TOKEN") or None


def token_file() -> Path:
    """Where the server of this user keeps the token that it made for itself."""
    return data_folder() / "token"
