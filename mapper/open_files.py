"""The files a process has open: each header asked for once, however many threads read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio

from mapper.imagery import Asset
from mapper.kept import Kept
from mapper.raster import GDAL_OPTIONS, Raster, opened
from mapper.traffic import TRAFFIC, host_of
from mapper.work import SPENT

SHARING = {"CPL_VSIL_CURL_NON_CACHED": ""}
"""What a later dataset of a file is opened with: it takes the header from what GDAL remembers of the first."""

OPEN_FILES = 128
"""Files a reader keeps open. A dataset takes memory for its directories, some hundred kilobytes."""


class OpenFile:
    """One file, and the datasets on it that no thread uses at present.

    GDAL's datasets serve one thread at a time. The first one forgets, once closed, all that GDAL remembers of the file
    (see ``GDAL_OPTIONS``); while it is open the others share that memory and ask the server for nothing but pixels. So
    the first is closed last.
    """

    def __init__(self, asset: Asset) -> None:
        """Open it.

        Raises:
            AssetError: it has no place, or its blocks are too large.
            rasterio.errors.RasterioError: it cannot be opened.
        """
        self._asset = asset
        host = host_of(asset.href)
        with SPENT.waiting("read"), TRAFFIC.request("imagery", host), rasterio.Env(**GDAL_OPTIONS):
            first = opened(asset)
        try:
            self.raster = Raster(first, asset)
        except BaseException:
            first.close()
            raise
        self._lock = threading.Lock()
        self._datasets = [first]
        self._idle = [first]
        self._closed = False

    @contextmanager
    def dataset(self) -> Iterator[Any]:
        """A dataset for this thread alone."""
        with self._lock:
            dataset = self._idle.pop() if self._idle else None
        if dataset is None:
            with rasterio.Env(**GDAL_OPTIONS | SHARING):
                dataset = opened(self._asset)
                # GDAL looks through a file's directories when first asked about one, with Python's lock held: it does
                # so now, while what it remembers of them is at hand.
                dataset.overviews(1)
            with self._lock:
                self._datasets.append(dataset)
        try:
            yield dataset
        finally:
            with self._lock:
                self._idle.append(dataset)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close its datasets; those in use as soon as all have come back."""
        with self._lock:
            self._closed = True
            over = self._datasets if len(self._idle) == len(self._datasets) else []
            if over:
                self._datasets, self._idle = [], []
        for dataset in reversed(over):
            dataset.close()


class OpenFiles:
    """The open files of a reader, by href; threads share them."""

    def __init__(self) -> None:
        self._files: Kept[str, OpenFile] = Kept(OPEN_FILES, drop=OpenFile.close)

    def get(self, asset: Asset) -> OpenFile:
        """The file, opened if it is not; where several threads ask at once, by one of them.

        Raises:
            AssetError, rasterio.errors.RasterioError: as ``OpenFile``.
        """
        return self._files.get(asset.href, lambda: OpenFile(asset))

    def known(self, asset: Asset) -> Raster | None:
        """What is known of a file that is open; None of another."""
        file = self._files.peek(asset.href)
        return None if file is None else file.raster

    def forget(self, href: str) -> None:
        """Close a file that went wrong, so that the next try opens it anew."""
        self._files.forget(lambda kept: kept == href)
