"""What may be told to everybody of how a mosaic was made: no signature, no password, no name of a machine.

A run's own file is for those who run it: it names hosts and processes, and its errors quote whatever a server said.
What is published is chosen field by field; addresses lose user, password and signature wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from catalogs.hrefs import unsigned
from catalogs.snapshot import freeze, thaw
from jobs.ledger import RunFolder

_FACTS = ("run", "name", "state", "created", "ended", "steps", "planned", "seam", "fingerprint", "versions")
_SECRETS = re.compile(r"storage_options|open_kwargs|credential|authorization|password|secret|token|api_?key", re.I)
"""Names of fields that hold what opens a store, in the extensions that have such fields."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def told(folder: RunFolder) -> dict[str, Any]:
    """A run in what everybody may know of it: what was asked, what ran, how it ended."""
    facts = folder.facts()
    document = {key: facts[key] for key in _FACTS if key in facts}
    summary = facts.get("summary")
    if isinstance(summary, Mapping):
        document["tiles"] = summary.get("tiles")
        document["device"] = summary.get("device")
    cleaned: dict[str, Any] = clean({**document, "job": job_of(folder)})
    return cleaned


def job_of(folder: RunFolder) -> dict[str, Any]:
    """The job file of a run as plain values, as it was given; empty where it holds something else."""
    job = yaml.safe_load(folder.job())
    return job if isinstance(job, dict) else {}


def told_items(frozen: bytes) -> bytes:
    """The item table of a run for everybody: stac-geoparquet, row *n* still item *n*."""
    return freeze([clean(document) for document in thaw(frozen)])


def clean(value: Any) -> Any:
    """The same JSON without secrets: addresses unsigned, and fields left out that hold what opens a store."""
    if isinstance(value, str):
        return _ADDRESS.sub(lambda found: _plain(found[0]), value)
    if isinstance(value, Mapping):
        return {key: clean(held) for key, held in value.items() if not _SECRETS.search(str(key))}
    if isinstance(value, list | tuple):
        return [clean(held) for held in value]
    return value


def _plain(address: str) -> str:
    try:
        parts = urlsplit(unsigned(address))
        if parts.scheme == "hf":  # its @ is of the revision
            return urlunsplit(parts)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        return address.partition("?")[0]
