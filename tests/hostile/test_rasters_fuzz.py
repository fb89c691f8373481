"""The fuzz target for rasters, for a short while; and that it would tell of what it looks for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.children import Child, Said
from tests.hostile.fuzz_raster import GOOD, MOST_BYTES, fuzz, judged, spoiled
from tests.hostile.rasters import geotiff, seeds
from tests.hostile.test_rasters_http import _silent, raw_server

RUNS = 300


@pytest.mark.chaos
def test_spoiled_files_give_pixels_or_an_error_of_ours() -> None:
    count, bad = fuzz(RUNS, seed=20_000)
    assert not bad
    assert count.total() == RUNS
    assert set(count) <= set(GOOD)
    assert min(count["pixels"], count["AssetError"]) > RUNS // 20  # neither too gentle nor too rough to find anything


def test_a_number_spoils_the_same_file_in_the_same_way() -> None:
    spoilt = [spoiled(number) for number in range(60)]
    assert spoilt == [spoiled(number) for number in range(60)]
    assert len({content for _, content in spoilt}) > 50
    whole = dict(seeds())
    assert sum(content != whole.get(name) for name, content in spoilt) > 50


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(patience_s=2.0) as child:
        yield child


def ask(child: Child, href: str, folder: Path) -> Said:
    return child.ask(href=href, bands=3, stretch=None, coarse=False, placed=False, into=str(folder / "answer.npz"))


def test_who_dies_or_hangs_over_a_file_is_told_of_and_replaced(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(geotiff())
    child.ask(href="/none", bands=3, stretch=None, coarse=False, placed=False, into="")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    died = ask(child, str(path), tmp_path)
    assert (died.kind, died.what) == ("died", "status -9")
    with raw_server(_silent) as url:
        ask(child, str(path), tmp_path)
        assert ask(child, f"{url}/a.tif", tmp_path).kind == "hung"
    assert child.pid is None


def test_who_takes_too_much_memory_is_told_of(child: Child) -> None:
    assert judged(Said(kind="pixels", peak_bytes=MOST_BYTES + 1), child) == "heavy"
    assert judged(Said(kind="pixels", peak_bytes=MOST_BYTES), child) == "pixels"
    assert judged(Said(kind="died"), child) == "died"
