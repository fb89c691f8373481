"""The pages tell what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readme import PAGES, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text
