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


def prices_file() -> Path | None:
    """The user's table of GPU prices: ``RESMAP_PRICES``; None for the shipped one."""
    given = os.environ.get("RESMAP_PRICES")
    return Path(given).expanduser() if given else None


def token() -> str | None:
    """What a server is shown by its clients: ``RESMAP_TOKEN``."""
    return os.environ.get("RESMAP_TOKEN") or None


def token_file() -> Path:
    """Where the server of this user keeps the token that it made for itself."""
    return data_folder() / "token"


def alert_hosts() -> frozenset[str]:
    """Hosts on a private network to which alerts may go: ``RESMAP_ALERT_HOSTS``, with commas between them."""
    return frozenset(
        filter(None, (name.strip().lower() for name in os.environ.get("RESMAP_ALERT_HOSTS", "").split(",")))
    )


def smtp_login() -> tuple[str, str, str] | None:
    """User, password and server of e-mail: ``RESMAP_SMTP_USER``, ``RESMAP_SMTP_PASSWORD``, ``RESMAP_SMTP_SERVER``.

    The server is the host that the password is for: a job file names where e-mail goes, and must not be able to send
    a password there. Empty where it is not set; None where there is no user.
    """
    user = os.environ.get("RESMAP_SMTP_USER")
    if not user:
        return None
    server = os.environ.get("RESMAP_SMTP_SERVER", "").strip().lower()
    return user, os.environ.get("RESMAP_SMTP_PASSWORD", ""), server


def named_secret(variable: str) -> str | None:
    """What the environment holds under a name that a job file gives: the secret of a webhook."""
    return os.environ.get(variable) or None
