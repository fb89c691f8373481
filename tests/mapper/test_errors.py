"""Errors say what, where and what to do, wherever they travel."""

from __future__ import annotations

import pickle

import pytest

from mapper import errors
from mapper.errors import AssetError, MapperError

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


def test_what_a_server_said_of_waiting_travels_with_the_error_and_is_not_told_to_people() -> None:
    error = pickle.loads(pickle.dumps(errors.StoreError("slow down", wait_s=7, mosaic="map.zarr")))
    assert (error.wait_s, str(error)) == (7.0, "slow down (mosaic map.zarr)")
    assert errors.StoreError("slow down").wait_s is None


@pytest.mark.parametrize("kind", CLASSES)
def test_the_table_in_the_docstring_says_what_a_run_does_about_every_cause(kind: type[MapperError]) -> None:
    rows = (errors.__doc__ or "").split("| cause ")[1].splitlines()
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    begin = next(n for n, row in enumerate(cells) if len(row) > 1 and row[1] == kind.cause)
    end = next((n for n in range(begin + 1, len(cells)) if len(cells[n]) > 1 and cells[n][1]), len(cells))
    named = " ".join(row[2] for row in cells[begin:end] if len(row) > 2)
    assert kind.__name__.removesuffix("Error") in named.replace(",", " ").split()


def test_what_strangers_wrote_reaches_a_sentence_short_and_without_control_characters() -> None:
    error = AssetError("the file is bad", item="x\x1b[2J" + "y" * 10_000, tile="r0c0")
    assert "\x1b" not in str(error)
    assert "tile r0c0" in str(error)
    assert len(str(error)) < 400
    assert len(str(AssetError("z" * 10_000))) < 2100
