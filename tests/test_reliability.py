"""The page on reliability tells what was measured, and names tests that there are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.reliability import PAGE, PROMISES, Kept, with_table
from tests.chaos.scenarios import SCENARIOS

ROOT = Path(__file__).parents[1]
NAMED = sorted({name for kept in PROMISES for name in kept.tests})


def test_the_table_is_that_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text) == text


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_it_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    there = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function in there


BESIDE_KILLS = {
    "simulation": "make chaos-sim",
    "fuzz": "make fuzz",
    "fleet": "make cluster-record",
    "faults-radosgw-zarr": "python -m benchmarks.bench_faults --server radosgw",
}


def test_every_long_run_has_its_line() -> None:
    kills = {f"chaos_{name}" for name in SCENARIOS}
    assert kills | BESIDE_KILLS.keys() == {kept.result for kept in PROMISES if kept.result}


@pytest.mark.parametrize("kept", [kept for kept in PROMISES if kept.result], ids=lambda kept: kept.result)
def test_every_long_run_has_its_command(kept: Kept) -> None:
    kill = f"python -m tests.chaos {kept.result.removeprefix('chaos_')}"
    assert kept.command == BESIDE_KILLS.get(kept.result, kill)
