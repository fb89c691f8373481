"""Telemetry as it grows: the same whether it is read at once or bit by bit, and however workers were replaced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from cluster.readings import Calls, Reading
from jobs.dashboard.samples import AT, RECENT_S, Samples
from jobs.ledger import RunFolder
from jobs.telemetry import Row, WorkerNow

BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC)
STEP_S = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "map.zarr"), "run")


def row(worker: str, step: int, *, since: int = 0, share: float = 0.6, area_km2: float | None = None) -> Row:
    """A worker that began after so many steps, at a later one."""
    up_s = (step - since) * STEP_S
    tiles = 2 * (step - since)
    said = Reading(
        worker=worker, began=BEGAN.timestamp() + since * STEP_S, up_s=up_s, busy_s=share * up_s,
        waited_s={"read": (1 - share) * up_s}, work_s={"read": 1.5 * up_s, "decode": 0.5 * up_s}, tiles=tiles,
        pixels=tiles * 1_000_000,
        calls=(Calls(kind="imagery", host="a", done=3 * tiles, failed=tiles),),
    )  # fmt: skip
    area = 0.5 * tiles if area_km2 is None else area_km2
    return Row(at=BEGAN + timedelta(seconds=step * STEP_S), worker=WorkerNow(reading=said, heard_s=0.1, area_km2=area))


def write(folder: RunFolder, rows: list[Row], *, each: int) -> None:
    ledger = folder.telemetry_ledger()
    for begin in range(0, len(rows), each):
        for one in rows[begin : begin + each]:
            ledger.record(one)
        ledger.flush()


def two_workers(first: int, last: int) -> list[Row]:
    """One of them is replaced in the twentieth interval."""
    return [
        one
        for step in range(first, last)
        for one in (row("a", step), row("b", step) if step <= 20 else row("b", step, since=20, area_km2=float(step)))
    ]


def test_bit_by_bit_it_says_what_it_says_at_once(folder: RunFolder) -> None:
    growing = Samples(folder=folder)
    for first in range(1, 121, 7):
        write(folder, two_workers(first, min(121, first + 7)), each=5)
        growing.refresh()
    whole = Samples(folder=folder)
    whole.refresh()
    assert growing.columns() == whole.columns()
    assert growing.idle_s() == whole.idle_s()
    assert growing.reading() == whole.reading()
    assert {actor: [one.at for one in held] for actor, held in growing.recent.items()} == {
        actor: [one.at for one in held] for actor, held in whole.recent.items()
    }
    assert not growing.refresh()


def test_what_grew_adds_up_to_what_was_said_last(folder: RunFolder) -> None:
    write(folder, two_workers(1, 121), each=9)
    samples = Samples(folder=folder)
    samples.refresh()
    grown = np.sum(list(samples.minutes.values()), axis=0)
    said = np.sum([one.figures for one in samples.last.values()], axis=0)
    for name in ("tiles", "up_s", "busy_s", "wait_read", "imagery_calls", "imagery_failed"):
        assert grown[AT[name]] == pytest.approx(said[AT[name]])
    # Two tiles a step and half a km2 each: the seat of b goes on with its area, of which its first actor did 20.
    assert grown[AT["area_km2"]] == pytest.approx(120 + 120)
    assert samples.idle_s() == pytest.approx(0.4 * (120 + 20 + 100) * STEP_S)


def test_shares_make_one_and_rates_are_those_of_the_minute(folder: RunFolder) -> None:
    write(folder, two_workers(1, 121), each=9)
    samples = Samples(folder=folder)
    samples.refresh()
    columns = samples.columns()
    assert columns["at"][:2] == ["2026-05-01T12:01:00Z", "2026-05-01T12:02:00Z"]
    assert columns["tiles_per_s"][5] == pytest.approx(2 * 2 / STEP_S)
    assert columns["failed_per_s"][5] == pytest.approx(2 * 2 / STEP_S)
    parts = [columns[name] for name in columns if name == "busy" or name.startswith("wait_")]
    for shares in zip(*parts, strict=True):
        assert sum(shares) == pytest.approx(1.0)
    # Each reads in 1.5 threads and decodes in a half.
    assert samples.reading() == pytest.approx(4.0)


def test_of_a_long_run_only_the_last_minutes_are_kept_row_by_row(folder: RunFolder) -> None:
    write(folder, [row("a", step) for step in range(1, 400)], each=50)
    samples = Samples(folder=folder)
    samples.refresh()
    (held,) = samples.recent.values()
    assert len(held) == RECENT_S / STEP_S + 1


def test_of_a_run_without_telemetry_nothing_is_known(folder: RunFolder) -> None:
    samples = Samples(folder=folder)
    assert not samples.refresh()
    assert samples.idle_s() is None
    assert samples.reading() is None
    assert samples.columns()["at"] == []
