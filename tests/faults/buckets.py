"""A bucket behind a proxy that breaks what it is told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import fsspec
import pytest

from tests.faults.proxy import Proxy, broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A bucket, and what stands before it."""

    bucket: str
    proxy: Proxy


@pytest.fixture
def faulty(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """A bucket whose silence is waited out for a second instead of fifteen, and which is asked again after a tenth of a
    second instead of half a one; nothing is broken yet."""
    # botocore waits some random part of a second, which doubles at each try, and takes no other number.
    monkeypatch.setattr("botocore.retryhandler.random", SimpleNamespace(random=lambda: 0.1))
    with broken(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        reached = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 1}}
        monkeypatch.setitem(fsspec.config.conf, "s3", reached)
        yield Broken(bucket=bucket, proxy=proxy)
        proxy.breaks()
