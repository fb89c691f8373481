"""People's words → names of files, folders and runs."""

from __future__ import annotations

import hashlib
import re

LONGEST = 40


def slug(name: str) -> str:
    """A name made safe for paths and ids: at most 40 of a-z, 0-9 and hyphens, and 10 digits of its SHA-256.

    The digits keep apart what looks alike once it is plain: ``Häuser`` and ``H user``, or two sentences in Thai.
    """
    return "-".join(filter(None, (plain(name), hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10])))


def plain(name: str) -> str:
    """The part of a slug that people read, empty where nothing is left; by itself it keeps nothing apart."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST].strip("-")
