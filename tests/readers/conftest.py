"""What every reader is given: mosaics made by runs, with all their levels."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapper.mosaic import Mosaic
from tests.readers.golden import PROMPTS, Golden, known_places, map_world
from tests.stories.world import World, write_world


@pytest.fixture(scope="session")
def reader_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("readers-world"))


TWO_MONTHS = {"prompts": PROMPTS, "imagery": {"time_step": "month"}}


@pytest.fixture(scope="session")
def golden(reader_world: World, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """Two sentences in two months."""
    path = map_world(reader_world, tmp_path_factory.mktemp("golden") / "map.zarr", **TWO_MONTHS)
    (grid,) = Mosaic.open(str(path), writable=False).grids
    return Golden(path=path, places=known_places(reader_world, grid))


@pytest.fixture(scope="session")
def versioned(reader_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, on the other engine."""
    path = tmp_path_factory.mktemp("versioned") / "map"
    return map_world(reader_world, path, output={"engine": "icechunk"}, **TWO_MONTHS)


@pytest.fixture(scope="session")
def zones(reader_world: World, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """One tree a UTM zone."""
    path = tmp_path_factory.mktemp("zones") / "map.zarr"
    return Golden(path=map_world(reader_world, path, grid={"crs": "utm"}), places=())
