"""What is killed: drivers over a small world."""

from __future__ import annotations

import os

import pytest

from tests.chaos.grounds import Ground, undisturbed
from tests.stories.world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A plain Zarr mosaic that nothing happened to."""
    return undisturbed(world, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def committed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The same in icechunk."""
    return undisturbed(world, tmp_path_factory.mktemp("committed"), engine="icechunk")


@pytest.fixture(autouse=True)
def _no_failpoints_here() -> None:
    """The tests' own process reaches failpoints too, and has none."""
    assert "RESMAP_FAILPOINTS" not in os.environ
