"""The small world and the command line of the stories."""

from __future__ import annotations

import pytest

from tests.faults.buckets import faulty as faulty
from tests.stories.command_line import Resmap, command_line
from tests.stories.world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    return command_line(monkeypatch, capsys)
