"""Errors say what, where and what to do, wherever they travel."""

from __future__ import annotations

import pickle

import pytest

from mapper import errors
from mapper.errors import MapperError

CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MapperError)
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_trip_between_processes(kind: type[MapperError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", fix="mend it", tile="r1c2", asset="a.tif")))
    assert (type(error), error.what, error.fix, error.where) == (
        kind,
        "it broke",
        "mend it",
        {"tile": "r1c2", "asset": "a.tif"},
    )


def test_an_error_reads_as_what_where_and_remedy() -> None:
    error = MapperError("it broke", fix="mend it", tile="r1c2", zone="")
    assert str(error) == "it broke (tile r1c2); mend it"


@pytest.mark.parametrize("kind", CLASSES)
def test_the_tree_in_the_docstring_names_every_error(kind: type[MapperError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
