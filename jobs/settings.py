"""The environment variables resmap knows: all of them, and nowhere else.

One more, ``RESMAP_CACHE``, says where fetched weights are kept. It is read in ``mapper/models/fetch.py``, because
models are loaded by workers and notebooks that know no jobs.
"""

from __future__ import annotations

import os
from pathlib import Path


def registry_url() -> str:
    """Where runs and monitors are indexed: ``RESMAP_REGISTRY``, else a SQLite file in the user's data folder."""
    given = os.environ.get("RESMAP_REGISTRY")
    if given:
        return given
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return f"sqlite:///{Path(home) / 'resmap' / 'registry.db'}"
