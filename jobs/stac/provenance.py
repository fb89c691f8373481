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
from jobs.ledger import RunFolder
from jobs.renewal import runs_in_turn
from mapper.errors import MosaicError

_FACTS = (
    "run", "name", "state", "created", "ended", "steps", "planned", "seam", "fingerprint", "versions",
    "renews", "monitor", "due", "sources_from", "gone",
)  # fmt: skip
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
    job = job_of(folder)
    if isinstance(monitor := job.get("monitor"), Mapping):  # whom it tells is nobody else's business
        job = job | {"monitor": {key: value for key, value in monitor.items() if key != "sinks"}}
    cleaned: dict[str, Any] = clean({**document, "job": job})
    return cleaned


def job_of(folder: RunFolder) -> dict[str, Any]:
    """The job file of a run as plain values, as it was given; empty where it holds something else."""
    job = yaml.safe_load(folder.job())
    return job if isinstance(job, dict) else {}


def told_items(mosaic: str) -> bytes:
    """The items of all runs of a mosaic for everybody: stac-geoparquet, row *n* is what the source layer calls *n*.

    Raises:
        MosaicError: the item table of a run is missing.
    """
    from catalogs.snapshot import freeze, thaw  # and with it pandas, of which nobody else here has need

    tables = {run.renewal.sources_from if run.renewal else 0: run.folder for run in runs_in_turn(mosaic)}
    documents: list[Any] = []
    for begin, run in sorted(tables.items()):
        if begin != len(documents):
            raise MosaicError(
                "the item tables of its runs do not follow one another",
                fix="`resmap verify` tells which file of a run is missing or was changed",
                mosaic=mosaic,
                run=run.run,
            )
        documents += (clean(document) for document in thaw(run.items()))
    return freeze(documents)


def clean(value: Any) -> Any:
    """The same JSON without secrets: addresses unsigned, webhooks by their hosts alone, and fields left out that hold
    what opens a store."""
    if isinstance(value, str):
        return _ADDRESS.sub(lambda found: _plain(found[0]), value)
    if isinstance(value, Mapping):
        known = {key: held for key, held in value.items() if not _SECRETS.search(str(key))}
        return {key: _host(held) if key == "webhook" and held else clean(held) for key, held in known.items()}
    if isinstance(value, list | tuple):
        return [clean(held) for held in value]
    return value


def _host(address: Any) -> str:
    """``https://hooks.example.com/…``: of a webhook the path is a secret as well."""
    try:
        parts = urlsplit(str(address))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
    except ValueError:
        return "…"


def _plain(address: str) -> str:
    try:
        parts = urlsplit(unsigned(address))
        if parts.scheme == "hf":  # its @ is of the revision
            return urlunsplit(parts)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        return address.partition("?")[0]
