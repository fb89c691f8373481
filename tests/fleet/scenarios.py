"""What becomes of a fleet while it maps. Each gives its figures, or says what was not as promised.

All expect the head and two GPU nodes, and leave behind what ``Fleet.ready`` puts right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tests.fleet.fleet import DATA, HEAD, Fleet, Run, wait_until

Figures: TypeAlias = dict[str, Any]
Scenario: TypeAlias = Callable[[Fleet], Figures]

BEGUN = 8
"""Tiles in the books when something happens: both workers are in the middle of theirs."""

FOR_A_WHILE_S = 40.0
STORE_AWAY_S = 60.0
HEAD_AWAY_S = 30.0
FAR_S = 0.025
"""Each way between a host and its switch: 50 ms from host to host, 100 there and back."""

DRAINED_WITHIN_S = 60
HOSTS = (DATA, HEAD, "gpu-1", "gpu-2")


def three_nodes(fleet: Fleet) -> Figures:
    """Nothing happens to a head and two GPU nodes."""
    with fleet.run() as run:
        run.wait_for_tiles(1)
        first_s = time.monotonic() - run.began
        return _as_promised(fleet, run) | {"first_tile_after_s": round(first_s, 1)}


def a_worker_lost(fleet: Fleet) -> Figures:
    """A GPU node is silently cut off in the middle of the run, and never comes back."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = time.monotonic()
        fleet.nodes["gpu-2"].link.cut()
        return _as_promised(fleet, run, since=began)


def a_worker_away(fleet: Fleet) -> Figures:
    """A GPU node is silently cut off for 40 s. What it writes when it is back does no harm."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = _away(fleet, run, "gpu-2", FOR_A_WHILE_S)
        return _as_promised(fleet, run, since=began) | {"away_s": FOR_A_WHILE_S}


def the_store_away(fleet: Fleet) -> Figures:
    """The host of pictures, catalog and mosaic is silently cut off for 60 s."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = _away(fleet, run, DATA, STORE_AWAY_S)
        return _as_promised(fleet, run, since=began) | {"away_s": STORE_AWAY_S}


def the_head_away(fleet: Fleet) -> Figures:
    """The head, and the driver on it, are silently cut off for 30 s."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = _away(fleet, run, HEAD, HEAD_AWAY_S)
        return _as_promised(fleet, run, since=began) | {"away_s": HEAD_AWAY_S}


def a_node_killed(fleet: Fleet) -> Figures:
    """Every process of a GPU node ends at once, as when its power fails."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = time.monotonic()
        fleet.lose("gpu-2")
        return _as_promised(fleet, run, since=began)


def a_node_added(fleet: Fleet) -> Figures:
    """A run begins with one GPU node; another joins in the middle of it, and takes its part."""
    fleet.leave("gpu-2")
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        assert len(fleet.ask(workers=run.mosaic)) == 1
        fleet.add("gpu-2")
        began = time.monotonic()
        wait_until(lambda: len(fleet.ask(workers=run.mosaic)) > 1, run.check_goes_on)
        joined_s = time.monotonic() - began
        figures = _as_promised(fleet, run, since=began)
    tiles = fleet.ask(workers=run.mosaic)
    return figures | {"its_first_tile_after_s": round(joined_s, 1), "tiles_by_worker": tiles}


def a_node_drained(fleet: Fleet) -> Figures:
    """A GPU node is told to leave, as a pod that is evicted is: ``resmap drain --wait`` on it."""
    with fleet.run() as run:
        run.wait_for_tiles(BEGUN)
        began = time.monotonic()
        fleet.resmap("gpu-2", "drain", "--within", str(DRAINED_WITHIN_S), "--wait")
        left_s = time.monotonic() - began
        fleet.lose("gpu-2")
        assert left_s < DRAINED_WITHIN_S, f"it took the node {left_s:.0f} s to leave"
        return _as_promised(fleet, run, since=began) | {"left_after_s": round(left_s, 1)}


def long_links(fleet: Fleet) -> Figures:
    """Everything takes 50 ms from any host to any other."""
    for name in HOSTS:
        fleet.nodes[name].link.delay(FAR_S)
    try:
        with fleet.run() as run:
            return _as_promised(fleet, run) | {"host_to_host_ms": 2000 * FAR_S}
    finally:
        for name in HOSTS:
            fleet.nodes[name].link.delay(0)


SCENARIOS: Mapping[str, Scenario] = {
    "three_nodes": three_nodes,
    "a_worker_lost": a_worker_lost,
    "a_worker_away": a_worker_away,
    "the_store_away": the_store_away,
    "the_head_away": the_head_away,
    "a_node_killed": a_node_killed,
    "a_node_added": a_node_added,
    "a_node_drained": a_node_drained,
    "long_links": long_links,
}


def _away(fleet: Fleet, run: Run, name: str, seconds: float) -> float:
    """Cut a host off for so long, while the run goes on; when that began."""
    began = time.monotonic()
    fleet.nodes[name].link.cut()
    wait_until(lambda: time.monotonic() - began >= seconds, run.check_goes_on)
    fleet.nodes[name].link.restore()
    return began


def _as_promised(fleet: Fleet, run: Run, *, since: float | None = None) -> Figures:
    """Seconds of a run that ended well, with the map of one process and each tile once in the books."""
    over = run.ended()
    assert over.status == 0, f"the run ended with {over.status}: {over.said[-3000:]}"
    found = fleet.ask(complaints=run.mosaic)
    assert found == [], f"{len(found)} complaints: {found[:5]}"
    after = {} if since is None else {"ended_s_after": round(run.began + over.seconds - since, 1)}
    return {"seconds": round(over.seconds, 1), "differing_maps": 0, **after}
