"""A bucket behind a proxy that breaks what it is told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

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
    """A bucket whose silence is waited out for two seconds instead of fifteen; nothing is broken yet."""
    with broken(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        reached = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 2}}
        monkeypatch.setitem(fsspec.config.conf, "s3", reached)
        yield Broken(bucket=bucket, proxy=proxy)
        proxy.breaks()
