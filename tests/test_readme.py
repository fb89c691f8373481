"""The README tells what was measured."""

from __future__ import annotations

from benchmarks.readme import README, with_tables


def test_the_tables_of_the_readme_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text
