"""Whatever becomes of the network and the nodes: the run ends right, with the map that one process makes."""

from __future__ import annotations

import pytest

from tests.fleet.fleet import Fleet
from tests.fleet.scenarios import SCENARIOS

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_becomes_of_a_fleet_its_map_is_that_of_one_process(whole: Fleet, name: str) -> None:
    assert SCENARIOS[name](whole)["differing_maps"] == 0
