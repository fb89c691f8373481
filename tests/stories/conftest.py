"""What the stories share: a small world, and the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stories.command_line import Resmap, command_line
from tests.stories.world import World, write_world

# One more model of known answers, here and in every process started from here: as installed packages are found.
_PLUGINS = str(Path(__file__).parent / "plugins")
sys.path.insert(0, _PLUGINS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_PLUGINS, os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def three_gpus(ray_cluster: Any) -> int:
    """How many logical GPUs the Ray cluster of this process has."""
    return int(ray_cluster.cluster_resources()["GPU"])


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    return command_line(monkeypatch, capsys)
