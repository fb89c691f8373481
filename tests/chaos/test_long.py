"""The long kills, each a story of its own; ``python -m tests.chaos --record`` writes down their figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.scenarios import SCENARIOS
from tests.stories.world import World


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_is_killed_the_map_is_that_of_an_undisturbed_run(world: World, tmp_path: Path, name: str) -> None:
    assert SCENARIOS[name](world, tmp_path)["differing_maps"] == 0
