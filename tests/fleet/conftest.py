"""One fleet for all tests: each finds it whole again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet import Fleet, fleet
from tests.fleet.needs import missing


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that is up, and knows the map that one process makes of its job."""
    if why := missing():
        pytest.skip(why)
    folder: Path = tmp_path_factory.mktemp("fleet")
    with fleet(folder) as made:
        made.ready()
        made.undisturbed()
        yield made


@pytest.fixture
def whole(one_process: Fleet) -> Fleet:
    """That fleet, with all its links and nodes."""
    one_process.ready()
    return one_process
