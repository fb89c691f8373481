"""What may come of input from strangers: it is taken, or refused in a sentence. There is no third."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mapper.errors import MapperError


def outcome(act: Callable[[], Any]) -> Any:
    """What an act gives, or the error it raises where that is one of ours and says what to do; others fail the test."""
    try:
        return act()
    except MapperError as error:
        assert_a_sentence(error)
        return error


def assert_a_sentence(error: MapperError) -> None:
    """What, where or what to do, in a length that people read, and nothing that moves a terminal's cursor."""
    assert error.what.strip()
    assert error.fix or error.where, f"says neither where nor what to do: {error.what}"
    assert len(error.what) < 2500, f"a sentence of {len(error.what)} characters: {error.what[:200]}…"
