"""A mosaic on a map in the browser, served to this machine alone."""

from __future__ import annotations

from jobs.preview.app import app

__all__ = ["app"]
