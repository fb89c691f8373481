"""icechunk alone: a read-only session on a mosaic of that engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import icechunk
import pytest
import xarray as xr

from mapper.mosaic import Mosaic
from tests.readers.golden import Golden


@pytest.fixture(scope="module")
def repository(versioned: Path) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(versioned)))


def test_a_session_on_the_main_branch_has_every_level_as_the_plain_tree_has(
    golden: Golden, repository: icechunk.Repository
) -> None:
    store = repository.readonly_session("main").store
    for grid in golden.levels():
        with xr.open_zarr(store, group=grid.path, consolidated=False, chunks=None) as dataset:
            for prompt in (0, 1):
                stored = golden.stored("mask", grid, time=1, prompt=prompt)
                assert (dataset["mask"][prompt, 1].to_numpy() == stored).all()
            assert dataset["mask"].attrs["spatial:transform"] == list(grid.lattice.transform(grid.box))[:6]


def test_the_end_of_a_run_has_a_tag_and_its_commits_name_it(versioned: Path, repository: icechunk.Repository) -> None:
    (run,) = {path.name for path in versioned.parent.glob(f"{versioned.name}.resmap/runs/*")}
    assert f"run-{run}" in repository.list_tags()
    tagged = repository.readonly_session(tag=f"run-{run}").store
    with xr.open_zarr(tagged, group="0", consolidated=False) as dataset:
        assert dataset.sizes["prompt"] == 2
    named = [commit.metadata["run"] for commit in repository.ancestry(tag=f"run-{run}") if "run" in commit.metadata]
    assert set(named) == {run}


def test_a_tree_of_levels_opens_as_well(golden: Golden, repository: icechunk.Repository) -> None:
    store: Any = repository.readonly_session("main").store  # xarray's annotation knows of no Zarr store
    with xr.open_datatree(store, engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {str(grid.level) for grid in golden.levels()}


def test_our_own_reader_sees_the_same(golden: Golden, versioned: Path) -> None:
    grid = golden.grid(2)
    layer = Mosaic.open(str(versioned), writable=False).layer(grid, "score", grid.box, time=0)
    assert (layer == golden.stored("score", grid)).all()
