"""Tiles given up, by cause: counted, one to look at, and what to do about them."""

from __future__ import annotations

import pytest

from jobs.dashboard.failures import advice, kind, retryable
from mapper import errors
from mapper.errors import AssetError, MapperError, ReadError, StoreError


@pytest.mark.parametrize(
    "error",
    [
        ReadError("it timed out", fix="lower readers", tile="r1c1", asset="https://x/a(1).tif"),
        StoreError("it was refused", fix="try later; or never"),
        AssetError("it is cut short", fix="tell them (they know)", tile="r1c1"),
    ],
)
def test_an_error_that_says_what_to_do_is_listened_to(error: MapperError) -> None:
    assert advice(type(error).__name__, str(error)) == error.fix


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_one_that_does_not_gets_the_advice_of_its_kind(name: str) -> None:
    said = advice(name, str(kind(name)("it went wrong", tile="r1c1")))
    assert said
    assert "it went wrong" not in said


@pytest.mark.parametrize(
    ("cause", "again"),
    [("ReadError", True), ("StoreError", True), ("ResourceError", True), ("WorkerLostError", True),
     ("AssetError", False), ("CredentialsError", False), ("ModelError", False), ("MapperError", False),
     ("of another version", False), ("told", False), ("PASSING", False)],
)  # fmt: skip
def test_only_what_passes_by_itself_is_called_retryable(cause: str, again: bool) -> None:
    assert retryable(cause) is again
