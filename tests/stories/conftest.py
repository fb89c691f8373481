"""What the stories share: a small world, and the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.command_line import Resmap, command_line
from tests.stories.world import World, write_world

# The models of known answers, here and in every process started from here: as installed packages are found.
for folder in (Path(__file__).parents[1] / "plugins", Path(__file__).parent / "plugins"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if str(folder) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session", autouse=True)
def _own_registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("RESMAP_REGISTRY", f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def three_gpus() -> Iterator[int]:
    """A Ray cluster in this process with three logical GPUs, shared by all stories."""
    import ray

    ray.init(num_cpus=4, num_gpus=3, include_dashboard=False, log_to_driver=False)
    yield 3
    ray.shutdown()


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    return command_line(monkeypatch, capsys)
