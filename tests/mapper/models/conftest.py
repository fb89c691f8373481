"""What the tests of models share: a model made on the spot, a cache of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mapper.models.plugged import lines


@pytest.fixture
def lines_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a model with a published form, brought by a package."""
    monkeypatch.syspath_prepend(lines(tmp_path / "site"))
    yield "lines"
    sys.modules.pop("resmap_lines", None)


@pytest.fixture
def lines_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same, whose card says that it needs the tokenizer ``someone/words``."""
    monkeypatch.syspath_prepend(lines(tmp_path / "site", tokenizer="someone/words"))
    yield "lines"
    sys.modules.pop("resmap_lines", None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched weights are kept, empty at first."""
    monkeypatch.setenv("RESMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"
