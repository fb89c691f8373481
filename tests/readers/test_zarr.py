"""zarr-python alone: arrays, their words and their codecs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import zarr

from mapper.imagery import NO_SOURCE
from tests.readers.golden import Golden


def array(golden: Golden, path: str) -> zarr.Array[Any]:
    found = zarr.open_array(golden.url, path=path, mode="r")
    assert isinstance(found, zarr.Array)
    return found


def test_layers_are_read_as_they_were_written(golden: Golden) -> None:
    for grid in golden.levels():
        for layer in ("mask", "score"):
            assert (
                np.asarray(array(golden, f"{grid.path}/{layer}")[1, 0]) == golden.stored(layer, grid, prompt=1)
            ).all()
        assert (np.asarray(array(golden, f"{grid.path}/source")[1]) == golden.stored("source", grid, time=1)).all()


def test_a_missing_chunk_is_unmapped_and_no_answer(golden: Golden) -> None:
    for layer in ("mask", "score"):
        assert array(golden, f"0/{layer}").fill_value == 255
    assert array(golden, "0/source").fill_value == int(NO_SOURCE)


def test_the_names_of_prompts_are_plain_strings(golden: Golden) -> None:
    metadata = json.loads((golden.path / "0" / "prompt" / "zarr.json").read_text())
    assert metadata["data_type"] == "string"  # of the Zarr registry, and not an object that must be unpickled
    assert [codec["name"] for codec in metadata["codecs"]] == ["vlen-utf8", "zstd"]
    assert np.asarray(array(golden, "0/prompt")[:]).tolist() == ["building", "water"]


def test_times_are_seconds_since_1970(golden: Golden) -> None:
    times = array(golden, "0/time")
    assert times.attrs["units"] == "seconds since 1970-01-01"
    dates = np.asarray(times[:]).astype("datetime64[s]")
    assert dates.tolist() == np.array(["2024-06-01", "2025-01-01"], "datetime64[s]").tolist()


def test_the_tree_lists_every_level_from_one_document(golden: Golden) -> None:
    root = zarr.open_group(golden.url, mode="r", use_consolidated=True)
    assert sorted(root.group_keys()) == [str(grid.level) for grid in golden.levels()]
    assert root["2"].attrs["spatial:shape"] == list(golden.grid(2).shape)
