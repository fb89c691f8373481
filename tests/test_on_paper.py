"""The continent on paper: its page says what its script says, and its arithmetic is that of a plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.on_paper import (
    LANDS,
    OVERLAP_PX,
    PAGE,
    REUSED,
    SHARD_PX,
    UNKNOWN,
    Land,
    Work,
    tables_of,
    with_tables,
)  # fmt: skip
from benchmarks.record import RESULTS
from benchmarks.unit_costs import read_units
from mapper.grid import Grid, Lattice, PixelBox, Windows

WINDOW_PX = 896


def test_the_page_says_what_the_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_tables(text, tables_of(read_units(RESULTS))) == text


def test_where_nothing_was_measured_the_tables_say_so(tmp_path: Path) -> None:
    tables = tables_of(read_units(tmp_path))
    for name in ("units", "work", "needs", "money"):
        assert any(UNKNOWN in line for line in tables[name])
    assert not any("None" in line or "nan" in line for lines in tables.values() for line in lines)


@pytest.fixture
def square() -> tuple[Grid, Work]:
    """A land of 24 × 24 shards, as a grid and on paper."""
    side = 24 * SHARD_PX
    grid = Grid(lattice=Lattice(crs="EPSG:32632", res_x=10, res_y=10), box=PixelBox(0, 0, side, side),
                shard_px=SHARD_PX, chunk_px=512)  # fmt: skip
    land = Land(name="square", km2=(side * 10 / 1000) ** 2, resolution_m=10, looks=2, scene="", bands=3, files=1,
                band_bytes=1)  # fmt: skip
    return grid, Work(land=land, window_px=WINDOW_PX)


def test_tiles_windows_and_reads_on_paper_are_those_of_a_grid(square: tuple[Grid, Work]) -> None:
    grid, work = square
    windows = Windows(size_px=WINDOW_PX, overlap_px=OVERLAP_PX)
    assert work.tiles == len(list(grid.tiles()))
    # The page leaves the outline out of account: here it is a row of windows in more than a hundred.
    assert work.windows / REUSED == pytest.approx(sum(1 for _ in windows.touching(grid.box)), rel=0.02)
    frames = np.array([windows.frame(tile.core).shape for tile in grid.tiles()], np.int64)
    assert work.read_mpx * 1e6 == pytest.approx(int(frames.prod(axis=1).sum()) * 2, rel=0.01)


def test_hours_and_money_follow_the_rate_and_the_results(tmp_path: Path) -> None:
    work = Work(land=LANDS[0], window_px=WINDOW_PX)
    assert work.gpu_hours(10) == pytest.approx(5 * work.gpu_hours(50))
    ours = {"ours": {"cpu_s": 2.0, "requests": 300, "mb": 100.0}}
    measured = [
        {"scene": scene, "latency_ms": 30.0, "ways": ours} for scene in ("satellite, deflate", "aerial, deflate")
    ]
    (tmp_path / "read.json").write_text(json.dumps({"frames_px": 1e8, "measured": measured}))
    units = read_units(tmp_path)
    assert units.reading["aerial, deflate"].cpu_s == pytest.approx(0.02)
    needs = tables_of(units)["needs"]
    assert any("requests a second" in line and UNKNOWN not in line for line in needs)
